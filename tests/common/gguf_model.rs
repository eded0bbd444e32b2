//! A small random GPT-2 in a GGUF file, and its weights for a plain twin to compute with.
#![allow(dead_code)] // each test uses what it needs

use std::collections::BTreeMap;
use std::path::Path;
use tinyllm::gguf::{Value, Writer};
use tinyllm::model::Config;
use tinyllm::quant::{FileType, GgmlType};
use tinyllm::rng::{Rng, key_of};

/// A model's weights as the file stores them, decoded: name -> (dimensions in ggml's order, weights).
pub type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// GPT-2's byte-level alphabet: the character that stands for each byte.
pub fn byte_chars() -> Vec<String> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let c = if printable(b) { b } else { (next, next += 1).0 };
            char::from_u32(c).unwrap().to_string()
        })
        .collect()
}

/// A vocabulary of 261: the bytes, four merged tokens and the end token.
pub fn tiny_vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens = byte_chars();
    let merges = ["t h", "th e", "Ġ the", "Ġ 4"].map(String::from).to_vec();
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    tokens.push("<|endoftext|>".into());
    (tokens, merges)
}

/// Sizes that are no multiple of any tile, but of a Q8_0 block: C 96, F 160, 3 heads of 32.
pub fn tiny_config() -> Config {
    Config { n_embd: 96, n_head: 3, n_layer: 2, n_ff: Some(160), n_ctx: 96, n_vocab: Some(261) }
}

/// Names and dimensions (ggml's order) of a GPT-2's tensors.
pub fn shapes(c: &Config) -> Vec<(String, Vec<usize>)> {
    let (e, f) = (c.n_embd, c.ff());
    let mut all = vec![("token_embd.weight".into(), vec![e, c.vocab()]), ("position_embd.weight".into(), vec![e, c.n_ctx])];
    for i in 0..c.n_layer {
        for (name, dims) in [
            ("attn_norm.weight", vec![e]),
            ("attn_norm.bias", vec![e]),
            ("attn_qkv.weight", vec![e, 3 * e]),
            ("attn_qkv.bias", vec![3 * e]),
            ("attn_output.weight", vec![e, e]),
            ("attn_output.bias", vec![e]),
            ("ffn_norm.weight", vec![e]),
            ("ffn_norm.bias", vec![e]),
            ("ffn_up.weight", vec![e, f]),
            ("ffn_up.bias", vec![f]),
            ("ffn_down.weight", vec![f, e]),
            ("ffn_down.bias", vec![e]),
        ] {
            all.push((format!("blk.{i}.{name}"), dims));
        }
    }
    all.extend([("output_norm.weight".into(), vec![e]), ("output_norm.bias".into(), vec![e])]);
    all
}

/// Random weights, large enough that the logits differ by some units. Matrices but the positions' are of type `ty`.
pub fn random_weights(c: &Config, seed: u64) -> Weights {
    let draw = |(name, dims): (String, Vec<usize>)| {
        let mut rng = Rng::new(key_of(seed, &name));
        let spread = match name.as_str() {
            n if n.contains("norm.weight") => 0.1,
            "token_embd.weight" => 0.15,
            _ => 0.08,
        };
        let mean = if name.contains("norm.weight") { 1.0 } else { 0.0 };
        let weights = (0..dims.iter().product()).map(|_| (mean + spread * rng.normal()) as f32).collect();
        (name, (dims, weights))
    };
    shapes(c).into_iter().map(draw).collect()
}

/// The same with rows that are multiples of 256, for the formats whose blocks are: C 256, F 512.
pub fn wide_config() -> Config {
    Config { n_embd: 256, n_ff: Some(512), n_head: 4, ..tiny_config() }
}

/// Sizes whose rows the format can hold.
pub fn config_for(ty: GgmlType) -> Config {
    if ty.block_len() > 32 { wide_config() } else { tiny_config() }
}

/// The format a tensor gets in a file whose matrices are all of format `ty`.
pub fn stored_as(name: &str, dims: &[usize], ty: GgmlType) -> GgmlType {
    if dims.len() == 1 || name == "position_embd.weight" { GgmlType::F32 } else { ty }
}

/// The metadata llama.cpp wants, added to `w`.
pub fn metadata(w: &mut Writer<'_>, c: &Config, tokens: &[String], merges: &[String], end: u32, file_type: u32) {
    w.meta("general.architecture", "gpt2")
        .meta("general.name", "test")
        .meta("general.file_type", file_type)
        .meta("general.quantization_version", 2u32)
        .meta("gpt2.context_length", c.n_ctx as u32)
        .meta("gpt2.embedding_length", c.n_embd as u32)
        .meta("gpt2.block_count", c.n_layer as u32)
        .meta("gpt2.feed_forward_length", c.ff() as u32)
        .meta("gpt2.attention.head_count", c.n_head as u32)
        .meta("gpt2.attention.layer_norm_epsilon", 1e-5f32)
        .meta("tokenizer.ggml.model", "gpt2")
        .meta("tokenizer.ggml.pre", "gpt-2")
        .meta("tokenizer.ggml.tokens", Value::strings(tokens))
        .meta("tokenizer.ggml.token_type", Value::i32s((0..tokens.len() as u32).map(|i| if i == end { 3 } else { 1 })))
        .meta("tokenizer.ggml.merges", Value::strings(merges))
        .meta("tokenizer.ggml.bos_token_id", end)
        .meta("tokenizer.ggml.eos_token_id", end);
}

/// Adds all tensors in type `ty`; gives back the weights as they decode from the file.
pub fn tensors(w: &mut Writer<'_>, c: &Config, weights: &Weights, ty: GgmlType) -> Weights {
    let mut decoded = Weights::new();
    for (name, dims) in shapes(c) {
        let ty = stored_as(&name, &dims, ty);
        let mut bytes = vec![];
        weights[&name].1.chunks(dims[0]).for_each(|row| ty.quantize_row(&mut bytes, row));
        let mut back = vec![0.0; weights[&name].1.len()];
        ty.dequantize_row(&mut back, &bytes);
        let ne: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        w.tensor(&name, ty.id(), &ne, Box::new(move |out| out.write_all(&bytes)));
        decoded.insert(name, (dims, back));
    }
    decoded
}

/// A tiny model's file of type `ty`, and its weights as they decode.
pub fn tiny_model(path: &Path, ty: GgmlType, seed: u64) -> (Config, Weights) {
    let c = config_for(ty);
    let weights = tiny_model_with(path, &c, ty, seed, &[]);
    (c, weights)
}

/// The same with other sizes and more metadata.
pub fn tiny_model_with(path: &Path, c: &Config, ty: GgmlType, seed: u64, more: &[(&str, Value)]) -> Weights {
    let (tokens, merges) = tiny_vocabulary();
    let mut w = Writer::new();
    metadata(&mut w, c, &tokens, &merges, 260, file_type(ty));
    for (key, value) in more {
        w.meta(key, value.clone());
    }
    let decoded = tensors(&mut w, c, &random_weights(c, seed), ty);
    w.write(path).unwrap();
    decoded
}

/// `general.file_type`: of the smallest file type whose matrices are mostly of this format.
pub fn file_type(ty: GgmlType) -> u32 {
    FileType::ALL.into_iter().rev().find(|t| t.format() == ty).unwrap().id()
}
