//! The byte-level alphabet: one printable character for every byte.
//!
//! GPT-2's files (and GGUF after them) write a token's bytes as characters, so that a token is
//! always valid text without spaces: a byte that is a visible Latin-1 character stands for itself,
//! the 68 others are `U+0100`, `U+0101`, ... in order. A space is `Ġ`, a newline `Ċ`.

/// Number of code points the alphabet spans: its last character is `U+0143`.
const SPAN: usize = 0x144;

/// Whether a byte stands for itself in the alphabet.
const fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of every byte.
static CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut next = 0x100u32;
    let mut byte = 0;
    while byte < 256 {
        chars[byte] = if is_itself(byte as u8) {
            byte as u8 as char
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        byte += 1;
    }
    chars
};

/// The byte of every character below [`SPAN`], where it is one of the alphabet.
static BYTES: [Option<u8>; SPAN] = {
    let mut bytes = [None; SPAN];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// A token's bytes as characters of the alphabet.
pub(super) fn to_chars(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARS[usize::from(byte)]).collect()
}

/// Appends the bytes that `text` stands for.
///
/// # Errors
///
/// The first character that is not of the alphabet.
pub(super) fn append_bytes(text: &str, bytes: &mut Vec<u8>) -> Result<(), char> {
    for c in text.chars() {
        bytes.push(BYTES.get(c as usize).copied().flatten().ok_or(c)?);
    }
    Ok(())
}

/// The byte that a text, UTF-8, stands for, if it is one; `None` for more (or none).
///
/// # Errors
///
/// The first character that is not of the alphabet.
pub(super) fn single_byte(text: &[u8]) -> Result<Option<u8>, char> {
    // Nearly all: a word, or a space and a word.
    let word = text.strip_prefix("Ġ".as_bytes()).unwrap_or(text);
    if word.len() > 1 && is_visible_ascii(word) {
        return Ok(None);
    }
    let (mut rest, mut single, mut n) = (text, None, 0);
    while let Some((&first, behind)) = rest.split_first() {
        // All characters of the alphabet are of one or two bytes.
        let (code, behind) = match behind.split_first() {
            Some((&second, behind)) if first >= 0x80 => (usize::from(first & 0x1F) << 6 | usize::from(second & 0x3F), behind),
            _ => (usize::from(first), behind),
        };
        match BYTES.get(code) {
            Some(&Some(byte)) if first < 0x80 || (first < 0xE0 && rest.len() > 1) => (single, n) = (Some(byte), n + 1),
            _ => return Err(String::from_utf8_lossy(rest).chars().next().unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
        rest = behind;
    }
    Ok(single.filter(|_| n == 1))
}

/// Whether all bytes are those of [`is_itself`] below 0x80; eight at a time, the last of which may overlap those before.
fn is_visible_ascii(text: &[u8]) -> bool {
    let all = |byte: u8| u64::from_le_bytes([byte; 8]);
    // A byte below 0x80 that is too low borrows, one that is too high carries into its highest bit.
    let wrong = |word: u64| (word | word.wrapping_sub(all(b'!')) | word.wrapping_add(all(0x7F - b'~'))) & all(0x80) != 0;
    if let Some(last) = text.last_chunk::<8>() {
        let words = text.as_chunks::<8>().0;
        return !wrong(u64::from_le_bytes(*last)) && !words.iter().any(|word| wrong(u64::from_le_bytes(*word)));
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return !wrong(u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32);
    }
    text.iter().all(|b| (b'!'..=b'~').contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = to_chars(&all);
        assert_eq!(text.chars().count(), 256);
        assert!(text.chars().all(|c| !c.is_whitespace() && !c.is_control()));
        let mut back = Vec::new();
        append_bytes(&text, &mut back).unwrap();
        assert_eq!(back, all);
    }

    #[test]
    fn single_bytes_are_told_from_longer_texts() {
        for byte in 0..=255 {
            assert_eq!(single_byte(to_chars(&[byte]).as_bytes()), Ok(Some(byte)));
            assert_eq!(single_byte(to_chars(&[byte, byte]).as_bytes()), Ok(None));
        }
        assert_eq!(single_byte(b""), Ok(None));
        for c in ('\0'..='\u{3000}').chain(['\u{FFFF}', '\u{10000}']) {
            let known = append_bytes(&c.to_string(), &mut Vec::new());
            assert_eq!(single_byte(format!("a{c}").as_bytes()).map(|_| ()), known, "{c:?}");
        }
        assert_eq!(single_byte(b"a\xC4"), Err(char::REPLACEMENT_CHARACTER));
    }

    #[test]
    fn known_characters() {
        assert_eq!(to_chars(b" a\n~"), "ĠaĊ~");
        assert_eq!(append_bytes("a b", &mut Vec::new()), Err(' '));
        assert_eq!(append_bytes("\u{144}", &mut Vec::new()), Err('\u{144}'));
    }
}
