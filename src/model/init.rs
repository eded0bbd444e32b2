//! Weights in host memory: how they start, and how an adapter is merged into its base.

use super::decoder::{Decoder, Init, Spec};
use super::linear::Linear;
use super::tree::{Leaf, Tree};
use crate::rng::{self, Rng};
use rayon::prelude::*;

/// Elements drawn from one stream; fixed, so that values do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Initial weights; each parameter's draws hang on the seed and its name alone.
#[must_use]
pub fn initial(spec: &Decoder<Spec>, seed: u64) -> Decoder<Vec<f32>> {
    spec.map_leaves(&mut |s| initial_leaf(s, seed))
}

/// Initial values of one parameter.
#[must_use]
pub fn initial_leaf(spec: &Spec, seed: u64) -> Vec<f32> {
    let key = rng::key_of(seed, &spec.name);
    let mut values = vec![0.0; spec.numel()];
    match spec.init {
        Init::Zeros => {}
        Init::Ones => values.fill(1.0),
        Init::Normal(std) => fill(&mut values, key, |rng| rng.normal() * std),
        Init::Uniform(bound) => fill(&mut values, key, |rng| (2.0 * rng.uniform() - 1.0) * bound),
    }
    values
}

fn fill(values: &mut [f32], key: u64, draw: impl Fn(&mut Rng) -> f64 + Sync) {
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut rng = Rng::new(rng::key(key, &[i as u64]));
        chunk.iter_mut().for_each(|v| *v = draw(&mut rng) as f32);
    });
}

/// The model with its adapters multiplied out and added to their matrices: `w + scale b a`.
#[must_use]
pub fn merge(mut weights: Decoder<Vec<f32>>) -> Decoder<Vec<f32>> {
    for block in &mut weights.blocks {
        for linear in [&mut block.attn.qkv, &mut block.attn.out, &mut block.mlp.up, &mut block.mlp.down] {
            merge_linear(linear);
        }
    }
    weights
}

fn merge_linear(linear: &mut Linear<Vec<f32>>) {
    let Some(low) = linear.lora.take() else { return };
    let (Leaf(a), Leaf(b), inp, rank) = (low.a, low.b, linear.inp, low.rank);
    linear.w.0.par_chunks_mut(inp).zip(b.par_chunks(rank)).for_each(|(w, b)| {
        let mut sum = vec![0.0f64; inp];
        for (r, &b) in b.iter().enumerate() {
            sum.iter_mut().zip(&a[r * inp..]).for_each(|(s, &a)| *s += f64::from(b) * f64::from(a));
        }
        w.iter_mut().zip(&sum).for_each(|(w, s)| *w = (f64::from(*w) + low.scale * s) as f32);
    });
}
