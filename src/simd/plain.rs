//! No particular instruction set: the vectors of `wide`, which are SSE2 on any x86-64, arrays where there are none.

use super::Op;
use super::vector::{Simd, Tile, tiles};
use half::f16;
use wide::{f32x4, i32x4};

/// The token; anybody may have it.
#[derive(Clone, Copy)]
pub struct Plain(());

/// Runs `op` on whatever vectors the compiler's target has.
pub fn enter<O: Op>(op: O) -> O::Out {
    op.run(Plain(()))
}

const L: usize = 4;

impl Simd for Plain {
    type V = f32x4;
    type Wide = [f32x4; 4];
    const LANES: usize = L;
    // 4 x 2 accumulators, 2 of B, a broadcast and a product: 12 of SSE2's 16 registers.
    const ROWS: &'static [usize] = &[4, 2, 1];
    const KC: usize = 256;

    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    fn ramp(self) -> f32x4 {
        f32x4::new([0.0, 1.0, 2.0, 3.0])
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> f32x4 {
        f32x4::new([src[0], src[1], src[2], src[3]])
    }
    #[inline(always)]
    fn load_head(self, src: &[f32]) -> f32x4 {
        let mut v = [0.0; L];
        for (v, &x) in v.iter_mut().zip(src) {
            *v = x;
        }
        f32x4::new(v)
    }
    #[inline(always)]
    fn store(self, v: f32x4, dst: &mut [f32]) {
        dst[..L].copy_from_slice(&v.to_array());
    }
    #[inline(always)]
    fn store_head(self, v: f32x4, dst: &mut [f32]) {
        for (y, x) in dst.iter_mut().zip(v.to_array()) {
            *y = x;
        }
    }
    #[inline(always)]
    unsafe fn read(self, src: *const f32) -> f32x4 {
        // SAFETY: the caller's promise; arrays of f32 need no more than f32's alignment.
        f32x4::new(unsafe { *src.cast() })
    }
    #[inline(always)]
    unsafe fn write(self, v: f32x4, dst: *mut f32) {
        // SAFETY: as above.
        unsafe { *dst.cast() = v.to_array() }
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    /// Rounded twice where the target has no FMA: without the hardware it is a call into the C library.
    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
    /// `b` where one is NaN, as on x86; `wide`'s own differ from target to target.
    #[inline(always)]
    fn max(self, a: f32x4, b: f32x4) -> f32x4 {
        b.simd_lt(a).bitselect(a, b)
    }
    /// As [`Self::max`].
    #[inline(always)]
    fn min(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b).bitselect(a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: f32x4) -> f32x4 {
        a.sqrt()
    }
    /// Adding 1.5 x 2^23 leaves no bits for a fraction.
    #[inline(always)]
    fn round(self, a: f32x4) -> f32x4 {
        let magic = f32x4::splat(12_582_912.0);
        a + magic - magic
    }
    #[inline(always)]
    fn pow2(self, n: f32x4) -> f32x4 {
        let bits: i32x4 = (n.fast_trunc_int() + i32x4::splat(127)) << 23;
        bytemuck::cast(bits)
    }
    #[inline(always)]
    fn select_lt(self, a: f32x4, b: f32x4, x: f32x4, y: f32x4) -> f32x4 {
        a.simd_lt(b).bitselect(x, y)
    }
    #[inline(always)]
    fn sum(self, a: f32x4) -> f32 {
        let a = a.to_array();
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn greatest(self, a: f32x4) -> f32 {
        let a = a.to_array();
        a[0].max(a[1]).max(a[2].max(a[3]))
    }

    #[inline(always)]
    fn wide(self, src: &[f32; 16]) -> [f32x4; 4] {
        bytemuck::cast(*src)
    }
    #[inline(always)]
    fn wide_f16(self, src: &[f16; 16]) -> [f32x4; 4] {
        bytemuck::cast(src.map(widen))
    }
    #[inline(always)]
    fn wide_i8(self, src: &[i8; 16]) -> [f32x4; 4] {
        bytemuck::cast(src.map(f32::from))
    }
    #[inline(always)]
    fn narrow_f16(self, a: [f32x4; 4]) -> [f16; 16] {
        bytemuck::cast::<_, [f32; 16]>(a).map(f16::from_f32_const)
    }

    // SAFETY: said at the trait.
    #[inline(never)]
    unsafe fn tile<const AI: usize>(self, t: Tile) {
        // SAFETY: the caller's promise, handed on.
        tiles!(self, t, AI, [4 2 1]);
    }
}

/// Without a look at what the machine can do, as `half`'s own has it, and without a branch: the exponent's bias changes by way of
/// a product, which takes care of subnormal halves.
#[inline(always)]
fn widen(a: f16) -> f32 {
    let bits = u32::from(a.to_bits());
    let size = (bits & 0x7FFF) << 13;
    let finite = f32::from_bits(size) * f32::from_bits((254 - 15) << 23);
    let special = f32::from_bits(size | 0x7F80_0000);
    let size = if bits & 0x7C00 == 0x7C00 { special } else { finite };
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}
