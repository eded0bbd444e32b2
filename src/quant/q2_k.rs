//! `Q2_K`: 256 weights in 16 groups of 16, `w = (d scale) q - (dmin minimum)` with `q` in 0..=3, 4-bit scales and
//! minima: 2.625 bits a weight.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..16 | group `g`: scale in the low, minimum in the high four bits |
//! | 16..80 | `q` of weight `128 h + 32 k + i` (`h < 2`, `k < 4`, `i < 32`): bits `2k, 2k + 1` of byte `32 h + i` |
//! | 80..82, 82..84 | `d`, `dmin`: `F16` |

use super::affine_k::{self, Kind, LEN, Loose};
use super::block::{Block, half};
use super::fit::Grid;
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// A block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// Scales and minima.
    pub scales: [u8; 16],
    /// Levels.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: [u8; 2],
    /// Scale of the minima.
    pub dmin: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ2K>() == 84 && align_of::<BlockQ2K>() == 1);

const KIND: Kind = Kind { grid: Grid { top: 3.0, from: -0.5, step: 0.1, last: 15, absolute: true }, greatest: 15, spread: false };

impl Block<LEN> for BlockQ2K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        affine_k::encode::<S, Self, 16, 16>(s, &KIND, blocks, w, importance, Self::pack);
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let (d, dmin) = (half(self.d), half(self.dmin));
        let mut w = [0.0; LEN];
        for (g, w) in w.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(self.scales[g] & 15), dmin * f32::from(self.scales[g] >> 4));
            let (from, shift) = (g / 8 * 32 + g % 2 * 16, g % 8 / 2 * 2);
            for (w, q) in w.iter_mut().zip(&self.qs[from..from + 16]) {
                *w = scale * f32::from(q >> shift & 3) - min;
            }
        }
        w
    }
}

impl BlockQ2K {
    fn pack(loose: &Loose<16>) -> Self {
        Self {
            scales: std::array::from_fn(|g| loose.scales[g] | loose.mins[g] << 4),
            qs: pack_two_bits(&loose.levels),
            d: loose.d,
            dmin: loose.dmin,
        }
    }
}

/// The order in which Q2_K and Q3_K keep two bits of each weight.
pub(super) fn pack_two_bits(levels: &[u8; LEN]) -> [u8; 64] {
    std::array::from_fn(|b| {
        let at = b / 32 * 128 + b % 32;
        (0..4).fold(0, |byte, k| byte | (levels[at + 32 * k] & 3) << (2 * k))
    })
}
