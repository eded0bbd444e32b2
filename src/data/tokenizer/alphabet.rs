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
    fn known_characters() {
        assert_eq!(to_chars(b" a\n~"), "ĠaĊ~");
        assert_eq!(append_bytes("a b", &mut Vec::new()), Err(' '));
        assert_eq!(append_bytes("\u{144}", &mut Vec::new()), Err('\u{144}'));
    }
}
