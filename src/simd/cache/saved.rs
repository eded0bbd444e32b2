//! Keys and values as bytes, to be kept in a file and taken in again.
//!
//! Of each head, in the order of layers and heads: keys of the first `n` positions in whole tiles, values, and of 8-bit ones the scales of
//! keys and of values, each as it lies in memory. A copy in, a copy out: what was taken in answers with the same bits as what was computed.

use super::{CacheType, KEYS, KvCache, Shape};
use bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;

impl Shape {
    /// Whether there are scales.
    pub(super) const fn is_scaled(self) -> bool {
        matches!(self.ty, CacheType::Q8)
    }

    /// Where the keys, the values and the two kinds of scales of the first `n` positions lie in a head's bytes.
    fn of_first(self, n: usize) -> [Range<usize>; 4] {
        let (values, scales) = (self.key_bytes(), self.key_bytes() + self.value_bytes());
        let from = |start: usize, len: usize| start..start + len;
        let scale_bytes = if self.is_scaled() { n * size_of::<f32>() } else { 0 };
        [
            from(0, n.next_multiple_of(KEYS) * self.d * self.ty.size()),
            from(values, n * self.d_whole() * self.ty.size()),
            from(scales, scale_bytes),
            from(scales + if self.is_scaled() { self.t * size_of::<f32>() } else { 0 }, scale_bytes),
        ]
    }
}

impl KvCache {
    /// Bytes of what [`save`](Self::save) gives for `n` positions; `None` if there is no room for so many.
    #[must_use]
    pub fn saved_len(&self, n: usize) -> Option<usize> {
        let parts = (n <= self.shape.t).then(|| self.shape.of_first(n))?;
        Some(self.l * self.h * parts.iter().map(Range::len).sum::<usize>())
    }

    /// Appends the keys and values of the first `n` positions of all layers to `out`.
    ///
    /// # Panics
    /// If there is no room for so many positions.
    pub fn save(&self, n: usize, out: &mut Vec<u8>) {
        out.reserve(self.saved_len(n).expect("positions of the cache"));
        let (parts, words) = (self.shape.of_first(n), self.shape.words());
        for head in self.memory[self.first_line()..][..self.l * self.h * words].chunks_exact(words) {
            let head = cast_slice::<_, u8>(head);
            parts.iter().for_each(|part| out.extend_from_slice(&head[part.clone()]));
        }
    }

    /// Takes in what [`save`](Self::save) gave of `n` positions of a cache of the same type, layers and heads; its room may have been another.
    ///
    /// # Panics
    /// If there are not as many bytes as [`saved_len`](Self::saved_len) says.
    pub fn take_in(&mut self, n: usize, mut saved: &[u8]) {
        assert_eq!(Some(saved.len()), self.saved_len(n), "bytes of {n} positions");
        let (parts, words, from) = (self.shape.of_first(n), self.shape.words(), self.first_line());
        for head in self.memory[from..][..self.l * self.h * words].chunks_exact_mut(words) {
            let head = cast_slice_mut::<_, u8>(head);
            for part in &parts {
                let (now, later) = saved.split_at(part.len());
                head[part.clone()].copy_from_slice(now);
                saved = later;
            }
        }
    }
}
