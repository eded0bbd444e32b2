//! LayerNorm, forward and backward.

use super::parallel::{self, Shared, WORTH};
use super::{Isa, Op, Simd};

/// `sum of f over a row`: two strands of vectors, then their lanes as a tree.
#[inline(always)]
fn row_sum<S: Simd, const SQUARES: bool>(s: S, x: &[f32], minus: f32) -> f32 {
    let minus = s.splat(minus);
    let mut strands = [s.splat(0.0); 2];
    let mut pairs = x.chunks_exact(2 * S::LANES);
    for pair in &mut pairs {
        for j in 0..2 {
            let d = s.sub(s.load(&pair[j * S::LANES..]), minus);
            strands[j] = if SQUARES { s.fma(d, d, strands[j]) } else { s.add(strands[j], d) };
        }
    }
    let mut sum = s.sum(s.add(strands[0], strands[1]));
    for rest in pairs.remainder().chunks(S::LANES) {
        let mut full = [0.0; 16];
        for (full, &x) in full[..S::LANES].iter_mut().zip(rest) {
            *full = x;
        }
        let d = s.sub(s.load(&full), minus);
        let d = if SQUARES { s.mul(d, d) } else { d };
        s.store(d, &mut full);
        sum += full[..rest.len()].iter().sum::<f32>();
    }
    sum
}

/// Rows of the forward pass.
pub struct Forward<'a> {
    /// `(N, C)`
    pub y: &'a mut [f32],
    /// `(N, 2)`: mean, 1 / standard deviation.
    pub stats: &'a mut [f32],
    /// `(N, C)`
    pub x: &'a [f32],
    /// `(C)`
    pub w: &'a [f32],
    /// `(C)`
    pub b: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl Op for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.w.len();
        for ((y, x), stats) in self.y.chunks_exact_mut(c).zip(self.x.chunks_exact(c)).zip(self.stats.chunks_exact_mut(2)) {
            let mean = row_sum::<S, false>(s, x, 0.0) / c as f32;
            let variance = row_sum::<S, true>(s, x, mean) / c as f32;
            let rstd = 1.0 / (variance + self.eps).sqrt();
            stats.copy_from_slice(&[mean, rstd]);
            let (mean, rstd) = (s.splat(mean), s.splat(rstd));
            for i in (0..c).step_by(S::LANES) {
                let to = c.min(i + S::LANES);
                let x = s.mul(s.sub(s.load_head(&x[i..to]), mean), rstd);
                s.store_head(s.fma(x, s.load_head(&self.w[i..to]), s.load_head(&self.b[i..to])), &mut y[i..to]);
            }
        }
    }
}

/// Rows in one task; a constant, so that the order of the sums over rows depends on N alone.
const ROWS: usize = 32;

/// `y (N, C) = (x - mean) rstd w + b`, `stats (N, 2)`.
pub fn forward(isa: Isa, y: &mut [f32], stats: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
    let (c, len) = (w.len(), x.len());
    assert!(y.len() == len && b.len() == c && c > 0 && len.is_multiple_of(c) && stats.len() == len / c * 2);
    let n = len / c;
    let (y, stats) = (Shared::new(y), Shared::new(stats));
    parallel::for_each(n.div_ceil(ROWS), len >= WORTH, |i| {
        let (row, rows) = (i * ROWS, ROWS.min(n - i * ROWS));
        // SAFETY: each task has rows of its own.
        let (y, stats) = unsafe { (y.part(row * c, rows * c), stats.part(row * 2, rows * 2)) };
        isa.run(Forward { y, stats, x: &x[row * c..][..rows * c], w, b, eps });
    });
}

struct Backward<'a> {
    dx: &'a mut [f32],
    /// Partial `dw (C)` and `db (C)`, overwritten.
    sums: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    w: &'a [f32],
    stats: &'a [f32],
}

impl Op for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.w.len();
        let (dw, db) = self.sums.split_at_mut(c);
        dw.fill(0.0);
        db.fill(0.0);
        let zero = s.splat(0.0);
        for (row, dx) in self.dx.chunks_exact_mut(c).enumerate() {
            let (dy, x) = (&self.dy[row * c..][..c], &self.x[row * c..][..c]);
            let (mean, rstd) = (s.splat(self.stats[2 * row]), s.splat(self.stats[2 * row + 1]));
            let (mut sum, mut dot) = (zero, zero);
            for i in (0..c).step_by(S::LANES) {
                let to = c.min(i + S::LANES);
                let dy = s.load_head(&dy[i..to]);
                let hat = s.mul(s.sub(s.load_head(&x[i..to]), mean), rstd);
                s.store_head(s.fma(dy, hat, s.load_head(&dw[i..to])), &mut dw[i..to]);
                s.store_head(s.add(dy, s.load_head(&db[i..to])), &mut db[i..to]);
                let dhat = s.mul(dy, s.load_head(&self.w[i..to]));
                sum = s.add(sum, dhat);
                dot = s.fma(dhat, hat, dot);
            }
            let per = 1.0 / c as f32;
            let (sum, dot) = (s.splat(s.sum(sum) * per), s.splat(s.sum(dot) * per));
            for i in (0..c).step_by(S::LANES) {
                let to = c.min(i + S::LANES);
                let hat = s.mul(s.sub(s.load_head(&x[i..to]), mean), rstd);
                let dhat = s.mul(s.load_head(&dy[i..to]), s.load_head(&self.w[i..to]));
                let d = s.sub(s.sub(dhat, sum), s.mul(hat, dot));
                s.store_head(s.fma(d, rstd, s.load_head(&dx[i..to])), &mut dx[i..to]);
            }
        }
    }
}

thread_local! {
    static PARTIAL: parallel::Scratch = const { parallel::Scratch::new() };
}

/// `dx (N, C) += ...`, `dw (C) += ...`, `db (C) += ...`; the sums over rows go by tasks of 32 rows, then
/// task by task.
pub fn backward(isa: Isa, dx: &mut [f32], dw: Option<&mut [f32]>, db: Option<&mut [f32]>, dy: &[f32], x: &[f32], w: &[f32], stats: &[f32]) {
    let (c, len) = (w.len(), x.len());
    assert!(dx.len() == len && dy.len() == len && c > 0 && len.is_multiple_of(c) && stats.len() == len / c * 2);
    let n = len / c;
    let tasks = n.div_ceil(ROWS);
    PARTIAL.with(|scratch| {
        scratch.with(tasks * 2 * c, |partial| {
            let (dx, sums) = (Shared::new(dx), Shared::new(partial));
            parallel::for_each(tasks, len >= WORTH, |i| {
                let (row, rows) = (i * ROWS, ROWS.min(n - i * ROWS));
                // SAFETY: each task has rows and sums of its own.
                let (dx, sums) = unsafe { (dx.part(row * c, rows * c), sums.part(i * 2 * c, 2 * c)) };
                let (dy, x) = (&dy[row * c..][..rows * c], &x[row * c..][..rows * c]);
                isa.run(Backward { dx, sums, dy, x, w, stats: &stats[row * 2..][..rows * 2] });
            });
            for (d, half) in [(dw, 0), (db, c)] {
                if let Some(d) = d {
                    assert_eq!(d.len(), c);
                    for sums in partial.chunks_exact(2 * c) {
                        for (d, p) in d.iter_mut().zip(&sums[half..half + c]) {
                            *d += p;
                        }
                    }
                }
            }
        });
    });
}
