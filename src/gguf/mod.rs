//! The GGUF container, version 3: typed metadata, tensor descriptions, aligned tensor data. Nothing here knows what
//! a model is; what a tensor's bytes mean is [`quant`](crate::quant)'s affair.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  entries u64
//! entries:  key string, type u32, value
//! tensors:  name string, dimensions u32, each u64 (fastest first), type u32, offset u64 (from the start of the data)
//! padding to the alignment (`general.alignment`, 32 where it is not given), then the data, each tensor aligned
//! ```
//! A string is a length (u64) and UTF-8 bytes; all numbers are little-endian. [`Gguf`] reads, [`Writer`] writes.
//!
//! A file is taken for hostile until it is read: every length, count, type, offset and size is checked against what
//! is left of the file before anything is allocated for it, and no array is ever copied out of the map unasked.

mod error;
mod parse;
mod reader;
mod types;
mod utf8;
mod value;
mod view;
mod writer;

pub use error::GgufError;
pub use parse::TensorInfo;
pub use reader::Gguf;
pub use types::{TensorType, ValueType};
pub use value::Value;
pub use view::{Array, Strings, View};
pub use writer::{Fill, Writer};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version read and written.
pub const VERSION: u32 = 3;
/// Where each tensor of a written file begins: a multiple of this.
pub const ALIGNMENT: usize = 32;

/// Longest metadata key, by the format's specification.
pub const MAX_KEY: usize = 65_535;
/// Longest tensor name: ggml keeps 64 bytes, the closing zero among them.
pub const MAX_TENSOR_NAME: usize = 63;
/// Most dimensions of a tensor in ggml.
pub const MAX_DIMS: usize = 4;
/// Most tensors; 4,096 blocks of GPT-2 have 49,156, the largest known mixtures of experts some thousands.
pub const MAX_TENSORS: u64 = 1 << 16;
/// Most metadata entries; files in use have some dozens.
pub const MAX_ENTRIES: u64 = 1 << 16;
/// Deepest nesting of arrays; no known key goes beyond 1. Keeps recursion off the end of the stack.
pub const MAX_NESTING: usize = 4;
/// Largest `general.alignment`: a page of the largest kind in use for files.
pub const MAX_ALIGNMENT: u32 = 1 << 16;

#[cfg(target_endian = "big")]
compile_error!("weights are used where they lie in the file, which is little-endian");
