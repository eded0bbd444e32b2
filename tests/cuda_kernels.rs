//! Every CUDA kernel, run on the processor, held to the reference in f64: in both precisions, in three orders of a block's
//! threads, over ragged sizes, with outputs poisoned. Skipped, saying so, where there is no g++.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "cuda_kernels/common.rs"]
mod common;
#[path = "shim/driver.rs"]
#[allow(dead_code)]
mod shim;

#[path = "cuda_kernels/attention.rs"]
mod attention;
#[path = "cuda_kernels/attention_hopper.rs"]
mod attention_hopper;
#[path = "cuda_kernels/classify.rs"]
mod classify;
#[path = "cuda_kernels/elements.rs"]
mod elements;
#[path = "cuda_kernels/embed.rs"]
mod embed;
#[path = "cuda_kernels/norm.rs"]
mod norm;
#[path = "cuda_kernels/optimizer.rs"]
mod optimizer;
#[path = "cuda_kernels/products.rs"]
mod products;
