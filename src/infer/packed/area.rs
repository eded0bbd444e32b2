//! Bytes of packed weights: memory of our own, or a piece of a mapped file.

use crate::mmap::Mapped;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that begin at a cache line.
pub struct Area(Held);

enum Held {
    Own { lines: Vec<Line>, len: usize },
    Mapped { file: Arc<Mapped>, at: Range<usize> },
}

/// A cache line: quants begin at one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Bytes of a cache line.
pub const LINE: usize = size_of::<Line>();

impl Area {
    /// `len` zeros. They come from the system untouched: a page is taken when it is first written.
    pub fn zeroed(len: usize) -> Self {
        Self(Held::Own { lines: bytemuck::zeroed_vec(len.div_ceil(LINE)), len })
    }

    /// A piece of a file.
    ///
    /// # Panics
    /// If it lies outside, or does not begin at a cache line.
    pub fn mapped(file: &Arc<Mapped>, at: Range<usize>) -> Self {
        assert!(at.start.is_multiple_of(LINE) && file.get(at.clone()).is_some(), "{at:?} of a file of {} bytes", file.len());
        Self(Held::Mapped { file: file.clone(), at })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Held::Own { lines, len } => &bytemuck::cast_slice(lines)[..*len],
            Held::Mapped { file, at } => &file[at.clone()],
        }
    }

    /// The bytes, to be written.
    ///
    /// # Panics
    /// If they are a file's.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Held::Own { lines, len } => &mut bytemuck::cast_slice_mut(lines)[..*len],
            Held::Mapped { .. } => panic!("a mapped file is only read"),
        }
    }

    /// Bytes of memory of our own.
    pub const fn own(&self) -> usize {
        match &self.0 {
            Held::Own { lines, .. } => lines.len() * LINE,
            Held::Mapped { .. } => 0,
        }
    }
}
