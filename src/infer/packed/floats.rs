//! A matrix of floats where it lies in its file, and products with it.

pub use super::super::kernels::ROWS;
use super::super::kernels::{Decode, Multiply};
use super::Input;
use crate::gguf::{Gguf, TensorInfo};
use crate::quant::GgmlType;
use crate::simd::Isa;
use std::sync::Arc;

/// A matrix `(rows, cols)` in its file.
pub struct Floats {
    file: Arc<Gguf>,
    tensor: TensorInfo,
    ty: GgmlType,
    rows: usize,
    cols: usize,
}

/// Weights of a row that are decoded together, a multiple of every format's block: four such pieces stay in L1.
const PIECE: usize = 256;
/// Inputs of a product, at most.
pub const INPUTS: usize = 64;

impl Floats {
    /// `tensor` of `file`, whose dimensions are `[cols, rows]`.
    pub fn new(file: Arc<Gguf>, tensor: TensorInfo, ty: GgmlType, rows: usize, cols: usize) -> Self {
        Self { file, tensor, ty, rows, cols }
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

    /// `out[i * ROWS + k]` = row `first + k` times input `i`; 0 for rows behind the last.
    ///
    /// # Panics
    /// If there are more than [`INPUTS`] inputs.
    pub fn product(&self, isa: Isa, out: &mut [f32], first: usize, x: &Input<'_>) {
        let (n, mut room, mut y) = (x.quants.n, [[0.0; PIECE]; ROWS], [0.0; ROWS * INPUTS]);
        let ids: [usize; ROWS] = std::array::from_fn(|k| first + k);
        let there = (self.rows - first).min(ROWS);
        self.products(isa, &mut y[..there * n], &ids[..there], x.floats, n, &mut room);
        for (i, out) in out[..n * ROWS].chunks_mut(ROWS).enumerate() {
            (0..ROWS).for_each(|k| out[k] = y[k * n + i]);
        }
    }
}

/// Decoded pieces of [`ROWS`] rows.
type Room = [[f32; PIECE]; ROWS];
