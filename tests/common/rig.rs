//! A learner on any backend, with what a test wants to turn and read.

use tinyllm::backend::Backend;
use tinyllm::model::{Config, Decoder, HostBatch, Lora, Spec, Target, Tree};
use tinyllm::train::check;
use tinyllm::train::{Adam, Learner};

#[allow(unused_imports)] // not every test takes both
pub use tinyllm::train::check::{batch, lively};

/// A model in training and the weights it was given.
pub struct Rig<B: Backend> {
    pub learner: Learner<B>,
    given: Decoder<Vec<f32>>,
    rows: usize,
}

impl<B: Backend> Rig<B> {
    /// A model with the weights that `given` says, for batches of up to `rows` rows. With `lora`, the base is frozen.
    pub fn new(be: B, config: &Config, lora: Option<&Lora>, given: impl Fn(&Spec) -> Vec<f32>, rows: usize, recompute: bool) -> Self {
        let spec = Decoder::spec(config, lora);
        let given = spec.map_leaves(&mut |s| given(s));
        let learner = Learner::new(be, spec, &given, |s| lora.is_none() || s.lora, rows, recompute).unwrap();
        Self { learner, given, rows }
    }

    /// Leaves NaN in every buffer that a pass writes, in all its rows: what is then not written shows.
    /// For a learner that has not learned yet.
    pub fn poison(&mut self) {
        assert!(check::poison(&mut self.learner, &self.given, self.rows).unwrap().is_nan());
    }

    /// A step at rate 0, which leaves gradients and activations and changes no weight: the loss.
    pub fn pass(&mut self, batches: &[HostBatch]) -> f64 {
        self.learner.step(batches, 1, 0.0, &Adam::default(), 99).unwrap().loss
    }

    /// Name and gradient of everything that trains, as the last step left them.
    pub fn gradients(&self) -> Vec<(String, Vec<f64>)> {
        check::gradients_of(&self.learner).unwrap()
    }

    /// Name and value of the activations of the last pass, over `n` rows, named as in the fixtures.
    pub fn activations(&self, n: usize) -> Vec<(String, Vec<f64>)> {
        let (c, acts) = (self.learner.spec().n_embd, self.learner.activations());
        let read = |name: String, buf: &B::Buf, width: usize| {
            let mut host = vec![f32::NAN; n * width];
            self.learner.backend().download(&mut host, buf).unwrap();
            (name, host.into_iter().map(f64::from).collect())
        };
        let mut all = vec![read("embd".into(), &acts.stream[0], c)];
        for (l, saved) in acts.blocks.iter().enumerate() {
            all.push(read(format!("blk.{l}.attn_qkv"), &saved.qkv, 3 * c));
            all.push(read(format!("blk.{l}.attn"), &saved.att, c));
            all.push(read(format!("blk.{l}.mid"), &saved.mid, c));
            all.push(read(format!("blk.{l}.out"), &acts.stream[l + 1], c));
        }
        all.push(read("output_norm".into(), acts.hidden(), c));
        all
    }

    /// Logits `(B T, V)` at every position of a batch.
    pub fn logits(&mut self, batch: &HostBatch) -> Vec<f64> {
        let rows = (0..(batch.b * batch.t) as u32).collect::<Vec<_>>();
        let every = HostBatch { targets: vec![0; rows.len()], weights: vec![1.0; rows.len()], rows, ..batch.clone() };
        self.learner.logits(&every).unwrap().into_iter().map(f64::from).collect()
    }
}

/// `|x - y| / |y|`; NaN counts as infinitely far.
pub fn distance(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    let norm = |z: &mut dyn Iterator<Item = f64>| z.map(|z| z * z).sum::<f64>().sqrt();
    let d = norm(&mut x.iter().zip(y).map(|(x, y)| x - y)) / norm(&mut y.iter().copied()).max(f64::MIN_POSITIVE);
    if d.is_nan() { f64::INFINITY } else { d }
}

/// The largest `|x - y|` over the largest `|y|`: for errors in a single place, which a norm over many hides.
pub fn worst(x: &[f64], y: &[f64]) -> f64 {
    let most = |z: &mut dyn Iterator<Item = f64>| z.fold(0.0, |m, z| if z.abs() <= m { m } else { z.abs() });
    let d = most(&mut x.iter().zip(y).map(|(x, y)| x - y)) / most(&mut y.iter().copied()).max(f64::MIN_POSITIVE);
    if d.is_nan() { f64::INFINITY } else { d }
}

/// The leaf at a place of the walk.
pub fn leaf_of<P>(tree: &mut Decoder<P>, place: usize) -> &mut P {
    tree.leaves_mut().swap_remove(place)
}

/// All four matrices adapted at rank 3 with a scale that is not 1.
pub fn lora(dropout: f64) -> Lora {
    Lora { rank: 3, alpha: 5.0, dropout, targets: Target::ALL.to_vec() }
}

/// Sizes that are no multiple of any tile.
pub fn config(n_layer: usize, n_head: usize, head: usize, n_ff: usize, n_ctx: usize, n_vocab: usize) -> Config {
    Config { n_embd: n_head * head, n_head, n_layer, n_ff: Some(n_ff), n_ctx, n_vocab: Some(n_vocab) }
}
