//! Kernels of classify.
