//! Elementwise kernels, column sums, a dot product.

use super::parallel::{self, BITE, WORTH};
use super::{Isa, Op, Simd, math};
use rayon::prelude::*;

/// What a kernel does with each element: `y = apply(y, x)`.
pub trait Each: Copy + Sync {
    /// The new `y`.
    fn apply<S: Simd>(self, s: S, y: S::V, x: S::V) -> S::V;
}

/// `x`
#[derive(Clone, Copy)]
pub struct Copied;
/// `gelu(x)`
#[derive(Clone, Copy)]
pub struct Gelu;
/// `y gelu'(x)`
#[derive(Clone, Copy)]
pub struct GeluBackward;
/// `y + alpha x`
#[derive(Clone, Copy)]
pub struct Axpy(pub f32);

impl Each for Copied {
    #[inline(always)]
    fn apply<S: Simd>(self, _: S, _: S::V, x: S::V) -> S::V {
        x
    }
}
impl Each for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: S::V, x: S::V) -> S::V {
        math::gelu(s, x)
    }
}
impl Each for GeluBackward {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, y: S::V, x: S::V) -> S::V {
        s.mul(y, math::gelu_slope(s, x))
    }
}
impl Each for Axpy {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, y: S::V, x: S::V) -> S::V {
        s.fma(s.splat(self.0), x, y)
    }
}

struct Loop<'a, E> {
    each: E,
    y: &'a mut [f32],
    x: &'a [f32],
}

impl<E: Each> Op for Loop<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut ys = self.y.chunks_exact_mut(S::LANES);
        let mut xs = self.x.chunks_exact(S::LANES);
        for (y, x) in (&mut ys).zip(&mut xs) {
            s.store(self.each.apply(s, s.load(y), s.load(x)), y);
        }
        let (y, x) = (ys.into_remainder(), xs.remainder());
        if !y.is_empty() {
            s.store_head(self.each.apply(s, s.load_head(y), s.load_head(x)), y);
        }
    }
}

/// `y[i] = each(y[i], x[i])` over all of two slices of one length.
///
/// # Panics
/// If the lengths differ.
pub fn each<E: Each>(isa: Isa, each: E, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    if y.len() < WORTH || rayon::current_num_threads() == 1 {
        return isa.run(Loop { each, y, x });
    }
    y.par_chunks_mut(BITE).zip(x.par_chunks(BITE)).for_each(|(y, x)| isa.run(Loop { each, y, x }));
}

/// `y += x`, on this thread: for use inside other loops.
#[inline(always)]
pub fn add_to<S: Simd>(s: S, y: &mut [f32], x: &[f32]) {
    Loop { each: Axpy(1.0), y, x }.run(s);
}

/// `y += x`, and `b` where there is one: a product back into the residual stream.
pub struct Sum<'a> {
    /// What is added to.
    pub y: &'a mut [f32],
    /// As long.
    pub x: &'a [f32],
    /// As long.
    pub b: Option<&'a [f32]>,
}

impl Op for Sum<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { y, x, b } = self;
        match b {
            None => add_to(s, y, x),
            Some(b) => {
                for ((y, x), b) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(b.chunks(S::LANES)) {
                    s.store_head(s.add(s.load_head(y), s.add(s.load_head(x), s.load_head(b))), y);
                }
            }
        }
    }
}

/// `y = gelu(y + b)`, over a slice of a row.
pub struct BiasGelu<'a> {
    /// A product, overwritten.
    pub y: &'a mut [f32],
    /// As long.
    pub b: &'a [f32],
}

impl Op for BiasGelu<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (y, b) in self.y.chunks_mut(S::LANES).zip(self.b.chunks(S::LANES)) {
            s.store_head(math::gelu(s, s.add(s.load_head(y), s.load_head(b))), y);
        }
    }
}

/// `sums (O) += alpha * column sums of x (N, O)`. Each column is summed from row 0 on, in four strands of
/// partial sums that depend on N alone.
pub struct ColumnSums<'a> {
    /// The sums of columns `from ..`.
    pub sums: &'a mut [f32],
    /// Rows of `cols` elements.
    pub x: &'a [f32],
    /// Columns of `x`.
    pub cols: usize,
    /// First column.
    pub from: usize,
    /// Factor of the sum.
    pub alpha: f32,
}

impl Op for ColumnSums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, sums) in self.sums.chunks_mut(S::LANES).enumerate() {
            let (from, len) = (self.from + block * S::LANES, sums.len());
            let mut strands = [s.splat(0.0); 4];
            for rows in self.x.chunks(4 * self.cols) {
                for (strand, row) in strands.iter_mut().zip(rows.chunks_exact(self.cols)) {
                    *strand = s.add(*strand, s.load_head(&row[from..from + len]));
                }
            }
            let sum = s.add(s.add(strands[0], strands[2]), s.add(strands[1], strands[3]));
            s.store_head(s.fma(sum, s.splat(self.alpha), s.load_head(sums)), sums);
        }
    }
}

/// [`ColumnSums`] over all threads.
///
/// # Panics
/// If `x` is no whole number of rows of `sums.len()`.
pub fn column_sums(isa: Isa, sums: &mut [f32], x: &[f32], alpha: f32) {
    let cols = sums.len();
    assert!(cols > 0 && x.len().is_multiple_of(cols));
    if x.len() < WORTH || rayon::current_num_threads() == 1 {
        return isa.run(ColumnSums { sums, x, cols, from: 0, alpha });
    }
    sums.par_chunks_mut(64).enumerate().for_each(|(i, sums)| isa.run(ColumnSums { sums, x, cols, from: 64 * i, alpha }));
}

/// `x[i] = 0`, over all threads.
pub fn zero(x: &mut [f32]) {
    let n = x.len();
    let shared = parallel::Shared::new(x);
    parallel::for_each(n.div_ceil(BITE), n >= WORTH, |i| {
        // SAFETY: each task has a bite of its own.
        unsafe { shared.part(i * BITE, BITE.min(n - i * BITE)) }.fill(0.0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_added_to_any_length() {
        for isa in Isa::available() {
            for n in [1, 3, 16, 17, 40] {
                let at = |i: usize| i as f32 * 0.25 - 3.0;
                let (x, b): (Vec<f32>, Vec<f32>) = ((0..n).map(at).collect(), (0..n).map(|i| at(n - i)).collect());
                let mut y = vec![0.5; n];
                isa.run(Sum { y: &mut y, x: &x, b: Some(&b) });
                assert!((0..n).all(|i| y[i] == 0.5 + at(i) + at(n - i)), "{} {n}", isa.name());
                isa.run(Sum { y: &mut y, x: &x, b: None });
                assert!((0..n).all(|i| y[i] == 0.5 + 2.0 * at(i) + at(n - i)), "{} {n}", isa.name());
                let (mut y, mut want) = (x.clone(), (0..n).map(|i| x[i] + b[i]).collect::<Vec<_>>());
                isa.run(BiasGelu { y: &mut y, b: &b });
                let sums = want.clone();
                isa.run(Loop { each: Gelu, y: &mut want, x: &sums });
                assert_eq!(y, want, "{} {n}", isa.name());
            }
        }
    }
}
