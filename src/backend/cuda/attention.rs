//! Attention: `kernels/attention_plain.cu`, and on tensor cores `attention_sm80.cu`; on Hopper see `attention_sm90.rs`.

use super::driver::{Kernel, Precision, Shape};
use super::{Acc, Buf, Cuda, Ids, args};
use crate::backend::Heads;

/// Threads of a block, in both files.
const THREADS: u32 = 128;
/// Rows that a block of `attention_plain` works on: a warp each.
const WARPS: usize = THREADS as usize / 32;
/// Rows of the other side that a block of `attention_sm80` fetches at a time (`TILE`).
const TILE: usize = 64;

/// Rows that a block of `attention_sm80` owns (`OWN`).
const fn owned(d: usize) -> usize {
    if d <= 64 { 128 } else { 64 }
}

/// Two tiles twice, rows padded by 16 bytes.
const fn tiles(d: usize) -> usize {
    4 * TILE * (d + 8) * 2
}

/// `QueryStats`, twice.
const QUERY_STATS: usize = 2 * TILE * 12;

/// Whether `attention_sm80` has kernels for heads of `d` channels.
const fn has_tensor_cores(d: usize) -> bool {
    d > 0 && d.is_multiple_of(16) && d <= 128
}

impl Cuda {
    pub(super) fn attention_kernel(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        if self.attention_hopper_fits(s) {
            self.attention_hopper(y, lse, qkv, starts, s);
        } else if self.precision() == Precision::Bf16 && has_tensor_cores(s.d) {
            self.attention_sm80(y, lse, qkv, starts, s);
        } else {
            self.attention_plain(y, lse, qkv, starts, s);
        }
    }

    pub(super) fn attention_backward_kernels(
        &self,
        dqkv: &mut Buf,
        delta: &mut Acc,
        dy: &Buf,
        y: &Buf,
        qkv: &Buf,
        lse: &Acc,
        starts: &Ids,
        s: Heads,
    ) {
        if self.attention_hopper_fits(s) {
            self.attention_backward_hopper(dqkv, delta, dy, y, qkv, lse, starts, s);
        } else if self.precision() == Precision::Bf16 && has_tensor_cores(s.d) {
            self.attention_sm80_backward(dqkv, delta, dy, y, qkv, lse, starts, s);
        } else {
            self.attention_plain_backward(dqkv, delta, dy, y, qkv, lse, starts, s);
        }
    }

    fn attention_plain(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        let kernel = Kernel::new("attention_plain", "attention_forward");
        self.launch(kernel, plain_shape(s, s.d + 32), args![y, lse, qkv, starts, s.scale() as f32, s.b, s.t, s.h, s.d]);
    }

    fn attention_plain_backward(&self, dqkv: &mut Buf, delta: &mut Acc, dy: &Buf, y: &Buf, qkv: &Buf, lse: &Acc, starts: &Ids, s: Heads) {
        let scale = s.scale() as f32;
        let kernel = |name| Kernel::new("attention_plain", name);
        let (dq, dkv) = (plain_shape(s, s.d + 32), plain_shape(s, 2 * s.d + 64));
        self.launch(kernel("attention_dq"), dq, args![&*dqkv, &*delta, dy, y, qkv, lse, starts, scale, s.b, s.t, s.h, s.d]);
        self.launch(kernel("attention_dkv"), dkv, args![dqkv, dy, qkv, lse, delta, starts, scale, s.b, s.t, s.h, s.d]);
    }

    fn attention_sm80(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        let kernel = Kernel::sized("attention_sm80", "attention_forward", s.d);
        let group = self.heads_at_once(s);
        self.launch(kernel, sm80_shape(s, 0), args![y, lse, qkv, starts, s.scale() as f32, s.t, s.h, s.b * s.h, group]);
    }

    fn attention_sm80_backward(&self, dqkv: &mut Buf, delta: &mut Acc, dy: &Buf, y: &Buf, qkv: &Buf, lse: &Acc, starts: &Ids, s: Heads) {
        let (scale, heads, group) = (s.scale() as f32, s.b * s.h, self.heads_at_once(s));
        let kernel = |name| Kernel::sized("attention_sm80", name, s.d);
        let (dq, dkv) = (sm80_shape(s, 0), sm80_shape(s, QUERY_STATS));
        self.launch(kernel("attention_dq"), dq, args![&*dqkv, &*delta, dy, y, qkv, lse, starts, scale, s.t, s.h, heads, group]);
        self.launch(kernel("attention_dkv"), dkv, args![dqkv, dy, qkv, lse, delta, starts, scale, s.t, s.h, heads, group]);
    }

    /// How many heads are worked on at a time: what their blocks fetch, two parts of each row, is to fill half of the
    /// second-level cache.
    fn heads_at_once(&self, s: Heads) -> usize {
        (self.info().l2 / 2 / (s.t * s.d * 4).max(1)).clamp(1, (s.b * s.h).max(1))
    }
}

/// A warp a (row, head), with so many floats of shared memory.
fn plain_shape(s: Heads, floats: usize) -> Shape {
    Shape::of((s.n() * s.h).div_ceil(WARPS), THREADS).with_shared(WARPS * floats * 4)
}

/// A block so many rows of a head, with so many bytes of shared memory beside the tiles.
fn sm80_shape(s: Heads, more: usize) -> Shape {
    Shape::of(s.t.div_ceil(owned(s.d)) * s.b * s.h, THREADS).with_shared(tiles(s.d) + more)
}
