//! Training on CUDA, its kernels run on the processor: steps that go on with the same bits after a stop, on the same device and
//! on the other, gradients that add up in f32, adapters over a base that stays as it was.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "common/rig.rs"]
#[allow(dead_code)]
mod rig;
#[path = "shim/driver.rs"]
#[allow(dead_code)]
mod shim;

use rig::{batch, config, distance, lively, lora};
use shim::Options;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::cuda::Cuda;
use tinyllm::backend::{Backend, Rounding};
use tinyllm::model::{Config, Decoder, HostBatch, Lora, Spec, Tree};
use tinyllm::train::checkpoint::Moment;
use tinyllm::train::{Adam, Learner};

const SEED: u64 = 5;

fn sizes() -> Config {
    config(2, 2, 16, 64, 24, 67)
}

fn batches() -> [HostBatch; 2] {
    [batch(2, 24, 67, 2, 1), batch(1, 19, 67, 1, 2)]
}

/// What a checkpoint keeps.
struct State {
    step: u64,
    weights: Decoder<Vec<f32>>,
    moments: Vec<Option<[Vec<f32>; 2]>>,
}

impl State {
    fn first(lora: Option<&Lora>) -> Self {
        let spec = Decoder::spec(&sizes(), lora);
        let moments =
            spec.leaves().iter().map(|s| (lora.is_none() || s.lora).then(|| [vec![0.0; s.numel()], vec![0.0; s.numel()]])).collect();
        Self { step: 0, weights: spec.map_leaves(&mut lively(3)), moments }
    }

    /// Trains on up to `last`: what then is, and the loss of each step.
    fn train<B: Backend>(&self, be: B, lora: Option<&Lora>, last: u64) -> (Self, Vec<f64>) {
        let spec = Decoder::spec(&sizes(), lora);
        let mut learner = Learner::new(be, spec, &self.weights, |s: &Spec| lora.is_none() || s.lora, 48, false).unwrap();
        for (leaf, moments) in self.moments.iter().enumerate() {
            for (part, values) in [Moment::First, Moment::Second].into_iter().zip(moments.iter().flatten()) {
                learner.set_moment(leaf, part, values).unwrap();
            }
        }
        learner.begin(self.step, &Adam::default(), SEED).unwrap();
        let steps = self.step + 1..=last;
        let losses = steps.map(|step| learner.step(&batches(), step, 1e-2, &Adam::default(), SEED).unwrap().loss).collect();
        let trained = learner.trained();
        let moments = (0..trained.len())
            .map(|leaf| trained[leaf].then(|| [Moment::First, Moment::Second].map(|part| learner.moment(leaf, part).unwrap())));
        (Self { step: last, weights: learner.host_weights().unwrap(), moments: moments.collect() }, losses)
    }

    fn bits(&self) -> Vec<u32> {
        let moments = self.moments.iter().flatten().flatten();
        self.weights.leaves().into_iter().chain(moments).flatten().map(|x| x.to_bits()).collect()
    }
}

fn cuda(rounding: Rounding, order: i32) -> Option<Cuda> {
    Some(shim::cuda(Options { order, ..Options::default() })?.with_rounding(rounding))
}

#[test]
fn a_run_goes_on_with_the_same_bits() {
    for (lora, rounding) in [(None, Rounding::Stochastic), (None, Rounding::Nearest), (Some(lora(0.2)), Rounding::Stochastic)] {
        let Some(be) = cuda(rounding, 0) else { return };
        let (whole, losses) = State::first(lora.as_ref()).train(be, lora.as_ref(), 4);
        let (half, first) = State::first(lora.as_ref()).train(cuda(rounding, 1).unwrap(), lora.as_ref(), 2);
        let (end, second) = half.train(cuda(rounding, 2).unwrap(), lora.as_ref(), 4);
        let bits = |losses: &[f64]| losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&losses), bits(&[first, second].concat()), "{rounding:?}");
        assert!(whole.bits() == end.bits(), "{rounding:?}: weights or moments differ");
        assert!(losses[3] < losses[0], "{losses:?}");
    }
}

/// Each device rounds in its own way, so that the losses agree as far as bf16 does: its 2^-9 a number, averaged over 60 rows.
#[test]
fn a_run_goes_on_on_the_other_device() {
    let Some(be) = cuda(Rounding::Stochastic, 0) else { return };
    let (half, first) = State::first(None).train(be, None, 2);
    let (_, second) = half.train(Cpu::new(), None, 4);
    let (half, _) = State::first(None).train(Cpu::new(), None, 2);
    let (_, back) = half.train(cuda(Rounding::Stochastic, 0).unwrap(), None, 4);
    let (_, truth) = State::first(None).train(Cpu::new(), None, 4);
    for (got, truth) in [&first[..], &second].concat().iter().zip(&truth).chain(back.iter().zip(&truth[2..])) {
        assert!((got - truth).abs() < 2e-2, "{got} {truth}");
    }
}

/// bf16 copies of a frozen base never come back into it.
#[test]
fn a_frozen_base_keeps_its_bits() {
    let lora = lora(0.0);
    let Some(be) = cuda(Rounding::Stochastic, 0) else { return };
    let before = State::first(Some(&lora));
    let (after, _) = before.train(be, Some(&lora), 2);
    let spec = Decoder::spec(&sizes(), Some(&lora));
    for ((s, before), after) in spec.leaves().into_iter().zip(before.weights.leaves()).zip(after.weights.leaves()) {
        assert_eq!(before == after, !s.lora, "{}", s.name);
    }
}

/// Sums over micro-steps are kept in f32: cutting a batch into rows changes them by the order of f32 sums alone.
#[test]
fn accumulation_is_a_larger_batch() {
    let rows: Vec<HostBatch> = (0..4).map(|i| batch(1, 24, 67, 1 + i % 2, 20 + i as u64)).collect();
    let mut whole = HostBatch { b: 4, t: 24, ..HostBatch::default() };
    for (i, row) in rows.iter().enumerate() {
        whole.tokens.extend(&row.tokens);
        whole.positions.extend(&row.positions);
        whole.starts.extend(&row.starts);
        whole.rows.extend(row.rows.iter().map(|r| r + 24 * i as u32));
        whole.targets.extend(&row.targets);
        whole.weights.extend(&row.weights);
    }
    let run = |batches: &[HostBatch]| {
        let be = cuda(Rounding::Nearest, 0)?;
        let mut rig = rig::Rig::new(be, &sizes(), None, lively(9), 96, false);
        rig.learner.begin(0, &Adam::default(), 1).unwrap();
        let report = rig.learner.step(batches, 1, 0.0, &Adam::default(), 1).unwrap();
        Some((report, rig.gradients()))
    };
    let (Some((one, together)), Some((four, apart))) = (run(std::slice::from_ref(&whole)), run(&rows)) else { return };
    assert!((one.loss - four.loss).abs() < 1e-6 && (one.grad_norm / four.grad_norm - 1.0).abs() < 1e-6, "{one:?} {four:?}");
    for ((name, together), (_, apart)) in together.iter().zip(&apart) {
        let error = distance(apart, together);
        assert!(error < 1e-6, "{name}: {error:.2e}");
    }
}
