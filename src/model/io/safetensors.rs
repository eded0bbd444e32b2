//! Files of named tensors: eight bytes of length, a JSON header, the numbers.
//!
//! Written tensor by tensor, whole or not at all; read from a mapped file, every length checked before anything is
//! allocated. What is written is `f32`, so that a run goes on with the very bits it stopped with.

use super::{ModelFileError, transpose};
use crate::fsio::write_whole;
use crate::mmap::Mapped;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The header's start: the length of what follows.
const LENGTH_BYTES: usize = 8;

/// Numbers turned into bytes at a time.
const CHUNK: usize = 1 << 14;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Its shape here: `(rows, cols)`, or a length.
    pub shape: Vec<usize>,
    /// Whether it is written as `(cols, rows)`.
    pub transposed: bool,
}

/// Writes a file of `f32` tensors. `values(i)` gives the numbers of entry `i`, asked for in order and dropped once written,
/// so that no more than one tensor need be in memory.
///
/// # Panics
/// If `values` gives another number of numbers than the shape has.
pub fn write<D: AsRef<[f32]>>(
    path: &Path,
    entries: &[Entry],
    mut values: impl FnMut(usize) -> io::Result<D>,
) -> Result<(), ModelFileError> {
    let header = header(entries);
    write_whole(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (i, entry) in entries.iter().enumerate() {
            let data = values(i)?;
            let data = data.as_ref();
            assert_eq!(data.len(), entry.shape.iter().product::<usize>(), "{}", entry.name);
            match entry.shape[..] {
                [rows, cols] if entry.transposed => write_f32(out, &transpose(data, rows, cols))?,
                _ => write_f32(out, data)?,
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// The JSON header, padded with spaces so that the numbers behind it are aligned.
fn header(entries: &[Entry]) -> Vec<u8> {
    let mut map = Map::new();
    // PyTorch's loaders ask for this mark.
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in entries {
        let mut shape = entry.shape.clone();
        if entry.transposed {
            shape.reverse();
        }
        let end = at + 4 * shape.iter().product::<usize>();
        map.insert(entry.name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(LENGTH_BYTES), b' ');
    text
}

fn write_f32(out: &mut impl Write, data: &[f32]) -> io::Result<()> {
    data.chunks(CHUNK).try_for_each(|chunk| {
        let bytes: Vec<[u8; 4]> = chunk.iter().map(|v| v.to_le_bytes()).collect();
        out.write_all(bytes.as_flattened())
    })
}

/// A file of tensors, mapped; its header is checked, its numbers are not yet read.
pub struct TensorFile {
    path: PathBuf,
    map: Mapped,
    /// Where the numbers begin.
    start: usize,
    header: Metadata,
}

impl TensorFile {
    /// Maps a file and checks its header: lengths, types, that the tensors fill the file without gap or overlap.
    pub fn open(path: &Path) -> Result<Self, ModelFileError> {
        let map = Mapped::open(path)?;
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            ModelFileError::format(path, format!("no whole safetensors file ({e}); it was cut short or damaged: copy or write it again"))
        })?;
        Ok(Self { path: path.into(), map, start: LENGTH_BYTES + length, header })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, as they lie in the file.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Whether it holds a tensor of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// A tensor's bytes as they lie in the file.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (from, to) = self.header.info(name)?.data_offsets;
        self.map.get(self.start + from..self.start + to)
    }

    /// A tensor as `f32`, in our orientation: `shape` is what it must have here; where `transposed`, the file must hold it
    /// the other way round. Refused if it is missing, of another shape, of a type other than F32, F16 and BF16, or holds a
    /// number that is not finite.
    pub fn read(&self, name: &str, shape: &[usize], transposed: bool) -> Result<Vec<f32>, ModelFileError> {
        let fail = |message: String| ModelFileError::tensor(&self.path, name, message);
        let info = self.header.info(name).ok_or_else(|| fail("it is missing".into()))?;
        let mut expected = shape.to_vec();
        if transposed {
            expected.reverse();
        }
        if info.shape != expected {
            return Err(fail(format!("its shape is {:?}, but the model's sizes make it {expected:?}", info.shape)));
        }
        let bytes = self.bytes(name).ok_or_else(|| fail("it lies outside the file".into()))?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => words(bytes).map(f32::from_le_bytes).collect(),
            Dtype::F16 => words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => return Err(fail(format!("its type is {other:?}; F32, F16 and BF16 are read"))),
        };
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(fail(format!("element {i} is {}: the training it comes from diverged, or the file is damaged", values[i])));
        }
        Ok(match expected[..] {
            [rows, cols] if transposed => transpose(&values, rows, cols),
            _ => values,
        })
    }
}

/// Bytes as words of `N`.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(name: &str, shape: &[usize], transposed: bool) -> Entry {
        Entry { name: name.into(), shape: shape.into(), transposed }
    }

    fn sample(path: &Path) -> Vec<Vec<f32>> {
        let entries = [entry("a", &[2, 3], true), entry("b", &[5], false)];
        let data = vec![vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], vec![-1.5, f32::MIN_POSITIVE, 1e-45, 0.1, -0.0]];
        write(path, &entries, |i| Ok(&data[i])).unwrap();
        data
    }

    #[test]
    fn what_is_written_is_read_and_transposed_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let data = sample(&path);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names(), ["a", "b"]);
        assert_eq!(file.read("a", &[2, 3], true).unwrap(), data[0]);
        assert_eq!(file.read("a", &[3, 2], false).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&file.read("b", &[5], false).unwrap()), bits(&data[1]));
        // The other reader agrees, and the numbers are aligned.
        let bytes = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("a").unwrap().shape(), [3, 2]);
        assert_eq!(file.start % 8, 0);
    }

    #[test]
    fn narrow_types_are_widened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let header = br#"{"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},"i":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(&f16::from_f32(1.5).to_le_bytes());
        bytes.extend_from_slice(&bf16::from_f32(-2.5).to_le_bytes());
        bytes.extend_from_slice(&7i32.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.read("h", &[1], false).unwrap(), [1.5]);
        assert_eq!(file.read("b", &[1], false).unwrap(), [-2.5]);
        assert!(file.read("i", &[1], false).unwrap_err().to_string().contains("I32"));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cut) = (dir.path().join("x.safetensors"), dir.path().join("cut.safetensors"));
        sample(&path);
        let bytes = fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            fs::write(&cut, &bytes[..n]).unwrap();
            assert!(TensorFile::open(&cut).is_err(), "{n} of {} bytes", bytes.len());
        }
        let mut long = bytes;
        long.push(0);
        fs::write(&cut, long).unwrap();
        assert!(TensorFile::open(&cut).is_err());
    }

    #[test]
    fn wrong_tensors_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write(&path, &[entry("n", &[3], false)], |_| Ok(vec![1.0, f32::NAN, 2.0])).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let say = |r: Result<Vec<f32>, ModelFileError>| r.unwrap_err().to_string();
        assert!(say(file.read("n", &[3], false)).contains("x.safetensors: tensor 'n': element 1 is NaN"));
        assert!(say(file.read("n", &[4], false)).contains("[3], but the model's sizes make it [4]"));
        assert!(say(file.read("m", &[3], false)).contains("missing"));
    }

    #[test]
    fn a_source_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let result = write::<Vec<f32>>(&path, &[entry("n", &[3], false)], |_| Err(io::Error::other("device lost")));
        assert!(result.unwrap_err().to_string().contains("device lost"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
