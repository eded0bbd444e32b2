//! The whole model against PyTorch in f64 (`scripts/fixtures.py` says how the fixtures were made).

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "common/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "common/rig.rs"]
#[allow(dead_code)]
mod rig;

use fixture::{Fixture, Tensors};
use golden::{Bars, CASES, F32, failures};
use rig::{distance, worst};
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{AdamLeaf, Backend, Control};
use tinyllm::simd::Isa;

/// Fixtures and downloads are rounded to f32 (6e-8); losses are kept in f64, and ten steps of f64 stay far below f32's noise.
const F64: Bars = Bars { activations: 1e-7, gradients: 1e-7, loss: 1e-11, norm: 1e-11, losses: 1e-3, angle: 1e-12 };

fn agrees<B: Backend>(make: impl Fn() -> B, bars: Bars) {
    let all: Vec<String> = CASES.iter().flat_map(|name| failures(&make, &Fixture::load(name), bars, |_, _| {})).collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn reference_agrees_with_pytorch() {
    agrees(|| Reference, F64);
}

#[test]
fn cpu_agrees_with_pytorch() {
    for isa in Isa::available() {
        println!("{}", isa.name());
        agrees(|| Cpu::with_isa(isa), F32);
    }
}

/// One weight 1 % off, in each tensor in turn, must be noticed, within the bars of f32.
#[test]
fn a_wrong_weight_is_noticed() {
    for case in ["packed", "lora"].map(Fixture::load) {
        for (name, values) in &case.weights {
            let place = golden::telling(&case, values);
            let tamper = |other: &str, values: &mut [f32]| {
                if other == name {
                    values[place] *= 1.01;
                }
            };
            assert!(!failures(&|| Reference, &case, F32, tamper).is_empty(), "{}: {name}", case.name);
        }
    }
}

/// One step of AdamW by itself: parameters after steps of a whole model are not compared, since Adam magnifies the
/// rounding noise of gradients that should be zero.
fn adamw<B: Backend>(be: &B, bar: f64) {
    let tensors = Tensors::load("adamw");
    for name in ["first", "early", "late"] {
        let [lr, beta1, beta2, eps, decay, clip, step] = tensors.get(&format!("{name}.control"))[..] else { panic!("{name}") };
        let control = Control { lr, beta1, beta2, eps, decay, clip, step: step as u64, dropout_key: 0, rounding_key: 0 };
        let given = |part| tensors.get(&format!("{name}.in.{part}"));
        let n = given("p").len();
        let acc = |values: Vec<f64>| {
            let mut acc = be.alloc_acc(n).unwrap();
            be.upload_acc(&mut acc, &values).unwrap();
            acc
        };
        let (mut m, mut v, g) = (acc(given("m")), acc(given("v")), acc(given("g")));
        let (mut w, mut norm, mut ctl) = (be.alloc(n).unwrap(), be.alloc_acc(1).unwrap(), be.alloc_ctl().unwrap());
        be.upload(&mut w, &given("p").iter().map(|&x| x as f32).collect::<Vec<_>>()).unwrap();
        be.upload_ctl(&mut ctl, &control).unwrap();
        be.grad_norm(&mut norm, &[&g]);
        be.adamw(&mut [AdamLeaf { w: &mut w, master: None, m: &mut m, v: &mut v, g: &g, decay: true }], &norm, &ctl);
        let mut p = vec![f32::NAN; n];
        be.download(&mut p, &w).unwrap();
        let read = |acc| {
            let mut host = vec![f64::NAN; n];
            be.download_acc(&mut host, acc).unwrap();
            host
        };
        for (part, got) in [("p", p.into_iter().map(f64::from).collect()), ("m", read(&m)), ("v", read(&v))] {
            let truth = tensors.get(&format!("{name}.out.{part}"));
            assert!(distance(&got, &truth) < bar && worst(&got, &truth) < 5.0 * bar, "{name} {part}: {:e}", distance(&got, &truth));
        }
    }
}

/// Parameters come back as f32 (6e-8); the arithmetic itself is a handful of roundings.
#[test]
fn one_step_of_adamw_agrees_with_pytorch() {
    adamw(&Reference, 1e-7);
    for isa in Isa::available() {
        adamw(&Cpu::with_isa(isa), 3e-7); // PyTorch's f32 misses 6e-8
    }
}
