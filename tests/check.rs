//! `train::check` itself: it passes what is right, and finds what is wrong.

use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::reference::Reference;
use tinyllm::train::check::{self, Bars, Checked, Line, Sizes};

fn lines(bars: Bars, only: Option<&str>) -> Vec<Line> {
    let devices = [Checked { precision: "f32", be: Cpu::new(), bars }];
    check::run(&devices, &Reference, &Sizes::small(), only, &mut |line| println!("{line:?}"))
}

#[test]
fn the_cpu_holds_to_the_reference() {
    let lines = lines(Bars::F32, None);
    let failed: Vec<_> = lines.iter().filter(|line| !line.held()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // No case is left out silently, and the controls were there.
    assert_eq!(lines.len(), check::names(&Sizes::small()).len());
    assert!(lines.iter().filter(|line| line.control.is_some()).count() > 25);
}
