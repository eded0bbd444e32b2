//! A folder of prepared data, as training, evaluation and reports read it.

use super::augment::Augment;
use super::codec::Codec;
use super::error::DataError;
use super::example::{Example, read_jsonl};
use super::manifest::{Manifest, VERSION};
use super::recipe::Recipe;
use super::split::Split;
use super::tokenizer::Tokenizer;
use crate::fsio;
use std::path::{Path, PathBuf};

/// A folder that [`prepare`](super::prepare::prepare) made.
pub struct Prepared {
    /// The folder.
    pub path: PathBuf,
    /// What it holds and where that came from.
    pub manifest: Manifest,
    /// The recipe it was made from.
    pub recipe: Recipe,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// How readings become text; absent where there is only pre-training.
    pub codec: Option<Codec>,
}

impl Prepared {
    /// Opens a folder and checks that its files are there at their full length.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let at = path.join("manifest.json");
        if !at.is_file() {
            return Err(DataError::file(
                path,
                "there are no prepared data here; make them with `tinyllm-train prepare RECIPE.toml --out DATA`",
            ));
        }
        let manifest: Manifest =
            serde_json::from_str(&fsio::read_text(&at)?).map_err(|e| DataError::line(&at, e.line() as u64, format!("no manifest: {e}")))?;
        if manifest.version != VERSION {
            return Err(DataError::file(&at, format!("version {} of the layout is not known; prepare the data again", manifest.version)));
        }
        for file in &manifest.files {
            let there = std::fs::metadata(path.join(&file.path)).map(|m| m.len()).ok();
            if there != Some(file.bytes) {
                let found = there.map_or_else(|| "it is not there".into(), |n| format!("it has {n}"));
                let message = format!("the manifest promises {} bytes and {found}; prepare the data again", file.bytes);
                return Err(DataError::file(&path.join(&file.path), message));
            }
        }
        let at = path.join("recipe.toml");
        let recipe = toml::from_str(&fsio::read_text(&at)?).map_err(|e| DataError::file(&at, e.to_string().trim_end()))?;
        let dir = path.join("tokenizer");
        let tokenizer = Tokenizer::from_hf_dir(&dir).map_err(|e| DataError::file(&dir, e.to_string()))?;
        if tokenizer.n_vocab() != manifest.n_vocab {
            return Err(DataError::file(&dir, format!("it has {} tokens and the manifest says {}", tokenizer.n_vocab(), manifest.n_vocab)));
        }
        let at = path.join("codec.json");
        let codec = if manifest.task.is_some() {
            Some(Codec::from_json(&fsio::read_text(&at)?).map_err(|e| DataError::file(&at, e.to_string()))?)
        } else {
            None
        };
        Ok(Self { path: path.into(), manifest, recipe, tokenizer, codec })
    }

    /// The classes, in the order of every report; empty if answers are free text or there are no examples.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.codec.as_ref().map_or(&[], |c| &c.labels)
    }

    /// The codec, which fine-tuning cannot do without.
    pub fn task_codec(&self) -> Result<&Codec, DataError> {
        self.codec.as_ref().ok_or_else(|| {
            DataError::file(&self.path, "these data only pre-train; add [readings] or [examples] to the recipe and prepare again")
        })
    }

    /// Shards that pre-train.
    pub fn train_shards(&self) -> Result<Vec<PathBuf>, DataError> {
        self.shards(|p| &p.train_shards)
    }

    /// Shards that validate pre-training.
    pub fn validation_shards(&self) -> Result<Vec<PathBuf>, DataError> {
        self.shards(|p| &p.validation_shards)
    }

    fn shards(&self, of: impl Fn(&super::manifest::PretrainFacts) -> &Vec<String>) -> Result<Vec<PathBuf>, DataError> {
        match &self.manifest.pretrain {
            Some(p) => Ok(of(p).iter().map(|name| self.path.join(name)).collect()),
            None => Err(DataError::file(&self.path, "these data do not pre-train; add [pretrain] to the recipe and prepare again")),
        }
    }

    /// The examples of a split.
    pub fn examples(&self, split: Split) -> Result<Vec<Example>, DataError> {
        self.task_codec()?;
        read_jsonl(&self.path.join("finetune").join(format!("{}.jsonl", split.name())))
    }

    /// The raw readings of the test split, if the task has readings.
    #[must_use]
    pub fn test_readings(&self) -> Option<PathBuf> {
        Some(self.path.join("readings/test.csv")).filter(|p| p.is_file())
    }

    /// Random changes to training windows that the recipe asks for.
    #[must_use]
    pub const fn augment(&self) -> Option<Augment> {
        self.recipe.augment
    }
}
