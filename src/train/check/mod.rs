//! Whether a device computes what it should: every kernel and whole steps, held to another device, for a user who doubts a driver as for us.
//!
//! A case is a function that is generic over its device and leaves named outputs. It is run on the device that tells the truth and on
//! the one that is checked, and the outputs are compared. All inputs are exact in bf16, so that both start from the same numbers; what a
//! kernel overwrites is NaN before; what lies behind a buffer must not change. Then it is run once more with an input 1 % off, and that
//! must fail: a check that cannot fail says nothing.

mod head;
mod kernels;
mod lab;
mod samples;
mod steps;

pub use samples::{Sizes, batch, lively};
pub use steps::{gradients_of, poison};

use crate::backend::{Backend, BackendError};
use head::Heads;
use kernels::Kernels;
use lab::{Kind, Lab, Output, Tamper, Verdict, judge};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use steps::Steps;

/// How far outputs may be off: relative norms, and five times that in the worst element.
#[derive(Clone, Copy, Debug)]
pub struct Bars {
    stored: f64,
    chained: f64,
    sum: f64,
    element: f64,
    weight: f64,
    loss: f64,
    model: f64,
    turned: f64,
    model_loss: f64,
    model_norm: f64,
    losses: f64,
    tamper: Tamper,
}

impl Bars {
    /// f32 throughout. A sum in another order is off by 1e-6 at most in 3,072 terms, a whole model's gradient by as much; 5e-5 leaves
    /// room for exponentials and tangents made for speed. One weight that is 1 % off is seen.
    pub const F32: Self = Self {
        stored: 5e-5,
        chained: 5e-5,
        sum: 5e-5,
        // A handful of roundings of 6e-8, and no difference of nearly equal numbers.
        element: 1e-6,
        weight: 1e-6,
        loss: 1e-5,
        model: 5e-5,
        turned: 1e-8,
        model_loss: 5e-5,
        model_norm: 5e-5,
        // Adam magnifies noise in gradients that are nearly 0, step by step.
        losses: 1e-3,
        tamper: Tamper::Weight,
    };
    /// bf16 with f32 sums. A number stored in bf16 is off by 2^-9 at most and 1.1e-3 in the mean; kernels that store something on the way
    /// have two or three such roundings in a row. Honest bf16 of a whole model is off by 9.5e-3 in its worst gradient, 4.5e-5 in 1 - cos,
    /// 5e-4 in the loss and 9e-4 in the norm; the bars are three to five times that. All of an input 1 % off is seen.
    pub const BF16: Self = Self {
        stored: 3e-3,
        chained: 6e-3,
        // Rounded up or down by chance: off by up to 2^-7, 0.4 of that in the mean.
        weight: 5e-3,
        loss: 5e-4,
        model: 3e-2,
        turned: 3e-4,
        model_loss: 2e-3,
        model_norm: 5e-3,
        losses: 2e-2,
        tamper: Tamper::Whole,
        ..Self::F32
    };

    /// 1 - cos of the angle between whole tensors, where it is asked for.
    const fn turned(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Model => Some(self.turned),
            Kind::Adapter => Some(4.0 * self.turned),
            _ => None,
        }
    }

    const fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Stored | Kind::Masked => self.stored,
            Kind::Chained => self.chained,
            Kind::Sum => self.sum,
            Kind::Element => self.element,
            Kind::Weight => self.weight,
            Kind::Loss => self.loss,
            Kind::Same => 0.0,
            Kind::Model => self.model,
            Kind::Adapter => 2.0 * self.model,
            Kind::ModelLoss => self.model_loss,
            Kind::ModelNorm => self.model_norm,
            Kind::Losses => self.losses,
        }
    }
}

/// A device to check.
pub struct Checked<B> {
    /// "f32", "bf16".
    pub precision: &'static str,
    /// The device.
    pub be: B,
    /// What it is held to.
    pub bars: Bars,
}

/// What became of one case on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The case.
    pub case: String,
    /// Its sizes.
    pub sizes: String,
    /// The device's precision.
    pub precision: &'static str,
    /// The output that came closest to its bar, or went over it.
    pub worst: String,
    /// How far that one is off.
    pub error: f64,
    /// How far it may be.
    pub bar: f64,
    /// With an input 1 % off: the output that went over its bar most, in units of the bar; must be over 1. `None` where the case has no
    /// such control.
    pub control: Option<f64>,
    /// What it took, the other device's part aside.
    pub seconds: f64,
    /// What is wrong.
    pub failure: Option<String>,
}

impl Line {
    /// Whether the case held.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.failure.is_none()
    }
}

/// One case of any group.
enum Case {
    Kernels(Kernels),
    Heads(Heads),
    Steps(Steps),
}

impl Case {
    fn name(&self) -> String {
        match self {
            Self::Kernels(case) => case.name(),
            Self::Heads(case) => case.name().into(),
            Self::Steps(case) => case.name().into(),
        }
    }

    fn sizes(&self, s: &Sizes) -> String {
        match self {
            Self::Kernels(case) => case.sizes(),
            Self::Heads(case) => case.sizes(),
            Self::Steps(case) => case.sizes(s),
        }
    }

    const fn alone(&self) -> bool {
        matches!(self, Self::Steps(case) if case.alone())
    }

    /// What its negative control changes.
    const fn tamper(&self, bars: &Bars) -> Option<Tamper> {
        match self {
            Self::Kernels(_) | Self::Heads(_) => Some(Tamper::Whole),
            Self::Steps(case) if case.controlled() => Some(bars.tamper),
            Self::Steps(_) => None,
        }
    }

    /// Its outputs on a device; the message of whatever went wrong, panics included: one kernel's bug is not to hide the others'.
    fn outputs<B: Backend + Clone>(&self, be: &B, s: &Sizes, tamper: Tamper) -> Result<Vec<Output>, String> {
        let run = || {
            let mut lab = Lab::new(be, tamper);
            match self {
                Self::Kernels(case) => case.run(&mut lab)?,
                Self::Heads(case) => case.run(&mut lab)?,
                Self::Steps(case) => case.run(&mut lab, s)?,
            }
            Ok::<_, BackendError>(lab.outputs)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
                Err(text.unwrap_or_else(|| "the program came to a stop".into()))
            }
        }
    }
}

/// Names of all cases at these sizes, in the order they are run; some are run at several sizes.
#[must_use]
pub fn names(sizes: &Sizes) -> Vec<String> {
    cases(sizes).iter().map(Case::name).collect()
}

fn cases(sizes: &Sizes) -> Vec<Case> {
    let mut all: Vec<Case> = Kernels::all(sizes).into_iter().map(Case::Kernels).collect();
    all.extend(Heads::all(sizes).into_iter().map(Case::Heads));
    all.extend(Steps::ALL.map(Case::Steps));
    all
}

/// Holds each of `devices` to `truth`, in every case whose name contains `only`; `tell` is called with each line as it is known.
///
/// A case that a device fails at does not stop the others, unless the device answers nothing any more.
pub fn run<B: Backend + Clone, O: Backend + Clone>(
    devices: &[Checked<B>],
    truth: &O,
    sizes: &Sizes,
    only: Option<&str>,
    tell: &mut dyn FnMut(&Line),
) -> Vec<Line> {
    let mut lines = vec![];
    let mut lost = vec![false; devices.len()];
    for case in cases(sizes).iter().filter(|case| only.is_none_or(|only| case.name().contains(only))) {
        let want = if case.alone() { Ok(vec![]) } else { case.outputs(truth, sizes, Tamper::None) };
        for (device, lost) in devices.iter().zip(&mut lost) {
            let line = if *lost { unable(device, case, sizes) } else { checked(device, case, sizes, want.as_deref()) };
            *lost |= !line.held() && !answers(&device.be);
            tell(&line);
            lines.push(line);
        }
    }
    lines
}

fn blank<B>(device: &Checked<B>, case: &Case, sizes: &Sizes) -> Line {
    Line {
        case: case.name(),
        sizes: case.sizes(sizes),
        precision: device.precision,
        worst: String::new(),
        error: f64::NAN,
        bar: f64::NAN,
        control: None,
        seconds: 0.0,
        failure: None,
    }
}

fn unable<B>(device: &Checked<B>, case: &Case, sizes: &Sizes) -> Line {
    Line { failure: Some("not run: the device answers nothing any more".into()), ..blank(device, case, sizes) }
}

fn checked<B: Backend + Clone>(device: &Checked<B>, case: &Case, sizes: &Sizes, want: Result<&[Output], &String>) -> Line {
    let start = Instant::now();
    let mut line = blank(device, case, sizes);
    let judged = want.map_err(|e| format!("on the other device: {e}")).and_then(|want| {
        let worst = worst(&case.outputs(&device.be, sizes, Tamper::None)?, want, &device.bars)?;
        let control = match case.tamper(&device.bars) {
            Some(tamper) if worst.failure.is_none() => {
                let tampered = case.outputs(&device.be, sizes, tamper)?;
                Some(seen(&tampered, want, &device.bars))
            }
            _ => None,
        };
        Ok((worst, control))
    });
    match judged {
        Err(failure) => line.failure = Some(failure),
        Ok((Verdict { name, error, bar, failure }, control)) => {
            let blind = control.filter(|&control| control <= 1.0).map(|_| "an input that is 1 % off is not seen".into());
            line.failure = failure.map(|why| format!("{name} {why}")).or(blind);
            (line.worst, line.error, line.bar, line.control) = (name, error, bar, control);
        }
    }
    line.seconds = start.elapsed().as_secs_f64();
    line
}

/// What a case's outputs are held to: the other device's, or, where a device is held to itself, 0 differences.
fn pairs<'a>(got: &'a [Output], want: &[Output], bars: &'a Bars) -> Result<Vec<Verdict>, String> {
    if !want.is_empty() && want.len() != got.len() {
        return Err(format!("{} outputs instead of {}", got.len(), want.len()));
    }
    let none = |got: &Output| Output::of("", vec![0.0; got.values.len()], got.kind);
    Ok(got.iter().enumerate().map(|(i, g)| want.get(i).map_or_else(|| judge(g, &none(g), bars), |w| judge(g, w, bars))).collect())
}

fn worst(got: &[Output], want: &[Output], bars: &Bars) -> Result<Verdict, String> {
    let all = pairs(got, want, bars)?;
    all.into_iter().max_by(|a, b| a.strain().total_cmp(&b.strain())).ok_or_else(|| "it has no outputs".into())
}

/// The largest error in units of its bar, what is told as wrong counted as over it; equal bits, which see everything, left aside.
fn seen(got: &[Output], want: &[Output], bars: &Bars) -> f64 {
    let strain = |v: Verdict| match v.failure {
        Some(_) if v.error.is_nan() => f64::INFINITY,
        Some(_) => (v.error / v.bar).max(1.01),
        None => v.error / v.bar,
    };
    pairs(got, want, bars).unwrap_or_default().into_iter().filter(|v| v.bar > 0.0).map(strain).fold(0.0, f64::max)
}

/// Whether a device still takes numbers and gives them back.
fn answers<B: Backend>(be: &B) -> bool {
    // The error of the case that failed is told once, here.
    be.sync().ok();
    let echo = || {
        let mut acc = be.alloc_acc(3)?;
        be.upload_acc(&mut acc, &[1.0, 2.0, 3.0])?;
        let mut back = [0.0; 3];
        be.download_acc(&mut back, &acc)?;
        be.sync()?;
        Ok::<_, BackendError>(back == [1.0, 2.0, 3.0])
    };
    catch_unwind(AssertUnwindSafe(|| echo().unwrap_or(false))).unwrap_or(false)
}
