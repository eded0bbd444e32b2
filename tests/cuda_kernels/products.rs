//! Kernels of products.
