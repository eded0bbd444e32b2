//! `Q4_K` and `Q5_K`: 256 weights in 8 groups of 32, `w = (d scale) q - (dmin minimum)` with `q` in 0..=15 or 0..=31,
//! 6-bit scales and minima: 4.5 and 5.5 bits a weight.
//!
//! | bytes of Q4_K | of Q5_K | what |
//! | --- | --- | --- |
//! | 0..2, 2..4 | 0..2, 2..4 | `d`, `dmin`: `F16` |
//! | 4..16 | 4..16 | scales and minima, below |
//! | | 16..48 | bit 4 of `q` of weight `32 g + i`: bit `g` of byte `i` |
//! | 16..144 | 48..176 | bits 0..4 of `q` of weight `64 h + i` (`i < 32`): the low half of byte `32 h + i`; of `64 h + 32 + i`: its high half |
//!
//! | byte of the twelve | bits 0..6 | bits 6..8 |
//! | --- | --- | --- |
//! | `g < 4` | scale of group `g` | bits 4, 5 of the scale of group `g + 4` |
//! | `4 + g` | minimum of group `g` | bits 4, 5 of the minimum of group `g + 4` |
//! | `8 + g` | bits 0..4 of the scale of group `g + 4`, and in the high half of its minimum | |

use super::affine_k::{self, Kind, LEN, Loose};
use super::block::{Block, half};
use super::fit::Grid;
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// A `Q4_K` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: [u8; 2],
    /// Scale of the minima.
    pub dmin: [u8; 2],
    /// Scales and minima.
    pub scales: [u8; 12],
    /// Levels.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144 && align_of::<BlockQ4K>() == 1);

/// A `Q5_K` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: [u8; 2],
    /// Scale of the minima.
    pub dmin: [u8; 2],
    /// Scales and minima.
    pub scales: [u8; 12],
    /// The highest bit of the levels.
    pub qh: [u8; 32],
    /// The other bits.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176 && align_of::<BlockQ5K>() == 1);

const Q4_K: Kind = Kind { grid: Grid { top: 15.0, from: -1.0, step: 0.1, last: 20, absolute: false }, greatest: 63, spread: true };
const Q5_K: Kind = Kind { grid: Grid { top: 31.0, from: -0.5, step: 0.1, last: 15, absolute: false }, greatest: 63, spread: true };

impl Block<LEN> for BlockQ4K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        affine_k::encode::<S, Self, 8, 32>(s, &Q4_K, blocks, w, importance, |b| Self {
            d: b.d,
            dmin: b.dmin,
            scales: pack_scales(&b.scales, &b.mins),
            qs: pack_low_bits(b),
        });
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let (d, dmin, (scales, mins)) = (half(self.d), half(self.dmin), unpack_scales(&self.scales));
        let mut w = [0.0; LEN];
        for (g, w) in w.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            for (w, q) in w.iter_mut().zip(&self.qs[g / 2 * 32..][..32]) {
                *w = scale * f32::from(q >> (g % 2 * 4) & 15) - min;
            }
        }
        w
    }
}

impl Block<LEN> for BlockQ5K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        affine_k::encode::<S, Self, 8, 32>(s, &Q5_K, blocks, w, importance, |b| Self {
            d: b.d,
            dmin: b.dmin,
            scales: pack_scales(&b.scales, &b.mins),
            qh: std::array::from_fn(|i| (0..8).fold(0, |byte, g| byte | (b.levels[32 * g + i] >> 4) << g)),
            qs: pack_low_bits(b),
        });
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let (d, dmin, (scales, mins)) = (half(self.d), half(self.dmin), unpack_scales(&self.scales));
        let mut w = [0.0; LEN];
        for (g, w) in w.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            for ((w, q), high) in w.iter_mut().zip(&self.qs[g / 2 * 32..][..32]).zip(&self.qh) {
                *w = scale * f32::from(q >> (g % 2 * 4) & 15 | (high >> g & 1) << 4) - min;
            }
        }
        w
    }
}

fn pack_low_bits(b: &Loose<8>) -> [u8; 128] {
    std::array::from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        b.levels[at] & 15 | b.levels[at + 32] << 4
    })
}

fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|b| match b {
        0..4 => scales[b] | scales[b + 4] >> 4 << 6,
        4..8 => mins[b - 4] | mins[b] >> 4 << 6,
        _ => scales[b - 4] & 15 | mins[b - 4] << 4,
    })
}

/// Scales and minima of the eight groups, of `Q4_K` and of `Q5_K`.
#[inline(always)]
#[must_use]
pub fn unpack_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let high = |g: usize, byte: usize| packed[byte - 4 + g] >> 6 << 4;
    let scales = std::array::from_fn(|g| if g < 4 { packed[g] & 63 } else { packed[4 + g] & 15 | high(g - 4, 4) });
    let mins = std::array::from_fn(|g| if g < 4 { packed[4 + g] & 63 } else { packed[4 + g] >> 4 | high(g - 4, 8) });
    (scales, mins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_come_back() {
        let scales = std::array::from_fn(|g| (g * 23 % 64) as u8);
        let mins = std::array::from_fn(|g| (63 - g * 19 % 64) as u8);
        assert_eq!(unpack_scales(&pack_scales(&scales, &mins)), (scales, mins));
    }
}
