//! Kernels of attention.
