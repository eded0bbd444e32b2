//! `config.toml`: all that decides what a run comes to, written when it starts, read when it resumes.

use super::run::Plan;
use crate::backend::Rounding;
use crate::data::augment::Augment;
use crate::fsio::{self, IoError};
use crate::model::{Config, Decoder, Lora, Spec, Tree};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file's name in a run's folder.
pub const FILE: &str = "config.toml";
/// Tokens a step of the paper's.
pub const PAPER_TOKENS_PER_STEP: usize = 524_288;
/// The most rows of one micro-batch on a CPU: enough for full-speed matrix products, and no more than the caches like.
const CPU_ROWS: usize = 4096;
/// The most memory the activations of one micro-batch may take on a CPU.
const CPU_ACTIVATION_BYTES: usize = 2 << 30;

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// "tinyllm-train 0.1.0"
    pub program: String,
    /// Pre-training or fine-tuning.
    pub task: Task,
    /// The folder that `prepare` made.
    pub data: PathBuf,
    /// Where the weights came from, when fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Where the run began: "cpu", "cuda". It may go on elsewhere.
    pub device: String,
    /// How a GPU rounds masters to bf16.
    #[serde(default)]
    pub rounding: Rounding,
    /// How the data is cut.
    pub batch: Batch,
    /// The model's sizes.
    pub model: Config,
    /// Its adapters, when fine-tuning with LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How the run goes.
    pub plan: Plan,
}

/// What is being trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Token shards.
    Pretrain,
    /// Instruction, input and response.
    Finetune,
}

impl Task {
    /// The subcommand.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
        }
    }
}

/// How a step's data is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Tokens of a row.
    pub ctx: usize,
    /// Rows that go through the model together.
    pub micro_batch: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Fine-tuning: what a token of the prompt counts against one of the response.
    #[serde(default)]
    pub prompt_loss_weight: f64,
    /// Pre-training: attention and positions keep to one document.
    #[serde(default)]
    pub within_documents: bool,
    /// Activations are computed again on the way back instead of being kept.
    #[serde(default)]
    pub recompute: bool,
    /// Fine-tuning on sensor windows: how readings are varied, anew each epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
}

impl Batch {
    /// Rows of the largest micro-batch: `B T`.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.micro_batch * self.ctx
    }

    /// Tokens of a step.
    #[must_use]
    pub const fn tokens_per_step(&self) -> usize {
        self.rows() * self.accumulate
    }
}

/// Bytes that one row of one block keeps for the way back: two norms, q k v, attention, mid, stream (8 C) and the MLP's two (2 F).
fn row_bytes(model: &Config) -> usize {
    4 * (8 * model.n_embd + 2 * model.ff())
}

/// About how many bytes the activations of a micro-batch take in `f32`; with recompute a block keeps its input alone.
#[must_use]
pub fn activation_bytes(model: &Config, batch: &Batch) -> usize {
    let row = if batch.recompute { row_bytes(model) + 4 * model.n_layer * model.n_embd } else { model.n_layer * row_bytes(model) };
    row.saturating_mul(batch.micro_batch).saturating_mul(batch.ctx)
}

/// The micro-batch that suits a CPU: rows enough to fill the matrix products, activations within memory.
#[must_use]
pub fn cpu_micro_batch(model: &Config, ctx: usize) -> usize {
    (CPU_ROWS / ctx).min(CPU_ACTIVATION_BYTES / (model.n_layer * row_bytes(model) * ctx)).max(1)
}

/// Rows of the classifier's logits that a GPU keeps at a time.
const HEAD_ROWS: usize = 8192;
/// What CUDA's own context, the kernels and the workspaces of the library's products take.
const CUDA_CONTEXT_BYTES: usize = 1 << 30;
/// The most rows of a micro-batch that pay on a GPU: the paper's 64 x 1,024.
const CUDA_ROWS: usize = 65_536;

/// About how many bytes a run takes on a GPU: weights in bf16; master, gradient and two moments in f32 of the `trained` parameters;
/// activations in bf16, with f32 statistics of norms and attention beside them.
#[must_use]
pub fn cuda_bytes(model: &Config, trained: usize, batch: &Batch) -> usize {
    let (c, f, h) = (model.n_embd, model.ff(), model.n_head);
    let block = 2 * (7 * c + 2 * f) + 16 + 4 * h;
    let kept = if batch.recompute { block } else { model.n_layer * block };
    let stream = 2 * (model.n_layer + 1) * c;
    // Gradients of activations, the last norm, and attention's sums for queries in f32.
    let passing = 2 * (6 * c + f) + 4 * c + 4 * h;
    let head = batch.rows().min(HEAD_ROWS) * (2 * model.vocab() + 4 * c);
    batch.rows() * (kept + stream + passing) + head + 2 * model.parameters() + 16 * trained + CUDA_CONTEXT_BYTES
}

/// The largest micro-batch of up to 64 x 1,024 tokens, halved until it fits into `memory` bytes of a GPU; `None` where not
/// even one row does.
#[must_use]
pub fn cuda_micro_batch(model: &Config, trained: usize, batch: &Batch, memory: usize) -> Option<usize> {
    let mut rows = (CUDA_ROWS / batch.ctx).max(1);
    while rows > 0 && cuda_bytes(model, trained, &Batch { micro_batch: rows, ..batch.clone() }) > memory {
        rows /= 2;
    }
    (rows > 0).then_some(rows)
}

/// Tokens a step for pre-training on `total` tokens: the paper's 524,288 where that leaves a thousand steps, else the
/// power of two that does, but not under 4,096.
#[must_use]
pub fn tokens_per_step(total: u64) -> usize {
    let fair = (total / 1000).max(1);
    let power = 1usize << fair.ilog2();
    power.clamp(4096, PAPER_TOKENS_PER_STEP)
}

/// A `config.toml` that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RunConfigError {
    /// The file.
    #[error("{0}")]
    Io(#[from] IoError),
    /// Its text.
    #[error("{}: {message}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
}

impl RunConfig {
    /// Reads a run's `config.toml`.
    pub fn read(run: &Path) -> Result<Self, RunConfigError> {
        let path = run.join(FILE);
        toml::from_str(&fsio::read_text(&path)?).map_err(|e| RunConfigError::Text { path, message: e.to_string() })
    }

    /// Writes it.
    pub fn write(&self, run: &Path) -> Result<(), RunConfigError> {
        let path = run.join(FILE);
        Ok(fsio::write_bytes(&path, self.text().as_bytes())?)
    }

    /// How many parameters train.
    #[must_use]
    pub fn trained(&self) -> usize {
        let spec = Decoder::spec(&self.model, self.lora.as_ref());
        spec.leaves().into_iter().filter(|s| self.lora.is_none() || s.lora).map(Spec::numel).sum()
    }

    /// What [`write`](Self::write) writes.
    #[must_use]
    pub fn text(&self) -> String {
        toml::to_string(self).expect("a config is a table of plain values")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Adam, Schedule};
    use super::*;
    use crate::model::Target;

    #[test]
    fn a_config_comes_back_as_it_was_and_unknown_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = RunConfig {
            program: "tinyllm-train 0.1.0".into(),
            task: Task::Finetune,
            data: "data".into(),
            base: Some("base".into()),
            device: "cpu".into(),
            rounding: Rounding::Nearest,
            batch: Batch {
                ctx: 512,
                micro_batch: 8,
                accumulate: 2,
                prompt_loss_weight: 0.3,
                augment: Some(Augment::default()),
                within_documents: false,
                recompute: false,
            },
            model: Config { n_vocab: Some(300), ..Config::named("nano").unwrap() },
            lora: Some(Lora { rank: 16, alpha: 32.0, dropout: 0.1, targets: Target::ALL.to_vec() }),
            plan: Plan {
                schedule: Schedule { peak: 4e-4, warmup: 30, steps: 300, end_fraction: 0.1 },
                adam: Adam::default(),
                seed: 7,
                eval_every: 20,
                save_every: 20,
            },
        };
        config.write(dir.path()).unwrap();
        assert_eq!(RunConfig::read(dir.path()).unwrap(), config);
        let path = dir.path().join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("accumulate", "acumulate");
        std::fs::write(&path, text).unwrap();
        let error = RunConfig::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("acumulate") && error.contains("config.toml"), "{error}");
    }

    #[test]
    fn batches_fit_the_machine_and_the_data() {
        let model = |name| Config { n_vocab: Some(50_257), ..Config::named(name).unwrap() };
        assert_eq!(cpu_micro_batch(&model("nano"), 512), 8);
        assert_eq!(cpu_micro_batch(&model("124m"), 1024), 3);
        let batch = |model: &Config, micro_batch| Batch {
            ctx: model.n_ctx,
            micro_batch,
            accumulate: 1,
            prompt_loss_weight: 0.0,
            augment: None,
            within_documents: false,
            recompute: false,
        };
        // The paper's figure: 25 GB for 64 rows of 1,024 tokens.
        let large = model("124m");
        let whole = cuda_bytes(&large, large.parameters(), &batch(&large, 64));
        assert!((23_000_000_000..25_000_000_000).contains(&whole), "{whole}");
        let fits = |gb: usize| cuda_micro_batch(&large, large.parameters(), &batch(&large, 1), gb << 30);
        assert_eq!((fits(139), fits(16), fits(8), fits(2)), (Some(64), Some(32), Some(8), None));
        assert_eq!((tokens_per_step(9_000_000_000), tokens_per_step(20_000_000), tokens_per_step(1)), (524_288, 16_384, 4096));
    }
}
