//! `Q8_0`: 32 weights share one scale, `w = d q` with `q` in -127..=127: 8.5 bits a weight.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`: `F16` |
//! | 2..34 | `q` of each weight, `i8` |
//!
//! The reference: `d = max |w| / 127` in `f32`, `q = round(w (1 / d))` with halves away from zero, and only then is `d`
//! rounded to `F16`. Importance changes nothing: 8 bits leave next to nothing to choose.

use super::block::{Block, half, to_half};
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// Weights of a block.
pub const LEN: usize = 32;

/// A block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, an `F16` in little-endian bytes (so that a block may lie at any address).
    pub d: [u8; 2],
    /// The weights in units of `d`.
    pub qs: [i8; LEN],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 1);

impl BlockQ8_0 {
    /// The block nearest to 32 weights.
    #[inline(always)]
    #[must_use]
    pub fn quantize(w: &[f32; LEN]) -> Self {
        let largest = w.iter().fold(0.0f32, |a, x| if x.abs() > a { x.abs() } else { a });
        let d = largest / 127.0;
        // A scale too small to divide by leaves zeros, as none does.
        let inverse = if d > 0.0 && (1.0 / d).is_finite() { 1.0 / d } else { 0.0 };
        let qs = w.map(|x| {
            // Halves away from zero, in steps that all vectors have.
            let whole = (x * inverse) as i32;
            let rest = x * inverse - whole as f32;
            (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
        });
        Self { d: to_half(d).0, qs }
    }

    /// The scale.
    #[inline(always)]
    #[must_use]
    pub fn scale(&self) -> f32 {
        half(self.d)
    }
}

impl Block<LEN> for BlockQ8_0 {
    #[inline(always)]
    fn encode<S: Simd>(_: S, blocks: &mut [Self], w: &[[f32; LEN]], _: Option<&[[f32; LEN]]>) {
        blocks.iter_mut().zip(w).for_each(|(block, w)| *block = Self::quantize(w));
    }

    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let d = self.scale();
        self.qs.map(|q| f32::from(q) * d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_away_from_zero_and_zeros_stay() {
        let mut w = [0.0f32; LEN];
        assert_eq!(BlockQ8_0::quantize(&w), BlockQ8_0 { d: [0, 0], qs: [0; LEN] });
        (w[0], w[1], w[2], w[3]) = (127.0, 0.5, -1.5, -127.0);
        let block = BlockQ8_0::quantize(&w);
        assert_eq!((block.scale(), &block.qs[..4]), (1.0, &[127i8, 1, -2, -127][..]));
    }
}
