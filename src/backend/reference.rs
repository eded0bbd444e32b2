//! The plainest possible kernels, in f64 (being laid).
