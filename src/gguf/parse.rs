//! What a file that may be damaged or hostile says of itself, checked.

use super::{ALIGNMENT, TensorType, VERSION, ValueType, View, utf8};
use super::{MAGIC, MAX_ALIGNMENT, MAX_DIMS, MAX_ENTRIES, MAX_KEY, MAX_NESTING, MAX_TENSOR_NAME, MAX_TENSORS};
use std::collections::HashMap;

/// Where a metadata entry lies.
pub(super) struct Entry {
    /// Its value's type.
    pub ty: ValueType,
    /// Byte at which the key's length stands.
    pub at: usize,
    /// Byte at which the value begins.
    pub value: usize,
    /// Byte at which it ends.
    pub end: usize,
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

/// What was wrong, and where.
pub(super) struct Fault {
    /// Byte of the file.
    pub at: usize,
    /// What stands there.
    pub what: String,
    /// Sound, but not for us.
    pub foreign: bool,
}

fn damaged<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, what: what.into(), foreign: false })
}

fn foreign<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, what: what.into(), foreign: true })
}

/// What a file says, checked.
pub(super) struct Parsed {
    pub entries: Vec<Entry>,
    pub by_key: HashMap<String, usize>,
    pub tensors: Vec<TensorInfo>,
    pub by_name: HashMap<String, usize>,
}

impl Parsed {
    /// Reads and checks a whole file but its weights.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
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
            entries.push(Entry { ty, at, value, end: c.at });
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
    match View::whole(entry.ty, &bytes[entry.value..entry.end]) {
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
                    ValueType::String => self.skip_strings(n)?,
                    ValueType::Array | ValueType::Bool => {
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

    /// Checks the strings of an array and goes on behind them.
    ///
    /// A vocabulary has a hundred thousand, most of a few bytes. A length below 128 has bytes of ASCII alone, so that the strings and
    /// lengths of a stretch are UTF-8 together just if each string is: they are checked as one piece. Where that does not tell, one by one.
    fn skip_strings(&mut self, n: usize) -> Result<(), Fault> {
        let (first, mut stretch, mut sound) = (self.at, self.at, true);
        for _ in 0..n {
            let at = self.at;
            let len = self.u64("a string")?;
            if len > self.left() as u64 {
                return damaged(at, format!("a string of {len} bytes, where {} are left", self.left()));
            }
            if len >= 128 {
                sound &= utf8::is_of_short_characters(&self.bytes[stretch..at]);
                stretch = self.at;
            }
            self.at += len as usize;
        }
        if !(sound && utf8::is_of_short_characters(&self.bytes[stretch..self.at])) {
            self.at = first;
            for _ in 0..n {
                self.string("a string")?;
            }
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
