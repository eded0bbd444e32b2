//! The CPU backend against the reference on whole models, and what must not change its results: the number of
//! threads, to the bit, and how a step is cut into micro-batches, to rounding.

#[path = "common/rig.rs"]
#[allow(dead_code)]
mod rig;

use rig::{Rig, batch, config, distance, lively, lora, worst};
use tinyllm::backend::Backend;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::reference::Reference;
use tinyllm::model::{Config, HostBatch, Lora};
use tinyllm::simd::Isa;
use tinyllm::train::Adam;

/// A rounding is 6e-8 and errors of sums over some hundred terms grow as its root; honest f32 shows 5e-7 in
/// activations and 1e-6 in gradients (`scripts/fixtures.py` prints it), and this is five to ten times that.
const ACTIVATIONS: f64 = 5e-6;
const GRADIENTS: f64 = 1e-5;
const LOSS: f64 = 2e-6;

/// Everything a pass leaves that can be compared.
fn results<B: Backend>(be: B, config: &Config, lora: Option<&Lora>, batch: &HostBatch, recompute: bool) -> Vec<(String, Vec<f64>)> {
    let rows = batch.b * batch.t;
    let mut rig = Rig::new(be, config, lora, lively(11), rows + 5, recompute);
    rig.poison();
    let loss = rig.pass(std::slice::from_ref(batch));
    let mut all = rig.gradients();
    all.iter_mut().for_each(|(name, _)| name.insert_str(0, "gradient of "));
    if !recompute {
        all.extend(rig.activations(rows));
    }
    all.push(("the loss".into(), vec![loss]));
    all
}

fn compare(what: &str, config: &Config, lora: Option<&Lora>, batch: &HostBatch, recompute: bool) {
    let truth = results(Reference, config, lora, batch, recompute);
    let mut failures = vec![];
    for isa in Isa::available() {
        let got = results(Cpu::with_isa(isa), config, lora, batch, recompute);
        let mut most = [0.0f64; 2];
        for ((name, got), (_, truth)) in got.iter().zip(&truth) {
            let gradient = name.starts_with("gradient");
            let bar = if gradient { GRADIENTS } else { ACTIVATIONS };
            let (error, bar) = if name == "the loss" { ((got[0] - truth[0]).abs(), LOSS) } else { (distance(got, truth), bar) };
            most[usize::from(gradient)] = most[usize::from(gradient)].max(error);
            if error.is_nan() || error >= bar || (name != "the loss" && worst(got, truth) >= 5.0 * bar) {
                failures.push(format!(
                    "{what}, {}: {name} is off by {error:.2e}, in its worst place by {:.2e}",
                    isa.name(),
                    worst(got, truth)
                ));
            }
        }
        println!("{what}, {}: activations off by {:.1e}, gradients by {:.1e}", isa.name(), most[0], most[1]);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn cpu_agrees_with_reference_in_full_training() {
    let sizes = config(2, 3, 32, 200, 75, 301);
    compare("full", &sizes, None, &batch(2, 71, 301, 1, 1), false);
    compare("packed", &sizes, None, &batch(3, 50, 301, 4, 2), false);
    compare("recomputed", &config(3, 2, 24, 96, 33, 131), None, &batch(2, 33, 131, 1, 3), true);
    compare("one position", &config(1, 1, 8, 32, 1, 17), None, &batch(3, 1, 17, 1, 4), false);
}

/// With dropout, which only agrees if the masks do.
#[test]
fn cpu_agrees_with_reference_in_lora() {
    compare("lora", &config(2, 3, 24, 150, 65, 211), Some(&lora(0.0)), &batch(2, 60, 211, 2, 5), false);
    compare("lora with dropout", &config(2, 3, 24, 150, 65, 211), Some(&lora(0.25)), &batch(2, 60, 211, 2, 6), false);
}

/// Three steps on `threads` threads: losses, norms and all weights, as bits.
fn trained(threads: usize, isa: Isa, lora: Option<&Lora>) -> Vec<u64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        // Wide enough for every kernel to be cut into several pieces, and into uneven ones.
        let sizes = config(2, 4, 32, 520, 140, 1009);
        let batches = [batch(3, 140, 1009, 3, 7), batch(2, 133, 1009, 1, 8)];
        let mut rig = Rig::new(Cpu::with_isa(isa), &sizes, lora, lively(5), 420, false);
        let mut bits = vec![];
        for step in 1..=3 {
            let report = rig.learner.step(&batches, step, 1e-3, &Adam::default(), 4).unwrap();
            bits.extend([report.loss.to_bits(), report.grad_norm.to_bits()]);
            bits.extend(rig.gradients().iter().flat_map(|(_, g)| g.iter().map(|g| g.to_bits())));
        }
        let weights = rig.learner.host_weights().unwrap();
        bits.extend(tinyllm::model::Tree::leaves(&weights).into_iter().flatten().map(|w| u64::from(w.to_bits())));
        bits.extend(rig.logits(&batches[1]).iter().map(|x| x.to_bits()));
        bits
    })
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for isa in Isa::available() {
        for lora in [None, Some(lora(0.1))] {
            let one = trained(1, isa, lora.as_ref());
            for threads in [2, 3] {
                let many = trained(threads, isa, lora.as_ref());
                let unlike = one.iter().zip(&many).filter(|(a, b)| a != b).count();
                assert_eq!(unlike, 0, "{} of {} numbers differ on {threads} threads, {}", unlike, one.len(), isa.name());
            }
        }
    }
}

/// A step of eight rows is the same as eight of one row, their sums taken in another order.
#[test]
fn accumulation_is_a_larger_batch() {
    let sizes = config(2, 2, 32, 256, 64, 257);
    let rows: Vec<HostBatch> = (0..8).map(|i| batch(1, 64, 257, 1 + i % 3, 20 + i as u64)).collect();
    let mut whole = HostBatch { b: 8, t: 64, ..HostBatch::default() };
    for (i, row) in rows.iter().enumerate() {
        whole.tokens.extend(&row.tokens);
        whole.positions.extend(&row.positions);
        whole.starts.extend(&row.starts);
        whole.rows.extend(row.rows.iter().map(|r| r + 64 * i as u32));
        whole.targets.extend(&row.targets);
        whole.weights.extend(&row.weights);
    }
    for isa in Isa::available() {
        let run = |batches: &[HostBatch]| {
            let mut rig = Rig::new(Cpu::with_isa(isa), &sizes, None, lively(9), 512, false);
            let report = rig.learner.step(batches, 1, 0.0, &Adam::default(), 1).unwrap();
            (report, rig.gradients())
        };
        let ((one, together), (eight, apart)) = (run(std::slice::from_ref(&whole)), run(&rows));
        assert!((one.loss - eight.loss).abs() < 1e-6 && (one.grad_norm / eight.grad_norm - 1.0).abs() < 1e-6, "{one:?} {eight:?}");
        for ((name, together), (_, apart)) in together.iter().zip(&apart) {
            let error = distance(apart, together);
            assert!(error < 1e-6, "{}: {name}: {error:.2e}", isa.name());
        }
    }
}
