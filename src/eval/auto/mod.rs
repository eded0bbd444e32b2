//! The smallest mix of formats that keeps a model near to what it was.
//!
//! How much a matrix's format hurts differs from matrix to matrix, and most of all between the head and the rest. So each is measured
//! by itself: with all matrices of the finest format, one at a time gets each smaller format, and the Kullback-Leibler divergence
//! that this brings on a text is its cost ([`search`]). Small divergences of independent roundings nearly add up; the mix that saves most
//! under that assumption ([`choose`]) is then measured as a whole against the unquantized model, and the budget corrected by what
//! was found, until the bound holds closely.
//!
//! Work, for 12 blocks: 49 matrices times 5 smaller formats on 512 to 4,096 tokens each, fewer the larger the model, by integer
//! kernels, since all other matrices are of the finest format; and up to 7 whole mixes on 4,096 tokens each, beside the
//! unquantized model, which takes most of the time. A matrix's coarser formats are passed over once one is over the bound by itself.

mod choose;
mod report;

pub use choose::{Choice, choose};

use super::perplexity::{Comparison, ScoreError, compare};
use super::windows::Windows;
use crate::gguf::{Gguf, GgufError, TensorInfo};
use crate::infer::{CacheType, Model, ModelError, Session};
use crate::model::io::requantize;
use crate::quant::{FileType, GgmlType, Importance};
use crate::simd::softmax::{Divergence, LogSum};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// A mix that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum AutoError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The text, or the model's answers to it.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A model that is quantized already.
    #[error("{name} is {format} already, and a mix is measured against the unquantized model: start from an F32, F16 or BF16 file")]
    Quantized {
        /// The tensor.
        name: String,
        /// Its format.
        format: &'static str,
    },
    /// No matrix has rows that a format of blocks can hold.
    #[error("no matrix has rows of a multiple of 32, which all smaller formats need: use the type f16")]
    NoRows,
    /// A bound that the finest format does not keep.
    #[error(
        "with {finest} everywhere the divergence is {found:.2e} already, which is over the bound of {bound:.2e}: raise the bound, or use the type f16"
    )]
    TooStrict {
        /// The finest format.
        finest: &'static str,
        /// What was measured.
        found: f64,
        /// What was asked for.
        bound: f64,
    },
}

/// What `--type` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file type by llama.cpp's name.
    Type(FileType),
    /// The smallest mix under a bound.
    Auto,
}

impl FromStr for Target {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        name.parse().map(Self::Type).map_err(|known: String| format!("{known}, auto"))
    }
}

/// The bound where none is given, in nats a token. On text as the model itself would write it, the perplexity of a model at a divergence
/// of `d` is `e^d` times the unquantized model's: 1 % more. It is also what a cache of 8 bits may cost.
pub const BOUND: f64 = 0.01;

/// What a search is to keep to.
pub struct Settings<'a> {
    /// Importance of columns, which encoding then weighs by.
    pub importance: Option<&'a Importance>,
    /// The text that divergence is measured on.
    pub text: &'a Windows,
    /// The most mean divergence in nats a token.
    pub bound: f64,
}

/// A matrix of the mix.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its tensor.
    pub name: String,
    /// Its format.
    pub format: GgmlType,
    /// Its bytes.
    pub bytes: u64,
    /// Divergence that this format alone brings to a model of the finest formats.
    pub cost: f64,
}

/// A mix.
pub struct Mix {
    /// Its matrices, in the file's order.
    pub groups: Vec<Group>,
    /// It as a whole against the unquantized model.
    pub measured: Comparison,
    /// The bound it was to keep.
    pub bound: f64,
    /// Divergence with the finest format everywhere.
    pub finest: f64,
    /// Single formats that were measured, each on this many tokens.
    pub singles: (usize, usize),
    /// Whole mixes that were measured, each on this many tokens.
    pub mixes: (usize, usize),
}

/// Formats from fine to coarse. Those of 256 weights a block are better at the same size.
const WIDE: [GgmlType; 6] = [GgmlType::Q8_0, GgmlType::Q6_K, GgmlType::Q5_K, GgmlType::Q4_K, GgmlType::Q3_K, GgmlType::Q2_K];
const NARROW: [GgmlType; 5] = [GgmlType::Q8_0, GgmlType::Q5_1, GgmlType::Q5_0, GgmlType::Q4_1, GgmlType::Q4_0];

/// Tokens of the text that a mix is measured on, at most; half of them are scored.
const WHOLE: usize = 4096;
/// Multiplications that all measurements of single formats may take: a minute or two on two cores.
const WORK: f64 = 2e13;
/// Logits that are kept of them, at most: 256 MB.
const KEPT: usize = 1 << 26;
/// Mixes that are measured, at most.
const MIXES: usize = 6;
/// A mix this near below the bound, as a part of it, is near enough.
const NEAR: f64 = 0.04;

impl Mix {
    /// Formats by tensor.
    #[must_use]
    pub fn formats(&self) -> BTreeMap<String, GgmlType> {
        self.groups.iter().map(|g| (g.name.clone(), g.format)).collect()
    }

    /// What the file calls itself: the smallest type whose own format is that of most bytes.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        let held = |ty: GgmlType| -> u64 { self.groups.iter().filter(|g| g.format == ty).map(|g| g.bytes).sum() };
        let most = GgmlType::ALL.into_iter().max_by_key(|&ty| held(ty)).unwrap_or(GgmlType::Q8_0);
        FileType::ALL.into_iter().rev().find(|t| t.format() == most).unwrap_or(FileType::Q8_0)
    }

    /// What the file is to say of how it was made: a key of our own and its text.
    #[must_use]
    pub fn note(&self) -> (&'static str, String) {
        let (found, bound) = (self.measured.divergence.mean, self.bound);
        ("tinyllm.mix", format!("auto: {found:.3e} nats a token from the unquantized model, of at most {bound:.3e}"))
    }

    /// Bytes of its matrices.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).sum()
    }
}

/// Finds the smallest mix for the model in a file whose divergence on a text stays under a bound, on rayon's current pool.
/// `told(done, all, what)` hears of tokens read.
pub fn search(path: &Path, settings: &Settings<'_>, told: &mut dyn FnMut(u64, u64, &str)) -> Result<Mix, AutoError> {
    let base = Model::open(path)?;
    let file = base.file.clone();
    let mut trial = Trial::new(&file, Model::open(path)?, settings.importance)?;
    let singles: usize = trial.ladders.iter().map(|l| l.len() - 1).sum();
    let whole = settings.text.thinned(WHOLE);
    let within = (WORK / (singles * base.config.parameters()) as f64).clamp(512.0, 4096.0) as usize;
    let part = whole.thinned(within.min(KEPT / base.config.vocab())).scored_whole();
    let mut work = Work { told, done: 0, all: (part.read() * (singles + 1) + whole.read() * (MIXES + 1)) as u64, singles: 0 };

    let finest = work.compare(&trial.model, &base, &whole)?;
    let floor = finest.divergence.mean;
    if floor > settings.bound {
        return Err(AutoError::TooStrict { finest: WIDE[0].name(), found: floor, bound: settings.bound });
    }
    let costs = trial.costs(&part, settings.bound, &mut work)?;

    // Costs add up nearly: `budget` is what they may come to so that the whole keeps the bound, and lies between what was too little
    // and what was too much.
    let spare = settings.bound - floor;
    let (mut budget, mut enough, mut too_much) = (spare, 0.0f64, f64::INFINITY);
    let mut best = (vec![0; costs.len()], finest);
    let mut tried = vec![];
    while tried.len() < MIXES {
        let rungs = choose(&costs, budget);
        if tried.contains(&rungs) {
            break;
        }
        trial.set_all(&rungs)?;
        let measured = work.compare(&trial.model, &base, &whole)?;
        let (found, sum) = (measured.divergence.mean, rungs.iter().zip(&costs).map(|(&r, c)| c[r].cost).sum::<f64>());
        tried.push(rungs.clone());
        let kept = found <= settings.bound;
        if kept && trial.total(&rungs) <= trial.total(&best.0) {
            best = (rungs, measured);
        }
        if sum == 0.0 || (kept && found >= (1.0 - NEAR) * settings.bound) {
            break;
        }
        if kept {
            enough = enough.max(sum);
        } else {
            too_much = too_much.min(sum);
        }
        let wanted = (1.0 - 0.5 * NEAR) * spare * sum / (found - floor).max(0.1 * sum);
        budget = if wanted > enough && wanted < too_much { wanted } else { (enough + too_much.min(4.0 * enough + spare)) / 2.0 };
    }
    let (rungs, measured) = best;
    let group = |(g, &rung): (usize, &usize)| Group {
        name: trial.tensors[g].name.clone(),
        format: trial.ladders[g][rung],
        bytes: trial.bytes(g, rung),
        cost: costs[g][rung].cost,
    };
    Ok(Mix {
        groups: rungs.iter().enumerate().map(group).collect(),
        measured,
        bound: settings.bound,
        finest: floor,
        singles: (work.singles, part.read()),
        mixes: (tried.len() + 1, whole.read()),
    })
}

/// Tells how far the search is.
struct Work<'t> {
    told: &'t mut dyn FnMut(u64, u64, &str),
    done: u64,
    all: u64,
    /// Single formats that were measured.
    singles: usize,
}

impl Work<'_> {
    fn add(&mut self, tokens: usize, what: &str) {
        self.done += tokens as u64;
        (self.told)(self.done, self.all.max(self.done), what);
    }

    fn compare(&mut self, model: &Model, base: &Model, text: &Windows) -> Result<Comparison, AutoError> {
        Ok(compare(model, base, text, CacheType::F16, &mut |n| self.add(n, "the whole mix"))?)
    }
}

/// A model whose matrices change their formats.
struct Trial<'a> {
    file: &'a Gguf,
    model: Model,
    importance: Option<&'a Importance>,
    tensors: Vec<&'a TensorInfo>,
    /// The formats that each can have.
    ladders: Vec<&'static [GgmlType]>,
    /// Which it has.
    rungs: Vec<usize>,
}

impl<'a> Trial<'a> {
    /// All matrices get the finest format.
    fn new(file: &'a Gguf, model: Model, importance: Option<&'a Importance>) -> Result<Self, AutoError> {
        let tensors: Vec<&TensorInfo> = file.tensors().iter().filter(|t| is_matrix(&t.name) && t.dims[0].is_multiple_of(32)).collect();
        if let Some(t) = tensors.iter().find(|t| GgmlType::from_id(t.ty.id).is_some_and(GgmlType::is_quantized)) {
            return Err(AutoError::Quantized { name: t.name.clone(), format: t.ty.name });
        }
        if tensors.is_empty() {
            return Err(AutoError::NoRows);
        }
        let ladders: Vec<_> = tensors.iter().map(|t| if t.dims[0].is_multiple_of(256) { &WIDE[..] } else { &NARROW[..] }).collect();
        let mut trial = Self { file, model, importance, rungs: vec![usize::MAX; tensors.len()], tensors, ladders };
        trial.set_all(&vec![0; trial.tensors.len()])?;
        Ok(trial)
    }

    fn set(&mut self, group: usize, rung: usize) -> Result<(), GgufError> {
        if self.rungs[group] != rung {
            let (tensor, ty) = (self.tensors[group], self.ladders[group][rung]);
            let importance = self.importance.and_then(|i| i.of(&tensor.name));
            let bytes = requantize::encoded(self.file, tensor, ty, importance)?;
            let packed = self.model.pack(ty, &bytes, tensor.dims[0] as usize);
            self.model.replace(&tensor.name, packed);
            self.rungs[group] = rung;
        }
        Ok(())
    }

    fn set_all(&mut self, rungs: &[usize]) -> Result<(), GgufError> {
        rungs.iter().enumerate().try_for_each(|(group, &rung)| self.set(group, rung))
    }

    fn bytes(&self, group: usize, rung: usize) -> u64 {
        let (weights, ty) = (self.tensors[group].dims.iter().product::<u64>(), self.ladders[group][rung]);
        weights / ty.block_len() as u64 * ty.block_bytes() as u64
    }

    fn total(&self, rungs: &[usize]) -> u64 {
        rungs.iter().enumerate().map(|(group, &rung)| self.bytes(group, rung)).sum()
    }

    /// What each format of each matrix brings to the model as it is, up to the first that is over the bound by itself.
    fn costs(&mut self, text: &Windows, bound: f64, work: &mut Work<'_>) -> Result<Vec<Vec<Choice>>, AutoError> {
        let reference = Reference::new(&self.model, text, work)?;
        let mut all = vec![];
        for group in 0..self.tensors.len() {
            let mut choices = vec![Choice { bytes: self.bytes(group, 0), cost: 0.0 }];
            for rung in 1..self.ladders[group].len() {
                if choices[rung - 1].cost > bound {
                    work.all -= ((self.ladders[group].len() - rung) * text.read()) as u64;
                    break;
                }
                self.set(group, rung)?;
                let cost = reference.divergence(&self.model, text, work, &self.tensors[group].name)?;
                work.singles += 1;
                choices.push(Choice { bytes: self.bytes(group, rung), cost });
            }
            self.set(group, 0)?;
            all.push(choices);
        }
        Ok(all)
    }
}

/// A model's logits at all scored places of a text.
struct Reference {
    /// `(places, V)`
    logits: Vec<f32>,
    /// [`LogSum`] of each row.
    sums: Vec<f64>,
}

impl Reference {
    fn new(model: &Model, text: &Windows, work: &mut Work<'_>) -> Result<Self, AutoError> {
        let mut session = Session::with(model, text.longest(), CacheType::F16);
        let mut logits = Vec::with_capacity(text.scored() * model.config.vocab());
        for piece in text.pieces() {
            logits.extend_from_slice(text.logits(&mut session, &piece).map_err(ScoreError::from)?);
            work.add(piece.tokens.len(), "the finest format");
        }
        let sums = logits.par_chunks(model.config.vocab()).map(|row| model.isa.run(LogSum(row))).collect();
        Ok(Self { logits, sums })
    }

    /// The mean divergence of a model from this one.
    fn divergence(&self, model: &Model, text: &Windows, work: &mut Work<'_>, what: &str) -> Result<f64, AutoError> {
        let v = model.config.vocab();
        let mut session = Session::with(model, text.longest(), CacheType::F16);
        let (mut all, mut place) = (Vec::with_capacity(self.sums.len()), 0);
        for piece in text.pieces() {
            let rows = text.logits(&mut session, &piece).map_err(ScoreError::from)?;
            let wanted = self.logits[place * v..].par_chunks(v).zip(&self.sums[place..]);
            all.par_extend(rows.par_chunks(v).zip(wanted).map(|(q, (p, &p_sum))| {
                let q_sum = model.isa.run(LogSum(q));
                model.isa.run(Divergence { p, q, p_sum, q_sum })
            }));
            place += piece.rows;
            work.add(piece.tokens.len(), what);
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        if mean.is_finite() { Ok(mean) } else { Err(ScoreError::NoNumber.into()) }
    }
}

/// Whether a tensor is a matrix whose format may be chosen: all but the embedding of positions, norms and biases.
fn is_matrix(name: &str) -> bool {
    let part = name.strip_prefix("blk.").and_then(|n| n.split_once('.')).map_or(name, |n| n.1);
    let all = ["token_embd.weight", "output.weight", "attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"];
    all.contains(&part)
}
