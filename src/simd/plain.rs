//! No particular instruction set: arrays of four, which compilers turn into whatever vectors there are.

use super::Op;
use super::vector::{Simd, Tile, tiles};

/// The token; anybody may have it.
#[derive(Clone, Copy)]
pub struct Plain(());

/// Runs `op` on arrays.
pub fn enter<O: Op>(op: O) -> O::Out {
    op.run(Plain(()))
}

const L: usize = 4;

#[inline(always)]
fn zip(a: [f32; L], b: [f32; L], f: impl Fn(f32, f32) -> f32) -> [f32; L] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Plain {
    type V = [f32; L];
    const LANES: usize = L;
    const ROWS: &'static [usize] = &[4, 2, 1];
    const KC: usize = 256;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; L]
    }
    #[inline(always)]
    fn ramp(self) -> Self::V {
        [0.0, 1.0, 2.0, 3.0]
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::V {
        [src[0], src[1], src[2], src[3]]
    }
    #[inline(always)]
    fn load_head(self, src: &[f32]) -> Self::V {
        let mut v = [0.0; L];
        for (v, &x) in v.iter_mut().zip(src) {
            *v = x;
        }
        v
    }
    #[inline(always)]
    fn store(self, v: Self::V, dst: &mut [f32]) {
        dst[..L].copy_from_slice(&v);
    }
    #[inline(always)]
    fn store_head(self, v: Self::V, dst: &mut [f32]) {
        for (y, x) in dst.iter_mut().zip(v) {
            *y = x;
        }
    }
    #[inline(always)]
    unsafe fn read(self, src: *const f32) -> Self::V {
        // SAFETY: the caller's promise; arrays of f32 need no more than f32's alignment.
        unsafe { *src.cast() }
    }
    #[inline(always)]
    unsafe fn write(self, v: Self::V, dst: *mut f32) {
        // SAFETY: as above.
        unsafe { *dst.cast() = v }
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    /// Rounded twice: `mul_add` without the hardware is a call into the C library.
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        zip(a, a, |a, _| a.sqrt())
    }
    /// Adding 1.5 x 2^23 leaves no bits for a fraction.
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        let magic = [12_582_912.0; L];
        self.sub(self.add(a, magic), magic)
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY of the cast: |n| <= 127 by contract, so that the plain `as` conversion's saturation is never met.
        zip(n, n, |n, _| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        let mut out = y;
        for i in 0..L {
            if a[i] < b[i] {
                out[i] = x[i];
            }
        }
        out
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn greatest(self, a: Self::V) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }

    // SAFETY: said at the trait.
    #[inline(never)]
    unsafe fn tile<const AI: usize>(self, t: Tile) {
        // SAFETY: the caller's promise, handed on.
        tiles!(self, t, AI, [4 2 1]);
    }
}
