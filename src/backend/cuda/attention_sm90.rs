//! Attention on Hopper, for heads of 64 channels in bf16: `kernels/attention_sm90.cu`, `attention_sm90_backward.cu`.

use super::driver::{Kernel, Precision, Ptr, Shape, TensorMap};
use super::{Acc, Buf, Cuda, Ids, args};
use crate::backend::Heads;

/// Channels of a head, and the columns of a box.
const HEAD: usize = 64;
/// Rows of an item: what a block works on at a time.
const ITEM: usize = 128;
/// Rows of a tile of the backward kernels.
const TILE: usize = 64;
/// f32 words that the backward kernels want of a row of a head.
const ROW_WORDS: usize = 3;
/// Threads of a block: a producer and two consumers of 128.
const THREADS: u32 = 384;
/// `sizeof(ForwardShared)` and `sizeof(BackwardShared)`, which the kernels hold to these.
const FORWARD_SHARED: usize = 131_328;
const BACKWARD_SHARED: usize = 103_424;

impl Cuda {
    /// Whether the kernels of this file can do it.
    pub(super) fn attention_hopper_fits(&self, s: Heads) -> bool {
        self.info().arch == 90 && self.precision() == Precision::Bf16 && s.d == HEAD
    }

    /// A matrix of `columns` channels, for boxes of a head's channels of `rows` rows.
    fn head_boxes(&self, of: &Buf, s: Heads, columns: usize, rows: usize) -> TensorMap {
        self.driver.tensor_map(of.ptr(), s.n(), columns, columns, rows as u32, HEAD as u32)
    }

    /// A block a multiprocessor, each going from item to item.
    fn persistent(&self, s: Heads, shared: usize) -> Shape {
        let items = s.b * s.h * s.t.div_ceil(ITEM);
        Shape::of(items.min(self.info().multiprocessors as usize), THREADS).with_shared(shared)
    }

    /// How many pairs of a sequence and a head are worked on together, their longest items first: so many that what all items of a
    /// pair read, two operands, takes a quarter of the cache, and no more than 64.
    fn section(&self, s: Heads) -> usize {
        (self.info().l2 / 4 / (s.t * 2 * HEAD * Precision::Bf16.bytes())).clamp(1, 64)
    }

    /// [`Backend::attention`](crate::backend::Backend::attention).
    pub(super) fn attention_hopper(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        let map = self.head_boxes(qkv, s, 3 * s.c(), ITEM);
        self.launch(
            Kernel::new("attention_sm90", "attention_forward"),
            self.persistent(s, FORWARD_SHARED),
            args![map, y, lse, starts, s.t, s.h, s.b * s.h, self.section(s)],
        );
    }

    /// [`Backend::attention_backward`](crate::backend::Backend::attention_backward); `_delta` is not made use of: the kernels want its
    /// numbers in another order, beside two others.
    pub(super) fn attention_backward_hopper(
        &self,
        dqkv: &mut Buf,
        _delta: &mut Acc,
        dy: &Buf,
        y: &Buf,
        qkv: &Buf,
        lse: &Acc,
        starts: &Ids,
        s: Heads,
    ) {
        let tiles = s.b * s.h * s.t.div_ceil(TILE);
        let rows: Ptr = self.scratch("attention rows", tiles * TILE * ROW_WORDS * 4);
        if rows == super::NULL {
            return;
        }
        self.launch(
            Kernel::new("attention_sm90_backward", "attention_rows"),
            Shape::of(tiles, 256),
            args![rows, dy, y, lse, starts, s.t, s.h],
        );
        let (qkv, dy) = (self.head_boxes(qkv, s, 3 * s.c(), TILE), self.head_boxes(dy, s, s.c(), TILE));
        for name in ["attention_backward_keys", "attention_backward_queries"] {
            self.launch(
                Kernel::new("attention_sm90_backward", name),
                self.persistent(s, BACKWARD_SHARED),
                args![qkv, dy, &mut *dqkv, rows, starts, s.t, s.h, s.b * s.h, self.section(s)],
            );
        }
    }
}
