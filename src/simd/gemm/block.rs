//! A block of the output: register tiles, and what is done with them.

use super::super::parallel::Shared;
use super::super::{Op, Simd, Tile, math};
use super::{Shape, Start};

/// A panel of `C`, for some chunks of terms, whose slivers are packed.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub shape: Shape,
    pub c: Shared<'a>,
    /// Columns of the whole `C`.
    pub cols: usize,
    pub gelu: Option<Shared<'a>>,
    pub slope: Option<&'a [f32]>,
    pub start: Start<'a>,
    pub alpha: f32,
    pub a: &'a [f32],
    pub b: &'a [f32],
    /// First row and column of the panel.
    pub i: usize,
    pub j: usize,
    /// Rows and columns of the panel.
    pub height: usize,
    pub width: usize,
    /// First chunk, how many of them are packed, how many there are.
    pub first: usize,
    pub here: usize,
    pub chunks: usize,
    /// Terms of a chunk, and in all.
    pub kc: usize,
    pub k: usize,
}

impl<'a> Block<'a> {
    /// Rows `row ..` and columns `col ..` of the panel, at most `rows` and `cols` of them.
    pub fn task(&'a self, row: usize, rows: usize, col: usize, cols: usize) -> BlockTask<'a> {
        let (rows, cols) = (rows.min(self.height - row), cols.min(self.width - col));
        BlockTask { block: self, row, rows, col, cols }
    }
}

pub struct BlockTask<'a> {
    block: &'a Block<'a>,
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

/// Room for the largest register tile: 14 x 32.
const TILE: usize = 14 * 32;

#[repr(align(64))]
struct Accumulators([f32; TILE]);

impl Op for BlockTask<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Block { shape: Shape { mr, nr, .. }, kc, .. } = *self.block;
        assert!(mr * nr <= TILE && nr == 2 * S::LANES);
        let block = self.block;
        let (a_slivers, b_slivers) = (block.height.div_ceil(mr), block.width.div_ceil(nr));
        let mut tile = Accumulators([0.0; TILE]);
        for chunk in 0..block.here {
            let k = kc.min(block.k - (block.first + chunk) * kc);
            for row in (self.row..self.row + self.rows).step_by(mr) {
                let rows = mr.min(self.row + self.rows - row);
                let high = *S::ROWS.iter().rev().find(|&&r| r >= rows).unwrap_or(&mr);
                let a = &block.a[(chunk * a_slivers + row / mr) * kc * mr..][..k * mr];
                for col in (self.col..self.col + self.cols).step_by(nr) {
                    let cols = nr.min(self.col + self.cols - col);
                    let b = &block.b[(chunk * b_slivers + col / nr) * kc * nr..][..k * nr];
                    let at = (block.i + row) * block.cols + block.j + col;
                    // SAFETY: the block is this task's own.
                    let out = |r: usize| unsafe { block.c.part(at + r * block.cols, cols) };
                    for r in 0..rows {
                        s.prefetch(out(r).as_ptr());
                        s.prefetch(out(r)[cols - 1..].as_ptr());
                    }
                    let t = Tile {
                        rows: high,
                        vecs: cols.div_ceil(S::LANES),
                        k,
                        a: a.as_ptr(),
                        a_step: mr,
                        b: b.as_ptr(),
                        b_step: nr,
                        c: tile.0.as_mut_ptr(),
                        c_step: nr,
                        add: false,
                    };
                    // SAFETY: `a` and `b` are slices of `k` terms, of at least `high` and `vecs LANES` elements each;
                    // the accumulators hold `mr nr`.
                    unsafe { s.tile::<1>(t) };
                    let chunk = block.first + chunk;
                    let plain = chunk + 1 < block.chunks || (block.slope.is_none() && block.gelu.is_none());
                    if cols == nr && plain {
                        self.finish_whole(s, chunk, at, &tile, rows);
                        continue;
                    }
                    for r in 0..rows {
                        self.finish(s, chunk, (row + r, col), &tile.0[r * nr..][..cols], out(r));
                    }
                }
            }
        }
    }
}

impl BlockTask<'_> {
    /// Adds a tile of full width to `C`, or begins it; `at` is its first element there.
    #[inline(always)]
    fn finish_whole<S: Simd>(&self, s: S, chunk: usize, at: usize, tile: &Accumulators, rows: usize) {
        static NOTHING: [f32; 32] = [0.0; 32];
        let block = self.block;
        let (nr, cols, col) = (2 * S::LANES, block.cols, at % block.cols);
        // What it begins with: rows of a matrix, or one row again and again; and perhaps another row.
        let (base, step, extra) = match block.start {
            Start::Zero if chunk == 0 => (&NOTHING[..], 0, None),
            Start::Bias(row) if chunk == 0 => (&row[col..], 0, None),
            Start::Other(other, row) if chunk == 0 => (&other[at..], cols, row.map(|row| &row[col..])),
            _ => (&[][..], cols, None),
        };
        let alpha = s.splat(block.alpha);
        for r in 0..rows {
            // SAFETY: the block is this task's own.
            let c = unsafe { block.c.part(at + r * cols, nr) };
            for j in [0, S::LANES] {
                let mut v = if base.is_empty() { s.load(&c[j..]) } else { s.load(&base[r * step + j..]) };
                if let Some(extra) = extra {
                    v = s.add(v, s.load(&extra[j..]));
                }
                s.store(s.fma(s.load(&tile.0[r * nr + j..]), alpha, v), &mut c[j..]);
            }
        }
    }

    /// Adds a row of a tile to `C`, or begins and ends it.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, chunk: usize, (row, col): (usize, usize), tile: &[f32], c: &mut [f32]) {
        let block = self.block;
        let (first, last) = (chunk == 0, chunk + 1 == block.chunks);
        let at = (block.i + row) * block.cols + block.j + col;
        let alpha = s.splat(block.alpha);
        for j in (0..tile.len()).step_by(S::LANES) {
            let to = tile.len().min(j + S::LANES);
            let load = |all: &[f32], from: usize| s.load_head(&all[from + j..from + to]);
            let base = if !first {
                s.load_head(&c[j..to])
            } else {
                match block.start {
                    Start::Zero => s.splat(0.0),
                    Start::Own => s.load_head(&c[j..to]),
                    Start::Bias(row) => load(row, block.j + col),
                    Start::Other(other, None) => load(other, at),
                    Start::Other(other, Some(row)) => s.add(load(other, at), load(row, block.j + col)),
                }
            };
            let mut v = s.fma(s.load_head(&tile[j..to]), alpha, base);
            if last {
                if let Some(pre) = block.slope {
                    v = s.mul(v, math::gelu_slope(s, load(pre, at)));
                }
                if let Some(y) = block.gelu {
                    // SAFETY: as for `C`.
                    let y = unsafe { y.part(at + j, to - j) };
                    s.store_head(math::gelu(s, v), y);
                }
            }
            s.store_head(v, &mut c[j..to]);
        }
    }
}
