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

/// Slivers a task copies: where a term's lines lie side by side, 8 of them make runs of several cache lines.
const AT_ONCE: usize = 8;

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
        let (first, last) = (self.first, slivers.min(self.first + AT_ONCE));
        // SAFETY: every task has slivers of its own, and they lie side by side.
        let to = unsafe { to.part((self.chunk * slivers + first) * kc * width, (last - first) * kc * width) };
        let src = &mat.data[((from + first * width) * mat.row + p * mat.col).min(mat.data.len())..];
        let all = (last * width).min(count) - first * width;
        if mat.row == 1 {
            // Term by term over all slivers: a term's lines lie side by side in the source.
            for t in 0..terms {
                let src = &src[t * mat.col..][..all];
                for (sliver, line) in (0..all).step_by(width).enumerate() {
                    let to = &mut to[sliver * kc * width..][t * width..kc * width];
                    if line + width <= all {
                        for j in (0..width).step_by(S::LANES) {
                            let (src, to) = (&src[line + j..], &mut to[j..]);
                            // What is read and written beyond the width is written again with the next term.
                            if src.len() >= S::LANES && to.len() >= S::LANES {
                                s.store(s.load(src), to);
                            } else {
                                let here = S::LANES.min(width - j);
                                s.store_head(s.load_head(&src[..here]), &mut to[..here]);
                            }
                        }
                    } else {
                        to[..all - line].copy_from_slice(&src[line..]);
                        to[all - line..width].fill(0.0);
                    }
                }
            }
        } else if terms > 0 {
            assert!(mat.col == 1 && (all - 1) * mat.row + terms <= src.len());
            for (sliver, to) in to.chunks_exact_mut(kc * width).enumerate() {
                let (line, to) = (sliver * width, &mut to[..terms * width]);
                let lines = width.min(all - line);
                // SAFETY: `to` holds `width terms` elements, and the assertion covers the source.
                unsafe { s.interleave(to.as_mut_ptr(), width, src[line * mat.row..].as_ptr(), mat.row, lines, terms) };
            }
        }
    }
}
