//! A model as GGUF: what llama.cpp and `tinyllm-run` load.

use crate::gguf::{GgufError, Value, Writer};
use crate::model::{Config, Decoder, Tree};
use crate::quant::{Choice, FileType, GgmlType};
use crate::simd::Isa;
use rayon::prelude::*;
use std::io::Write;
use std::path::Path;

/// What a model says of itself beside its weights.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Shown by programs that list models.
    pub name: String,
    /// Tokens in byte-level-unicode form, by id.
    pub tokens: Vec<String>,
    /// Merges in rank order: "a b".
    pub merges: Vec<String>,
    /// The token that ends a text.
    pub end_token: u32,
    /// Our own keys: `tinyllm.codec`, `tinyllm.template`, ...
    pub texts: Vec<(String, String)>,
    /// `tinyllm.labels`; empty where the model is no classifier.
    pub labels: Vec<String>,
}

/// Rows that are encoded together: some megabytes, so that neither all of a tensor's bytes nor a thread's start counts.
const ROWS: usize = 1024;
/// Rows that a thread encodes at a time.
const SHARE: usize = 16;

/// Writes weights as a GGUF file, whole or not at all. Matrices are stored as the file type says ([`FileType`]); norms, biases
/// and the position embedding stay F32, as llama.cpp wants them.
///
/// # Panics
/// If an adapter is not merged, or the card has not as many tokens as the embedding rows.
pub fn write(path: &Path, config: &Config, weights: &Decoder<Vec<f32>>, card: &Card, ty: FileType) -> Result<(), GgufError> {
    let spec = Decoder::spec(config, None);
    let (specs, leaves) = (spec.leaves(), weights.leaves());
    assert_eq!(specs.len(), leaves.len(), "a merged model");
    assert_eq!(card.tokens.len(), config.vocab(), "a token for each row of the embedding");
    let mut w = Writer::new();
    let size = |n: usize| n as u32;
    w.meta("general.architecture", "gpt2")
        .meta("general.name", card.name.as_str())
        .meta("general.file_type", ty.id())
        .meta("general.quantization_version", 2u32)
        .meta("gpt2.context_length", size(config.n_ctx))
        .meta("gpt2.embedding_length", size(config.n_embd))
        .meta("gpt2.block_count", size(config.n_layer))
        .meta("gpt2.feed_forward_length", size(config.ff()))
        .meta("gpt2.attention.head_count", size(config.n_head))
        .meta("gpt2.attention.layer_norm_epsilon", crate::backend::NORM_EPS as f32)
        .meta("tokenizer.ggml.model", "gpt2")
        .meta("tokenizer.ggml.pre", "gpt-2")
        .meta("tokenizer.ggml.tokens", Value::strings(card.tokens.iter().cloned()))
        .meta("tokenizer.ggml.token_type", Value::i32s((0..size(card.tokens.len())).map(|id| if id == card.end_token { 3 } else { 1 })))
        .meta("tokenizer.ggml.merges", Value::strings(card.merges.iter().cloned()))
        .meta("tokenizer.ggml.bos_token_id", card.end_token)
        .meta("tokenizer.ggml.eos_token_id", card.end_token)
        .meta("tinyllm.version", env!("CARGO_PKG_VERSION"));
    for (key, text) in &card.texts {
        w.meta(key, text.as_str());
    }
    if !card.labels.is_empty() {
        w.meta("tinyllm.labels", Value::strings(card.labels.iter().cloned()));
    }
    let (isa, model) = (Isa::detect(), Choice { n_layer: config.n_layer, tied: true, importance: false });
    for (s, leaf) in specs.into_iter().zip(leaves) {
        let cols = *s.shape.last().expect("a parameter has a shape");
        let dims: Vec<u64> = s.shape.iter().rev().map(|&d| d as u64).collect();
        let stored = ty.format_of(&s.name, &dims, &model).unwrap_or(GgmlType::F32);
        let fill = move |out: &mut dyn Write| {
            for rows in leaf.chunks(ROWS * cols) {
                let encoded: Vec<Vec<u8>> = rows
                    .par_chunks(SHARE * cols)
                    .map(|rows| {
                        let mut bytes = Vec::new();
                        stored.quantize_rows(isa, &mut bytes, rows, None);
                        bytes
                    })
                    .collect();
                encoded.iter().try_for_each(|bytes| out.write_all(bytes))?;
            }
            Ok(())
        };
        w.tensor(&s.name, stored.id(), &dims, Box::new(fill));
    }
    w.write(path)
}
