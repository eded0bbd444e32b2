//! Keys and values of the tokens a session has read, and attention over them.
//!
//! Work is cut by heads: a task owns one head of one layer, takes in the keys and values of the new rows ([`Head::append`]) and then
//! answers their queries ([`Head::attend`]). A head's keys and values lie together:
//!
//! - keys in tiles of 64 positions, channel by channel, `(T / 64, D, 64)`: lanes are positions, and no score takes a sum across lanes;
//! - values position by position, `(T, D)`, `D` up to a multiple of 16: lanes are channels;
//! - of 8-bit ones a scale for each position's keys, `(T)`, and one for its values, `(T)`.
//!
//! So everything is read from front to back, and the layout is the same for all instruction sets.
//!
//! Softmax goes tile by tile with the greatest score so far (as in [`super::attention`]). A query alone is answered by `one`, which reads each
//! key and value once; many are answered by `many` in tiles, which turn a tile of keys and values into `f32` once. Every number comes from the
//! same operations in the same order in both, so that a row has the same bits whether it came alone or in company:
//!
//! - a score is `sum of (q / sqrt(D)) k` over channels from the first on, then times the key's scale;
//! - weighted values are summed over positions from the first on, weights in four strands, every fourth position each; both are
//!   multiplied by what the greatest score's growth makes of them wherever a tile of 64 positions begins.

mod many;
mod one;
mod saved;

use super::attention::{KEYS, QUERIES};
use super::parallel::{Columns, Shared};
use super::{Isa, Op, Simd};
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::f16;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CacheType {
    /// 32 bits: as exact as the passes.
    #[default]
    F32,
    /// 16 bits: half the memory, as llama.cpp does it.
    F16,
    /// 8 bits and a scale for each position of a head: about a quarter.
    Q8,
}

impl CacheType {
    /// "f32", "f16" or "q8".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }
    /// Bytes of a number.
    const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q8 => 1,
        }
    }
}

/// Sizes of a head.
#[derive(Clone, Copy, Debug)]
struct Shape {
    ty: CacheType,
    /// Positions, whole tiles of them.
    t: usize,
    /// Channels.
    d: usize,
}

impl Shape {
    /// Channels of a value as it lies.
    const fn d_whole(self) -> usize {
        self.d.next_multiple_of(16)
    }
    /// Words of a head's memory; whole cache lines, since `t` is a multiple of 64.
    const fn words(self) -> usize {
        let scales = if self.is_scaled() { 2 * self.t * size_of::<f32>() } else { 0 };
        (self.t * (self.d + self.d_whole()) * self.ty.size() + scales) / size_of::<u64>()
    }
    /// Bytes of the keys.
    const fn key_bytes(self) -> usize {
        self.t * self.d * self.ty.size()
    }
    /// Bytes of the values.
    const fn value_bytes(self) -> usize {
        self.t * self.d_whole() * self.ty.size()
    }
}

/// Keys and values of all layers.
pub struct KvCache {
    /// `(L, H)` heads, after some words up to the first cache line.
    memory: Vec<u64>,
    shape: Shape,
    l: usize,
    h: usize,
}

/// Words of a cache line.
const LINE: usize = 8;

impl KvCache {
    /// Room for `t` positions of `l` layers of `h` heads of `d` channels. The system hands the memory out as it is touched.
    #[must_use]
    pub fn new(ty: CacheType, l: usize, h: usize, t: usize, d: usize) -> Self {
        let shape = Shape { ty, t: t.next_multiple_of(KEYS), d };
        // Zeros of integers are asked from the system, not written.
        Self { memory: vec![0; l * h * shape.words() + LINE], shape, l, h }
    }

    /// Bytes of a cache with such room, when it is full.
    #[must_use]
    pub const fn bytes_of(ty: CacheType, l: usize, h: usize, t: usize, d: usize) -> usize {
        l * h * Shape { ty, t: t.next_multiple_of(KEYS), d }.words() * size_of::<u64>()
    }

    /// How it keeps them.
    #[must_use]
    pub const fn ty(&self) -> CacheType {
        self.shape.ty
    }

    /// Heads of a layer, and channels of each.
    #[must_use]
    pub const fn heads(&self) -> (usize, usize) {
        (self.h, self.shape.d)
    }

    /// Bytes when it is full.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.l * self.h * self.shape.words() * size_of::<u64>()
    }

    /// All layers, to be shared by the tasks that own their heads.
    #[must_use]
    pub fn shared(&mut self) -> Layers<'_> {
        let (shape, l, h) = (self.shape, self.l, self.h);
        let (from, len) = (self.first_line(), l * h * shape.words());
        Layers { memory: Shared::new(&mut self.memory[from..][..len]), shape, l, h }
    }

    /// One layer's heads, one after the other.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn each_head(&mut self, layer: usize) -> impl Iterator<Item = Head<'_>> {
        let shape = self.shape;
        self.words_of(layer).chunks_exact_mut(shape.words()).map(move |memory| Head { memory, shape })
    }

    fn words_of(&mut self, layer: usize) -> &mut [u64] {
        assert!(layer < self.l, "layer {layer} of {}", self.l);
        let (from, len) = (self.first_line(), self.h * self.shape.words());
        &mut self.memory[from + layer * len..][..len]
    }

    fn first_line(&self) -> usize {
        self.memory.as_ptr().align_offset(64).min(LINE)
    }
}

/// All keys and values.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    memory: Shared<'a, u64>,
    shape: Shape,
    l: usize,
    h: usize,
}

impl<'a> Layers<'a> {
    /// Head `h` of a layer.
    ///
    /// # Safety
    /// While it lives, nobody else may ask for the same.
    ///
    /// # Panics
    /// If there is no such head.
    #[must_use]
    pub unsafe fn head(&self, layer: usize, h: usize) -> Head<'a> {
        assert!(layer < self.l && h < self.h, "head {h} of {} in layer {layer} of {}", self.h, self.l);
        let words = self.shape.words();
        // SAFETY: heads are disjoint, and this one is the caller's alone.
        Head { memory: unsafe { self.memory.part((layer * self.h + h) * words, words) }, shape: self.shape }
    }
}

/// One head's keys and values.
pub struct Head<'a> {
    memory: &'a mut [u64],
    shape: Shape,
}

/// Elements that [`Head::attend`] works in, for up to `n` queries of `d` channels.
#[must_use]
pub const fn scratch_len(n: usize, d: usize) -> usize {
    let (one, many) = (one::scratch_len(d), many::scratch_len(d));
    // Which way a few queries are answered is the instruction set's.
    FLOATS + if n == 1 || one > many { one } else { many }
}

/// Numbers of a cache line. Vectors that cross one cost two.
const FLOATS: usize = 64 / size_of::<f32>();

/// From how many queries on the tiles of [`many`] pay: they work at whole vectors of queries.
const fn pays(n: usize, lanes: usize) -> bool {
    n > 1 && 4 * n > lanes
}

impl Head<'_> {
    /// Takes in the keys and values of positions `start .. start + n`: rows of `D` numbers, `stride` apart.
    ///
    /// # Panics
    /// If there is no room for them, or `k` or `v` is too short.
    pub fn append(&mut self, isa: Isa, start: usize, n: usize, k: &[f32], v: &[f32], stride: usize) {
        assert!(start + n <= self.shape.t, "{n} positions after {start} in a cache of {}", self.shape.t);
        match self.shape.ty {
            CacheType::F32 => isa.run(Append { to: self.parts_mut::<f32>(), start, n, k, v, stride }),
            CacheType::F16 => isa.run(Append { to: self.parts_mut::<f16>(), start, n, k, v, stride }),
            CacheType::Q8 => isa.run(Append { to: self.parts_mut::<i8>(), start, n, k, v, stride }),
        }
    }

    /// Row `r` of `out` = what query `r`, at position `start + r`, sees of all positions up to its own, which were appended.
    /// Queries are rows of `D` numbers, `stride` apart; `scratch` has at least [`scratch_len`] elements.
    ///
    /// # Panics
    /// If a buffer is too short, or there are no such positions.
    pub fn attend(&self, isa: Isa, out: &mut Columns<'_>, q: &[f32], stride: usize, start: usize, n: usize, scratch: &mut [f32]) {
        assert!(start + n <= self.shape.t, "{n} positions after {start} in a cache of {}", self.shape.t);
        match self.shape.ty {
            CacheType::F32 => isa.run(Attend { kept: self.parts::<f32>(), out, q, stride, start, n, scratch }),
            CacheType::F16 => isa.run(Attend { kept: self.parts::<f16>(), out, q, stride, start, n, scratch }),
            CacheType::Q8 => isa.run(Attend { kept: self.parts::<i8>(), out, q, stride, start, n, scratch }),
        }
    }

    fn parts<E: Element>(&self) -> Kept<'_, E> {
        let (keys, rest) = cast_slice::<_, u8>(self.memory).split_at(self.shape.key_bytes());
        let (values, scales) = rest.split_at(self.shape.value_bytes());
        let (key_scales, value_scales) = cast_slice(scales).split_at(scales.len() / 8);
        Kept { keys: cast_slice(keys), values: cast_slice(values), key_scales, value_scales, d: self.shape.d }
    }

    fn parts_mut<E: Element>(&mut self) -> KeptMut<'_, E> {
        let (keys, rest) = cast_slice_mut::<_, u8>(self.memory).split_at_mut(self.shape.key_bytes());
        let (values, scales) = rest.split_at_mut(self.shape.value_bytes());
        let count = scales.len() / 8;
        let (key_scales, value_scales) = cast_slice_mut(scales).split_at_mut(count);
        KeptMut { keys: cast_slice_mut(keys), values: cast_slice_mut(values), key_scales, value_scales, d: self.shape.d }
    }
}

/// How a number is kept.
trait Element: Pod {
    /// Whether there are scales.
    const SCALED: bool;
    /// 16 of them.
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::Wide;
    /// 16 to be kept; of the scaled ones, 16 integers.
    fn keep<S: Simd>(s: S, x: S::Wide) -> [Self; 16];
    /// All of them as `f32`, in `room` or where they lie; whole sixteens.
    fn widen<'a, S: Simd>(s: S, from: &'a [Self], room: &'a mut [f32]) -> &'a [f32];
}

impl Element for f32 {
    const SCALED: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::Wide {
        s.wide(from)
    }
    #[inline(always)]
    fn keep<S: Simd>(s: S, x: S::Wide) -> [Self; 16] {
        numbers(s, x)
    }
    #[inline(always)]
    fn widen<'a, S: Simd>(_: S, from: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        from
    }
}

impl Element for f16 {
    const SCALED: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::Wide {
        s.wide_f16(from)
    }
    /// A number beyond the greatest half becomes that: one infinite key would make everything NaN.
    #[inline(always)]
    fn keep<S: Simd>(s: S, mut x: S::Wide) -> [Self; 16] {
        let most = f16::MAX.to_f32_const();
        for x in x.as_mut() {
            *x = s.min(s.splat(most), s.max(s.splat(-most), *x));
        }
        s.narrow_f16(x)
    }
    #[inline(always)]
    fn widen<'a, S: Simd>(s: S, from: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        widen(s, from, room)
    }
}

impl Element for i8 {
    const SCALED: bool = true;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::Wide {
        s.wide_i8(from)
    }
    #[inline(always)]
    fn keep<S: Simd>(s: S, x: S::Wide) -> [Self; 16] {
        numbers(s, x).map(|x| x as Self)
    }
    #[inline(always)]
    fn widen<'a, S: Simd>(s: S, from: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        widen(s, from, room)
    }
}

#[inline(always)]
fn numbers<S: Simd>(s: S, x: S::Wide) -> [f32; 16] {
    let mut out = [0.0; 16];
    put(s, &mut out, x);
    out
}

#[inline(always)]
fn put<S: Simd>(s: S, to: &mut [f32; 16], x: S::Wide) {
    for (to, &x) in to.chunks_exact_mut(S::LANES).zip(x.as_ref()) {
        s.store(x, to);
    }
}

#[inline(always)]
fn widen<'a, S: Simd, E: Element>(s: S, from: &[E], room: &'a mut [f32]) -> &'a [f32] {
    let room = &mut room[..from.len()];
    for (room, from) in room.as_chunks_mut::<16>().0.iter_mut().zip(from.as_chunks().0) {
        put(s, room, E::load(s, from));
    }
    room
}

/// What a head has; see the module.
struct Kept<'a, E> {
    keys: &'a [E],
    values: &'a [E],
    key_scales: &'a [f32],
    value_scales: &'a [f32],
    d: usize,
}

struct KeptMut<'a, E> {
    keys: &'a mut [E],
    values: &'a mut [E],
    key_scales: &'a mut [f32],
    value_scales: &'a mut [f32],
    d: usize,
}

struct Append<'a, E> {
    to: KeptMut<'a, E>,
    start: usize,
    n: usize,
    k: &'a [f32],
    v: &'a [f32],
    stride: usize,
}

impl<E: Element> Op for Append<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { to, start, n, k, v, stride } = self;
        let (d, d_whole) = (to.d, to.d.next_multiple_of(16));
        for r in 0..n {
            let (t, k, v) = (start + r, &k[r * stride..][..d], &v[r * stride..][..d]);
            let mut by = 1.0;
            if E::SCALED {
                (by, to.key_scales[t]) = scale_of(s, k);
            }
            let tile = &mut to.keys[t / KEYS * KEYS * d..][..KEYS * d];
            for (k, tile) in k.chunks(16).zip(tile.chunks_mut(16 * KEYS)) {
                let kept = E::keep(s, scaled::<S, E>(s, k, by));
                for (channel, kept) in tile.as_chunks_mut::<KEYS>().0.iter_mut().zip(kept) {
                    channel[t % KEYS] = kept;
                }
            }
            if E::SCALED {
                (by, to.value_scales[t]) = scale_of(s, v);
            }
            let row = &mut to.values[t * d_whole..][..d_whole];
            for (v, row) in v.chunks(16).zip(row.as_chunks_mut::<16>().0) {
                *row = E::keep(s, scaled::<S, E>(s, v, by));
            }
        }
    }
}

/// By what a row is multiplied so that its greatest number becomes 127, and by what that is undone.
#[inline(always)]
fn scale_of<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let mut most = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        let x = s.load_head(x);
        most = s.max(most, s.max(x, s.sub(s.splat(0.0), x)));
    }
    let most = s.greatest(most);
    // What is too small for an inverse is 0.
    if most > 1e-30 { (127.0 / most, most / 127.0) } else { (0.0, 0.0) }
}

/// Up to 16 numbers, zeros behind them; times `by` and rounded, if they become integers.
#[inline(always)]
fn scaled<S: Simd, E: Element>(s: S, x: &[f32], by: f32) -> S::Wide {
    let mut all = [0.0; 16];
    let mut x = if let Ok(x) = x.try_into() {
        s.wide(x)
    } else {
        all[..x.len()].copy_from_slice(x);
        s.wide(&all)
    };
    if E::SCALED {
        for x in x.as_mut() {
            *x = s.round(s.mul(*x, s.splat(by)));
        }
    }
    x
}

struct Attend<'a, 'o, E> {
    kept: Kept<'a, E>,
    out: &'a mut Columns<'o>,
    q: &'a [f32],
    stride: usize,
    start: usize,
    n: usize,
    scratch: &'a mut [f32],
}

impl<E: Element> Op for Attend<'_, '_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { kept, out, q, stride, start, n, scratch } = self;
        let from = scratch.as_ptr().align_offset(64).min(FLOATS);
        let scratch = &mut scratch[from..];
        if pays(n, S::LANES) {
            for from in (0..n).step_by(QUERIES) {
                let count = QUERIES.min(n - from);
                many::attend(s, &kept, out, from, &q[from * stride..], stride, start + from, count, scratch);
            }
        } else {
            for r in 0..n {
                one::attend(s, &kept, &mut out.row(r)[..kept.d], &q[r * stride..][..kept.d], start + r + 1, scratch);
            }
        }
    }
}

/// Sums that the weights are added up in: position `t` goes to sum `t % STRANDS`.
const STRANDS: usize = 4;

/// All weights.
#[inline(always)]
fn sum_of(strands: [f32; STRANDS]) -> f32 {
    (strands[0] + strands[2]) + (strands[1] + strands[3])
}

/// `1 / sqrt(d)`
#[inline(always)]
fn score_scale(d: usize) -> f32 {
    1.0 / (d as f32).sqrt()
}

#[cfg(test)]
mod tests;
