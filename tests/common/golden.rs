//! A backend against PyTorch in f64, on the fixtures of `scripts/fixtures.py`.

use crate::fixture::Fixture;
use crate::rig::{Rig, distance, worst};
use tinyllm::backend::Backend;
use tinyllm::model::Spec;
use tinyllm::train::Adam;

pub const CASES: [&str; 5] = ["gpt2", "packed", "odd", "single", "lora"];

/// How far from PyTorch's f64 a result may lie.
#[derive(Clone, Copy)]
pub struct Bars {
    /// Relative norm of each activation; five times that in the worst place against the largest value.
    pub activations: f64,
    /// The same of each gradient.
    pub gradients: f64,
    /// Absolute, of the loss.
    pub loss: f64,
    /// Relative, of the gradient norm.
    pub norm: f64,
    /// Times what honest f32 misses, of the losses of ten steps.
    pub losses: f64,
    /// 1 - cosine of the angle of each of these tensors with the truth.
    pub angle: f64,
}

/// Four to ten times what PyTorch's own f32 misses (5e-7, 1e-6 to 1.8e-6, 7e-7).
pub const F32: Bars = Bars { activations: 5e-6, gradients: 1e-5, loss: 2e-6, norm: 2e-6, losses: 5.0, angle: 1e-9 };

/// A fixture's model on a backend, as it was given but for what `tamper` does to a parameter's values. There is room for more
/// rows than there are, and NaN in all of them: a pass must write what it uses and read no further.
pub fn rig<B: Backend>(make: &impl Fn() -> B, case: &Fixture, tamper: impl Fn(&str, &mut [f32])) -> Rig<B> {
    let weights = |spec: &Spec| {
        let mut values = case.weights[&spec.name].clone();
        tamper(&spec.name, &mut values);
        values
    };
    let mut rig = Rig::new(make(), &case.config, case.lora.as_ref(), weights, case.batch.b * case.batch.t + 7, false);
    rig.poison();
    rig
}

/// What the first step of a [`rig`] leaves: each tensor that the fixture knows with its name there; loss; gradient norm.
pub fn first_step<B: Backend>(rig: &mut Rig<B>, case: &Fixture) -> (Vec<(String, Vec<f64>)>, f64, f64) {
    let logits = rig.logits(&case.batch);
    let first = rig.learner.step(std::slice::from_ref(&case.batch), 1, 1e-3, &Adam::default(), 1).unwrap();
    let mut seen: Vec<_> = rig.activations(case.batch.b * case.batch.t).into_iter().map(|(n, x)| (format!("act.{n}"), x)).collect();
    seen.push(("act.logits".into(), logits));
    seen.extend(rig.gradients().into_iter().map(|(n, x)| (format!("grad.{n}"), x)));
    seen.retain(|(name, _)| case.truth.contains_key(name));
    let named = case.truth.keys().filter(|n| n.starts_with("act.") || n.starts_with("grad.")).count();
    assert_eq!(seen.len(), named, "every tensor of the fixture is compared");
    (seen, first.loss, first.grad_norm)
}

/// What a backend made of a fixture.
pub struct Outcome {
    /// Each tensor of the first step with its name in the fixture.
    pub tensors: Vec<(String, Vec<f64>)>,
    /// Of ten steps.
    pub losses: Vec<f64>,
    /// Of the first step's gradient.
    pub norm: f64,
    /// The loss after ten steps: evaluated, and of a further step.
    pub last: [f64; 2],
}

/// Ten steps of a [`rig`].
pub fn outcome<B: Backend>(make: &impl Fn() -> B, case: &Fixture, tamper: impl Fn(&str, &mut [f32])) -> Outcome {
    let mut rig = rig(make, case, tamper);
    let (tensors, first, norm) = first_step(&mut rig, case);
    let batch = std::slice::from_ref(&case.batch);
    let mut losses = vec![first];
    for step in 2..=case.truth["losses"].len() as u64 {
        losses.push(rig.learner.step(batch, step, 1e-3, &Adam::default(), 1).unwrap().loss);
    }
    let last = [rig.learner.evaluate(batch).unwrap(), rig.pass(batch)];
    Outcome { tensors, losses, norm, last }
}

/// One thing in which a backend may differ from a fixture.
pub struct Miss {
    pub what: String,
    pub error: f64,
    pub bar: f64,
}

impl Miss {
    pub fn is_too_much(&self) -> bool {
        self.error.is_nan() || self.error > self.bar
    }
    pub fn say(&self, case: &Fixture, name: &str) -> String {
        format!("{} on {name}: {} is off by {:.2e}, more than {:.1e}", case.name, self.what, self.error, self.bar)
    }
}

/// How far an outcome lies from the fixture in everything, always in the same order.
pub fn misses(outcome: &Outcome, case: &Fixture, bars: Bars) -> Vec<Miss> {
    let mut misses = vec![];
    let mut note = |what: String, error: f64, bar: f64| misses.push(Miss { what, error, bar });
    for (name, value) in &outcome.tensors {
        let (truth, bar) = (&case.truth[name], if name.starts_with("act.") { bars.activations } else { bars.gradients });
        note(name.clone(), distance(value, truth), bar);
        note(format!("{name} in its worst place"), worst(value, truth), 5.0 * bar);
        note(format!("the direction of {name}"), angle(value, truth), bars.angle);
    }
    note("the loss".into(), (outcome.losses[0] - case.truth["loss"][0]).abs(), bars.loss);
    note("the norm".into(), (outcome.norm / case.truth["norm"][0] - 1.0).abs(), bars.norm);
    let mut bar = 0.0f64;
    for (step, (loss, truth)) in outcome.losses.iter().zip(&case.truth["losses"]).enumerate() {
        // Noise of one step is chance; what had been missed up to here is a measure.
        bar = bar.max(bars.losses * case.honest["losses"][step].as_f64().unwrap());
        note(format!("the loss of step {}", step + 1), (loss - truth).abs(), bar);
    }
    let [evaluated, stepped] = outcome.last;
    note("evaluation".into(), (evaluated - stepped).abs(), bars.loss);
    misses
}

/// Everything in which a backend differs from the fixture by more than the bars.
pub fn failures<B: Backend>(make: &impl Fn() -> B, case: &Fixture, bars: Bars, tamper: impl Fn(&str, &mut [f32])) -> Vec<String> {
    let outcome = outcome(make, case, tamper);
    misses(&outcome, case, bars).iter().filter(|m| m.is_too_much()).map(|m| m.say(case, B::NAME)).collect()
}

/// Which element of a parameter is changed to see whether that is noticed: the largest among the first C. There is a row of a token
/// and a position that occur, and the bias of queries and not of keys, which has no effect.
pub fn telling(case: &Fixture, values: &[f32]) -> usize {
    let first = &values[..values.len().min(case.config.n_embd)];
    (0..first.len()).max_by(|&a, &b| first[a].abs().total_cmp(&first[b].abs())).unwrap()
}

/// `1 - cos` of the angle between `x` and `y`.
fn angle(x: &[f64], y: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    1.0 - dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(f64::MIN_POSITIVE)
}
