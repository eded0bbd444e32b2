//! How long a training step takes, what each of its kernels takes, and what they would take at best.
//!
//! Three looks at the same step. [`Load::time`] runs it as a run does: recorded regions, the next step asked for before the
//! last one's figures are read. [`Load::profile`] runs it with a moment before and after each kernel. [`Load::count`] runs it on
//! no device at all and tells what its kernels are asked for.

use super::config::Batch;
use super::learner::{Adam, Learner, Pending, StepReport};
use crate::backend::{Backend, BackendError, Blank, Call, Ceilings, Timed, Widths, Work};
use crate::model::{Config, Decoder, HostBatch, Lora, Spec, Tree, init};
use crate::rng::{self, Rng};
use std::time::Instant;

/// What is trained, on how much at a time.
#[derive(Clone, Debug)]
pub struct Load {
    /// The model, its vocabulary settled.
    pub model: Config,
    /// Its adapters; without, all weights train.
    pub lora: Option<Lora>,
    /// How a step is cut.
    pub batch: Batch,
    /// Share of the rows whose next token counts, 0 to 1; one row at least.
    pub counted: f64,
}

/// What [`Load::time`] found.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Milliseconds of each step that counts.
    pub steps: Vec<f64>,
    /// When the figures of the very first step were there.
    pub first_step: Instant,
    /// The loss of the last one.
    pub last: StepReport,
}

/// Seed of weights and tokens.
const SEED: u64 = 1;

/// Steps before those that count. A device that works ahead chooses algorithms in the first, records the second and replays the
/// third for the first time; one that does not has only caches and memory to warm.
const fn warm_up<B: Backend>() -> usize {
    if B::LATE { 3 } else { 1 }
}

impl Load {
    fn spec(&self) -> Decoder<Spec> {
        Decoder::spec(&self.model, self.lora.as_ref())
    }

    fn trains(&self, spec: &Spec) -> bool {
        self.lora.is_none() || spec.lora
    }

    /// How many parameters train.
    #[must_use]
    pub fn trained(&self) -> usize {
        self.spec().leaves().into_iter().filter(|s| self.trains(s)).map(Spec::numel).sum()
    }

    /// The micro-batches of a step: random tokens, and rows that count spread evenly over each.
    #[must_use]
    pub fn batches(&self) -> Vec<HostBatch> {
        let (b, t, v) = (self.batch.micro_batch, self.batch.ctx, self.model.vocab() as u64);
        let n = (b * t) as u64;
        let counted = ((n as f64 * self.counted).round() as u64).clamp(1, n);
        let counts = |row: u32| (u64::from(row) + 1) * counted / n > u64::from(row) * counted / n;
        let one = |micro: usize| {
            let mut rng = Rng::new(rng::key(SEED, &[micro as u64]));
            let mut draw = || (0..b * t).map(|_| rng.below(v) as u32).collect::<Vec<_>>();
            let mut batch = HostBatch::unbroken(b, t, &draw(), &draw());
            batch.rows.retain(|&row| counts(row));
            batch.targets = batch.rows.iter().map(|&row| batch.targets[row as usize]).collect();
            batch.weights.truncate(batch.rows.len());
            batch
        };
        (0..self.batch.accumulate).map(one).collect()
    }

    fn learner<B: Backend>(&self, be: B, weights: &Decoder<Vec<f32>>) -> Result<Learner<B>, BackendError> {
        let mut learner = Learner::new(be, self.spec(), weights, |s| self.trains(s), self.batch.rows(), self.batch.recompute)?;
        learner.begin(0, &Adam::default(), SEED)?;
        Ok(learner)
    }

    /// Times `steps` steps as a run takes them, and tells `progress` of each: its number, its milliseconds, whether it counts.
    pub fn time<B: Backend>(&self, be: B, steps: usize, progress: &mut dyn FnMut(usize, f64, bool)) -> Result<Timing, BackendError> {
        let mut learner = self.learner(be, &init::initial(&self.spec(), SEED))?;
        let batches = self.batches();
        let warm = warm_up::<B>();
        let mut told: Vec<(Instant, StepReport)> = Vec::new();
        let (start, mut before) = (Instant::now(), None);
        let mut tell = |learner: &Learner<B>, pending: Pending<B>| {
            let report = learner.report(pending)?;
            let (now, last) = (Instant::now(), told.last().map_or(start, |&(last, _)| last));
            told.push((now, report));
            progress(told.len(), (now - last).as_secs_f64() * 1e3, told.len() > warm);
            Ok::<_, BackendError>(())
        };
        for step in 1..=warm + steps {
            let this = learner.enqueue(&batches, step as u64, 1e-4, &Adam::default(), SEED)?;
            let ready = if B::LATE { before.replace(this) } else { Some(this) };
            if let Some(pending) = ready {
                tell(&learner, pending)?;
            }
        }
        if let Some(pending) = before {
            tell(&learner, pending)?;
        }
        let steps = told.windows(2).skip(warm - 1).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64() * 1e3).collect();
        Ok(Timing { steps, first_step: told[0].0, last: told[told.len() - 1].1 })
    }

    /// The calls of each of `steps` steps, their kernels timed one by one.
    pub fn profile<B: Backend>(&self, be: B, steps: usize) -> Result<Vec<Vec<Call>>, BackendError> {
        self.calls(be, steps, warm_up::<B>().min(2), &init::initial(&self.spec(), SEED))
    }

    /// The calls of a step on a device with these widths, that takes masters if its weights are narrower; no time passes.
    #[must_use]
    pub fn count(&self, widths: Widths) -> Vec<Call> {
        // Nobody reads them, so that memory is never touched.
        let weights = self.spec().map_leaves(&mut |s| vec![0.0; s.numel()]);
        let mut steps = self.calls(Blank { widths }, 1, 0, &weights).expect("what does nothing does not fail");
        steps.swap_remove(0)
    }

    fn calls<B: Backend>(&self, be: B, steps: usize, warm: usize, weights: &Decoder<Vec<f32>>) -> Result<Vec<Vec<Call>>, BackendError> {
        let mut learner = self.learner(Timed::new(be), weights)?;
        let batches = self.batches();
        let mut all = Vec::new();
        learner.backend().take_calls()?;
        for step in 1..=warm + steps {
            learner.step(&batches, step as u64, 1e-4, &Adam::default(), SEED)?;
            let calls = learner.backend().take_calls()?;
            if step > warm {
                all.push(calls);
            }
        }
        Ok(all)
    }

    /// Floating-point operations that the model asks for, a token: six for each weight of a matrix product that trains, the head's
    /// among them, and causal attention's `6 L C T`; of frozen weights and rows that do not count only what must be. Operations
    /// that are only done again (recomputed activations, attention's probabilities) do not count.
    #[must_use]
    pub fn model_flops_per_token(&self) -> f64 {
        let once = Self { batch: Batch { recompute: false, ..self.batch.clone() }, ..self.clone() };
        let calls = once.count(Blank::default().widths);
        calls.iter().map(|call| call.work.model_flops()).sum::<f64>() / self.batch.tokens_per_step() as f64
    }
}

/// All calls of one kernel in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The method of [`Backend`].
    pub kernel: &'static str,
    /// Calls a step.
    pub calls: usize,
    /// Operations a step.
    pub flops: f64,
    /// Bytes a step.
    pub bytes: f64,
    /// Milliseconds a step: the median of the steps measured.
    pub ms: f64,
    /// The floors of its calls, added up.
    pub floor_ms: f64,
}

/// The calls of some steps of one load by kernel, in the order in which they first come.
///
/// # Panics
/// If there is no step.
#[must_use]
pub fn families(steps: &[Vec<Call>], ceilings: &Ceilings) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    for Call { work: work @ Work { kernel, flops, bytes }, .. } in &steps[0] {
        let place = all.iter().position(|f| f.kernel == *kernel).unwrap_or(all.len());
        if place == all.len() {
            all.push(Family { kernel, calls: 0, flops: 0.0, bytes: 0.0, ms: 0.0, floor_ms: 0.0 });
        }
        let family = &mut all[place];
        family.calls += 1;
        family.flops += flops;
        family.bytes += bytes;
        family.floor_ms += work.floor_ms(ceilings);
    }
    for family in &mut all {
        let of_step = |calls: &Vec<Call>| calls.iter().filter(|c| c.work.kernel == family.kernel).map(|c| c.ms).sum();
        family.ms = median(steps.iter().map(of_step).collect());
    }
    all
}

/// The middle one; of an even number the upper of the two.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
