//! The one place where readings become text, in training and in running alike.
//!
//! A codec knows everything between a CSV file of raw readings and the prompt of a model: columns, rates, windows, the
//! fitted scale of each channel, the layout of the text, the instruction, the template and the labels. It travels with
//! the model (as JSON under GGUF's key `tinyllm.codec`), so that nothing else is needed to classify.
//!
//! A channel is one line, `Ax: 47 52 49 ...`; a reading is one token, a level of 0 to 100 (or to another number up to 361,
//! the last that GPT-2's vocabulary holds with its blank as one token); one that is missing is ` ?`.

use super::csv::Table;
use super::error::DataError;
use super::example::{Example, Readings};
use super::readings::{Columns, Recordings, Series, UNLABELLED};
use super::sampling::{Sampling, Window, WindowLabel};
use super::scale::{Channel, Scale, ranges};
use super::template::{Template, Tokens};
use super::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// The largest level whose text is a single GPT-2 token, as every smaller one's is.
pub const MAX_LEVEL: u32 = 361;

/// The version of the JSON form.
const VERSION: u32 = 1;

/// From a file of readings, or of ready examples, to prompts and labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codec {
    version: u32,
    /// What is asked of every window; ready examples may bring their own.
    pub instruction: String,
    /// The text around it.
    pub template: Template,
    /// The classes in the order of every report; empty if answers are free text.
    pub labels: Vec<String>,
    /// How readings become text; absent in a model of ready examples.
    pub sensor: Option<SensorCodec>,
}

/// How readings become text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorCodec {
    /// What was measured on what, in a few words.
    pub name: String,
    /// Which columns of a table mean what; its channels are those of `channels`, in order.
    pub columns: Columns,
    /// What the label column says, and the label it means.
    pub label_names: BTreeMap<String, String>,
    /// Rates and windows.
    pub sampling: Sampling,
    /// The channels in the order of their lines.
    pub channels: Vec<Channel>,
    /// Readings become whole numbers from 0 to this one.
    pub levels: u32,
}

impl Codec {
    /// A codec of ready examples (`sensor` absent) or of readings.
    #[must_use]
    pub fn new(instruction: String, labels: Vec<String>, sensor: Option<SensorCodec>) -> Self {
        Self { version: VERSION, instruction, template: Template::default(), labels, sensor }
    }

    /// The JSON that is stored with a model.
    ///
    /// # Panics
    /// Never: a codec has a JSON form.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a codec has a JSON form")
    }

    /// Reads and checks [`to_json`](Self::to_json).
    pub fn from_json(text: &str) -> Result<Self, DataError> {
        let fail = |what: String| DataError::recipe(format!("the codec stored with the model cannot be used: {what}"));
        let codec: Self = serde_json::from_str(text).map_err(|e| fail(e.to_string()))?;
        if codec.version != VERSION {
            return Err(fail(format!("it has version {}, this program knows version {VERSION}", codec.version)));
        }
        if let Some(sensor) = &codec.sensor {
            sensor.check().map_err(fail)?;
        }
        Ok(codec)
    }

    /// The text of a window.
    ///
    /// # Panics
    /// If this is a codec of ready examples, or the window has other channels.
    #[must_use]
    pub fn text(&self, window: &[Vec<f32>]) -> String {
        self.sensor.as_ref().expect("a codec of readings").text(window)
    }

    /// The prompt for an input under the codec's own instruction.
    #[must_use]
    pub fn prompt(&self, input: &str) -> String {
        self.template.prompt(&self.instruction, input)
    }

    /// Two prompts that differ where the first reading (or the input) of any other would: what they share, all share that ask the codec's
    /// instruction.
    #[must_use]
    pub fn unlike_prompts(&self) -> [String; 2] {
        let channel = self.sensor.as_ref().and_then(|s| s.channels.first());
        ["0", "?"].map(|reading| self.prompt(&channel.map_or_else(|| reading.into(), |c| format!("{}: {reading}", c.name))))
    }

    /// The tokens of an example.
    #[must_use]
    pub fn tokens(&self, tokenizer: &Tokenizer, example: &Example) -> Tokens {
        example.tokens(&self.template, tokenizer)
    }

    /// The windows of a CSV file of raw readings (or the rows of one of ready examples: `input`, and `instruction` and
    /// `output` if they are there), in order; `output` is the label where the file tells it.
    pub fn windows(&self, path: &Path) -> Result<Vec<Example>, DataError> {
        self.windows_of(&mut Table::open(path)?)
    }

    /// [`windows`](Self::windows) of any reader; `name` stands for the path in errors.
    pub fn windows_from(&self, name: &Path, reader: Box<dyn Read + Send>) -> Result<Vec<Example>, DataError> {
        self.windows_of(&mut Table::from_reader(name, reader)?)
    }

    fn windows_of(&self, table: &mut Table) -> Result<Vec<Example>, DataError> {
        let Some(sensor) = &self.sensor else { return self.rows_of(table) };
        let mut recordings = Recordings::default();
        sensor.columns.read(table, false, &mut recordings)?;
        let mut out = vec![];
        let names = self.label_indexes(&recordings);
        for series in &recordings.series {
            for window in sensor.sampling.cut(&sensor.sampling.parts(series)?, &names, 0) {
                out.push(self.example(sensor, series, window));
            }
        }
        if out.is_empty() {
            let longest = recordings.series.iter().map(Series::len).max().unwrap_or(0);
            return Err(DataError::file(
                table.path(),
                format!(
                    "no recording is as long as a window: {} are needed, and the longest has {longest} rows",
                    sensor.sampling.describe()
                ),
            ));
        }
        Ok(out)
    }

    fn rows_of(&self, table: &mut Table) -> Result<Vec<Example>, DataError> {
        let input = table.column("input")?;
        let (instruction, output) = (table.find("instruction"), table.find("output"));
        let mut out = vec![];
        while table.advance()? {
            out.push(Example {
                instruction: instruction.map_or(&*self.instruction, |c| table.text(c)).to_owned(),
                input: table.text(input).to_owned(),
                output: output.map_or("", |c| table.text(c)).to_owned(),
                at: format!("{}:{}", table.path().display(), table.line()),
                ..Example::default()
            });
        }
        Ok(out)
    }

    /// For each label in some files the index among the codec's, or [`UNLABELLED`] for one that it does not know.
    #[must_use]
    pub fn label_indexes(&self, recordings: &Recordings) -> Vec<u32> {
        let name = |raw: &String| self.sensor.as_ref().and_then(|s| s.label_names.get(raw));
        let index = |name: &String| self.labels.iter().position(|l| l == name).map(|i| i as u32);
        recordings.labels.iter().map(|(raw, ..)| name(raw).and_then(index).unwrap_or(UNLABELLED)).collect()
    }

    /// The example that a window of a recording makes.
    #[must_use]
    pub fn example(&self, sensor: &SensorCodec, series: &Series, window: Window) -> Example {
        Example {
            instruction: self.instruction.clone(),
            input: sensor.text(&window.values),
            output: if let WindowLabel::One(label) = window.label { self.labels[label as usize].clone() } else { String::new() },
            subject: series.subject.clone(),
            series: format!("{}{}", series.id, series.part),
            at: format!("{}:{}", series.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()), window.line),
            readings: Some(Readings { values: window.values, before: window.before, after: window.after }),
        }
    }
}

impl SensorCodec {
    fn check(&self) -> Result<(), String> {
        let s = &self.sampling;
        let rate = |r: Option<f64>| r.is_none_or(|r| r.is_finite() && r > 0.0);
        if self.channels.is_empty() || self.channels.len() != self.columns.channels.len() {
            return Err(format!("{} channels for {} columns", self.channels.len(), self.columns.channels.len()));
        }
        if !(1..=1 << 20).contains(&s.window) || !(1..=1 << 30).contains(&s.stride) {
            return Err(format!("a window of {} readings every {}", s.window, s.stride));
        }
        if !rate(s.rate_hz) || !rate(s.target_hz) {
            return Err(format!("rates of {:?} and {:?} Hz", s.rate_hz, s.target_hz));
        }
        if s.target_hz.is_some() && s.rate_hz.is_none() && self.columns.time.is_none() {
            return Err("neither a rate nor a time column".into());
        }
        if !(1..=MAX_LEVEL).contains(&self.levels) {
            return Err(format!("levels up to {}", self.levels));
        }
        match self.channels.iter().find(|c| matches!(c.scale, Scale::Range { lo, hi } if !(lo.is_finite() && hi.is_finite() && lo <= hi))) {
            Some(c) => Err(format!("channel {} has no range", c.name)),
            None => Ok(()),
        }
    }

    /// The text of a window: a line a channel, a token a reading.
    ///
    /// # Panics
    /// If the window has another number of channels.
    #[must_use]
    pub fn text(&self, window: &[Vec<f32>]) -> String {
        assert_eq!(window.len(), self.channels.len(), "a window has a list of readings for each channel");
        let mut out = String::with_capacity(window.iter().map(|c| 3 * c.len() + 8).sum());
        for ((channel, values), range) in self.channels.iter().zip(window).zip(ranges(&self.channels, window)) {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&channel.name);
            out.push(':');
            for &value in values {
                if value.is_nan() {
                    out.push_str(" ?");
                } else {
                    // Writing to a String cannot fail.
                    write!(out, " {}", channel.level(self.levels, range, value).0).ok();
                }
            }
        }
        out
    }

    /// How many readings of a window are clipped, and how many are missing.
    #[must_use]
    pub fn clipped_and_missing(&self, window: &[Vec<f32>]) -> (usize, usize) {
        let mut counts = (0, 0);
        for ((channel, values), range) in self.channels.iter().zip(window).zip(ranges(&self.channels, window)) {
            counts.1 += values.iter().filter(|v| v.is_nan()).count();
            counts.0 += values.iter().filter(|v| !v.is_nan() && channel.level(self.levels, range, **v).1).count();
        }
        counts
    }

    /// Fails if a level, or a missing reading, is not one token.
    pub fn check_tokens(&self, tokenizer: &Tokenizer) -> Result<(), DataError> {
        let texts = (0..=self.levels).map(|level| format!(" {level}")).chain([" ?".to_owned()]);
        for text in texts {
            if !tokenizer.is_single_token(&text) {
                return Err(DataError::recipe(format!(
                    "'{text}' is not one token of the vocabulary; lower levels, or take a larger vocabulary"
                )));
            }
        }
        Ok(())
    }

    /// The sensors in one line: names of channels, range and unit, rate. Begins every sensor document.
    #[must_use]
    pub fn header(&self) -> String {
        let mut out = self.name.clone();
        let mut rest = self.channels.as_slice();
        while let Some(first) = rest.first() {
            let n = rest.iter().take_while(|c| (&c.sensor, &c.unit, c.scale) == (&first.sensor, &first.unit, first.scale)).count();
            let names: Vec<&str> = rest[..n].iter().map(|c| c.name.as_str()).collect();
            write!(out, "{}{} {}", if out.is_empty() { "" } else { "; " }, first.sensor, names.join(" ")).ok();
            if let Scale::Range { lo, hi } = first.scale {
                write!(out, " {lo} to {hi}").ok();
            }
            if !first.unit.is_empty() {
                write!(out, " {}", first.unit).ok();
            }
            rest = &rest[n..];
        }
        if let Some(rate) = self.sampling.target_hz.or(self.sampling.rate_hz) {
            if rate >= 0.1 {
                write!(out, "; {rate} Hz").ok()
            } else {
                write!(out, "; every {} s", (1.0 / rate).round()).ok()
            };
        }
        out
    }
}

impl Sampling {
    /// `25 readings (4 s at 6.25 Hz)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let n = self.window;
        match self.target_hz.or(self.rate_hz) {
            Some(rate) if rate >= 0.1 => format!("{n} readings ({} s at {rate} Hz)", (1000.0 * n as f64 / rate).round() / 1000.0),
            Some(rate) => format!("{n} readings (one every {} s)", (1.0 / rate).round()),
            None => format!("{n} {}", if n == 1 { "row" } else { "rows" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::readings::TimeUnit;
    use proptest::prelude::*;

    fn codec(scales: [Scale; 2], levels: u32) -> Codec {
        let channel = |name: &str, scale| Channel {
            name: name.into(),
            sensor: "accelerometer".into(),
            unit: "g".into(),
            scale,
            log: false,
            mirrored: name == "Ax",
        };
        let sensor = SensorCodec {
            name: "watch".into(),
            columns: Columns {
                channels: vec!["ax".into(), "ay".into()],
                label: Some("label".into()),
                subject: None,
                series: None,
                time: None,
                time_unit: TimeUnit::S,
            },
            label_names: [("0".to_owned(), "still".to_owned())].into(),
            sampling: Sampling { rate_hz: Some(10.0), target_hz: None, window: 3, stride: 3, label_share: 1.0 },
            channels: vec![channel("Ax", scales[0]), channel("Ay", scales[1])],
            levels,
        };
        Codec::new("Which?".into(), vec!["still".into()], Some(sensor))
    }

    const RANGE: Scale = Scale::Range { lo: -1.0, hi: 1.0 };

    #[test]
    fn readings_are_clipped_never_wrapped_and_missing_ones_marked() {
        let codec = codec([RANGE, RANGE], 100);
        let window = [vec![-1.0, 0.0, 1.0], vec![-9.0, f32::NAN, 9.0]];
        assert_eq!(codec.text(&window), "Ax: 0 50 100\nAy: 0 ? 100");
        assert_eq!(codec.sensor.as_ref().unwrap().clipped_and_missing(&window), (2, 1));
    }

    #[test]
    fn a_windows_own_scale_spans_its_group() {
        let (a, b) = (Scale::Window { group: 0 }, Scale::Window { group: 1 });
        let window = [vec![1.0, 2.0, 3.0], vec![5.0, 5.0, 5.0]];
        assert_eq!(codec([a, a], 100).text(&window), "Ax: 0 25 50\nAy: 100 100 100");
        assert_eq!(codec([a, b], 100).text(&window), "Ax: 0 50 100\nAy: 50 50 50");
        assert_eq!(codec([a, b], 100).text(&[vec![f32::NAN; 2], vec![1.0, 2.0]]), "Ax: ? ?\nAy: 0 100");
    }

    #[test]
    fn log_levels_are_even_in_the_logarithm() {
        let mut codec = codec([Scale::Range { lo: 0.0, hi: 999.0 }, RANGE], 3);
        codec.sensor.as_mut().unwrap().channels[0].log = true;
        assert!(codec.text(&[vec![0.0, 9.0, 99.0, 999.0], vec![]]).starts_with("Ax: 0 1 2 3\n"));
    }

    #[test]
    fn json_brings_back_the_same_text() {
        let codec = codec([Scale::Range { lo: -0.1, hi: 1.0 / 3.0 }, RANGE], 361);
        let again = Codec::from_json(&codec.to_json()).unwrap();
        assert_eq!(codec, again);
        for (from, to) in [
            ("\"levels\":361", "\"levels\":362"),
            ("\"window\":3", "\"window\":0"),
            ("\"version\":1", "\"version\":2"),
            ("\"hi\":1.0", "\"hi\":-2.0"),
        ] {
            let damaged = codec.to_json().replace(from, to);
            assert_ne!(damaged, codec.to_json());
            assert!(Codec::from_json(&damaged).is_err(), "{to}");
        }
    }

    #[test]
    fn windows_of_a_file_know_their_label() {
        let codec = codec([RANGE, RANGE], 100);
        let read = |text: &str| codec.windows_from(Path::new("a.csv"), Box::new(std::io::Cursor::new(text.to_owned())));
        let got = read("label,ay,ax\n0,0,1\n0,0,1\n0,0,1\n7,1,0\n7,1,0\n7,1,0\n0,0,0\n").unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(
            (got[0].input.as_str(), got[0].output.as_str(), got[0].at.as_str()),
            ("Ax: 100 100 100\nAy: 50 50 50", "still", "a.csv:2")
        );
        assert_eq!(got[1].output, "");
        assert_eq!(read("ay,ax\n0,1\n0,1\n0,1\n").unwrap()[0].output, "");
        let error = read("ay,ax\n0,1\n").unwrap_err().to_string();
        assert!(error.contains("3 readings (0.3 s at 10 Hz) are needed, and the longest has 1 rows"), "{error}");
        assert!(read("ay,az\n0,1\n").unwrap_err().to_string().contains("no column 'ax'"));
    }

    proptest! {
        /// Whatever is read: one token a reading, none more.
        #[test]
        fn every_reading_is_one_token(values in prop::collection::vec(prop::num::f32::ANY, 1..40), levels in 1u32..=MAX_LEVEL, own in any::<bool>()) {
            let values: Vec<f32> = values.into_iter().map(|v| if v.is_infinite() { f32::NAN } else { v }).collect();
            let codec = codec([if own { Scale::Window { group: 0 } } else { RANGE }; 2], levels);
            let n = values.len();
            let text = codec.text(&[values.clone(), values]);
            let names = Tokenizer::gpt2().encode("Ax:").len() + Tokenizer::gpt2().encode("\nAy:").len();
            prop_assert_eq!(Tokenizer::gpt2().encode(&text).len(), names + 2 * n, "{}", text);
        }
    }
}
