//! `train::check` itself: it passes what is right, and finds what is wrong.

use tinyllm::backend::Backend;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::reference::Reference;
use tinyllm::train::check::{self, Bars, Checked, Sizes};

/// The CPU held to `truth`, once within the bars of f32 and once within those of bf16, whose controls must be seen too.
fn holds<O: Backend + Clone>(truth: &O, sizes: &Sizes) {
    let device = |precision, bars| Checked { precision, be: Cpu::new(), bars };
    let devices = [device("f32", Bars::F32), device("bf16", Bars::BF16)];
    let lines = check::run(&devices, truth, sizes, None, &mut |line| println!("{line:?}"));
    let failed: Vec<_> = lines.iter().filter(|line| !line.held()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // No case is left out silently, and the controls were there.
    assert_eq!(lines.len(), 2 * check::names(sizes).len());
    assert!(lines.iter().filter(|line| line.control.is_some()).count() > 60);
}

#[test]
fn the_cpu_holds_to_the_reference() {
    holds(&Reference, &Sizes::small());
}

/// What a GPU is checked with, and the processor's part of its time: some ten TFLOP a device.
#[test]
#[ignore = "takes minutes and 10 GB"]
fn real_sizes_have_controls_that_are_seen() {
    holds(&Cpu::new(), &Sizes::real());
}
