//! NEON, which every aarch64 has.

use super::Op;
use super::vector::{Simd, Tile, tiles};
use half::f16;
use std::arch::aarch64::*;
use std::arch::asm;

/// Wraps an intrinsic.
macro_rules! v {
    ($e:expr) => {{
        // SAFETY: whoever holds the token is on a machine with NEON, and any pointer here was checked or is the
        // caller's promise.
        unsafe { $e }
    }};
}

/// The token.
#[derive(Clone, Copy)]
pub struct Neon(());

/// Runs `op` with 4 lanes.
///
/// # Safety
/// The machine must have NEON.
#[target_feature(enable = "neon")]
pub unsafe fn enter<O: Op>(op: O) -> O::Out {
    op.run(Neon(()))
}

impl Simd for Neon {
    type V = float32x4_t;
    type Wide = [float32x4_t; 4];
    const LANES: usize = 4;
    // 12 x 2 accumulators, 2 of B, the rest for broadcasts: within the 32 registers.
    const ROWS: &'static [usize] = &[12, 8, 4, 2, 1];
    const KC: usize = 256;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        v!(vdupq_n_f32(x))
    }
    #[inline(always)]
    fn ramp(self) -> float32x4_t {
        self.load(&[0.0, 1.0, 2.0, 3.0])
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> float32x4_t {
        v!(vld1q_f32(src[..4].as_ptr()))
    }
    #[inline(always)]
    fn load_head(self, src: &[f32]) -> float32x4_t {
        let mut four = [0.0; 4];
        for (four, &x) in four.iter_mut().zip(src) {
            *four = x;
        }
        self.load(&four)
    }
    #[inline(always)]
    fn store(self, v: float32x4_t, dst: &mut [f32]) {
        v!(vst1q_f32(dst[..4].as_mut_ptr(), v));
    }
    #[inline(always)]
    fn store_head(self, v: float32x4_t, dst: &mut [f32]) {
        let mut four = [0.0; 4];
        self.store(v, &mut four);
        for (y, x) in dst.iter_mut().zip(four) {
            *y = x;
        }
    }
    #[inline(always)]
    unsafe fn read(self, src: *const f32) -> float32x4_t {
        v!(vld1q_f32(src))
    }
    #[inline(always)]
    unsafe fn write(self, v: float32x4_t, dst: *mut f32) {
        v!(vst1q_f32(dst, v));
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {} // its intrinsic is not stable; small cores' own prefetchers do well
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        v!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        v!(vminq_f32(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        v!(vsqrtq_f32(a))
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        v!(vrndnq_f32(a))
    }
    #[inline(always)]
    fn pow2(self, n: float32x4_t) -> float32x4_t {
        v!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))))
    }
    #[inline(always)]
    fn select_lt(self, a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
        v!(vbslq_f32(vcltq_f32(a, b), x, y))
    }
    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        v!(vaddvq_f32(a))
    }
    #[inline(always)]
    fn greatest(self, a: float32x4_t) -> f32 {
        v!(vmaxvq_f32(a))
    }
    #[inline(always)]
    fn wide(self, src: &[f32; 16]) -> [float32x4_t; 4] {
        let src = src.as_ptr();
        v!([vld1q_f32(src), vld1q_f32(src.add(4)), vld1q_f32(src.add(8)), vld1q_f32(src.add(12))])
    }
    #[inline(always)]
    fn wide_f16(self, src: &[f16; 16]) -> [float32x4_t; 4] {
        let src: *const u16 = src.as_ptr().cast();
        v!({
            let (low, high) = (vld1q_u16(src), vld1q_u16(src.add(8)));
            [widen(low), widen_high(low), widen(high), widen_high(high)]
        })
    }
    #[inline(always)]
    fn wide_i8(self, src: &[i8; 16]) -> [float32x4_t; 4] {
        v!({
            let all = vld1q_s8(src.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(all)), vmovl_high_s8(all));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        })
    }
    #[inline(always)]
    fn narrow_f16(self, a: [float32x4_t; 4]) -> [f16; 16] {
        let mut out = [f16::ZERO; 16];
        for (four, a) in out.chunks_exact_mut(4).zip(a) {
            v!(vst1_u16(four.as_mut_ptr().cast(), narrow(a)));
        }
        out
    }
    #[inline(always)]
    unsafe fn tile<const AI: usize>(self, t: Tile) {
        #[target_feature(enable = "neon")]
        unsafe fn body<const AI: usize>(s: Neon, t: Tile) {
            // All by the caller's promise, handed on; where `AI` is 1, a tile's rows of `A` lie side by side.
            match (AI, t.rows, t.vecs) {
                (1, 12, 2) => v!(by_lanes::<3, 2>(t)),
                (1, 12, 1) => v!(by_lanes::<3, 1>(t)),
                (1, 8, 2) => v!(by_lanes::<2, 2>(t)),
                (1, 8, 1) => v!(by_lanes::<2, 1>(t)),
                (1, 4, 2) => v!(by_lanes::<1, 2>(t)),
                (1, 4, 1) => v!(by_lanes::<1, 1>(t)),
                // SAFETY: the caller's promise.
                _ => tiles!(s, t, AI, [12 8 4 2 1]),
            }
        }
        v!(body::<AI>(self, t));
    }
    #[inline(always)]
    unsafe fn interleave(self, dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
        v!(interleave(dst, width, src, stride, rows, k));
    }
}

/// [`Simd::tile`] of `4 G` rows that lie side by side in `A`: four of them come in one register, and a multiplication names its lane. That is a
/// load for four rows where the general way has one for each; the results are the same.
///
/// # Safety
/// As [`Simd::tile`], with `AI == 1`, `t.rows == 4 G` and `t.vecs == N`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn by_lanes<const G: usize, const N: usize>(t: Tile) {
    let mut acc = [[[vdupq_n_f32(0.0); N]; 4]; G];
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: the pointers stay within what the caller vouches for; the last step may point one term past it, hence `wrapping_add`.
    unsafe {
        if t.add {
            for g in 0..G {
                for i in 0..4 {
                    for j in 0..N {
                        acc[g][i][j] = vld1q_f32(t.c.add((4 * g + i) * t.c_step + 4 * j));
                    }
                }
            }
        }
        for _ in 0..t.k {
            let mut row = [vdupq_n_f32(0.0); N];
            for j in 0..N {
                row[j] = vld1q_f32(b.add(4 * j));
            }
            for g in 0..G {
                let x = vld1q_f32(a.add(4 * g));
                for j in 0..N {
                    acc[g][0][j] = vfmaq_laneq_f32::<0>(acc[g][0][j], row[j], x);
                    acc[g][1][j] = vfmaq_laneq_f32::<1>(acc[g][1][j], row[j], x);
                    acc[g][2][j] = vfmaq_laneq_f32::<2>(acc[g][2][j], row[j], x);
                    acc[g][3][j] = vfmaq_laneq_f32::<3>(acc[g][3][j], row[j], x);
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        for g in 0..G {
            for i in 0..4 {
                for j in 0..N {
                    vst1q_f32(t.c.add((4 * g + i) * t.c_step + 4 * j), acc[g][i][j]);
                }
            }
        }
    }
}

/// The lower four of eight halves. The types of the intrinsics for this are not stable.
///
/// # Safety
/// The machine must have NEON.
#[inline(always)]
unsafe fn widen(a: uint16x8_t) -> float32x4_t {
    let out;
    // SAFETY: an instruction of NEON that reads and writes registers alone.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", lateout(vreg) out, in(vreg) a, options(pure, nomem, nostack, preserves_flags)) };
    out
}

/// The upper four of eight halves.
///
/// # Safety
/// The machine must have NEON.
#[inline(always)]
unsafe fn widen_high(a: uint16x8_t) -> float32x4_t {
    let out;
    // SAFETY: as above.
    unsafe { asm!("fcvtl2 {0:v}.4s, {1:v}.8h", lateout(vreg) out, in(vreg) a, options(pure, nomem, nostack, preserves_flags)) };
    out
}

/// Four halves.
///
/// # Safety
/// The machine must have NEON.
#[inline(always)]
unsafe fn narrow(a: float32x4_t) -> uint16x4_t {
    let out;
    // SAFETY: as above.
    unsafe { asm!("fcvtn {0:v}.4h, {1:v}.4s", lateout(vreg) out, in(vreg) a, options(pure, nomem, nostack, preserves_flags)) };
    out
}

/// [`Simd::interleave`] in squares of 4 x 4.
///
/// # Safety
/// As there; the machine must have NEON.
#[target_feature(enable = "neon")]
unsafe fn interleave(dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
    // SAFETY: lines from `rows` on and terms from `k` on are neither read nor written; all of a square's four lines
    // are within `width`.
    unsafe {
        let (high, whole) = (width / 4 * 4, k / 4 * 4);
        for p in (0..whole).step_by(4) {
            for i in (0..high).step_by(4) {
                let mut line = [vdupq_n_f32(0.0); 4];
                for r in 0..4 {
                    if i + r < rows {
                        line[r] = vld1q_f32(src.add((i + r) * stride + p));
                    }
                }
                let (a, b) = (vtrnq_f32(line[0], line[1]), vtrnq_f32(line[2], line[3]));
                let to = dst.add(p * width + i);
                vst1q_f32(to, vcombine_f32(vget_low_f32(a.0), vget_low_f32(b.0)));
                vst1q_f32(to.add(width), vcombine_f32(vget_low_f32(a.1), vget_low_f32(b.1)));
                vst1q_f32(to.add(2 * width), vcombine_f32(vget_high_f32(a.0), vget_high_f32(b.0)));
                vst1q_f32(to.add(3 * width), vcombine_f32(vget_high_f32(a.1), vget_high_f32(b.1)));
            }
        }
        for p in 0..k {
            for i in if p < whole { high } else { 0 }..width {
                *dst.add(p * width + i) = if i < rows { *src.add(i * stride + p) } else { 0.0 };
            }
        }
    }
}
