//! A run: steps, schedule, checkpoints.

pub mod checkpoint;
