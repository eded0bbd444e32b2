//! A whole run: steps, evaluation on a schedule, checkpoints, and what happens when something goes wrong.

use super::checkpoint::{Best, CheckpointError, State};
use super::learner::{Adam, Learner};
use super::metrics::{Line, Metrics};
use super::schedule::Schedule;
use crate::backend::{Backend, BackendError};
use crate::fsio::IoError;
use crate::model::HostBatch;
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Set by Ctrl-C and SIGTERM; a run saves and stops at the end of its step.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// How a run goes, apart from what is trained and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimizer.
    pub adam: Adam,
    /// Keys the order of the data, the initial weights and the dropout.
    pub seed: u64,
    /// Steps between two evaluations on the validation split.
    pub eval_every: u64,
    /// Steps between two saves of `last/`.
    pub save_every: u64,
}

/// Where batches come from.
pub trait Feed {
    /// The micro-batches of the next step.
    fn step(&mut self) -> Result<Vec<HostBatch>, FeedError>;
    /// The position, to go on from later.
    fn position(&self) -> serde_json::Value;
    /// Goes to a position that [`position`](Self::position) gave.
    fn seek(&mut self, position: &serde_json::Value) -> Result<(), FeedError>;
    /// The validation split, the same each time; empty where there is none.
    fn validation(&mut self) -> Result<Vec<HostBatch>, FeedError>;
}

/// What reading data ran into, in the reader's own words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FeedError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// Which of a run's two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The lowest validation loss so far.
    Best,
    /// Where to resume.
    Last,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The loss or the gradient is no number any more, or the loss is worse than guessing.
    #[error("step {step}: {what}. The weights of this step are not kept; {last_good}. Try a lower --lr or a longer warm-up.")]
    Diverged {
        /// The step.
        step: u64,
        /// "the loss is NaN"
        what: String,
        /// Which checkpoint is good.
        last_good: String,
    },
    /// The device.
    #[error("step {step}: {source}")]
    Device {
        /// The step.
        step: u64,
        /// What it said.
        source: BackendError,
    },
    /// The data.
    #[error("step {step}: {source}")]
    Data {
        /// The step.
        step: u64,
        /// What it said.
        source: FeedError,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A checkpoint that could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Writes a checkpoint of a learner that stands at this state.
pub type Save<'a, B> = dyn FnMut(Which, &Learner<B>, &State) -> Result<(), RunError> + 'a;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// Somebody asked it to stop; `last/` was saved first.
    Stopped,
}

/// Runs from `state` to the end of the plan, keeping `metrics.jsonl` in `dir` and calling `save` for checkpoints;
/// `name` is what progress and log lines call the run.
///
/// A checkpoint is saved only after the losses of its steps, and one of the very weights that go into it, were found
/// finite and no worse than guessing.
///
/// # Errors
/// What ended the run early. `last/`, once there is one, is then as it was saved, and the run can go on from it.
pub fn run<B: Backend>(
    dir: &Path,
    plan: &Plan,
    learner: &mut Learner<B>,
    feed: &mut dyn Feed,
    state: &mut State,
    name: &str,
    save: &mut Save<'_, B>,
) -> Result<End, RunError> {
    let steps = plan.schedule.steps;
    if state.step > 0 {
        feed.seek(&state.loader).map_err(|source| RunError::Data { step: state.step, source })?;
    }
    let validation = feed.validation().map_err(|source| RunError::Data { step: state.step, source })?;
    let mut metrics = Metrics::open(&dir.join("metrics.jsonl"), state.step)?;
    let mut progress = Progress::new(name, "steps", steps);
    if validation.is_empty() {
        progress.line(&format!(
            "{name}: there is no validation data, or less than a row of it, so no checkpoint is chosen as the best; last/ is kept"
        ));
    }
    let start = Instant::now();
    let mut saved = state.step;
    let diverged = |step: u64, saved: u64, what: String| {
        let last_good = if saved > 0 {
            format!("{} holds those of step {saved}, which are good", folder(dir, Which::Last).display())
        } else {
            "nothing was saved yet".into()
        };
        RunError::Diverged { step, what, last_good }
    };
    while state.step < steps {
        let step = state.step + 1;
        let began = Instant::now();
        let batches = feed.step().map_err(|source| RunError::Data { step, source })?;
        let lr = plan.schedule.rate(step);
        let report = learner.step(&batches, step, lr, &plan.adam, plan.seed).map_err(|source| RunError::Device { step, source })?;
        let worst = 2.0 * metrics.first_loss().unwrap_or(report.loss).max((learner.spec().n_vocab as f64).ln());
        let verdict = |loss: f64| match loss {
            _ if !loss.is_finite() => Some(format!("the loss is {loss}")),
            _ if loss > worst => Some(format!("the loss is {loss:.3}, worse than guessing")),
            _ => None,
        };
        let bad_norm = (!report.grad_norm.is_finite()).then(|| format!("the gradient's norm is {}", report.grad_norm));
        if let Some(what) = verdict(report.loss).or(bad_norm) {
            return Err(diverged(step, saved, what));
        }
        let read: u64 = batches.iter().map(|b| (b.b * b.t) as u64).sum();
        let tokens_per_s = read as f64 / began.elapsed().as_secs_f64();
        (state.step, state.tokens, state.loader) = (step, state.tokens + read, feed.position());

        let mut val_loss = None;
        if !validation.is_empty() && (step.is_multiple_of(plan.eval_every) || step == steps) {
            val_loss = Some(learner.evaluate(&validation).map_err(|source| RunError::Device { step, source })?);
        }
        let stopped = STOP.load(Ordering::Relaxed);
        let saves = stopped || step == steps || step.is_multiple_of(plan.save_every);
        // The step's own loss was of the weights before its update: what is about to be saved is tried first.
        let tried = if saves { Some(learner.evaluate(&batches[..1]).map_err(|source| RunError::Device { step, source })?) } else { None };
        let unmeasurable = val_loss.filter(|loss| !loss.is_finite()).map(|loss| format!("the validation loss is {loss}"));
        if let Some(what) = tried.and_then(verdict).or(unmeasurable) {
            return Err(diverged(step, saved, format!("after the update {what}")));
        }
        let (seconds, grad_norm) = (start.elapsed().as_secs_f64(), report.grad_norm);
        metrics.append(&Line { step, loss: report.loss, val_loss, lr, grad_norm, tokens: state.tokens, tokens_per_s, seconds })?;
        progress.set(step, &format!("loss {:.3} lr {lr:.1e} norm {grad_norm:.2} {tokens_per_s:.0} tokens/s", report.loss));
        state.validation = val_loss;
        if let Some(val_loss) = val_loss {
            let better = state.best.is_none_or(|best| val_loss < best.loss);
            progress.line(&format!(
                "{name} step {step}/{steps}: training loss {:.4}, validation loss {val_loss:.4}{}",
                report.loss,
                if better { " (best)" } else { "" }
            ));
            if better {
                state.best = Some(Best { step, loss: val_loss });
                save(Which::Best, learner, state)?;
            }
        }
        if saves {
            metrics.sync()?;
            save(Which::Last, learner, state)?;
            saved = step;
        }
        if stopped && step < steps {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Finished)
}

/// The name of a checkpoint's folder within its run.
#[must_use]
pub fn folder(dir: &Path, which: Which) -> PathBuf {
    dir.join(match which {
        Which::Best => "best",
        Which::Last => "last",
    })
}
