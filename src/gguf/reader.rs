//! An open GGUF file.

use super::parse::{Entry, Fault, Parsed, TensorInfo};
use super::{Array, GgufError, Strings, ValueType, View};
use crate::mmap::Mapped;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An open file: checked metadata and tensor descriptions over the mapped bytes.
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

enum Bytes {
    Mapped(Mapped),
    /// In words, so that tensors are as aligned as in a map.
    Held(Vec<u64>, usize),
}

impl Gguf {
    /// Maps a file and checks all of it but the weights themselves.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::new(path.into(), Bytes::Mapped(Mapped::open(path)?))
    }

    /// The same over bytes in memory; `name` stands for the path in errors.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, GgufError> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self::new(name.into(), Bytes::Held(words, bytes.len()))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self, GgufError> {
        let mut file = Self { path, bytes, entries: vec![], by_key: HashMap::new(), tensors: vec![], by_name: HashMap::new() };
        match Parsed::read(file.all()) {
            Ok(Parsed { entries, by_key, tensors, by_name }) => {
                (file.entries, file.by_key, file.tensors, file.by_name) = (entries, by_key, tensors, by_name);
                Ok(file)
            }
            Err(Fault { at, what, foreign: true }) => Err(GgufError::Unsupported { path: file.path, offset: at as u64, what }),
            Err(Fault { at, what, foreign: false }) => Err(GgufError::Damaged { path: file.path, offset: at as u64, what }),
        }
    }

    /// The whole file.
    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Held(words, len) => &bytemuck::cast_slice(words)[..*len],
        }
    }

    /// Everything before the tensors' data: all that the file says of itself.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        let all = self.all();
        &all[..self.tensors.iter().map(|t| t.start).min().unwrap_or(all.len())]
    }

    /// When the file was last written to, where it is one and the system knows.
    #[must_use]
    pub const fn modified(&self) -> Option<SystemTime> {
        match &self.bytes {
            Bytes::Mapped(map) => map.modified(),
            Bytes::Held(..) => None,
        }
    }

    /// Asks the system to read the file ahead of use.
    pub fn prefault(&self) {
        if let Bytes::Mapped(map) = &self.bytes {
            map.prefault();
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_len(&self) -> usize {
        self.all().len()
    }

    /// All tensors, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// A tensor's data.
    ///
    /// # Panics
    /// If the tensor is of another file and lies beyond the end of this one.
    #[must_use]
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.all()[tensor.start..][..tensor.len]
    }

    /// Gives back the memory of a part of a tensor's [`data`](Self::data) that will hardly be looked at again.
    pub fn release(&self, part: &[u8]) {
        if let Bytes::Mapped(map) = &self.bytes {
            map.release(part);
        }
    }

    /// All metadata, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, View<'_>)> {
        self.entries.iter().filter_map(|e| {
            let View::String(key) = View::read(ValueType::String, &mut &self.all()[e.at..])? else { return None };
            Some((key, self.value(e)?))
        })
    }

    fn value(&self, entry: &Entry) -> Option<View<'_>> {
        View::whole(entry.ty, &self.all()[entry.value..entry.end])
    }

    /// A value by its key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<View<'_>> {
        self.value(&self.entries[*self.by_key.get(key)?])
    }

    /// A whole number that must be there.
    pub fn unsigned(&self, key: &str) -> Result<u64, GgufError> {
        self.need(key, "a whole number from 0", |v| v.unsigned())
    }

    /// A floating-point number that must be there.
    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        self.need(key, "a floating-point number", |v| match v {
            View::F32(x) => Some(x.into()),
            View::F64(x) => Some(x),
            _ => None,
        })
    }

    /// A string that must be there.
    pub fn string(&self, key: &str) -> Result<&str, GgufError> {
        self.need(key, "a string", |v| match v {
            View::String(s) => Some(s),
            _ => None,
        })
    }

    /// An array of strings that must be there.
    pub fn strings(&self, key: &str) -> Result<Strings<'_>, GgufError> {
        self.need(key, "an array of strings", |v| match v {
            View::Array(a) => a.strings(),
            _ => None,
        })
    }

    /// An array that must be there.
    pub fn array(&self, key: &str) -> Result<Array<'_>, GgufError> {
        self.need(key, "an array", |v| match v {
            View::Array(a) => Some(a),
            _ => None,
        })
    }

    fn need<'a, T>(&'a self, key: &str, kind: &str, pick: impl FnOnce(View<'a>) -> Option<T>) -> Result<T, GgufError> {
        let value = self.get(key).ok_or_else(|| GgufError::Missing { path: self.path.clone(), key: key.into() })?;
        let found = value.ty().name();
        pick(value).ok_or_else(|| self.unusable_key(key, &format!("'{key}' is no {}, but of type {found}", kind.trim_start_matches("a "))))
    }

    /// An error about what stands under a key, naming its place.
    #[must_use]
    pub fn unusable_key(&self, key: &str, what: &str) -> GgufError {
        let offset = self.by_key.get(key).map_or(0, |&i| self.entries[i].value) as u64;
        GgufError::Unsupported { path: self.path.clone(), offset, what: what.into() }
    }

    /// An error about a tensor, naming the place of its description.
    #[must_use]
    pub fn unusable_tensor(&self, tensor: &TensorInfo, what: &str) -> GgufError {
        GgufError::Unsupported { path: self.path.clone(), offset: tensor.at as u64, what: what.into() }
    }

    /// An error about what is nowhere in the file.
    #[must_use]
    pub fn incomplete(&self, what: &str) -> GgufError {
        GgufError::Unsupported { path: self.path.clone(), offset: self.file_len() as u64, what: what.into() }
    }
}
