//! Kernels of attention_hopper.
