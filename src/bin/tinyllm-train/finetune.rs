//! `finetune`: a model that was pre-trained learns to answer about readings.

use crate::device::{Device, Found, Rounding};
use crate::{launch, ranges};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use tinyllm::data::prepared::Prepared;
use tinyllm::model::io::hf;
use tinyllm::model::{Config, Lora, Target};
use tinyllm::train::Adam;
use tinyllm::train::config::{Batch, RunConfig, Task};
use tinyllm::train::run::Plan;
use tinyllm::train::rundir::RunDir;

/// Teaches a pre-trained model to answer: LoRA by default, all weights with --full.
#[derive(clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  tinyllm-train finetune --base runs/base --data data --out runs/task
  tinyllm-train finetune --base runs/base --data data --out runs/task --lora-rank 64 --lora-alpha 128 --steps 200
  tinyllm-train finetune --base runs/base --data data --out runs/task --full --lr 1e-4 --augment
  tinyllm-train finetune --base runs/base --data data --out runs/task --device cuda
  tinyllm-train finetune --resume --out runs/task"
)]
pub struct Args {
    /// The model to start from: a run's folder, or a checkpoint in it.
    #[arg(long, required_unless_present = "resume")]
    base: Option<PathBuf>,
    /// The folder that `prepare` made.
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// The run's folder; new, or the one to resume.
    #[arg(long)]
    out: PathBuf,
    /// Go on with the run in --out from its last checkpoint; everything else is read from its config.toml.
    #[arg(long, conflicts_with_all = ["base", "data", "rounding", "full", "lora_rank", "lora_alpha", "lora_dropout", "targets", "steps",
        "accumulate", "micro_batch", "ctx", "lr", "warmup", "end_fraction", "weight_decay", "prompt_loss_weight", "augment", "seed",
        "eval_every", "recompute"])]
    resume: bool,
    /// Device to train on (auto: an NVIDIA GPU where one answers, and it says so); a run that is resumed goes on where it was, or where this says.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// How a GPU rounds weights to bf16: up or down by chance (keyed by the seed), or to the nearest.
    #[arg(long, value_enum, default_value_t = Rounding::Stochastic)]
    rounding: Rounding,
    /// Train all weights instead of adapters.
    #[arg(long)]
    full: bool,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// The adapters' product is scaled by alpha / rank.
    #[arg(long, default_value_t = 32.0)]
    lora_alpha: f64,
    /// Share of the adapters' inputs that is dropped in training.
    #[arg(long, default_value_t = 0.1)]
    lora_dropout: f64,
    /// Which matrices are adapted: all, or some of attn.c_attn,attn.c_proj,mlp.c_fc,mlp.c_proj.
    #[arg(long, default_value = "all")]
    targets: String,
    /// Optimizer steps.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Micro-batches of a step.
    #[arg(long, default_value_t = 6)]
    accumulate: usize,
    /// Packed rows that go through the model together.
    #[arg(long, default_value_t = 1)]
    micro_batch: usize,
    /// Tokens of a packed row; the model's context.
    #[arg(long)]
    ctx: Option<usize>,
    /// Highest learning rate.
    #[arg(long, default_value_t = 4e-4)]
    lr: f64,
    /// Steps of rising learning rate; a tenth of the run.
    #[arg(long)]
    warmup: Option<u64>,
    /// The last step's learning rate, as a fraction of the highest.
    #[arg(long, default_value_t = 0.1)]
    end_fraction: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    /// What a token of the prompt counts against one of the answer.
    #[arg(long, default_value_t = 0.0)]
    prompt_loss_weight: f64,
    /// Vary the readings of sensor windows anew each epoch: stretch in time, scale, offset, jitter.
    #[arg(long)]
    augment: bool,
    /// Seed of adapters, dropout, data order and augmentation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps between two evaluations.
    #[arg(long, default_value_t = 20)]
    eval_every: u64,
    /// Compute activations again on the way back: less memory, a third more time.
    #[arg(long)]
    recompute: bool,
}

impl Args {
    pub fn run(self) -> Result<()> {
        if self.resume {
            return launch::resume(&self.out, Task::Finetune, self.device);
        }
        let base = self.base.as_deref().context("--base is missing")?;
        let data = launch::data_folder(self.data.as_deref())?;
        let base = std::path::absolute(RunDir::open(base)?.checkpoint)?;
        let prepared = Prepared::open(&data)?;
        let device = self.device.find(&hf::read_config(&base)?)?;
        let config = self.config(&base, data, &prepared, &device)?;
        launch::start(&self.out, &config, &device)
    }

    /// The run that these arguments mean on this base and data.
    pub fn config(&self, base: &Path, data: PathBuf, prepared: &Prepared, device: &Found) -> Result<RunConfig> {
        let model: Config = hf::read_config(base)?;
        let vocab = prepared.tokenizer.n_vocab();
        ensure!(
            model.vocab() == vocab,
            "{} has {} tokens in its vocabulary and the data's tokenizer {vocab}: prepare the data with the vocabulary that the base was trained with",
            base.display(),
            model.vocab()
        );
        let ctx = ranges::ctx(self.ctx, model.n_ctx)?;
        ranges::check(&[
            ("--lora-dropout", self.lora_dropout, 0.0, 0.99),
            ("--prompt-loss-weight", self.prompt_loss_weight, 0.0, 1.0),
            ("--lora-rank", self.lora_rank as f64, 1.0, model.n_embd as f64),
            ("--accumulate", self.accumulate as f64, 1.0, 1e6),
            ("--micro-batch", self.micro_batch as f64, 1.0, 1e6),
            ("--weight-decay", self.weight_decay, 0.0, 100.0),
            ("--eval-every", self.eval_every as f64, 1.0, 1e12),
        ])?;
        ranges::positive("--lora-alpha", self.lora_alpha)?;
        let lora = (!self.full)
            .then(|| {
                Ok::<_, anyhow::Error>(Lora {
                    rank: self.lora_rank,
                    alpha: self.lora_alpha,
                    dropout: self.lora_dropout,
                    targets: targets(&self.targets)?,
                })
            })
            .transpose()?;
        let augment = if self.augment {
            let asked = prepared
                .augment()
                .with_context(|| format!("--augment: the recipe of {} has no [augment]; add it and prepare again", data.display()))?;
            Some(asked)
        } else {
            None
        };
        let batch = Batch {
            ctx,
            micro_batch: self.micro_batch,
            accumulate: self.accumulate,
            prompt_loss_weight: self.prompt_loss_weight,
            augment,
            within_documents: true,
            recompute: self.recompute,
        };
        let plan = Plan {
            schedule: ranges::schedule(self.lr, self.warmup, self.steps, self.end_fraction)?,
            adam: Adam { weight_decay: self.weight_decay, ..Adam::default() },
            seed: ranges::seed(self.seed)?,
            eval_every: self.eval_every,
            save_every: self.eval_every,
        };
        let base = Some(base.to_path_buf());
        Ok(RunConfig {
            program: launch::PROGRAM.into(),
            task: Task::Finetune,
            data,
            base,
            device: device.name().into(),
            rounding: self.rounding.into(),
            batch,
            model,
            lora,
            plan,
        })
    }
}

/// What `--targets` means.
fn targets(text: &str) -> Result<Vec<Target>, ranges::Usage> {
    if text == "all" {
        return Ok(Target::ALL.to_vec());
    }
    let mut chosen = Vec::new();
    for name in text.split(',').map(str::trim) {
        match Target::ALL.into_iter().find(|t| t.hf_name() == name) {
            Some(target) if !chosen.contains(&target) => chosen.push(target),
            Some(_) => return Err(ranges::Usage(format!("--targets: '{name}' is there twice"))),
            None => {
                let known = Target::ALL.map(Target::hf_name).join(",");
                return Err(ranges::Usage(format!("--targets: there is no '{name}'; use all, or some of {known}")));
            }
        }
    }
    Ok(chosen)
}
