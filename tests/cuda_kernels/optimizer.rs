//! Kernels of optimizer.
