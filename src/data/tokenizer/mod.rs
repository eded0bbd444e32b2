//! GPT-2's tokenizer: text to token ids and back.
//!
//! Byte-level byte-pair encoding, as OpenAI's GPT-2 defined it: the text is cut into pieces at words,
//! numbers and spaces, each piece starts as one token a byte, and neighbours are joined by a ranked
//! list of merges. Any text encodes, and decoding gives it back. A reading such as `" 47"` is one token.
//!
//! A [`Tokenizer`] comes from the embedded vocabulary of GPT-2, from a GGUF file's lists, from the two
//! files of Hugging Face, or is cut from another ([`Tokenizer::subset`], [`VocabBuilder`]): 50,257
//! rows of embedding are 13 million parameters at 256 channels, most of them for words no sensor uses.
//!
//! ```
//! use tinyllm::data::tokenizer::Tokenizer;
//!
//! let tokenizer = Tokenizer::gpt2();
//! let ids = tokenizer.encode("Ax: 47 52");
//! assert_eq!(ids, [31554, 25, 6298, 6740]);
//! assert_eq!(tokenizer.decode(&ids), "Ax: 47 52");
//! ```

mod alphabet;
mod encoder;
mod files;
mod gpt2;
mod in_file;
mod index;
mod join;
mod merges;
mod split;
mod stream;
mod subset;
mod tokens;
mod unicode;

use join::Scratch;
use merges::{Merge, Merges};
use split::Pieces;
use tokens::{Refused, Tokens};

pub use encoder::Encoder;
pub use files::TokenizerDirError;
pub use in_file::{FileTokenizer, TokenizerFileError};
pub use stream::StreamDecoder;
pub use subset::VocabBuilder;

/// The name of GPT-2's end token in every file.
const END: &str = "<|endoftext|>";

/// Texts of this many bytes and more are encoded with a word memory, which costs 1 MiB to set up.
const LONG_TEXT: usize = 64 << 10;

/// A vocabulary with its merges.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    tokens: Tokens,
    /// The token of each single byte.
    byte_ids: [u32; 256],
    merges: Merges,
    end_token: u32,
}

/// A vocabulary that cannot be used, and where.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A token is not written in the byte-level alphabet.
    #[error("token {id} contains {found:?}, which is not in GPT-2's byte-level alphabet (is this another kind of vocabulary?)")]
    NotByteLevel {
        /// The token.
        id: usize,
        /// Its first character that is not of the alphabet.
        found: char,
    },
    /// A token has no bytes.
    #[error("token {id} is empty")]
    EmptyToken {
        /// The token.
        id: usize,
    },
    /// Two tokens have the same bytes.
    #[error("tokens {first} and {second} are the same")]
    DuplicateToken {
        /// The earlier token.
        first: u32,
        /// The later one.
        second: usize,
    },
    /// A byte is no token, so that some text could not be encoded.
    #[error("the vocabulary has no token for the byte {byte:#04x}; all 256 are needed, so that any text can be encoded")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// More than 4 GiB of tokens.
    #[error("the vocabulary is larger than 4 GiB")]
    TooLarge,
    /// The end token is not in the vocabulary.
    #[error("the end token {end_token} is not one of the {n_vocab} tokens")]
    NoEndToken {
        /// The end token given.
        end_token: u32,
        /// Tokens in the vocabulary.
        n_vocab: usize,
    },
    /// The end token is a single byte, so that text could end a document.
    #[error("the end token {end_token} is a single byte; text must never become a special token")]
    EndIsByte {
        /// The end token given.
        end_token: u32,
    },
    /// A merge is not two tokens with a space between.
    #[error("merge {index} is {text:?}, not two tokens and a space between")]
    BadMerge {
        /// Its place in the list, from 0.
        index: usize,
        /// What stands there (the beginning).
        text: String,
    },
    /// A merge joins, or makes, what is no token.
    #[error("merge {index} is {text:?}, but {part:?} is not in the vocabulary")]
    UnknownToken {
        /// Its place in the list, from 0.
        index: usize,
        /// The merge (the beginning).
        text: String,
        /// What is not a token (the beginning).
        part: String,
    },
    /// A pair has two merges.
    #[error("merge {index}, {text:?}, stands in the list twice")]
    RepeatedMerge {
        /// The second place in the list, from 0.
        index: usize,
        /// The merge (the beginning).
        text: String,
    },
    /// A merge makes the end token, so that text could end a document.
    #[error("merge {index}, {text:?}, makes the end token; text must never become a special token")]
    MergeMakesEnd {
        /// Its place in the list, from 0.
        index: usize,
        /// The merge (the beginning).
        text: String,
    },
}

impl Tokenizer {
    /// GPT-2's own: 50,257 tokens, end token 50,256. Built on first use, in some milliseconds.
    #[must_use]
    pub fn gpt2() -> &'static Self {
        &gpt2::GPT2
    }

    /// A tokenizer from the lists a GGUF file holds (`tokenizer.ggml.tokens`, `tokenizer.ggml.merges`,
    /// `tokenizer.ggml.eos_token_id`): tokens in the byte-level alphabet, merges as `"a b"`, first merge first.
    ///
    /// Tokens that no merge makes are allowed (special ones); text never becomes them.
    ///
    /// # Errors
    ///
    /// Whatever would make the vocabulary ambiguous or incomplete, with its place; see [`TokenizerError`].
    pub fn from_tokens_and_merges(tokens: &[impl AsRef<str>], merges: &[impl AsRef<str>], end_token: u32) -> Result<Self, TokenizerError> {
        let n_bytes = tokens.iter().map(|token| token.as_ref().len()).sum();
        let mut by_id = Tokens::with_capacity(tokens.len(), n_bytes);
        for (id, token) in tokens.iter().enumerate() {
            by_id.push_with(|bytes| alphabet::append_bytes(token.as_ref(), bytes).map_err(Wrong::Char)).map_err(|wrong| match wrong {
                Wrong::Char(found) => TokenizerError::NotByteLevel { id, found },
                Wrong::Token(Refused::Empty) => TokenizerError::EmptyToken { id },
                Wrong::Token(Refused::Duplicate(first)) => TokenizerError::DuplicateToken { first, second: id },
                Wrong::Token(Refused::TooLarge) => TokenizerError::TooLarge,
            })?;
        }
        if end_token as usize >= by_id.len() {
            return Err(TokenizerError::NoEndToken { end_token, n_vocab: by_id.len() });
        }
        if by_id.get(end_token).len() == 1 {
            return Err(TokenizerError::EndIsByte { end_token });
        }
        let byte_ids = byte_ids(&by_id)?;
        let merges = read_merges(&by_id, merges, end_token)?;
        Ok(Self { tokens: by_id, byte_ids, merges, end_token })
    }

    /// Number of tokens, `V`.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.tokens.len()
    }

    /// The token that ends a document and closes an answer. No text encodes to it.
    #[must_use]
    pub fn end_token(&self) -> u32 {
        self.end_token
    }

    /// The token with exactly these bytes, if there is one (the end token answers to its name, too).
    #[must_use]
    pub fn id_of(&self, bytes: &[u8]) -> Option<u32> {
        self.tokens.id_of(bytes)
    }

    /// The bytes of a token. They need not be whole characters.
    ///
    /// # Panics
    ///
    /// If `id` is not below [`Tokenizer::n_vocab`].
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id)
    }

    /// The tokens of a text. Special tokens are not recognised in it: `<|endoftext|>` is seven ordinary tokens.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        self.encode_into(text, &mut tokens);
        tokens
    }

    /// Appends the tokens of a text to `out`; see [`Tokenizer::encode`]. For many texts an [`Encoder`] is faster.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        if text.len() >= LONG_TEXT {
            return self.encoder().encode_into(text, out);
        }
        let mut scratch = Scratch::default();
        for (start, end) in Pieces::new(text) {
            self.encode_piece(&text.as_bytes()[start..end], &mut scratch, out);
        }
    }

    /// An encoder for many texts, which remembers words. One a thread.
    #[must_use]
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder::new(self)
    }

    /// Whether a text is exactly one token.
    #[must_use]
    pub fn is_single_token(&self, text: &str) -> bool {
        self.encode(text).len() == 1
    }

    /// The text of some tokens. Bytes that are not UTF-8 (generated, or cut in the middle of a character) become U+FFFD.
    ///
    /// # Panics
    ///
    /// If an id is not below [`Tokenizer::n_vocab`].
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Appends the tokens of one piece of text.
    fn encode_piece(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.merges.apply(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]), scratch, out);
    }
}

/// What can be wrong with a token that is written in the byte-level alphabet.
enum Wrong {
    Char(char),
    Token(Refused),
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Self {
        Self::Token(refused)
    }
}

/// The token of each single byte.
fn byte_ids(tokens: &Tokens) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [0; 256];
    for (byte, id) in (0..=u8::MAX).zip(&mut ids) {
        *id = tokens.id_of(&[byte]).ok_or(TokenizerError::MissingByte { byte })?;
    }
    Ok(ids)
}

/// Reads merges written as `"a b"` in the byte-level alphabet.
fn read_merges(tokens: &Tokens, merges: &[impl AsRef<str>], end_token: u32) -> Result<Merges, TokenizerError> {
    let mut list = Merges::with_capacity(merges.len());
    let mut bytes = Vec::new();
    let mut expected = 0;
    for (index, merge) in merges.iter().enumerate() {
        let merge = merge.as_ref();
        let text = || beginning(merge);
        let bad = |_| TokenizerError::BadMerge { index, text: text() };
        let unknown = |part: &str| TokenizerError::UnknownToken { index, text: text(), part: beginning(part) };

        let (left, right) = merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty()).ok_or(' ').map_err(bad)?;
        bytes.clear();
        alphabet::append_bytes(left, &mut bytes).map_err(bad)?;
        let middle = bytes.len();
        alphabet::append_bytes(right, &mut bytes).map_err(bad)?;
        let left_id = tokens.id_of(&bytes[..middle]).ok_or_else(|| unknown(left))?;
        let right_id = tokens.id_of(&bytes[middle..]).ok_or_else(|| unknown(right))?;
        // In most vocabularies tokens stand in the order of their merges, which saves a search.
        let merged = if (expected as usize) < tokens.len() && tokens.get(expected) == bytes {
            expected
        } else {
            tokens.id_of(&bytes).ok_or_else(|| unknown(&[left, right].concat()))?
        };
        if merged == end_token {
            return Err(TokenizerError::MergeMakesEnd { index, text: text() });
        }
        list.push(Merge { left: left_id, right: right_id, merged })
            .map_err(|merges::Repeated| TokenizerError::RepeatedMerge { index, text: text() })?;
        expected = merged + 1;
    }
    Ok(list)
}

/// As much of a text from a file as is shown in an error.
fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}
