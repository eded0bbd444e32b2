//! What a session holds of a constant prefix, kept in a file: an instruction that every prompt begins with is then read once, not in every
//! process.
//!
//! ```text
//! "TLMPREFX"  checksum u32 (CRC-32 of all that follows)  length of the header u32
//! header, JSON: what the keys and values depend on, and the tokens
//! keys and values, as `simd::cache` saves them
//! ```
//!
//! A file is taken only where it would give the very bits that reading the tokens gives: by the same version of the program, with the same
//! instruction sets, of the same model, in the same type. The model is told by its length, the time of its last change, and a checksum of all
//! that it says of itself, of the embeddings of these tokens and positions, and of four kilobytes of every tensor, spread over it. To read all
//! of its weights would cost a start more than a short prefix does: 137 MB from a card, where one that maps packed weights need not touch them.
//! Training or quantizing anew changes nearly every byte, and who edits a few weights in place changes the time.

use super::{Model, Session};
use crate::fsio::{self, IoError};
use crate::mmap::Mapped;
use flate2::Crc;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const MAGIC: [u8; 8] = *b"TLMPREFX";
/// Bytes before what the checksum covers, and before the header.
const CHECKED: usize = 12;
const HEADER: usize = 16;

/// Stretches of a tensor that are looked at, and bytes of each.
const STRETCHES: usize = 4;
const STRETCH: usize = 1024;

/// A prefix that cannot be taken from its file, or written to it.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another kind of file, which is not to be written over.
    #[error("{}: this is no file of a prefix: give the name of one, or of a file that is not there yet", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A prefix that is damaged.
    #[error("{}: {what}: the file is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A prefix of something else.
    #[error("{}: it is of {what}", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// What differs: what it is of, and what is asked for.
        what: String,
    },
}

impl PrefixError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(e) if e.source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// What keys and values depend on, in words and numbers that an error can show.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Version of the program, and the instruction sets of its passes.
    program: String,
    model_bytes: usize,
    /// Seconds and nanoseconds since 1970.
    model_changed: Option<(u64, u32)>,
    model_checksum: u32,
    /// Type of the cache, layers, heads, channels of a head.
    cache: (String, usize, usize, usize),
    tokens: Vec<u32>,
}

impl Header {
    /// What a file must say that holds these tokens for this session.
    fn of(session: &Session<'_>, tokens: &[u32]) -> Self {
        let (model, (_, cache)) = (session.model(), session.held());
        let since_1970 = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).ok();
        let (h, d) = cache.heads();
        Self {
            program: format!("{} {} {}", env!("CARGO_PKG_VERSION"), model.isa.name(), model.dots.name()),
            model_bytes: model.file.file_len(),
            model_changed: model.file.modified().and_then(since_1970).map(|t| (t.as_secs(), t.subsec_nanos())),
            model_checksum: checksum(model, tokens),
            cache: (cache.ty().name().into(), model.config.n_layer, h, d),
            tokens: tokens.into(),
        }
    }

    /// The first thing in which a file's header differs from what it must say.
    fn differs(&self, want: &Self) -> Option<String> {
        let told = |what: &str, is: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| Some(format!("{what} {is:?}, not {want:?}"));
        if self.program != want.program {
            return told("program and instructions", &self.program, &want.program);
        }
        if self.model_bytes != want.model_bytes {
            return told("a model of bytes", &self.model_bytes, &want.model_bytes);
        }
        if self.model_checksum != want.model_checksum {
            return Some("another model of the same size, or another prefix".into());
        }
        if self.model_changed != want.model_changed {
            return Some("a model that was written at another time".into());
        }
        if self.cache != want.cache {
            return told("a cache (type, layers, heads, channels)", &self.cache, &want.cache);
        }
        (self.tokens != want.tokens).then(|| format!("another prefix, of {} tokens", self.tokens.len()))
    }
}

/// A checksum of what the keys and values of some tokens come from, as the module says.
fn checksum(model: &Model, tokens: &[u32]) -> u32 {
    let file = &model.file;
    let mut crc = Crc::new();
    crc.update(file.head());
    for tensor in file.tensors() {
        let data = file.data(tensor);
        let row = data.len() / tensor.dims.get(1).map_or(1, |&rows| rows as usize).max(1);
        match tensor.name.as_str() {
            "token_embd.weight" => tokens.iter().for_each(|&id| crc.update(&data[id as usize * row..][..row])),
            "position_embd.weight" => crc.update(&data[..(tokens.len() * row).min(data.len())]),
            _ => {}
        }
        let len = STRETCH.min(data.len());
        for i in 0..STRETCHES {
            crc.update(&data[(data.len() - len) * i / (STRETCHES - 1)..][..len]);
        }
        // Packed weights are not looked at in the file again, and with a page the system hands out its neighbours.
        file.release(data);
    }
    crc.sum()
}

impl Session<'_> {
    /// Writes what the session holds to a file, whole or not at all: [`load_prefix`](Self::load_prefix) gives it to another process.
    pub fn save_prefix(&self, path: &Path) -> Result<(), PrefixError> {
        let (tokens, cache) = self.held();
        let header = serde_json::to_vec(&Header::of(self, tokens)).expect("a header has a JSON form");
        let mut kept = vec![];
        cache.save(tokens.len(), &mut kept);
        let len = (header.len() as u32).to_le_bytes();
        let mut crc = Crc::new();
        [&len[..], &header, &kept].into_iter().for_each(|part| crc.update(part));
        fsio::write_whole(path, |file| {
            [&MAGIC[..], &crc.sum().to_le_bytes(), &len, &header, &kept].into_iter().try_for_each(|part| file.write_all(part))
        })?;
        Ok(())
    }

    /// Makes the session hold exactly `tokens`, whose keys and values come from a file; nothing is computed. There are no logits until a token
    /// is read. What the session then gives has the same bits as if it had read them. On an error the session is as it was.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn load_prefix(&mut self, path: &Path, tokens: &[u32]) -> Result<(), PrefixError> {
        let file = Mapped::open(path)?;
        let damaged = |what: &str| PrefixError::Damaged { path: path.into(), what: what.into() };
        if !file.is_empty() && !file.starts_with(&MAGIC) {
            return Err(PrefixError::Foreign { path: path.into() });
        }
        let checked = file.get(CHECKED..).ok_or_else(|| damaged("it ends at once"))?;
        let mut crc = Crc::new();
        crc.update(checked);
        if file[MAGIC.len()..CHECKED] != crc.sum().to_le_bytes() {
            return Err(damaged("its checksum is wrong"));
        }
        let (header, kept) = (file.get(HEADER..))
            .and_then(|rest| rest.split_at_checked(u32::from_le_bytes(*checked.first_chunk()?) as usize))
            .ok_or_else(|| damaged("it ends within its header"))?;
        let header: Header = serde_json::from_slice(header).map_err(|e| damaged(&format!("its header cannot be read ({e})")))?;
        if let Some(what) = header.differs(&Header::of(self, tokens)) {
            return Err(PrefixError::Stale { path: path.into(), what });
        }
        if tokens.len() > self.room() || self.held().1.saved_len(tokens.len()) != Some(kept.len()) {
            return Err(damaged(&format!("{} bytes of keys and values are not those of {} tokens", kept.len(), tokens.len())));
        }
        self.hold(tokens, |cache| cache.take_in(tokens.len(), kept));
        Ok(())
    }
}
