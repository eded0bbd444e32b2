//! Causal attention in tiles, after Dao et al., "FlashAttention" (2022): never a T x T matrix in memory.
//!
//! A task owns one head of one sequence. Scores are computed transposed, `S^T (keys, queries)`: lanes are queries, so
//! that the softmax over keys runs down the rows of a tile without any sum across lanes, and `P^T` lies as the next
//! product wants it: `Y^T (D, queries) += V^T P^T` reads both in place. All products are register tiles of
//! [`super::Simd::tile`].
//!
//! Tiles come in a fixed order within a head, and heads share no sums: bits do not depend on threads.

mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

use super::parallel::{self, Scratch};
use super::{Simd, Tile};

/// Keys of a tile.
pub(super) const KEYS: usize = 64;
/// Queries of a tile; a multiple of every instruction set's widest register tile.
pub(super) const QUERIES: usize = 32;
/// A score that `exp` makes 0, yet finite: the difference of two of them must not be NaN.
pub(super) const MASKED: f32 = -1e30;

/// Sizes: `b` sequences of `t` rows, `h` heads of `d` channels.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences.
    pub b: usize,
    /// Rows of each.
    pub t: usize,
    /// Heads.
    pub h: usize,
    /// Channels of a head.
    pub d: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl Sizes {
    /// Channels of a row.
    const fn c(self) -> usize {
        self.h * self.d
    }
    /// Rows of a sequence, up to whole tiles of keys.
    const fn t_whole(self) -> usize {
        self.t.next_multiple_of(KEYS)
    }
    /// Channels of a head, up to whole vectors of any instruction set.
    const fn d_whole(self) -> usize {
        self.d.next_multiple_of(16)
    }
}

thread_local! {
    static SCRATCH: Scratch = const { Scratch::new() };
}

/// Calls `work(sequence, head, scratch)` for each head of each sequence, with `scratch` elements to work in.
fn each_head(s: Sizes, scratch: usize, work: impl Fn(usize, usize, &mut [f32]) + Sync) {
    parallel::for_each(s.b * s.h, s.b * s.t * s.t * s.c() >= parallel::WORTH, |task| {
        SCRATCH.with(|own| own.with(scratch, |scratch| work(task / s.h, task % s.h, scratch)));
    });
}

/// One of the three parts of `qkv`, or a matrix with one: rows of a head, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub data: &'a [f32],
    pub from: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Row `i`'s `d` channels.
    #[inline(always)]
    pub fn row(self, i: usize, d: usize) -> &'a [f32] {
        &self.data[self.from + i * self.stride..][..d]
    }

    /// `to (d, width)`: rows `first .. first + rows`, transposed; 0 in the columns behind them.
    #[inline(always)]
    pub fn transpose<S: Simd>(self, s: S, to: &mut [f32], width: usize, first: usize, rows: usize, d: usize) {
        assert!(to.len() == d * width && rows <= width && rows > 0);
        let src = &self.data[self.from + first * self.stride..];
        assert!(src.len() >= (rows - 1) * self.stride + d);
        // SAFETY: as just checked.
        unsafe { s.interleave(to.as_mut_ptr(), width, src.as_ptr(), self.stride, rows, d) };
    }

    /// `to (t, d_whole)`: all rows side by side, 0 behind their `d` channels.
    #[inline(always)]
    fn gather(self, to: &mut [f32], t: usize, d: usize, d_whole: usize) {
        for (i, to) in to.chunks_exact_mut(d_whole).take(t).enumerate() {
            to[..d].copy_from_slice(self.row(i, d));
            to[d..].fill(0.0);
        }
    }
}

/// `c (rows, cols) = or += A B` over `k` terms, cut into register tiles; `AI`, steps as in [`Tile`].
#[inline(always)]
pub(super) fn product<S: Simd, const AI: usize>(
    s: S,
    (rows, cols, k): (usize, usize, usize),
    (a, a_step): (&[f32], usize),
    (b, b_step): (&[f32], usize),
    (c, c_step): (&mut [f32], usize),
    add: bool,
) {
    if rows == 0 || k == 0 {
        return;
    }
    let whole = cols.next_multiple_of(S::LANES);
    assert!((rows - 1) * AI + (k - 1) * a_step < a.len());
    assert!((k - 1) * b_step + whole <= b.len() && (rows - 1) * c_step + whole <= c.len());
    for col in (0..cols).step_by(2 * S::LANES) {
        let vecs = (cols - col).div_ceil(S::LANES).min(2);
        let mut row = 0;
        while row < rows {
            let high = *S::ROWS.iter().find(|&&r| r <= rows - row).unwrap_or(&1);
            let (a, b, c) = (a[row * AI..].as_ptr(), b[col..].as_ptr(), c[row * c_step + col..].as_mut_ptr());
            // SAFETY: the assertions above cover all rows, whole vectors of columns, and terms.
            unsafe { s.tile::<AI>(Tile { rows: high, vecs, k, a, a_step, b, b_step, c, c_step, add }) };
            row += high;
        }
    }
}

/// The queries of one tile and what they see.
struct Queries<'a> {
    /// First query.
    from: usize,
    /// How many.
    count: usize,
    /// First key that each sees.
    starts: &'a [u32],
    /// First key that any sees.
    first: usize,
    /// From this key on, all keys up to their own are seen by all.
    common: usize,
}

impl<'a> Queries<'a> {
    /// Those of tile `tile`, of a sequence with these `starts`.
    fn new(tile: usize, starts: &'a [u32]) -> Self {
        let from = tile * QUERIES;
        let count = QUERIES.min(starts.len() - from);
        let starts = &starts[from..from + count];
        let (first, common) = starts.iter().fold((usize::MAX, 0), |(a, b), &s| (a.min(s as usize), b.max(s as usize)));
        Self { from, count, starts, first, common }
    }

    /// The tiles of keys that any of them sees.
    fn key_tiles(&self) -> std::ops::Range<usize> {
        self.first / KEYS..(self.from + self.count).div_ceil(KEYS)
    }

    /// Of the keys of a tile, how many any of them sees (from its first on).
    fn keys(&self, tile: usize) -> usize {
        KEYS.min(self.from + self.count - tile * KEYS)
    }

    /// Masks what is not seen in `scores (keys, QUERIES)`.
    #[inline(always)]
    fn mask(&self, scores: &mut [f32], tile: usize) {
        let (from, keys) = (tile * KEYS, self.keys(tile));
        if from + keys - 1 <= self.from && from >= self.common {
            return;
        }
        for (key, scores) in scores.chunks_exact_mut(QUERIES).take(keys).enumerate() {
            let key = from + key;
            scores[..key.saturating_sub(self.from).min(QUERIES)].fill(MASKED); // queries before the key
            if key < self.common {
                for (score, &start) in scores.iter_mut().zip(self.starts) {
                    if key < start as usize {
                        *score = MASKED;
                    }
                }
            }
        }
    }
}
