//! Importance in a file, in the form of llama.cpp's `llama-imatrix`: a GGUF with two tensors for each matrix, `NAME.in_sum2`
//! (squares of its inputs, summed, `[columns, 1]`) and `NAME.counts` (of how many, `[1, 1]`).

use crate::fsio::{At, IoError};
use crate::gguf::{Gguf, GgufError, MAGIC, Value, View, Writer};
use crate::quant::{GgmlType, Importance};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where importance comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The text, by name.
    pub text: String,
    /// Tokens of it that were read.
    pub tokens: u64,
    /// Tokens that were read in one piece, at most.
    pub window: u32,
}

/// Writes such a file, whole or not at all. llama.cpp's quantizer looks for a tied head, as we do, under `token_embd.weight`.
pub fn write(path: &Path, importance: &Importance, source: &Source) -> Result<(), GgufError> {
    let mut w = Writer::new();
    let windows = source.tokens.div_ceil(u64::from(source.window.max(1)));
    w.meta("general.type", "imatrix")
        .meta("imatrix.datasets", Value::strings([source.text.as_str()]))
        .meta("imatrix.chunk_count", u32::try_from(windows).unwrap_or(u32::MAX))
        .meta("imatrix.chunk_size", source.window);
    for (name, means) in &importance.0 {
        let count = source.tokens as f32;
        let sums = move |out: &mut dyn std::io::Write| means.iter().try_for_each(|m| out.write_all(&(m * count).to_le_bytes()));
        w.tensor(&format!("{name}.in_sum2"), GgmlType::F32.id(), &[means.len() as u64, 1], Box::new(sums));
        w.tensor(&format!("{name}.counts"), GgmlType::F32.id(), &[1, 1], Box::new(move |out| out.write_all(&count.to_le_bytes())));
    }
    w.write(path)
}

/// Whether a file begins as every GGUF does, which no text does.
pub fn is_gguf(path: &Path) -> Result<bool, IoError> {
    let (mut file, mut start) = (File::open(path).at(path, "open")?, vec![]);
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start).at(path, "read")?;
    Ok(start == MAGIC)
}

/// Reads such a file.
pub fn read(path: &Path) -> Result<Importance, GgufError> {
    let file = Gguf::open(path)?;
    if file.get("general.type") != Some(View::String("imatrix")) {
        return Err(
            file.unusable_key("general.type", "this is no importance matrix (general.type is not 'imatrix'); llama-imatrix writes one")
        );
    }
    let mut found = Importance::default();
    for sums in file.tensors() {
        let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
        let Some(counts) = file.tensor(&format!("{name}.counts")) else {
            return Err(file.unusable_tensor(sums, &format!("{name}.counts is not in the file")));
        };
        let numbers = |of| -> Result<Vec<f32>, GgufError> {
            let tensor: &crate::gguf::TensorInfo = of;
            if tensor.ty.id != GgmlType::F32.id() {
                return Err(file.unusable_tensor(tensor, &format!("{} is of type {}, not F32", tensor.name, tensor.ty.name)));
            }
            let mut out = vec![0.0; tensor.len / 4];
            GgmlType::F32.dequantize_row(&mut out, file.data(tensor));
            match out.iter().find(|x| !x.is_finite() || **x < 0.0) {
                Some(bad) => Err(file.unusable_tensor(tensor, &format!("{} holds {bad}; only numbers from 0 up can be", tensor.name))),
                None => Ok(out),
            }
        };
        let (sums_of, counts_of) = (numbers(sums)?, numbers(counts)?);
        let [count] = counts_of[..] else {
            return Err(file.unusable_tensor(counts, &format!("{name} has {} counts, and one is possible for a GPT-2", counts_of.len())));
        };
        let mean = |sum: &f32| if count > 0.0 { sum / count } else { 1.0 };
        found.0.insert(name.to_owned(), sums_of.iter().map(mean).collect());
    }
    if found.0.is_empty() {
        return Err(file.incomplete("the file has no tensor '*.in_sum2': it tells the importance of nothing"));
    }
    Ok(found)
}
