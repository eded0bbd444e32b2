//! GPT-2's own vocabulary, embedded.
//!
//! `gpt2.tiktoken` is `r50k_base.tiktoken` of the crate tiktoken-rs 0.12.1 (MIT licence), unchanged;
//! GPT-2's own licence lies beside it, in `gpt2.tiktoken.LICENSE`. A line is a token, its bytes in base64
//! and its id, in the order in which OpenAI's training made them. The first 256 are the bytes; each later
//! one joins two earlier ones, and which two follows from the order, so that the file holds GPT-2's
//! 50,000 merges as well.

use std::sync::LazyLock;

use super::join::Scratch;
use super::merges::{Merge, Merges};
use super::tokens::{Refused, Tokens};
use super::{END, Tokenizer, byte_ids};

/// The file; sha256 306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930.
pub(super) static FILE: &str = include_str!("gpt2.tiktoken");

/// Tokens of GPT-2: 256 bytes, 50,000 merges, the end.
const N_VOCAB: usize = 50_257;

/// GPT-2's tokenizer, built on first use.
pub(super) static GPT2: LazyLock<Tokenizer> = LazyLock::new(build);

/// Builds the tokenizer from the embedded file.
///
/// # Panics
///
/// If the file is not the one whose checksum is tested.
fn build() -> Tokenizer {
    let mut tokens = Tokens::with_capacity(N_VOCAB, FILE.len() / 2);
    for line in FILE.lines() {
        let base64 = line.split_once(' ').expect("a token and its id").0;
        push(&mut tokens, |bytes| append_base64(base64, bytes));
    }
    let byte_ids = byte_ids(&tokens).expect("all bytes are tokens");
    let mut merges = Merges::with_capacity(N_VOCAB - 257);
    let (mut scratch, mut parts) = (Scratch::default(), Vec::new());
    for merged in 256..tokens.len() as u32 {
        // What the merges so far make of the token's bytes is what its own merge joins.
        parts.clear();
        merges.apply(tokens.get(merged).iter().map(|&byte| byte_ids[usize::from(byte)]), &mut scratch, &mut parts);
        let &[left, right] = &parts[..] else { panic!("token {merged} of the embedded vocabulary is in {} parts", parts.len()) };
        merges.push(Merge { left, right, merged }).expect("a pair is merged once");
    }
    let end_token = push(&mut tokens, |bytes| bytes.extend_from_slice(END.as_bytes()));
    Tokenizer { tokens, byte_ids, merges, end_token }
}

/// Adds a token of the embedded file.
fn push(tokens: &mut Tokens, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
    let pushed = tokens.push_with::<Refused>(|bytes| {
        write(bytes);
        Ok(())
    });
    pushed.expect("the embedded tokens differ")
}

/// Appends the bytes that base64 stands for.
fn append_base64(text: &str, bytes: &mut Vec<u8>) {
    for four in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for (i, &digit) in four.iter().enumerate() {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => 0, // padding
            };
            bits |= u32::from(value) << (18 - 6 * i);
        }
        let n = 3 - four.iter().filter(|&&digit| digit == b'=').count();
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_one_published() {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(FILE);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930");
    }

    #[test]
    fn ids_are_line_numbers() {
        for (i, line) in FILE.lines().enumerate() {
            assert_eq!(line.split_once(' ').unwrap().1.parse(), Ok(i));
        }
    }

    #[test]
    fn base64() {
        for (text, expected) in [("TQ==", "M"), ("TWE=", "Ma"), ("TWFu", "Man"), ("TWFuTQ==", "ManM"), ("Pj8+Pz8/", ">?>???")] {
            let mut bytes = Vec::new();
            append_base64(text, &mut bytes);
            assert_eq!(bytes, expected.as_bytes());
        }
    }
}
