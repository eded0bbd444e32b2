//! A matrix ready for products: in panels if it is quantized, where it lies in its file if it is of floats.

mod activations;
mod area;
mod blocks;
mod floats;
mod repack;

pub use activations::{Activations, Input};
pub(super) use activations::{Parts, Row};
pub(super) use area::{Area, LINE};
pub use floats::INPUTS;

use crate::gguf::{Gguf, TensorInfo};
use crate::quant::GgmlType;
use crate::simd::Isa;
use crate::simd::panel::{Dots, Format, Layout, Panel};
use floats::Floats;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// What inputs a matrix takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats.
    Floats,
    /// 8 bits, a scale for 32 columns.
    Small,
    /// 8 bits, a scale for 256 columns, sums of 32.
    Wide,
    /// 8 bits, a scale for 256 columns, sums of 16.
    Fine,
}

impl Kind {
    /// Columns of a scale and of a sum, in rows of `cols`.
    pub(super) const fn blocks(self, cols: usize) -> (usize, usize) {
        match self {
            Self::Floats => (cols, cols),
            Self::Small => (32, 32),
            Self::Wide => (256, 32),
            Self::Fine => (256, 16),
        }
    }
}

/// A matrix `(rows, cols)`.
pub struct Packed {
    rows: usize,
    cols: usize,
    ty: GgmlType,
    store: Store,
}

enum Store {
    Floats(Floats),
    Panels(Panels),
}

/// Quants and scales of all panels, one after another.
struct Panels {
    format: Format,
    dots: Dots,
    layout: Layout,
    areas: Areas,
}

/// The memory of a matrix's panels.
pub(super) struct Areas {
    /// Quants, panel after panel.
    pub quants: Area,
    /// Scales, panel after panel.
    pub scales: Area,
}

/// Rows of floats that count as a panel.
const FLOAT_ROWS: usize = floats::ROWS;
/// The most rows a panel can have.
const MOST_ROWS: usize = 16;
/// Rows whose products with one input are stored together: what a call costs beside is shared by so many.
const ROWS_OF_ONE: usize = 64;
/// Bytes of a file that are packed before their pages are given back.
const STRETCH: usize = 1 << 20;

impl Packed {
    /// `tensor` of `file`, whose dimensions are `[cols, rows]`: packed for `dots` on the threads of rayon's current pool, the file's
    /// pages given back as it goes; floats stay where they are.
    pub(super) fn load(file: &Arc<Gguf>, tensor: TensorInfo, ty: GgmlType, rows: usize, cols: usize, dots: Dots) -> Self {
        let store = match repack::format(ty) {
            None => Store::Floats(Floats::new(file.clone(), tensor, ty, rows, cols)),
            Some(format) => {
                let (layout, bytes) = (dots.layout(), file.data(&tensor));
                let areas = Areas::pack(ty, layout, bytes, cols, |bytes| file.release(bytes));
                Store::Panels(Panels { format, dots, layout, areas })
            }
        };
        Self { rows, cols, ty, store }
    }

    /// The same of encoded rows in memory.
    ///
    /// # Panics
    /// If `ty` is a format of floats, or `bytes` are no whole number of rows.
    pub(super) fn of_rows(ty: GgmlType, bytes: &[u8], cols: usize, dots: Dots) -> Self {
        let rows = bytes.len() / ty.row_bytes(cols);
        assert_eq!(rows * ty.row_bytes(cols), bytes.len(), "whole rows");
        Self::ready(ty, rows, cols, dots, Areas::pack(ty, dots.layout(), bytes, cols, |_| {}))
    }

    /// A matrix of type `ty` that is packed already, for `dots`.
    ///
    /// # Panics
    /// If the type is not packed, or the areas are not as long as [`Areas::sizes`] says.
    pub(super) fn ready(ty: GgmlType, rows: usize, cols: usize, dots: Dots, areas: Areas) -> Self {
        let (format, layout) = (repack::format(ty).expect("a type that is packed"), dots.layout());
        let sizes = (areas.quants.bytes().len(), areas.scales.bytes().len());
        assert_eq!(Some(sizes), Areas::sizes(ty, layout, rows, cols), "bytes of quants and scales");
        Self { rows, cols, ty, store: Store::Panels(Panels { format, dots, layout, areas }) }
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
    /// Its type in the file.
    #[must_use]
    pub const fn ty(&self) -> GgmlType {
        self.ty
    }
    /// Rows of a panel.
    #[must_use]
    pub const fn panel_rows(&self) -> usize {
        match &self.store {
            Store::Floats(_) => FLOAT_ROWS,
            Store::Panels(p) => p.layout.rows,
        }
    }
    /// Panels, the last of which may not be full.
    #[must_use]
    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(self.panel_rows())
    }
    /// What inputs it takes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match &self.store {
            Store::Floats(_) => Kind::Floats,
            Store::Panels(p) => {
                let shape = p.format.shape();
                match (shape.block, shape.sub) {
                    (32, _) => Kind::Small,
                    (_, 32) => Kind::Wide,
                    _ => Kind::Fine,
                }
            }
        }
    }
    /// Bytes of memory of its own.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match &self.store {
            Store::Floats(_) => 0,
            Store::Panels(p) => p.areas.quants.own() + p.areas.scales.own(),
        }
    }

    /// `out (cols)` = row `i`, as the file's type decodes it.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, out: &mut [f32], i: usize) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        match &self.store {
            Store::Floats(f) => f.row(out, i),
            Store::Panels(p) => {
                let (panel, shape) = (p.panel(i / p.layout.rows, self.cols), p.format.shape());
                for (b, out) in out[..self.cols].chunks_mut(shape.block).enumerate() {
                    p.format.decode(out, &p.format.get(p.layout, panel, i % p.layout.rows, b));
                }
            }
        }
    }

    /// The product of some panels' rows with all inputs, `R` rows at a time (a panel's; with one input several panels'):
    /// `store(first row, R, out)`, in which `out[i * R + r]` is row `first + r` times input `i`; rows behind the last are to be passed
    /// over. `room` has [`room`](Self::room) numbers.
    ///
    /// # Panics
    /// If there are no such panels, or the inputs are not of this matrix's kind and length.
    pub fn product(&self, isa: Isa, x: &Input<'_>, panels: Range<usize>, room: &mut [f32], mut store: impl FnMut(usize, usize, &[f32])) {
        assert!(panels.end <= self.panels() && x.kind == self.kind() && x.quants.cols == self.cols, "a product's sizes");
        let rows = self.panel_rows();
        let mut first = panels.start;
        while first < panels.end {
            let most = if x.quants.n == 1 { ROWS_OF_ONE } else { MOST_ROWS };
            let count = (most / rows).min(panels.end - first);
            let room = &mut room[..count * x.quants.n * rows];
            match &self.store {
                Store::Floats(f) => {
                    for (p, out) in room.chunks_exact_mut(x.quants.n * rows).enumerate() {
                        f.product(isa, out, (first + p) * rows, x);
                    }
                }
                Store::Panels(p) => p.dots.product(p.format, room, p.some(first, count, self.cols), &x.quants),
            }
            if x.quants.n == 1 {
                store(first * rows, count * rows, room);
            } else {
                for (p, out) in room.chunks_exact(x.quants.n * rows).enumerate() {
                    store((first + p) * rows, rows, out);
                }
            }
            first += count;
        }
    }

    /// Numbers of a product's room for `n` inputs.
    #[must_use]
    pub const fn room(n: usize) -> usize {
        if n * MOST_ROWS > ROWS_OF_ONE { n * MOST_ROWS } else { ROWS_OF_ONE }
    }

    /// `out[i]` = row `ids[i]` times the one input.
    ///
    /// # Panics
    /// If a row is not there, or the input is not of this matrix's kind and length.
    pub fn gather(&self, isa: Isa, out: &mut [f32], ids: &[u32], x: &Input<'_>) {
        let rows = self.panel_rows();
        let mut room = [0.0; MOST_ROWS];
        let mut made = usize::MAX;
        for (out, &id) in out.iter_mut().zip(ids) {
            let id = id as usize;
            assert!(id < self.rows, "row {id} of {}", self.rows);
            let panel = id / rows;
            if panel != made {
                self.product(isa, x, panel..panel + 1, &mut room, |_, _, _| {});
                made = panel;
            }
            *out = room[id % rows];
        }
    }
}

impl Areas {
    /// Bytes of quants and of scales of a matrix; `None` where its type is not packed.
    pub fn sizes(ty: GgmlType, layout: Layout, rows: usize, cols: usize) -> Option<(usize, usize)> {
        let (shape, panels) = (repack::format(ty)?.shape(), rows.div_ceil(layout.rows));
        Some((panels * shape.quant_bytes(layout.rows, cols), panels * shape.scale_bytes(layout.rows, cols)))
    }

    /// Packs the rows of `cols` columns that lie in `bytes`, on the threads of rayon's current pool; `done` is told of parts of
    /// `bytes` that are packed.
    ///
    /// # Panics
    /// If the type is not packed, or there is no whole row.
    pub fn pack(ty: GgmlType, layout: Layout, bytes: &[u8], cols: usize, done: impl Fn(&[u8]) + Sync) -> Self {
        let shape = repack::format(ty).expect("a type that is packed").shape();
        let panel_bytes = layout.rows * ty.row_bytes(cols);
        let (quant_bytes, scale_bytes) = (shape.quant_bytes(layout.rows, cols), shape.scale_bytes(layout.rows, cols));
        let n = bytes.len().div_ceil(panel_bytes);
        let (mut quants, mut scales) = (Area::zeroed(n * quant_bytes), Area::zeroed(n * scale_bytes));
        let stretch = (STRETCH / panel_bytes).max(1);
        let words: &mut [u32] = bytemuck::cast_slice_mut(quants.bytes_mut());
        words
            .par_chunks_mut(stretch * quant_bytes / 4)
            .zip(scales.bytes_mut().par_chunks_mut(stretch * scale_bytes))
            .zip(bytes.par_chunks(stretch * panel_bytes))
            .for_each(|((words, scales), bytes)| {
                let panels = words.chunks_mut(quant_bytes / 4).zip(scales.chunks_mut(scale_bytes)).zip(bytes.chunks(panel_bytes));
                panels.for_each(|((words, scales), rows)| repack::pack(ty, layout, rows, cols, words, scales));
                done(bytes);
            });
        Self { quants, scales }
    }
}

impl Panels {
    fn panel(&self, number: usize, cols: usize) -> Panel<'_> {
        self.some(number, 1, cols)
    }

    fn some(&self, first: usize, count: usize, cols: usize) -> Panel<'_> {
        let shape = self.format.shape();
        let (quants, scales) = (shape.quant_bytes(self.layout.rows, cols), shape.scale_bytes(self.layout.rows, cols));
        Panel {
            quants: &self.areas.quants.bytes()[first * quants..][..count * quants],
            scales: &self.areas.scales.bytes()[first * scales..][..count * scales],
            count,
        }
    }
}
