//! Every backward pass against its own forward: directional finite differences in f64.

#[path = "common/rig.rs"]
#[allow(dead_code)]
mod rig;

use rig::{Rig, batch, config, leaf_of, lively, lora};
use tinyllm::backend::reference::Reference;
use tinyllm::model::{Config, Decoder, HostBatch, Lora, Target, Tree};
use tinyllm::rng::Rng;

/// What a five-point central difference of step `h` may miss: its truncation error is `h^4 f^(5) / 30`, some 1e-12
/// here, and rounding of a loss around 4 contributes `1e-15 / h`, which is 1e-12; 1e-6 is the bar, and any missing
/// or doubled term is off by whole parts.
const BAR: f64 = 1e-6;
const STEP: f64 = 1e-3;

/// Checks one random direction in each tensor that trains; tells the worst relative error and the number of tensors.
///
/// The error is taken relative to the directional derivative, or to what a random direction of that tensor has on
/// average (`|g| / sqrt(n)`) where this one happens to lie across the gradient.
fn check(what: &str, config: &Config, lora: Option<&Lora>, batch: &HostBatch, recompute: bool) {
    let failures = failures(what, config, lora, batch, recompute, 1.0);
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

/// What [`check`] finds wrong when every gradient is first multiplied by `tamper`.
fn failures(what: &str, config: &Config, lora: Option<&Lora>, batch: &HostBatch, recompute: bool, tamper: f64) -> Vec<String> {
    let mut rig = Rig::new(Reference, config, lora, lively(7), batch.b * batch.t, recompute);
    rig.pass(std::slice::from_ref(batch));
    let mut gradients = rig.gradients();
    gradients.iter_mut().flat_map(|(_, g)| g).for_each(|g| *g *= tamper);
    let trained: Vec<usize> = rig.learner.grads().leaves().iter().enumerate().filter(|(_, g)| g.is_some()).map(|(i, _)| i).collect();
    let mut failures = vec![];
    let mut worst = 0.0f64;
    for (&place, (name, gradient)) in trained.iter().zip(&gradients) {
        let mut rng = Rng::new(tinyllm::rng::key_of(3, name));
        let mut direction: Vec<f64> = gradient.iter().map(|_| rng.normal()).collect();
        let length = norm(&direction);
        direction.iter_mut().for_each(|d| *d /= length);
        let given = leaf_of(rig.learner.weights_mut(), place).clone();
        let mut loss_at = |by: f64| {
            *leaf_of(rig.learner.weights_mut(), place) = given.iter().zip(&direction).map(|(w, d)| w + by * d).collect();
            rig.pass(std::slice::from_ref(batch))
        };
        let near = loss_at(STEP) - loss_at(-STEP);
        let far = loss_at(2.0 * STEP) - loss_at(-2.0 * STEP);
        *leaf_of(rig.learner.weights_mut(), place) = given;
        let slope = (8.0 * near - far) / (12.0 * STEP);
        let claimed: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let error = (slope - claimed).abs() / claimed.abs().max(norm(gradient) / (gradient.len() as f64).sqrt());
        worst = worst.max(error);
        if error.is_nan() || error >= BAR {
            failures.push(format!("{name}: by differences {slope:.9e}, by the backward pass {claimed:.9e}, apart by {error:.1e}"));
        }
    }
    println!("{what}: {} tensors, worst {worst:.1e}", trained.len());
    failures
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn full_training() {
    check("full", &config(2, 3, 4, 20, 9, 29), None, &batch(2, 8, 29, 1, 1), false);
    check("full, recomputed", &config(3, 3, 4, 20, 9, 29), None, &batch(2, 8, 29, 1, 2), true);
}

#[test]
fn packed_documents() {
    check("packed", &config(2, 2, 6, 30, 11, 23), None, &batch(3, 11, 23, 3, 3), false);
}

#[test]
fn lora_on_every_matrix() {
    let config = config(2, 3, 4, 20, 9, 29);
    check("lora", &config, Some(&lora(0.0)), &batch(2, 8, 29, 2, 4), false);
    check("lora with dropout", &config, Some(&lora(0.3)), &batch(2, 8, 29, 1, 5), false);
    check("lora with dropout, recomputed", &config, Some(&lora(0.3)), &batch(2, 8, 29, 1, 5), true);
}

/// The backward walk stops early in ways of its own when little trains.
#[test]
fn lora_on_one_matrix() {
    for target in Target::ALL {
        let lora = Lora { targets: vec![target], ..lora(0.2) };
        check(&format!("lora on {target:?}"), &config(2, 2, 5, 17, 7, 19), Some(&lora), &batch(2, 7, 19, 1, 6), false);
    }
}

/// The check itself: a gradient wrong in the fifth digit fails it.
#[test]
fn a_wrong_scale_is_noticed() {
    let (config, batch) = (config(1, 2, 4, 16, 6, 13), batch(1, 6, 13, 1, 8));
    let all = Decoder::spec(&config, None).leaves().len();
    assert_eq!(failures("tampered", &config, None, &batch, false, 1.0 + 1e-4).len(), all);
}
