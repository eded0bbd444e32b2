//! Checkpoints: folders that appear whole or not at all, that `transformers` loads, and from which a run goes on.
//!
//! | file | what |
//! | --- | --- |
//! | `model.safetensors` | the weights; of a LoRA run the merged ones |
//! | `config.json` `vocab.json` `merges.txt` | sizes and tokenizer |
//! | `adapter/` | of a LoRA run: the adapter in PEFT's format |
//! | `optimizer.safetensors` | AdamW's moments, `f32`, of every parameter that trains |
//! | `state.json` | where the run stands: [`State`] |
//!
//! The adapter has a folder of its own because `transformers` puts an adapter that lies beside a model on top of it:
//! on top of merged weights it would count twice.
//!
//! A LoRA run's base is not stored again. [`State::base`] says where it is and what it hashes to; a run goes on only
//! on the very same base.

use super::rundir::RunDir;
use crate::backend::BackendError;
use crate::fsio::{At, IoError, NewDir, read_text, write_bytes};
use crate::mmap::Mapped;
use crate::model::init::merge;
use crate::model::io::safetensors::{Entry, TensorFile, write as write_tensors};
use crate::model::io::{ModelFileError, hf, peft};
use crate::model::{Config, Decoder, Lora, Spec, Tree};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use crate::model::io::hf::TokenizerFiles;

/// Where the run stands.
pub const STATE: &str = "state.json";
/// AdamW's moments.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The folder of a LoRA run's adapter.
pub const ADAPTER: &str = "adapter";

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file of the model.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// A `state.json` that is not one.
    #[error("{}: {message}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
    /// There is no checkpoint.
    #[error("{}: {message}", path.display())]
    None {
        /// Where one was looked for.
        path: PathBuf,
        /// What is missing, and what to do.
        message: String,
    },
    /// Weights that are no numbers; nothing was written.
    #[error("{}: not written, because '{tensor}' holds a number that is not finite: the training diverged", path.display())]
    NotFinite {
        /// The checkpoint that was to be written.
        path: PathBuf,
        /// The parameter.
        tensor: String,
    },
    /// A LoRA run's base is not what it was.
    #[error(
        "{}: this is not the base that the LoRA run was started from (sha256 {found:.12}… instead of {expected:.12}…); \
         put the old one back, or write where it lies into 'base' of the run's config.toml. The checkpoint's merged model.safetensors \
         is not affected", path.display()
    )]
    BaseChanged {
        /// The base's weights.
        path: PathBuf,
        /// What they hashed to when the run was started.
        expected: String,
        /// What they hash to now.
        found: String,
    },
    /// A LoRA run's base is gone.
    #[error(
        "{}: the base that the LoRA run was started from is not there: put it back, or write where it lies into 'base' of the run's \
         config.toml", path.display()
    )]
    BaseMissing {
        /// Where the base was.
        path: PathBuf,
    },
    /// An output folder that is there already.
    #[error("{}: it exists already; go on with --resume, or choose another folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A run that another program is at.
    #[error("{}: another program is working on this run; wait for its end, or stop it first", path.display())]
    Busy {
        /// The run.
        path: PathBuf,
    },
}

/// Where a run stands; with the weights and the optimizer's moments, all that is needed to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the program that wrote it.
    pub program: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens read so far.
    pub tokens: u64,
    /// The run's seed; every draw is a function of it and of the step.
    pub seed: u64,
    /// A hash of the run's settings: a run goes on with the settings it began with.
    pub config_hash: String,
    /// SHA-256 of the data's `manifest.json`, in hexadecimal: a run goes on with the data it began with.
    pub data_hash: String,
    /// Validation loss of these very weights, nats a token; `None` where it was not measured at this step.
    pub validation: Option<f64>,
    /// The best validation loss so far.
    pub best: Option<Best>,
    /// Position in the data, as the loader keeps it.
    pub loader: serde_json::Value,
    /// Of a LoRA run: the weights under the adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// What a GPU chose by measuring: with it, and on the same device, the run goes on with the same bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plans: Option<serde_json::Value>,
}

/// The best validation loss of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// At which step.
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
}

/// The weights under a LoRA run's adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The checkpoint folder they were read from, absolute.
    pub path: PathBuf,
    /// SHA-256 of its `model.safetensors`, in hexadecimal.
    pub sha256: String,
}

impl Base {
    /// The base in a checkpoint folder, hashed.
    pub fn of(checkpoint: &Path) -> Result<Self, IoError> {
        let path = std::path::absolute(checkpoint).at(checkpoint, "find")?;
        Ok(Self { sha256: sha256_file(&path.join(hf::WEIGHTS))?, path })
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String, IoError> {
    Ok(Sha256::digest(&*Mapped::open(path)?).iter().map(|b| format!("{b:02x}")).collect())
}

/// A part of the optimizer's state of one parameter. (A device's `f32` masters are no part of it: they are the weights of the
/// checkpoint.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// First moment.
    First,
    /// Second moment.
    Second,
}

impl Moment {
    const ALL: [Self; 2] = [Self::First, Self::Second];

    /// The tensor's name: `blk.0.attn_qkv.weight.m`.
    fn name(self, spec: &Spec) -> String {
        let part = match self {
            Self::First => "m",
            Self::Second => "v",
        };
        format!("{}.{part}", spec.name)
    }
}

/// Where the optimizer's state comes from while it is written, one parameter at a time.
pub struct Moments<'a> {
    /// Which parameters train, in walk order.
    pub trained: &'a [bool],
    /// The values of parameter `i` in walk order; asked for trained ones only.
    pub get: &'a mut dyn FnMut(usize, Moment) -> Result<Vec<f32>, BackendError>,
}

/// What a checkpoint is made of.
pub struct CheckpointParts<'a> {
    /// The model's sizes.
    pub config: &'a Config,
    /// The adapters' settings, in a LoRA run; then [`State::base`] is given too.
    pub lora: Option<&'a Lora>,
    /// The weights, adapters not merged.
    pub weights: &'a Decoder<Vec<f32>>,
    /// The tokenizer.
    pub tokenizer: &'a TokenizerFiles,
    /// Where the run stands.
    pub state: &'a State,
}

/// Writes a checkpoint whole; one that is at `path` already is replaced in one step. Without `moments` it is a model to use,
/// not a state to go on from. Weights that are not finite are refused, and what was there stays.
///
/// # Panics
/// If the weights are not of the sizes in `config`, or an adapted model comes without its base.
pub fn save(path: &Path, parts: &CheckpointParts, moments: Option<Moments>) -> Result<(), CheckpointError> {
    let spec = Decoder::spec(parts.config, parts.lora);
    let specs = spec.leaves();
    if let Some((s, _)) = specs.iter().zip(parts.weights.leaves()).find(|(_, w)| w.iter().any(|v| !v.is_finite())) {
        return Err(CheckpointError::NotFinite { path: path.into(), tensor: s.name.clone() });
    }
    let new = NewDir::new(path)?;
    if let Some(lora) = parts.lora {
        let base = parts.state.base.as_ref().expect("a LoRA run has a base");
        let dir = new.dir().join(ADAPTER);
        fs::create_dir(&dir).at(&dir, "create")?;
        peft::write(&dir, parts.config, lora, parts.weights, &base.path.to_string_lossy())?;
        let merged = merge(parts.weights.map_leaves(&mut Vec::clone));
        hf::write(new.dir(), parts.config, &merged, parts.tokenizer)?;
    } else {
        hf::write(new.dir(), parts.config, parts.weights, parts.tokenizer)?;
    }
    if let Some(moments) = moments {
        write_moments(&new.dir().join(OPTIMIZER), &specs, moments)?;
    }
    let file = new.dir().join(STATE);
    let text = serde_json::to_string_pretty(parts.state).map_err(io::Error::from).at(&file, "write")?;
    write_bytes(&file, format!("{text}\n").as_bytes())?;
    Ok(new.commit()?)
}

fn write_moments(path: &Path, specs: &[&Spec], moments: Moments) -> Result<(), CheckpointError> {
    assert_eq!(specs.len(), moments.trained.len(), "one mark a parameter");
    let trained = || (0..specs.len()).filter(|&i| moments.trained[i]);
    let all: Vec<(usize, Moment)> = trained().flat_map(|i| Moment::ALL.map(|part| (i, part))).collect();
    let entry = |&(i, part): &(usize, Moment)| Entry { name: part.name(specs[i]), shape: specs[i].shape.clone(), transposed: false };
    let entries: Vec<Entry> = all.iter().map(entry).collect();
    write_tensors(path, &entries, |k| {
        let (i, part) = all[k];
        let values = (moments.get)(i, part).map_err(io::Error::other)?;
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(io::Error::other(format!("'{}' holds a number that is not finite", entries[k].name))),
        }
    })?;
    Ok(())
}

/// A model to use: of a LoRA run, the merged one.
#[derive(Debug)]
pub struct Model {
    /// The checkpoint folder it came from.
    pub dir: PathBuf,
    /// Its sizes.
    pub config: Config,
    /// Its weights.
    pub weights: Decoder<Vec<f32>>,
    /// Its tokenizer.
    pub tokenizer: TokenizerFiles,
}

/// Loads the model of a run (its best checkpoint, else its last) or of a checkpoint folder, ours or Hugging Face's.
pub fn load_model(path: &Path) -> Result<Model, CheckpointError> {
    let dir = RunDir::open(path)?.checkpoint;
    let (config, weights) = hf::read(&dir)?;
    let tokenizer = TokenizerFiles::read(&dir, &config)?;
    Ok(Model { dir, config, weights, tokenizer })
}

/// All that is needed to go on.
pub struct Training {
    /// Where the run stands.
    pub state: State,
    /// The model's sizes.
    pub config: Config,
    /// The adapters' settings, in a LoRA run.
    pub lora: Option<Lora>,
    /// The weights; in a LoRA run the base's and the adapter's, not merged.
    pub weights: Decoder<Vec<f32>>,
    /// The tokenizer.
    pub tokenizer: TokenizerFiles,
    /// The optimizer's moments.
    pub optimizer: OptimizerFile,
}

/// Loads a checkpoint folder to go on from it: with `base`, a LoRA run's base is taken from there (and must be the same).
pub fn load_training_state(dir: &Path, base: Option<&Path>) -> Result<Training, CheckpointError> {
    let state = load_state(dir)?;
    let optimizer = dir.join(OPTIMIZER);
    if !optimizer.is_file() {
        let message = format!("it has no {OPTIMIZER}, so a run cannot go on from it: use the run's last/");
        return Err(CheckpointError::None { path: dir.into(), message });
    }
    let (config, lora, weights) = match &state.base {
        None => {
            let (config, weights) = hf::read(dir)?;
            (config, None, weights)
        }
        Some(recorded) => {
            let from = base.unwrap_or(&recorded.path);
            check_base(from, recorded)?;
            let (config, weights) = hf::read(from)?;
            let (lora, weights) = peft::read(&dir.join(ADAPTER), &config, weights)?;
            (config, Some(lora), weights)
        }
    };
    let optimizer = OptimizerFile::open(&optimizer, &Decoder::spec(&config, lora.as_ref()))?;
    let tokenizer = TokenizerFiles::read(dir, &config)?;
    Ok(Training { state, config, lora, weights, tokenizer, optimizer })
}

/// Reads a checkpoint's `state.json` alone.
pub fn load_state(dir: &Path) -> Result<State, CheckpointError> {
    let path = dir.join(STATE);
    if !path.is_file() {
        let message = format!("it has no {STATE}, so it is a model to use or to fine-tune, not a run to go on with");
        return Err(CheckpointError::None { path: dir.into(), message });
    }
    serde_json::from_str(&read_text(&path)?).map_err(|e| CheckpointError::State { path, message: e.to_string() })
}

fn check_base(from: &Path, recorded: &Base) -> Result<(), CheckpointError> {
    let path = from.join(hf::WEIGHTS);
    if !path.is_file() {
        return Err(CheckpointError::BaseMissing { path });
    }
    let found = sha256_file(&path)?;
    if found != recorded.sha256 {
        return Err(CheckpointError::BaseChanged { path, expected: recorded.sha256.clone(), found });
    }
    Ok(())
}

/// The optimizer's moments of a checkpoint, mapped.
pub struct OptimizerFile(TensorFile);

impl OptimizerFile {
    /// Maps the file; a tensor that belongs to no parameter is refused.
    fn open(path: &Path, spec: &Decoder<Spec>) -> Result<Self, ModelFileError> {
        let file = TensorFile::open(path)?;
        let names: std::collections::HashSet<String> = spec.leaves().iter().flat_map(|s| Moment::ALL.map(|part| part.name(s))).collect();
        match file.names().into_iter().find(|name| !names.contains(name)) {
            None => Ok(Self(file)),
            Some(tensor) => Err(ModelFileError::Tensor {
                path: path.into(),
                tensor,
                message: "the model has no such parameter: moments and model are not of one run".into(),
            }),
        }
    }

    /// Whether a parameter trained, and so has moments.
    #[must_use]
    pub fn trains(&self, spec: &Spec) -> bool {
        self.0.contains(&Moment::First.name(spec))
    }

    /// The values of a trained parameter, in its shape.
    pub fn read(&self, spec: &Spec, part: Moment) -> Result<Vec<f32>, ModelFileError> {
        self.0.read(&part.name(spec), &spec.shape, false)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
