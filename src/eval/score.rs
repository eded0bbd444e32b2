//! Answers of a model in training, through the trainer's own forward pass: the labels' trie, and the paper's measure.

use crate::backend::{Backend, BackendError};
use crate::data::labels::{Node, Trie};
use crate::infer::most_likely;
use crate::model::HostBatch;
use crate::train::Learner;

/// Something that gives logits after a text: a model in training here, a session in `infer`.
struct Asker<'a, B: Backend> {
    learner: &'a mut Learner<B>,
    /// The longest row, and the most tokens of a batch.
    ctx: usize,
    rows: usize,
}

impl<B: Backend> Asker<'_, B> {
    /// Logits `(V)` after each text, texts packed into rows as documents that do not see each other.
    fn after(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let mut all = Vec::with_capacity(texts.len());
        let mut batch = empty(self.ctx);
        for text in texts {
            assert!(!text.is_empty() && text.len() <= self.ctx, "a text of {} tokens in a context of {}", text.len(), self.ctx);
            let used = batch.tokens.len() % self.ctx;
            if used + text.len() > self.ctx {
                fill(&mut batch);
            }
            if batch.tokens.len() + text.len() > self.rows {
                self.flush(&mut batch, &mut all)?;
            }
            let start = (batch.tokens.len() % self.ctx) as u32;
            batch.tokens.extend(text);
            batch.positions.extend(0..text.len() as u32);
            batch.starts.extend(vec![start; text.len()]);
            batch.rows.push(batch.tokens.len() as u32 - 1);
        }
        self.flush(&mut batch, &mut all)?;
        Ok(all)
    }

    fn flush(&mut self, batch: &mut HostBatch, all: &mut Vec<Vec<f32>>) -> Result<(), BackendError> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        fill(batch);
        batch.b = batch.tokens.len() / batch.t;
        batch.targets = vec![0; batch.rows.len()];
        batch.weights = vec![1.0; batch.rows.len()];
        let logits = self.learner.logits(batch)?;
        all.extend(logits.chunks(logits.len() / batch.rows.len()).map(<[f32]>::to_vec));
        *batch = empty(self.ctx);
        Ok(())
    }
}

fn empty(t: usize) -> HostBatch {
    HostBatch { t, ..HostBatch::default() }
}

/// Fills the last row up with a document that nobody asks about.
fn fill(batch: &mut HostBatch) {
    let (t, used) = (batch.t, batch.tokens.len() % batch.t);
    if used > 0 {
        batch.tokens.extend(vec![0; t - used]);
        batch.positions.extend(0..(t - used) as u32);
        batch.starts.extend(vec![used as u32; t - used]);
    }
}

/// The natural log-probability of every label after each prompt, by the definition of [`Trie::log_probs`]. `ctx` is the
/// model's context, `rows` the room of the learner's batches. A row of V logits is kept for each prompt and branch point
/// until all are scored, so callers give some dozens of prompts at a time.
pub fn label_log_probs<B: Backend>(
    learner: &mut Learner<B>,
    trie: &Trie,
    prompts: &[Vec<u32>],
    ctx: usize,
    rows: usize,
) -> Result<Vec<Vec<f64>>, BackendError> {
    let nodes: Vec<&Node> = trie.branches().map(|(_, node)| node).collect();
    let texts: Vec<Vec<u32>> = prompts.iter().flat_map(|p| nodes.iter().map(|node| [&p[..], &node.prefix].concat())).collect();
    let logits = Asker { learner, ctx, rows }.after(&texts)?;
    let mut out = Vec::with_capacity(prompts.len());
    for i in 0..prompts.len() {
        let mut asked = logits[i * nodes.len()..].iter();
        out.push(trie.log_probs(|node| {
            let logits = asked.next().expect("logits for every branch point");
            Ok::<_, BackendError>(node.children.iter().map(|&(token, _)| logits[token as usize]).collect())
        })?);
    }
    Ok(out)
}

/// The `n` likeliest tokens one after another after each prompt, cut at the end token: the paper looks for the label
/// among the first four.
pub fn continue_greedily<B: Backend>(
    learner: &mut Learner<B>,
    prompts: &[Vec<u32>],
    n: usize,
    end: u32,
    ctx: usize,
    rows: usize,
) -> Result<Vec<Vec<u32>>, BackendError> {
    let mut texts = prompts.to_vec();
    let mut going: Vec<usize> = (0..texts.len()).collect();
    for _ in 0..n {
        going.retain(|&i| texts[i].len() < ctx);
        let asked: Vec<Vec<u32>> = going.iter().map(|&i| texts[i].clone()).collect();
        let logits = Asker { learner, ctx, rows }.after(&asked)?;
        let next: Vec<u32> = logits.iter().map(|l| most_likely(l)).collect();
        for (&i, &token) in going.iter().zip(&next).filter(|&(_, &token)| token != end) {
            texts[i].push(token);
        }
        let mut ended = next.iter().map(|&token| token == end);
        going.retain(|_| !ended.next().unwrap_or(true));
    }
    Ok(texts.into_iter().zip(prompts).map(|(text, prompt)| text[prompt.len()..].to_vec()).collect())
}
