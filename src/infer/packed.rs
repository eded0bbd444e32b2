//! A matrix where it lies in its file, and products with it.

use super::kernels::{After, Decode, Multiply, ROWS};
use crate::gguf::{Gguf, TensorInfo};
use crate::quant::GgmlType;
use crate::simd::Isa;
use rayon::prelude::*;
use std::sync::Arc;

/// A matrix `(rows, cols)` in its file.
#[derive(Clone)]
pub struct Packed {
    file: Arc<Gguf>,
    tensor: TensorInfo,
    ty: GgmlType,
    rows: usize,
    cols: usize,
}

/// Weights of a row that are decoded together, a multiple of every format's block: four such pieces stay in L1.
const PIECE: usize = 256;
/// Rows that a thread takes at a time.
const SHARE: usize = 32;
/// Fewest multiplications worth a thread's while: some 20 microseconds.
const GRAIN: usize = 1 << 17;

impl Packed {
    /// `tensor` of `file`, whose dimensions are `[cols, rows]`.
    pub(super) fn new(file: Arc<Gguf>, tensor: TensorInfo, ty: GgmlType, rows: usize, cols: usize) -> Self {
        Self { file, tensor, ty, rows, cols }
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }
    /// Length of a row.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }
    /// Its format.
    #[must_use]
    pub const fn ty(&self) -> GgmlType {
        self.ty
    }

    /// `out (cols)` = row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, out: &mut [f32], i: usize) {
        self.ty.dequantize_row(&mut out[..self.cols], &self.bytes(i)[..self.ty.row_bytes(self.cols)]);
    }

    /// The file's bytes from row `i` on.
    fn bytes(&self, i: usize) -> &[u8] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &self.file.data(&self.tensor)[i * self.ty.row_bytes(self.cols)..]
    }

    /// All weights, where they are `f32` in the file.
    fn plain(&self) -> Option<&[f32]> {
        if self.ty != GgmlType::F32 {
            return None;
        }
        // A tensor lies at a multiple of 8 in the file, and the file at one in memory.
        bytemuck::try_cast_slice(self.file.data(&self.tensor)).ok()
    }

    /// `y += w[ids] x`: products of the rows `ids`, up to [`ROWS`] of them, with `n` inputs.
    ///
    /// `y (ids, n)`, `x (n, cols)`; `room` is for decoded weights.
    fn products(&self, isa: Isa, y: &mut [f32], ids: &[usize], x: &[f32], n: usize, room: &mut Room) {
        let (rows, step) = (ids.len(), self.cols);
        if let Some(all) = self.plain() {
            let w = std::array::from_fn(|k| ids.get(k).map_or(&[][..], |id| &all[id * self.cols..][..self.cols]));
            return isa.run(Multiply { y, w, rows, x, step, n });
        }
        for from in (0..self.cols).step_by(PIECE) {
            let len = PIECE.min(self.cols - from);
            for (room, &i) in room.iter_mut().zip(ids) {
                let bytes = &self.bytes(i)[self.ty.row_bytes(from)..][..self.ty.row_bytes(len)];
                isa.run(Decode { ty: self.ty, out: &mut room[..len], bytes });
            }
            isa.run(Multiply { y, w: std::array::from_fn(|k| &room[k][..len]), rows, x: &x[from..], step, n });
        }
    }

    /// `y (rows, n) = w x^T + b`, then `after` over it: one output's `n` values lie together, so that threads can
    /// share the work by rows. `x (n, cols)`, `b (rows)`. With `n = 1` this is decoding's matrix times vector.
    pub(super) fn matmul(&self, isa: Isa, y: &mut [f32], x: &[f32], b: Option<&[f32]>, n: usize, after: After) {
        let y = &mut y[..self.rows * n];
        let work = |(i, y): (usize, &mut [f32])| {
            let mut room = [[0.0; PIECE]; ROWS];
            for (j, y) in y.chunks_mut(ROWS * n).enumerate() {
                let first = i * SHARE + j * ROWS;
                let ids: [usize; ROWS] = std::array::from_fn(|k| first + k);
                for (y, &id) in y.chunks_mut(n).zip(&ids) {
                    y.fill(b.map_or(0.0, |b| b[id]));
                }
                self.products(isa, y, &ids[..y.len() / n], x, n, &mut room);
            }
            after.apply(isa, y);
        };
        if rayon::current_num_threads() == 1 {
            y.chunks_mut(SHARE * n).enumerate().for_each(work);
        } else {
            let grain = GRAIN.div_ceil(SHARE * n * self.cols);
            y.par_chunks_mut(SHARE * n).enumerate().with_min_len(grain).for_each(work);
        }
    }

    /// `y[i] = w[ids[i]] . x` for any rows.
    ///
    /// # Panics
    /// If there is no such row, or `y` is shorter than `ids`.
    pub fn matvec(&self, isa: Isa, y: &mut [f32], ids: &[u32], x: &[f32]) {
        let mut room = [[0.0; PIECE]; ROWS];
        for (y, ids) in y[..ids.len()].chunks_mut(ROWS).zip(ids.chunks(ROWS)) {
            y.fill(0.0);
            let few: [usize; ROWS] = std::array::from_fn(|k| ids.get(k).map_or(0, |&id| id as usize));
            self.products(isa, y, &few[..ids.len()], x, 1, &mut room);
        }
    }
}

/// Decoded pieces of [`ROWS`] rows.
type Room = [[f32; PIECE]; ROWS];
