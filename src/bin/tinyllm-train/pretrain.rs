//! `pretrain`: a model from nothing, on prepared token shards.

use crate::device::{Device, Found, Rounding};
use crate::{launch, ranges};
use anyhow::{Result, ensure};
use std::path::PathBuf;
use tinyllm::data::prepared::Prepared;
use tinyllm::model::Config;
use tinyllm::train::Adam;
use tinyllm::train::config::{self, Batch, RunConfig, Task};
use tinyllm::train::run::Plan;

/// Trains a model from nothing on the token shards of a prepared folder.
#[derive(clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  tinyllm-train pretrain --data data --model nano --out runs/base
  tinyllm-train pretrain --data data --model 30m --steps 2000 --lr 1e-3 --out runs/base
  tinyllm-train pretrain --data data --model 124m --device cuda --out runs/base
  tinyllm-train pretrain --resume --out runs/base          go on after Ctrl-C, a crash or a power cut"
)]
pub struct Args {
    /// The folder that `prepare` made.
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// nano, 30m, 51m, 82m, 102m, 124m, or a TOML file with n_embd, n_head, n_layer, n_ctx.
    #[arg(long, default_value = "124m")]
    model: String,
    /// The run's folder; new, or the one to resume.
    #[arg(long)]
    out: PathBuf,
    /// Go on with the run in --out from its last checkpoint; everything else is read from its config.toml.
    #[arg(long, conflicts_with_all = ["data", "model", "rounding", "steps", "tokens", "batch_tokens", "micro_batch", "ctx", "lr", "warmup",
        "end_fraction", "weight_decay", "clip", "seed", "eval_every", "save_every", "within_documents", "recompute"])]
    resume: bool,
    /// Device to train on (auto: an NVIDIA GPU where one answers, and it says so); a run that is resumed goes on where it was, or where this says.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// How a GPU rounds weights to bf16: up or down by chance (keyed by the seed), or to the nearest.
    #[arg(long, value_enum, default_value_t = Rounding::Stochastic)]
    rounding: Rounding,
    /// Optimizer steps; one pass over the data where neither this nor --tokens is given.
    #[arg(long)]
    steps: Option<u64>,
    /// Tokens to train on, repeats counted.
    #[arg(long, conflicts_with = "steps")]
    tokens: Option<u64>,
    /// Tokens of an optimizer step; 524,288 on large data, less on small.
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Rows that go through the model together; chosen for the machine's memory.
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Tokens of a row; the model's context.
    #[arg(long)]
    ctx: Option<usize>,
    /// Highest learning rate.
    #[arg(long, default_value_t = 6e-4)]
    lr: f64,
    /// Steps of rising learning rate; 700, or a tenth of a run shorter than 7,000.
    #[arg(long)]
    warmup: Option<u64>,
    /// The last step's learning rate, as a fraction of the highest.
    #[arg(long, default_value_t = 0.1)]
    end_fraction: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    /// Longest gradient.
    #[arg(long, default_value_t = 1.0)]
    clip: f64,
    /// Seed of weights and data order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps between two evaluations; a twentieth of the run.
    #[arg(long)]
    eval_every: Option<u64>,
    /// Steps between two saves; as often as evaluations.
    #[arg(long)]
    save_every: Option<u64>,
    /// Keep attention and positions within one document; GPT-2 did not.
    #[arg(long)]
    within_documents: bool,
    /// Compute activations again on the way back: less memory, a third more time.
    #[arg(long)]
    recompute: bool,
}

impl Args {
    pub fn run(self) -> Result<()> {
        if self.resume {
            return launch::resume(&self.out, Task::Pretrain, self.device);
        }
        let data = launch::data_folder(self.data.as_deref())?;
        let prepared = Prepared::open(&data)?;
        let device = self.device.find(&Config::named(&self.model)?)?;
        let config = self.config(data, &prepared, &device)?;
        launch::start(&self.out, &config, &device)
    }

    /// The run that these arguments mean on this data.
    pub fn config(&self, data: PathBuf, prepared: &Prepared, device: &Found) -> Result<RunConfig> {
        let mut model = Config::named(&self.model)?;
        let vocab = prepared.tokenizer.n_vocab();
        ensure!(
            model.n_vocab.is_none_or(|v| v == vocab),
            "{}: n_vocab is {}, but the data's tokenizer has {vocab} tokens",
            self.model,
            model.n_vocab.unwrap_or(0)
        );
        model.n_vocab = Some(vocab);
        model.check()?;
        let ctx = ranges::ctx(self.ctx, model.n_ctx)?;
        let total = prepared.manifest.pretrain.as_ref().map_or(0, |p| p.train_tokens);
        ensure!(
            total > ctx as u64,
            "{}: it has {total} tokens to train on, fewer than one row of {ctx}; raise the recipe's total or lower --ctx",
            data.display()
        );
        ranges::check(&[
            ("--batch-tokens", self.batch_tokens.unwrap_or(1) as f64, 1.0, 1e9),
            ("--micro-batch", self.micro_batch.unwrap_or(1) as f64, 1.0, 1e6),
            ("--tokens", self.tokens.unwrap_or(1) as f64, 1.0, 1e15),
            ("--eval-every", self.eval_every.unwrap_or(1) as f64, 1.0, 1e12),
            ("--save-every", self.save_every.unwrap_or(1) as f64, 1.0, 1e12),
            ("--weight-decay", self.weight_decay, 0.0, 100.0),
        ])?;
        ranges::positive("--clip", self.clip)?;
        let wanted = self.batch_tokens.unwrap_or_else(|| config::tokens_per_step(total));
        let mut batch = Batch {
            ctx,
            micro_batch: 1,
            accumulate: 1,
            prompt_loss_weight: 0.0,
            augment: None,
            within_documents: self.within_documents,
            recompute: self.recompute,
        };
        batch.micro_batch = match self.micro_batch {
            Some(rows) => rows,
            None => device.micro_batch(&model, &batch)?.min(wanted.div_ceil(ctx)),
        };
        batch.accumulate = wanted.div_ceil(batch.rows());
        let steps = self.steps.unwrap_or_else(|| self.tokens.unwrap_or(total).div_ceil(batch.tokens_per_step() as u64));
        let eval_every = self.eval_every.unwrap_or(steps / 20).max(1);
        let plan = Plan {
            schedule: ranges::schedule(self.lr, self.warmup, steps, self.end_fraction)?,
            adam: Adam { weight_decay: self.weight_decay, clip: self.clip, ..Adam::default() },
            seed: ranges::seed(self.seed)?,
            eval_every,
            save_every: self.save_every.unwrap_or(eval_every),
        };
        Ok(RunConfig {
            program: launch::PROGRAM.into(),
            task: Task::Pretrain,
            data,
            base: None,
            device: device.name().into(),
            rounding: self.rounding.into(),
            batch,
            model,
            lora: None,
            plan,
        })
    }
}
