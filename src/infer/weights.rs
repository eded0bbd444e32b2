//! A GPT-2 from a GGUF file: sizes, tokenizer, matrices where they lie in the file.

use super::Packed;
use super::store::{self, Matrix, Plan, Store, Told};
use crate::data::DataError;
use crate::data::labels::Trie;
use crate::data::tokenizer::{FileTokenizer, TokenizerFileError};
use crate::gguf::{Gguf, GgufError, TensorInfo, View};
use crate::model::{Config, ConfigError};
use crate::quant::GgmlType;
use crate::simd::Isa;
use crate::simd::panel::{Dots, Layout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A GGUF file that is no model for us.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The container, or something in it.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Sizes that make no model.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        source: ConfigError,
    },
    /// A vocabulary that cannot be used, or labels that it has no tokens for.
    #[error(transparent)]
    Tokenizer(TokenizerFileError),
    /// Labels that cannot be told apart.
    #[error("{}: {source}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// Which label, and why.
        source: DataError,
    },
}

impl From<TokenizerFileError> for ModelError {
    fn from(error: TokenizerFileError) -> Self {
        match error {
            TokenizerFileError::Gguf(error) => Self::Gguf(error),
            other => Self::Tokenizer(other),
        }
    }
}

/// A LayerNorm's weight and bias, `(C)` each.
pub struct Norm {
    /// Weight.
    pub w: Vec<f32>,
    /// Bias.
    pub b: Vec<f32>,
}

/// A matrix with its bias.
pub struct Linear {
    /// `(out, in)`
    pub w: Packed,
    /// `(out)`
    pub b: Vec<f32>,
}

/// One block.
pub struct Block {
    /// Before attention.
    pub attn_norm: Norm,
    /// Queries, keys, values: `(3C, C)`.
    pub attn_qkv: Linear,
    /// `(C, C)`
    pub attn_output: Linear,
    /// Before the MLP.
    pub ffn_norm: Norm,
    /// `(F, C)`
    pub ffn_up: Linear,
    /// `(C, F)`
    pub ffn_down: Linear,
}

/// A model ready to run.
pub struct Model {
    /// Sizes; the vocabulary's is settled.
    pub config: Config,
    /// Added to the variance in every LayerNorm.
    pub norm_eps: f64,
    /// Its vocabulary.
    pub tokenizer: FileTokenizer,
    /// Embedding of tokens, `(V, C)`.
    pub token_embd: Packed,
    /// Embedding of positions, `(T, C)`.
    pub position_embd: Packed,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Before the head.
    pub output_norm: Norm,
    /// The head, `(V, C)`, where it is not the embedding of tokens.
    pub output: Option<Packed>,
    /// The file, with its metadata.
    pub file: Arc<Gguf>,
    /// The instruction set that it is ready for.
    pub isa: Isa,
    /// The instructions of its quantized products.
    pub dots: Dots,
}

impl Model {
    /// Maps a file and checks that it is a whole GPT-2.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_for(path, Isa::detect())
    }

    /// The same, made ready for an instruction set.
    pub fn open_for(path: &Path, isa: Isa) -> Result<Self, ModelError> {
        Self::from_gguf(Gguf::open(path)?, isa)
    }

    /// A model over an open file.
    pub fn from_gguf(file: Gguf, isa: Isa) -> Result<Self, ModelError> {
        Self::build(file, isa, |_, _, _| Ok(None))
    }

    /// A model over an open file whose packed weights are kept in the file at `packed` and mapped from there, so that processes share
    /// them. It is made, or made anew, where it is not there or does not fit; where that fails the weights are packed into memory, as
    /// without it. `told` hears what is done about it.
    pub fn with_packed(file: Gguf, isa: Isa, packed: &Path, told: &mut dyn FnMut(Told)) -> Result<Self, ModelError> {
        Self::build(file, isa, |file, config, layout| {
            let plan = Plan::new(file, layout, matrices(file, config)?);
            Ok(store::open_or_make(&plan, packed, told))
        })
    }

    fn build(
        file: Gguf,
        isa: Isa,
        store: impl FnOnce(&Gguf, &Config, Layout) -> Result<Option<Store>, GgufError>,
    ) -> Result<Self, ModelError> {
        let architecture = file.string("general.architecture")?;
        if architecture != "gpt2" {
            let what = format!("the architecture is '{architecture:.40}', and only gpt2 can be run");
            return Err(file.unusable_key("general.architecture", &what).into());
        }
        let norm_eps = file.float("gpt2.attention.layer_norm_epsilon")?;
        if !(norm_eps > 0.0 && norm_eps < 1.0) {
            let what = format!("a LayerNorm epsilon of {norm_eps} (GPT-2's is 1e-5)");
            return Err(file.unusable_key("gpt2.attention.layer_norm_epsilon", &what).into());
        }
        let file = Arc::new(file);
        let tokenizer = FileTokenizer::open(file.clone())?;
        let config = config(&file, tokenizer.n_vocab())?;
        if let Some(extra) = file.tensors().iter().find(|t| block_of(&t.name).is_some_and(|block| block >= config.n_layer)) {
            let what = format!("{} is of a block too many: gpt2.block_count is {}", extra.name, config.n_layer);
            return Err(file.unusable_tensor(extra, &what).into());
        }
        let dots = Dots::under(isa);
        let store = store(&file, &config, dots.layout())?;
        if store.is_none() {
            // Weights are read once, from end to end.
            file.prefault();
        }
        let load = Loader { file: &file, dots, store };
        let (c, f, v) = (config.n_embd, config.ff(), config.vocab());
        let blocks = (0..config.n_layer).map(|i| load.block(&format!("blk.{i}"), c, f)).collect::<Result<_, _>>()?;
        Ok(Self {
            norm_eps,
            token_embd: load.matrix("token_embd.weight", v, c)?,
            position_embd: load.matrix("position_embd.weight", config.n_ctx, c)?,
            blocks,
            output_norm: load.norm("output_norm", c)?,
            output: file.tensor("output.weight").map(|_| load.matrix("output.weight", v, c)).transpose()?,
            config,
            tokenizer,
            file: file.clone(),
            isa,
            dots: load.dots,
        })
    }

    /// The head: logits are its rows times the last hidden state.
    #[must_use]
    pub fn head(&self) -> &Packed {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }

    /// The tokens of a prompt; an empty one is the end token, after which a text begins.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.tokenizer.encode(text)?;
        Ok(if tokens.is_empty() { vec![self.tokenizer.end_token()] } else { tokens })
    }

    /// The trie of some labels.
    pub fn trie(&self, labels: &[String]) -> Result<Trie, ModelError> {
        let tokens = labels.iter().map(|label| self.tokenizer.encode(label)).collect::<Result<Vec<_>, _>>()?;
        Trie::of(labels, &tokens, self.tokenizer.end_token()).map_err(|source| ModelError::Labels { path: self.file.path().into(), source })
    }

    /// The labels a classifier knows (`tinyllm.labels`); empty where the model is none.
    #[must_use]
    pub fn labels(&self) -> Vec<&str> {
        self.file.strings("tinyllm.labels").map(Iterator::collect).unwrap_or_default()
    }

    /// A text of our own metadata: `tinyllm.codec`, `tinyllm.template`, `tinyllm.version`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.file.get(key)? {
            View::String(s) => Some(s),
            _ => None,
        }
    }
}

fn config(file: &Gguf, n_vocab: usize) -> Result<Config, ModelError> {
    let size = |key: &str| -> Result<usize, GgufError> {
        let n = file.unsigned(key)?;
        usize::try_from(n).map_err(|_| file.unusable_key(key, &format!("{key} = {n}")))
    };
    let config = Config {
        n_embd: size("gpt2.embedding_length")?,
        n_head: size("gpt2.attention.head_count")?,
        n_layer: size("gpt2.block_count")?,
        n_ff: Some(size("gpt2.feed_forward_length")?),
        n_ctx: size("gpt2.context_length")?,
        n_vocab: Some(n_vocab),
    };
    config.check().map_err(|source| ModelError::Config { path: file.path().into(), source })?;
    Ok(config)
}

/// The block that a tensor belongs to, by its name.
fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Sizes, as the metadata and the embedding have them.
pub(super) fn sizes(file: &Gguf) -> Result<Config, ModelError> {
    let n_vocab = file.tensor("token_embd.weight").and_then(|t| t.dims.get(1).copied()).unwrap_or(0);
    config(file, usize::try_from(n_vocab).unwrap_or(usize::MAX))
}

/// All matrices of a model of these sizes, held to their shapes.
pub(super) fn matrices(file: &Gguf, config: &Config) -> Result<Vec<Matrix>, GgufError> {
    let (c, f, v) = (config.n_embd, config.ff(), config.vocab());
    let mut all = vec![("token_embd.weight".to_owned(), v, c), ("position_embd.weight".to_owned(), config.n_ctx, c)];
    for i in 0..config.n_layer {
        let shapes = [("attn_qkv", 3 * c, c), ("attn_output", c, c), ("ffn_up", f, c), ("ffn_down", c, f)];
        all.extend(shapes.map(|(name, rows, cols)| (format!("blk.{i}.{name}.weight"), rows, cols)));
    }
    all.extend(file.tensor("output.weight").map(|t| (t.name.clone(), v, c)));
    let matrix = |(name, rows, cols): (String, usize, usize)| {
        let (tensor, ty) = tensor(file, &name, &[cols, rows])?;
        Ok(Matrix { tensor: tensor.clone(), ty, rows, cols })
    };
    all.into_iter().map(matrix).collect()
}

/// A tensor of this name and these dimensions.
fn tensor<'a>(file: &'a Gguf, name: &str, dims: &[usize]) -> Result<(&'a TensorInfo, GgmlType), GgufError> {
    let tensor = file.tensor(name).ok_or_else(|| file.incomplete(&format!("the file has no tensor {name}")))?;
    if !tensor.dims.iter().eq(dims.iter().map(|&d| d as u64).collect::<Vec<_>>().iter()) {
        let what = format!("{name} is of {:?}, but the metadata says {dims:?}", tensor.dims);
        return Err(file.unusable_tensor(tensor, &what));
    }
    let Some(ty) = GgmlType::from_id(tensor.ty.id) else {
        let known = GgmlType::ALL.map(GgmlType::name).join(", ");
        let what = format!("{name} is of type {}, and only {known} can be run: export the model as one of them", tensor.ty.name);
        return Err(file.unusable_tensor(tensor, &what));
    };
    Ok((tensor, ty))
}

/// Finds tensors and holds them to their shapes.
struct Loader<'a> {
    file: &'a Arc<Gguf>,
    dots: Dots,
    /// Where matrices are that are packed already.
    store: Option<Store>,
}

impl Loader<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Packed, GgufError> {
        let (tensor, ty) = tensor(self.file, name, &[cols, rows])?;
        if let Some(areas) = self.store.as_ref().and_then(|store| store.areas(name)) {
            return Ok(Packed::ready(ty, rows, cols, self.dots, areas));
        }
        Ok(Packed::load(self.file, tensor.clone(), ty, rows, cols, self.dots))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, GgufError> {
        let (tensor, ty) = tensor(self.file, name, &[len])?;
        let mut out = vec![0.0; len];
        ty.dequantize_row(&mut out, self.file.data(tensor));
        match out.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(self.file.unusable_tensor(tensor, &format!("{name} holds {} as number {i}: the file is damaged", out[i]))),
            None => Ok(out),
        }
    }

    fn norm(&self, name: &str, c: usize) -> Result<Norm, GgufError> {
        Ok(Norm { w: self.vector(&format!("{name}.weight"), c)?, b: self.vector(&format!("{name}.bias"), c)? })
    }

    fn linear(&self, name: &str, out: usize, inp: usize) -> Result<Linear, GgufError> {
        Ok(Linear { w: self.matrix(&format!("{name}.weight"), out, inp)?, b: self.vector(&format!("{name}.bias"), out)? })
    }

    fn block(&self, name: &str, c: usize, f: usize) -> Result<Block, GgufError> {
        Ok(Block {
            attn_norm: self.norm(&format!("{name}.attn_norm"), c)?,
            attn_qkv: self.linear(&format!("{name}.attn_qkv"), 3 * c, c)?,
            attn_output: self.linear(&format!("{name}.attn_output"), c, c)?,
            ffn_norm: self.norm(&format!("{name}.ffn_norm"), c)?,
            ffn_up: self.linear(&format!("{name}.ffn_up"), f, c)?,
            ffn_down: self.linear(&format!("{name}.ffn_down"), c, f)?,
        })
    }
}
