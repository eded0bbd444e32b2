//! How much each column of a model's matrices matters: the mean square of what it is multiplied with, on texts given.
//!
//! A session that watches copies the rows it makes ready for a product, and the one who takes up that product's first share adds
//! their squares: row after row, in `f64`, so that sums are the same on any number of threads. A session that does not is
//! told by one look at an empty option a row.
#![allow(unsafe_code)] // Rows of inputs are written by several threads.

use super::pass::CHUNK;
use super::{CacheType, Model, Session, SessionError};
use crate::quant::Importance;
use crate::simd::parallel::Shared;
use std::sync::Mutex;

/// Importance that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ImportanceError {
    /// A text that the model cannot read.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No text at all.
    #[error("there is no token to tell the importance of columns by")]
    Nothing,
    /// A model whose activations are no numbers.
    #[error("what {0} is multiplied with is no finite number: the model is damaged")]
    NoNumber(String),
}

/// For every matrix of `model` that is multiplied, by its name in the file, the mean square of its inputs over all tokens of
/// `texts`, a number a column. Each text is read from its first position on, in rayon's current pool. A tied head is
/// `token_embd.weight`. `told` hears of tokens read.
///
/// # Errors
/// If a text is longer than the model's context or holds what is no token, if there is none, or if the model is damaged.
pub fn importance<'t>(
    model: &Model,
    texts: impl IntoIterator<Item = &'t [u32]>,
    told: &mut dyn FnMut(u64),
) -> Result<Importance, ImportanceError> {
    let mut session = Session::watching(model, model.config.n_ctx, CacheType::F32);
    let mut read = 0;
    for text in texts {
        session.truncate(0);
        for piece in text.chunks(CHUNK) {
            session.feed(piece)?;
            read += piece.len() as u64;
            told(read);
        }
    }
    match session.sums() {
        Some(sums) if read > 0 => sums.means(model),
        _ => Err(ImportanceError::Nothing),
    }
}

/// A block's matrices, in the order of its products.
const PARTS: [&str; 4] = ["attn_qkv", "attn_output", "ffn_up", "ffn_down"];

/// Squares of the inputs of all products, summed a column.
pub struct Sums {
    /// The rows of the product at hand, `(N, cols)`.
    rows: Vec<f32>,
    /// Each block's four matrices, `(cols)` each.
    blocks: Vec<Mutex<Vec<f64>>>,
    /// `(C)`
    head: Vec<f64>,
    tokens: u64,
}

impl Sums {
    /// None yet.
    pub fn new(model: &Model) -> Self {
        let (c, f) = (model.config.n_embd, model.config.ff());
        let blocks = (0..model.config.n_layer).flat_map(|_| [c, c, c, f]).map(|cols| Mutex::new(vec![0.0; cols])).collect();
        Self { rows: vec![0.0; CHUNK * f.max(c)], blocks, head: vec![0.0; c], tokens: 0 }
    }

    /// For a pass.
    pub fn watch(&mut self) -> Watch<'_> {
        Watch { rows: Shared::new(&mut self.rows), sums: &self.blocks }
    }

    /// Adds a token's input of the head, `(C)`.
    pub fn add_last(&mut self, hidden: &[f32]) {
        add(&mut self.head, hidden);
        self.tokens += 1;
    }

    fn means(&self, model: &Model) -> Result<Importance, ImportanceError> {
        let head = if model.output.is_some() { "output.weight" } else { "token_embd.weight" };
        let mut all = Importance::default();
        let mut put = |name: String, sums: &[f64]| {
            if sums.iter().any(|x| !x.is_finite()) {
                return Err(ImportanceError::NoNumber(name));
            }
            all.0.insert(name, sums.iter().map(|x| (x / self.tokens as f64) as f32).collect());
            Ok(())
        };
        for (i, sums) in self.blocks.iter().enumerate() {
            put(format!("blk.{}.{}.weight", i / 4, PARTS[i % 4]), &sums.lock().expect("no member panicked"))?;
        }
        put(head.into(), &self.head)?;
        Ok(all)
    }
}

fn add(sums: &mut [f64], x: &[f32]) {
    sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
}

/// [`Sums`] in the hands of a team.
pub struct Watch<'a> {
    rows: Shared<'a>,
    sums: &'a [Mutex<Vec<f64>>],
}

impl Watch<'_> {
    /// Takes row `r` of a product's inputs.
    ///
    /// # Safety
    /// Nobody else may take this row, or [`add`](Self::add), in this phase.
    pub unsafe fn see(&self, r: usize, x: &[f32]) {
        // SAFETY: the row is the caller's alone.
        unsafe { self.rows.part(r * x.len(), x.len()) }.copy_from_slice(x);
    }

    /// Adds the squares of the `n` rows of `cols` columns that were taken to the sums of a matrix, counted over all blocks' four.
    ///
    /// # Safety
    /// Nobody may take a row in this phase.
    pub unsafe fn add(&self, matrix: usize, n: usize, cols: usize) {
        // SAFETY: they are read alone.
        let rows = unsafe { self.rows.part(0, n * cols) };
        let mut sums = self.sums[matrix].lock().expect("no member panicked");
        rows.chunks_exact(cols).for_each(|row| add(&mut sums, row));
    }
}
