//! Kernels of embed.
