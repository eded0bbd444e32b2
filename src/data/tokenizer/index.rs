//! Numbers found by what they stand for: the hash table under tokens and merges.
//!
//! It stores only numbers and 32 bits of hash; what a number stands for lies with the owner, who is
//! asked for it when the hashes agree. Building one for 50,257 tokens must not be felt when a small
//! board starts: one allocation of 512 KiB, and a search reads one or two cache lines of it.

/// A free place.
const FREE: u64 = u64::MAX;

/// Numbers by the hash of what they stand for.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// The upper half of the hash and the number, at the lower half of the hash or the next free place after it.
    places: Vec<u64>,
    /// Numbers stored.
    n: usize,
}

impl Index {
    /// An empty index for at most `n` numbers. At most four places of five will be taken.
    pub(super) fn with_capacity(n: usize) -> Self {
        Self { places: vec![FREE; (n + n / 4 + 1).next_power_of_two()], n: 0 }
    }

    /// The number of what has this hash and passes the test.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.search(hash, is_it).ok()
    }

    /// Stores a number, unless another passes the test: then that is returned.
    ///
    /// # Panics
    ///
    /// If there are more numbers than announced, or the number is `u32::MAX`.
    pub(super) fn insert(&mut self, hash: u64, number: u32, is_it: impl FnMut(u32) -> bool) -> Result<(), u32> {
        match self.search(hash, is_it) {
            Ok(other) => Err(other),
            Err(place) => {
                self.n += 1;
                assert!(self.n < self.places.len() && number != u32::MAX, "more than announced");
                self.places[place] = hash & !0xFFFF_FFFF | u64::from(number);
                Ok(())
            }
        }
    }

    /// The number, or the place where it would stand.
    #[inline]
    fn search(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Result<u32, usize> {
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let entry = self.places[place];
            if entry == FREE {
                return Err(place);
            }
            if entry >> 32 == hash >> 32 && is_it(entry as u32) {
                return Ok(entry as u32);
            }
            place = (place + 1) & mask;
        }
    }
}

/// Mixes a word of 64 bits: the product with 2^64 over the golden ratio, its upper half folded into the lower.
#[inline]
pub(super) fn mix(word: u64) -> u64 {
    let product = u128::from(word ^ 0x2545_F491_4F6C_DD1D) * 0x9E37_79B9_7F4A_7C15;
    product as u64 ^ (product >> 64) as u64
}

/// Mixes bytes, eight at a time; the last eight may share some with those before, which costs less than picking up the rest one by one.
#[inline]
pub(super) fn mix_bytes(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut state = len as u64;
    let last = match bytes.last_chunk::<8>() {
        Some(last) => {
            for word in bytes[..len - 1].as_chunks::<8>().0 {
                state = mix(state ^ u64::from_le_bytes(*word));
            }
            u64::from_le_bytes(*last)
        }
        None => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32,
            // The first, the middle and the last of up to three are all of them.
            _ if len > 0 => u64::from(bytes[0]) | u64::from(bytes[len / 2]) << 8 | u64::from(bytes[len - 1]) << 16,
            _ => 0,
        },
    };
    mix(state ^ last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_among_equal_hashes() {
        let names = ["a", "b", "c", "d"];
        let mut index = Index::with_capacity(names.len());
        for (number, name) in (0..).zip(names) {
            assert_eq!(index.insert(7, number, |other| names[other as usize] == name), Ok(()));
            assert_eq!(index.insert(7, 9, |other| names[other as usize] == name), Err(number));
        }
        for (number, name) in (0..).zip(names) {
            assert_eq!(index.find(7, |other| names[other as usize] == name), Some(number));
        }
        assert_eq!(index.find(7, |_| false), None);
        assert_eq!(index.find(8, |_| false), None);
        assert_eq!(Index::with_capacity(0).find(0, |_| true), None);
    }
}
