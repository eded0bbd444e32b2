//! Running a model.
