//! Matrix products, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
//!
//! `C (M, N) = start + alpha A B`, both factors in any of the two orders, `C` in rows. Slivers of `A` (as high as
//! a register tile) and of `B` (as wide as one) are copied side by side in the order in which the register tile
//! reads them; transposition happens there. Then every task owns a block of `C`: for each chunk of terms a sliver
//! of `A` stays in L1 while the block's slivers of `B` pass by from L2.
//!
//! An element's sum runs term by term within a chunk and chunk by chunk; chunks depend on `K` alone. So its bits
//! depend neither on where in `C` it lies nor on who computes it.

mod block;
mod pack;

use super::parallel::{self, Scratch, Shared};
use super::{Isa, Op, Simd};
use block::Block;
use pack::Pack;

/// A factor: element `(i, j)` lies at `i row + j col`; one of the two strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// A matrix stored row after row, `cols` elements each.
    #[must_use]
    pub const fn rows(data: &'a [f32], cols: usize) -> Self {
        Self { data, row: cols, col: 1 }
    }
    /// The transpose of a matrix stored row after row, `cols` elements each.
    #[must_use]
    pub const fn transposed(data: &'a [f32], cols: usize) -> Self {
        Self { data, row: 1, col: cols }
    }
    /// Rows and columns exchanged.
    const fn flip(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }
    const fn holds(self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// What the product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// `C` itself.
    Own,
    /// A row `(N)` for all rows of `C`.
    Bias(&'a [f32]),
    /// Another matrix `(M, N)`, and perhaps a row for all.
    Other(&'a [f32], Option<&'a [f32]>),
}

/// What is done with a finished element `c`.
#[derive(Debug)]
pub enum Finish<'a> {
    /// Nothing.
    Keep,
    /// `gelu(c)` is written to another matrix `(M, N)`.
    Gelu(&'a mut [f32]),
    /// It is multiplied by `gelu'` of an element of another matrix `(M, N)`.
    GeluSlope(&'a [f32]),
}

/// Sizes of an instruction set's register tile.
#[derive(Clone, Copy)]
struct Shape {
    mr: usize,
    nr: usize,
    kc: usize,
}

struct ShapeOf;
impl Op for ShapeOf {
    type Out = Shape;
    fn run<S: Simd>(self, _: S) -> Shape {
        Shape { mr: S::ROWS[0], nr: 2 * S::LANES, kc: S::KC }
    }
}

/// Most rows and columns of `C` whose slivers are packed at once.
const PANEL: usize = 3072;
/// Most elements packed at once (16 MiB): they come from L3 again and again, so they should fit it.
const PACKED: usize = 4 << 20;
/// Elements of `B` that a task goes over for each sliver of `A`: 384 KiB, so that they stay in L2.
const B_BLOCK: usize = 96 << 10;
/// Slivers of `A` in a task.
const A_BLOCK: usize = 5;
/// Multiplications below which waking other threads costs more than it saves (some 15 us).
const WORTH: usize = 1 << 20;

thread_local! {
    static SLIVERS: Scratch = const { Scratch::new() };
}

/// `n` cut into equal parts of at most `most`, each a multiple of `unit`; the size of a part.
fn part(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit)
}

/// `c (M, N) = start + alpha a (M, K) b (K, N)`, then `finish`.
///
/// # Panics
/// If a buffer is too small, or `c`'s length is not `M N`.
pub fn gemm(isa: Isa, c: &mut [f32], m: usize, n: usize, k: usize, alpha: f32, a: Mat, b: Mat, start: Start, finish: Finish) {
    assert!(c.len() == m * n && a.holds(m, k) && b.holds(k, n), "a product's buffers do not fit its sizes");
    match start {
        Start::Zero | Start::Own => {}
        Start::Bias(row) => assert_eq!(row.len(), n),
        Start::Other(other, row) => assert!(other.len() == m * n && row.is_none_or(|row| row.len() == n)),
    }
    if m == 0 || n == 0 {
        return;
    }
    let shape @ Shape { mr, nr, kc } = isa.run(ShapeOf);
    let chunks = k.div_ceil(kc).max(1);
    let kc = k.div_ceil(chunks);
    let (mp, np) = (part(m, PANEL, mr), part(n, PANEL, nr));
    let group = (PACKED / ((mp + np) * kc).max(1)).clamp(1, chunks);
    let parallel = m * n * k >= WORTH && rayon::current_num_threads() > 1;
    let c = Shared::new(c);
    let (gelu, slope) = match finish {
        Finish::Keep => (None, None),
        Finish::Gelu(y) => (Some(y), None),
        Finish::GeluSlope(pre) => (None, Some(pre)),
    };
    assert!(gelu.as_ref().is_none_or(|y| y.len() == m * n) && slope.is_none_or(|pre| pre.len() == m * n));
    let gelu = gelu.map(Shared::new);

    let work = |packed: &mut [f32]| {
        let (pa, pb) = packed.split_at_mut(group * kc * mp);
        for j in (0..n).step_by(np) {
            let width = np.min(n - j);
            for first in (0..chunks).step_by(group) {
                let here = group.min(chunks - first);
                for i in (0..m).step_by(mp) {
                    let height = mp.min(m - i);
                    let terms = (first * kc, kc, k);
                    let pack_a = Pack { to: Shared::new(pa), width: mr, mat: a, from: i, count: height, terms };
                    let pack_b = Pack { to: Shared::new(pb), width: nr, mat: b.flip(), from: j, count: width, terms };
                    let (na, nb) = (pack_a.tasks() * here, if i == 0 { pack_b.tasks() * here } else { 0 });
                    parallel::for_each(na + nb, parallel, |t| if t < na { isa.run(pack_a.task(t)) } else { isa.run(pack_b.task(t - na)) });
                    let block = Block {
                        shape,
                        c,
                        cols: n,
                        gelu,
                        slope,
                        start,
                        alpha,
                        a: pa,
                        b: pb,
                        i,
                        j,
                        height,
                        width,
                        first,
                        here,
                        chunks,
                        kc,
                        k,
                    };
                    let wide = part(width, (B_BLOCK / kc.max(1)).max(nr), nr);
                    let high = A_BLOCK * mr;
                    let rows = height.div_ceil(high);
                    parallel::for_each(rows * width.div_ceil(wide), parallel, |t| {
                        isa.run(block.task(t % rows * high, high, t / rows * wide, wide));
                    });
                }
            }
        }
    };
    SLIVERS.with(|scratch| scratch.with(group * kc * (mp + np), work));
}
