//! The lists that GGUF holds and the two files Hugging Face's `GPT2Tokenizer` reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{END, Tokenizer, TokenizerError, alphabet};
use crate::fsio::{self, IoError};

/// First line of `merges.txt`.
const VERSION: &str = "#version:";

/// A folder without a usable `vocab.json` and `merges.txt`.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerDirError {
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// `vocab.json` is not an object of tokens and ids.
    #[error("{}: not a list of tokens and their ids: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// An id is missing, or there are two tokens of one id.
    #[error("{}: the {n_vocab} tokens should have the ids 0 to {}, each once; {id} ({token:?}) is too large or given twice", path.display(), n_vocab - 1)]
    Ids {
        /// The file.
        path: PathBuf,
        /// Tokens in it.
        n_vocab: usize,
        /// The id in question.
        id: u32,
        /// A token that has it.
        token: String,
    },
    /// There is no end token.
    #[error("{}: the end token {END:?} is missing", path.display())]
    NoEnd {
        /// The file.
        path: PathBuf,
    },
    /// The lists do not make a tokenizer.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
}

impl Tokenizer {
    /// All tokens in the byte-level alphabet, by id: `tokenizer.ggml.tokens` of a GGUF file.
    #[must_use]
    pub fn gguf_tokens(&self) -> Vec<String> {
        (0..self.n_vocab() as u32).map(|id| alphabet::to_chars(self.token_bytes(id))).collect()
    }

    /// All merges as `"a b"` in the byte-level alphabet, first merge first: `tokenizer.ggml.merges` of a GGUF file.
    #[must_use]
    pub fn gguf_merges(&self) -> Vec<String> {
        let chars = |id| alphabet::to_chars(self.token_bytes(id));
        self.merges.list().iter().map(|merge| format!("{} {}", chars(merge.left), chars(merge.right))).collect()
    }

    /// Hugging Face's `vocab.json`: an object from token to id.
    #[must_use]
    pub fn vocab_json(&self) -> String {
        let entries: Vec<String> =
            self.gguf_tokens().into_iter().enumerate().map(|(id, token)| format!("{}:{id}", serde_json::Value::String(token))).collect();
        format!("{{{}}}", entries.join(","))
    }

    /// Hugging Face's `merges.txt`: a line with the version of the format, then a merge a line.
    #[must_use]
    pub fn merges_txt(&self) -> String {
        let mut text = format!("{VERSION} 0.2\n");
        for merge in self.gguf_merges() {
            text += &merge;
            text.push('\n');
        }
        text
    }

    /// The tokenizer of a folder in Hugging Face's format: `vocab.json` and `merges.txt`. The end token is `<|endoftext|>`.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, or the lists do not make a tokenizer; see [`TokenizerDirError`].
    pub fn from_hf_dir(dir: &Path) -> Result<Self, TokenizerDirError> {
        let path = dir.join("vocab.json");
        let ids: HashMap<String, u32> = match serde_json::from_str(&fsio::read_text(&path)?) {
            Ok(ids) => ids,
            Err(source) => return Err(TokenizerDirError::Json { path, source }),
        };
        let Some(&end_token) = ids.get(END) else { return Err(TokenizerDirError::NoEnd { path }) };
        let n_vocab = ids.len();
        let mut tokens = vec![String::new(); n_vocab];
        for (token, id) in ids {
            match tokens.get_mut(id as usize) {
                Some(place) if place.is_empty() => *place = token,
                _ => return Err(TokenizerDirError::Ids { path, n_vocab, id, token }),
            }
        }
        let text = fsio::read_text(&dir.join("merges.txt"))?;
        let skipped = usize::from(text.starts_with(VERSION));
        let merges: Vec<&str> = text.lines().skip(skipped).filter(|line| !line.is_empty()).collect();
        Self::from_tokens_and_merges(&tokens, &merges, end_token)
            .map_err(|source| TokenizerDirError::Tokenizer { path: dir.to_owned(), source })
    }
}
