//! AVX-512 and AVX2 with FMA.

use super::Op;
use super::vector::{Simd, Tile, tiles};
use half::f16;
use std::arch::asm;
use std::arch::x86_64::*;

/// Wraps an intrinsic.
macro_rules! v {
    ($e:expr) => {{
        // SAFETY: whoever holds the token is on a machine with the features, and any pointer here was checked or
        // is the caller's promise.
        unsafe { $e }
    }};
}

/// AVX-512F with the AVX2, FMA and F16C that always come with it.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// Runs `op` with 16 lanes.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub unsafe fn enter_avx512<O: Op>(op: O) -> O::Out {
    op.run(Avx512(()))
}

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Runs `op` with 8 lanes.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn enter_avx2<O: Op>(op: O) -> O::Out {
    op.run(Avx2(()))
}

/// The first `n` of 16 lanes.
#[inline(always)]
const fn mask16(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// The first `n` of 8 lanes.
#[inline(always)]
fn mask8(n: usize) -> __m256i {
    const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let from = 8 - n.min(8);
    v!(_mm256_loadu_si256(BITS[from..from + 8].as_ptr().cast()))
}

impl Simd for Avx512 {
    type V = __m512;
    type Wide = [__m512; 1];
    const LANES: usize = 16;
    // 14 x 2 accumulators, 2 of B, 2 for broadcasts: all 32 registers.
    const ROWS: &'static [usize] = &[14, 8, 4, 2, 1];
    const KC: usize = 384;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        v!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn ramp(self) -> __m512 {
        v!(_mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.))
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> __m512 {
        v!(_mm512_loadu_ps(src[..16].as_ptr()))
    }
    #[inline(always)]
    fn load_head(self, src: &[f32]) -> __m512 {
        if src.len() >= 16 { self.load(src) } else { v!(_mm512_maskz_loadu_ps(mask16(src.len()), src.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, v: __m512, dst: &mut [f32]) {
        v!(_mm512_storeu_ps(dst[..16].as_mut_ptr(), v));
    }
    #[inline(always)]
    fn store_head(self, v: __m512, dst: &mut [f32]) {
        if dst.len() >= 16 {
            self.store(v, dst);
        } else {
            v!(_mm512_mask_storeu_ps(dst.as_mut_ptr(), mask16(dst.len()), v));
        }
    }
    #[inline(always)]
    unsafe fn read(self, src: *const f32) -> __m512 {
        v!(_mm512_loadu_ps(src))
    }
    #[inline(always)]
    unsafe fn write(self, v: __m512, dst: *mut f32) {
        v!(_mm512_storeu_ps(dst, v));
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        v!(_mm_prefetch::<_MM_HINT_T0>(p.cast()));
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        v!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        v!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        v!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        v!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)))))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        v!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        v!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn greatest(self, a: __m512) -> f32 {
        v!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    fn wide(self, src: &[f32; 16]) -> [__m512; 1] {
        [v!(_mm512_loadu_ps(src.as_ptr()))]
    }
    #[inline(always)]
    fn wide_f16(self, src: &[f16; 16]) -> [__m512; 1] {
        [v!(widen(src))]
    }
    #[inline(always)]
    fn wide_i8(self, src: &[i8; 16]) -> [__m512; 1] {
        [v!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(src.as_ptr().cast()))))]
    }
    #[inline(always)]
    fn narrow_f16(self, [a]: [__m512; 1]) -> [f16; 16] {
        let mut out = [f16::ZERO; 16];
        v!(_mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(a)));
        out
    }
    #[inline(always)]
    unsafe fn tile<const AI: usize>(self, t: Tile) {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        unsafe fn body<const AI: usize>(s: Avx512, t: Tile) {
            // SAFETY: the caller's promise, handed on.
            tiles!(s, t, AI, [14 8 4 2 1]);
        }
        v!(body::<AI>(self, t));
    }
    #[inline(always)]
    unsafe fn interleave(self, dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
        v!(interleave(dst, width, src, stride, rows, k));
    }
}

impl Simd for Avx2 {
    type V = __m256;
    type Wide = [__m256; 2];
    const LANES: usize = 8;
    // 6 x 2 accumulators, 2 of B, 2 for broadcasts: all 16 registers.
    const ROWS: &'static [usize] = &[6, 4, 2, 1];
    const KC: usize = 256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        v!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn ramp(self) -> __m256 {
        v!(_mm256_setr_ps(0., 1., 2., 3., 4., 5., 6., 7.))
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> __m256 {
        v!(_mm256_loadu_ps(src[..8].as_ptr()))
    }
    #[inline(always)]
    fn load_head(self, src: &[f32]) -> __m256 {
        if src.len() >= 8 { self.load(src) } else { v!(_mm256_maskload_ps(src.as_ptr(), mask8(src.len()))) }
    }
    #[inline(always)]
    fn store(self, v: __m256, dst: &mut [f32]) {
        v!(_mm256_storeu_ps(dst[..8].as_mut_ptr(), v));
    }
    #[inline(always)]
    fn store_head(self, v: __m256, dst: &mut [f32]) {
        // A masked store is slow on AMD: only where it must be.
        if dst.len() >= 8 {
            self.store(v, dst);
        } else {
            v!(_mm256_maskstore_ps(dst.as_mut_ptr(), mask8(dst.len()), v));
        }
    }
    #[inline(always)]
    unsafe fn read(self, src: *const f32) -> __m256 {
        v!(_mm256_loadu_ps(src))
    }
    #[inline(always)]
    unsafe fn write(self, v: __m256, dst: *mut f32) {
        v!(_mm256_storeu_ps(dst, v));
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        v!(_mm_prefetch::<_MM_HINT_T0>(p.cast()));
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        v!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        v!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        v!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        v!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        v!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)))))
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        v!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        v!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn greatest(self, a: __m256) -> f32 {
        v!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn wide(self, src: &[f32; 16]) -> [__m256; 2] {
        v!([_mm256_loadu_ps(src.as_ptr()), _mm256_loadu_ps(src.as_ptr().add(8))])
    }
    #[inline(always)]
    fn wide_f16(self, src: &[f16; 16]) -> [__m256; 2] {
        let src: *const __m128i = src.as_ptr().cast();
        v!([_mm256_cvtph_ps(_mm_loadu_si128(src)), _mm256_cvtph_ps(_mm_loadu_si128(src.add(1)))])
    }
    #[inline(always)]
    fn wide_i8(self, src: &[i8; 16]) -> [__m256; 2] {
        let src: *const __m128i = src.as_ptr().cast();
        v!({
            let low = _mm_loadl_epi64(src);
            let high = _mm_loadl_epi64(src.byte_add(8));
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        })
    }
    #[inline(always)]
    fn narrow_f16(self, a: [__m256; 2]) -> [f16; 16] {
        let mut out = [f16::ZERO; 16];
        for (half, a) in out.chunks_exact_mut(8).zip(a) {
            v!(_mm_storeu_si128(half.as_mut_ptr().cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(a)));
        }
        out
    }
    #[inline(always)]
    unsafe fn tile<const AI: usize>(self, t: Tile) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn body<const AI: usize>(s: Avx2, t: Tile) {
            // SAFETY: the caller's promise, handed on.
            tiles!(s, t, AI, [6 4 2 1]);
        }
        v!(body::<AI>(self, t));
    }
    #[inline(always)]
    unsafe fn interleave(self, dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
        v!(interleave(dst, width, src, stride, rows, k));
    }
}

/// 16 halves from memory: one micro-operation where the intrinsic, which suppresses exceptions and so takes a register, is two.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(src: &[f16; 16]) -> __m512 {
    let out;
    // SAFETY: reads what `src` is to.
    unsafe {
        asm!("vcvtph2ps {out}, ymmword ptr [{src}]", out = lateout(zmm_reg) out, src = in(reg) src, options(pure, readonly, nostack, preserves_flags));
    }
    out
}

/// The first `n` of 8 lanes; a masked store is slow on AMD.
///
/// # Safety
/// `n` elements at `dst` must be writable.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn store_some(dst: *mut f32, v: __m256, n: usize) {
    let low = _mm256_castps256_ps128(v);
    let high = _mm256_extractf128_ps::<1>(v);
    // SAFETY: the caller's promise.
    unsafe {
        match n {
            8 => _mm256_storeu_ps(dst, v),
            6 => {
                _mm_storeu_ps(dst, low);
                _mm_storel_pd(dst.add(4).cast(), _mm_castps_pd(high));
            }
            4 => _mm_storeu_ps(dst, low),
            _ => {
                let mut all = [0.0f32; 8];
                _mm256_storeu_ps(all.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(all.as_ptr(), dst, n);
            }
        }
    }
}

/// [`Simd::interleave`] in squares of 8 x 8.
///
/// # Safety
/// As there; the machine must have AVX.
#[target_feature(enable = "avx")]
unsafe fn interleave(dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
    // SAFETY: lines from `rows` on and terms from `k` on are neither read nor written.
    unsafe {
        let whole = k / 8 * 8;
        for p in (0..whole).step_by(8) {
            for i in (0..width).step_by(8) {
                let mut line = [_mm256_setzero_ps(); 8];
                for r in 0..8 {
                    if i + r < rows {
                        line[r] = _mm256_loadu_ps(src.add((i + r) * stride + p));
                    }
                }
                let mut pair = [_mm256_setzero_ps(); 8];
                for r in 0..4 {
                    pair[2 * r] = _mm256_unpacklo_ps(line[2 * r], line[2 * r + 1]);
                    pair[2 * r + 1] = _mm256_unpackhi_ps(line[2 * r], line[2 * r + 1]);
                }
                let mut four = [_mm256_setzero_ps(); 8];
                for half in 0..2 {
                    let at = 4 * half;
                    four[at] = _mm256_shuffle_ps::<0x44>(pair[at], pair[at + 2]);
                    four[at + 1] = _mm256_shuffle_ps::<0xEE>(pair[at], pair[at + 2]);
                    four[at + 2] = _mm256_shuffle_ps::<0x44>(pair[at + 1], pair[at + 3]);
                    four[at + 3] = _mm256_shuffle_ps::<0xEE>(pair[at + 1], pair[at + 3]);
                }
                let wide = 8.min(width - i);
                for r in 0..4 {
                    let to = dst.add((p + r) * width + i);
                    store_some(to, _mm256_permute2f128_ps::<0x20>(four[r], four[r + 4]), wide);
                    store_some(to.add(4 * width), _mm256_permute2f128_ps::<0x31>(four[r], four[r + 4]), wide);
                }
            }
        }
        for p in whole..k {
            for i in 0..width {
                *dst.add(p * width + i) = if i < rows { *src.add(i * stride + p) } else { 0.0 };
            }
        }
    }
}
