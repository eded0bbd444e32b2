//! What an instruction set must offer.

use half::f16;

/// A register tile of a matrix product, `C (rows, vecs LANES) = or += A B` over `k` terms.
///
/// Element `(i, p)` of `A` lies at `a + i AI + p a_step` (`AI` is a constant of the call), row `p` of `B` at
/// `b + p b_step`, row `i` of `C` at `c + i c_step`.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows: one of [`Simd::ROWS`].
    pub rows: usize,
    /// Vectors in a row: 1 or 2.
    pub vecs: usize,
    /// Terms.
    pub k: usize,
    /// First element of `A`.
    pub a: *const f32,
    /// From one term of `A` to the next.
    pub a_step: usize,
    /// First element of `B`.
    pub b: *const f32,
    /// From one term of `B` to the next.
    pub b_step: usize,
    /// First element of `C`.
    pub c: *mut f32,
    /// From one row of `C` to the next.
    pub c_step: usize,
    /// Whether `C` is added to.
    pub add: bool,
}

/// Proof that an instruction set is there, and its vectors of `f32`.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// 16 numbers: as many vectors as they need.
    type Wide: Copy + AsRef<[Self::V]> + AsMut<[Self::V]>;
    /// Elements of a vector.
    const LANES: usize;
    /// Heights of register tiles, the best (and highest) first, 1 last.
    const ROWS: &'static [usize];
    /// Terms of a matrix product that are summed before the next chunk begins: a sliver of `A` stays in L1.
    const KC: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Lanes 0, 1, 2...
    fn ramp(self) -> Self::V;
    /// The first [`Self::LANES`] elements.
    ///
    /// # Panics
    /// If there are fewer.
    fn load(self, src: &[f32]) -> Self::V;
    /// The elements of `src`, at most [`Self::LANES`]; the lanes behind them are 0.
    fn load_head(self, src: &[f32]) -> Self::V;
    /// Overwrites the first [`Self::LANES`] elements.
    ///
    /// # Panics
    /// If there are fewer.
    fn store(self, v: Self::V, dst: &mut [f32]);
    /// Overwrites `dst`, at most [`Self::LANES`] elements of it.
    fn store_head(self, v: Self::V, dst: &mut [f32]);
    /// [`Self::load`] without the check.
    ///
    /// # Safety
    /// [`Self::LANES`] elements at `src` must be readable.
    unsafe fn read(self, src: *const f32) -> Self::V;
    /// [`Self::store`] without the check.
    ///
    /// # Safety
    /// [`Self::LANES`] elements at `dst` must be writable.
    unsafe fn write(self, v: Self::V, dst: *mut f32);
    /// Asks for the cache line at `p`, to be written soon. Any address will do.
    fn prefetch(self, p: *const f32);

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`, rounded once where the hardware can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest integer; ties may go either way. `|a| < 2^22`.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^n` for an integral `n` in -126..=127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// `a < b ? x : y`, lane by lane; `y` where one is NaN.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Sum of the lanes, as a tree.
    fn sum(self, a: Self::V) -> f32;
    /// The greatest lane.
    fn greatest(self, a: Self::V) -> f32;

    /// 16 numbers.
    fn wide(self, src: &[f32; 16]) -> Self::Wide;
    /// 16 numbers of half the size; exact.
    fn wide_f16(self, src: &[f16; 16]) -> Self::Wide;
    /// 16 numbers of a quarter of the size; exact.
    fn wide_i8(self, src: &[i8; 16]) -> Self::Wide;
    /// To the nearest of half the size, ties to even; infinite beyond the greatest.
    fn narrow_f16(self, a: Self::Wide) -> [f16; 16];

    /// Computes a register tile.
    ///
    /// # Safety
    /// All elements that `t` speaks of must be readable, those of `C` writable and free of other readers.
    unsafe fn tile<const AI: usize>(self, t: Tile);
    /// `dst[p W + i] = src[i stride + p]` for `i < rows <= W` and `p < k`; 0 where `rows <= i < W`.
    ///
    /// # Safety
    /// `W k` elements at `dst` must be writable, `k` elements in each of `rows` rows of `src` readable.
    #[inline(always)]
    unsafe fn interleave(self, dst: *mut f32, width: usize, src: *const f32, stride: usize, rows: usize, k: usize) {
        for p in 0..k {
            for i in 0..width {
                // SAFETY: the caller's promise.
                unsafe { *dst.add(p * width + i) = if i < rows { *src.add(i * stride + p) } else { 0.0 } };
            }
        }
    }
}

/// The body of [`Simd::tile`] for one shape; fully unrolled, the accumulators stay in registers.
///
/// # Safety
/// As [`Simd::tile`]; `t.rows == R`, `t.vecs == N`.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const R: usize, const N: usize, const AI: usize>(s: S, t: Tile) {
    let lanes = S::LANES;
    let mut acc = [[s.splat(0.0); N]; R];
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: the pointers stay within what the caller vouches for; the last step may point one term past it,
    // hence `wrapping_add`.
    unsafe {
        if t.add {
            for i in 0..R {
                for j in 0..N {
                    acc[i][j] = s.read(t.c.add(i * t.c_step + j * lanes));
                }
            }
        }
        for _ in 0..t.k {
            let mut row = [s.splat(0.0); N];
            for j in 0..N {
                row[j] = s.read(b.add(j * lanes));
            }
            for i in 0..R {
                let x = s.splat(*a.add(i * AI));
                for j in 0..N {
                    acc[i][j] = s.fma(x, row[j], acc[i][j]);
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        for i in 0..R {
            for j in 0..N {
                s.write(acc[i][j], t.c.add(i * t.c_step + j * lanes));
            }
        }
    }
}

/// `match` over the shapes an instruction set has.
macro_rules! tiles {
    ($s:expr, $t:expr, $ai:expr, [$($rows:literal)+]) => {
        match ($t.rows, $t.vecs) {
            $(
                // SAFETY: the shape is the tile's; the rest is the caller's promise.
                ($rows, 1) => unsafe { $crate::simd::vector::tile::<_, $rows, 1, $ai>($s, $t) },
                // SAFETY: as above.
                ($rows, 2) => unsafe { $crate::simd::vector::tile::<_, $rows, 2, $ai>($s, $t) },
            )+
            (rows, vecs) => unreachable!("no register tile of {rows} rows and {vecs} vectors"),
        }
    };
}
pub(super) use tiles;
