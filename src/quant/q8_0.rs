//! `Q8_0`: 32 weights share one scale, `w = d q` with `q` in -127..=127.
//!
//! Encoding is ggml's reference, bit for bit: `d = max |w| / 127` in `f32`, `q = round(w (1 / d))` with halves away
//! from zero, and only then is `d` rounded to `F16`.

use bytemuck::{Pod, Zeroable};
use half::f16;

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
    #[must_use]
    pub fn quantize(w: &[f32; LEN]) -> Self {
        let largest = w.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        Self { d: f16::from_f32(d).to_le_bytes(), qs: w.map(|x| (x * inverse).round() as i8) }
    }

    /// The scale.
    #[inline]
    #[must_use]
    pub fn scale(&self) -> f32 {
        f16::from_le_bytes(self.d).to_f32()
    }

    /// The 32 weights.
    #[inline(always)] // so that callers compiled for AVX2 and the like get it in their own instructions
    #[must_use]
    pub fn dequantize(&self) -> [f32; LEN] {
        let d = self.scale();
        self.qs.map(|q| f32::from(q) * d)
    }
}

/// Encodes a row of whole blocks onto the end of `out`.
pub(super) fn quantize_row(out: &mut Vec<u8>, row: &[f32]) {
    for w in row.as_chunks::<LEN>().0 {
        out.extend_from_slice(bytemuck::bytes_of(&BlockQ8_0::quantize(w)));
    }
}

/// Decodes a row of whole blocks.
pub(super) fn dequantize_row(out: &mut [f32], bytes: &[u8]) {
    let blocks: &[BlockQ8_0] = bytemuck::cast_slice(bytes);
    for (o, block) in out.as_chunks_mut::<LEN>().0.iter_mut().zip(blocks) {
        *o = block.dequantize();
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
