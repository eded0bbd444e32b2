//! Embedding: `kernels/embed.cu`.

use super::driver::{Kernel, NULL, Ptr, Shape};
use super::{Acc, Buf, Cuda, Ids, args};

/// `DIGITS`, `SORTED` and `SUMMED` of the kernels: values of a digit, rows of a tile of the sort and of a tile of the sums.
const DIGITS: usize = 256;
const SORTED: usize = 2048;
const SUMMED: usize = 64;

impl Cuda {
    pub(super) fn embed_kernel(&self, x: &mut Buf, tokens: &Ids, positions: &Ids, wte: &Buf, wpe: &Buf, n: usize, c: usize) {
        let kernel = Kernel::new("embed", "embed_forward");
        self.launch(kernel, Shape::of(n.div_ceil(8), 256), args![x, tokens, positions, wte, wpe, n, c]);
    }

    pub(super) fn embed_backward_kernels(
        &self,
        dwte: Option<&mut Acc>,
        dwpe: Option<&mut Acc>,
        dx: &Buf,
        tokens: &Ids,
        positions: &Ids,
        n: usize,
        c: usize,
    ) {
        for (dw, ids) in [(dwte, tokens), (dwpe, positions)] {
            if let Some(dw) = dw {
                self.add_rows(dw, dx, ids, n, c);
            }
        }
    }

    /// `dw[ids] += dx`.
    fn add_rows(&self, dw: &mut Acc, dx: &Buf, ids: &Ids, n: usize, c: usize) {
        let tiles = n.div_ceil(SUMMED);
        let partial = self.scratch("embed sums", tiles * 2 * c * 4);
        let sorted = self.sorted(ids, n, dw.len / c);
        let (Some((ids, rows)), true) = (sorted, partial != NULL && n > 0) else { return };
        // Eight columns a thread.
        let threads = c.div_ceil(8).next_multiple_of(32).min(128);
        let shape = Shape { grid: [tiles as u32, c.div_ceil(8 * threads) as u32, 1], ..Shape::of(1, threads as u32) };
        self.launch(Kernel::new("embed", "embed_sum"), shape, args![&mut *dw, partial, dx, ids, rows, n, c]);
        self.launch(Kernel::new("embed", "embed_join"), shape, args![dw, partial, ids, n, c]);
    }

    /// The first `n` of `ids`, all below `table`, in ascending order, and their places before, ascending where ids are equal.
    fn sorted(&self, ids: &Ids, n: usize, table: usize) -> Option<(Ptr, Ptr)> {
        let tiles = n.div_ceil(SORTED);
        let counts = self.scratch("embed counts", tiles * DIGITS * 4);
        // Two pairs of lists that passes go between.
        let lists = self.scratch("embed lists", 4 * n * 4);
        if counts == NULL || lists == NULL {
            return None;
        }
        let list = |i: usize| lists + (i * n * 4) as Ptr;
        let bits = usize::BITS - table.saturating_sub(1).leading_zeros();
        let (mut from, mut rows) = (ids.ptr(), NULL);
        for pass in 0..bits.div_ceil(DIGITS.ilog2()).max(1) {
            let shift = pass * DIGITS.ilog2();
            let (to, to_rows) = if pass % 2 == 0 { (list(0), list(1)) } else { (list(2), list(3)) };
            let shape = Shape::of(tiles, DIGITS as u32);
            self.launch(Kernel::new("embed", "embed_count"), shape, args![counts, from, shift, n]);
            self.launch(Kernel::new("embed", "embed_scatter"), shape, args![to, to_rows, from, rows, counts, tiles, shift, n]);
            (from, rows) = (to, to_rows);
        }
        Some((from, rows))
    }
}
