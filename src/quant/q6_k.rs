//! `Q6_K`: 256 weights in 16 groups of 16, `w = (d scale) q` with `q` in -32..=31 and 8-bit scales: 6.5625 bits a weight.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..128 | bits 0..4 of `q + 32` of weight `128 h + 32 k + i` (`h < 2`, `k < 4`, `i < 32`): half `k / 2` of byte `64 h + 32 (k % 2) + i` |
//! | 128..192 | its bits 4, 5: bits `2k, 2k + 1` of byte `32 h + i` |
//! | 192..208 | scales |
//! | 208..210 | `d`: `F16` |

use super::block::{Block, half};
use super::fit::NOTHING;
use super::symmetric_k::{self, GROUP, Kind, LEN, Loose};
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// A block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// The four low bits of the levels.
    pub ql: [u8; 128],
    /// The two high bits.
    pub qh: [u8; 64],
    /// Scales.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ6K>() == 210 && align_of::<BlockQ6K>() == 1);

const KIND: Kind = Kind { half: 32, greatest: 128, stepwise: false, nothing: NOTHING };

impl Block<LEN> for BlockQ6K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        symmetric_k::encode(s, &KIND, blocks, w, importance, |loose| loose.map_or_else(Self::zeroed, Self::pack));
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let d = half(self.d);
        let mut w = [0.0; LEN];
        for (g, w) in w.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scales[g]);
            let (h, k, i) = (g / 8, g % 8 / 2, g % 2 * 16);
            let (low, high) = (&self.ql[64 * h + k % 2 * 32 + i..][..16], &self.qh[32 * h + i..][..16]);
            for ((w, low), high) in w.iter_mut().zip(low).zip(high) {
                *w = scale * f32::from((low >> (k / 2 * 4) & 15 | (high >> (2 * k) & 3) << 4) as i8 - 32);
            }
        }
        w
    }
}

impl BlockQ6K {
    fn pack(loose: &Loose) -> Self {
        let level = |h: usize, k: usize, i: usize| loose.levels[128 * h + 32 * k + i];
        Self {
            ql: std::array::from_fn(|b| {
                let (h, k, i) = (b / 64, b % 64 / 32, b % 32);
                level(h, k, i) & 15 | level(h, k + 2, i) << 4
            }),
            qh: std::array::from_fn(|b| (0..4).fold(0, |byte, k| byte | level(b / 32, k, b % 32) >> 4 << (2 * k))),
            scales: loose.scales,
            d: loose.d,
        }
    }
}
