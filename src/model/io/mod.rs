//! The model's files: Hugging Face folders, PEFT adapters, GGUF. Each is the tree's leaves under other names.

pub mod gguf;
pub mod hf;
pub mod imatrix;
pub mod peft;
pub mod requantize;
pub mod safetensors;

use crate::fsio::IoError;
use std::path::{Path, PathBuf};

/// A model file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// The file system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file that is not what its name says, or cut short.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A tensor that is missing, unknown, of another shape or type, or no number.
    #[error("{}: tensor '{tensor}': {message}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong.
        message: String,
    },
    /// A setting that this program does not serve.
    #[error("{}: {field}: {message}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting's name in the file.
        field: String,
        /// What is wrong, and what is served.
        message: String,
    },
}

impl ModelFileError {
    fn format(path: &Path, message: impl ToString) -> Self {
        Self::Format { path: path.into(), message: message.to_string() }
    }
    fn tensor(path: &Path, tensor: &str, message: impl ToString) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), message: message.to_string() }
    }
    fn setting(path: &Path, field: &str, message: impl ToString) -> Self {
        Self::Setting { path: path.into(), field: field.into(), message: message.to_string() }
    }
}

/// A `(rows, cols)` matrix as `(cols, rows)`, in tiles that stay in the cache.
fn transpose(src: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut dst = vec![0.0; src.len()];
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for r in r0..rows.min(r0 + TILE) {
                for c in c0..cols.min(c0 + TILE) {
                    dst[c * rows + r] = src[r * cols + c];
                }
            }
        }
    }
    dst
}

#[cfg(test)]
mod tests {
    #[test]
    fn transposed_twice_is_the_same() {
        let (rows, cols) = (37, 65);
        let a: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        let t = super::transpose(&a, rows, cols);
        assert_eq!((t[0], t[1], t[rows]), (0.0, cols as f32, 1.0));
        assert_eq!(super::transpose(&t, cols, rows), a);
    }
}
