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
    rig.poison(&make());
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

/// Everything in which a backend differs from the fixture by more than the bars.
pub fn failures<B: Backend>(make: &impl Fn() -> B, case: &Fixture, bars: Bars, tamper: impl Fn(&str, &mut [f32])) -> Vec<String> {
    let mut rig = rig(make, case, tamper);
    let mut failures = vec![];
    let mut say = |what: String, error: f64, bar: f64| {
        if error.is_nan() || error > bar {
            failures.push(format!("{} on {}: {what} is off by {error:.2e}, more than {bar:.1e}", case.name, B::NAME));
        }
    };
    let (seen, first, norm) = first_step(&mut rig, case);
    for (name, value) in &seen {
        let (truth, bar) = (&case.truth[name], if name.starts_with("act.") { bars.activations } else { bars.gradients });
        say(name.clone(), distance(value, truth), bar);
        say(format!("{name} in its worst place"), worst(value, truth), 5.0 * bar);
        say(format!("the direction of {name}"), angle(value, truth), bars.angle);
    }
    say("the loss".into(), (first - case.truth["loss"][0]).abs(), bars.loss);
    say("the norm".into(), (norm / case.truth["norm"][0] - 1.0).abs(), bars.norm);
    let mut bar = 0.0f64;
    for (step, &truth) in case.truth["losses"].iter().enumerate() {
        // Noise of one step is chance; what had been missed up to here is a measure.
        bar = bar.max(bars.losses * case.honest["losses"][step].as_f64().unwrap());
        let loss = match step {
            0 => first,
            _ => rig.learner.step(std::slice::from_ref(&case.batch), step as u64 + 1, 1e-3, &Adam::default(), 1).unwrap().loss,
        };
        say(format!("the loss of step {}", step + 1), (loss - truth).abs(), bar);
    }
    let (evaluated, stepped) = (rig.learner.evaluate([&case.batch]).unwrap(), rig.pass(std::slice::from_ref(&case.batch)));
    say("evaluation".into(), (evaluated - stepped).abs(), bars.loss);
    failures
}

/// `1 - cos` of the angle between `x` and `y`.
fn angle(x: &[f64], y: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    1.0 - dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(f64::MIN_POSITIVE)
}
