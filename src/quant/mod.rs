//! Block formats: what a tensor's bytes mean, and the scalar truth of each format.
//!
//! A format cuts a row into blocks of [`GgmlType::block_len`] weights and stores each block in
//! [`GgmlType::block_bytes`] bytes, little-endian, as ggml does. The functions here are plain loops: every faster
//! kernel is held to them. A further format (the K-quants) is a further file and a further arm below.

pub mod q8_0;

pub use q8_0::BlockQ8_0;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

/// The formats that can be computed with, by ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
}

impl GgmlType {
    /// All of them, by falling size.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0];

    /// The number by which GGUF knows the format (`enum ggml_type`).
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::BF16 => 30,
            Self::Q8_0 => 8,
        }
    }

    /// The format with this number, if it is one of ours.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// "F32", "Q8_0".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Weights of a block; a row must be a multiple.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 => q8_0::LEN,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => size_of::<BlockQ8_0>(),
        }
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
            Self::Q8_0 => q8_0::dequantize_row(out, bytes),
        }
    }

    /// Encodes a row onto the end of `out`, rounding to nearest.
    ///
    /// # Panics
    /// If `row` is no whole number of blocks.
    pub fn quantize_row(self, out: &mut Vec<u8>, row: &[f32]) {
        out.reserve(self.row_bytes(row.len()));
        match self {
            Self::F32 => row.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Self::F16 => row.iter().for_each(|&x| out.extend(f16::from_f32(x).to_le_bytes())),
            Self::BF16 => row.iter().for_each(|&x| out.extend(bf16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => q8_0::quantize_row(out, row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_format_decodes_to_within_its_rounding() {
        let mut rng = Rng::new(1);
        let row: Vec<f32> = (0..256).map(|_| rng.normal() as f32).collect();
        let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        for ty in GgmlType::ALL {
            let mut bytes = vec![];
            ty.quantize_row(&mut bytes, &row);
            assert_eq!(bytes.len(), ty.row_bytes(row.len()), "{}", ty.name());
            let mut back = vec![0.0; row.len()];
            ty.dequantize_row(&mut back, &bytes);
            // Half a unit in the last place of the largest value: 24, 11 and 8 bits of significand; half a step of
            // 1/127 plus the scale's own rounding to F16 (2^-11 of up to 127 steps).
            let bound = largest
                * match ty {
                    GgmlType::F32 => 0.0,
                    GgmlType::F16 => 2f32.powi(-11),
                    GgmlType::BF16 => 2f32.powi(-8),
                    GgmlType::Q8_0 => 0.5 / 127.0 + 2f32.powi(-11),
                };
            for (x, y) in row.iter().zip(&back) {
                assert!((x - y).abs() <= bound, "{}: {x} became {y}", ty.name());
            }
        }
    }

    #[test]
    fn odd_addresses_decode_alike() {
        let row: Vec<f32> = (0..64).map(|i| i as f32 / 7.0 - 4.0).collect();
        for ty in GgmlType::ALL {
            let (mut shifted, mut bytes) = (vec![0u8], vec![]);
            ty.quantize_row(&mut shifted, &row);
            ty.quantize_row(&mut bytes, &row);
            let (mut a, mut b) = (vec![0.0; 64], vec![0.0; 64]);
            ty.dequantize_row(&mut a, &shifted[1..]);
            ty.dequantize_row(&mut b, &bytes);
            assert_eq!(a, b, "{}", ty.name());
        }
    }

    #[test]
    fn numbers_name_their_formats() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
        }
        assert_eq!(GgmlType::from_id(12), None, "Q4_K is not computed with yet");
    }
}
