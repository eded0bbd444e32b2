//! GGUF files in memory: `gguf::Writer` writes to disk alone, too slow for thousands of files a second.

use crate::gguf_model::{shapes, tiny_vocabulary};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;

/// A file in the making.
#[derive(Default)]
pub struct File {
    entries: (u64, Vec<u8>),
    tensors: (u64, Vec<u8>),
    data: Vec<u8>,
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl File {
    /// A metadata entry: the number of its type, and the value as it lies in the file.
    pub fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.entries.0 += 1;
        put_string(&mut self.entries.1, key);
        self.entries.1.extend(ty.to_le_bytes());
        self.entries.1.extend(value);
    }
    /// A string.
    pub fn string(&mut self, key: &str, value: &str) {
        let mut bytes = vec![];
        put_string(&mut bytes, value);
        self.entry(key, 8, &bytes);
    }
    /// A list of strings.
    pub fn strings(&mut self, key: &str, values: &[String]) {
        let mut bytes = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|s| put_string(&mut bytes, s));
        self.entry(key, 9, &bytes);
    }
    /// A whole number.
    pub fn u32(&mut self, key: &str, value: usize) {
        self.entry(key, 4, &(value as u32).to_le_bytes());
    }
    /// A tensor; dimensions in ggml's order.
    pub fn tensor(&mut self, name: &str, ty: GgmlType, dims: &[usize], data: &[u8]) {
        let out = &mut self.tensors.1;
        self.tensors.0 += 1;
        put_string(out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|&d| out.extend((d as u64).to_le_bytes()));
        out.extend(ty.id().to_le_bytes());
        out.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }
    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [&b"GGUF"[..], &3u32.to_le_bytes(), &self.tensors.0.to_le_bytes(), &self.entries.0.to_le_bytes()].concat();
        out.extend(&self.entries.1);
        out.extend(&self.tensors.1);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// A GPT-2 with the tiny vocabulary; `tensor` says of each tensor its type and its bytes.
pub fn gpt2(c: &Config, mut tensor: impl FnMut(&str, &[usize]) -> (GgmlType, Vec<u8>)) -> File {
    let (tokens, merges) = tiny_vocabulary();
    let mut file = File::default();
    file.string("general.architecture", "gpt2");
    for (key, value) in [
        ("gpt2.context_length", c.n_ctx),
        ("gpt2.embedding_length", c.n_embd),
        ("gpt2.block_count", c.n_layer),
        ("gpt2.feed_forward_length", c.ff()),
        ("gpt2.attention.head_count", c.n_head),
        ("tokenizer.ggml.eos_token_id", 260),
    ] {
        file.u32(key, value);
    }
    file.entry("gpt2.attention.layer_norm_epsilon", 6, &1e-5f32.to_le_bytes());
    file.string("tokenizer.ggml.model", "gpt2");
    file.strings("tokenizer.ggml.tokens", &tokens);
    file.strings("tokenizer.ggml.merges", &merges);
    file.strings("tinyllm.labels", &["still".into(), "walk".into()]);
    for (name, dims) in shapes(c) {
        let (ty, bytes) = tensor(&name, &dims);
        file.tensor(&name, ty, &dims, &bytes);
    }
    file
}
