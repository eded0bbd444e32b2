//! A whole run: steps, evaluation on a schedule, checkpoints, and what happens when something goes wrong.

use super::checkpoint::{Best, CheckpointError, State};
use super::learner::{Adam, Learner, Pending, StepReport};
use super::metrics::{Line, Metrics};
use super::schedule::Schedule;
use crate::backend::{Backend, BackendError};
use crate::fsio::IoError;
use crate::model::HostBatch;
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
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
    #[error("step {step}: {source}. {last_good}")]
    Device {
        /// The step.
        step: u64,
        /// What it said.
        source: BackendError,
        /// Which checkpoint is good.
        last_good: String,
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
    feed: &mut (dyn Feed + Send),
    state: &mut State,
    name: &str,
    save: &mut Save<'_, B>,
) -> Result<End, RunError> {
    if state.step > 0 {
        feed.seek(&state.loader).map_err(|source| RunError::Data { step: state.step, source })?;
    }
    let validation = feed.validation().map_err(|source| RunError::Data { step: state.step, source })?;
    let metrics = Metrics::open(&dir.join("metrics.jsonl"), state.step)?;
    let progress = Progress::new(name, "steps", plan.schedule.steps);
    if validation.is_empty() {
        progress.line(&format!(
            "{name}: there is no validation data, or less than a row of it, so no checkpoint is chosen as the best; last/ is kept"
        ));
    }
    let (saved, ahead) = (state.step, plan.schedule.steps - state.step);
    let mut run =
        Run { dir, plan, name, learner, state, save, validation, metrics, progress, saved, start: Instant::now(), last: Instant::now() };
    std::thread::scope(|scope| {
        // Batches are made on a thread of their own, one step ahead; the channel closes when either side ends.
        let (send, batches) = sync_channel(1);
        scope.spawn(move || {
            for _ in 0..ahead {
                let made = feed.step().map(|batches| (batches, feed.position()));
                let failed = made.is_err();
                if send.send(made).is_err() || failed {
                    break;
                }
            }
        });
        run.steps(&batches)
    })
}

/// What a step needs, and the position in the data behind it.
type Made = Result<(Vec<HostBatch>, serde_json::Value), FeedError>;

/// A step the device was asked for and has not told of yet.
struct InFlight<B: Backend> {
    step: u64,
    lr: f64,
    tokens: u64,
    of_step: u64,
    pending: Pending<B>,
}

struct Run<'a, 's, B: Backend> {
    dir: &'a Path,
    plan: &'a Plan,
    name: &'a str,
    learner: &'a mut Learner<B>,
    state: &'a mut State,
    save: &'a mut Save<'s, B>,
    validation: Vec<HostBatch>,
    metrics: Metrics,
    progress: Progress,
    /// The step that `last/` is of.
    saved: u64,
    start: Instant,
    /// When the last step's figures came.
    last: Instant,
}

impl<B: Backend> Run<'_, '_, B> {
    fn steps(&mut self, made: &Receiver<Made>) -> Result<End, RunError> {
        let steps = self.plan.schedule.steps;
        let mut before: Option<InFlight<B>> = None;
        while self.state.step < steps {
            let step = self.state.step + 1;
            let (batches, position) =
                made.recv().expect("a feed ends with its last step").map_err(|source| RunError::Data { step, source })?;
            let lr = self.plan.schedule.rate(step);
            let pending =
                self.learner.enqueue(&batches, step, lr, &self.plan.adam, self.plan.seed).map_err(|source| self.device(step, source))?;
            let of_step: u64 = batches.iter().map(|b| (b.b * b.t) as u64).sum();
            (self.state.step, self.state.tokens, self.state.loader) = (step, self.state.tokens + of_step, position);
            // While the device works at this step, the figures of the one before are read.
            if let Some(before) = before.take() {
                self.tell(before, None)?;
            }
            let this = InFlight { step, lr, tokens: self.state.tokens, of_step, pending };
            let evaluates = !self.validation.is_empty() && (step.is_multiple_of(self.plan.eval_every) || step == steps);
            let stopped = STOP.load(Ordering::Relaxed);
            let saves = stopped || step == steps || step.is_multiple_of(self.plan.save_every);
            if evaluates || saves {
                let val_loss = if evaluates { Some(self.evaluated(step)?) } else { None };
                self.tell(this, val_loss)?;
                self.keep(val_loss, saves.then_some(&batches[0]))?;
            } else if B::LATE {
                before = Some(this);
            } else {
                self.tell(this, None)?;
            }
            if stopped && step < steps {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Finished)
    }

    /// Reads a step's figures, ends the run if they are no good, and writes them down.
    fn tell(&mut self, step: InFlight<B>, val_loss: Option<f64>) -> Result<(), RunError> {
        let InFlight { step, lr, tokens, of_step, pending } = step;
        let StepReport { loss, grad_norm } = self.learner.report(pending).map_err(|source| self.device(step, source))?;
        let bad_norm = (!grad_norm.is_finite()).then(|| format!("the gradient's norm is {grad_norm}"));
        let unmeasurable = val_loss.filter(|loss| !loss.is_finite()).map(|loss| format!("after the update the validation loss is {loss}"));
        if let Some(what) = self.verdict(loss, loss).or(bad_norm).or(unmeasurable) {
            return Err(self.diverged(step, what));
        }
        let (seconds, tokens_per_s) = (self.start.elapsed().as_secs_f64(), of_step as f64 / self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
        self.metrics.append(&Line { step, loss, val_loss, lr, grad_norm, tokens, tokens_per_s, seconds })?;
        self.progress.set(step, &format!("loss {loss:.3} lr {lr:.1e} norm {grad_norm:.2} {tokens_per_s:.0} tokens/s"));
        if let Some(val_loss) = val_loss {
            let better = if self.betters(val_loss) { " (best)" } else { "" };
            let steps = self.plan.schedule.steps;
            self.progress
                .line(&format!("{} step {step}/{steps}: training loss {loss:.4}, validation loss {val_loss:.4}{better}", self.name));
        }
        Ok(())
    }

    /// Saves what is to be saved after this step; `tried`: a batch to try the weights on before they become `last/`.
    fn keep(&mut self, val_loss: Option<f64>, tried: Option<&HostBatch>) -> Result<(), RunError> {
        let step = self.state.step;
        if let Some(batch) = tried {
            // The step's own loss was of the weights before its update: what is about to be saved is tried first.
            let loss = self.learner.evaluate([batch]).map_err(|source| self.device(step, source))?;
            if let Some(what) = self.verdict(loss, loss) {
                return Err(self.diverged(step, format!("after the update {what}")));
            }
        }
        self.state.validation = val_loss;
        self.state.plans = self.learner.backend().plans();
        if let Some(loss) = val_loss.filter(|&loss| self.betters(loss)) {
            self.state.best = Some(Best { step, loss });
            (self.save)(Which::Best, self.learner, self.state)?;
        }
        if tried.is_some() {
            self.metrics.sync()?;
            (self.save)(Which::Last, self.learner, self.state)?;
            self.saved = step;
        }
        self.last = Instant::now();
        Ok(())
    }

    fn evaluated(&mut self, step: u64) -> Result<f64, RunError> {
        self.learner.evaluate(&self.validation).map_err(|source| device(self.dir, self.saved, step, source))
    }

    fn betters(&self, val_loss: f64) -> bool {
        self.state.best.is_none_or(|best| val_loss < best.loss)
    }

    /// What is wrong with a loss; `first` stands in for the run's first where there is none yet.
    fn verdict(&self, loss: f64, first: f64) -> Option<String> {
        let worst = 2.0 * self.metrics.first_loss().unwrap_or(first).max((self.learner.spec().n_vocab as f64).ln());
        match loss {
            _ if !loss.is_finite() => Some(format!("the loss is {loss}")),
            _ if loss > worst => Some(format!("the loss is {loss:.3}, worse than guessing")),
            _ => None,
        }
    }

    fn diverged(&self, step: u64, what: String) -> RunError {
        RunError::Diverged { step, what, last_good: last_good(self.dir, self.saved) }
    }

    fn device(&self, step: u64, source: BackendError) -> RunError {
        device(self.dir, self.saved, step, source)
    }
}

fn device(dir: &Path, saved: u64, step: u64, source: BackendError) -> RunError {
    RunError::Device { step, source, last_good: last_good(dir, saved) }
}

/// Which checkpoint is good.
fn last_good(dir: &Path, saved: u64) -> String {
    match saved {
        0 => "nothing was saved yet".into(),
        _ => format!("{} holds the weights of step {saved}, which are good", folder(dir, Which::Last).display()),
    }
}

/// The name of a checkpoint's folder within its run.
#[must_use]
pub fn folder(dir: &Path, which: Which) -> PathBuf {
    dir.join(match which {
        Which::Best => "best",
        Which::Last => "last",
    })
}
