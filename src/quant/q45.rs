//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: 32 weights share one scale, or a scale and a minimum: 4.5, 5, 5.5 and 6 bits a weight.
//!
//! | format | weights | bytes |
//! | --- | --- | --- |
//! | Q4_0 | `d (q - 8)`, `q` in 0..=15 | `d` (2, `F16`), low bits (16) |
//! | Q4_1 | `d q + m` | `d` (2), `m` (2), low bits (16) |
//! | Q5_0 | `d (q - 16)`, `q` in 0..=31 | `d` (2), high bits (4), low bits (16) |
//! | Q5_1 | `d q + m` | `d` (2), `m` (2), high bits (4), low bits (16) |
//!
//! Low bits: four of weight `i < 16` in the low half of byte `i`, of weight `16 + i` in its high half. High bits: bit 4 of
//! weight `i` is bit `i` of a little-endian `u32`.

use super::block::{Block, ends, farthest, half, loss, nearest, to_half, truncated, usable};
use super::fit::{self, GROUPS, Grid, side_by_side};
use crate::simd::Simd;
use bytemuck::{Pod, Zeroable};

/// Weights of a block.
pub const LEN: usize = 32;

/// A `Q4_0` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale.
    pub d: [u8; 2],
    /// Levels.
    pub qs: [u8; 16],
}

/// A `Q4_1` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// The scale.
    pub d: [u8; 2],
    /// The minimum.
    pub m: [u8; 2],
    /// Levels.
    pub qs: [u8; 16],
}

/// A `Q5_0` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: [u8; 2],
    /// The highest bits of the levels.
    pub qh: [u8; 4],
    /// The other bits.
    pub qs: [u8; 16],
}

/// A `Q5_1` block as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// The scale.
    pub d: [u8; 2],
    /// The minimum.
    pub m: [u8; 2],
    /// The highest bits of the levels.
    pub qh: [u8; 4],
    /// The other bits.
    pub qs: [u8; 16],
}

const _: () = {
    assert!(size_of::<BlockQ4_0>() == 18 && align_of::<BlockQ4_0>() == 1);
    assert!(size_of::<BlockQ4_1>() == 20 && align_of::<BlockQ4_1>() == 1);
    assert!(size_of::<BlockQ5_0>() == 22 && align_of::<BlockQ5_0>() == 1);
    assert!(size_of::<BlockQ5_1>() == 24 && align_of::<BlockQ5_1>() == 1);
};

/// A block before its bits are packed.
#[derive(Clone, Copy)]
struct Loose {
    d: [u8; 2],
    /// The minimum; of the formats without one, what level 0 stands for is `-d half`.
    m: [u8; 2],
    levels: [u8; LEN],
}

impl Loose {
    #[inline(always)]
    fn low_bits(&self) -> [u8; 16] {
        std::array::from_fn(|i| self.levels[i] & 15 | self.levels[16 + i] << 4)
    }

    #[inline(always)]
    fn high_bits(&self) -> [u8; 4] {
        (0..32).fold(0u32, |bits, i| bits | (u32::from(self.levels[i]) >> 4 & 1) << i).to_le_bytes()
    }

    #[inline(always)]
    fn symmetric(&self, half_level: i32) -> [f32; LEN] {
        let d = half(self.d);
        self.levels.map(|q| (i32::from(q) - half_level) as f32 * d)
    }

    #[inline(always)]
    fn affine(&self) -> [f32; LEN] {
        let (d, m) = (half(self.d), half(self.m));
        self.levels.map(|q| f32::from(q) * d + m)
    }
}

/// The levels in a block's bits, from 0 up.
#[inline(always)]
fn levels(qs: &[u8; 16], qh: [u8; 4]) -> [u8; LEN] {
    let high = u32::from_le_bytes(qh);
    std::array::from_fn(|i| qs[i % 16] >> (i / 16 * 4) & 15 | (high >> i & 1) as u8 * 16)
}

/// The reference without a minimum: the farthest weight is at `-half`, its sign with it.
#[inline(always)]
fn reference_symmetric(w: &[f32; LEN], half: f32) -> Loose {
    let d = farthest(w) / -half;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let levels = w.map(|x| i32::from(truncated(x * inverse + (half + 0.5)) as i8).min(2 * half as i32 - 1) as u8);
    Loose { d: to_half(d).0, m: [0; 2], levels }
}

/// The reference with a minimum: the least weight is at 0, the greatest at `top`.
#[inline(always)]
fn reference_affine(w: &[f32; LEN], top: f32) -> Loose {
    let (low, high) = ends(w);
    let d = (high - low) / top;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let levels = w.map(|x| truncated((x - low) * inverse + 0.5) as u8);
    // Four bits are clamped, five are not: it shows where the scale overflows.
    let levels = if top < 16.0 { levels.map(|q| i32::from(q as i8).min(15) as u8) } else { levels };
    Loose { d: to_half(d).0, m: to_half(low).0, levels }
}

/// The block without a minimum that errs least, out of the reference and what follows from a fitted scale.
fn improve_symmetric(w: &[f32; LEN], importance: &[f32; LEN], half_level: f32, mut scale: f32) -> Loose {
    let h = half_level as i32;
    let mut best = reference_symmetric(w, half_level);
    let mut least = loss(w, &best.symmetric(h), importance);
    for _ in 0..3 {
        let (d, stored) = to_half(scale);
        let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
        let next = Loose { d, m: [0; 2], levels: w.map(|x| (nearest(x * inverse).clamp(-h, h - 1) + h) as u8) };
        let error = loss(w, &next.symmetric(h), importance);
        if error < least {
            (best, least) = (next, error);
        }
        let (mut xl, mut l2) = (0.0, 0.0);
        for i in 0..LEN {
            let l = f32::from(next.levels[i]) - half_level;
            xl += importance[i] * w[i] * l;
            l2 += importance[i] * l * l;
        }
        scale = if l2 > 0.0 { xl / l2 } else { 0.0 };
    }
    best
}

/// The block with a minimum that errs least, out of the reference and what follows from a fitted scale and minimum.
fn improve_affine(w: &[f32; LEN], importance: &[f32; LEN], top: f32, mut scale: f32, mut min: f32) -> Loose {
    let mut best = reference_affine(w, top);
    let mut least = loss(w, &best.affine(), importance);
    for _ in 0..3 {
        let ((d, stored), (m, low)) = (to_half(scale), to_half(min));
        let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
        let next = Loose { d, m, levels: w.map(|x| nearest((x - low) * inverse).clamp(0, top as i32) as u8) };
        let error = loss(w, &next.affine(), importance);
        if error < least {
            (best, least) = (next, error);
        }
        // Least squares under these levels. Unlike a K-quant's, the minimum may have either sign.
        let (mut n, mut l1, mut l2, mut x1, mut xl) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for i in 0..LEN {
            let (l, v) = (f32::from(next.levels[i]), importance[i]);
            n += v;
            l1 += v * l;
            l2 += v * l * l;
            x1 += v * w[i];
            xl += v * w[i] * l;
        }
        let det = n * l2 - l1 * l1;
        if det <= 0.0 {
            break;
        }
        (scale, min) = ((n * xl - x1 * l1) / det, (l2 * x1 - l1 * xl) / det);
    }
    best
}

/// Importance of up to sixteen blocks, fit to divide by.
#[inline(always)]
fn weights(importance: &[[f32; LEN]]) -> [[f32; LEN]; GROUPS] {
    let mut weights = [[1.0; LEN]; GROUPS];
    for (to, from) in weights.iter_mut().zip(importance) {
        *to = usable(from);
    }
    weights
}

/// [`Block::encode`] without a minimum: blocks one by one, or fitted sixteen at a time where importance is given.
#[inline(always)]
fn encode_symmetric<S: Simd, B>(
    s: S,
    blocks: &mut [B],
    w: &[[f32; LEN]],
    importance: Option<&[[f32; LEN]]>,
    half: f32,
    pack: impl Fn(&Loose) -> B,
) {
    let Some(importance) = importance else {
        for (block, w) in blocks.iter_mut().zip(w) {
            *block = pack(&reference_symmetric(w, half));
        }
        return;
    };
    for ((blocks, w), importance) in blocks.chunks_mut(GROUPS).zip(w.chunks(GROUPS)).zip(importance.chunks(GROUPS)) {
        let weights = weights(importance);
        let fit = fit::symmetric(s, &side_by_side::<LEN>(w.as_flattened()), &side_by_side::<LEN>(weights.as_flattened()), half, 9);
        for (b, (block, w)) in blocks.iter_mut().zip(w).enumerate() {
            *block = pack(&improve_symmetric(w, &weights[b], half, fit.scale[b]));
        }
    }
}

/// [`Block::encode`] with a minimum.
#[inline(always)]
fn encode_affine<S: Simd, B>(
    s: S,
    blocks: &mut [B],
    w: &[[f32; LEN]],
    importance: Option<&[[f32; LEN]]>,
    top: f32,
    pack: impl Fn(&Loose) -> B,
) {
    let Some(importance) = importance else {
        for (block, w) in blocks.iter_mut().zip(w) {
            *block = pack(&reference_affine(w, top));
        }
        return;
    };
    let grid = Grid { top, from: -0.9, step: 0.05, last: 36, absolute: false };
    for ((blocks, w), importance) in blocks.chunks_mut(GROUPS).zip(w.chunks(GROUPS)).zip(importance.chunks(GROUPS)) {
        let weights = weights(importance);
        let fit = fit::affine(s, &side_by_side::<LEN>(w.as_flattened()), &side_by_side::<LEN>(weights.as_flattened()), &grid);
        for (b, (block, w)) in blocks.iter_mut().zip(w).enumerate() {
            *block = pack(&improve_affine(w, &weights[b], top, fit.scale[b], fit.min[b]));
        }
    }
}

impl Block<LEN> for BlockQ4_0 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        encode_symmetric(s, blocks, w, importance, 8.0, |b| Self { d: b.d, qs: b.low_bits() });
    }
    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        Loose { d: self.d, m: [0; 2], levels: levels(&self.qs, [0; 4]) }.symmetric(8)
    }
}

impl Block<LEN> for BlockQ4_1 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        encode_affine(s, blocks, w, importance, 15.0, |b| Self { d: b.d, m: b.m, qs: b.low_bits() });
    }
    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        Loose { d: self.d, m: self.m, levels: levels(&self.qs, [0; 4]) }.affine()
    }
}

impl Block<LEN> for BlockQ5_0 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        encode_symmetric(s, blocks, w, importance, 16.0, |b| Self { d: b.d, qh: b.high_bits(), qs: b.low_bits() });
    }
    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        Loose { d: self.d, m: [0; 2], levels: levels(&self.qs, self.qh) }.symmetric(16)
    }
}

impl Block<LEN> for BlockQ5_1 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, blocks: &mut [Self], w: &[[f32; LEN]], importance: Option<&[[f32; LEN]]>) {
        encode_affine(s, blocks, w, importance, 31.0, |b| Self { d: b.d, m: b.m, qh: b.high_bits(), qs: b.low_bits() });
    }
    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        Loose { d: self.d, m: self.m, levels: levels(&self.qs, self.qh) }.affine()
    }
}
