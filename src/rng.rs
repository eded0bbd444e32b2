//! Random numbers that are a function of (key, counter), so that any draw can be made again: by
//! another backend, in another thread, under recompute, after a resume.
//!
//! Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

use serde::{Deserialize, Serialize};

pub(crate) const M0: u64 = 0xD251_1F53;
pub(crate) const M1: u64 = 0xCD9E_8D57;
pub(crate) const W0: u32 = 0x9E37_79B9;
pub(crate) const W1: u32 = 0xBB67_AE85;

/// Four random words for one counter.
#[inline]
#[must_use]
pub const fn philox(mut key: [u32; 2], mut ctr: [u32; 4]) -> [u32; 4] {
    let mut round = 0;
    while round < 10 {
        let (p0, p1) = (M0 * ctr[0] as u64, M1 * ctr[2] as u64);
        ctr = [(p1 >> 32) as u32 ^ ctr[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ ctr[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
        round += 1;
    }
    ctr
}

/// A key made of a seed and a chain of numbers that say what the draw is for.
///
/// Mixing is SplitMix64's finaliser (Steele, Lea, Flood 2014) over each part in turn.
#[must_use]
pub fn key(seed: u64, parts: &[u64]) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    parts.iter().fold(mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)), |k, &p| mix(k.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ mix(p)))
}

/// A key made of a seed and a name (FNV-1a of its bytes): for draws that belong to a named thing.
#[must_use]
pub fn key_of(seed: u64, name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    key(seed, &[fnv])
}

/// The four words of block `block` under a 64-bit key.
#[inline]
#[must_use]
pub const fn block(key: u64, block: u64) -> [u32; 4] {
    philox([key as u32, (key >> 32) as u32], [block as u32, (block >> 32) as u32, 0, 0])
}

/// Two words as one, the first below.
#[inline]
fn double([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// 53 of 64 random bits as a number in [0, 1).
#[inline]
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A stream of draws under one key; its whole state is the key and how many words were taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    key: u64,
    taken: u64,
}

impl Rng {
    /// A stream at its beginning.
    #[must_use]
    pub const fn new(key: u64) -> Self {
        Self { key, taken: 0 }
    }

    /// The next `N` words, with each block they lie in made once.
    #[inline]
    fn take<const N: usize>(&mut self) -> [u32; N] {
        let mut words = [0; N];
        let mut made = block(self.key, self.taken / 4);
        for (i, word) in words.iter_mut().enumerate() {
            let at = (self.taken % 4) as usize;
            if i > 0 && at == 0 {
                made = block(self.key, self.taken / 4);
            }
            *word = made[at];
            self.taken += 1;
        }
        words
    }

    /// The next 32 bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        self.take::<1>()[0]
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        double(self.take())
    }

    /// Uniform in [0, 1), with 53 random bits.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        fraction(self.next_u64())
    }

    /// Uniform in 0..n, without bias (Lemire 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "below(0)");
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= n.wrapping_neg() % n {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A draw from the standard normal distribution (Box-Muller, the cosine half).
    #[inline]
    pub fn normal(&mut self) -> f64 {
        let [a, b, c, d] = self.take();
        let radius = (-2.0 * (1.0 - fraction(double([a, b]))).ln()).sqrt();
        radius * (std::f64::consts::TAU * fraction(double([c, d]))).cos()
    }

    /// Puts a slice into random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of Random123's `kat_vectors` for philox4x32-10.
    #[test]
    fn philox_known_answers() {
        let f = u32::MAX;
        assert_eq!(philox([0, 0], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([f, f], [f; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn streams_have_the_right_moments() {
        let mut rng = Rng::new(key(1, &[2, 3]));
        let n = 100_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let z = rng.normal();
            (sum, squares, uniform) = (sum + z, squares + z * z, uniform + rng.uniform());
        }
        // Standard errors: 1/sqrt(n) = 0.0032, sqrt(2/n) = 0.0045, 1/sqrt(12 n) = 0.0009; four of each.
        assert!((sum / n as f64).abs() < 0.0127);
        assert!((squares / n as f64 - 1.0).abs() < 0.018);
        assert!((uniform / n as f64 - 0.5).abs() < 0.0037);
    }

    #[test]
    fn a_saved_stream_goes_on_where_it_was() {
        let mut a = Rng::new(9);
        a.next_u32();
        let mut b: Rng = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert_eq!((0..9).map(|_| a.next_u64()).collect::<Vec<_>>(), (0..9).map(|_| b.next_u64()).collect::<Vec<_>>());
        assert!((0..1000).all(|_| a.below(7) < 7));
    }

    #[test]
    fn a_stream_is_the_words_of_its_blocks() {
        let words: Vec<u32> = (0..4).flat_map(|i| block(9, i)).collect();
        let wide = |i: usize| u64::from(words[i]) | u64::from(words[i + 1]) << 32;
        let unit = |i: usize| (wide(i) >> 11) as f64 / 2f64.powi(53);
        // Wherever a draw begins in a block, and whether or not it goes on in the next.
        for start in 0..8 {
            let fresh = || Rng { key: 9, taken: start as u64 };
            assert_eq!(fresh().next_u32(), words[start]);
            assert_eq!(fresh().next_u64(), wide(start));
            assert_eq!(fresh().uniform(), unit(start));
            let normal = (-2.0 * (1.0 - unit(start)).ln()).sqrt() * (std::f64::consts::TAU * unit(start + 2)).cos();
            let mut rng = fresh();
            assert_eq!((rng.normal(), rng.next_u32()), (normal, words[start + 4]));
        }
    }

    #[test]
    fn keys_differ_by_part_and_order() {
        let all =
            [key(1, &[]), key(1, &[0]), key(1, &[0, 0]), key(1, &[1, 2]), key(1, &[2, 1]), key(2, &[1, 2]), key_of(1, "a"), key_of(1, "b")];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
    }
}
