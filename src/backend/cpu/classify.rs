//! The classifier: logits of a chunk of rows, their cross entropy, and its gradients.

use super::super::{BackendError, Targets};
use super::{Cpu, filled};
use crate::simd::Isa;
use crate::simd::elements::zero;
use crate::simd::gemm::{Finish, Mat, Start, gemm};
use crate::simd::softmax::CrossEntropy;
use rayon::prelude::*;

/// Most logits of a chunk: 96 MiB. For each chunk `wte` is packed twice and its gradient read and written, some 40 ms
/// of GPT-2's, so the more rows at a time the better: 500 cost a few per cent.
const LOGITS: usize = 24 << 20;
/// Fewest rows of a chunk, however large the vocabulary.
const ROWS: usize = 16;

/// Workspace for a chunk of rows.
pub struct Head {
    /// `(rows, V)`
    logits: Vec<f32>,
    /// `(rows, C)`: their inputs, side by side.
    x: Vec<f32>,
    /// `(rows, C)`: gradients of these.
    dx: Vec<f32>,
    /// Weighted cross entropy of each row.
    losses: Vec<f64>,
    rows: usize,
}

impl Head {
    /// For batches of up to `n` rows.
    pub(super) fn new(n: usize, c: usize, v: usize) -> Result<Self, BackendError> {
        let rows = (LOGITS / v.max(1)).max(ROWS).min(n);
        Ok(Self { logits: filled(rows * v, 0.0)?, x: filled(rows * c, 0.0)?, dx: filled(rows * c, 0.0)?, losses: filled(rows, 0.0)?, rows })
    }

    /// [`super::super::Backend::classify_loss`], the rows and the loss's one place cut to size.
    pub(super) fn classify(
        &mut self,
        isa: Isa,
        loss: &mut f32,
        mut dx: Option<&mut [f32]>,
        mut dwte: Option<&mut [f32]>,
        x: &[f32],
        wte: &[f32],
        targets: &Targets<Cpu>,
        c: usize,
        v: usize,
    ) {
        if let Some(dx) = &mut dx {
            zero(dx);
        }
        let gradient = dx.is_some() || dwte.is_some();
        let count = targets.count;
        let (all_rows, all_ids, all_weights) = (&targets.rows[..count], &targets.ids[..count], &targets.weights[..count]);
        let mut total = 0.0;
        // Chunks of one size rather than full ones and a small rest.
        let size = count.div_ceil(count.div_ceil(self.rows).max(1)).max(1);
        for ((rows, ids), weights) in all_rows.chunks(size).zip(all_ids.chunks(size)).zip(all_weights.chunks(size)) {
            let n = rows.len();
            let (logits, gathered, losses) = (&mut self.logits[..n * v], &mut self.x[..n * c], &mut self.losses[..n]);
            for (to, &row) in gathered.chunks_exact_mut(c).zip(rows) {
                to.copy_from_slice(&x[row as usize * c..][..c]);
            }
            gemm(isa, logits, n, v, c, 1.0, Mat::rows(gathered, c), Mat::transposed(wte, c), Start::Zero, Finish::Keep);
            logits.par_chunks_exact_mut(v).zip(ids).zip(weights).zip(&mut *losses).for_each(|(((logits, &id), &weight), loss)| {
                *loss = f64::from(weight) * isa.run(CrossEntropy { logits, target: id as usize, weight, gradient });
            });
            total += losses.iter().sum::<f64>();
            if let Some(dx) = &mut dx {
                let here = &mut self.dx[..n * c];
                gemm(isa, here, n, c, v, 1.0, Mat::rows(logits, v), Mat::rows(wte, c), Start::Zero, Finish::Keep);
                for (from, &row) in here.chunks_exact(c).zip(rows) {
                    dx[row as usize * c..][..c].copy_from_slice(from);
                }
            }
            if let Some(dwte) = &mut dwte {
                gemm(isa, dwte, v, c, n, 1.0, Mat::transposed(logits, v), Mat::rows(gathered, c), Start::Own, Finish::Keep);
            }
        }
        *loss += total as f32;
    }
}
