//! What all block formats share: rows of blocks, rounding, and groups laid side by side.

use crate::simd::{Op, Simd};
use bytemuck::Pod;
use half::f16;

/// A format of blocks of `N` weights, as they lie in the file.
pub trait Block<const N: usize>: Pod {
    /// The blocks nearest to `w`, one each.
    ///
    /// Without `importance` they are ggml's reference, byte for byte: its float operations in its order. With it, a
    /// positive number for each weight, the sum of `importance (w - decoded)^2` is made small instead.
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; N]], importance: Option<&[[f32; N]]>);

    /// The weights. Any bytes decode: a scale that is no number gives weights that are none.
    fn dequantize(&self) -> [f32; N];
}

/// Encodes whole blocks onto the end of `bytes`; `importance` is a row's and repeats from row to row.
pub(super) struct Encode<'a, B, const N: usize> {
    pub bytes: &'a mut Vec<u8>,
    pub w: &'a [f32],
    pub importance: Option<&'a [f32]>,
    pub format: std::marker::PhantomData<B>,
}

impl<B: Block<N>, const N: usize> Op for Encode<'_, B, N> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let w = self.w.as_chunks::<N>().0;
        let start = self.bytes.len();
        self.bytes.resize(start + size_of_val(w) / (4 * N) * size_of::<B>(), 0);
        let blocks: &mut [B] = bytemuck::cast_slice_mut(&mut self.bytes[start..]);
        match self.importance {
            None => B::encode(s, blocks, w, None),
            Some(importance) => {
                let importance = importance.as_chunks::<N>().0;
                let n = importance.len();
                for (blocks, w) in blocks.chunks_mut(n).zip(w.chunks(n)) {
                    B::encode(s, blocks, w, Some(importance));
                }
            }
        }
    }
}

/// Decodes whole blocks.
#[inline(always)] // so that callers compiled for AVX2 and the like get it in their own instructions
pub(super) fn decode<B: Block<N>, const N: usize>(out: &mut [f32], bytes: &[u8]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (out, block) in out.as_chunks_mut::<N>().0.iter_mut().zip(blocks) {
        *out = block.dequantize();
    }
}

/// An `F16` out of a block.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// An `F16` for a block, and what it then is.
#[inline(always)]
pub(super) fn to_half(x: f32) -> ([u8; 2], f32) {
    let rounded = f16::from_f32(x);
    (rounded.to_le_bytes(), rounded.to_f32())
}

/// To the nearest integer, halves to even: adding 1.5 x 2^23 leaves the integer in the low bits of the sum.
///
/// Beyond 2^22 only those low bits count, and no number is 0: what the format's encoders have always done, which their
/// bytes show where a scale overflows.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// Towards zero, as processors convert: what fits no `i32` becomes `i32::MIN`.
#[inline(always)]
pub(super) fn truncated(x: f32) -> i32 {
    if x > -2_147_483_648.0 && x < 2_147_483_648.0 { x as i32 } else { i32::MIN }
}

/// The value that is farthest from zero, the first among equals.
#[inline(always)]
pub(super) fn farthest(w: &[f32]) -> f32 {
    let (mut most, mut value) = (0.0f32, 0.0f32);
    for &x in w {
        if x.abs() > most {
            (most, value) = (x.abs(), x);
        }
    }
    value
}

/// Least and greatest.
#[inline(always)]
pub(super) fn ends(w: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (f32::MAX, -f32::MAX);
    for &x in w {
        low = if x < low { x } else { low };
        high = if x > high { x } else { high };
    }
    (low, high)
}

/// Sum of `importance (w - decoded)^2`.
#[inline(always)]
pub(super) fn loss<const N: usize>(w: &[f32; N], decoded: &[f32; N], importance: &[f32; N]) -> f32 {
    // Eight sums side by side: nothing here is held to an order.
    let mut sums = [0.0f32; 8];
    for i in 0..N {
        let e = w[i] - decoded[i];
        sums[i % 8] += importance[i] * (e * e);
    }
    let sum = sums.iter().sum::<f32>();
    if sum.is_nan() { f32::INFINITY } else { sum }
}

/// Importance that can be divided by: where it is 0 throughout, all weights count alike.
#[inline(always)]
pub(super) fn usable<const N: usize>(importance: &[f32; N]) -> [f32; N] {
    let mean = importance.iter().sum::<f32>() / N as f32;
    if mean > 0.0 && mean.is_finite() { importance.map(|x| (x / mean).max(1e-6)) } else { [1.0; N] }
}
