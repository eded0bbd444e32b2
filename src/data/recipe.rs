//! What a user writes: a TOML file that says which readings and texts become which data. [`Plan`](super::plan::Plan) is what
//! it becomes when it is checked.

use super::augment::Augment;
use super::readings::TimeUnit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A recipe as it is typed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Decides every draw.
    #[serde(default)]
    pub seed: u64,
    /// Positions of the model, T: a window with its instruction and answer must fit.
    #[serde(default = "context")]
    pub context: usize,
    /// `"gpt2"`, or `{ trimmed = 512 }`: the tokens of GPT-2's that these data use most.
    #[serde(default)]
    pub vocabulary: Vocabulary,
    /// What is asked of every window. `{labels}` stands for the list of labels.
    pub instruction: Option<String>,
    /// Sensor readings to be cut into windows.
    pub readings: Option<ReadingsSpec>,
    /// Examples that are ready.
    pub examples: Option<ExamplesSpec>,
    /// Which of them train, validate and test.
    pub split: Option<SplitSpec>,
    /// What a model is pre-trained on.
    pub pretrain: Option<PretrainSpec>,
    /// Random changes to training windows.
    pub augment: Option<Augment>,
}

const fn context() -> usize {
    1024
}

/// Which tokens there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocabulary {
    /// All of GPT-2's.
    #[default]
    Gpt2,
    /// At most so many of them, with all 256 bytes and the end token among them.
    Trimmed(usize),
}

/// Readings in CSV files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingsSpec {
    /// What was measured on what, in a few words.
    #[serde(default)]
    pub name: String,
    /// Files, or folders of `.csv` and `.csv.gz`, relative to the recipe.
    pub files: Vec<String>,
    /// The column that says what a row shows.
    pub label: Option<String>,
    /// The column that says who or what was recorded.
    pub subject: Option<String>,
    /// The column that says which recording a row belongs to.
    pub series: Option<String>,
    /// The column that says when a row was taken.
    pub time: Option<String>,
    /// What the time column counts: `s`, `ms`, `us`, `ns`, or `iso` for dates.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// Rows a second, where there is no time column.
    pub rate_hz: Option<f64>,
    /// The rate of the windows.
    pub resample_hz: Option<f64>,
    /// Length of a window in readings. 1 makes each row an example of its own.
    pub window: Option<usize>,
    /// Length of a window in seconds.
    pub window_s: Option<f64>,
    /// From one window's beginning to the next's, in readings; a window's length by default.
    pub stride: Option<usize>,
    /// The same in seconds.
    pub stride_s: Option<f64>,
    /// Share of a window that must agree on a label; all of it by default.
    #[serde(default = "one")]
    pub label_share: f64,
    /// Readings become 0 to this number.
    #[serde(default = "levels")]
    pub levels: u32,
    /// The sensors, and the channels kept of each, in the order of the text.
    pub sensor: Vec<SensorSpec>,
    /// What the label column says, and the name it stands for; two may share a name.
    pub labels: Option<BTreeMap<String, String>>,
    /// What the label column may say besides: such rows count as unlabelled.
    #[serde(default)]
    pub ignore: Vec<String>,
}

const fn one() -> f64 {
    1.0
}

const fn levels() -> u32 {
    100
}

/// One sensor: channels of one unit, with one scale unless they are kept apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorSpec {
    /// Such as `accelerometer`.
    pub name: String,
    /// Columns.
    pub channels: Vec<String>,
    /// What stands before each channel's readings; the columns' names with a capital by default.
    pub names: Option<Vec<String>>,
    /// The unit of the readings.
    #[serde(default)]
    pub unit: String,
    /// `"robust"` (0.1th to 99.9th percentile of the training readings), `"window"` (each window's own smallest and largest), or
    /// `[lo, hi]`.
    #[serde(default)]
    pub scale: ScaleSpec,
    /// Whether each channel has a scale of its own.
    #[serde(default)]
    pub apart: bool,
    /// Whether levels are even in the logarithm.
    #[serde(default)]
    pub log: bool,
    /// Columns whose readings change their sign when the sensor is worn on the other side of the body: for
    /// `augment.mirror`.
    #[serde(default)]
    pub mirrored: Vec<String>,
}

/// How a scale is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "scale is \"robust\", \"window\" or two numbers [lo, hi]")]
pub enum ScaleSpec {
    /// From the data.
    Named(ScaleName),
    /// As given.
    Fixed([f64; 2]),
}

impl Default for ScaleSpec {
    fn default() -> Self {
        Self::Named(ScaleName::Robust)
    }
}

/// How a scale is found in data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleName {
    /// From the training readings' percentiles.
    Robust,
    /// From each window's own readings.
    Window,
}

/// Examples with `instruction`, `input` and `output`, as CSV, JSON (an array) or JSONL.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExamplesSpec {
    /// Files that are split as `[split]` says.
    #[serde(default)]
    pub files: Vec<String>,
    /// Or files for training,
    #[serde(default)]
    pub train: Vec<String>,
    /// for validation,
    #[serde(default)]
    pub validation: Vec<String>,
    /// and for testing.
    #[serde(default)]
    pub test: Vec<String>,
    /// The answers there are, in the order of every report; found in the training examples by default.
    pub labels: Option<Vec<String>>,
}

/// Which readings train, validate and test.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitSpec {
    /// `subject`, `series`, `time` or `random`.
    pub by: SplitBy,
    /// Shares of training, validation and test.
    pub fractions: Option<[f64; 3]>,
    /// Subjects to train on,
    pub train: Option<Vec<Name>>,
    /// to validate on,
    pub validation: Option<Vec<Name>>,
    /// and to test on.
    pub test: Option<Vec<Name>>,
    /// Subjects to leave out.
    #[serde(default)]
    pub exclude: Vec<Name>,
}

/// What is kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// All of a subject.
    Subject,
    /// All of a recording.
    Series,
    /// Each recording is cut: its beginning trains, its end tests.
    Time,
    /// Stretches of one window's length, at random.
    Random,
}

/// A subject, written as text or as a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "a subject is text or a whole number")]
pub enum Name {
    /// `"anna"`.
    Text(String),
    /// `7`.
    Number(i64),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(t) => f.write_str(t),
            Self::Number(n) => write!(f, "{n}"),
        }
    }
}

/// A mix of documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSpec {
    /// Tokens in all; documents are drawn again where there are fewer.
    pub tokens: u64,
    /// The share of documents that validate.
    #[serde(default = "two_percent")]
    pub validation: f64,
    /// Tokens in a file.
    #[serde(default = "shard_tokens")]
    pub shard_tokens: usize,
    /// Texts.
    #[serde(default)]
    pub text: Vec<TextSpec>,
    /// Windows of readings as documents.
    #[serde(default)]
    pub sensor: Vec<SensorDocsSpec>,
}

const fn two_percent() -> f64 {
    0.02
}

const fn shard_tokens() -> usize {
    100_000_000
}

/// Text files: `.jsonl` with a document a line, others with a document a file; both also `.gz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// Files or folders, relative to the recipe.
    pub files: Vec<String>,
    /// The field of a JSONL line that holds the text.
    #[serde(default = "text_field")]
    pub field: String,
    /// What stands between two documents of a text file.
    pub separator: Option<String>,
    /// Share of the tokens, relative to the other sources.
    pub weight: f64,
}

fn text_field() -> String {
    "text".into()
}

/// Sensor documents: a line about the sensors, a window, its label.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorDocsSpec {
    /// Share of the tokens, relative to the other sources.
    pub weight: f64,
    /// Other readings than the recipe's own. Of its own, only those that train are used.
    pub readings: Option<ReadingsSpec>,
}
