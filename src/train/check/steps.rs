//! Whole steps: gradients against the other device's, and what a device must do twice in the same way.

use super::lab::{Kind, Lab, Output, Tamper, exact};
use super::samples::{Sizes, batch, lively};
use crate::backend::{Backend, BackendError};
use crate::model::{Config, Decoder, HostBatch, Lora, Spec, Target, Tree, init};
use crate::train::checkpoint::Moment;
use crate::train::{Adam, Learner};

/// What is done with a whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Loss and every gradient of one step: of all parameters or of adapters, over several documents a row or one.
    Gradients {
        /// Adapters with dropout, over a frozen base.
        lora: bool,
        /// Several documents a row.
        packed: bool,
    },
    /// The loss without gradients, and logits.
    Evaluation,
    /// Three steps twice: the same bits.
    Twice {
        /// Adapters with dropout.
        lora: bool,
    },
    /// Activations computed again on the way back: the same bits.
    Recompute,
    /// Three steps, all state to the host and into a new learner, two more: the bits of five.
    Resume {
        /// Adapters with dropout.
        lora: bool,
    },
    /// Ten steps on one batch: the loss falls, as it does on the other device.
    Overfit,
}

const SEED: u64 = 5;

impl Steps {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Gradients { lora: false, packed: false },
        Self::Gradients { lora: false, packed: true },
        Self::Gradients { lora: true, packed: true },
        Self::Evaluation,
        Self::Overfit,
        Self::Twice { lora: false },
        Self::Twice { lora: true },
        Self::Recompute,
        Self::Resume { lora: false },
        Self::Resume { lora: true },
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gradients { lora: false, packed: false } => "step",
            Self::Gradients { lora: false, packed: true } => "step, documents",
            Self::Gradients { lora: true, .. } => "step, lora",
            Self::Evaluation => "evaluation",
            Self::Overfit => "overfit, 10 steps",
            Self::Twice { lora: false } => "the same twice",
            Self::Twice { lora: true } => "the same twice, lora",
            Self::Recompute => "recompute",
            Self::Resume { lora: false } => "resume",
            Self::Resume { lora: true } => "resume, lora",
        }
    }

    /// Its sizes in words.
    pub fn sizes(self, s: &Sizes) -> String {
        format!("L {} C {} V {} B {} T {}", s.model.n_layer, s.model.n_embd, s.model.vocab(), s.step_b, s.t)
    }

    /// Whether the device is held to itself alone.
    pub const fn alone(self) -> bool {
        matches!(self, Self::Twice { .. } | Self::Recompute | Self::Resume { .. })
    }

    /// Whether a wrong weight must show in it.
    pub const fn controlled(self) -> bool {
        matches!(self, Self::Gradients { .. } | Self::Evaluation)
    }

    /// Runs it on a device.
    pub fn run<B: Backend + Clone>(self, lab: &mut Lab<B>, s: &Sizes) -> Result<(), BackendError> {
        let model = |lora: bool| Model::lively(s, lora, lab.tamper);
        match self {
            Self::Gradients { lora, packed } => gradients(lab, s, &model(lora), packed),
            Self::Evaluation => evaluation(lab, s, &model(false)),
            Self::Overfit => overfit(lab, s),
            Self::Twice { lora } => twice(lab, s, &model(lora)),
            Self::Recompute => recompute(lab, s, &model(false)),
            Self::Resume { lora } => resume(lab, s, &model(lora)),
        }
    }
}

/// A model and the weights it begins with, all exact in bf16.
struct Model {
    spec: Decoder<Spec>,
    lora: bool,
    given: Decoder<Vec<f32>>,
}

impl Model {
    fn of(config: &Config, lora: Option<&Lora>, weights: impl Fn(&Spec) -> Vec<f32>) -> Self {
        let spec = Decoder::spec(config, lora);
        let given = spec.map_leaves(&mut |s| weights(s).into_iter().map(exact).collect());
        Self { spec, lora: lora.is_some(), given }
    }

    fn lively(s: &Sizes, lora: bool, tamper: Tamper) -> Self {
        let lora = lora.then(|| Lora { rank: s.rank, alpha: 1.5 * s.rank as f64, dropout: 0.1, targets: Target::ALL.to_vec() });
        let mut model = Self::of(&s.model, lora.as_ref(), lively(3));
        match tamper {
            Tamper::None => {}
            Tamper::Weight => {
                // The largest in the row of a token that two of five positions hold.
                let row = &mut model.given.wte.0[s.model.n_embd..2 * s.model.n_embd];
                if let Some(most) = row.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs())) {
                    *most *= 1.01;
                }
            }
            // Logits 1 % larger: the loss moves by 0.01, five times its bar in bf16.
            Tamper::Whole => model.given.norm.w.0.iter_mut().for_each(|w| *w *= 1.01),
        }
        model
    }

    fn learner<B: Backend + Clone>(&self, be: &B, rows: usize, recompute: bool) -> Result<Learner<B>, BackendError> {
        let lora = self.lora;
        let mut learner = Learner::new(be.clone(), self.spec.clone(), &self.given, move |s| !lora || s.lora, rows, recompute)?;
        learner.begin(0, &Adam::default(), SEED)?;
        Ok(learner)
    }
}

/// Leaves NaN in every buffer that a pass writes, in all its `rows` rows: what is then not written shows. For a learner that has
/// not learned yet; its weights are then `given`. The loss of the pass that did it, which is NaN.
pub fn poison<B: Backend>(learner: &mut Learner<B>, given: &Decoder<Vec<f32>>, rows: usize) -> Result<f64, BackendError> {
    for (leaf, given) in given.leaves().into_iter().enumerate() {
        learner.set_weight(leaf, &vec![f32::NAN; given.len()])?;
    }
    learner.begin(0, &Adam::default(), SEED)?;
    let ids = vec![0; rows];
    let loss = learner.step(&[HostBatch::unbroken(rows, 1, &ids, &ids)], 1, 0.0, &Adam::default(), SEED)?.loss;
    let trained = learner.trained();
    for (leaf, given) in given.leaves().into_iter().enumerate() {
        learner.set_weight(leaf, given)?;
        if trained[leaf] {
            for part in [Moment::First, Moment::Second] {
                learner.set_moment(leaf, part, &vec![0.0; given.len()])?;
            }
        }
    }
    learner.begin(0, &Adam::default(), SEED)?;
    Ok(loss)
}

/// Name and gradient of everything that trains, as the last step left them.
pub fn gradients_of<B: Backend>(learner: &Learner<B>) -> Result<Vec<(String, Vec<f64>)>, BackendError> {
    let mut all = vec![];
    for (s, g) in learner.spec().leaves().into_iter().zip(learner.grads().leaves()) {
        if let Some(g) = g {
            let mut host = vec![f64::NAN; s.numel()];
            learner.backend().download_acc(&mut host, g)?;
            all.push((s.name.clone(), host));
        }
    }
    Ok(all)
}

/// Two micro-batches, the second shorter and in documents.
fn batches(s: &Sizes) -> [HostBatch; 2] {
    let v = s.model.vocab();
    [batch(s.step_b, s.t, v, 1, 1), batch(1, s.t - s.t / 8, v, 3, 2)]
}

fn gradients<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes, model: &Model, packed: bool) -> Result<(), BackendError> {
    let rows = s.step_b * s.t;
    let batch = batch(s.step_b, s.t, s.model.vocab(), if packed { 4 } else { 1 }, 7);
    let mut learner = model.learner(lab.be, rows, false)?;
    poison(&mut learner, &model.given, rows)?;
    let report = learner.step(&[batch], 1, 0.0, &Adam::default(), SEED)?;
    lab.outputs.push(Output::of("loss", vec![report.loss as f32], Kind::ModelLoss));
    lab.outputs.push(Output::of("norm of the gradient", vec![report.grad_norm as f32], Kind::ModelNorm));
    for (name, values) in gradients_of(&learner)? {
        let kind = if name.contains("lora") { Kind::Adapter } else { Kind::Model };
        lab.outputs.push(Output::of(format!("gradient of {name}"), narrow(&values), kind));
    }
    Ok(())
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn evaluation<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes, model: &Model) -> Result<(), BackendError> {
    let v = s.model.vocab();
    let mut learner = model.learner(lab.be, s.step_b * s.t, false)?;
    let all = [batch(s.step_b, s.t, v, 1, 8), batch(1, s.t / 2, v, 3, 9)];
    lab.outputs.push(Output::of("loss", vec![learner.evaluate(&all)? as f32], Kind::ModelLoss));
    let mut some = all[1].clone();
    for listed in [&mut some.rows, &mut some.targets] {
        *listed = listed.iter().copied().step_by(7).collect();
    }
    some.weights.truncate(some.rows.len());
    lab.outputs.push(Output::of("logits", learner.logits(&some)?, Kind::Model));
    Ok(())
}

/// Everything that a run goes on with, and the losses that led there, as bits.
struct Trace {
    weights: Decoder<Vec<f32>>,
    moments: Vec<Option<[Vec<f32>; 2]>>,
    figures: Vec<u64>,
}

impl Trace {
    /// After the steps from `first` to `last`.
    fn of<B: Backend>(learner: &mut Learner<B>, s: &Sizes, first: u64, last: u64) -> Result<Self, BackendError> {
        let mut figures = vec![];
        for step in first..=last {
            let report = learner.step(&batches(s), step, 1e-3, &Adam::default(), SEED)?;
            figures.extend([report.loss.to_bits(), report.grad_norm.to_bits()]);
        }
        let trained = learner.trained();
        let moments = trained.iter().enumerate().map(|(leaf, trained)| {
            let part = |part| learner.moment(leaf, part);
            trained.then(|| Ok([part(Moment::First)?, part(Moment::Second)?])).transpose()
        });
        Ok(Self { moments: moments.collect::<Result<_, BackendError>>()?, weights: learner.host_weights()?, figures })
    }

    fn state(&self) -> Vec<u64> {
        let moments = self.moments.iter().flatten().flatten();
        self.weights.leaves().into_iter().chain(moments).flatten().map(|x| u64::from(x.to_bits())).collect()
    }
}

fn gradient_bits<B: Backend>(learner: &Learner<B>) -> Result<Vec<u64>, BackendError> {
    Ok(gradients_of(learner)?.into_iter().flat_map(|(_, g)| g).map(f64::to_bits).collect())
}

fn twice<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes, model: &Model) -> Result<(), BackendError> {
    let run = || {
        let mut learner = model.learner(lab.be, s.step_b * s.t, false)?;
        let trace = Trace::of(&mut learner, s, 1, 3)?;
        Ok::<_, BackendError>((trace, gradient_bits(&learner)?))
    };
    let ((one, one_gradient), (other, other_gradient)) = (run()?, run()?);
    lab.outputs.push(Output::differing("losses and norms", &one.figures, &other.figures));
    lab.outputs.push(Output::differing("gradients", &one_gradient, &other_gradient));
    lab.outputs.push(Output::differing("weights and moments", &one.state(), &other.state()));
    Ok(())
}

fn recompute<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes, model: &Model) -> Result<(), BackendError> {
    let run = |recompute| {
        let mut learner = model.learner(lab.be, s.step_b * s.t, recompute)?;
        let report = learner.step(&batches(s), 1, 0.0, &Adam::default(), SEED)?;
        Ok::<_, BackendError>((report.loss.to_bits(), gradient_bits(&learner)?))
    };
    let ((loss, gradient), (again, recomputed)) = (run(false)?, run(true)?);
    lab.outputs.push(Output::differing("loss", &[loss], &[again]));
    lab.outputs.push(Output::differing("gradients", &gradient, &recomputed));
    Ok(())
}

fn resume<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes, model: &Model) -> Result<(), BackendError> {
    let rows = s.step_b * s.t;
    let whole = Trace::of(&mut model.learner(lab.be, rows, false)?, s, 1, 5)?;
    let half = Trace::of(&mut model.learner(lab.be, rows, false)?, s, 1, 3)?;
    let lora = model.lora;
    let mut learner = Learner::new(lab.be.clone(), model.spec.clone(), &half.weights, move |s| !lora || s.lora, rows, false)?;
    for (leaf, moments) in half.moments.iter().enumerate() {
        for (part, values) in [Moment::First, Moment::Second].into_iter().zip(moments.iter().flatten()) {
            learner.set_moment(leaf, part, values)?;
        }
    }
    learner.begin(3, &Adam::default(), SEED)?;
    let end = Trace::of(&mut learner, s, 4, 5)?;
    lab.outputs.push(Output::differing("losses and norms", &whole.figures, &[half.figures, end.figures.clone()].concat()));
    lab.outputs.push(Output::differing("weights and moments", &whole.state(), &end.state()));
    Ok(())
}

fn overfit<B: Backend + Clone>(lab: &mut Lab<B>, s: &Sizes) -> Result<(), BackendError> {
    let spec = Decoder::spec(&s.model, None);
    let initial = init::initial(&spec, 1);
    let mut leaves = initial.leaves().into_iter();
    let model =
        Model { given: spec.map_leaves(&mut |_| leaves.next().into_iter().flatten().copied().map(exact).collect()), spec, lora: false };
    let mut learner = model.learner(lab.be, s.step_b * s.t, false)?;
    let batch = batch(s.step_b, s.t, s.model.vocab(), 1, 10);
    // A step moves a logit by about the rate times the channels: some tenths.
    let lr = 0.4 / s.model.n_embd as f64;
    let mut losses = vec![];
    for step in 1..=10 {
        losses.push(learner.step(std::slice::from_ref(&batch), step, lr, &Adam::default(), SEED)?.loss as f32);
    }
    // Single steps may rise in bf16, whose weights are rounded up or down by chance.
    let learned = losses[9] < 0.9 * losses[0];
    // Later ones hang on how early weights were rounded.
    lab.outputs.push(Output::of("first losses", losses[..3].to_vec(), Kind::Losses));
    lab.outputs.push(Output::differing("a loss that falls by a tenth", &[1], &[u64::from(learned)]));
    Ok(())
}
