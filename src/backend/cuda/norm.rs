//! LayerNorm: `kernels/norm.cu`.

use super::driver::{Kernel, NULL, Shape};
use super::{Acc, Buf, Cuda, args};
use crate::backend::NORM_EPS;

/// Of one width of rows that are kept in registers: its kernels, how many forward blocks of 256 threads a multiprocessor holds,
/// and the threads of its one backward block.
struct Width {
    forward: &'static str,
    blocks: usize,
    backward: &'static str,
    threads: u32,
}

/// Rows of up to 256, 512, 768, 1,024 channels.
const WIDTHS: [Width; 4] = [
    Width { forward: "norm_forward_1", blocks: 4, backward: "norm_backward_1", threads: 768 },
    Width { forward: "norm_forward_2", blocks: 4, backward: "norm_backward_2", threads: 512 },
    Width { forward: "norm_forward_3", blocks: 4, backward: "norm_backward_3", threads: 384 },
    Width { forward: "norm_forward_4", blocks: 3, backward: "norm_backward_4", threads: 256 },
];

/// The width that fits `c` channels; `None` where rows are read again from memory.
fn width(c: usize) -> Option<&'static Width> {
    if c.is_multiple_of(8) { WIDTHS.get(c.div_ceil(256) - 1) } else { None }
}

/// Rows of a block of 256 threads of the kernels for any width.
const ROWS: usize = 8;
/// Rows that one thread of `norm_sums_any` sums.
const SUMMED: usize = 256;

impl Cuda {
    pub(super) fn norm_kernel(&self, y: &mut Buf, stats: &mut Acc, x: &Buf, w: &Buf, b: &Buf, n: usize, c: usize) {
        let (name, blocks) = match width(c) {
            Some(width) => (width.forward, n.div_ceil(ROWS).min(self.multiprocessors() * width.blocks)),
            None => ("norm_forward_any", n.div_ceil(ROWS)),
        };
        self.launch(Kernel::new("norm", name), Shape::of(blocks, 256), args![y, stats, x, w, b, NORM_EPS as f32, n, c]);
    }

    /// `along`: dw, db and the column sums of dx as it then is.
    pub(super) fn norm_backward_kernels(
        &self,
        dx: &mut Buf,
        along: [Option<&mut Acc>; 3],
        dy: &Buf,
        x: &Buf,
        w: &Buf,
        stats: &Acc,
        n: usize,
        c: usize,
    ) {
        let width = width(c);
        let parts = match width {
            Some(width) => n.div_ceil(width.threads as usize / 32).min(self.multiprocessors()),
            None => n.div_ceil(SUMMED),
        };
        let partial = self.scratch("norm", parts * 3 * c * 4);
        if partial == NULL || parts == 0 {
            return;
        }
        if let Some(width) = width {
            let kernel = Kernel::new("norm", width.backward);
            self.launch(kernel, Shape::of(parts, width.threads), args![&mut *dx, partial, dy, x, w, stats, n, c]);
        } else {
            let kernel = Kernel::new("norm", "norm_backward_any");
            self.launch(kernel, Shape::of(n.div_ceil(ROWS), 256), args![&mut *dx, dy, x, w, stats, n, c]);
            let shape = Shape { grid: [c.div_ceil(128) as u32, parts as u32, 1], ..Shape::of(1, 128) };
            self.launch(Kernel::new("norm", "norm_sums_any"), shape, args![partial, &*dx, dy, x, stats, n, c]);
        }
        if along.iter().any(Option::is_some) {
            let [dw, db, sums] = along.map(|sums| sums.map_or(NULL, |sums| sums.ptr()));
            let shape = Shape { grid: [c.div_ceil(32) as u32, 3, 1], ..Shape::of(1, 256) };
            self.launch(Kernel::new("norm", "norm_columns"), shape, args![dw, db, sums, partial, parts, c]);
        }
    }

    fn multiprocessors(&self) -> usize {
        self.info().multiprocessors as usize
    }
}
