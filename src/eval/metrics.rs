//! How right a classifier is: accuracy, macro-F1, per class, and the confusion matrix behind them.

use serde::{Serialize, Serializer};

/// Counts of (true class, answered class).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// The classes' names.
    pub labels: Vec<String>,
    /// `counts[truth][answer]`
    pub counts: Vec<Vec<usize>>,
}

/// One class's share of being found and of being right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// Of the answers that name the class, the share that is right; 0 where there is none.
    pub precision: f64,
    /// Of the class's examples, the share that was found; 0 where there is none.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// Examples of the class.
    pub n: usize,
}

impl Confusion {
    /// Counts answers against truths, both as indexes into `labels`.
    ///
    /// # Panics
    /// If an index is out of bounds.
    #[must_use]
    pub fn new(labels: &[String], truths: &[usize], answers: &[usize]) -> Self {
        let mut counts = vec![vec![0; labels.len()]; labels.len()];
        truths.iter().zip(answers).for_each(|(&t, &a)| counts[t][a] += 1);
        Self { labels: labels.to_vec(), counts }
    }

    /// Examples.
    #[must_use]
    pub fn n(&self) -> usize {
        self.counts.iter().flatten().sum()
    }

    /// Share of right answers.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share((0..self.labels.len()).map(|c| self.counts[c][c]).sum(), self.n())
    }

    /// The scores of one class.
    #[must_use]
    pub fn class(&self, c: usize) -> ClassScore {
        let (n, answered) = (self.counts[c].iter().sum(), self.counts.iter().map(|row| row[c]).sum());
        let (precision, recall) = (share(self.counts[c][c], answered), share(self.counts[c][c], n));
        let f1 = if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        ClassScore { precision, recall, f1, n }
    }

    /// The mean of the classes' F1, each class counting the same; classes without an example or an answer are left out.
    #[must_use]
    pub fn macro_f1(&self) -> f64 {
        let there = |c: &usize| self.counts[*c].iter().sum::<usize>() + self.counts.iter().map(|row| row[*c]).sum::<usize>() > 0;
        let scores: Vec<f64> = (0..self.labels.len()).filter(there).map(|c| self.class(c).f1).collect();
        if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
    }
}

impl Serialize for Confusion {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.counts.serialize(to)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn scores_are_those_of_a_hand_count() {
        let labels = ["a", "b", "c", "never"].map(String::from);
        let c = Confusion::new(&labels, &[0, 0, 0, 1, 1, 2], &[0, 0, 1, 1, 1, 0]);
        assert_eq!((c.n(), c.counts[0].clone()), (6, vec![2, 1, 0, 0]));
        assert_relative_eq!(c.accuracy(), 4.0 / 6.0);
        assert_eq!(c.class(0), ClassScore { precision: 2.0 / 3.0, recall: 2.0 / 3.0, f1: 2.0 / 3.0, n: 3 });
        assert_relative_eq!(c.class(1).f1, 0.8);
        assert_relative_eq!(c.class(2).f1, 0.0);
        assert_relative_eq!(c.macro_f1(), (2.0 / 3.0 + 0.8) / 3.0);
    }
}
