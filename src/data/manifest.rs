//! What a folder of prepared data holds, where it came from, and what was left out: for programs as JSON, for people as text.

use super::mix::Drawn;
use super::split::Split;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of the folder's layout.
pub const VERSION: u32 = 1;

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub version: u32,
    /// The program that made it, with its version.
    pub program: String,
    /// The recipe's seed.
    pub seed: u64,
    /// Positions of the model, T.
    pub context: usize,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Every file that was read.
    pub sources: Vec<FileFacts>,
    /// Every other file of the folder, with paths relative to it.
    pub files: Vec<FileFacts>,
    /// What a model is pre-trained on.
    pub pretrain: Option<PretrainFacts>,
    /// What it is fine-tuned on.
    pub task: Option<TaskFacts>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Where it is.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// The mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainFacts {
    /// Tokens that train, over all sources.
    pub train_tokens: u64,
    /// Tokens that validate.
    pub validation_tokens: u64,
    /// What trains, by source.
    pub train: Vec<Drawn>,
    /// What validates; no document of it trains, and none is in it twice.
    pub validation: Vec<Drawn>,
    /// Shards that train.
    pub train_shards: Vec<String>,
    /// Shards that validate.
    pub validation_shards: Vec<String>,
    /// Texts left out because they were empty or there twice.
    pub dropped_texts: usize,
}

/// The examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// The classes; empty if answers are free text.
    pub labels: Vec<String>,
    /// Counts, in the order train, validation, test.
    pub splits: Vec<SplitFacts>,
    /// Positions of the shortest, the middle and the longest example with prompt and answer.
    pub positions: [usize; 3],
    /// What the window, the instruction with its template, and the longest answer take of that in a typical example.
    pub window_instruction_answer: [usize; 3],
    /// How windows were cut, in words; empty for ready examples.
    pub window: String,
    /// Share of the readings that lie outside their scale.
    pub clipped: f64,
    /// Share of the readings that are missing.
    pub missing: f64,
    /// Windows without a label.
    pub dropped_unlabelled: usize,
    /// Windows in which the label changes.
    pub dropped_mixed: usize,
    /// Examples of training or validation that a later split holds too.
    pub dropped_duplicates: usize,
    /// Examples that are in their own split more than once; they are kept.
    pub repeats: usize,
    /// Recordings too short for a window.
    pub short_recordings: usize,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// One split of the examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFacts {
    /// Which.
    pub split: Split,
    /// Examples.
    pub examples: usize,
    /// Examples of each label, in the labels' order.
    pub per_label: Vec<usize>,
    /// Subjects, if they are known.
    pub subjects: Vec<String>,
    /// Recordings.
    pub recordings: usize,
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vocabulary       {} tokens", self.n_vocab)?;
        if let Some(p) = &self.pretrain {
            writeln!(f, "pre-training     {} tokens train, {} validate", p.train_tokens, p.validation_tokens)?;
            for d in &p.train {
                let (share, times) = (100.0 * d.tokens as f64 / p.train_tokens as f64, d.documents as f64 / d.available.max(1) as f64);
                let asked = 100.0 * d.weight;
                let name = &d.source;
                writeln!(
                    f,
                    "  {share:5.1} %        {name}: {} tokens ({asked:.1} % asked for), {} documents {times:.1} times over",
                    d.tokens, d.available
                )?;
            }
            if p.dropped_texts > 0 {
                writeln!(f, "  left out       {} texts that were empty or there twice", p.dropped_texts)?;
            }
        }
        let Some(t) = &self.task else { return Ok(()) };
        let [window, instruction, answer] = t.window_instruction_answer;
        let longest = t.positions[2];
        if !t.window.is_empty() {
            writeln!(f, "window           {}", t.window)?;
        }
        writeln!(
            f,
            "tokens           {window} window + {instruction} instruction + {answer} answer; the longest example takes {longest} of {} positions",
            self.context
        )?;
        let width = t.labels.iter().map(|l| l.chars().count()).max().unwrap_or(0).clamp(8, 40);
        write!(f, "\n{:width$}", "")?;
        for s in &t.splits {
            write!(f, " {:>11}", s.split.name())?;
        }
        writeln!(f)?;
        for (i, label) in t.labels.iter().enumerate() {
            write!(f, "{label:width$}")?;
            for s in &t.splits {
                write!(f, " {:>11}", s.per_label[i])?;
            }
            writeln!(f)?;
        }
        for (name, count) in [
            ("examples", (|s| s.examples) as fn(&SplitFacts) -> usize),
            ("recordings", |s| s.recordings),
            ("subjects", |s| s.subjects.len()),
        ] {
            if t.splits.iter().any(|s| count(s) > 0) {
                write!(f, "{name:width$}")?;
                for s in &t.splits {
                    write!(f, " {:>11}", count(s))?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f)?;
        if !t.window.is_empty() {
            writeln!(
                f,
                "clipped          {:.2} % of the readings lie outside their scale, {:.2} % are missing",
                100.0 * t.clipped,
                100.0 * t.missing
            )?;
        }
        let dropped = [
            (t.dropped_unlabelled, "windows without a label"),
            (t.dropped_mixed, "windows in which the label changes"),
            (t.dropped_duplicates, "examples that validation or test holds too"),
            (t.short_recordings, "recordings shorter than a window"),
        ];
        for (n, what) in dropped.iter().filter(|d| d.0 > 0) {
            writeln!(f, "left out         {n} {what}")?;
        }
        if t.repeats > 0 {
            writeln!(f, "repeats          {} examples are in their split more than once (kept)", t.repeats)?;
        }
        t.notes.iter().try_for_each(|n| writeln!(f, "note             {n}"))
    }
}
