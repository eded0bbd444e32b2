//! A GGUF file of a GPT-2 in another type: the same metadata, the same tensors, other bits.

use crate::gguf::{Gguf, GgufError, TensorInfo, Value, Writer};
use crate::quant::{Choice, FileType, GgmlType, Importance};
use crate::simd::Isa;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// What may be asked for beside the type.
#[derive(Default)]
pub struct Options<'a> {
    /// Importance of columns; tensors it does not name are rounded without.
    pub importance: Option<&'a Importance>,
    /// Whether tensors that are quantized already may be rounded once more.
    pub allow_requantize: bool,
    /// Formats of tensors by name; the others get what the file type gives them.
    pub formats: Option<&'a BTreeMap<String, GgmlType>>,
    /// A text of our own for the file: key and value.
    pub note: Option<(&'a str, String)>,
}

/// What became of a tensor.
#[derive(Clone, Debug)]
pub struct Change {
    /// "blk.3.attn_qkv.weight"
    pub name: String,
    /// Its format before.
    pub from: &'static str,
    /// Its format now.
    pub to: &'static str,
    /// Its weights.
    pub weights: u64,
    /// Its bytes before.
    pub bytes_before: u64,
    /// Its bytes now.
    pub bytes: u64,
    /// Root of the mean square of `before - now`, as a part of that of `before`; none where nothing changed.
    pub error: Option<f64>,
    /// Whether importance was known.
    pub weighed: bool,
}

/// Weights that a thread takes at a time: what it needs for them stays in L2.
const SHARE: usize = 1 << 16;
/// Shares between two writes.
const TOGETHER: usize = 64;

/// A tensor and the format it is to get; none where its bytes are copied.
struct Planned<'a> {
    tensor: &'a TensorInfo,
    change: Option<(GgmlType, GgmlType)>,
    importance: Option<&'a [f32]>,
}

/// Writes `file` as type `ty`, whole or not at all. `told` hears of every tensor and of how many weights are done.
pub fn quantize(
    file: &Gguf,
    path: &Path,
    ty: FileType,
    options: &Options<'_>,
    told: &mut dyn FnMut(u64, Option<&Change>),
) -> Result<Vec<Change>, GgufError> {
    let plan = plan(file, ty, options)?;
    // The closures that fill tensors run one after another, and report into the same places.
    let (changes, wrong, told) = (RefCell::new(vec![]), RefCell::new(None), RefCell::new((0u64, told)));
    let isa = Isa::detect();
    let mut w = Writer::new();
    metadata(file, &mut w, ty, &plan, options);
    for Planned { tensor, change, importance } in &plan {
        let (changes, wrong, told) = (&changes, &wrong, &told);
        let fill = move |out: &mut dyn Write| {
            let mut count = |n: usize| {
                let (done, tell) = &mut *told.borrow_mut();
                *done += n as u64;
                tell(*done, None);
            };
            let made = match *change {
                None => copy(out, file.data(tensor), tensor, &mut count),
                Some((from, to)) => convert(out, file.data(tensor), tensor, from, to, *importance, isa, &mut count),
            };
            match made {
                Ok(change) => {
                    let (done, tell) = &mut *told.borrow_mut();
                    tell(*done, Some(&change));
                    changes.borrow_mut().push(change);
                    Ok(())
                }
                Err(Failed::Io(error)) => Err(error),
                Err(Failed::NoNumber(row)) => {
                    *wrong.borrow_mut() = Some(no_number(file, tensor, row));
                    Err(io::ErrorKind::InvalidData.into())
                }
            }
        };
        let id = change.map_or(tensor.ty.id, |(_, to)| to.id());
        w.tensor(&tensor.name, id, &tensor.dims, Box::new(fill));
    }
    let done = w.write(path);
    match wrong.into_inner() {
        Some(error) => Err(error),
        None => done.map(|()| changes.into_inner()),
    }
}

/// A tensor of `file` in format `to`, on rayon's current pool.
///
/// # Panics
/// If its rows are no whole blocks.
pub fn encoded(file: &Gguf, tensor: &TensorInfo, to: GgmlType, importance: Option<&[f32]>) -> Result<Vec<u8>, GgufError> {
    let from = known(file, tensor)?;
    let mut out = vec![];
    match convert(&mut out, file.data(tensor), tensor, from, to, importance, Isa::detect(), &mut |_| {}) {
        Ok(_) => Ok(out),
        Err(Failed::NoNumber(row)) => Err(no_number(file, tensor, row)),
        Err(Failed::Io(_)) => unreachable!("memory takes all that is written"),
    }
}

fn known(file: &Gguf, tensor: &TensorInfo) -> Result<GgmlType, GgufError> {
    GgmlType::from_id(tensor.ty.id).ok_or_else(|| {
        let what = format!("{} is of type {}, which is not known here: start from an F32 or F16 file", tensor.name, tensor.ty.name);
        file.unusable_tensor(tensor, &what)
    })
}

fn no_number(file: &Gguf, tensor: &TensorInfo, row: usize) -> GgufError {
    file.unusable_tensor(tensor, &format!("{}: a weight of row {row} is no finite number; the model is damaged", tensor.name))
}

/// What each tensor becomes; refuses what cannot be.
fn plan<'a>(file: &'a Gguf, ty: FileType, options: &Options<'a>) -> Result<Vec<Planned<'a>>, GgufError> {
    let architecture = file.string("general.architecture")?;
    if architecture != "gpt2" {
        let what = format!("the architecture is '{architecture:.40}', and only gpt2 can be quantized");
        return Err(file.unusable_key("general.architecture", &what));
    }
    let blocks = file.unsigned("gpt2.block_count")?;
    let n_layer = usize::try_from(blocks).map_err(|_| file.unusable_key("gpt2.block_count", &format!("{blocks} blocks")))?;
    let model = Choice { n_layer, tied: file.tensor("output.weight").is_none(), importance: options.importance.is_some() };
    let mut plan = vec![];
    for tensor in file.tensors() {
        let given = options.formats.and_then(|f| f.get(&tensor.name).copied());
        let wanted = given.or_else(|| ty.format_of(&tensor.name, &tensor.dims, &model)).filter(|to| to.id() != tensor.ty.id);
        let mut planned = Planned { tensor, change: None, importance: None };
        if let Some(to) = wanted {
            let from = known(file, tensor)?;
            if from.is_quantized() && !options.allow_requantize {
                let what = format!(
                    "{} is {} already, and rounding twice costs quality: start from an F32 or F16 file, or give --allow-requantize",
                    tensor.name,
                    from.name()
                );
                return Err(file.unusable_tensor(tensor, &what));
            }
            planned.change = Some((from, to));
            planned.importance = options.importance.and_then(|i| i.of(&tensor.name));
            if let Some(given) = planned.importance.filter(|i| i.len() as u64 != tensor.dims[0]) {
                let what = format!(
                    "{} has rows of {}, but the importance given is of {}: it is another model's",
                    tensor.name,
                    tensor.dims[0],
                    given.len()
                );
                return Err(file.unusable_tensor(tensor, &what));
            }
        }
        plan.push(planned);
    }
    if let Some(all) = options.importance.filter(|_| plan.iter().any(|p| p.change.is_some()))
        && plan.iter().all(|p| p.importance.is_none())
    {
        let first = all.0.keys().next().map_or("", String::as_str);
        return Err(file.incomplete(&format!("the importance given is of none of the model's tensors (it names '{first:.63}')")));
    }
    Ok(plan)
}

/// The file's metadata, with its type told anew.
fn metadata(file: &Gguf, w: &mut Writer<'_>, ty: FileType, plan: &[Planned<'_>], options: &Options<'_>) {
    let mut own: Vec<(&str, Value)> = vec![("general.quantization_version", 2u32.into()), ("general.file_type", ty.id().into())];
    let weighed = plan.iter().filter(|p| p.importance.is_some()).count();
    if weighed > 0 {
        own.push(("quantize.imatrix.entries_count", (weighed as u32).into()));
    }
    if let Some((key, text)) = &options.note {
        own.push((key, text.as_str().into()));
    }
    for (key, value) in file.entries() {
        if key != "general.alignment" && own.iter().all(|(k, _)| *k != key) {
            w.meta(key, value.to_value());
        }
    }
    for (key, value) in own {
        w.meta(key, value);
    }
}

enum Failed {
    Io(io::Error),
    /// In this row.
    NoNumber(usize),
}

/// Copies a tensor's bytes.
fn copy(out: &mut dyn Write, bytes: &[u8], tensor: &TensorInfo, count: &mut dyn FnMut(usize)) -> Result<Change, Failed> {
    out.write_all(bytes).map_err(Failed::Io)?;
    let weights = tensor.dims.iter().product::<u64>();
    count(weights as usize);
    let bytes = bytes.len() as u64;
    let name = tensor.ty.name;
    Ok(Change { name: tensor.name.clone(), from: name, to: name, weights, bytes_before: bytes, bytes, error: None, weighed: false })
}

/// Writes a tensor in another format, some megabytes at a time, each share of rows by a thread.
fn convert(
    out: &mut dyn Write,
    bytes: &[u8],
    tensor: &TensorInfo,
    from: GgmlType,
    to: GgmlType,
    importance: Option<&[f32]>,
    isa: Isa,
    count: &mut dyn FnMut(usize),
) -> Result<Change, Failed> {
    let cols = tensor.dims[0] as usize;
    let row = from.row_bytes(cols);
    let rows = (SHARE / cols).max(1);
    let (mut lost, mut whole, mut written) = (0.0f64, 0.0f64, 0);
    for (at, shares) in (0..).step_by(rows * TOGETHER).zip(bytes.chunks(row * rows * TOGETHER)) {
        let made: Vec<_> = shares.par_chunks(row * rows).map(|share| encode(share, cols, from, to, importance, isa)).collect();
        for (i, share) in made.into_iter().enumerate() {
            let share = share.map_err(|row| Failed::NoNumber(at + i * rows + row))?;
            out.write_all(&share.bytes).map_err(Failed::Io)?;
            lost += share.lost;
            whole += share.whole;
            written += share.bytes.len();
        }
        count(shares.len() / row * cols);
    }
    Ok(Change {
        name: tensor.name.clone(),
        from: from.name(),
        to: to.name(),
        weights: tensor.dims.iter().product(),
        bytes_before: bytes.len() as u64,
        bytes: written as u64,
        error: Some(if lost == 0.0 { 0.0 } else { (lost / whole).sqrt() }),
        weighed: importance.is_some(),
    })
}

/// Rows in their new format.
struct Share {
    bytes: Vec<u8>,
    /// Sum of the squares of what was lost.
    lost: f64,
    /// Sum of the squares of the weights.
    whole: f64,
}

/// Encodes rows; the number of one that holds what is no number, else.
fn encode(bytes: &[u8], cols: usize, from: GgmlType, to: GgmlType, importance: Option<&[f32]>, isa: Isa) -> Result<Share, usize> {
    let mut weights = vec![0.0; bytes.len() / from.row_bytes(cols) * cols];
    from.dequantize_row(&mut weights, bytes);
    // A sum of products with 0 is 0 unless one of them is endless or no number.
    if weights.iter().map(|x| x * 0.0).sum::<f32>() != 0.0 {
        return Err(weights.iter().position(|x| !x.is_finite()).unwrap_or(0) / cols);
    }
    let mut out = Vec::new();
    to.quantize_rows(isa, &mut out, &weights, importance);
    let mut back = vec![0.0; weights.len()];
    to.dequantize_row(&mut back, &out);
    let (mut lost, mut whole) = (0.0, 0.0);
    for (x, y) in weights.chunks(cols).zip(back.chunks(cols)) {
        let (mut e, mut s) = (0.0f64, 0.0f64);
        for (x, y) in x.iter().zip(y) {
            e += f64::from(x - y).powi(2);
            s += f64::from(*x).powi(2);
        }
        lost += e;
        whole += s;
    }
    Ok(Share { bytes: out, lost, whole })
}
