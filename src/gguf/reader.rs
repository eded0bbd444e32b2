//! Reading a GGUF file that may be damaged or hostile.

use super::{ALIGNMENT, TensorType, VERSION, ValueType, View};
use super::{Array, GgufError, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MAX_ENTRIES, MAX_KEY, MAX_NESTING, MAX_TENSOR_NAME, MAX_TENSORS};
use crate::mmap::Mapped;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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

struct Entry {
    ty: ValueType,
    /// Byte at which the key's length stands.
    at: usize,
    /// Byte at which the value begins.
    value: usize,
}

/// Where a tensor lies, and what it says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// "blk.3.attn_qkv.weight"
    pub name: String,
    /// Its format.
    pub ty: TensorType,
    /// Its dimensions in ggml's order, fastest first: `[in, out]` for a weight `(out, in)`.
    pub dims: Vec<u64>,
    /// Byte of the file at which its data begins.
    pub start: usize,
    /// Bytes of its data.
    pub len: usize,
    /// Byte of the file at which its description stands.
    pub at: usize,
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

    /// All metadata, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, View<'_>)> {
        self.entries.iter().filter_map(|e| {
            let View::String(key) = View::read(ValueType::String, &mut &self.all()[e.at..])? else { return None };
            Some((key, View::read(e.ty, &mut &self.all()[e.value..])?))
        })
    }

    /// A value by its key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<View<'_>> {
        let entry = &self.entries[*self.by_key.get(key)?];
        View::read(entry.ty, &mut &self.all()[entry.value..])
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
    pub fn strings(&self, key: &str) -> Result<impl Iterator<Item = &str> + use<'_>, GgufError> {
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

/// What was wrong, and where.
struct Fault {
    at: usize,
    what: String,
    /// Sound, but not for us.
    foreign: bool,
}

fn damaged<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, what: what.into(), foreign: false })
}

fn foreign<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, what: what.into(), foreign: true })
}

/// What a file says, checked.
struct Parsed {
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Parsed {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut c = Cursor { bytes, at: 0 };
        if c.take::<4>("the magic number")? != MAGIC {
            return damaged(0, "the file does not begin with 'GGUF'");
        }
        match u32::from_le_bytes(c.take("the version")?) {
            VERSION => {}
            v if (1..=VERSION).contains(&v.swap_bytes()) => {
                return foreign(4, "this is a big-endian GGUF: export it for a little-endian machine");
            }
            v => return foreign(4, format!("GGUF version {v}: only version {VERSION} is read; convert the file anew")),
        }
        // Least bytes of an entry: key length, one byte, type, one byte of value. Of a tensor: name length, one byte,
        // dimensions, one of them, type, offset.
        let n_tensors = c.count("tensors", 8 + 1 + 4 + 8 + 4 + 8, MAX_TENSORS)?;
        let n_entries = c.count("metadata entries", 8 + 1 + 4 + 1, MAX_ENTRIES)?;

        let mut entries = Vec::with_capacity(n_entries);
        let mut by_key = HashMap::with_capacity(n_entries);
        for i in 0..n_entries {
            let at = c.at;
            let key = c.string("a metadata key")?;
            if key.is_empty() || key.len() > MAX_KEY {
                return damaged(at, format!("a metadata key of {} bytes; 1 to {MAX_KEY} are possible", key.len()));
            }
            let ty = c.value_type()?;
            let value = c.at;
            c.skip_value(ty, 0)?;
            if by_key.insert(key.to_owned(), i).is_some() {
                return damaged(at, format!("the metadata key '{key:.80}' stands there twice"));
            }
            entries.push(Entry { ty, at, value });
        }
        let alignment = match by_key.get("general.alignment") {
            None => ALIGNMENT,
            Some(&i) => alignment(bytes, &entries[i])?,
        };

        let mut tensors: Vec<TensorInfo> = Vec::with_capacity(n_tensors);
        let mut by_name = HashMap::with_capacity(n_tensors);
        for i in 0..n_tensors {
            let tensor = c.tensor(alignment)?;
            if by_name.insert(tensor.name.clone(), i).is_some() {
                return damaged(tensor.at, format!("the tensor {} stands there twice", tensor.name));
            }
            tensors.push(tensor);
        }
        place(&mut tensors, c.at, alignment, bytes.len())?;
        Ok(Self { entries, by_key, tensors, by_name })
    }
}

fn alignment(bytes: &[u8], entry: &Entry) -> Result<usize, Fault> {
    match View::read(entry.ty, &mut &bytes[entry.value..]) {
        Some(View::U32(a)) if a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&a) => Ok(a as usize),
        _ => damaged(entry.value, format!("general.alignment is no u32 that is a power of two from 8 to {MAX_ALIGNMENT}")),
    }
}

/// Turns offsets within the data into bytes of the file; no tensor may reach beyond its end or into another.
fn place(tensors: &mut [TensorInfo], head: usize, alignment: usize, file: usize) -> Result<(), Fault> {
    let data = head.next_multiple_of(alignment);
    for t in &mut *tensors {
        match data.checked_add(t.start).filter(|start| start.checked_add(t.len).is_some_and(|end| end <= file)) {
            Some(start) => t.start = start,
            None => {
                let what = format!(
                    "the {} bytes of {} at {} of the data reach beyond the end of the file ({file} bytes, data from {data})",
                    t.len, t.name, t.start
                );
                return damaged(t.at, what);
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            return damaged(pair[1].at, format!("the data of {} and {} overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

/// Reads forward over the file; never past its end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(head) => {
                self.at += N;
                Ok(*head)
            }
            None => damaged(self.at, format!("the file ends within {what}")),
        }
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    /// A count of things of at least `least` bytes each, of which no more than `most` are believed.
    fn count(&mut self, what: &str, least: usize, most: u64) -> Result<usize, Fault> {
        let at = self.at;
        let n = self.u64(what)?;
        if n > most || n > (self.left() / least) as u64 {
            return damaged(at, format!("{n} {what}, with {} bytes left and a limit of {most}", self.left()));
        }
        Ok(n as usize)
    }

    fn string(&mut self, what: &str) -> Result<&'a str, Fault> {
        let at = self.at;
        let len = self.u64(what)?;
        if len > self.left() as u64 {
            return damaged(at, format!("{what} of {len} bytes, where {} are left", self.left()));
        }
        let (start, len) = (self.at, len as usize);
        self.at += len;
        match std::str::from_utf8(&self.bytes[start..][..len]) {
            Ok(s) => Ok(s),
            Err(e) => damaged(start + e.valid_up_to(), format!("{what} is not UTF-8")),
        }
    }

    fn value_type(&mut self) -> Result<ValueType, Fault> {
        let at = self.at;
        let id = self.u32("a value's type")?;
        ValueType::from_id(id).map_or_else(|| damaged(at, format!("there is no value type {id}")), Ok)
    }

    /// Checks a value and goes on behind it.
    fn skip_value(&mut self, ty: ValueType, depth: usize) -> Result<(), Fault> {
        let at = self.at;
        match ty {
            ValueType::String => _ = self.string("a string")?,
            ValueType::Bool => {
                let [b] = self.take("a bool")?;
                if b > 1 {
                    return damaged(at, format!("a bool of {b}"));
                }
            }
            ValueType::Array => {
                if depth == MAX_NESTING {
                    return damaged(at, format!("arrays nest deeper than {MAX_NESTING}"));
                }
                let element = self.value_type()?;
                let n = self.count("array elements", element.least_bytes(), u64::MAX)?;
                match element {
                    ValueType::String | ValueType::Array | ValueType::Bool => {
                        for _ in 0..n {
                            self.skip_value(element, depth + 1)?;
                        }
                    }
                    _ => self.at += n * element.least_bytes(), // `count` saw that they fit
                }
            }
            _ if self.left() < ty.least_bytes() => return damaged(at, "the file ends within a number"),
            _ => self.at += ty.least_bytes(),
        }
        Ok(())
    }

    /// A tensor's description; its `start` is still relative to the data.
    fn tensor(&mut self, alignment: usize) -> Result<TensorInfo, Fault> {
        let at = self.at;
        let name = self.string("a tensor's name")?;
        if name.is_empty() || name.len() > MAX_TENSOR_NAME {
            return damaged(at, format!("a tensor name of {} bytes; 1 to {MAX_TENSOR_NAME} are possible", name.len()));
        }
        let dims_at = self.at;
        let n_dims = self.u32("a tensor's dimensions")? as usize;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return damaged(dims_at, format!("{name} has {n_dims} dimensions; 1 to {MAX_DIMS} are possible"));
        }
        let dims = (0..n_dims).map(|_| self.u64("a tensor's dimensions")).collect::<Result<Vec<_>, _>>()?;
        let type_at = self.at;
        let id = self.u32("a tensor's type")?;
        let Some(ty) = TensorType::from_id(id) else {
            return foreign(type_at, format!("{name} is of tensor type {id}, which is unknown: the file is damaged or too new"));
        };
        let Some(len) = ty.bytes(&dims).and_then(|n| usize::try_from(n).ok()) else {
            let what = format!("{name} of {dims:?} cannot be of type {}, whose rows are multiples of {}", ty.name, ty.block_len);
            return damaged(dims_at, what);
        };
        let offset_at = self.at;
        let offset = self.u64("a tensor's offset")?;
        match usize::try_from(offset) {
            Ok(start) if start.is_multiple_of(alignment) => Ok(TensorInfo { name: name.into(), ty, dims, start, len, at }),
            _ => damaged(offset_at, format!("the data of {name} begins at {offset}, no multiple of the alignment {alignment}")),
        }
    }
}
