//! AVX2, AVX-VNNI and AVX-512 VNNI.

use super::product::{self, Tile};
use super::{Format, Inputs, Lanes, Panel};
use std::arch::x86_64::*;

/// Wraps an intrinsic.
macro_rules! v {
    ($e:expr) => {{
        // SAFETY: whoever holds the token is on a machine with the features, and pointers are the caller's promise.
        unsafe { $e }
    }};
}

/// AVX2, FMA and F16C: pairs of products by `vpmaddubsw`, 8-bit quants by way of their absolute values.
#[derive(Clone, Copy)]
pub struct Avx2(());
/// The same with `vpdpbusd`.
#[derive(Clone, Copy)]
pub struct AvxVnni(());
/// AVX-512 F, BW and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512Vnni(());

/// Runs a product.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn avx2(format: Format, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    format.run(Avx2(()), out, panel, x);
}

/// Runs a product.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub unsafe fn avx_vnni(format: Format, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    format.run(AvxVnni(()), out, panel, x);
}

/// Runs a product.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub unsafe fn avx512_vnni(format: Format, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    format.run(Avx512Vnni(()), out, panel, x);
}

/// # Safety
/// The machine must have the features, and [`Lanes::tile`]'s promises must hold.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2_tile(tile: Tile) {
    // SAFETY: as the caller promises.
    unsafe { product::tile(Avx2(()), &tile) }
}

/// # Safety
/// The machine must have the features, and [`Lanes::tile`]'s promises must hold.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn avx_vnni_tile(tile: Tile) {
    // SAFETY: as the caller promises.
    unsafe { product::tile(AvxVnni(()), &tile) }
}

/// # Safety
/// The machine must have the features, and [`Lanes::tile`]'s promises must hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn avx512_vnni_tile(tile: Tile) {
    // SAFETY: as the caller promises.
    unsafe { product::tile(Avx512Vnni(()), &tile) }
}

/// What both 256-bit sets do alike.
macro_rules! eight_lanes {
    () => {
        const ROWS: usize = 8;
        const PAIRED: bool = true;
        type B = __m256i;
        type X = *const i8;
        type Acc = __m256i;
        type I = __m256i;
        type F = __m256;
        type S = __m256;
        type T = __m256;

        #[inline(always)]
        unsafe fn load(self, plane: *const u8) -> __m256i {
            v!(_mm256_loadu_si256(plane.cast()))
        }
        #[inline(always)]
        unsafe fn keep(self, plane: *mut u8, b: __m256i) {
            v!(_mm256_storeu_si256(plane.cast(), b));
        }
        #[inline(always)]
        fn field<const RIGHT: i32, const MASK: i32>(self, b: __m256i) -> __m256i {
            let shifted = if RIGHT == 0 { b } else { v!(_mm256_srli_epi16::<RIGHT>(b)) };
            v!(_mm256_and_si256(shifted, _mm256_set1_epi8(MASK as i8)))
        }
        #[inline(always)]
        fn merge<const LEFT: i32, const MASK: i32>(self, low: __m256i, high: __m256i) -> __m256i {
            let shifted = match LEFT {
                0 => high,
                1.. => v!(_mm256_sll_epi16(high, _mm_cvtsi32_si128(LEFT))),
                _ => v!(_mm256_srl_epi16(high, _mm_cvtsi32_si128(-LEFT))),
            };
            v!(_mm256_or_si256(low, _mm256_and_si256(shifted, _mm256_set1_epi8(MASK as i8))))
        }
        #[inline(always)]
        unsafe fn activations(self, x: *const i8) -> *const i8 {
            x
        }
        #[inline(always)]
        fn begin(self, offset: i32) -> __m256i {
            v!(_mm256_set1_epi32(-offset))
        }
        #[inline(always)]
        fn finish(self, acc: __m256i, _: i32) -> __m256i {
            acc
        }
        #[inline(always)]
        fn float(self, i: __m256i) -> __m256 {
            v!(_mm256_cvtepi32_ps(i))
        }
        #[inline(always)]
        fn nothing(self) -> __m256 {
            v!(_mm256_setzero_ps())
        }
        #[inline(always)]
        unsafe fn scale<const UNSIGNED: bool>(self, scales: *const u8) -> __m256 {
            let bytes = v!(_mm_loadl_epi64(scales.cast()));
            let wide = if UNSIGNED { v!(_mm256_cvtepu8_epi32(bytes)) } else { v!(_mm256_cvtepi8_epi32(bytes)) };
            v!(_mm256_cvtepi32_ps(wide))
        }
        #[inline(always)]
        fn weigh(self, total: __m256, sums: __m256i, scale: __m256) -> __m256 {
            v!(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, total))
        }
        #[inline(always)]
        fn total(self, total: __m256) -> __m256 {
            total
        }
        #[inline(always)]
        fn zero(self) -> __m256i {
            v!(_mm256_setzero_si256())
        }
        #[inline(always)]
        unsafe fn minima(self, acc: __m256i, minima: *const u8, sums: *const i16) -> __m256i {
            let minima = v!(_mm256_cvtepu8_epi16(_mm_loadu_si128(minima.cast())));
            let sums = v!(_mm256_set1_epi32(sums.cast::<i32>().read_unaligned()));
            v!(_mm256_add_epi32(acc, _mm256_madd_epi16(minima, sums)))
        }
        #[inline(always)]
        unsafe fn half(self, f16s: *const u8) -> __m256 {
            v!(_mm256_cvtph_ps(_mm_loadu_si128(f16s.cast())))
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            v!(_mm256_set1_ps(x))
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            v!(_mm256_mul_ps(a, b))
        }
        #[inline(always)]
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            v!(_mm256_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        unsafe fn read(self, p: *const f32) -> __m256 {
            v!(_mm256_loadu_ps(p))
        }
        #[inline(always)]
        unsafe fn write(self, p: *mut f32, f: __m256) {
            v!(_mm256_storeu_ps(p, f));
        }
    };
}

/// Four activations in every lane.
#[inline(always)]
fn spread(x: *const i8, group: i32) -> __m256i {
    v!(_mm256_set1_epi32(x.add(4 * group as usize).cast::<i32>().read_unaligned()))
}

impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn tile(self, tile: Tile) {
        v!(avx2_tile(tile));
    }
    const SIGNED: bool = true;
    eight_lanes!();

    #[inline(always)]
    fn dot<const G: i32>(self, acc: __m256i, w: __m256i, x: *const i8) -> __m256i {
        let pairs = v!(_mm256_maddubs_epi16(w, spread(x, G)));
        v!(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m256i, w: [__m256i; 4], x: *const i8) -> __m256i {
        let mut acc = acc;
        for (group, w) in w.into_iter().enumerate() {
            // |w| is up to 128 and |x| up to 127: a pair is below 2^15.
            let pairs = v!(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(spread(x, group as i32), w)));
            acc = v!(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
        }
        acc
    }
}

impl Lanes for AvxVnni {
    #[inline(always)]
    unsafe fn tile(self, tile: Tile) {
        v!(avx_vnni_tile(tile));
    }
    const SIGNED: bool = false;
    eight_lanes!();

    #[inline(always)]
    fn dot<const G: i32>(self, acc: __m256i, w: __m256i, x: *const i8) -> __m256i {
        v!(_mm256_dpbusd_avx_epi32(acc, w, spread(x, G)))
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m256i, w: [__m256i; 4], x: *const i8) -> __m256i {
        let acc = self.dot::<1>(self.dot::<0>(acc, w[0], x), w[1], x);
        self.dot::<3>(self.dot::<2>(acc, w[2], x), w[3], x)
    }
}

impl Lanes for Avx512Vnni {
    #[inline(always)]
    unsafe fn tile(self, tile: Tile) {
        v!(avx512_vnni_tile(tile));
    }
    const ROWS: usize = 16;
    const SIGNED: bool = false;
    const PAIRED: bool = true;
    type B = __m512i;
    type X = *const i8;
    type Acc = __m512i;
    type I = __m512i;
    type F = __m512;
    type S = __m512;
    type T = __m512;

    #[inline(always)]
    unsafe fn load(self, plane: *const u8) -> __m512i {
        v!(_mm512_loadu_si512(plane.cast()))
    }
    #[inline(always)]
    unsafe fn keep(self, plane: *mut u8, b: __m512i) {
        v!(_mm512_storeu_si512(plane.cast(), b));
    }
    #[inline(always)]
    fn field<const RIGHT: i32, const MASK: i32>(self, b: __m512i) -> __m512i {
        let shifted = if RIGHT == 0 { b } else { v!(_mm512_srl_epi16(b, _mm_cvtsi32_si128(RIGHT))) };
        v!(_mm512_and_si512(shifted, _mm512_set1_epi8(MASK as i8)))
    }
    #[inline(always)]
    fn merge<const LEFT: i32, const MASK: i32>(self, low: __m512i, high: __m512i) -> __m512i {
        let shifted = match LEFT {
            0 => high,
            1.. => v!(_mm512_sll_epi16(high, _mm_cvtsi32_si128(LEFT))),
            _ => v!(_mm512_srl_epi16(high, _mm_cvtsi32_si128(-LEFT))),
        };
        // low | (shifted & mask)
        v!(_mm512_ternarylogic_epi32::<0xEA>(_mm512_set1_epi8(MASK as i8), shifted, low))
    }
    #[inline(always)]
    unsafe fn activations(self, x: *const i8) -> *const i8 {
        x
    }
    #[inline(always)]
    fn begin(self, offset: i32) -> __m512i {
        v!(_mm512_set1_epi32(-offset))
    }
    #[inline(always)]
    fn dot<const G: i32>(self, acc: __m512i, w: __m512i, x: *const i8) -> __m512i {
        v!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x.add(4 * G as usize).cast::<i32>().read_unaligned())))
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m512i, w: [__m512i; 4], x: *const i8) -> __m512i {
        let acc = self.dot::<1>(self.dot::<0>(acc, w[0], x), w[1], x);
        self.dot::<3>(self.dot::<2>(acc, w[2], x), w[3], x)
    }
    #[inline(always)]
    fn finish(self, acc: __m512i, _: i32) -> __m512i {
        acc
    }
    #[inline(always)]
    fn float(self, i: __m512i) -> __m512 {
        v!(_mm512_cvtepi32_ps(i))
    }
    #[inline(always)]
    fn nothing(self) -> __m512 {
        v!(_mm512_setzero_ps())
    }
    #[inline(always)]
    unsafe fn scale<const UNSIGNED: bool>(self, scales: *const u8) -> __m512 {
        let bytes = v!(_mm_loadu_si128(scales.cast()));
        let wide = if UNSIGNED { v!(_mm512_cvtepu8_epi32(bytes)) } else { v!(_mm512_cvtepi8_epi32(bytes)) };
        v!(_mm512_cvtepi32_ps(wide))
    }
    #[inline(always)]
    fn weigh(self, total: __m512, sums: __m512i, scale: __m512) -> __m512 {
        v!(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, total))
    }
    #[inline(always)]
    fn total(self, total: __m512) -> __m512 {
        total
    }
    #[inline(always)]
    fn zero(self) -> __m512i {
        v!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn minima(self, acc: __m512i, minima: *const u8, sums: *const i16) -> __m512i {
        let minima = v!(_mm512_cvtepu8_epi16(_mm256_loadu_si256(minima.cast())));
        v!(_mm512_dpwssd_epi32(acc, minima, _mm512_set1_epi32(sums.cast::<i32>().read_unaligned())))
    }
    #[inline(always)]
    unsafe fn half(self, f16s: *const u8) -> __m512 {
        v!(_mm512_cvtph_ps(_mm256_loadu_si256(f16s.cast())))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        v!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        v!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        v!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn read(self, p: *const f32) -> __m512 {
        v!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn write(self, p: *mut f32, f: __m512) {
        v!(_mm512_storeu_ps(p, f));
    }
}
