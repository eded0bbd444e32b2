//! What `eval` says: as JSON for programs, as a table for people.

use super::baselines::Baseline;
use super::metrics::{ClassScore, Confusion};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt;

/// The judgement of a model on one split.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Examples.
    pub n: usize,
    /// Share of right answers, by scoring the labels.
    pub accuracy: f64,
    /// The mean of the classes' F1.
    pub macro_f1: f64,
    /// `confusion[truth][answer]`
    pub confusion: Confusion,
    /// The classes' names.
    pub labels: Vec<String>,
    /// Precision, recall and F1 of each class.
    pub classes: Map<String, Value>,
    /// Accuracy and macro-F1 of what needs no model, on the same examples.
    pub baselines: Map<String, Value>,
    /// The paper's own measure: the share whose right label stands within the first 4 tokens generated.
    pub in_first_4_tokens: f64,
    /// Mean natural log-probability of the right label; 0 is certainty.
    pub mean_log_prob: f64,
}

impl Report {
    /// Puts a judgement together.
    #[must_use]
    pub fn new(confusion: Confusion, truths: &[usize], baselines: &[Baseline], in_first_4_tokens: f64, mean_log_prob: f64) -> Self {
        let baselines = baselines.iter().map(|b| {
            let c = Confusion::new(&confusion.labels, truths, &b.answers);
            (b.name.to_owned(), json!({"accuracy": c.accuracy(), "macro_f1": c.macro_f1()}))
        });
        let classes = confusion.labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(confusion.class(i))));
        Self {
            n: confusion.n(),
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
            labels: confusion.labels.clone(),
            classes: classes.collect(),
            baselines: baselines.collect(),
            in_first_4_tokens,
            mean_log_prob,
            confusion,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.labels.iter().map(|l| l.chars().count()).max().unwrap_or(0).max(10);
        writeln!(f, "{} examples", self.n)?;
        writeln!(
            f,
            "accuracy {:.1} %   macro-F1 {:.3}   mean log-probability of the right label {:.3}",
            100.0 * self.accuracy,
            self.macro_f1,
            self.mean_log_prob
        )?;
        writeln!(f, "right label within the first 4 generated tokens: {:.1} %", 100.0 * self.in_first_4_tokens)?;
        writeln!(f, "\n{:width$}  answered", "true")?;
        write!(f, "{:width$} ", "")?;
        (0..self.labels.len()).try_for_each(|i| write!(f, "{:>5}", letter(i)))?;
        writeln!(f, "   precision  recall     F1")?;
        for (i, (label, row)) in self.labels.iter().zip(&self.confusion.counts).enumerate() {
            write!(f, "{label:width$} {}", letter(i))?;
            row.iter().enumerate().try_for_each(|(k, n)| write!(f, "{:>w$}", n, w = if k == 0 { 4 } else { 5 }))?;
            let ClassScore { precision, recall, f1, .. } = self.confusion.class(i);
            writeln!(f, "   {precision:9.2} {recall:7.2} {f1:6.2}")?;
        }
        writeln!(f)?;
        for (name, scores) in &self.baselines {
            let accuracy = scores["accuracy"].as_f64().unwrap_or(f64::NAN);
            let verdict = match self.accuracy.total_cmp(&accuracy) {
                std::cmp::Ordering::Greater => "the model is ahead of it",
                std::cmp::Ordering::Equal => "the model is level with it",
                std::cmp::Ordering::Less => "THE MODEL IS BEHIND IT",
            };
            writeln!(
                f,
                "baseline {:<20} {:5.1} %   {verdict} by {:.1} points",
                name.replace('_', " "),
                100.0 * accuracy,
                100.0 * (self.accuracy - accuracy).abs()
            )?;
        }
        Ok(())
    }
}

/// Columns are named by letters.
fn letter(i: usize) -> String {
    let c = char::from(b'A' + (i % 26) as u8);
    if i < 26 { c.to_string() } else { format!("{c}{}", i / 26) }
}
