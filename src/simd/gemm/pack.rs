//! Copying factors into slivers.

use super::super::parallel::Shared;
use super::super::{Op, Simd};
use super::Mat;

/// Lines `from .. from + count` of `mat` (rows of `A`, columns of `B`), cut into slivers of `width` lines, chunk after
/// chunk: term `p` of a sliver's lines lies at `p width ..`. Lines that are missing from the last sliver are 0.
#[derive(Clone, Copy)]
pub struct Pack<'a> {
    pub to: Shared<'a>,
    pub width: usize,
    pub mat: Mat<'a>,
    pub from: usize,
    pub count: usize,
    /// First term, terms of a chunk, terms in all.
    pub terms: (usize, usize, usize),
}

/// Slivers a task copies.
const AT_ONCE: usize = 4;

impl<'a> Pack<'a> {
    /// Tasks of one chunk.
    pub fn tasks(&self) -> usize {
        self.count.div_ceil(self.width * AT_ONCE)
    }
    pub fn task(self, task: usize) -> PackTask<'a> {
        PackTask { chunk: task / self.tasks(), first: task % self.tasks() * AT_ONCE, pack: self }
    }
}

pub struct PackTask<'a> {
    pack: Pack<'a>,
    chunk: usize,
    first: usize,
}

impl Op for PackTask<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { to, width, mat, from, count, terms: (p0, kc, k) } = self.pack;
        let slivers = count.div_ceil(width);
        let p = p0 + self.chunk * kc;
        let terms = kc.min(k - p);
        for sliver in self.first..slivers.min(self.first + AT_ONCE) {
            let line = sliver * width;
            let lines = width.min(count - line);
            // SAFETY: every sliver of every chunk has a place of its own.
            let to = unsafe { to.part((self.chunk * slivers + sliver) * kc * width, terms * width) };
            let src = &mat.data[((from + line) * mat.row + p * mat.col).min(mat.data.len())..];
            if mat.row == 1 {
                for (t, to) in to.chunks_exact_mut(width).enumerate() {
                    let src = &src[t * mat.col..][..lines];
                    for j in (0..width).step_by(S::LANES) {
                        let v = s.load_head(&src[j.min(lines)..lines.min(j + S::LANES)]);
                        s.store_head(v, &mut to[j..width.min(j + S::LANES)]);
                    }
                }
            } else if terms > 0 {
                assert!(mat.col == 1 && (lines - 1) * mat.row + terms <= src.len());
                // SAFETY: `to` holds `width terms` elements, and the assertion covers the source.
                unsafe { s.interleave(to.as_mut_ptr(), width, src.as_ptr(), mat.row, lines, terms) };
            }
        }
    }
}
