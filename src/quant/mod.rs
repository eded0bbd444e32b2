//! Block formats: what a tensor's bytes mean, and the scalar truth of each format.
//!
//! A format cuts a row into blocks of [`GgmlType::block_len`] weights and stores each block in
//! [`GgmlType::block_bytes`] bytes, little-endian, as ggml does. Decoding is plain loops: every faster kernel is held to
//! them. Encoding gives the bytes of ggml's reference quantizer, or with importance (how large a column's inputs are,
//! in the mean of their squares) blocks that err less where it counts. [`FileType`] says which tensor of a model gets which format.
//!
//! | file | formats |
//! | --- | --- |
//! | here | `F32`, `F16`, `BF16` |
//! | `q8_0` | `Q8_0` |
//! | `q45` | `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` |
//! | `q2_k`, `q45_k` over `affine_k` | `Q2_K`; `Q4_K`, `Q5_K` |
//! | `q3_k`, `q6_k` over `symmetric_k` | `Q3_K`; `Q6_K` |

mod affine_k;
mod block;
mod filetype;
mod fit;
mod importance;
mod q2_k;
mod q3_k;
mod q45;
mod q45_k;
mod q6_k;
mod q8_0;
mod symmetric_k;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use filetype::{Choice, FileType};
pub use importance::Importance;
pub use q2_k::BlockQ2K;
pub use q3_k::{BlockQ3K, unpack_scales as unpack_q3_k_scales};
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;
pub use q45::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1};
pub use q45_k::{BlockQ4K, BlockQ5K, unpack_scales as unpack_q45_k_scales};

use crate::simd::Isa;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use std::marker::PhantomData;

/// The formats that can be computed with, by ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types)]
pub enum GgmlType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE 754 binary16.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// 32 weights as 8-bit integers with one `F16` scale: 8.5 bits a weight.
    Q8_0,
    /// 256 weights of 6 bits: 6.5625 bits a weight.
    Q6_K,
    /// 32 weights of 5 bits with a scale and a minimum: 6 bits a weight.
    Q5_1,
    /// 256 weights of 5 bits: 5.5 bits a weight.
    Q5_K,
    /// 32 weights of 5 bits with a scale: 5.5 bits a weight.
    Q5_0,
    /// 32 weights of 4 bits with a scale and a minimum: 5 bits a weight.
    Q4_1,
    /// 256 weights of 4 bits: 4.5 bits a weight.
    Q4_K,
    /// 32 weights of 4 bits with a scale: 4.5 bits a weight.
    Q4_0,
    /// 256 weights of 3 bits: 3.4375 bits a weight.
    Q3_K,
    /// 256 weights of 2 bits: 2.625 bits a weight.
    Q2_K,
}

impl GgmlType {
    /// All of them, by falling size.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_1,
        Self::Q5_K,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_K,
        Self::Q4_0,
        Self::Q3_K,
        Self::Q2_K,
    ];

    /// The number by which GGUF knows the format (`enum ggml_type`).
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// The format with this number, if it is one of ours.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// "F32", "Q4_K".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q6_K => "Q6_K",
            Self::Q5_1 => "Q5_1",
            Self::Q5_K => "Q5_K",
            Self::Q5_0 => "Q5_0",
            Self::Q4_1 => "Q4_1",
            Self::Q4_K => "Q4_K",
            Self::Q4_0 => "Q4_0",
            Self::Q3_K => "Q3_K",
            Self::Q2_K => "Q2_K",
        }
    }

    /// Weights of a block; a row must be a multiple.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q5_1 | Self::Q5_0 | Self::Q4_1 | Self::Q4_0 => 32,
            Self::Q6_K | Self::Q5_K | Self::Q4_K | Self::Q3_K | Self::Q2_K => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => size_of::<BlockQ8_0>(),
            Self::Q6_K => size_of::<BlockQ6K>(),
            Self::Q5_1 => size_of::<BlockQ5_1>(),
            Self::Q5_K => size_of::<BlockQ5K>(),
            Self::Q5_0 => size_of::<BlockQ5_0>(),
            Self::Q4_1 => size_of::<BlockQ4_1>(),
            Self::Q4_K => size_of::<BlockQ4K>(),
            Self::Q4_0 => size_of::<BlockQ4_0>(),
            Self::Q3_K => size_of::<BlockQ3K>(),
            Self::Q2_K => size_of::<BlockQ2K>(),
        }
    }

    /// Whether weights are integers in units of a scale.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bits that a weight takes.
    #[must_use]
    pub const fn bits(self) -> f64 {
        (8 * self.block_bytes()) as f64 / self.block_len() as f64
    }

    /// Bytes of `n` weights.
    ///
    /// # Panics
    /// If `n` is no multiple of the block.
    #[must_use]
    pub const fn row_bytes(self, n: usize) -> usize {
        assert!(n.is_multiple_of(self.block_len()), "a row is a whole number of blocks");
        n / self.block_len() * self.block_bytes()
    }

    /// Decodes `out.len()` weights from the front of `bytes`.
    ///
    /// # Panics
    /// If `out` is no whole number of blocks, or `bytes` is shorter than they are.
    pub fn dequantize_row(self, out: &mut [f32], bytes: &[u8]) {
        self.dequantize_row_inlined(out, bytes);
    }

    /// [`Self::dequantize_row`], for an [`Op`](crate::simd::Op) to have it compiled in its own instructions.
    ///
    /// # Panics
    /// As there.
    #[inline(always)]
    pub fn dequantize_row_inlined(self, out: &mut [f32], bytes: &[u8]) {
        let bytes = &bytes[..self.row_bytes(out.len())];
        match self {
            Self::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            Self::F16 => match bytemuck::try_cast_slice::<u8, u16>(bytes) {
                // Converts eight at a time where the CPU can (F16C, FP16), found out at run time.
                Ok(bits) => bits.reinterpret_cast::<f16>().convert_to_f32_slice(out),
                Err(_) => {
                    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *o = f16::from_le_bytes(*b).to_f32();
                    }
                }
            },
            Self::BF16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = bf16::from_le_bytes(*b).to_f32();
                }
            }
            Self::Q8_0 => block::decode::<BlockQ8_0, 32>(out, bytes),
            Self::Q6_K => block::decode::<BlockQ6K, 256>(out, bytes),
            Self::Q5_1 => block::decode::<BlockQ5_1, 32>(out, bytes),
            Self::Q5_K => block::decode::<BlockQ5K, 256>(out, bytes),
            Self::Q5_0 => block::decode::<BlockQ5_0, 32>(out, bytes),
            Self::Q4_1 => block::decode::<BlockQ4_1, 32>(out, bytes),
            Self::Q4_K => block::decode::<BlockQ4K, 256>(out, bytes),
            Self::Q4_0 => block::decode::<BlockQ4_0, 32>(out, bytes),
            Self::Q3_K => block::decode::<BlockQ3K, 256>(out, bytes),
            Self::Q2_K => block::decode::<BlockQ2K, 256>(out, bytes),
        }
    }

    /// Encodes a row, or several that follow each other, onto the end of `out`: ggml's reference, byte for byte.
    ///
    /// # Panics
    /// If `row` is no whole number of blocks.
    pub fn quantize_row(self, out: &mut Vec<u8>, row: &[f32]) {
        self.quantize_rows(Isa::detect(), out, row, None);
    }

    /// Encodes rows onto the end of `out` with the instruction set given, which changes no bit. `importance`, a number
    /// from 0 up for each column, has the error weighed by it: `sum importance (w - decoded)^2` becomes small.
    ///
    /// # Panics
    /// If a row (or without importance all of `rows`) is no whole number of blocks, or `rows` no whole number of rows.
    pub fn quantize_rows(self, isa: Isa, out: &mut Vec<u8>, rows: &[f32], importance: Option<&[f32]>) {
        out.reserve(self.row_bytes(rows.len()));
        if let Some(importance) = importance {
            assert!(!importance.is_empty() && rows.len().is_multiple_of(importance.len()), "a number for each column");
            assert!(importance.len().is_multiple_of(self.block_len()), "a row is a whole number of blocks");
        }
        match self {
            Self::F32 => rows.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Self::F16 => rows.iter().for_each(|&x| out.extend(f16::from_f32(x).to_le_bytes())),
            Self::BF16 => rows.iter().for_each(|&x| out.extend(bf16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => encode::<BlockQ8_0, 32>(isa, out, rows, importance),
            Self::Q6_K => encode::<BlockQ6K, 256>(isa, out, rows, importance),
            Self::Q5_1 => encode::<BlockQ5_1, 32>(isa, out, rows, importance),
            Self::Q5_K => encode::<BlockQ5K, 256>(isa, out, rows, importance),
            Self::Q5_0 => encode::<BlockQ5_0, 32>(isa, out, rows, importance),
            Self::Q4_1 => encode::<BlockQ4_1, 32>(isa, out, rows, importance),
            Self::Q4_K => encode::<BlockQ4K, 256>(isa, out, rows, importance),
            Self::Q4_0 => encode::<BlockQ4_0, 32>(isa, out, rows, importance),
            Self::Q3_K => encode::<BlockQ3K, 256>(isa, out, rows, importance),
            Self::Q2_K => encode::<BlockQ2K, 256>(isa, out, rows, importance),
        }
    }
}

fn encode<B: Block<N>, const N: usize>(isa: Isa, bytes: &mut Vec<u8>, w: &[f32], importance: Option<&[f32]>) {
    isa.run(block::Encode { bytes, w, importance, format: PhantomData::<B> });
}
