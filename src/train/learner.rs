//! A model in training on one device: weights, gradients, moments, and one optimizer step.

use super::checkpoint::Moment;
use crate::backend::{AdamLeaf, Backend, BackendError, Control, NO_ROW, Targets};
use crate::model::{Activations, Decoder, DeviceBatch, Grad, HostBatch, Spec, Tree};
use crate::rng;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A step that was asked for and whose figures are on their way.
pub struct Pending<B: Backend>(B::Late);

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
    /// What was given of parameters that do not train, where the device keeps something narrower.
    frozen: Decoder<Option<Vec<f32>>>,
    acts: Activations<B>,
    batch: DeviceBatch<B>,
    ctl: B::Ctl,
    loss: B::Acc,
    norm: B::Acc,
    /// The most rows a batch may have.
    rows: usize,
    /// This learner among all of the program's: its regions work on its own memory.
    id: u64,
}

/// The regions of a step.
const ZEROING: u64 = 0;
const MICRO_STEP: u64 = 1;
const UPDATE: u64 = 2;

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
        let grads = spec.try_map(&mut |s| {
            let acc = || if let [rows, cols] = s.shape[..] { be.alloc_acc_matrix(rows, cols) } else { be.alloc_acc(s.numel()) };
            trains(s).then(acc).transpose()
        })?;
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
        let mut values = host.leaves().into_iter();
        let frozen = spec.map_leaves(&mut |s| {
            let values = values.next().expect("a value for every parameter");
            (B::MASTERS && !trains(s)).then(|| values.clone())
        });
        let acts = Activations::new(&be, &weights, rows, recompute)?;
        let targets = Targets::<B> { count: 0, rows: be.alloc_ids(rows)?, ids: be.alloc_ids(rows)?, weights: be.alloc_acc(rows)? };
        let batch =
            DeviceBatch { b: 0, t: 0, tokens: be.alloc_ids(rows)?, positions: be.alloc_ids(rows)?, starts: be.alloc_ids(rows)?, targets };
        static LEARNERS: AtomicU64 = AtomicU64::new(0);
        let id = LEARNERS.fetch_add(1, Ordering::Relaxed);
        let (ctl, loss, norm) = (be.alloc_ctl()?, be.alloc_acc(1)?, be.alloc_acc(1)?);
        Ok(Self { be, spec, weights, grads, moments, frozen, acts, batch, ctl, loss, norm, rows, id })
    }

    /// Makes the weights ready for the step after `step` (0: the first): on a device with masters their rounding is a function
    /// of seed and step, so that a run goes on with the very weights it stopped with.
    pub fn begin(&mut self, step: u64, adam: &Adam, seed: u64) -> Result<(), BackendError> {
        self.be.upload_ctl(&mut self.ctl, &control(step, 0, 0.0, adam, seed))?;
        let Self { be, spec, weights, grads, moments, ctl, .. } = self;
        be.round_masters(&mut adam_leaves(weights, moments, grads, spec), ctl);
        be.sync()
    }

    /// One optimizer step over the micro-batches of `batches`: forward, backward, clip, update; one synchronisation.
    /// `step` counts from 1; `seed` keys the dropout.
    pub fn step(&mut self, batches: &[HostBatch], step: u64, lr: f64, adam: &Adam, seed: u64) -> Result<StepReport, BackendError> {
        let pending = self.enqueue(batches, step, lr, adam, seed)?;
        self.report(pending)
    }

    /// Asks the device for a [`step`](Self::step) and does not wait for it.
    pub fn enqueue(&mut self, batches: &[HostBatch], step: u64, lr: f64, adam: &Adam, seed: u64) -> Result<Pending<B>, BackendError> {
        let total: f64 = batches.iter().map(HostBatch::total_weight).sum();
        let (id, Self { be, grads, loss, .. }) = (self.id, &mut *self);
        be.region(rng::key(id, &[ZEROING]), &mut || {
            be.zero_acc(loss);
            grads.each_mut(&mut |g| g.iter_mut().for_each(|g| be.zero_acc(g)));
        });
        for (micro, host) in batches.iter().enumerate() {
            self.be.upload_ctl(&mut self.ctl, &control(step, micro as u64, lr, adam, seed))?;
            self.put(host, total)?;
            let Self { be, weights, grads, acts, batch, ctl, loss, .. } = self;
            be.region(rng::key(id, &[MICRO_STEP, batch.b as u64, batch.t as u64, batch.targets.count as u64]), &mut || {
                let pass = batch.pass(be, Some(ctl));
                weights.forward(&pass, acts, batch);
                weights.backward(&pass, loss, grads, acts, batch);
            });
        }
        let Self { be, spec, weights, grads, moments, ctl, norm, .. } = self;
        be.region(rng::key(id, &[UPDATE]), &mut || {
            be.grad_norm(norm, &grads.leaves().into_iter().flatten().collect::<Vec<_>>());
            be.adamw(&mut adam_leaves(weights, moments, grads, spec), norm, ctl);
        });
        Ok(Pending(self.be.read_late(&[&self.loss, &self.norm])?))
    }

    /// What a step came to; waits for it.
    pub fn report(&self, pending: Pending<B>) -> Result<StepReport, BackendError> {
        let figures = self.be.take(pending.0)?;
        Ok(StepReport { loss: figures[0], grad_norm: figures[1] })
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
        let mut values = vec![0.0; host.rows.len() * v];
        be.download(&mut values, &logits)?;
        Ok(values)
    }

    fn put(&mut self, host: &HostBatch, total: f64) -> Result<(), BackendError> {
        assert!(host.b * host.t <= self.rows, "a batch of {} x {} rows, but room for {}", host.b, host.t, self.rows);
        let Self { be, batch, .. } = self;
        let (count, n) = (host.rows.len(), host.b * host.t);
        (batch.b, batch.t, batch.targets.count) = (host.b, host.t, be.bucket(count, n));
        let missing = batch.targets.count - count;
        be.upload_ids(&mut batch.tokens, &host.tokens)?;
        be.upload_ids(&mut batch.positions, &host.positions)?;
        be.upload_ids(&mut batch.starts, &host.starts)?;
        be.upload_ids(&mut batch.targets.rows, &filled(&host.rows, missing, NO_ROW))?;
        be.upload_ids(&mut batch.targets.ids, &filled(&host.targets, missing, 0))?;
        let mut weights: Vec<f64> = host.weights.iter().map(|&w| f64::from(w) / total).collect();
        weights.resize(batch.targets.count, 0.0);
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

    /// The weights in host memory: masters where there are any, what was given of frozen ones.
    pub fn host_weights(&self) -> Result<Decoder<Vec<f32>>, BackendError> {
        let mut leaves = Vec::new();
        let each = self.weights.leaves().into_iter().zip(self.moments.leaves()).zip(self.frozen.leaves()).zip(self.spec.leaves());
        for (((w, moments), frozen), s) in each {
            leaves.push(match (moments.as_ref().and_then(|m| m.master.as_ref()), frozen) {
                (Some(master), _) => downloaded(&self.be, master, s.numel())?,
                (None, Some(given)) => given.clone(),
                (None, None) => {
                    let mut host = vec![0.0; s.numel()];
                    self.be.download(&mut host, w)?;
                    host
                }
            });
        }
        Ok(self.spec.with_leaves(leaves))
    }

    /// Puts other values into parameter `leaf` in walk order, and into its master.
    pub fn set_weight(&mut self, leaf: usize, values: &[f32]) -> Result<(), BackendError> {
        let Self { be, weights, moments, frozen, .. } = self;
        be.upload(weights.leaves_mut().swap_remove(leaf), values)?;
        if let Some(master) = moments.leaves_mut().swap_remove(leaf).as_mut().and_then(|m| m.master.as_mut()) {
            upload(be, master, values)?;
        }
        if let Some(given) = frozen.leaves_mut().swap_remove(leaf) {
            given.copy_from_slice(values);
        }
        Ok(())
    }

    /// Which parameters train, in walk order.
    pub fn trained(&self) -> Vec<bool> {
        self.moments.leaves().iter().map(|m| m.is_some()).collect()
    }

    /// A part of the optimizer's state of parameter `leaf` in walk order.
    ///
    /// # Panics
    /// If the parameter is frozen.
    pub fn moment(&self, leaf: usize, part: Moment) -> Result<Vec<f32>, BackendError> {
        let moments = self.moments.leaves()[leaf].as_ref().expect("a parameter in training");
        let acc = match part {
            Moment::First => &moments.m,
            Moment::Second => &moments.v,
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
        };
        upload(be, acc, values)
    }
}

/// The numbers of a step's micro-batch.
fn control(step: u64, micro: u64, lr: f64, adam: &Adam, seed: u64) -> Control {
    let Adam { beta1, beta2, eps, weight_decay: decay, clip } = *adam;
    let (dropout_key, rounding_key) = (rng::key(seed, &[step, micro]), rng::key(rng::key_of(seed, "rounding"), &[step]));
    Control { lr, beta1, beta2, eps, decay, clip, step, dropout_key, rounding_key }
}

/// The optimizer's walk over what trains.
fn adam_leaves<'a, B: Backend>(
    weights: &'a mut Decoder<B::Buf>,
    moments: &'a mut Decoder<Option<Moments<B>>>,
    grads: &'a Decoder<Grad<B>>,
    spec: &Decoder<Spec>,
) -> Vec<AdamLeaf<'a, B>> {
    let each = weights.leaves_mut().into_iter().zip(moments.leaves_mut()).zip(grads.leaves()).zip(spec.leaves());
    each.filter_map(|(((w, moments), g), s)| {
        let (Moments { m, v, master }, g) = (moments.as_mut()?, g.as_ref()?);
        Some(AdamLeaf { w, master: master.as_mut(), m, v, g, decay: s.decay })
    })
    .collect()
}

/// `values` and `missing` times `filler` behind them.
fn filled(values: &[u32], missing: usize, filler: u32) -> Vec<u32> {
    values.iter().copied().chain(std::iter::repeat_n(filler, missing)).collect()
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

    /// Where little trains the walk takes other ways, and biases' gradients are taken along by norms above them.
    #[test]
    fn a_gradient_does_not_hang_on_what_else_trains() {
        let gradients = |trains: &dyn Fn(&Spec) -> bool| {
            let spec = Decoder::spec(&config(), None);
            let host = init::initial(&spec, 1);
            let mut learner = Learner::new(Reference, spec, &host, trains, 12, false).unwrap();
            learner.step(&[batch(), batch()], 1, 1e-2, &Adam::default(), 3).unwrap();
            learner.grads().leaves().into_iter().cloned().collect::<Vec<_>>()
        };
        let names: Vec<String> = Decoder::spec(&config(), None).leaves().iter().map(|s| s.name.clone()).collect();
        let all = gradients(&|_| true);
        for (name, whole) in names.iter().zip(&all) {
            for (other, alone) in names.iter().zip(gradients(&|s| s.name == *name)) {
                assert_eq!(alone.as_ref(), (name == other).then_some(whole.as_ref().unwrap()), "{name} alone: {other}");
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
