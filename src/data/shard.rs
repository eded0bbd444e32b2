//! Token shards in llm.c's format: a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens), then
//! a uint16 a token. Each document begins with the end token.

use super::error::DataError;
use crate::fsio::{At, IoError};
use crate::mmap::Mapped;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first number of the header.
pub const MAGIC: i32 = 20_240_520;
/// The second.
pub const VERSION: i32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 1024;
/// A vocabulary can have no more than this many tokens, or its ids do not fit.
pub const MAX_VOCAB: usize = 1 << 16;

/// Writes documents into `NAME_000.bin`, `NAME_001.bin`, ... of a folder; a document may go on in the next shard.
pub struct ShardWriter {
    dir: PathBuf,
    name: String,
    per_shard: usize,
    open: Option<(PathBuf, BufWriter<File>, usize)>,
    paths: Vec<PathBuf>,
    total: u64,
}

impl ShardWriter {
    /// Shards of at most `per_shard` tokens.
    ///
    /// # Panics
    /// If `per_shard` is 0 or its count does not fit the header.
    #[must_use]
    pub fn new(dir: &Path, name: &str, per_shard: usize) -> Self {
        assert!(per_shard > 0 && i32::try_from(per_shard).is_ok(), "a shard's number of tokens is a positive int32");
        Self { dir: dir.into(), name: name.into(), per_shard, open: None, paths: vec![], total: 0 }
    }

    /// Adds tokens.
    ///
    /// # Panics
    /// If a token does not fit 16 bits.
    pub fn push(&mut self, mut tokens: &[u32]) -> Result<(), IoError> {
        self.total += tokens.len() as u64;
        let mut bytes = vec![];
        while !tokens.is_empty() {
            if self.open.is_none() {
                let path = self.dir.join(format!("{}_{:03}.bin", self.name, self.paths.len()));
                let mut out = BufWriter::with_capacity(1 << 18, File::create(&path).at(&path, "create")?);
                out.write_all(&[0; HEADER]).at(&path, "write")?;
                self.paths.push(path.clone());
                self.open = Some((path, out, 0));
            }
            let Some((path, out, count)) = &mut self.open else { unreachable!("opened above") };
            let (now, later) = tokens.split_at(tokens.len().min(self.per_shard - *count));
            bytes.clear();
            for &token in now {
                bytes.extend(u16::try_from(token).expect("a token of at most 16 bits").to_le_bytes());
            }
            out.write_all(&bytes).at(path, "write")?;
            *count += now.len();
            tokens = later;
            if *count == self.per_shard {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), IoError> {
        if let Some((path, mut out, count)) = self.open.take() {
            out.seek(SeekFrom::Start(0)).at(&path, "write")?;
            for word in [MAGIC, VERSION, count as i32] {
                out.write_all(&word.to_le_bytes()).at(&path, "write")?;
            }
            out.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|f| f.sync_all()).at(&path, "write")?;
        }
        Ok(())
    }

    /// Ends the last shard; the paths in order, and the number of tokens in all.
    pub fn finish(mut self) -> Result<(Vec<PathBuf>, u64), IoError> {
        self.close()?;
        Ok((self.paths, self.total))
    }
}

/// A shard that is mapped for reading.
pub struct Shard {
    path: PathBuf,
    map: Mapped,
    len: usize,
}

impl Shard {
    /// Maps a shard and checks its header against its length.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let fail = |offset: u64, message: String| Err(DataError::Shard { path: path.into(), offset, message });
        if map.len() < HEADER {
            return fail(map.len() as u64, format!("the file ends within the header of {HEADER} bytes; prepare the data again"));
        }
        let word = |i: usize| i32::from_le_bytes([map[4 * i], map[4 * i + 1], map[4 * i + 2], map[4 * i + 3]]);
        if word(0) != MAGIC {
            return fail(0, format!("the file begins with {} and not with {MAGIC}: it is no token shard", word(0)));
        }
        if word(1) != VERSION {
            return fail(4, format!("version {} of the format is not known; version {VERSION} is", word(1)));
        }
        let Ok(len) = usize::try_from(word(2)) else { return fail(8, format!("the number of tokens is {}", word(2))) };
        let held = (map.len() - HEADER) / 2;
        if held != len || !map.len().is_multiple_of(2) {
            let message =
                format!("the header promises {len} tokens and the file holds {held}: it was cut short or added to; prepare the data again");
            return fail(map.len() as u64, message);
        }
        Ok(Self { path: path.into(), map, len })
    }

    /// Tokens in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `count` tokens from `start` on, each checked against the size of the vocabulary.
    ///
    /// # Panics
    /// If the range goes beyond the shard.
    pub fn read(&self, start: usize, count: usize, n_vocab: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        assert!(start + count <= self.len, "tokens {start}..{} of {}", start + count, self.len);
        for (i, pair) in self.map[HEADER + 2 * start..][..2 * count].chunks_exact(2).enumerate() {
            let token = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
            if token as usize >= n_vocab {
                return Err(DataError::Shard {
                    path: self.path.clone(),
                    offset: (HEADER + 2 * (start + i)) as u64,
                    message: format!(
                        "token {token} is beyond the vocabulary of {n_vocab}: the shard was made with another tokenizer, or is damaged"
                    ),
                });
            }
            out.push(token);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path, per_shard: usize, tokens: u32) -> Vec<PathBuf> {
        let mut writer = ShardWriter::new(dir, "train", per_shard);
        let all: Vec<u32> = (0..tokens).collect();
        all.chunks(7).for_each(|c| writer.push(c).unwrap());
        let (paths, total) = writer.finish().unwrap();
        assert_eq!(total, u64::from(tokens));
        paths
    }

    #[test]
    fn tokens_come_back_from_shards() {
        let dir = tempfile::tempdir().unwrap();
        let paths = written(dir.path(), 100, 250);
        let lens: Vec<usize> = paths.iter().map(|p| Shard::open(p).unwrap().len()).collect();
        assert_eq!(lens, [100, 100, 50]);
        let mut out = vec![];
        Shard::open(&paths[1]).unwrap().read(3, 5, 250, &mut out).unwrap();
        assert_eq!(out, [103, 104, 105, 106, 107]);
        assert_eq!(std::fs::metadata(&paths[2]).unwrap().len(), 1024 + 100);
        assert!(paths[2].ends_with("train_002.bin"));
    }

    #[test]
    fn damaged_shards_are_refused_with_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = &written(dir.path(), 100, 50)[0];
        let good = std::fs::read(path).unwrap();
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
            Shard::open(path).and_then(|s| s.read(0, s.len(), 50, &mut vec![])).unwrap_err().to_string()
        };
        for cut in [0, 1, 1023, 1024, 1025, 1123] {
            let error = damaged(&|b| b.truncate(cut));
            assert!(error.contains(&format!("at byte {cut}")), "{error}");
        }
        assert!(damaged(&|b| b.push(0)).contains("cut short"));
        assert!(damaged(&|b| b[0] ^= 1).contains("no token shard"));
        assert!(damaged(&|b| b[4] = 2).contains("version 2"));
        assert!(damaged(&|b| b[11] = 0x80).contains("number of tokens is -"));
        let error = damaged(&|b| b[1024 + 2 * 9] = 50);
        assert!(error.contains("at byte 1042") && error.contains("token 50 is beyond"), "{error}");
    }
}
