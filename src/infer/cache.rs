//! Keys and values of the tokens a session has read.

use super::kernels;
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
    k: Store,
    v: Store,
    h: usize,
    t: usize,
    d: usize,
}

enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Store {
    fn new(ty: CacheType, len: usize) -> Self {
        match ty {
            CacheType::F32 => Self::F32(vec![0.0; len]),
            CacheType::F16 => Self::F16(vec![f16::ZERO; len]),
        }
    }
    fn put(&mut self, at: usize, row: &[f32]) {
        match self {
            Self::F32(all) => all[at..][..row.len()].copy_from_slice(row),
            Self::F16(all) => all[at..][..row.len()].convert_from_f32_slice(row),
        }
    }
    /// `len` numbers from `at`; in `room` where they must be converted.
    fn get<'a>(&'a self, at: usize, room: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(all) => &all[at..][..room.len()],
            Self::F16(all) => {
                all[at..][..room.len()].convert_to_f32_slice(room);
                room
            }
        }
    }
}

impl KvCache {
    /// Room for `t` positions of `l` blocks of `h` heads of `d` channels. The system hands the memory out as it is touched.
    #[must_use]
    pub fn new(ty: CacheType, l: usize, h: usize, t: usize, d: usize) -> Self {
        Self { k: Store::new(ty, l * h * t * d), v: Store::new(ty, l * h * t * d), h, t, d }
    }

    /// Bytes of a cache of these sizes.
    #[must_use]
    pub const fn bytes(ty: CacheType, l: usize, h: usize, t: usize, d: usize) -> usize {
        2 * l
            * h
            * t
            * d
            * match ty {
                CacheType::F32 => 4,
                CacheType::F16 => 2,
            }
    }

    /// Heads and channels of each.
    pub(super) const fn heads(&self) -> (usize, usize) {
        (self.h, self.d)
    }

    const fn at(&self, layer: usize, head: usize, position: usize) -> usize {
        ((layer * self.h + head) * self.t + position) * self.d
    }

    /// Keeps a token's keys and values, `(H, D)` each.
    pub(super) fn put(&mut self, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        for head in 0..self.h {
            let (from, at) = (head * self.d, self.at(layer, head, position));
            self.k.put(at, &k[from..][..self.d]);
            self.v.put(at, &v[from..][..self.d]);
        }
    }

    /// `out (D)` = what a head's query `q (D)` at `position` sees of the positions up to its own.
    /// `scores` has room for as many numbers, `room (D)` for one row.
    pub(super) fn attend(
        &self,
        out: &mut [f32],
        layer: usize,
        head: usize,
        position: usize,
        q: &[f32],
        scores: &mut [f32],
        room: &mut [f32],
    ) {
        let scale = 1.0 / (self.d as f32).sqrt();
        let scores = &mut scores[..=position];
        for (p, s) in scores.iter_mut().enumerate() {
            *s = kernels::dot(q, self.k.get(self.at(layer, head, p), room)) * scale;
        }
        kernels::softmax(scores);
        out.fill(0.0);
        for (p, &s) in scores.iter().enumerate() {
            kernels::axpy(out, s, self.v.get(self.at(layer, head, p), room));
        }
    }
}
