//! A decoder on any backend, with everything around it that a test wants to turn and read.

use tinyllm::backend::{AdamLeaf, Backend, Control, Targets};
use tinyllm::model::{Activations, Config, Decoder, DeviceBatch, Grad, HostBatch, Lora, Spec, Tree};
use tinyllm::rng::{self, Rng};

/// A model, its gradients and moments, and room for one batch.
pub struct Rig<B: Backend> {
    pub be: B,
    pub spec: Decoder<Spec>,
    /// The weights as given, in `f32`.
    pub given: Decoder<Vec<f32>>,
    pub weights: Decoder<B::Buf>,
    pub grads: Decoder<Grad<B>>,
    pub acts: Activations<B>,
    pub batch: DeviceBatch<B>,
    moments: Decoder<Option<[B::Acc; 2]>>,
    loss: B::Acc,
    norm: B::Acc,
    ctl: B::Ctl,
    room: usize,
}

/// The optimizer settings of the fixtures, at one step.
pub const fn control(step: u64) -> Control {
    Control { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, clip: 1.0, step, dropout_key: 0 }
}

impl<B: Backend> Rig<B> {
    /// A model with the weights that `given` says, for batches of up to `room` rows. With `lora`, the base is frozen.
    pub fn new(be: B, config: &Config, lora: Option<&Lora>, given: impl Fn(&Spec) -> Vec<f32>, room: usize, recompute: bool) -> Self {
        let spec = Decoder::spec(config, lora);
        let given = spec.map_leaves(&mut |s| given(s));
        let trains = |s: &Spec| lora.is_none() || s.lora;
        let weights = spec.map_leaves(&mut |s| match s.shape[..] {
            [rows, cols] => be.alloc_matrix(rows, cols).unwrap(),
            _ => be.alloc(s.numel()).unwrap(),
        });
        let acc = |len| be.alloc_acc(len).unwrap();
        let ids = |len| be.alloc_ids(len).unwrap();
        let mut rig = Self {
            grads: spec.map_leaves(&mut |s| trains(s).then(|| acc(s.numel()))),
            moments: spec.map_leaves(&mut |s| trains(s).then(|| [acc(s.numel()), acc(s.numel())])),
            acts: Activations::new(&be, &weights, room, recompute).unwrap(),
            batch: DeviceBatch {
                b: 0,
                t: 0,
                tokens: ids(room),
                positions: ids(room),
                starts: ids(room),
                targets: Targets { count: 0, rows: ids(room), ids: ids(room), weights: acc(room) },
            },
            loss: acc(1),
            norm: acc(1),
            ctl: be.alloc_ctl().unwrap(),
            spec,
            given,
            weights,
            be,
            room,
        };
        rig.reset();
        rig
    }

    /// The weights as they were given, and no gradients.
    pub fn reset(&mut self) {
        for (w, given) in self.weights.leaves_mut().into_iter().zip(self.given.leaves()) {
            self.be.upload(w, given).unwrap();
        }
        self.zero_grads();
    }

    pub fn zero_grads(&mut self) {
        self.grads.each_mut(&mut |g| {
            if let Some(g) = g {
                self.be.zero_acc(g);
            }
        });
        self.be.zero_acc(&mut self.loss);
    }

    /// Leaves NaN in every buffer that a pass writes, in all its rows: what is then not written shows.
    pub fn poison(&mut self) {
        for (w, given) in self.weights.leaves_mut().into_iter().zip(self.given.leaves()) {
            self.be.upload(w, &vec![f32::NAN; given.len()]).unwrap();
        }
        let ids = vec![0; self.room];
        self.set(&HostBatch::unbroken(self.room, 1, &ids, &ids), 1.0);
        assert!(self.pass().is_nan());
        self.reset();
    }

    /// Makes `batch` the next pass's, its weights divided by `total`.
    pub fn set(&mut self, batch: &HostBatch, total: f64) {
        let (be, d) = (&self.be, &mut self.batch);
        (d.b, d.t, d.targets.count) = (batch.b, batch.t, batch.rows.len());
        be.upload_ids(&mut d.tokens, &batch.tokens).unwrap();
        be.upload_ids(&mut d.positions, &batch.positions).unwrap();
        be.upload_ids(&mut d.starts, &batch.starts).unwrap();
        be.upload_ids(&mut d.targets.rows, &batch.rows).unwrap();
        be.upload_ids(&mut d.targets.ids, &batch.targets).unwrap();
        let weights: Vec<f64> = batch.weights.iter().map(|&w| f64::from(w) / total).collect();
        be.upload_acc(&mut d.targets.weights, &weights).unwrap();
    }

    /// The next passes' control block; its dropout key counts at once.
    pub fn control(&mut self, control: &Control) {
        self.be.upload_ctl(&mut self.ctl, control).unwrap();
    }

    /// Forward and backward: adds to the gradients and to the loss, which is told.
    pub fn pass(&mut self) -> f64 {
        let p = self.batch.pass(&self.be, Some(&self.ctl));
        self.weights.forward(&p, &mut self.acts, &self.batch);
        self.weights.backward(&p, &mut self.loss, &mut self.grads, &mut self.acts, &self.batch);
        self.read_loss()
    }

    /// Forward alone: the loss of the batch.
    pub fn evaluate(&mut self) -> f64 {
        self.be.zero_acc(&mut self.loss);
        let p = self.batch.pass(&self.be, Some(&self.ctl));
        self.weights.forward(&p, &mut self.acts, &self.batch);
        self.weights.loss(&p, &mut self.loss, &mut self.acts, &self.batch);
        self.read_loss()
    }

    fn read_loss(&self) -> f64 {
        self.be.sync().unwrap();
        let mut loss = [f64::NAN];
        self.be.download_acc(&mut loss, &self.loss).unwrap();
        loss[0]
    }

    /// Norm of all gradients.
    pub fn norm(&mut self) -> f64 {
        let mut norm = [f64::NAN];
        self.be.grad_norm(&mut self.norm, &self.grads.leaves().into_iter().flatten().collect::<Vec<_>>());
        self.be.download_acc(&mut norm, &self.norm).unwrap();
        norm[0]
    }

    /// One step of AdamW with the gradients at hand.
    pub fn update(&mut self, control: &Control) {
        assert!(!B::MASTERS, "a backend with masters needs them here");
        self.norm();
        self.be.upload_ctl(&mut self.ctl, control).unwrap();
        let state = self.grads.leaves().into_iter().zip(self.moments.leaves_mut());
        let mut leaves: Vec<AdamLeaf<'_, B>> = self
            .weights
            .leaves_mut()
            .into_iter()
            .zip(self.spec.leaves())
            .zip(state)
            .filter_map(|((w, spec), (g, moments))| {
                let ([m, v], g) = (moments.as_mut()?, g.as_ref()?);
                Some(AdamLeaf { w, master: None, m, v, g, decay: spec.decay })
            })
            .collect();
        self.be.adamw(&mut leaves, &self.norm, &self.ctl);
        drop(leaves);
        self.zero_grads();
    }

    /// Name and gradient of everything that trains.
    pub fn gradients(&self) -> Vec<(String, Vec<f64>)> {
        let all = self.spec.leaves().into_iter().zip(self.grads.leaves());
        all.filter_map(|(s, g)| {
            let mut host = vec![f64::NAN; s.numel()];
            self.be.download_acc(&mut host, g.as_ref()?).unwrap();
            Some((s.name.clone(), host))
        })
        .collect()
    }

    /// Name and value of every weight.
    pub fn values(&self) -> Vec<(String, Vec<f32>)> {
        let all = self.spec.leaves().into_iter().zip(self.weights.leaves());
        all.map(|(s, w)| {
            let mut host = vec![f32::NAN; s.numel()];
            self.be.download(&mut host, w).unwrap();
            (s.name.clone(), host)
        })
        .collect()
    }

    /// What the last pass left in `buf`, `width` numbers a row.
    pub fn read(&self, buf: &B::Buf, width: usize) -> Vec<f64> {
        let mut host = vec![f32::NAN; self.batch.b * self.batch.t * width];
        self.be.download(&mut host, buf).unwrap();
        host.into_iter().map(f64::from).collect()
    }

    /// Name and value of the activations that can be seen, named as in the fixtures; logits of all rows at the end.
    pub fn activations(&self) -> Vec<(String, Vec<f64>)> {
        let (c, v, n) = (self.weights.n_embd, self.weights.n_vocab, self.batch.b * self.batch.t);
        let mut all = vec![("embd".into(), self.read(&self.acts.stream[0], c))];
        for (l, saved) in self.acts.blocks.iter().enumerate() {
            for (place, buf, width) in [("attn_qkv", &saved.qkv, 3 * c), ("attn", &saved.att, c), ("mid", &saved.mid, c)] {
                all.push((format!("blk.{l}.{place}"), self.read(buf, width)));
            }
            all.push((format!("blk.{l}.out"), self.read(&self.acts.stream[l + 1], c)));
        }
        all.push(("output_norm".into(), self.read(self.acts.hidden(), c)));
        let (mut rows, mut logits) = (self.be.alloc_ids(n).unwrap(), self.be.alloc(n * v).unwrap());
        self.be.upload_ids(&mut rows, &(0..n as u32).collect::<Vec<_>>()).unwrap();
        self.be.upload(&mut logits, &vec![f32::NAN; n * v]).unwrap();
        self.weights.logits(&self.batch.pass(&self.be, None), &mut logits, &self.acts, &rows, n);
        all.push(("logits".into(), self.read(&logits, v)));
        all
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
            batch.weights.push(if row % 3 == 0 { 0.1 } else { 1.0 });
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

/// A leaf's place in the tree, for reaching the same leaf of another tree.
pub fn leaf_of<'a, P>(tree: &'a mut Decoder<P>, place: usize) -> &'a mut P {
    tree.leaves_mut().swap_remove(place)
}

/// All four matrices adapted at rank 3 with a scale that is not 1.
pub fn lora(dropout: f32) -> Lora {
    Lora { rank: 3, alpha: 5.0, dropout, targets: tinyllm::model::Target::ALL.to_vec() }
}

/// Sizes that are no multiple of any tile.
pub fn config(n_layer: usize, n_head: usize, head: usize, n_ff: usize, n_ctx: usize, n_vocab: usize) -> Config {
    Config { n_embd: n_head * head, n_head, n_layer, n_ff: Some(n_ff), n_ctx, n_vocab: Some(n_vocab) }
}
