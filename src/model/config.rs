//! What a model is: its sizes, where they come from, what they come to.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// The sizes of a GPT-2 decoder, and nothing about how it is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Channels of the residual stream, `C`.
    pub n_embd: usize,
    /// Attention heads, `H`; `C` must be a multiple.
    pub n_head: usize,
    /// Blocks, `L`.
    pub n_layer: usize,
    /// Hidden channels of the MLP, `F`; `4 C` where it is not given.
    #[serde(default)]
    pub n_ff: Option<usize>,
    /// Positions, `T`.
    pub n_ctx: usize,
    /// Tokens in the vocabulary, `V`; taken from the data where it is not given.
    #[serde(default)]
    pub n_vocab: Option<usize>,
}

/// The low-rank adapters of a model that is fine-tuned with LoRA (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank, `R`.
    pub rank: usize,
    /// The pair's product is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability that an element of A's input is dropped in training.
    pub dropout: f64,
    /// Which matrices of each block are adapted.
    pub targets: Vec<Target>,
}

impl Lora {
    /// `alpha / rank`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// A matrix that LoRA can adapt, by the name Hugging Face gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Queries, keys and values.
    #[serde(rename = "attn.c_attn")]
    Qkv,
    /// Attention's output.
    #[serde(rename = "attn.c_proj")]
    AttnOut,
    /// The MLP's first matrix.
    #[serde(rename = "mlp.c_fc")]
    Up,
    /// The MLP's second matrix.
    #[serde(rename = "mlp.c_proj")]
    Down,
}

impl Target {
    /// All four, in the order of a block.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::AttnOut, Self::Up, Self::Down];

    /// The name within a block of a Hugging Face GPT-2.
    #[must_use]
    pub const fn hf_name(self) -> &'static str {
        match self {
            Self::Qkv => "attn.c_attn",
            Self::AttnOut => "attn.c_proj",
            Self::Up => "mlp.c_fc",
            Self::Down => "mlp.c_proj",
        }
    }
}

/// A model description that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A size that makes no model.
    #[error("{0}")]
    Size(String),
    /// Neither a known name nor a readable file.
    #[error("there is no model called '{0}': use {names}, or a TOML file with n_embd, n_head, n_layer and n_ctx", names = PRESETS.map(|p| p.0).join(", "))]
    Unknown(String),
    /// A file that is no model description.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What is wrong in it, with the line.
        message: String,
    },
}

/// The models of the paper's table 1 (`C = 64 L`, `L` heads), and `nano` for minutes on a CPU.
pub const PRESETS: [(&str, usize, usize, usize, usize); 6] = [
    // name, n_layer, n_embd, n_head, n_ctx
    ("nano", 4, 128, 2, 512),
    ("30m", 6, 384, 6, 1024),
    ("51m", 8, 512, 8, 1024),
    ("82m", 10, 640, 10, 1024),
    ("102m", 11, 704, 11, 1024),
    ("124m", 12, 768, 12, 1024),
];

impl Config {
    /// One of [`PRESETS`] by name, or a TOML file.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        if let Some(&(_, n_layer, n_embd, n_head, n_ctx)) = PRESETS.iter().find(|p| p.0 == name) {
            return Ok(Self { n_embd, n_head, n_layer, n_ff: None, n_ctx, n_vocab: None });
        }
        if !Path::new(name).is_file() {
            return Err(ConfigError::Unknown(name.into()));
        }
        let fail = |message: String| ConfigError::File { path: name.into(), message };
        let text = std::fs::read_to_string(name).map_err(|e| fail(e.to_string()))?;
        let config: Self = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        config.check().map_err(|e| fail(e.to_string()))?;
        Ok(config)
    }

    /// Whether the sizes make a model; the vocabulary may still be open.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |m: String| Err(ConfigError::Size(m));
        for (name, size, most) in [
            ("n_embd", self.n_embd, 1 << 16),
            ("n_head", self.n_head, 1 << 12),
            ("n_layer", self.n_layer, 1 << 12),
            ("n_ff", self.ff(), 1 << 20),
            ("n_ctx", self.n_ctx, 1 << 20),
            ("n_vocab", self.n_vocab.unwrap_or(1), 1 << 22),
        ] {
            if size == 0 || size > most {
                return fail(format!("{name} = {size}: it must lie between 1 and {most}"));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return fail(format!(
                "n_embd = {} is no multiple of n_head = {}: each head takes an equal share of the channels",
                self.n_embd, self.n_head
            ));
        }
        Ok(())
    }

    /// Hidden channels of the MLP, `F`.
    #[must_use]
    pub fn ff(&self) -> usize {
        self.n_ff.unwrap_or(4 * self.n_embd)
    }

    /// The vocabulary's size.
    ///
    /// # Panics
    /// If it was never settled; a checkpoint's and a run's always is.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.n_vocab.expect("the vocabulary is settled before a model is built")
    }

    /// Channels of a head, `D`.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Number of parameters; for `F = 4 C` that is `12 L C^2 + 13 L C + V C + T C + 2 C`.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let (c, f) = (self.n_embd, self.ff());
        let block = 4 * c * c + 2 * c * f + 9 * c + f;
        self.n_layer * block + self.vocab() * c + self.n_ctx * c + 2 * c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_papers() {
        for (name, millions) in [("30m", 30.34), ("51m", 51.48), ("82m", 82.06), ("102m", 101.63), ("124m", 124.44)] {
            let config = Config { n_vocab: Some(50_257), ..Config::named(name).unwrap() };
            let (l, c, v, t) = (config.n_layer, config.n_embd, 50_257, 1024);
            assert_eq!(config.parameters(), 12 * l * c * c + 13 * l * c + v * c + t * c + 2 * c, "{name}");
            assert!((config.parameters() as f64 / 1e6 - millions).abs() < 0.006, "{name}: {}", config.parameters());
            assert_eq!((c, config.n_head, config.head_dim()), (64 * l, l, 64));
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let good = Config::named("nano").unwrap();
        assert!(Config { n_head: 3, ..good.clone() }.check().unwrap_err().to_string().contains("no multiple"));
        assert!(Config { n_layer: 0, ..good.clone() }.check().is_err());
        assert!(Config { n_ctx: usize::MAX, ..good }.check().is_err());
        assert!(Config::named("31m").unwrap_err().to_string().contains("nano, 30m"));
    }
}
