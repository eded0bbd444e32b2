//! A learner on any backend, with what a test wants to turn and read.

use tinyllm::backend::Backend;
use tinyllm::model::{Config, Decoder, HostBatch, Lora, Spec, Target, Tree};
use tinyllm::rng::{self, Rng};
use tinyllm::train::checkpoint::Moment;
use tinyllm::train::{Adam, Learner};

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
    /// For a learner that has not learned yet; `be` is another instance of its backend.
    pub fn poison(&mut self, be: &B) {
        for (w, given) in self.learner.weights_mut().leaves_mut().into_iter().zip(self.given.leaves()) {
            be.upload(w, &vec![f32::NAN; given.len()]).unwrap();
        }
        let ids = vec![0; self.rows];
        assert!(self.pass(&[HostBatch::unbroken(self.rows, 1, &ids, &ids)]).is_nan());
        for (leaf, given) in self.given.leaves().into_iter().enumerate() {
            self.learner.set_weight(leaf, given).unwrap();
        }
        let trained = self.learner.trained();
        for (leaf, given) in self.given.leaves().into_iter().enumerate().filter(|&(leaf, _)| trained[leaf]) {
            for part in [Moment::First, Moment::Second] {
                self.learner.set_moment(leaf, part, &vec![0.0; given.len()]).unwrap();
            }
        }
    }

    /// A step at rate 0, which leaves gradients and activations and changes no weight: the loss.
    pub fn pass(&mut self, batches: &[HostBatch]) -> f64 {
        self.learner.step(batches, 1, 0.0, &Adam::default(), 99).unwrap().loss
    }

    /// Name and gradient of everything that trains, as the last step left them.
    pub fn gradients(&self) -> Vec<(String, Vec<f64>)> {
        let all = self.learner.spec().leaves().into_iter().zip(self.learner.grads().leaves());
        all.filter_map(|(s, g)| {
            let mut host = vec![f64::NAN; s.numel()];
            self.learner.backend().download_acc(&mut host, g.as_ref()?).unwrap();
            Some((s.name.clone(), host))
        })
        .collect()
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

/// Weights that make every term count: larger than at initialisation, gains around 1, nothing zero.
pub fn lively(seed: u64) -> impl Fn(&Spec) -> Vec<f32> {
    move |spec| {
        let mut rng = Rng::new(rng::key_of(seed, &spec.name));
        let (middle, scale) = match (spec.shape.len(), spec.name.contains("norm.weight")) {
            (1, true) => (1.0, 0.1),
            (1, false) => (0.0, 0.1),
            _ => (0.0, 1.0 / (spec.shape[1] as f64).sqrt()),
        };
        (0..spec.numel()).map(|_| (middle + scale * rng.normal()) as f32).collect()
    }
}

/// A batch with repeated tokens, a masked stretch, targets of weight 0.1, and where `documents` is more than 1 that many in a row.
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
