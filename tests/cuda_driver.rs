//! The real driver, on a machine without a GPU: `tests/shim/fake/` stands in for the three libraries that it loads, so that all of
//! it runs. Skipped, saying so, where there is no g++.
//!
//! A test that needs the libraries runs itself once more as a process of its own, whose loader finds the stand-ins.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "cuda_kernels/common.rs"]
#[allow(dead_code)]
mod common;
#[path = "cuda_driver/fakes.rs"]
mod fakes;
#[path = "shim/driver.rs"]
#[allow(dead_code)]
mod shim;
#[path = "common/small_run.rs"]
#[allow(dead_code)]
mod small_run;

#[path = "cuda_driver/errors.rs"]
mod errors;
#[path = "cuda_driver/orders.rs"]
mod orders;
#[path = "cuda_driver/products.rs"]
mod products;
#[path = "cuda_driver/programs.rs"]
mod programs;
