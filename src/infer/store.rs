//! A file of packed weights beside its model, to be mapped by as many processes as run it.
//!
//! It begins with a text, which says all that the file depends on:
//!
//! ```text
//! tinyllm packed weights, version 1
//! layout rows=16 signed=false paired=true tight=false columns=false
//! model bytes=31512832
//! matrix token_embd.weight Q6_K 50257x384 from 1781824 to 0+14482944 and 14483456+1448280
//! ...
//! samples 1f0c6c5d8a3b9e42
//! modified 1764250000.123456789
//! weights 94d2f9c1a07be633
//! panels 52ab3f8f1c0d7719
//! ```
//!
//! then, from a page on, from which places are counted, each matrix's quants, at a page, and its scales, at a cache line. All lines but the last three follow from the
//! model, the layout and our version: a file is used if it begins with exactly the text that was expected, so that no place or size is ever
//! taken from it. What a damaged panel can do is give wrong numbers.
//!
//! # Which model it is of
//!
//! Reading a model whole to compare it would cost what packing costs. So a file is taken for its model's if the model's length, the table of
//! its matrices, its time of modification and a checksum of some bytes of each matrix are the same. Copies and images change times (or cut off
//! fractions of seconds, which are overlooked): where the time alone differs, a checksum of all packed matrices decides.
//! Panels have a checksum too; it is compared by [`Store::verify`] alone, since that reads the whole file.

use super::packed::{Area, Areas, LINE};
use super::weights::{self, ModelError};
use crate::fsio::{self, IoError};
use crate::gguf::{Gguf, TensorInfo};
use crate::mmap::Mapped;
use crate::quant::GgmlType;
use crate::simd::panel::Layout;
use rayon::prelude::*;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file begins with; whatever does not is no file of ours.
const MAGIC: &str = "tinyllm packed weights";
/// Rises whenever the same layout means other bytes.
const VERSION: u32 = 1;
/// Matrices begin at multiples of this.
const PAGE: usize = 4096;
/// Bytes that are compared at the beginning, the middle and the end of a matrix.
const SAMPLE: usize = 64;
/// Length of the last three lines: fixed, so that the place of the panels is known before.
const TAIL: usize = "modified ".len() + 30 + "\nweights 0000000000000000\npanels 0000000000000000\n".len();

/// A matrix of a model.
#[derive(Clone)]
pub struct Matrix {
    /// Its place in the model's file.
    pub tensor: TensorInfo,
    /// Its format.
    pub ty: GgmlType,
    /// Number of rows.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
}

impl Matrix {
    /// Bytes of its quants and of its scales in this layout; `None` where its type is not packed.
    pub fn panel_bytes(&self, layout: Layout) -> Option<(usize, usize)> {
        Areas::sizes(self.ty, layout, self.rows, self.cols)
    }
}

/// Where a matrix's panels lie in the file.
struct Place {
    matrix: Matrix,
    quants: Range<usize>,
    scales: Range<usize>,
}

/// What the packed file of a model must be.
pub struct Plan<'a> {
    file: &'a Gguf,
    layout: Layout,
    places: Vec<Place>,
    /// The text that it begins with.
    head: String,
    /// Bytes of the whole file.
    len: usize,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub enum Unfit {
    /// There is none.
    Missing,
    /// It cannot be read.
    Io(IoError),
    /// It is something else, and not ours to overwrite.
    Foreign,
    /// It is out of date, of another model or machine, or damaged.
    Stale(String),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("it is not there yet"),
            Self::Io(e) => e.fmt(f),
            Self::Foreign => f.write_str("it holds something else than packed weights"),
            Self::Stale(why) => f.write_str(why),
        }
    }
}

impl<'a> Plan<'a> {
    /// A plan for those of `matrices` that are packed at all, in this layout.
    pub fn new(file: &'a Gguf, layout: Layout, matrices: Vec<Matrix>) -> Self {
        let Layout { rows, signed, paired, tight, columns } = layout;
        let mut head = format!("{MAGIC}, version {VERSION}\n");
        let mut line = |text: std::fmt::Arguments<'_>| head.write_fmt(text).expect("text has room");
        line(format_args!("layout rows={rows} signed={signed} paired={paired} tight={tight} columns={columns}\n"));
        line(format_args!("model bytes={}\n", file.file_len()));
        // Places follow the text, whose length must not depend on them: they are counted from the panels' begin.
        let (mut places, mut end) = (vec![], 0);
        for matrix in matrices {
            let Some((quant_bytes, scale_bytes)) = matrix.panel_bytes(layout) else { continue };
            let quants = range(end, PAGE, quant_bytes);
            let scales = range(quants.end, LINE, scale_bytes);
            end = scales.end;
            let Matrix { tensor: t, rows, cols, .. } = &matrix;
            line(format_args!("matrix {} {} {rows}x{cols} from {} ", t.name, t.ty.name, t.start));
            line(format_args!("to {}+{quant_bytes} and {}+{scale_bytes}\n", quants.start, scales.start));
            places.push(Place { matrix, quants, scales });
        }
        line(format_args!("samples {:016x}\n", samples(file, &places)));
        let begin = (head.len() + TAIL).next_multiple_of(PAGE);
        for Place { quants, scales, .. } in &mut places {
            (*quants, *scales) = (begin + quants.start..begin + quants.end, begin + scales.start..begin + scales.end);
        }
        Self { file, layout, places, head, len: begin + end }
    }

    /// Whether there is nothing to pack: all matrices are of floats.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes that the file has.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Maps the file at `path` if it is what it must be.
    pub fn open(&self, path: &Path) -> Result<Store, Unfit> {
        if !path.exists() {
            return Err(Unfit::Missing);
        }
        let map = Arc::new(Mapped::open(path).map_err(Unfit::Io)?);
        self.compare(&map)?;
        map.prefault();
        let places = self.places.iter().map(|p| (p.matrix.tensor.name.clone(), p.quants.clone(), p.scales.clone())).collect();
        let panels = Tail::read(&map[self.head.len()..][..TAIL]).map_or(0, |tail| tail.panels);
        Ok(Store { map, places, panels })
    }

    fn compare(&self, map: &[u8]) -> Result<(), Unfit> {
        let stale = |why: &str| Err(Unfit::Stale(why.into()));
        let there = &map[..map.len().min(self.head.len())];
        if !there.starts_with(&MAGIC.as_bytes()[..MAGIC.len().min(there.len())]) {
            return Err(Unfit::Foreign);
        }
        if map.len() < self.head.len() + TAIL {
            return stale("it is cut off");
        }
        let differs = there.split(|&b| b == b'\n').zip(self.head.split('\n')).find(|(a, b)| *a != b.as_bytes());
        if let Some((_, want)) = differs {
            return stale(match want.split_whitespace().next() {
                Some("tinyllm") => "it is of another version of this program",
                Some("layout") => "it is laid out for another instruction set",
                Some("model" | "matrix" | "samples") => "it is of another model, or damaged",
                _ => "it is damaged",
            });
        }
        if map.len() != self.len {
            return stale("it is cut off");
        }
        let Some(tail) = Tail::read(&map[self.head.len()..][..TAIL]) else { return stale("it is damaged") };
        if !same_time(&tail.modified, &modified(self.file)) && tail.weights != sum_of_weights(self.file, &self.places) {
            return stale("the model has changed since");
        }
        Ok(())
    }

    /// Writes the file, whole or not at all: packs a matrix at a time, on the threads of rayon's current pool. `told` hears how many of
    /// [`len`](Self::len) bytes are written.
    pub fn make(&self, path: &Path, told: &mut dyn FnMut(u64)) -> Result<(), IoError> {
        let begin = self.places.first().map_or(self.len, |p| p.quants.start);
        let (modified, weights) = (modified(self.file), sum_of_weights(self.file, &self.places));
        // The panels' checksum stands before them: it is written last.
        fsio::write_whole(path, |out| {
            out.write_all(&vec![0; begin])?;
            let (mut at, mut sums) = (begin, vec![]);
            for Place { matrix: m, quants, scales } in &self.places {
                let areas = Areas::pack(m.ty, self.layout, self.file.data(&m.tensor), m.cols, |part| self.file.release(part));
                for (place, area) in [(quants, &areas.quants), (scales, &areas.scales)] {
                    out.write_all(&[0; PAGE][..place.start - at])?;
                    for piece in area.bytes().chunks(1 << 22) {
                        out.write_all(piece)?;
                        at += piece.len();
                        told(at as u64);
                    }
                    at = place.end;
                    sums.push(checksum(area.bytes()));
                }
            }
            io::Seek::rewind(out)?;
            out.write_all(self.head.as_bytes())?;
            out.write_all(Tail { modified, weights, panels: checksum_of(&sums) }.text().as_bytes())
        })
    }
}

/// The next `len` bytes from a multiple of `step` on.
fn range(end: usize, step: usize, len: usize) -> Range<usize> {
    let start = end.next_multiple_of(step);
    start..start + len
}

/// The lines that do not follow from the model's table.
struct Tail {
    modified: String,
    weights: u64,
    panels: u64,
}

impl Tail {
    fn text(&self) -> String {
        format!("modified {:>30}\nweights {:016x}\npanels {:016x}\n", self.modified, self.weights, self.panels)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::trim);
        let modified = value("modified")?.to_owned();
        let mut hex = |name| u64::from_str_radix(value(name)?, 16).ok();
        Some(Self { modified, weights: hex("weights")?, panels: hex("panels")? })
    }
}

/// When a model's file was written: seconds and nanoseconds; "unknown" where that is not known.
fn modified(file: &Gguf) -> String {
    match file.modified().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()) {
        Some(t) => format!("{}.{:09}", t.as_secs(), t.subsec_nanos()),
        None => "unknown".into(),
    }
}

/// Whether two times are the same, as far as both are exact.
fn same_time(a: &str, b: &str) -> bool {
    let (Some((a, a_part)), Some((b, b_part))) = (a.split_once('.'), b.split_once('.')) else { return false };
    let whole = |part: &str| part.bytes().all(|c| c == b'0');
    a == b && (a_part == b_part || whole(a_part) || whole(b_part))
}

/// A checksum of a few bytes of each matrix.
fn samples(file: &Gguf, places: &[Place]) -> u64 {
    let sample = |place: &Place| {
        let bytes = file.data(&place.matrix.tensor);
        let len = SAMPLE.min(bytes.len());
        let sums = [0, (bytes.len() - len) / 2, bytes.len() - len].map(|at| checksum(&bytes[at..][..len]));
        file.release(bytes);
        checksum_of(&sums)
    };
    checksum_of(&places.iter().map(sample).collect::<Vec<_>>())
}

/// A checksum of all matrices.
fn sum_of_weights(file: &Gguf, places: &[Place]) -> u64 {
    let sum = |place: &Place| {
        let pieces = file.data(&place.matrix.tensor).par_chunks(1 << 20).map(|piece| {
            let sum = checksum(piece);
            file.release(piece);
            sum
        });
        checksum_of(&pieces.collect::<Vec<_>>())
    };
    checksum_of(&places.iter().map(sum).collect::<Vec<_>>())
}

/// Tells bytes from others that differ by accident. Each step is one to one in the sum and in the word, so that one changed word always
/// shows; four sums side by side keep a processor busy.
fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let step = |sum: u64, word: u64| (sum.rotate_left(29) ^ word).wrapping_mul(FACTOR);
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut sums = [1, 2, 3, 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for i in 0..4 {
            sums[i] = step(sums[i], u64::from_le_bytes(words[i]));
        }
    }
    let whole = sums.into_iter().fold(bytes.len() as u64, step);
    let sum = rest.iter().fold(whole, |sum, &byte| step(sum, byte.into()));
    sum ^ sum >> 32
}

fn checksum_of(sums: &[u64]) -> u64 {
    let bytes: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
    checksum(&bytes)
}

/// An open file of packed weights.
pub struct Store {
    map: Arc<Mapped>,
    /// Names, quants, scales.
    places: Vec<(String, Range<usize>, Range<usize>)>,
    panels: u64,
}

impl Store {
    /// The panels of the matrix of this name, if they are here.
    pub fn areas(&self, name: &str) -> Option<Areas> {
        let (_, quants, scales) = self.places.iter().find(|(n, ..)| n == name)?;
        Some(Areas { quants: Area::mapped(&self.map, quants.clone()), scales: Area::mapped(&self.map, scales.clone()) })
    }

    /// Reads the whole file, and says whether its panels are those that were written.
    pub fn verify(&self) -> bool {
        let parts: Vec<&Range<usize>> = self.places.iter().flat_map(|(_, quants, scales)| [quants, scales]).collect();
        let sums: Vec<u64> = parts.par_iter().map(|&part| checksum(&self.map[part.clone()])).collect();
        checksum_of(&sums) == self.panels
    }
}

/// What is done about a file of packed weights.
#[derive(Debug)]
pub enum Told {
    /// Something worth a line.
    Note(String),
    /// How far it is written.
    Packing {
        /// Bytes written.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Maps the file at `path`, which is made, or made anew, where it is not there or does not fit; `None`, after a note, where that fails.
pub fn open_or_make(plan: &Plan<'_>, path: &Path, told: &mut dyn FnMut(Told)) -> Option<Store> {
    match found_or_made(plan, path, told) {
        Ok(store) => Some(store),
        Err(why) => {
            told(Told::Note(why));
            None
        }
    }
}

/// The same; the error is the note.
fn found_or_made(plan: &Plan<'_>, path: &Path, told: &mut dyn FnMut(Told)) -> Result<Store, String> {
    let name = path.display();
    let without = |why: &dyn std::fmt::Display| format!("{why}; the weights are packed into memory instead");
    if plan.is_empty() {
        return Err(format!("{name}: not made: the weights are floats, which are mapped from the model's own file"));
    }
    let why = match plan.open(path) {
        Ok(store) => return Ok(store),
        Err(Unfit::Io(e)) => return Err(without(&e)),
        Err(why @ Unfit::Foreign) => return Err(without(&format!("{name}: left as it is: {why}"))),
        Err(why) => why,
    };
    let total = plan.len() as u64;
    plan.make(path, &mut |done| told(Told::Packing { done, total })).map_err(|e| without(&e))?;
    // Somebody else may have been quicker, with another model's or for another machine.
    let store = plan.open(path).map_err(|why| without(&format!("{name}: {why}")))?;
    told(Told::Note(format!("{name}: made, {:.1} MB: {why}", total as f64 / 1e6)));
    Ok(store)
}

/// Packed weights that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The model, or something in it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Something else is where the file is to be.
    #[error("{}: it holds something else than packed weights: remove it, or give another name", .0.display())]
    Foreign(PathBuf),
    /// There is nothing to pack.
    #[error("{}: the weights are floats, which are used where they lie: there is nothing to pack", .0.display())]
    Floats(PathBuf),
}

/// Makes the file of packed weights of the model `file` at `path`, unless a whole one is there: every byte is compared with what was
/// written. Says how many bytes it has, and why it was made; `told` hears how many of how many are written.
pub fn pack(file: &Gguf, layout: Layout, path: &Path, told: &mut dyn FnMut(u64, u64)) -> Result<(u64, Option<String>), PackError> {
    let matrices = weights::matrices(file, &weights::sizes(file)?).map_err(ModelError::from)?;
    let plan = Plan::new(file, layout, matrices);
    if plan.is_empty() {
        return Err(PackError::Floats(file.path().into()));
    }
    let total = plan.len() as u64;
    let why = match plan.open(path) {
        Ok(store) if store.verify() => return Ok((total, None)),
        Ok(_) => "it is damaged".into(),
        Err(Unfit::Foreign) => return Err(PackError::Foreign(path.into())),
        Err(Unfit::Io(e)) => return Err(e.into()),
        Err(why) => why.to_string(),
    };
    plan.make(path, &mut |done| told(done, total))?;
    Ok((total, Some(why)))
}

/// Where a model's packed weights are kept unless somebody says otherwise: `MODEL.gguf.packed`.
#[must_use]
pub fn default_path(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".packed");
    name.into()
}
