//! Kernels of norm.
