//! A question and its answer, and where they come from.

use super::error::DataError;
use super::template::{Template, Tokens};
use super::tokenizer::Tokenizer;
use crate::fsio::At;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io::{BufRead, Write};
use std::path::Path;

/// One example for fine-tuning, or one window to classify.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What is asked.
    pub instruction: String,
    /// The readings as text.
    pub input: String,
    /// The right answer; empty where it is not known.
    #[serde(default)]
    pub output: String,
    /// Who or what was recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The recording.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub series: String,
    /// File and line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// The readings behind the text, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readings: Option<Readings>,
}

/// Readings in the sensor's units, at the windows' rate, a `Vec` a channel; a missing one is NaN (`null` in JSON).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readings {
    /// The window.
    #[serde(with = "nullable")]
    pub values: Vec<Vec<f32>>,
    /// What came just before it, for augmentation; training examples only.
    #[serde(default, with = "nullable", skip_serializing_if = "none")]
    pub before: Vec<Vec<f32>>,
    /// What came just after it.
    #[serde(default, with = "nullable", skip_serializing_if = "none")]
    pub after: Vec<Vec<f32>>,
}

fn none(channels: &[Vec<f32>]) -> bool {
    channels.iter().all(Vec::is_empty)
}

mod nullable {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(channels: &[Vec<f32>], to: S) -> Result<S::Ok, S::Error> {
        let nullable: Vec<Vec<Option<f32>>> = channels.iter().map(|c| c.iter().map(|v| (!v.is_nan()).then_some(*v)).collect()).collect();
        nullable.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<f32>>, D::Error> {
        let nullable = Vec::<Vec<Option<f32>>>::deserialize(from)?;
        Ok(nullable.into_iter().map(|c| c.into_iter().map(|v| v.unwrap_or(f32::NAN)).collect()).collect())
    }
}

impl Example {
    /// The tokens of question and answer.
    #[must_use]
    pub fn tokens(&self, template: &Template, tokenizer: &Tokenizer) -> Tokens {
        template.tokens(tokenizer, &self.instruction, &self.input, &self.output)
    }

    /// The example as numbers, for classical baselines: the readings, channel after channel, or else the numbers that stand in
    /// the input. A missing one is NaN.
    #[must_use]
    pub fn numbers(&self) -> Vec<f32> {
        match &self.readings {
            Some(r) => r.values.iter().flatten().copied().collect(),
            None => {
                self.input.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).filter_map(|word| word.parse().ok()).collect()
            }
        }
    }
}

/// Writes examples, a JSON object a line.
pub fn write_jsonl<'a>(path: &Path, examples: impl Iterator<Item = &'a Example>) -> Result<(), DataError> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).at(path, "create")?);
    for example in examples {
        let line = serde_json::to_string(example).map_err(std::io::Error::other).at(path, "write")?;
        writeln!(out, "{line}").at(path, "write")?;
    }
    out.flush().at(path, "write")?;
    Ok(())
}

/// Reads what [`write_jsonl`] wrote.
pub fn read_jsonl(path: &Path) -> Result<Vec<Example>, DataError> {
    let mut out = vec![];
    for (i, line) in super::csv::open(path)?.lines().enumerate() {
        let line = line.at(path, "read")?;
        let example = serde_json::from_str(&line)
            .map_err(|e| DataError::line(path, i as u64 + 1, format!("no example: {e}; prepare the data again")))?;
        out.push(example);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_back_with_every_bit() {
        let values = vec![vec![0.1, -1.08361, f32::NAN, f32::MIN_POSITIVE, 1e30 / 3.0], vec![]];
        let example = Example {
            input: "Ax: 1".into(),
            output: "up".into(),
            readings: Some(Readings { values: values.clone(), ..Readings::default() }),
            ..Example::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        write_jsonl(&path, [&example].into_iter()).unwrap();
        let got = &read_jsonl(&path).unwrap()[0];
        let got = &got.readings.as_ref().unwrap().values;
        for (a, b) in got[0].iter().zip(&values[0]) {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        }
        assert!(got[1].is_empty());
    }

    #[test]
    fn numbers_of_a_text() {
        let example = Example { input: "Proximity: [253, -1.5]\nRed: [2]".into(), ..Example::default() };
        assert_eq!(example.numbers(), [253.0, -1.5, 2.0]);
    }
}
