//! A model in training on one device: weights, gradients, moments, and one optimizer step.

use super::checkpoint::Moment;
use crate::backend::{AdamLeaf, Backend, BackendError, Control, Targets};
use crate::model::{Activations, Decoder, DeviceBatch, Grad, HostBatch, Spec, Tree};
use crate::rng;
use serde::{Deserialize, Serialize};

/// AdamW's own numbers (Loshchilov, Hutter 2019); the defaults are GPT-3's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Longest gradient.
    pub clip: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// The optimizer's state of one parameter in training, on the device.
pub struct Moments<B: Backend> {
    m: B::Acc,
    v: B::Acc,
    master: Option<B::Acc>,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss of the step's tokens, in nats, before the update.
    pub loss: f64,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
}

/// A model in training.
pub struct Learner<B: Backend> {
    be: B,
    spec: Decoder<Spec>,
    weights: Decoder<B::Buf>,
    grads: Decoder<Grad<B>>,
    moments: Decoder<Option<Moments<B>>>,
    acts: Activations<B>,
    batch: DeviceBatch<B>,
    ctl: B::Ctl,
    loss: B::Acc,
    norm: B::Acc,
    /// The most rows a batch may have.
    rows: usize,
}

impl<B: Backend> Learner<B> {
    /// Puts a model on a device, with room for batches of up to `rows` rows; `trains` says which parameters learn.
    pub fn new(
        be: B,
        spec: Decoder<Spec>,
        host: &Decoder<Vec<f32>>,
        trains: impl Fn(&Spec) -> bool,
        rows: usize,
        recompute: bool,
    ) -> Result<Self, BackendError> {
        let mut values = host.leaves().into_iter();
        let weights = spec.try_map(&mut |s| {
            let mut w = if let [rows, cols] = s.shape[..] { be.alloc_matrix(rows, cols) } else { be.alloc(s.numel()) }?;
            let values = values.next().expect("a value for every parameter");
            assert_eq!(values.len(), s.numel(), "{}", s.name);
            be.upload(&mut w, values)?;
            Ok(w)
        })?;
        let grads = spec.try_map(&mut |s| trains(s).then(|| be.alloc_acc(s.numel())).transpose())?;
        let mut values = host.leaves().into_iter();
        let moments = spec.try_map(&mut |s| {
            let host = values.next().expect("a value for every parameter");
            trains(s)
                .then(|| {
                    let (m, v) = (be.alloc_acc(s.numel())?, be.alloc_acc(s.numel())?);
                    let master = B::MASTERS.then(|| uploaded(&be, host)).transpose()?;
                    Ok(Moments { m, v, master })
                })
                .transpose()
        })?;
        let acts = Activations::new(&be, &weights, rows, recompute)?;
        let targets = Targets { count: 0, rows: be.alloc_ids(rows)?, ids: be.alloc_ids(rows)?, weights: be.alloc_acc(rows)? };
        let batch =
            DeviceBatch { b: 0, t: 0, tokens: be.alloc_ids(rows)?, positions: be.alloc_ids(rows)?, starts: be.alloc_ids(rows)?, targets };
        let (ctl, loss, norm) = (be.alloc_ctl()?, be.alloc_acc(1)?, be.alloc_acc(1)?);
        Ok(Self { be, spec, weights, grads, moments, acts, batch, ctl, loss, norm, rows })
    }

    /// One optimizer step over the micro-batches of `batches`: forward, backward, clip, update; one synchronisation.
    /// `step` counts from 1; `seed` keys the dropout.
    pub fn step(&mut self, batches: &[HostBatch], step: u64, lr: f64, adam: &Adam, seed: u64) -> Result<StepReport, BackendError> {
        let total: f64 = batches.iter().map(HostBatch::total_weight).sum();
        self.be.zero_acc(&mut self.loss);
        self.grads.each_mut(&mut |g| g.iter_mut().for_each(|g| self.be.zero_acc(g)));
        for (micro, host) in batches.iter().enumerate() {
            let dropout_key = rng::key(seed, &[step, micro as u64]);
            let rounding_key = rng::key_of(seed, &format!("rounding {step}"));
            let Adam { beta1, beta2, eps, weight_decay: decay, clip } = *adam;
            self.be.upload_ctl(&mut self.ctl, &Control { lr, beta1, beta2, eps, decay, clip, step, dropout_key, rounding_key })?;
            self.put(host, total)?;
            let Self { be, weights, grads, acts, batch, ctl, loss, .. } = self;
            be.region(rng::key(0, &[batch.b as u64, batch.t as u64, batch.targets.count as u64]), &mut || {
                let pass = batch.pass(be, Some(ctl));
                weights.forward(&pass, acts, batch);
                weights.backward(&pass, loss, grads, acts, batch);
            });
        }
        self.update();
        self.be.sync()?;
        Ok(StepReport { loss: self.read(&self.loss)?, grad_norm: self.read(&self.norm)? })
    }

    fn update(&mut self) {
        let Self { be, spec, weights, grads, moments, ctl, norm, .. } = self;
        be.grad_norm(norm, &grads.leaves().into_iter().flatten().collect::<Vec<_>>());
        let each = weights.leaves_mut().into_iter().zip(moments.leaves_mut()).zip(grads.leaves()).zip(spec.leaves());
        let mut leaves: Vec<_> = each
            .filter_map(|(((w, moments), g), s)| {
                let (Moments { m, v, master }, g) = (moments.as_mut()?, g.as_ref()?);
                Some(AdamLeaf { w, master: master.as_mut(), m, v, g, decay: s.decay })
            })
            .collect();
        be.adamw(&mut leaves, norm, ctl);
    }

    /// The mean loss over `batches`, nothing dropped and nothing learned.
    pub fn evaluate<'a>(&mut self, batches: impl IntoIterator<Item = &'a HostBatch>) -> Result<f64, BackendError> {
        self.be.zero_acc(&mut self.loss);
        let mut total = 0.0;
        for host in batches {
            total += host.total_weight();
            self.put(host, 1.0)?;
            let Self { be, weights, acts, batch, loss, .. } = self;
            let pass = batch.pass(be, None);
            weights.forward(&pass, acts, batch);
            weights.loss(&pass, loss, acts, batch);
        }
        self.be.sync()?;
        Ok(self.read(&self.loss)? / total)
    }

    /// Logits `(rows listed, V)` of the rows that `host.rows` lists.
    pub fn logits(&mut self, host: &HostBatch) -> Result<Vec<f32>, BackendError> {
        self.put(host, 1.0)?;
        let Self { be, weights, acts, batch, .. } = self;
        let (count, v) = (batch.targets.count, weights.n_vocab);
        let mut logits = be.alloc(count * v)?;
        let pass = batch.pass(be, None);
        weights.forward(&pass, acts, batch);
        weights.logits(&pass, &mut logits, acts, &batch.targets.rows, count);
        be.sync()?;
        let mut host = vec![0.0; count * v];
        be.download(&mut host, &logits)?;
        Ok(host)
    }

    fn put(&mut self, host: &HostBatch, total: f64) -> Result<(), BackendError> {
        assert!(host.b * host.t <= self.rows, "a batch of {} x {} rows, but room for {}", host.b, host.t, self.rows);
        let Self { be, batch, .. } = self;
        (batch.b, batch.t, batch.targets.count) = (host.b, host.t, host.rows.len());
        be.upload_ids(&mut batch.tokens, &host.tokens)?;
        be.upload_ids(&mut batch.positions, &host.positions)?;
        be.upload_ids(&mut batch.starts, &host.starts)?;
        be.upload_ids(&mut batch.targets.rows, &host.rows)?;
        be.upload_ids(&mut batch.targets.ids, &host.targets)?;
        let weights: Vec<f64> = host.weights.iter().map(|&w| f64::from(w) / total).collect();
        be.upload_acc(&mut batch.targets.weights, &weights)
    }

    fn read(&self, scalar: &B::Acc) -> Result<f64, BackendError> {
        let mut value = [0.0];
        self.be.download_acc(&mut value, scalar)?;
        Ok(value[0])
    }

    /// The device.
    pub const fn backend(&self) -> &B {
        &self.be
    }

    /// What the parameters are.
    pub const fn spec(&self) -> &Decoder<Spec> {
        &self.spec
    }

    /// The weights on the device; for tests that disturb one.
    pub const fn weights_mut(&mut self) -> &mut Decoder<B::Buf> {
        &mut self.weights
    }

    /// The gradients of the last step, before clipping.
    pub const fn grads(&self) -> &Decoder<Grad<B>> {
        &self.grads
    }

    /// The activations of the last pass.
    pub const fn activations(&self) -> &Activations<B> {
        &self.acts
    }

    /// The weights in host memory: masters where there are any.
    pub fn host_weights(&self) -> Result<Decoder<Vec<f32>>, BackendError> {
        let mut leaves = Vec::new();
        for ((w, moments), s) in self.weights.leaves().into_iter().zip(self.moments.leaves()).zip(self.spec.leaves()) {
            leaves.push(match moments.as_ref().and_then(|m| m.master.as_ref()) {
                Some(master) => downloaded(&self.be, master, s.numel())?,
                None => {
                    let mut host = vec![0.0; s.numel()];
                    self.be.download(&mut host, w)?;
                    host
                }
            });
        }
        Ok(self.spec.with_leaves(leaves))
    }

    /// Which parameters train, in walk order.
    pub fn trained(&self) -> Vec<bool> {
        self.moments.leaves().iter().map(|m| m.is_some()).collect()
    }

    /// A part of the optimizer's state of parameter `leaf` in walk order.
    ///
    /// # Panics
    /// If the parameter is frozen, or the device keeps no such part.
    pub fn moment(&self, leaf: usize, part: Moment) -> Result<Vec<f32>, BackendError> {
        let moments = self.moments.leaves()[leaf].as_ref().expect("a parameter in training");
        let acc = match part {
            Moment::First => &moments.m,
            Moment::Second => &moments.v,
            Moment::Master => moments.master.as_ref().expect("a device with masters"),
        };
        downloaded(&self.be, acc, self.spec.leaves()[leaf].numel())
    }

    /// Takes up what [`moment`](Self::moment) gave.
    ///
    /// # Panics
    /// As [`moment`](Self::moment).
    pub fn set_moment(&mut self, leaf: usize, part: Moment, values: &[f32]) -> Result<(), BackendError> {
        let Self { be, moments, .. } = self;
        let moments = moments.leaves_mut().swap_remove(leaf).as_mut().expect("a parameter in training");
        let acc = match part {
            Moment::First => &mut moments.m,
            Moment::Second => &mut moments.v,
            Moment::Master => moments.master.as_mut().expect("a device with masters"),
        };
        upload(be, acc, values)
    }
}

fn upload<B: Backend>(be: &B, dst: &mut B::Acc, src: &[f32]) -> Result<(), BackendError> {
    be.upload_acc(dst, &src.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
}

fn uploaded<B: Backend>(be: &B, src: &[f32]) -> Result<B::Acc, BackendError> {
    let mut acc = be.alloc_acc(src.len())?;
    upload(be, &mut acc, src)?;
    Ok(acc)
}

fn downloaded<B: Backend>(be: &B, src: &B::Acc, n: usize) -> Result<Vec<f32>, BackendError> {
    let mut wide = vec![0.0; n];
    be.download_acc(&mut wide, src)?;
    Ok(wide.into_iter().map(|x| x as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::Reference;
    use crate::model::{Config, Lora, Target, init};

    fn config() -> Config {
        Config { n_embd: 16, n_head: 2, n_layer: 2, n_ff: None, n_ctx: 6, n_vocab: Some(13) }
    }

    fn batch() -> HostBatch {
        let tokens: Vec<u32> = (0..12).map(|i| i * 7 % 13).collect();
        let targets: Vec<u32> = (0..12).map(|i| (i + 1) * 7 % 13).collect();
        HostBatch::unbroken(2, 6, &tokens, &targets)
    }

    #[test]
    fn learns_a_batch_by_heart_in_full_and_by_lora() {
        let lora = Lora { rank: 4, alpha: 8.0, dropout: 0.1, targets: Target::ALL.to_vec() };
        for lora in [None, Some(&lora)] {
            let spec = Decoder::spec(&config(), lora);
            let mut host = init::initial(&spec, 1);
            if lora.is_some() {
                host.wte.0.iter_mut().for_each(|w| *w *= 30.0); // an adapter cannot raise the frozen head's logits
            }
            let mut learner = Learner::new(Reference, spec, &host, |s| lora.is_none() || s.lora, 12, lora.is_some()).unwrap();
            let first = learner.step(&[batch()], 1, 1e-2, &Adam::default(), 3).unwrap();
            assert!(lora.is_some() || (first.loss - 13f64.ln()).abs() < 0.1, "an untrained model knows nothing: {first:?}");
            for step in 2..60 {
                learner.step(&[batch()], step, 1e-2, &Adam::default(), 3).unwrap();
            }
            let (last, bound) = (learner.evaluate(&[batch()]).unwrap(), if lora.is_some() { 0.5 * first.loss } else { 0.1 });
            assert!(last < bound, "{last}");
            if lora.is_some() {
                let merged = init::merge(learner.host_weights().unwrap());
                let mut plain = Learner::new(Reference, Decoder::spec(&config(), None), &merged, |_| false, 12, true).unwrap();
                // The merged weights are rounded to f32: 6e-8 relative, some 60 terms deep.
                assert!((plain.evaluate(&[batch()]).unwrap() - last).abs() < 1e-5);
                let (a, b) = (plain.logits(&batch()).unwrap(), learner.logits(&batch()).unwrap());
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4));
            }
        }
    }

    #[test]
    fn a_loaded_state_goes_on_as_if_unbroken() {
        let spec = || Decoder::spec(&config(), None);
        let host = init::initial(&spec(), 1);
        let mut whole = Learner::new(Reference, spec(), &host, |_| true, 12, false).unwrap();
        for step in 1..4 {
            whole.step(&[batch()], step, 1e-2, &Adam::default(), 3).unwrap();
        }
        let mut resumed = Learner::new(Reference, spec(), &whole.host_weights().unwrap(), |_| true, 12, false).unwrap();
        for leaf in 0..whole.trained().len() {
            for part in [Moment::First, Moment::Second] {
                resumed.set_moment(leaf, part, &whole.moment(leaf, part).unwrap()).unwrap();
            }
        }
        let (a, b) = (
            whole.step(&[batch()], 4, 1e-2, &Adam::default(), 3).unwrap(),
            resumed.step(&[batch()], 4, 1e-2, &Adam::default(), 3).unwrap(),
        );
        // Reference keeps f64, a checkpoint f32: equal to f32's rounding here, to the bit on Cpu (tests/resume.rs).
        assert!((a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-4, "{a:?} {b:?}");
    }
}
