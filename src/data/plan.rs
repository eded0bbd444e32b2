//! A recipe that was checked: nothing half-valid travels further.

use super::augment::Augment;
use super::codec::MAX_LEVEL;
use super::error::DataError;
use super::readings::{Columns, files};
use super::recipe::{ExamplesSpec, PretrainSpec, ReadingsSpec, Recipe, ScaleSpec, SplitBy, Vocabulary};
use super::sampling::Sampling;
use super::split::{DEFAULT_FRACTIONS, Splitter};
use crate::fsio;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A recipe that can be carried out, as far as can be known without reading the data.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe's file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Decides every draw.
    pub seed: u64,
    /// Positions of the model, T.
    pub context: usize,
    /// Which tokens there are.
    pub vocabulary: Vocabulary,
    /// What is asked of every window.
    pub instruction: Option<String>,
    /// What is learned in fine-tuning.
    pub task: Option<Task>,
    /// Which of it trains, validates and tests.
    pub splitter: Splitter,
    /// What comes before.
    pub pretrain: Option<Pretrain>,
    /// Random changes to training windows.
    pub augment: Option<Augment>,
}

/// What is learned in fine-tuning.
#[derive(Clone, Debug)]
pub enum Task {
    /// To tell windows of readings apart.
    Readings(Box<Readings>),
    /// To answer as these examples do.
    Examples(Examples),
}

/// Readings to be cut into windows.
#[derive(Clone, Debug)]
pub struct Readings {
    /// What was measured on what.
    pub name: String,
    /// CSV files.
    pub files: Vec<PathBuf>,
    /// Which columns mean what.
    pub columns: Columns,
    /// How windows are cut.
    pub sampling: Sampling,
    /// In the order of the text.
    pub channels: Vec<Channel>,
    /// The highest level.
    pub levels: u32,
    /// Raw label to name; every raw label its own name where this is absent.
    pub labels: Option<BTreeMap<String, String>>,
    /// Raw labels that count as none.
    pub ignore: Vec<String>,
}

/// A channel before its scale is fitted.
#[derive(Clone, Debug)]
pub struct Channel {
    /// What stands before its readings.
    pub name: String,
    /// Its sensor.
    pub sensor: String,
    /// Its unit.
    pub unit: String,
    /// How its scale is found.
    pub scale: ScaleSpec,
    /// Channels of the same group have the same scale.
    pub group: usize,
    /// Whether levels are even in the logarithm.
    pub log: bool,
    /// Whether the readings change their sign on the other side of the body.
    pub mirrored: bool,
}

/// Ready examples.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Files of each split, or all of them under training where they are to be split.
    pub files: [Vec<PathBuf>; 3],
    /// Whether they are to be split.
    pub divide: bool,
    /// The answers there are.
    pub labels: Option<Vec<String>>,
}

/// A mix of documents.
#[derive(Clone, Debug)]
pub struct Pretrain {
    /// Tokens in all.
    pub tokens: u64,
    /// The share of documents that validate.
    pub validation: f64,
    /// Tokens in a file.
    pub shard_tokens: usize,
    /// Where documents come from; weights sum to one.
    pub sources: Vec<Source>,
}

/// Where documents come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What reports call it.
    pub name: String,
    /// Its share of the tokens.
    pub weight: f64,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// Texts.
    Text {
        /// The files.
        files: Vec<PathBuf>,
        /// The field of JSONL lines.
        field: String,
        /// What stands between two documents of a text file.
        separator: Option<String>,
    },
    /// The training windows of the task.
    TaskWindows,
    /// Windows of other readings.
    Windows(Box<Readings>),
}

const ENDINGS: &[&str] = &[".csv", ".csv.gz"];
const TEXT_ENDINGS: &[&str] = &[".txt", ".txt.gz", ".md", ".jsonl", ".jsonl.gz"];

fn fault<T>(message: impl Into<String>) -> Result<T, DataError> {
    Err(DataError::recipe(message))
}

impl Plan {
    /// Reads and checks a recipe; errors name the file and, where TOML itself is at fault, the line.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let text = fsio::read_text(path)?;
        let recipe: Recipe = toml::from_str(&text).map_err(|e| DataError::file(path, e.to_string().trim_end()))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut plan = Self::check(&recipe, base).map_err(|e| e.in_recipe(path))?;
        plan.path = path.into();
        plan.text = text;
        Ok(plan)
    }

    /// Checks a recipe whose paths are relative to `base`.
    pub fn check(recipe: &Recipe, base: &Path) -> Result<Self, DataError> {
        if !(8..=1 << 20).contains(&recipe.context) {
            return fault(format!("context = {}: it lies between 8 and {}", recipe.context, 1 << 20));
        }
        if let Vocabulary::Trimmed(n) = recipe.vocabulary
            && n < 258
        {
            return fault(format!("vocabulary.trimmed = {n}: the 256 bytes, the end token and some numbers need more than 257"));
        }
        if let Some(bad) = recipe.augment.and_then(|a| a.fault()) {
            return fault(bad);
        }
        let nothing_mirrored = recipe.readings.as_ref().is_none_or(|r| r.sensor.iter().all(|s| s.mirrored.is_empty()));
        if recipe.augment.is_some_and(|a| a.mirror > 0.0) && nothing_mirrored {
            return fault("augment.mirror: no channel changes its sign; say which do with mirrored = [...] under [[readings.sensor]]");
        }
        let task = match (&recipe.readings, &recipe.examples) {
            (Some(_), Some(_)) => return fault("there are [readings] and [examples]; a recipe makes one task, so take one of them"),
            (Some(r), None) => Some(Task::Readings(Box::new(Readings::check(r, base, true)?))),
            (None, Some(e)) => Some(Task::Examples(Examples::check(e, base)?)),
            (None, None) => None,
        };
        let pretrain = recipe.pretrain.as_ref().map(|p| Pretrain::check(p, base, task.as_ref())).transpose()?;
        if task.is_none() && pretrain.is_none() {
            return fault("there is nothing to prepare: add [readings], [examples] or [pretrain]");
        }
        Ok(Self {
            path: PathBuf::new(),
            text: String::new(),
            seed: recipe.seed,
            context: recipe.context,
            vocabulary: recipe.vocabulary,
            instruction: recipe.instruction.clone(),
            splitter: splitter(recipe, task.as_ref())?,
            task,
            pretrain,
            augment: recipe.augment,
        })
    }
}

/// A positive number of readings that was given in readings or in seconds.
fn readings_of(what: &str, readings: Option<usize>, seconds: Option<f64>, rate: Option<f64>) -> Result<Option<usize>, DataError> {
    match (readings, seconds) {
        (Some(_), Some(_)) => fault(format!("{what} and {what}_s are both there; take one of them")),
        (Some(0), None) => fault(format!("{what} = 0: it is at least 1")),
        (Some(n), None) => Ok(Some(n)),
        (None, Some(s)) => {
            let Some(rate) = rate else { return fault(format!("{what}_s needs a rate: give resample_hz or rate_hz, or {what} in rows")) };
            let n = (s * rate).round();
            if (1.0..1e9).contains(&n) {
                Ok(Some(n as usize))
            } else {
                fault(format!("{what}_s = {s} is {n} readings at {rate} Hz; it is at least 1"))
            }
        }
        (None, None) => Ok(None),
    }
}

impl Readings {
    fn check(spec: &ReadingsSpec, base: &Path, task: bool) -> Result<Self, DataError> {
        for (name, rate) in [("rate_hz", spec.rate_hz), ("resample_hz", spec.resample_hz)] {
            if rate.is_some_and(|r| !(r.is_finite() && r > 0.0)) {
                return fault(format!("readings.{name} is a positive number"));
            }
        }
        if spec.time.is_some() && spec.rate_hz.is_some() {
            return fault("readings.time and readings.rate_hz are both there; the time column tells the rate, so take rate_hz out");
        }
        let rate = spec.resample_hz.or(spec.rate_hz);
        let Some(window) = readings_of("window", spec.window, spec.window_s, rate)? else {
            return fault("readings.window is missing: say how many readings of a channel are looked at together, or window_s in seconds");
        };
        let stride = readings_of("stride", spec.stride, spec.stride_s, rate)?.unwrap_or(window);
        if window > 1 && rate.is_none() {
            return fault(if spec.time.is_some() {
                "readings.resample_hz is missing: rows with a time column are put on an even grid, so say at which rate"
            } else {
                "readings.rate_hz is missing: say how many rows a second there are, or name the time column"
            });
        }
        if spec.resample_hz.is_some() && spec.rate_hz.is_none() && spec.time.is_none() {
            return fault("readings.resample_hz needs readings.rate_hz or readings.time: the rate the rows have now");
        }
        if !(1..=MAX_LEVEL).contains(&spec.levels) {
            return fault(format!("readings.levels = {}: it lies between 1 and {MAX_LEVEL}, so that each is one token", spec.levels));
        }
        if !(spec.label_share > 0.0 && spec.label_share <= 1.0) {
            return fault(format!("readings.label_share = {}: it lies above 0 and is at most 1", spec.label_share));
        }
        if task && spec.label.is_none() {
            return fault("readings.label is missing: name the column that says what a row shows");
        }
        let channels = channels(spec)?;
        if let Some(labels) = &spec.labels {
            if labels.is_empty() {
                return fault("readings.labels is empty; list the labels, or take it out to use the column's own");
            }
            if let Some((raw, _)) = labels.iter().find(|(raw, name)| name.trim().is_empty() || spec.ignore.contains(raw)) {
                return fault(format!("readings.labels: '{raw}' has no name, or is in ignore as well"));
            }
        }
        // A window of one row stands for itself; any other rate than its own would invent rows.
        let target_hz =
            if window == 1 && spec.resample_hz.is_none() { None } else { spec.resample_hz.filter(|r| spec.rate_hz != Some(*r)) };
        Ok(Self {
            name: spec.name.clone(),
            files: files(base, &spec.files, ENDINGS).and_then(|f| if f.is_empty() { fault("readings.files is empty") } else { Ok(f) })?,
            columns: Columns {
                channels: spec.sensor.iter().flat_map(|s| s.channels.iter().cloned()).collect(),
                label: spec.label.clone(),
                subject: spec.subject.clone(),
                series: spec.series.clone(),
                time: spec.time.clone(),
                time_unit: spec.time_unit,
            },
            sampling: Sampling { rate_hz: spec.rate_hz, target_hz, window, stride, label_share: spec.label_share },
            channels,
            levels: spec.levels,
            labels: spec.labels.clone(),
            ignore: spec.ignore.clone(),
        })
    }

    /// The name of a raw label: `Some(None)` for one that counts as none, `None` for one that is not known.
    #[must_use]
    pub fn label(&self, raw: &str) -> Option<Option<String>> {
        if self.ignore.iter().any(|i| i == raw) {
            return Some(None);
        }
        match &self.labels {
            Some(labels) => labels.get(raw).cloned().map(Some),
            None => Some(Some(raw.to_owned())),
        }
    }
}

fn channels(spec: &ReadingsSpec) -> Result<Vec<Channel>, DataError> {
    let mut out: Vec<Channel> = vec![];
    let mut group = 0;
    for sensor in &spec.sensor {
        if sensor.channels.is_empty() {
            return fault(format!("sensor '{}' has no channels; list its columns", sensor.name));
        }
        if let ScaleSpec::Fixed([lo, hi]) = sensor.scale
            && !(lo < hi && lo.is_finite() && hi.is_finite())
        {
            return fault(format!("sensor '{}': scale = [{lo}, {hi}] is no range; the first number is the smaller", sensor.name));
        }
        let names = match &sensor.names {
            Some(names) if names.len() == sensor.channels.len() => names.clone(),
            Some(names) => {
                return fault(format!("sensor '{}' has {} channels and {} names", sensor.name, sensor.channels.len(), names.len()));
            }
            None => sensor.channels.iter().map(|c| capital(c)).collect(),
        };
        if let Some(column) = sensor.mirrored.iter().find(|m| !sensor.channels.contains(m)) {
            return fault(format!("sensor '{}': mirrored names '{column}', which is none of its channels", sensor.name));
        }
        for (name, column) in names.into_iter().zip(&sensor.channels) {
            let mirrored = sensor.mirrored.contains(column);
            if name.is_empty() || name.contains(['\n', ':']) || out.iter().any(|c| c.name == name) {
                return fault(format!("channel name '{name}' is empty, there twice, or holds a colon or a line break; give names = [...]"));
            }
            let (sensor_name, unit) = (sensor.name.clone(), sensor.unit.clone());
            out.push(Channel { name, sensor: sensor_name, unit, scale: sensor.scale, group, log: sensor.log, mirrored });
            group += usize::from(sensor.apart);
        }
        group += usize::from(!sensor.apart);
    }
    if out.is_empty() {
        return fault("there is no [[readings.sensor]]: list the sensors and their channels");
    }
    Ok(out)
}

fn capital(column: &str) -> String {
    let mut chars = column.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

impl Examples {
    fn check(spec: &ExamplesSpec, base: &Path) -> Result<Self, DataError> {
        let endings = &[".csv", ".csv.gz", ".json", ".jsonl", ".json.gz", ".jsonl.gz"];
        let divide = !spec.files.is_empty();
        let apart = [&spec.train, &spec.validation, &spec.test];
        if divide == apart.iter().any(|f| !f.is_empty()) {
            return fault("[examples] needs either files (to be split), or train, validation and test");
        }
        if !divide && apart.iter().any(|f| f.is_empty()) {
            return fault("[examples] needs all of train, validation and test; or files, to be split");
        }
        let list = |names: &[String]| files(base, names, endings);
        let files =
            if divide { [list(&spec.files)?, vec![], vec![]] } else { [list(&spec.train)?, list(&spec.validation)?, list(&spec.test)?] };
        if spec.labels.as_ref().is_some_and(|l| l.is_empty() || l.iter().any(|l| l.trim().is_empty())) {
            return fault("examples.labels is empty, or holds an empty label; take it out to use those of the training examples");
        }
        Ok(Self { files, divide, labels: spec.labels.clone() })
    }
}

impl Pretrain {
    fn check(spec: &PretrainSpec, base: &Path, task: Option<&Task>) -> Result<Self, DataError> {
        if spec.tokens == 0 || spec.shard_tokens < 2 || spec.shard_tokens > 1 << 30 {
            return fault("pretrain.tokens is at least 1, pretrain.shard_tokens lies between 2 and 2^30");
        }
        if !(spec.validation > 0.0 && spec.validation <= 0.5) {
            return fault(format!("pretrain.validation = {}: it lies above 0 and is at most 0.5", spec.validation));
        }
        let mut sources = vec![];
        for text in &spec.text {
            let list = files(base, &text.files, TEXT_ENDINGS)?;
            let name = text.files.join(" ");
            if list.is_empty() || text.separator.as_ref().is_some_and(String::is_empty) {
                return fault("pretrain.text: files is empty, or the separator is");
            }
            let kind = SourceKind::Text { files: list, field: text.field.clone(), separator: text.separator.clone() };
            sources.push(Source { name, weight: text.weight, kind });
        }
        for sensor in &spec.sensor {
            let (name, kind) = match (&sensor.readings, task) {
                (Some(other), _) => {
                    let other = Box::new(Readings::check(other, base, false)?);
                    if let Some(Task::Readings(own)) = task
                        && let Some(both) = other.files.iter().find(|f| own.files.iter().any(|o| same_file(o, f)))
                    {
                        return fault(format!(
                            "pretrain.sensor reads {} whole, which [readings] splits: its test subjects would be learned. Leave readings out of \
                             pretrain.sensor, and it takes the training part",
                            both.display()
                        ));
                    }
                    (if other.name.is_empty() { "other readings".into() } else { other.name.clone() }, SourceKind::Windows(other))
                }
                (None, Some(Task::Readings(_))) => ("training windows".into(), SourceKind::TaskWindows),
                (None, _) => return fault("pretrain.sensor without readings uses those of [readings], which is not there; add either"),
            };
            sources.push(Source { name, weight: sensor.weight, kind });
        }
        let sum: f64 = sources.iter().map(|s| s.weight).sum();
        if sources.is_empty() {
            return fault("[pretrain] has no source: add [[pretrain.text]] or [[pretrain.sensor]]");
        }
        for source in &mut sources {
            if !(source.weight > 0.0 && source.weight.is_finite()) {
                return fault(format!("the weight of '{}' is {}; it is a positive number", source.name, source.weight));
            }
            source.weight /= sum;
        }
        Ok(Self { tokens: spec.tokens, validation: spec.validation, shard_tokens: spec.shard_tokens, sources })
    }
}

fn splitter(recipe: &Recipe, task: Option<&Task>) -> Result<Splitter, DataError> {
    let has_subject = matches!(task, Some(Task::Readings(r)) if r.columns.subject.is_some());
    let ready = matches!(task, Some(Task::Examples(_)));
    let Some(spec) = &recipe.split else {
        let by = if has_subject {
            SplitBy::Subject
        } else if ready {
            SplitBy::Random
        } else {
            SplitBy::Time
        };
        return Ok(Splitter { by, fractions: DEFAULT_FRACTIONS, subjects: None, exclude: vec![], seed: recipe.seed });
    };
    if matches!(task, Some(Task::Examples(e)) if !e.divide) {
        return fault("[split] does not go with examples that come as train, validation and test; take it out");
    }
    if ready && spec.by != SplitBy::Random {
        return fault("split.by: ready examples are split at random; write by = \"random\"");
    }
    if spec.by == SplitBy::Subject && !has_subject {
        return fault("split.by = \"subject\" needs readings.subject: the column that says who was recorded");
    }
    Splitter::check(spec, recipe.seed)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
