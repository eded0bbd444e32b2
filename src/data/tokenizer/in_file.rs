//! The tokenizer of a GGUF file, used where its lists lie in the map.
//!
//! A program that is started for one answer must not make 50,257 strings first, nor look up the parts of 50,000 merges. Opening goes once over
//! the tokens: where each begins, that it is one, which are the single bytes. The merges are indexed, by their text as it stands in the file,
//! when a text is encoded for the first time; turning tokens into text never needs that.
//!
//! What only looking one list up in the other can tell (a merge that makes no token, two tokens that are the same) is an error when it is met.
//! [`FileTokenizer::full`] finds all of it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::index::{Index, mix_bytes};
use super::join::{self, NONE, Ranked, Scratch};
use super::split::Pieces;
use super::{END, LONG_TEXT, Tokenizer, TokenizerError, alphabet, beginning};
use crate::gguf::{Gguf, GgufError, Strings};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const END_TOKEN: &str = "tokenizer.ggml.eos_token_id";

/// Tokens that GPT-2 has before the first that a merge makes: merge `i` makes token `256 + i`.
const SINGLE_BYTES: u32 = 256;

/// A GGUF file whose tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerFileError {
    /// The lists are missing, or are no lists, or of another kind of tokenizer.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The lists do not make a tokenizer.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Which token or merge, and why.
        source: TokenizerError,
    },
}

/// A file's vocabulary with its merges. It gives what the [`Tokenizer`] of the same lists gives.
pub struct FileTokenizer {
    file: Arc<Gguf>,
    /// Where the text of each token begins, as [`Texts`] has it.
    tokens: Vec<u32>,
    /// The token of each single byte.
    byte_ids: [u32; 256],
    end_token: u32,
    /// Merges by text; there once a text has been encoded.
    merges: OnceLock<ByText>,
    /// Tokens by text; there once a merge made another token than GPT-2's would be.
    ids: OnceLock<ByText>,
}

impl FileTokenizer {
    /// The tokenizer of an open file.
    ///
    /// # Errors
    ///
    /// If the file has none, or one of another kind; if a token is empty or not of the byte-level alphabet; if a single byte is missing or there
    /// twice; if the end token is missing or a single byte.
    pub fn open(file: Arc<Gguf>) -> Result<Self, TokenizerFileError> {
        let kind = file.string("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            let what = format!("the tokenizer is '{kind:.40}', and only gpt2 (byte-level BPE) is known");
            return Err(file.unusable_key("tokenizer.ggml.model", &what).into());
        }
        file.strings(MERGES)?;
        let tokens = file.strings(TOKENS)?;
        let given = file.get(END_TOKEN).map(|_| file.unsigned(END_TOKEN)).transpose()?;
        match survey(tokens, given) {
            Ok(Survey { starts, byte_ids, end_token }) => {
                Ok(Self { tokens: starts, byte_ids, end_token, file, merges: OnceLock::new(), ids: OnceLock::new() })
            }
            Err(source) => Err(TokenizerFileError::Tokenizer { path: file.path().into(), source }),
        }
    }

    /// Number of tokens, `V`.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.texts().len()
    }

    /// The token that ends a document and closes an answer. No text encodes to it.
    #[must_use]
    pub const fn end_token(&self) -> u32 {
        self.end_token
    }

    /// The bytes of a token. They need not be whole characters.
    ///
    /// # Panics
    ///
    /// If `id` is not below [`FileTokenizer::n_vocab`].
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        // All tokens were found to be of the alphabet; a file that changes under its map may be anything.
        let text = str::from_utf8(self.texts().get(id)).unwrap_or_default();
        alphabet::append_bytes(text, &mut bytes).ok();
        bytes
    }

    /// The text of some tokens. Bytes that are not UTF-8 (generated, or cut in the middle of a character) become U+FFFD.
    ///
    /// # Panics
    ///
    /// If an id is not below [`FileTokenizer::n_vocab`].
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The tokens of a text. Special tokens are not recognised in it. For many texts, [`FileTokenizer::full`] is faster.
    ///
    /// # Errors
    ///
    /// If the merges cannot be used, or one that this text needs makes what is no token or the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerFileError> {
        if text.len() >= LONG_TEXT {
            return Ok(self.full()?.encode(text));
        }
        self.encoded(text).map_err(|source| self.error(source))
    }

    /// The same tokenizer with everything looked up and checked, in memory of its own.
    ///
    /// # Errors
    ///
    /// Whatever would make the vocabulary ambiguous or incomplete, with its place.
    pub fn full(&self) -> Result<Tokenizer, TokenizerFileError> {
        let (tokens, merges): (Vec<_>, Vec<_>) = (self.file.strings(TOKENS)?.collect(), self.file.strings(MERGES)?.collect());
        Tokenizer::from_tokens_and_merges(&tokens, &merges, self.end_token).map_err(|source| self.error(source))
    }

    fn error(&self, source: TokenizerError) -> TokenizerFileError {
        TokenizerFileError::Tokenizer { path: self.file.path().into(), source }
    }

    fn encoded(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        if text.is_empty() {
            return Ok(out);
        }
        let list = self.strings(MERGES);
        let text_of = |mut list: Strings<'_>, index| list.nth(index).map(beginning).unwrap_or_default();
        let repeated = |_, index| TokenizerError::RepeatedMerge { index, text: text_of(list, index) };
        let ByText { starts, index } = made(&self.merges, || ByText::new(list, check_merge, repeated))?;
        let merges = Merges { of: self, tokens: self.texts(), merges: Texts { bytes: list.as_they_lie(), starts }, index };
        for (start, end) in Pieces::new(text) {
            let bytes = text.as_bytes()[start..end].iter();
            join::apply(&merges, bytes.map(|&byte| self.byte_ids[usize::from(byte)]), &mut scratch, &mut out)?;
        }
        Ok(out)
    }

    /// The token with this text.
    fn id_of(&self, text: &[u8]) -> Result<Option<u32>, TokenizerError> {
        let same = |first, second| TokenizerError::DuplicateToken { first, second };
        let ByText { index, .. } = made(&self.ids, || ByText::new(self.strings(TOKENS), |_, _| Ok(()), same))?;
        Ok(index.find(mix_bytes(text), |id| self.texts().get(id) == text))
    }

    fn texts(&self) -> Texts<'_> {
        Texts { bytes: self.strings(TOKENS).as_they_lie(), starts: &self.tokens }
    }

    fn strings(&self, key: &str) -> Strings<'_> {
        self.file.strings(key).expect("found when the file was opened")
    }
}

/// What is there once it is needed.
fn made<T, E>(there: &OnceLock<T>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
    if let Some(made) = there.get() {
        return Ok(made);
    }
    let new = make()?;
    Ok(there.get_or_init(|| new))
}

/// What one look at every token tells.
struct Survey {
    starts: Vec<u32>,
    byte_ids: [u32; 256],
    end_token: u32,
}

fn survey(tokens: Strings<'_>, given: Option<u64>) -> Result<Survey, TokenizerError> {
    let mut byte_ids = [NONE; 256];
    let mut named_end = None;
    let starts = each_text(tokens, |id, text, _| {
        if text.is_empty() {
            return Err(TokenizerError::EmptyToken { id });
        }
        match alphabet::single_byte(text) {
            Err(found) => return Err(TokenizerError::NotByteLevel { id, found }),
            Ok(None) => {}
            Ok(Some(byte)) => {
                let first = std::mem::replace(&mut byte_ids[usize::from(byte)], id as u32);
                if first != NONE {
                    return Err(TokenizerError::DuplicateToken { first, second: id });
                }
            }
        }
        if given.is_none() && named_end.is_none() && text == END.as_bytes() {
            named_end = Some(id as u64);
        }
        Ok(())
    })?;
    let n_vocab = starts.len() - 1;
    // Converters before 2024 gave no end token; its name is GPT-2's.
    let end_token = given.or(named_end).and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
    if end_token as usize >= n_vocab {
        return Err(TokenizerError::NoEndToken { end_token, n_vocab });
    }
    if byte_ids.contains(&end_token) {
        return Err(TokenizerError::EndIsByte { end_token });
    }
    match (0..=u8::MAX).zip(byte_ids).find(|&(_, id)| id == NONE) {
        Some((byte, _)) => Err(TokenizerError::MissingByte { byte }),
        None => Ok(Survey { starts, byte_ids, end_token }),
    }
}

/// Bytes of a length before a text.
const LENGTH: usize = size_of::<u64>();

/// Texts as they lie in the file, each after its length, and where they begin.
#[derive(Clone, Copy)]
struct Texts<'a> {
    bytes: &'a [u8],
    /// One more entry says where a text after the last would begin.
    starts: &'a [u32],
}

impl<'a> Texts<'a> {
    const fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn get(&self, i: u32) -> &'a [u8] {
        let i = i as usize;
        &self.bytes[self.starts[i] as usize..self.starts[i + 1] as usize - LENGTH]
    }
}

/// Goes over some texts and gives back where they begin. `look` is given each with its number and all up to it.
fn each_text<'a>(
    strings: Strings<'a>,
    mut look: impl FnMut(usize, &'a [u8], Texts<'_>) -> Result<(), TokenizerError>,
) -> Result<Vec<u32>, TokenizerError> {
    let (bytes, n) = (strings.as_they_lie(), strings.len());
    if u32::try_from(bytes.len() + LENGTH).is_err() {
        return Err(TokenizerError::TooLarge);
    }
    let mut starts = Vec::with_capacity(n + 1);
    starts.push(LENGTH as u32);
    let mut rest = bytes;
    for i in 0..n {
        // The file's reader has seen that the lengths lead from one to the next.
        let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() else { break };
        let Some((text, behind)) = behind.split_at_checked(u64::from_le_bytes(*length) as usize) else { break };
        starts.push((bytes.len() - behind.len() + LENGTH) as u32);
        look(i, text, Texts { bytes, starts: &starts })?;
        rest = behind;
    }
    Ok(starts)
}

/// Texts found by what they say.
struct ByText {
    starts: Vec<u32>,
    index: Index,
}

impl ByText {
    /// An index of all texts. `check` may refuse one; `twice` says what it means that text `second` is the same as `first`.
    fn new(
        strings: Strings<'_>,
        check: impl Fn(usize, &[u8]) -> Result<(), TokenizerError>,
        twice: impl Fn(u32, usize) -> TokenizerError,
    ) -> Result<Self, TokenizerError> {
        let mut index = Index::with_capacity(strings.len());
        let starts = each_text(strings, |i, text, so_far| {
            check(i, text)?;
            index.insert(mix_bytes(text), i as u32, |other| so_far.get(other) == text).map_err(|first| twice(first, i))
        })?;
        Ok(Self { starts, index })
    }
}

/// A look at the merges, while a text is encoded.
struct Merges<'a> {
    of: &'a FileTokenizer,
    tokens: Texts<'a>,
    merges: Texts<'a>,
    index: &'a Index,
}

impl Ranked for Merges<'_> {
    type Error = TokenizerError;

    fn rank(&self, left: u32, right: u32) -> u32 {
        let find = |text: &[u8]| self.index.find(mix_bytes(text), |rank| self.merges.get(rank) == text);
        put_together(&[self.tokens.get(left), b" ", self.tokens.get(right)], find).unwrap_or(NONE)
    }

    fn merged(&self, rank: u32, left: u32, right: u32) -> Result<u32, TokenizerError> {
        let (index, text) = (rank as usize, || beginning(&String::from_utf8_lossy(self.merges.get(rank))));
        let find = |token: &[u8]| {
            let usual = rank + SINGLE_BYTES;
            if (usual as usize) < self.tokens.len() && self.tokens.get(usual) == token {
                return Ok(usual);
            }
            let unknown = || TokenizerError::UnknownToken { index, text: text(), part: beginning(&String::from_utf8_lossy(token)) };
            self.of.id_of(token)?.ok_or_else(unknown)
        };
        match put_together(&[self.tokens.get(left), self.tokens.get(right)], find)? {
            end if end == self.of.end_token => Err(TokenizerError::MergeMakesEnd { index, text: text() }),
            merged => Ok(merged),
        }
    }
}

/// Hands on some parts as one text.
fn put_together<T>(parts: &[&[u8]], use_it: impl FnOnce(&[u8]) -> T) -> T {
    // Longer than any but a few tokens and merges of GPT-2.
    let mut room = [0; 64];
    let mut n = 0;
    for part in parts {
        match room.get_mut(n..n + part.len()) {
            Some(to) => to.copy_from_slice(part),
            None => return use_it(&parts.concat()),
        }
        n += part.len();
    }
    use_it(&room[..n])
}

/// Refuses a merge that is not two texts with a space between.
fn check_merge(index: usize, text: &[u8]) -> Result<(), TokenizerError> {
    if count_spaces(text) == 1 && text[0] != b' ' && text[text.len() - 1] != b' ' {
        return Ok(());
    }
    Err(TokenizerError::BadMerge { index, text: beginning(&String::from_utf8_lossy(text)) })
}

/// How many spaces there are; eight bytes at a time.
fn count_spaces(text: &[u8]) -> u32 {
    const ALL: u64 = u64::from_le_bytes([1; 8]);
    let (words, rest) = text.as_chunks::<8>();
    let spaces = |word: &[u8; 8]| {
        let other = u64::from_le_bytes(*word) ^ (ALL * u64::from(b' '));
        // The highest bit of a byte stays 0 just where no bit of it differs.
        let differs = ((other & (ALL * 0x7F)) + ALL * 0x7F) | other;
        (!differs & (ALL * 0x80)).count_ones()
    };
    words.iter().map(spaces).sum::<u32>() + rest.iter().map(|&b| u32::from(b == b' ')).sum::<u32>()
}
