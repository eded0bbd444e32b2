//! Keys and values of the tokens a session has read.

use super::kernels::{Attend, Rows};
use crate::simd::Isa;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CacheType {
    /// 32 bits: as exact as the passes.
    #[default]
    F32,
    /// 16 bits: half the memory, as llama.cpp does it.
    F16,
}

/// Keys and values of all blocks, `(L, H, T, D)` each, so that a head reads forward through memory.
pub struct KvCache {
    store: Store,
    h: usize,
    t: usize,
    d: usize,
}

/// Keys, then values.
enum Store {
    F32(Vec<f32>, Vec<f32>),
    F16(Vec<f16>, Vec<f16>),
}

impl KvCache {
    /// Room for `t` positions of `l` blocks of `h` heads of `d` channels. The system hands the memory out as it is touched.
    #[must_use]
    pub fn new(ty: CacheType, l: usize, h: usize, t: usize, d: usize) -> Self {
        let len = l * h * t * d;
        let store = match ty {
            CacheType::F32 => Store::F32(vec![0.0; len], vec![0.0; len]),
            CacheType::F16 => Store::F16(vec![f16::ZERO; len], vec![f16::ZERO; len]),
        };
        Self { store, h, t, d }
    }

    const fn at(&self, layer: usize, head: usize, position: usize) -> usize {
        ((layer * self.h + head) * self.t + position) * self.d
    }

    /// Keeps a token's key and value of one head, `(D)` each.
    pub(super) fn put(&mut self, layer: usize, head: usize, position: usize, k: &[f32], v: &[f32]) {
        let (d, at) = (self.d, self.at(layer, head, position));
        match &mut self.store {
            Store::F32(keys, values) => {
                keys[at..][..d].copy_from_slice(k);
                values[at..][..d].copy_from_slice(v);
            }
            Store::F16(keys, values) => {
                keys[at..][..d].convert_from_f32_slice(k);
                values[at..][..d].convert_from_f32_slice(v);
            }
        }
    }

    /// `out (D)` = what a head's query `q (D)` at `position` sees of the positions up to its own.
    /// `scores` has room for as many numbers, `room (D)` for one row.
    pub(super) fn attend(
        &self,
        isa: Isa,
        out: &mut [f32],
        layer: usize,
        head: usize,
        position: usize,
        q: &[f32],
        scores: &mut [f32],
        room: &mut [f32],
    ) {
        let (from, len) = (self.at(layer, head, 0), (position + 1) * self.d);
        let scores = &mut scores[..=position];
        match &self.store {
            Store::F32(k, v) => isa.run(Attend { out, q, k: &k[from..][..len], v: &v[from..][..len], scores, room }),
            Store::F16(k, v) => isa.run(Attend { out, q, k: &k[from..][..len], v: &v[from..][..len], scores, room }),
        }
    }
}

impl Rows for &[f32] {
    #[inline(always)]
    fn row<'a>(&'a self, position: usize, room: &'a mut [f32]) -> &'a [f32] {
        &self[position * room.len()..][..room.len()]
    }
}

impl Rows for &[f16] {
    #[inline(always)]
    fn row<'a>(&'a self, position: usize, room: &'a mut [f32]) -> &'a [f32] {
        self[position * room.len()..][..room.len()].convert_to_f32_slice(room);
        room
    }
}
