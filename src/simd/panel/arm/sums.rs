//! Sums of products of bytes, by instruction set.

use super::super::format::Form;
use super::super::{Inputs, Panel};
use super::unpack::Step;
use super::{product, v};
use std::arch::aarch64::*;

/// What an instruction set multiplies with. Lane `r` of a result is row `r`.
pub trait Sums: Copy {
    /// See [`Layout::columns`](super::Layout).
    const COLUMNS: bool;
    /// The products of a step with 32 activations, in formats of one scale for them.
    fn all<F: Form>(self, w: &Step, x: [int8x16_t; 2]) -> int32x4_t;
    /// `total` and those of the first and the second 16, each times its scale: those of rows 0 to 3, then the others.
    fn halves<F: Form>(self, total: int32x4_t, w: &Step, x: [int8x16_t; 2], scales: int16x8_t) -> int32x4_t;

    /// Whether several inputs are worked at in twos, by [`two`](Self::two), with steps as [`zipped`](Self::zipped) makes them.
    const TWOS: bool = false;
    /// A step for [`two`](Self::two).
    #[inline(always)]
    fn zipped(self, w: Step) -> Step {
        w
    }
    /// The products of a zipped step with two inputs: of columns 0 to 15 and 16 to 31, or, `WHOLE`, of all 32 in the first.
    #[inline(always)]
    fn two<const WHOLE: bool>(self, _: &Step, _: [[int8x16_t; 2]; 2]) -> [[int32x4_t; 2]; 2] {
        unreachable!()
    }

    /// A panel times one input, compiled with the features.
    ///
    /// # Safety
    /// The machine must have the features; panel, input and output must be as long as format and columns make them.
    unsafe fn one<F: Form>(self, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>);
    /// A panel times several inputs.
    ///
    /// # Safety
    /// As for one.
    unsafe fn many<F: Form>(self, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>);
}

/// The entries of a set: a function of its own for each format, or their size keeps LLVM from inlining what they are made of.
macro_rules! entries {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn one<F: Form>(self, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>) {
            // SAFETY: as the caller promises.
            unsafe { product::one::<Self, F>(self, out, panel, x) }
        }
        #[target_feature(enable = $features)]
        unsafe fn many<F: Form>(self, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>) {
            // SAFETY: as the caller promises.
            unsafe { product::many::<Self, F>(self, out, panel, x) }
        }
    };
}

/// Products into 16-bit lanes, as many as those hold, then pairwise sums. Quants of up to 5 bits are not negative, those of 6 are -32 to 31; activations
/// are -127 to 127.
#[derive(Clone, Copy)]
pub struct Neon(pub(in super::super) ());

/// Row `r`'s products with 16 columns, two a lane.
#[inline(always)]
fn sixteen(w: int8x16_t, x: int8x16_t) -> int16x8_t {
    v!(vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x))
}

/// Sums of pairs, of two rows.
#[inline(always)]
fn pairs(a: int16x8_t, b: int16x8_t) -> int16x8_t {
    v!(vpaddq_s16(a, b))
}

impl Sums for Neon {
    const COLUMNS: bool = true;
    entries!("neon");

    #[inline(always)]
    fn all<F: Form>(self, w: &Step, x: [int8x16_t; 2]) -> int32x4_t {
        if F::SHAPE.bits == 8 {
            // 2 * 128 * 127 is below 2^15.
            let row = |r: usize| {
                v!({
                    let low = vmlal_s8(vmull_s8(vget_low_s8(w[r]), vget_low_s8(x[0])), vget_low_s8(w[r + 4]), vget_low_s8(x[1]));
                    let high = vmlal_high_s8(vmull_high_s8(w[r], x[0]), w[r + 4], x[1]);
                    vpadalq_s16(vpaddlq_s16(low), high)
                })
            };
            return v!(vpaddq_s32(vpaddq_s32(row(0), row(1)), vpaddq_s32(row(2), row(3))));
        }
        let row = |r: usize| v!(vmlal_high_s8(vmlal_s8(sixteen(w[r], x[0]), vget_low_s8(w[r + 4]), vget_low_s8(x[1])), w[r + 4], x[1]));
        let (a, b) = (pairs(row(0), row(1)), pairs(row(2), row(3)));
        if F::SHAPE.bits == 4 {
            // 16 * 15 * 127 is below 2^15,
            v!(vpaddlq_s16(pairs(a, b)))
        } else {
            // and so is 8 * 31 * 127.
            v!(vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)))
        }
    }

    #[inline(always)]
    fn halves<F: Form>(self, total: int32x4_t, w: &Step, x: [int8x16_t; 2], scales: int16x8_t) -> int32x4_t {
        let half = |h: usize| {
            let row = |r: usize| sixteen(w[4 * h + r], x[h]);
            pairs(pairs(row(0), row(1)), pairs(row(2), row(3)))
        };
        if F::SHAPE.bits == 6 {
            // 8 * 32 * 127 is below 2^15.
            v!({
                let total = vmlaq_s32(total, vpaddlq_s16(half(0)), vmovl_s16(vget_low_s16(scales)));
                vmlaq_s32(total, vpaddlq_s16(half(1)), vmovl_high_s16(scales))
            })
        } else {
            // 16 * 7 * 127 too.
            let sums = pairs(half(0), half(1));
            v!(vmlal_high_s16(vmlal_s16(total, vget_low_s16(sums), vget_low_s16(scales)), sums, scales))
        }
    }
}

/// Dot products of four bytes, those of the activations by their place in a register.
#[derive(Clone, Copy)]
pub struct DotProd(pub(in super::super) ());

/// `acc` and the products of four rows with group `G` of 16 activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const G: usize>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: an instruction of the feature that this function has, between registers.
    unsafe {
        std::arch::asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{g}]", inout(vreg) acc, in(vreg) w, in(vreg) x, g = const G, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc` and the products of four groups with 16 activations.
#[inline(always)]
fn four(acc: int32x4_t, w: &[int8x16_t], x: int8x16_t) -> int32x4_t {
    v!(sdot::<3>(sdot::<2>(sdot::<1>(sdot::<0>(acc, w[0], x), w[1], x), w[2], x), w[3], x))
}

impl Sums for DotProd {
    const COLUMNS: bool = false;
    entries!("neon,dotprod");

    #[inline(always)]
    fn all<F: Form>(self, w: &Step, x: [int8x16_t; 2]) -> int32x4_t {
        four(four(v!(vdupq_n_s32(0)), &w[..4], x[0]), &w[4..], x[1])
    }

    #[inline(always)]
    fn halves<F: Form>(self, total: int32x4_t, w: &Step, x: [int8x16_t; 2], scales: int16x8_t) -> int32x4_t {
        v!({
            let total = vmlaq_s32(total, four(vdupq_n_s32(0), &w[..4], x[0]), vmovl_s16(vget_low_s16(scales)));
            vmlaq_s32(total, four(vdupq_n_s32(0), &w[4..], x[1]), vmovl_high_s16(scales))
        })
    }
}

/// Matrix products of 2 x 8 by 8 x 2 bytes, for several inputs; one input as [`DotProd`].
#[derive(Clone, Copy)]
pub struct I8mm(pub(in super::super) ());

/// `acc` and the products of two rows with two inputs: `[w0 x0, w0 x1, w1 x0, w1 x1]`, each of eight bytes.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: an instruction of the feature that this function has, between registers.
    unsafe {
        std::arch::asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) x, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

impl Sums for I8mm {
    const COLUMNS: bool = false;
    const TWOS: bool = true;
    entries!("neon,dotprod,i8mm");

    #[inline(always)]
    fn all<F: Form>(self, w: &Step, x: [int8x16_t; 2]) -> int32x4_t {
        DotProd(()).all::<F>(w, x)
    }

    #[inline(always)]
    fn halves<F: Form>(self, total: int32x4_t, w: &Step, x: [int8x16_t; 2], scales: int16x8_t) -> int32x4_t {
        DotProd(()).halves::<F>(total, w, x, scales)
    }

    /// Register `2 g` has eight columns from `8 g` on of rows 0 and 1, `2 g + 1` those of rows 2 and 3.
    #[inline(always)]
    fn zipped(self, w: Step) -> Step {
        let zip = |a: int8x16_t, b: int8x16_t| {
            v!({
                let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
                (vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b)))
            })
        };
        let ((a, b), (c, d), (e, f), (g, h)) = (zip(w[0], w[1]), zip(w[2], w[3]), zip(w[4], w[5]), zip(w[6], w[7]));
        [a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    fn two<const WHOLE: bool>(self, w: &Step, x: [[int8x16_t; 2]; 2]) -> [[int32x4_t; 2]; 2] {
        v!({
            let eights = |h: usize| {
                let (a, b) = (vreinterpretq_s64_s8(x[0][h]), vreinterpretq_s64_s8(x[1][h]));
                (vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b)))
            };
            let ((a, b), (c, d)) = (eights(0), eights(1));
            let none = vdupq_n_s32(0);
            let (upper, lower) = (smmla(smmla(none, w[0], a), w[2], b), smmla(smmla(none, w[1], a), w[3], b));
            let [more_upper, more_lower] = if WHOLE { [upper, lower] } else { [none, none] };
            let (more_upper, more_lower) = (smmla(smmla(more_upper, w[4], c), w[6], d), smmla(smmla(more_lower, w[5], c), w[7], d));
            // Rows apart from inputs.
            let all = [vuzp1q_s32(more_upper, more_lower), vuzp2q_s32(more_upper, more_lower)];
            if WHOLE { [all, all] } else { [[vuzp1q_s32(upper, lower), vuzp2q_s32(upper, lower)], all] }
        })
    }
}
