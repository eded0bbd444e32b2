//! Weights, batches and sizes that make every term of a pass count.

use super::lab::drawn;
use crate::model::{Config, HostBatch, Spec};
use crate::rng::{self, Rng};

/// Weights larger than at initialisation, gains around 1, nothing zero.
pub fn lively(seed: u64) -> impl Fn(&Spec) -> Vec<f32> {
    move |spec| {
        let (middle, scale) = match (spec.shape.len(), spec.name.contains("norm.weight")) {
            (1, true) => (1.0, 0.1),
            (1, false) => (0.0, 0.1),
            _ => (0.0, 1.0 / (spec.shape[1] as f64).sqrt()),
        };
        drawn(rng::key_of(seed, &spec.name), spec.numel(), |rng| (middle + scale * rng.normal()) as f32)
    }
}

/// A batch with repeated tokens, a masked stretch, targets of weight 0.1, and where `documents` is more than 1 that many in a row.
#[must_use]
pub fn batch(b: usize, t: usize, vocab: usize, documents: usize, seed: u64) -> HostBatch {
    let mut rng = Rng::new(rng::key(seed, &[b as u64, t as u64]));
    let mut batch = HostBatch { b, t, ..HostBatch::default() };
    for i in 0..b * t {
        let row = i % t;
        let document = row * documents / t;
        let start = (document * t).div_ceil(documents);
        batch.tokens.push(if row % 5 < 2 { 1 } else { rng.below(vocab as u64) as u32 });
        batch.positions.push((row - start) as u32);
        batch.starts.push(start as u32);
        let masked = i / t == b - 1 && row > t / 2 && row < t - 1;
        if !masked {
            batch.rows.push(i as u32);
            batch.targets.push(rng.below(vocab as u64) as u32);
            batch.weights.push(if row.is_multiple_of(3) { 0.1 } else { 1.0 });
        }
    }
    batch
}

/// Ids below `below`.
pub fn ids(seed: u64, n: usize, below: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(below as u64) as u32).collect()
}

/// The sizes that a check is made at.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// "real", "small"
    pub name: &'static str,
    /// The model of the kernels' shapes; whole steps take it with two blocks.
    pub model: Config,
    /// Rows of a batch, `B`.
    pub b: usize,
    /// Positions of each, `T`.
    pub t: usize,
    /// Rank of an adapter, `R`.
    pub rank: usize,
    /// Rows of the classifier's largest case: more than a device keeps logits of at a time.
    pub classified: usize,
    /// Rows of a whole step's batch.
    pub step_b: usize,
}

impl Sizes {
    /// Those of the 124m model: what a GPU trains. Some ten TFLOP for the device that tells the truth.
    #[must_use]
    pub fn real() -> Self {
        let model = Config { n_embd: 768, n_head: 12, n_layer: 2, n_ff: None, n_ctx: 1024, n_vocab: Some(50_257) };
        Self { name: "real", model, b: 4, t: 1024, rank: 16, classified: 12_288, step_b: 2 }
    }

    /// Small ones, no multiple of any tile: seconds on a processor.
    #[must_use]
    pub fn small() -> Self {
        let model = Config { n_embd: 48, n_head: 3, n_layer: 2, n_ff: Some(136), n_ctx: 41, n_vocab: Some(301) };
        Self { name: "small", model, b: 3, t: 37, rank: 8, classified: 150, step_b: 3 }
    }

    /// Rows of a batch: `B T`.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.b * self.t
    }
}
