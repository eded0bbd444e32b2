//! Encoding at speed: most words of a text have been met before.

use super::Tokenizer;
use super::index::mix;
use super::join::Scratch;
use super::split::Pieces;

/// Words remembered, 32 bytes each. With 32,768 of them 96 in 100 words of English speeches are found, and 90 of technical
/// prose (half the memory: 94 and 86; twice: 97 and 93), and 1 MiB still lies in the second-level cache of a server's core.
const WORDS: usize = 1 << 15;

/// Longest word remembered, in bytes: the sixteenth byte of its key is its length.
const WORD_BYTES: usize = 15;

/// Most tokens of a word that is remembered.
const WORD_TOKENS: usize = 3;

/// A tokenizer with a memory of the words it met, of a fixed size.
///
/// For one thread; with rayon, `map_init(|| tokenizer.encoder(), |encoder, text| encoder.encode(text))`.
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    /// The last word met of each hash.
    words: Box<[Word]>,
    scratch: Scratch,
}

/// A word and its tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// The word's bytes from the lowest up, zeros, and its length in the highest; 0 in a free place.
    key: u128,
    tokens: [u32; WORD_TOKENS],
    n_tokens: u32,
}

impl<'t> Encoder<'t> {
    /// An encoder that has met no words yet. Takes 1 MiB.
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, words: vec![Word::default(); WORDS].into_boxed_slice(), scratch: Scratch::default() }
    }

    /// The tokens of a text; see [`Tokenizer::encode`].
    #[must_use]
    pub fn encode(&mut self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        self.encode_into(text, &mut tokens);
        tokens
    }

    /// Appends the tokens of a text; see [`Tokenizer::encode_into`].
    pub fn encode_into(&mut self, text: &str, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        out.reserve(bytes.len() / 4);
        for (start, end) in Pieces::new(text) {
            if end - start > WORD_BYTES {
                self.tokenizer.encode_piece(&bytes[start..end], &mut self.scratch, out);
                continue;
            }
            let key = key(bytes, start, end);
            let word = &mut self.words[mix(key as u64 ^ mix((key >> 64) as u64)) as usize % WORDS];
            if word.key != key {
                let from = out.len();
                self.tokenizer.encode_piece(&bytes[start..end], &mut self.scratch, out);
                let new = &out[from..];
                if new.len() <= WORD_TOKENS {
                    word.key = key;
                    word.n_tokens = new.len() as u32;
                    word.tokens[..new.len()].copy_from_slice(new);
                }
            } else if word.n_tokens == 1 {
                out.push(word.tokens[0]);
            } else {
                out.extend_from_slice(&word.tokens[..word.n_tokens as usize]);
            }
        }
    }
}

/// The key of the word `bytes[start..end]`, of 1 to [`WORD_BYTES`] bytes.
fn key(bytes: &[u8], start: usize, end: usize) -> u128 {
    let len = end - start;
    let word = match bytes[start..].first_chunk::<16>() {
        Some(sixteen) => u128::from_le_bytes(*sixteen) & ((1 << (8 * len)) - 1),
        None => {
            let mut sixteen = [0; 16];
            sixteen[..len].copy_from_slice(&bytes[start..end]);
            u128::from_le_bytes(sixteen)
        }
    };
    word | (len as u128) << 120
}
