//! `Q3_K`: 256 weights in 16 groups of 16, `w = (d scale) q` with `q` in -4..=3 and 6-bit scales: 3.4375 bits a weight.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | bit 2 of `q + 4` of weight `32 k + i` (`i < 32`): bit `k` of byte `i` |
//! | 32..96 | bits 0, 1 of `q + 4`: as in Q2_K |
//! | 96..108 | scales plus 32: bits 0..4 of groups `g` and `g + 8` in the halves of byte `g < 8`, bits 4, 5 of group `4 k + j` in bits `2k, 2k + 1` of byte `8 + j` |
//! | 108..110 | `d`: `F16` |

use super::block::{Block, half};
use super::q2_k::pack_two_bits;
use super::symmetric_k::{self, GROUP, Kind, LEN, Loose};
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// A block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// The highest bit of the levels.
    pub hmask: [u8; 32],
    /// The other bits.
    pub qs: [u8; 64],
    /// Scales.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ3K>() == 110 && align_of::<BlockQ3K>() == 1);

const KIND: Kind = Kind { half: 4, greatest: 32, stepwise: true, nothing: 0.0 };

impl Block<LEN> for BlockQ3K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        symmetric_k::encode(s, &KIND, blocks, w, importance, |loose| Self::pack(loose.expect("kept even where it is nothing")));
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let (d, scales) = (half(self.d), unpack_scales(&self.scales));
        let mut w = [0.0; LEN];
        for (g, w) in w.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[g]);
            let (from, shift) = (g / 8 * 32 + g % 2 * 16, g % 8 / 2 * 2);
            for ((w, q), high) in w.iter_mut().zip(&self.qs[from..][..16]).zip(&self.hmask[g % 2 * 16..][..16]) {
                *w = scale * f32::from((q >> shift & 3 | (high >> (g / 2) & 1) << 2) as i8 - 4);
            }
        }
        w
    }
}

impl BlockQ3K {
    fn pack(loose: &Loose) -> Self {
        let mut scales = [0; 12];
        // A block without scales keeps zero bytes for them, not the 32 that stands for 0.
        if loose.d != [0; 2] || loose.scales != [0; 16] {
            for (g, &scale) in loose.scales.iter().enumerate() {
                let scale = (scale + 32) as u8;
                scales[g % 8] |= (scale & 15) << (g / 8 * 4);
                scales[8 + g % 4] |= scale >> 4 << (g / 4 * 2);
            }
        }
        Self {
            hmask: std::array::from_fn(|i| (0..8).fold(0, |byte, k| byte | (loose.levels[32 * k + i] >> 2) << k)),
            qs: pack_two_bits(&loose.levels),
            scales,
            d: loose.d,
        }
    }
}

/// The scales of the sixteen groups.
#[inline(always)]
#[must_use]
pub fn unpack_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|g| (packed[g % 8] >> (g / 8 * 4) & 15 | (packed[8 + g % 4] >> (g / 4 * 2) & 3) << 4) as i8 - 32)
}
