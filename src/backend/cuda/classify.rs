//! The classifier: `kernels/classify.cu`.

use super::driver::{Epilogue, Kernel, Matrix, NULL, Product, Ptr, Shape};
use super::{Acc, Buf, Cuda, Ids, Memory, ROW_TILE, args, padded};
use crate::backend::{BackendError, Targets};

/// Rows of logits that exist at a time: 0.8 GB at V 50,304 in bf16. Fewer would have the gradient of the weight, 154 MB at C 768, read
/// and written more often; more would only take memory.
const CHUNK_ROWS: usize = 8192;
/// Bytes of logits at a time on their way to a caller who wants them all.
const LOGITS_BYTES: usize = 64 << 20;
/// Counts of rows that a batch is filled up to, beside all, all but one and none.
const BUCKETS: usize = 16;
/// The most threads that work on a row of logits: two rows of 512 share a multiprocessor.
const MOST_THREADS: usize = 512;
/// Shared memory of a block that is not for its row of logits: sums over warps.
const BLOCK_BYTES: usize = 1024;

/// The classifier's workspace: what a chunk of rows needs.
pub struct Head {
    /// Rows of a chunk.
    room: usize,
    /// `(room, P)`, where P is V in whole tiles of rows of the weight: logits, then their gradient.
    logits: Memory,
    /// `(room, C)`: counted rows of `x`, where not all count.
    x: Memory,
    /// `(room, C)`: the gradient of those.
    dx: Memory,
    /// `(N)` f32: the loss of each counted row.
    losses: Memory,
}

impl Head {
    pub(super) fn new(be: &Cuda, n: usize, c: usize, v: usize) -> Result<Self, BackendError> {
        Self::with_chunk(be, n, c, v, CHUNK_ROWS)
    }

    /// A workspace that takes at most `chunk` rows at a time; for tests.
    #[doc(hidden)]
    pub fn with_chunk(be: &Cuda, n: usize, c: usize, v: usize, chunk: usize) -> Result<Self, BackendError> {
        let (room, bytes) = (n.clamp(1, chunk), be.precision().bytes());
        // Not zeroed: each kernel writes what the next one reads.
        let memory = |bytes: usize| Ok::<_, BackendError>(Memory { ptr: be.driver.allocate(bytes.max(16))?, driver: be.driver.clone() });
        Ok(Self {
            room,
            logits: memory(room * padded(v) * bytes)?,
            x: memory(room * c * bytes)?,
            dx: memory(room * c * bytes)?,
            losses: memory(n * 4)?,
        })
    }
}

/// How many rows a batch is filled up to in which `count` of `n` count: 18 values for each `n`, at most a sixteenth of it apart.
///
/// All `n` only where all count: then, and then alone, rows are 0 to `n` and none is [`NO_ROW`](crate::backend::NO_ROW), so that
/// nothing need be gathered. A batch that lacks a single row is filled up to `n - 1` at most. Steps divide 8,192 where `n` is a power
/// of two up to 131,072, so that chunks, whose products are planned by size, come in few sizes.
pub(super) fn bucket(count: usize, n: usize) -> usize {
    if count >= n { count } else { count.next_multiple_of(padded(n.div_ceil(BUCKETS))).min(n - 1) }
}

impl Cuda {
    pub(super) fn classify_kernels(
        &self,
        loss: &mut Acc,
        dx: Option<&mut Buf>,
        dwte: Option<&mut Acc>,
        head: &mut Head,
        x: &Buf,
        wte: &Buf,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    ) {
        let (count, p, bytes) = (targets.count, padded(v), self.precision().bytes());
        let all = count == n;
        let (dx, dwte) = (dx.map(|dx| dx.ptr()), dwte.map(|dwte| dwte.ptr()));
        if let (Some(dx), false) = (dx, all) {
            self.driver.zero(dx, n * c * bytes);
        }
        let kernel = match (dx.is_some() || dwte.is_some(), self.row_fits(p)) {
            (false, _) => "cross_entropy_loss",
            (true, true) => "cross_entropy",
            (true, false) => "cross_entropy_twice",
        };
        for start in (0..count).step_by(head.room) {
            let here = head.room.min(count - start);
            let rows = targets.rows.ptr() + (start * 4) as u64;
            // Rows of this chunk, where they are, and where their gradient goes. Gathered ones fill whole tiles.
            let offset = (start * c * bytes) as u64;
            let (m, x, d) = if all {
                (here, x.ptr() + offset, dx.map(|dx| dx + offset))
            } else {
                let m = here.next_multiple_of(ROW_TILE).min(head.room);
                self.gather(head.x.ptr, x, rows, here, m, c);
                (m, head.x.ptr, dx.map(|_| head.dx.ptr))
            };
            let logits = head.logits.ptr;
            self.run(&logits_product(logits, x, wte, m, c, p));

            let [ids, weights, losses] = [targets.ids.ptr(), targets.weights.ptr(), head.losses.ptr].map(|at| at + (start * 4) as u64);
            let shape = Shape::of(m, (p * bytes / 16).next_multiple_of(32).min(MOST_THREADS) as u32);
            let shape = if kernel == "cross_entropy" { shape.with_shared(p * bytes) } else { shape };
            self.launch(Kernel::new("classify", kernel), shape, args![logits, losses, ids, weights, here, v, p]);

            if let Some(dwte) = dwte {
                self.run(&Product {
                    m: p,
                    n: c,
                    k: m,
                    a: Matrix::transposed(logits, p),
                    b: Matrix::plain(x, c),
                    y: dwte,
                    c: dwte,
                    stride: c,
                    beta: 1.0,
                    accumulate: true,
                    ..logits_product(logits, x, wte, m, c, p)
                });
            }
            if let (Some(dx), Some(d)) = (dx, d) {
                let (a, b) = (Matrix::plain(logits, p), Matrix::plain(wte.ptr(), c));
                self.run(&Product { m, n: c, k: p, a, b, y: d, c: d, stride: c, ..logits_product(logits, x, wte, m, c, p) });
                if !all {
                    self.launch(Kernel::new("classify", "scatter_rows"), Shape::of(here.div_ceil(8), 256), args![dx, d, rows, here, c]);
                }
            }
        }
        if count > 0 {
            self.launch(Kernel::new("classify", "sum_losses"), Shape::of(1, 1024), args![loss, head.losses.ptr, count]);
        }
    }

    pub(super) fn logits_kernels(&self, logits: &mut Buf, x: &Buf, rows: &Ids, count: usize, wte: &Buf, c: usize, v: usize) {
        if count == 0 {
            return;
        }
        let (p, bytes) = (padded(v), self.precision().bytes());
        let room = (LOGITS_BYTES / (p * bytes) / ROW_TILE * ROW_TILE).max(ROW_TILE).min(count.next_multiple_of(ROW_TILE));
        let (gathered, whole) = (self.scratch("rows of logits", room * c * bytes), self.scratch("padded logits", room * p * bytes));
        if gathered == NULL || whole == NULL {
            return;
        }
        for start in (0..count).step_by(room) {
            let here = room.min(count - start);
            let m = here.next_multiple_of(ROW_TILE);
            self.gather(gathered, x, rows.ptr() + (start * 4) as u64, here, m, c);
            self.run(&logits_product(whole, gathered, wte, m, c, p));
            let to = logits.ptr() + (start * v * bytes) as u64;
            self.launch(Kernel::new("classify", "copy_logits"), Shape::of(here, 256), args![to, whole, v, p]);
        }
    }

    /// `y (filled, C) = x[rows]`, with zeros for rows that are not there and behind `count`.
    fn gather(&self, y: Ptr, x: &Buf, rows: Ptr, count: usize, filled: usize, c: usize) {
        self.launch(Kernel::new("classify", "gather_rows"), Shape::of(filled.div_ceil(8), 256), args![y, x, rows, count, filled, c]);
    }

    /// Whether a block's shared memory holds a row of `p` logits.
    fn row_fits(&self, p: usize) -> bool {
        p * self.precision().bytes() + BLOCK_BYTES <= self.info().shared as usize
    }
}

/// `logits (M, P) = x (M, C) wte (P, C)^T`.
fn logits_product(logits: Ptr, x: Ptr, wte: &Buf, m: usize, c: usize, p: usize) -> Product {
    Product {
        m,
        n: p,
        k: c,
        a: Matrix::plain(x, c),
        b: Matrix::transposed(wte.ptr(), c),
        y: logits,
        c: logits,
        stride: p,
        alpha: 1.0,
        beta: 0.0,
        accumulate: false,
        epilogue: Epilogue::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows only for all; never fewer than asked, nor far more; few values.
    #[test]
    fn buckets() {
        for n in [1usize, 2, 63, 64, 65, 1000, 1024, 65_536] {
            let mut values: Vec<usize> = (0..=n).map(|count| bucket(count, n)).collect();
            for (count, &filled) in values.iter().enumerate() {
                assert!(filled >= count && filled <= n && (filled == n) == (count == n), "{count} of {n}: {filled}");
                assert!(filled - count < n.div_ceil(BUCKETS).next_multiple_of(ROW_TILE), "{count} of {n}: {filled}");
                assert_eq!(bucket(filled, n), filled);
            }
            values.dedup();
            assert!(values.len() <= BUCKETS + 2 && values.is_sorted(), "{n}: {values:?}");
            assert_eq!(values[0], 0);
        }
    }
}
