//! Documents for pre-training: texts as tokens, and windows of readings in words.
//!
//! A sensor document is a line about the sensors, the window in the codec's text, and its label; now and then the label
//! comes first, or not at all, or the whole is asked and answered as in fine-tuning, so that a model learns the readings and
//! not one form.

use super::augment::Augment;
use super::codec::Codec;
use super::example::Example;
use super::mix::Pool;
use super::tokenizer::Tokenizer;
use crate::rng::{Rng, key};
use rayon::prelude::*;

/// Texts as tokens, one after the other.
pub struct TextDocs {
    tokens: Vec<u16>,
    /// Where each document ends.
    ends: Vec<usize>,
}

/// Texts that are turned into tokens at once, between two signs of progress.
const CHUNK: usize = 256;

impl TextDocs {
    /// Turns texts into tokens, all cores at once.
    ///
    /// # Panics
    /// If the vocabulary has more tokens than 16 bits can tell apart.
    #[must_use]
    pub fn new(texts: &[String], tokenizer: &Tokenizer, mut progress: impl FnMut(u64)) -> Self {
        let (mut tokens, mut ends) = (vec![], vec![]);
        for chunk in texts.chunks(CHUNK) {
            let encoded: Vec<Vec<u32>> = chunk.par_iter().map(|t| tokenizer.encode(t)).collect();
            for document in encoded {
                tokens.extend(document.into_iter().map(|t| u16::try_from(t).expect("a vocabulary of at most 65,536 tokens")));
                ends.push(tokens.len());
            }
            progress(chunk.iter().map(|t| t.len() as u64).sum());
        }
        Self { tokens, ends }
    }

    /// Tokens of each document.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.ends.iter().scan(0, |last, &end| Some((end - std::mem::replace(last, end)) as u64)).collect()
    }
}

impl Pool for TextDocs {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn tokens(&self, i: usize, _epoch: u64, out: &mut Vec<u32>) {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        out.extend(self.tokens[start..self.ends[i]].iter().map(|&t| u32::from(t)));
    }
}

/// Windows as documents; `output` is empty in those that have no label.
pub struct SensorDocs {
    /// The codec of their readings.
    pub codec: Codec,
    /// The windows.
    pub windows: Vec<Example>,
    /// Changes made to a window that comes again.
    pub augment: Option<Augment>,
    /// Decides forms and changes.
    pub seed: u64,
}

impl SensorDocs {
    /// The text of a window in its `epoch`th use.
    #[must_use]
    pub fn text(&self, i: usize, epoch: u64) -> String {
        let window = &self.windows[i];
        let (Some(sensor), Some(readings)) = (&self.codec.sensor, &window.readings) else { return window.input.clone() };
        let changed = self.augment.filter(|_| epoch > 0).map(|a| sensor.text(&a.apply(sensor, readings, self.seed, epoch, i as u64)));
        let input = changed.as_ref().unwrap_or(&window.input);
        let (header, label) = (sensor.header(), &window.output);
        let form = Rng::new(key(self.seed, &[0xF0, epoch, i as u64])).below(8);
        match form {
            _ if label.is_empty() => format!("{header}\n{input}"),
            0 => format!("{header}\n{input}"),
            1 => format!("{header}\nLabel: {label}\n{input}"),
            2..5 => format!("{header}\n{input}\nLabel: {label}"),
            _ => format!("{}{label}", self.codec.template.prompt(&window.instruction, input)),
        }
    }

    /// For each window the number of its recording: windows of one recording stay together.
    #[must_use]
    pub fn groups(&self) -> Vec<usize> {
        let mut seen = std::collections::HashMap::new();
        let key = |w: &Example| (w.subject.clone(), w.series.clone(), w.at.split(':').next().unwrap_or_default().to_owned());
        self.windows
            .iter()
            .map(|w| {
                let next = seen.len();
                *seen.entry(key(w)).or_insert(next)
            })
            .collect()
    }
}

/// [`SensorDocs`] with a tokenizer.
pub struct SensorPool<'a> {
    /// The documents.
    pub docs: &'a SensorDocs,
    /// The vocabulary.
    pub tokenizer: &'a Tokenizer,
}

impl Pool for SensorPool<'_> {
    fn len(&self) -> usize {
        self.docs.windows.len()
    }

    fn tokens(&self, i: usize, epoch: u64, out: &mut Vec<u32>) {
        self.tokenizer.encode_into(&self.docs.text(i, epoch), out);
    }
}

/// Some of a pool's documents.
pub struct Part<'a> {
    /// The pool.
    pub pool: &'a dyn Pool,
    /// Which of its documents.
    pub members: Vec<usize>,
}

impl Pool for Part<'_> {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn tokens(&self, i: usize, epoch: u64, out: &mut Vec<u32>) {
        self.pool.tokens(self.members[i], epoch, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        let texts: Vec<String> = ["One two.", "", "Three"].map(String::from).to_vec();
        let mut bytes = 0;
        let docs = TextDocs::new(&texts, Tokenizer::gpt2(), |n| bytes += n);
        assert_eq!(bytes, 13);
        for (i, text) in texts.iter().enumerate() {
            let mut out = vec![];
            docs.tokens(i, 0, &mut out);
            assert_eq!(&Tokenizer::gpt2().decode(&out), text);
        }
        assert_eq!(docs.sizes().iter().sum::<u64>(), docs.tokens.len() as u64);
    }
}
