//! A folder that `transformers` loads: `model.safetensors`, `config.json`, `vocab.json`, `merges.txt`.

use super::ModelFileError;
use super::safetensors::{Entry, TensorFile, write as write_tensors};
use crate::backend::NORM_EPS;
use crate::fsio::{read_text, write_bytes};
use crate::model::names::{self, HF_HEAD, HF_PREFIX};
use crate::model::{Config, Decoder, Tree};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The weights' file in a folder.
pub const WEIGHTS: &str = "model.safetensors";
/// The sizes' file in a folder.
pub const CONFIG: &str = "config.json";
/// The tokens' file in a folder.
pub const VOCAB: &str = "vocab.json";
/// The merges' file in a folder.
pub const MERGES: &str = "merges.txt";

/// The token between documents, by the name GPT-2 gives it.
const END: &str = "<|endoftext|>";

/// A tokenizer as Hugging Face keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `vocab.json`: an object from token to id.
    pub vocab_json: String,
    /// `merges.txt`: a line of version, then a merge a line.
    pub merges_txt: String,
}

impl TokenizerFiles {
    /// The two files of a folder, as text; there must be a token for each row of the model's embedding, and no more.
    pub fn read(dir: &Path, config: &Config) -> Result<Self, ModelFileError> {
        let path = dir.join(VOCAB);
        let files = Self { vocab_json: read_text(&path)?, merges_txt: read_text(&dir.join(MERGES))? };
        let tokens = serde_json::from_str::<HashMap<String, u64>>(&files.vocab_json).map_err(|e| ModelFileError::format(&path, e))?.len();
        if tokens != config.vocab() {
            let message =
                format!("it has {tokens} tokens, but {CONFIG} says {}: tokenizer and model are not of one checkpoint", config.vocab());
            return Err(ModelFileError::format(&path, message));
        }
        Ok(files)
    }

    /// The id of the end token, if there is one.
    fn end(&self) -> Option<u64> {
        serde_json::from_str::<HashMap<String, u64>>(&self.vocab_json).ok()?.get(END).copied()
    }
}

/// Fills a folder with a model and its tokenizer. The folder is there; that it appears whole is its maker's affair
/// ([`NewDir`](crate::fsio::NewDir)).
///
/// # Panics
/// If the weights are not of these sizes, or have adapters that were not merged.
pub fn write(dir: &Path, config: &Config, weights: &Decoder<Vec<f32>>, tokenizer: &TokenizerFiles) -> Result<(), ModelFileError> {
    write_bytes(&dir.join(CONFIG), format!("{:#}\n", config_json(config, tokenizer.end())).as_bytes())?;
    write_bytes(&dir.join(VOCAB), tokenizer.vocab_json.as_bytes())?;
    write_bytes(&dir.join(MERGES), tokenizer.merges_txt.as_bytes())?;
    write_weights(&dir.join(WEIGHTS), config, weights)
}

/// Writes the weights alone, under Hugging Face's names and in its orientation.
///
/// # Panics
/// If the weights are not of these sizes, or have adapters that were not merged.
pub fn write_weights(path: &Path, config: &Config, weights: &Decoder<Vec<f32>>) -> Result<(), ModelFileError> {
    let spec = Decoder::spec(config, None);
    let leaves = weights.leaves();
    assert_eq!(leaves.len(), spec.leaves().len(), "adapters are merged before a model is written");
    let entry = |spec: &crate::model::Spec| {
        let theirs = names::to_hf(&spec.name).expect("every parameter of a model has a name there");
        Entry { name: format!("{HF_PREFIX}{}", theirs.name), shape: spec.shape.clone(), transposed: theirs.transposed }
    };
    let entries: Vec<Entry> = spec.leaves().into_iter().map(entry).collect();
    write_tensors(path, &entries, |i| Ok(leaves[i]))
}

/// Reads a folder's sizes and weights. Every parameter must be there, in its shape; a tensor that is none is refused,
/// but for the masks of old versions and a head that repeats `wte`.
pub fn read(dir: &Path) -> Result<(Config, Decoder<Vec<f32>>), ModelFileError> {
    let config = read_config(dir)?;
    let weights = read_weights(&dir.join(WEIGHTS), &config)?;
    Ok((config, weights))
}

/// Reads the weights alone; see [`read`].
pub fn read_weights(path: &Path, config: &Config) -> Result<Decoder<Vec<f32>>, ModelFileError> {
    let file = TensorFile::open(path)?;
    let prefix = if file.names().iter().any(|n| n.starts_with(HF_PREFIX)) { HF_PREFIX } else { "" };
    let spec = Decoder::spec(config, None);
    let theirs = |ours: &str| {
        let foreign = names::to_hf(ours).expect("every parameter of a model has a name there");
        (format!("{prefix}{}", foreign.name), foreign.transposed)
    };
    let known: HashSet<String> = spec.leaves().iter().map(|s| theirs(&s.name).0).collect();
    for name in file.names() {
        if known.contains(&name) || names::is_hf_mask(&name) {
            continue;
        }
        if name != HF_HEAD {
            return Err(ModelFileError::tensor(path, &name, unknown(&name, config)));
        }
        if file.bytes(&name) != file.bytes(&format!("{prefix}wte.weight")) {
            return Err(ModelFileError::tensor(path, &name, "it differs from wte.weight: a model whose head is not tied is not served"));
        }
    }
    spec.try_map(&mut |s| {
        let (name, transposed) = theirs(&s.name);
        file.read(&name, &s.shape, transposed)
    })
}

fn unknown(name: &str, config: &Config) -> String {
    match names::from_hf(name) {
        Some(ours) => format!("a model of {} blocks has no '{ours}': {CONFIG} and {WEIGHTS} are not of one model", config.n_layer),
        None => "it is no parameter of a GPT-2".into(),
    }
}

/// `config.json` as `transformers` reads it. Dropouts are 0: nothing here drops but LoRA.
fn config_json(config: &Config, end: Option<u64>) -> Value {
    json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab(),
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.n_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": NORM_EPS,
        "tie_word_embeddings": true,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
    })
}

/// What a `config.json` says that matters here; what it leaves out is what GPT-2's own default is.
#[derive(Deserialize)]
struct HfConfig {
    model_type: Option<String>,
    vocab_size: usize,
    n_positions: Option<usize>,
    /// What old versions call `n_positions`.
    n_ctx: Option<usize>,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f64>,
    tie_word_embeddings: Option<bool>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    add_cross_attention: Option<bool>,
}

/// Reads a folder's `config.json`; a model that is not GPT-2's architecture is refused, and the setting named.
pub fn read_config(dir: &Path) -> Result<Config, ModelFileError> {
    let path = dir.join(CONFIG);
    let hf: HfConfig = serde_json::from_str(&read_text(&path)?).map_err(|e| ModelFileError::format(&path, e))?;
    let refuse =
        |field: &str, found: String, served: &str| Err(ModelFileError::setting(&path, field, format!("{found}; served is {served}")));
    if let Some(kind) = hf.model_type.filter(|k| k != "gpt2") {
        return refuse("model_type", kind, "gpt2");
    }
    if let Some(f) = hf.activation_function.filter(|f| f != "gelu_new" && f != "gelu_pytorch_tanh") {
        return refuse("activation_function", f, "gelu_new, the tanh form of GELU");
    }
    if let Some(eps) = hf.layer_norm_epsilon.filter(|&eps| eps != NORM_EPS) {
        return refuse("layer_norm_epsilon", eps.to_string(), "1e-5");
    }
    for (field, found, served) in [
        ("tie_word_embeddings", hf.tie_word_embeddings, true),
        ("scale_attn_weights", hf.scale_attn_weights, true),
        ("scale_attn_by_inverse_layer_idx", hf.scale_attn_by_inverse_layer_idx, false),
        ("add_cross_attention", hf.add_cross_attention, false),
    ] {
        if found.is_some_and(|found| found != served) {
            return refuse(field, (!served).to_string(), &served.to_string());
        }
    }
    let n_ctx = hf.n_positions.or(hf.n_ctx).ok_or_else(|| ModelFileError::setting(&path, "n_positions", "it is missing"))?;
    let config =
        Config { n_embd: hf.n_embd, n_head: hf.n_head, n_layer: hf.n_layer, n_ff: hf.n_inner, n_ctx, n_vocab: Some(hf.vocab_size) };
    config.check().map_err(|e| ModelFileError::format(&path, e))?;
    Ok(config)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::init::initial;
    use std::fs;

    pub(crate) fn small() -> Config {
        Config { n_embd: 6, n_head: 2, n_layer: 2, n_ff: Some(10), n_ctx: 5, n_vocab: Some(7) }
    }

    pub(crate) fn tokenizer() -> TokenizerFiles {
        TokenizerFiles {
            vocab_json: r#"{"a":0,"b":1,"c":2,"d":3,"e":4,"ab":5,"<|endoftext|>":6}"#.into(),
            merges_txt: "#version: 0.2\na b\n".into(),
        }
    }

    fn written(dir: &Path) -> Decoder<Vec<f32>> {
        let weights = initial(&Decoder::spec(&small(), None), 1);
        write(dir, &small(), &weights, &tokenizer()).unwrap();
        weights
    }

    #[test]
    fn a_model_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let weights = written(dir.path());
        let (config, read) = read(dir.path()).unwrap();
        assert_eq!(config, small());
        assert_eq!(read.leaves(), weights.leaves());
        assert_eq!(TokenizerFiles::read(dir.path(), &small()).unwrap(), tokenizer());
        let json: Value = serde_json::from_str(&read_text(&dir.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!((&json["eos_token_id"], &json["n_inner"], &json["layer_norm_epsilon"]), (&json!(6), &json!(10), &json!(1e-5)));
    }

    #[test]
    fn a_tokenizer_of_another_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let read = |v| TokenizerFiles::read(dir.path(), &Config { n_vocab: Some(v), ..small() });
        assert!(read(7).is_ok());
        assert!(read(8).unwrap_err().to_string().contains("vocab.json: it has 7 tokens, but config.json says 8"));
        fs::write(dir.path().join(VOCAB), "{\"a\"").unwrap();
        assert!(read(7).unwrap_err().to_string().contains("vocab.json: EOF"));
    }

    #[test]
    fn matrices_of_a_block_lie_as_conv1d() {
        let dir = tempfile::tempdir().unwrap();
        let weights = written(dir.path());
        let file = TensorFile::open(&dir.path().join(WEIGHTS)).unwrap();
        let (c, f) = (6, 10);
        let theirs = file.read("transformer.h.1.mlp.c_fc.weight", &[c, f], false).unwrap();
        let ours = &weights.blocks[1].mlp.up.w.0;
        assert!((0..c).all(|i| (0..f).all(|o| theirs[i * f + o] == ours[o * c + i])));
        assert_eq!(&file.read("transformer.wte.weight", &[7, c], false).unwrap(), &weights.wte.0);
    }

    /// A file with other names: a bare model, with masks and a tied head beside.
    fn rewritten(dir: &Path, extra: &[(&str, Vec<f32>)], prefix: &str) {
        let weights = initial(&Decoder::spec(&small(), None), 1);
        let spec = Decoder::spec(&small(), None);
        let mut all: Vec<(Entry, Vec<f32>)> = vec![];
        for (s, w) in spec.leaves().into_iter().zip(weights.leaves()) {
            let theirs = names::to_hf(&s.name).unwrap();
            all.push((
                Entry { name: format!("{prefix}{}", theirs.name), shape: s.shape.clone(), transposed: theirs.transposed },
                w.clone(),
            ));
        }
        for (name, data) in extra {
            all.push((Entry { name: (*name).into(), shape: vec![data.len()], transposed: false }, data.clone()));
        }
        let entries: Vec<Entry> = all.iter().map(|a| a.0.clone()).collect();
        write_tensors(&dir.join(WEIGHTS), &entries, |i| Ok(&all[i].1)).unwrap();
    }

    #[test]
    fn other_writers_names_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let weights = written(dir.path());
        let mask = ("h.0.attn.bias", vec![1.0; 25]);
        rewritten(dir.path(), &[mask, ("h.0.attn.masked_bias", vec![-1e4]), (HF_HEAD, weights.wte.0.clone())], "");
        assert_eq!(read(dir.path()).unwrap().1.leaves(), weights.leaves());
    }

    #[test]
    fn strange_tensors_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut head = written(dir.path()).wte.0;
        let say = |extra: (&str, Vec<f32>)| {
            rewritten(dir.path(), &[extra], HF_PREFIX);
            read(dir.path()).unwrap_err().to_string()
        };
        head[3] += 1.0;
        assert!(say((HF_HEAD, head)).contains("'lm_head.weight': it differs from wte.weight"));
        assert!(say(("transformer.h.2.ln_1.bias", vec![0.0; 6])).contains("a model of 2 blocks has no 'blk.2.attn_norm.bias'"));
        assert!(say(("score.weight", vec![0.0; 6])).contains("'score.weight': it is no parameter of a GPT-2"));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_tensor() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let path = dir.path().join(CONFIG);
        let good = read_text(&path).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            fs::write(&path, good.replace(from, to)).unwrap();
            read(dir.path()).unwrap_err().to_string()
        };
        let says = with("\"vocab_size\": 7", "\"vocab_size\": 8");
        assert!(says.contains("model.safetensors: tensor 'transformer.wte.weight': its shape is [7, 6]"), "{says}");
        assert!(with("\"n_layer\": 2", "\"n_layer\": 3").contains("'transformer.h.2.ln_1.weight': it is missing"));
        assert!(with("\"n_embd\": 6", "\"n_embd\": 7").contains("no multiple"));
        assert!(with("\"n_embd\": 6", "\"n_embd\": 600000000000").contains("between 1 and"));
        assert!(with("gelu_new", "relu").contains("config.json: activation_function: relu; served is"));
        assert!(with("\"gpt2\"", "\"llama\"").contains("model_type: llama"));
        assert!(with("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false").contains("tie_word_embeddings: false"));
        assert!(with("0.00001", "0.000001").contains("layer_norm_epsilon"));
        assert!(with("\"n_head\": 2,", "").contains("config.json: missing field `n_head`"));
        assert!(with("}", "").contains("config.json: EOF"));
    }
}
