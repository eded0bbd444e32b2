//! Starts and resumes runs: data, weights and device come together here.

use crate::args::Stopped;
use crate::device::{Device, Found};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tinyllm::backend::Backend;
use tinyllm::backend::cpu::Cpu;
use tinyllm::data::prepared::Prepared;
use tinyllm::model::io::{hf, peft};
use tinyllm::model::{Decoder, Spec, Tree, init};
use tinyllm::rng::key_of;
use tinyllm::train::checkpoint::{self, Base, CheckpointParts, Moment, Moments, State, TokenizerFiles, sha256_file};
use tinyllm::train::config::{self, RunConfig, Task};
use tinyllm::train::feed::{ExampleFeed, Examples, ShardFeed};
use tinyllm::train::run::{self, End, Feed, RunError, STOP, Which};
use tinyllm::train::rundir::RunDir;
use tinyllm::train::{Learner, metrics};

/// What goes into configs and checkpoints.
pub const PROGRAM: &str = concat!("tinyllm-train ", env!("CARGO_PKG_VERSION"));

/// Begins a run in a new folder.
pub fn start(out: &Path, config: &RunConfig, device: &Found) -> Result<()> {
    device.check_memory(config)?;
    let found = out.exists();
    RunDir::create(out)?;
    config.write(out)?;
    let held = RunDir::hold(out)?;
    let result = go(out, config, None, device);
    if result.is_err() && !out.join("metrics.jsonl").exists() {
        // It never began: nothing is left that would stand in the way of the next attempt.
        drop(held);
        std::fs::remove_file(out.join(config::FILE)).ok();
        if !found {
            std::fs::remove_dir(out).ok();
        }
    }
    result
}

/// Where the data lie that `--data` names, whatever folder the run is resumed from.
pub fn data_folder(data: Option<&Path>) -> Result<PathBuf> {
    let data = data.context("--data is missing")?;
    std::fs::canonicalize(data).with_context(|| {
        format!("{}: cannot open the prepared data; make it with 'tinyllm-train prepare RECIPE.toml --out {0}'", data.display())
    })
}

/// Goes on with a run that was stopped: where it began, or on another device if one is asked for.
pub fn resume(out: &Path, task: Task, device: Device) -> Result<()> {
    ensure!(
        out.join(config::FILE).is_file(),
        "{}: there is no run to resume here (no {}); start one without --resume",
        out.display(),
        config::FILE
    );
    let config = RunConfig::read(out)?;
    let _held = RunDir::hold(out)?;
    ensure!(config.task == task, "{}: this is a run of tinyllm-train {}; resume it with that", out.display(), config.task.name());
    ensure!(
        config.program == PROGRAM,
        "{}: the run was begun by {}, and this is {PROGRAM}: it could not end in the same weights",
        out.display(),
        config.program
    );
    let device = device.for_run(&config.device, &config.model)?;
    RunDir::sweep(out)?;
    let last = run::folder(out, Which::Last);
    if !last.exists() {
        eprintln!("{}: no checkpoint was saved yet; starting from the beginning", out.display());
        return go(out, &config, None, &device);
    }
    go(out, &config, Some(last), &device)
}

fn go(out: &Path, config: &RunConfig, from: Option<PathBuf>, device: &Found) -> Result<()> {
    stop_on_ctrl_c();
    let data = Prepared::open(&config.data).with_context(|| {
        format!("{}: the data of this run (if they were moved, correct 'data' there)", out.join(config::FILE).display())
    })?;
    let job = Job { out, config, from: from.as_deref(), data: &data, name: config.task.name() };
    match config.task {
        Task::Pretrain => job.run(device, &mut ShardFeed::open(&data, &config.batch, config.plan.seed)?),
        Task::Finetune => {
            let examples = Examples::open(&data)?;
            job.run(device, &mut ExampleFeed::new(&data, &examples, &config.batch, config.plan.seed)?)
        }
    }
}

/// A run's folder, what it says, what it goes on from, what it trains on.
struct Job<'a> {
    out: &'a Path,
    config: &'a RunConfig,
    from: Option<&'a Path>,
    data: &'a Prepared,
    name: &'a str,
}

impl Job<'_> {
    fn run(&self, device: &Found, feed: &mut (dyn Feed + Send)) -> Result<()> {
        match device {
            Found::Cpu => train(Cpu::from_env()?, self, feed),
            #[cfg(not(target_arch = "aarch64"))]
            Found::Cuda(found) => train(found.open(&self.config.model, self.config.rounding)?, self, feed),
        }
    }
}

fn train<B: Backend>(be: B, job: &Job, feed: &mut (dyn Feed + Send)) -> Result<()> {
    let Job { out, config, from, data, name } = *job;
    let tokenizer = TokenizerFiles { vocab_json: data.tokenizer.vocab_json(), merges_txt: data.tokenizer.merges_txt() };
    let spec = Decoder::spec(&config.model, config.lora.as_ref());
    let (lora, plan, batch) = (config.lora.is_some(), &config.plan, &config.batch);
    let trains = |s: &Spec| !lora || s.lora;
    let trained: usize = spec.leaves().into_iter().filter(|s| trains(s)).map(Spec::numel).sum();
    eprintln!(
        "{name}: {:.2} M parameters, {:.2} M of them in training; {} steps of {} x {} x {} tokens, warm-up {} steps, on {}",
        config.model.parameters() as f64 / 1e6,
        trained as f64 / 1e6,
        plan.schedule.steps,
        batch.accumulate,
        batch.micro_batch,
        batch.ctx,
        plan.schedule.warmup,
        B::NAME
    );
    let data_hash = sha256_file(&data.path.join("manifest.json"))?;
    let mut learner;
    let mut state;
    match from {
        None => {
            let (weights, base) = match &config.base {
                None => (init::initial(&spec, plan.seed), None),
                Some(base) if lora => {
                    let (_, weights) = hf::read(base)?;
                    let weights = peft::attach(&spec, weights, |s| Ok::<_, std::convert::Infallible>(init::initial_leaf(s, plan.seed)))?;
                    (weights, Some(Base::of(base)?))
                }
                Some(base) => (hf::read(base)?.1, None),
            };
            learner = Learner::new(be, spec, &weights, trains, batch.rows(), batch.recompute)?;
            state = State {
                program: PROGRAM.into(),
                step: 0,
                tokens: 0,
                seed: plan.seed,
                config_hash: config_hash(config),
                data_hash,
                validation: None,
                best: None,
                loader: feed.position(),
                base,
                plans: None,
            };
        }
        Some(last) => {
            let saved = checkpoint::load_training_state(last, config.base.as_deref().filter(|_| lora))?;
            ensure!(
                saved.state.config_hash == config_hash(config),
                "{}: it was changed since the run began, so the run cannot go on as it was; restore it, or start a new run",
                out.join(config::FILE).display()
            );
            ensure!(
                saved.state.data_hash == data_hash,
                "{}: these are not the data that the run began with; put those back, or start a new run (--base {} goes on from its weights)",
                config.data.display(),
                out.display()
            );
            ensure!(saved.tokenizer == tokenizer, "{}: the data's tokenizer is not the one that the run began with", config.data.display());
            if let Some(plans) = &saved.state.plans {
                be.set_plans(plans)?;
            }
            learner = Learner::new(be, spec, &saved.weights, trains, batch.rows(), batch.recompute)?;
            let specs: Vec<Spec> = learner.spec().leaves().into_iter().cloned().collect();
            for (i, spec) in specs.iter().enumerate().filter(|(_, s)| trains(s)) {
                for part in [Moment::First, Moment::Second] {
                    learner.set_moment(i, part, &saved.optimizer.read(spec, part)?)?;
                }
            }
            state = saved.state;
            eprintln!("{name}: going on after step {} of {}", state.step, plan.schedule.steps);
        }
    }
    learner.begin(state.step, &plan.adam, plan.seed)?;
    let mut save = |which: Which, learner: &Learner<B>, state: &State| save(out, which, config, &tokenizer, learner, state);
    let end = run::run(out, plan, &mut learner, feed, &mut state, name, &mut save).map_err(|e| match e {
        RunError::Diverged { .. } => anyhow::Error::new(e),
        _ => anyhow::Error::new(e).context(format!(
            "{name} stopped; once the cause is mended, go on with 'tinyllm-train {name} --resume --out {}'",
            out.display()
        )),
    })?;
    if end == End::Stopped {
        eprintln!("{name}: stopped after step {} and saved; go on with: tinyllm-train {name} --resume --out {}", state.step, out.display());
        return Err(Stopped.into());
    }
    let last = metrics::read(&out.join("metrics.jsonl"))?.pop().map_or(f64::NAN, |l| l.loss);
    let best = state.best.map_or_else(String::new, |b| format!(", best validation loss {:.4} at step {}", b.loss, b.step));
    eprintln!("{name}: done; training loss {last:.4}{best}; kept in {}", out.display());
    Ok(())
}

fn save<B: Backend>(
    out: &Path,
    which: Which,
    config: &RunConfig,
    tokenizer: &TokenizerFiles,
    learner: &Learner<B>,
    state: &State,
) -> Result<(), RunError> {
    let weights = learner.host_weights().map_err(|source| RunError::Device {
        step: state.step,
        source,
        last_good: "the checkpoint was not written".into(),
    })?;
    let parts = CheckpointParts { config: &config.model, lora: config.lora.as_ref(), weights: &weights, tokenizer, state };
    let trained = learner.trained();
    let mut get = |leaf, part| learner.moment(leaf, part);
    // The best model is for use; only the last one is gone on from.
    let moments = (which == Which::Last).then_some(Moments { trained: &trained, get: &mut get });
    Ok(checkpoint::save(&run::folder(out, which), &parts, moments)?)
}

/// Of all that decides the result. Where data and base lie does not; what they are is hashed on its own. The device does, in
/// its last bits, but a run may go on elsewhere.
fn config_hash(config: &RunConfig) -> String {
    let placeless =
        RunConfig { data: PathBuf::new(), base: config.base.as_ref().map(|_| PathBuf::new()), device: String::new(), ..config.clone() };
    format!("{:016x}", key_of(0, &placeless.text()))
}

/// The first Ctrl-C or SIGTERM asks the run to save and stop; a second one ends the program at once.
fn stop_on_ctrl_c() {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step, then saving; once more to stop at once");
    };
    // A second run in this program (quickstart) finds the handler in place.
    ctrlc::set_handler(handler).ok();
}
