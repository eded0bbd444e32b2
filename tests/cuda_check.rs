//! `tinyllm-train check` of a GPU, its kernels run on the processor: both precisions, in small sizes. Skipped, saying so, where there is
//! no g++.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "shim/driver.rs"]
#[allow(dead_code)]
mod shim;

use shim::Options;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::cuda::driver::Precision;
use tinyllm::train::check::{self, Bars, Checked, Sizes};

#[test]
fn the_kernels_hold_to_the_processor() {
    let device =
        |name, precision, bars| shim::cuda(Options { precision, ..Options::default() }).map(|be| Checked { precision: name, be, bars });
    let (Some(f32), Some(bf16)) = (device("f32", Precision::F32, Bars::F32), device("bf16", Precision::Bf16, Bars::BF16)) else { return };
    let lines = check::run(&[f32, bf16], &Cpu::new(), &Sizes::small(), None, &mut |line| println!("{line:?}"));
    let failed: Vec<_> = lines.iter().filter(|line| !line.held()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
