//! Importance from a file, in the form that llama.cpp's `llama-imatrix` writes: a GGUF with two tensors for each matrix,
//! `NAME.in_sum2` (squares of its inputs, summed, `[columns, 1]`) and `NAME.counts` (of how many, `[1, 1]`).

use crate::gguf::{Gguf, GgufError, View};
use crate::quant::{GgmlType, Importance};
use std::path::Path;

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
