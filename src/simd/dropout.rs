//! Dropout: the generator of [`crate::rng`], sixteen blocks at a time.

use super::parallel::{self, BITE, Shared, WORTH};
use super::{Isa, Op, Simd};
use crate::rng;

/// Blocks of four words that are made side by side.
const SIDE: usize = 16;

/// The words of blocks `first ..` under `key`, as [`rng::block`] gives them one after the other. Plain arrays:
/// compilers turn 32 x 32 bit products of them into vectors by themselves.
#[inline(always)]
fn words(key: u64, first: u64) -> [u32; 4 * SIDE] {
    let mut ctr = [[0u32; SIDE]; 4];
    for lane in 0..SIDE {
        let block = first + lane as u64;
        (ctr[0][lane], ctr[1][lane]) = (block as u32, (block >> 32) as u32);
    }
    let (mut key0, mut key1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let mut next = [[0u32; SIDE]; 4];
        for lane in 0..SIDE {
            let (p0, p1) = (rng::M0 * u64::from(ctr[0][lane]), rng::M1 * u64::from(ctr[2][lane]));
            next[0][lane] = (p1 >> 32) as u32 ^ ctr[1][lane] ^ key0;
            next[1][lane] = p1 as u32;
            next[2][lane] = (p0 >> 32) as u32 ^ ctr[3][lane] ^ key1;
            next[3][lane] = p0 as u32;
        }
        ctr = next;
        (key0, key1) = (key0.wrapping_add(rng::W0), key1.wrapping_add(rng::W1));
    }
    let mut out = [0; 4 * SIDE];
    for lane in 0..SIDE {
        for word in 0..4 {
            out[4 * lane + word] = ctr[word][lane];
        }
    }
    out
}

struct Dropout<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    key: u64,
    /// Block of the first element.
    block: u64,
    least: u32,
    scale: f32,
}

impl Op for Dropout<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (i, (y, x)) in self.y.chunks_mut(4 * SIDE).zip(self.x.chunks(4 * SIDE)).enumerate() {
            let words = words(self.key, self.block + (i * SIDE) as u64);
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                *y = if word >= self.least { x * self.scale } else { 0.0 };
            }
        }
    }
}

/// `y[i] = x[i] / (1 - p)` where word `i % 4` of `rng::block(key, i / 4)` is at least `(p 2^32) as u32`, else 0.
///
/// # Panics
/// If the lengths differ.
pub fn dropout(isa: Isa, y: &mut [f32], x: &[f32], p: f32, key: u64) {
    let n = x.len();
    assert_eq!(y.len(), n);
    let least = (f64::from(p) * 4_294_967_296.0) as u32;
    let scale = (1.0 / (1.0 - f64::from(p))) as f32;
    let y = Shared::new(y);
    parallel::for_each(n.div_ceil(BITE), n >= WORTH / 4, |i| {
        let (from, len) = (i * BITE, BITE.min(n - i * BITE));
        // SAFETY: each task has a bite of its own.
        let y = unsafe { y.part(from, len) };
        isa.run(Dropout { y, x: &x[from..from + len], key, block: (from / 4) as u64, least, scale });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_generators() {
        for (key, first) in [(0, 0), (77, u64::from(u32::MAX) - 3), (u64::MAX, 1 << 40)] {
            let got = words(key, first);
            for lane in 0..SIDE {
                assert_eq!(got[4 * lane..][..4], rng::block(key, first + lane as u64));
            }
        }
    }
}
