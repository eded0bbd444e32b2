//! Writing a GGUF file: metadata and tensor descriptions from memory, tensor data as a stream.

use super::value::put_string;
use super::{ALIGNMENT, GgufError, MAGIC, MAX_DIMS, MAX_KEY, MAX_TENSOR_NAME, TensorType, VERSION, Value};
use crate::fsio;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

/// Writes a tensor's bytes into the file; called once.
pub type Fill<'a> = Box<dyn FnMut(&mut dyn Write) -> io::Result<()> + 'a>;

/// A file in the making. Tensors are produced one after another while the file is written, so that no more than one
/// need be in memory.
///
/// ```no_run
/// # use tinyllm::gguf::{Writer, Value};
/// let mut w = Writer::new();
/// w.meta("general.architecture", "gpt2").meta("gpt2.block_count", 12u32);
/// w.tensor("output_norm.bias", 0 /* F32 */, &[768], Box::new(|out| out.write_all(&[0; 4 * 768])));
/// w.write("model.gguf".as_ref())?;
/// # Ok::<(), tinyllm::gguf::GgufError>(())
/// ```
#[derive(Default)]
pub struct Writer<'a> {
    meta: Vec<(String, Value)>,
    tensors: Vec<Pending<'a>>,
}

struct Pending<'a> {
    name: String,
    type_id: u32,
    dims: Vec<u64>,
    fill: Fill<'a>,
}

impl<'a> Writer<'a> {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry.
    pub fn meta(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.meta.push((key.into(), value.into()));
        self
    }

    /// Adds a tensor of type `type_id` (`quant::GgmlType::id`).
    ///
    /// `dims` is in ggml's order: the length of a row first, then the number of rows; that is `[in, out]` for a weight
    /// `(out, in)`. `fill` writes exactly the bytes of that many weights.
    pub fn tensor(&mut self, name: &str, type_id: u32, dims: &[u64], fill: Fill<'a>) -> &mut Self {
        self.tensors.push(Pending { name: name.into(), type_id, dims: dims.into(), fill });
        self
    }

    /// Writes the file, whole or not at all.
    pub fn write(self, path: &Path) -> Result<(), GgufError> {
        let unwritable = |what: String| GgufError::Unwritable { path: path.into(), what };
        let (head, sizes) = self.head().map_err(unwritable)?;
        let mut wrong = None;
        let done = fsio::write_whole(path, |file| {
            file.write_all(&head)?;
            for (tensor, &size) in self.tensors.into_iter().zip(&sizes) {
                let mut out = Counted { to: file, room: size, over: false };
                let mut fill = tensor.fill;
                let filled = fill(&mut out);
                if out.over || (filled.is_ok() && out.room != 0) {
                    wrong = Some(format!("the data of {} is not the {size} bytes its type and dimensions say", tensor.name));
                }
                filled?;
                if wrong.is_some() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                file.write_all(&[0; ALIGNMENT][..padding(size)])?;
            }
            Ok(())
        });
        match wrong {
            Some(what) => Err(unwritable(what)),
            None => Ok(done?),
        }
    }

    /// Everything before the data, padded, and each tensor's bytes.
    fn head(&self) -> Result<(Vec<u8>, Vec<u64>), String> {
        let mut out = vec![];
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        let mut seen = HashSet::new();
        for (key, value) in &self.meta {
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(format!("the key '{key:.80}' is not 1 to {MAX_KEY} bytes long"));
            }
            if !seen.insert(key) {
                return Err(format!("the key '{key}' is given twice"));
            }
            if key == "general.alignment" {
                return Err(format!("general.alignment is not to be set: it is always {ALIGNMENT}"));
            }
            put_string(&mut out, key);
            out.extend(value.ty().id().to_le_bytes());
            value.put(&mut out, 0).map_err(|e| format!("{key}: {e}"))?;
        }
        seen.clear();
        let (mut offset, mut sizes) = (0u64, vec![]);
        for Pending { name, type_id, dims, .. } in &self.tensors {
            if name.is_empty() || name.len() > MAX_TENSOR_NAME {
                return Err(format!("the tensor name '{name:.80}' is not 1 to {MAX_TENSOR_NAME} bytes long"));
            }
            if !seen.insert(name) {
                return Err(format!("the tensor {name} is given twice"));
            }
            let ty = TensorType::from_id(*type_id).ok_or_else(|| format!("{name}: there is no tensor type {type_id}"))?;
            let size = ty
                .bytes(dims)
                .filter(|_| dims.len() <= MAX_DIMS)
                .ok_or_else(|| format!("{name}: {dims:?} cannot be of type {}, whose rows are multiples of {}", ty.name, ty.block_len))?;
            put_string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(type_id.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += size + padding(size) as u64;
            sizes.push(size);
        }
        out.resize(out.len() + padding(out.len() as u64), 0);
        Ok((out, sizes))
    }
}

/// Bytes up to the next multiple of [`ALIGNMENT`].
const fn padding(size: u64) -> usize {
    (size.next_multiple_of(ALIGNMENT as u64) - size) as usize
}

/// Lets through as many bytes as a tensor has, and no more.
struct Counted<'w, W> {
    to: &'w mut W,
    room: u64,
    over: bool,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.room {
            self.over = true;
            return Err(io::ErrorKind::InvalidData.into());
        }
        let n = self.to.write(bytes)?;
        self.room -= n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::ValueType;

    fn refusal(fill: impl FnOnce(&mut Writer)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut w = Writer::new();
        fill(&mut w);
        let error = w.write(&path).unwrap_err().to_string();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of {error}");
        error
    }

    #[test]
    fn what_makes_no_file_is_refused() {
        let bytes = |n: usize| -> Fill { Box::new(move |out| out.write_all(&vec![0; n])) };
        assert!(refusal(|w| _ = w.meta("a", 1u32).meta("a", 2u32).meta("", 1u32)).contains("'a' is given twice"));
        assert!(refusal(|w| _ = w.meta("a", Value::Array(ValueType::U8, vec![Value::I8(1)]))).contains("array of u8 holds a i8"));
        assert!(refusal(|w| _ = w.tensor("t", 0, &[4], bytes(15))).contains("not the 16 bytes"));
        assert!(refusal(|w| _ = w.tensor("t", 0, &[4], bytes(17))).contains("not the 16 bytes"));
        assert!(refusal(|w| _ = w.tensor("t", 8, &[31], bytes(34))).contains("multiples of 32"));
        assert!(refusal(|w| _ = w.tensor("t", 99, &[31], bytes(34))).contains("no tensor type 99"));
        let full = |out: &mut dyn Write| out.write_all(&[0; 8]).and(Err(io::Error::other("no space left")));
        assert!(refusal(|w| _ = w.tensor("t", 0, &[4], Box::new(full))).contains("no space left"));
    }
}
