//! A quick answer for most texts.

/// Whether these bytes are UTF-8 and of characters of one or two bytes alone, as vocabularies of byte-level alphabets are. Branch-free, so that
/// it becomes vector code: some times as fast as [`str::from_utf8`] on text whose every other word has such a character.
pub(super) fn is_of_short_characters(bytes: &[u8]) -> bool {
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return true };
    // What stands between two bytes: the second continues a character just if the first leads one, and there are no other bytes from 0x80 on.
    let between = |a: u8, b: u8| (continues(b) ^ leads(a)) | (b >= 0xC0) & !leads(b);
    let wrong = bytes.iter().zip(&bytes[1..]).fold(false, |wrong, (&a, &b)| wrong | between(a, b));
    !(wrong | between(0, first) | leads(last))
}

/// Whether a byte is the second or a later one of a character.
const fn continues(b: u8) -> bool {
    b & 0xC0 == 0x80
}

/// Whether a byte is the first of two. 0xC0 and 0xC1 would write an ASCII character in two.
const fn leads(b: u8) -> bool {
    0xC2 <= b && b <= 0xDF
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_pair_of_bytes() {
        for pair in 0..=u16::MAX {
            let bytes = pair.to_le_bytes();
            // Two bytes hold no longer character.
            assert_eq!(is_of_short_characters(&bytes), str::from_utf8(&bytes).is_ok(), "{bytes:x?}");
            assert_eq!(is_of_short_characters(&bytes[..1]), bytes[0].is_ascii());
        }
        assert!(is_of_short_characters(b"") && !is_of_short_characters("\u{800}".as_bytes()));
    }

    proptest! {
        #[test]
        fn as_std_says(text in "[a-z\u{0}\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}]{0,40}", at in any::<usize>(), put in prop::option::of(any::<u8>())) {
            let mut bytes = text.into_bytes();
            if let (Some(put), false) = (put, bytes.is_empty()) {
                let n = bytes.len();
                bytes[at % n] = put;
            }
            let want = str::from_utf8(&bytes).is_ok_and(|text| text.chars().all(|c| c.len_utf8() < 3));
            prop_assert_eq!(is_of_short_characters(&bytes), want);
        }
    }
}
