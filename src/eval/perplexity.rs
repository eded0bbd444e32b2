//! How well a model predicts a text, and how far it is from another that should predict the same.
//!
//! The perplexity of tokens is `e` to the mean of `-ln p(token | what stands before it in its window)`; [`Windows`] says which are
//! scored. Standard errors take the scores for independent of each other, as llama.cpp does, which flatters them a little.

use super::windows::Windows;
use crate::infer::{CacheType, Model, Session, SessionError, most_likely};
use crate::simd::softmax::{Divergence, LogSum};
use rayon::prelude::*;

/// A text that cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A window that the model cannot read.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A model whose logits are no numbers.
    #[error("a log-probability is no finite number: the model is damaged")]
    NoNumber,
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// What it may err by: the deviation of one value, by the root of their number. 0 of a single value.
    pub error: f64,
}

impl Estimate {
    /// Of these values.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "a mean is of something");
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Self { mean, error: if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 } }
    }

    /// `e` to it: the error is carried over to first order.
    #[must_use]
    pub fn exp(self) -> Self {
        Self { mean: self.mean.exp(), error: self.error * self.mean.exp() }
    }
}

/// How far a model is from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The model's perplexity.
    pub perplexity: Estimate,
    /// The other's.
    pub other: Estimate,
    /// The perplexities' ratio, the model's over the other's.
    pub ratio: Estimate,
    /// Log-probability of the text's token, the model's less the other's.
    pub difference: Estimate,
    /// Kullback-Leibler divergence of the model from the other, in nats a token.
    pub divergence: Estimate,
    /// Its median, 99th percentile and maximum.
    pub quantiles: [f64; 3],
    /// Share of places where both hold the same token for the likeliest.
    pub same_top: Estimate,
}

/// The perplexity of `windows`, on rayon's current pool; `told` hears of every piece of tokens that was read.
pub fn perplexity(model: &Model, windows: &Windows, cache: CacheType, told: &mut dyn FnMut(usize)) -> Result<Estimate, ScoreError> {
    let (v, isa) = (model.config.vocab(), model.isa);
    let mut session = Session::with(model, windows.longest(), cache);
    let mut losses = vec![];
    for piece in windows.pieces() {
        let logits = windows.logits(&mut session, &piece)?;
        let rows = logits.par_chunks(v).zip(windows.targets(&piece));
        losses.par_extend(rows.map(|(row, &target)| isa.run(LogSum(row)) - f64::from(row[target as usize])));
        told(piece.tokens.len());
    }
    finite(&losses)?;
    Ok(Estimate::of(&losses).exp())
}

/// Of a place: loss of the model and of the other, divergence, whether the likeliest is the same.
type Score = (f64, f64, f64, bool);

/// Compares a model, which keeps what it has read in `cache`, with another of the same vocabulary, which keeps it exactly; on rayon's
/// current pool. Of either no more logits are held than of a piece.
///
/// # Panics
/// If the vocabularies are not of one size.
pub fn compare(
    model: &Model,
    other: &Model,
    windows: &Windows,
    cache: CacheType,
    told: &mut dyn FnMut(usize),
) -> Result<Comparison, ScoreError> {
    let v = model.config.vocab();
    assert_eq!(v, other.config.vocab(), "one vocabulary");
    let mut session = Session::with(model, windows.longest(), cache);
    let mut session_of_other = Session::with(other, windows.longest(), CacheType::F32);
    let mut scores: Vec<Score> = vec![];
    for piece in windows.pieces() {
        let p = windows.logits(&mut session_of_other, &piece)?;
        let q = windows.logits(&mut session, &piece)?;
        let rows = p.par_chunks(v).zip(q.par_chunks(v)).zip(windows.targets(&piece));
        scores.par_extend(rows.map(|((p, q), &target)| {
            let (p_sum, q_sum) = (model.isa.run(LogSum(p)), model.isa.run(LogSum(q)));
            let divergence = model.isa.run(Divergence { p, q, p_sum, q_sum });
            let loss = |row: &[f32], sum: f64| sum - f64::from(row[target as usize]);
            (loss(q, q_sum), loss(p, p_sum), divergence, most_likely(p) == most_likely(q))
        }));
        told(piece.tokens.len());
    }
    let column = |of: fn(&Score) -> f64| -> Vec<f64> { scores.iter().map(of).collect() };
    let mut divergences = column(|s| s.2);
    let difference = column(|s| s.1 - s.0);
    finite(&difference)?;
    finite(&divergences)?;
    let (difference, divergence) = (Estimate::of(&difference), Estimate::of(&divergences));
    divergences.sort_unstable_by(f64::total_cmp);
    Ok(Comparison {
        perplexity: Estimate::of(&column(|s| s.0)).exp(),
        other: Estimate::of(&column(|s| s.1)).exp(),
        ratio: Estimate { mean: -difference.mean, ..difference }.exp(),
        difference,
        divergence,
        quantiles: [0.5, 0.99, 1.0].map(|q| quantile(&divergences, q)),
        same_top: Estimate::of(&column(|s| f64::from(u8::from(s.3)))),
    })
}

fn finite(values: &[f64]) -> Result<(), ScoreError> {
    if values.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(ScoreError::NoNumber) }
}

/// Of sorted values, between two of them in proportion.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + part * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_quantiles() {
        let e = Estimate::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(e.mean, 3.0);
        // Deviations of 2, 1, 0, 3: 14 / 3 / 4.
        assert!((e.error - (14.0f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::of(&[2.0]), Estimate { mean: 2.0, error: 0.0 });
        let x = Estimate { mean: 1.0, error: 0.1 }.exp();
        assert!((x.error / x.mean - 0.1).abs() < 1e-12 && x.mean == 1f64.exp());
        assert_eq!([0.0, 0.5, 0.75, 1.0].map(|q| quantile(&[0.0, 10.0, 20.0], q)), [0.0, 10.0, 15.0, 20.0]);
        assert_eq!(quantile(&[4.0], 0.99), 4.0);
        assert!(matches!(finite(&[1.0, f64::NAN]), Err(ScoreError::NoNumber)));
    }
}
