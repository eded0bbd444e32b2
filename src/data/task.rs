//! The examples of a recipe: split first, then cut, scaled and written as text.

use super::codec::{Codec, SensorCodec};
use super::error::DataError;
use super::example::Example;
use super::manifest::{SplitFacts, TaskFacts};
use super::plan::{self, Plan, Task};
use super::readings::{Recordings, Series};
use super::recipe::{ScaleName, ScaleSpec};
use super::sampling::{Part, WindowLabel};
use super::scale::{Channel, Scale, robust_range};
use super::split::{Piece, Split};
use super::tokenizer::Tokenizer;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Everything that fine-tuning, pre-training and a later test need of a task.
pub struct TaskData {
    /// Readings to text, with the fitted scales.
    pub codec: Codec,
    /// Training, validation, test.
    pub examples: [Vec<Example>; 3],
    /// All training windows, those without a label too: documents for pre-training.
    pub documents: Vec<Example>,
    /// The raw recordings of the test split, with the labels as they stand in the files.
    pub test: Vec<Series>,
    /// The labels of the recordings.
    pub raw_labels: Vec<(String, std::path::PathBuf, u64)>,
    /// What was counted on the way; token counts are added by [`TaskData::measure`].
    pub facts: TaskFacts,
}

/// Builds the task of a plan, if it has one.
pub fn build(plan: &Plan) -> Result<Option<TaskData>, DataError> {
    Ok(match &plan.task {
        None => None,
        Some(Task::Readings(r)) => Some(of_readings(plan, r)?),
        Some(Task::Examples(e)) => Some(super::ready::build(plan, e)?),
    })
}

/// The labels that raw ones stand for; one that the recipe does not know is an error with its place.
fn label_names(r: &plan::Readings, recordings: &Recordings) -> Result<(Vec<String>, BTreeMap<String, String>), DataError> {
    let mut names = BTreeMap::new();
    for (raw, path, line) in &recordings.labels {
        match r.label(raw) {
            Some(Some(name)) => drop(names.insert(raw.clone(), name)),
            Some(None) => {}
            None => {
                let known: Vec<&str> = r.labels.iter().flatten().map(|(raw, _)| raw.as_str()).collect();
                let message =
                    format!("label '{raw}' is not in [readings.labels] ({}); add it there, or to ignore = [...]", known.join(", "));
                return Err(DataError::line(path, *line, message));
            }
        }
    }
    if let Some(absent) = r.labels.iter().flatten().find(|(raw, _)| !names.contains_key(*raw)) {
        return Err(DataError::recipe(format!("readings.labels: no row is labelled '{}'; take it out, or correct it", absent.0)));
    }
    // In the order of the raw labels, which is a recipe's too; the first of several with one name counts.
    let mut order: Vec<String> = vec![];
    names.values().for_each(|n| {
        if !order.contains(n) {
            order.push(n.clone())
        }
    });
    Ok((order, names))
}

/// The codec of some readings with scales fitted on some of them, and its labels.
pub fn fit(r: &plan::Readings, instruction: Option<&str>, recordings: &Recordings, training: &[&Part]) -> Result<Codec, DataError> {
    let (labels, names) = label_names(r, recordings)?;
    let mut ranges: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    let mut channels = vec![];
    for c in &r.channels {
        let scale = match c.scale {
            ScaleSpec::Fixed([lo, hi]) => Scale::Range { lo, hi },
            ScaleSpec::Named(ScaleName::Window) => Scale::Window { group: c.group },
            ScaleSpec::Named(ScaleName::Robust) => {
                let known = ranges.get(&c.group).copied();
                let (lo, hi) = match known {
                    Some(range) => range,
                    None => {
                        let members: Vec<usize> = (0..r.channels.len()).filter(|&i| r.channels[i].group == c.group).collect();
                        let readings = training.iter().flat_map(|p| members.iter().flat_map(|&i| p.channels[i].iter().copied()));
                        robust_range(readings.collect()).ok_or_else(|| {
                            DataError::recipe(format!(
                                "channel '{}' has no reading in the training split; leave it out, or split otherwise",
                                c.name
                            ))
                        })?
                    }
                };
                ranges.insert(c.group, (lo, hi));
                Scale::Range { lo, hi }
            }
        };
        let (name, sensor, unit) = (c.name.clone(), c.sensor.clone(), c.unit.clone());
        channels.push(Channel { name, sensor, unit, scale, log: c.log, mirrored: c.mirrored });
    }
    let instruction = instruction.map_or_else(|| default_instruction(r), str::to_owned).replace("{labels}", &list(&labels));
    let sensor = SensorCodec {
        name: r.name.clone(),
        columns: r.columns.clone(),
        label_names: names,
        sampling: r.sampling.clone(),
        channels,
        levels: r.levels,
    };
    Ok(Codec::new(instruction, labels, Some(sensor)))
}

fn default_instruction(r: &plan::Readings) -> String {
    let mut sensors: Vec<&str> = r.channels.iter().map(|c| c.sensor.as_str()).collect();
    sensors.dedup();
    format!("{} What do they show: {{labels}}?", format_args!("These are readings of {}.", sensors.join(", ")))
}

/// `a, b or c`.
pub fn list(labels: &[String]) -> String {
    match labels {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn of_readings(plan: &Plan, r: &plan::Readings) -> Result<TaskData, DataError> {
    let recordings = r.columns.read_files(&r.files, true)?;
    let pieces = plan.splitter.pieces(&recordings, &r.sampling)?;
    let mut cut: Vec<(&Piece, Series, Vec<Part>)> = vec![];
    for piece in &pieces {
        let series = recordings.series[piece.series].slice(piece.rows.clone());
        let parts = r.sampling.parts(&series)?;
        cut.push((piece, series, parts));
    }
    let training: Vec<&Part> = cut.iter().filter(|c| c.0.split == Split::Train).flat_map(|c| &c.2).collect();
    let codec = fit(r, plan.instruction.as_deref(), &recordings, &training)?;
    let Some(sensor) = &codec.sensor else { unreachable!("fit makes a codec of readings") };
    let names = codec.label_indexes(&recordings);

    let mut facts = TaskFacts::empty(&codec, r.sampling.describe());
    let (mut examples, mut documents, mut test): ([Vec<Example>; 3], Vec<Example>, Vec<Series>) = Default::default();
    let (mut readings, mut clipped, mut missing) = (0, 0, 0);
    for (piece, series, parts) in cut {
        let margin = if piece.split == Split::Train { plan.augment.map_or(0, |a| a.margin(r.sampling.window)) } else { 0 };
        let windows = r.sampling.cut(&parts, &names, margin);
        facts.short_recordings += usize::from(windows.is_empty());
        for window in windows {
            let counts = sensor.clipped_and_missing(&window.values);
            readings += window.values.iter().map(Vec::len).sum::<usize>();
            (clipped, missing) = (clipped + counts.0, missing + counts.1);
            let label = window.label;
            let example = codec.example(sensor, &series, window);
            match label {
                WindowLabel::One(_) => examples[piece.split as usize].push(example.clone()),
                WindowLabel::None => facts.dropped_unlabelled += 1,
                WindowLabel::Mixed => facts.dropped_mixed += 1,
            }
            if piece.split == Split::Train {
                documents.push(example);
            }
        }
        if piece.split == Split::Test {
            test.push(series);
        }
    }
    if readings == 0 {
        let longest = recordings.series.iter().map(Series::len).max().unwrap_or(0);
        return Err(DataError::recipe(format!(
            "a window of {} is longer than any recording: the longest has {longest} rows{}. Take a shorter window, or split otherwise",
            r.sampling.describe(),
            r.sampling.rate_hz.map_or_else(String::new, |hz| format!(" ({} s)", longest as f64 / hz)),
        )));
    }
    (facts.clipped, facts.missing) = (clipped as f64 / readings as f64, missing as f64 / readings as f64);
    name_apart(&mut test);
    let mut data = TaskData { codec, examples, documents, test, raw_labels: recordings.labels, facts };
    data.finish()?;
    Ok(data)
}

/// Keeps recordings of one name in several files apart.
fn name_apart(series: &mut [Series]) {
    let mut seen = HashSet::new();
    for s in series {
        let file = s.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let base = s.part.clone();
        let mut n = 1;
        while !seen.insert([s.subject.clone(), s.id.clone(), s.part.clone()]) {
            s.part = format!("{base}@{file}{}", if n == 1 { String::new() } else { format!(":{n}") });
            n += 1;
        }
    }
}

impl TaskFacts {
    /// Facts of a task in which nothing is counted yet.
    pub(super) fn empty(codec: &Codec, window: String) -> Self {
        Self {
            labels: codec.labels.clone(),
            splits: vec![],
            positions: [0; 3],
            window_instruction_answer: [0; 3],
            window,
            clipped: 0.0,
            missing: 0.0,
            dropped_unlabelled: 0,
            dropped_mixed: 0,
            dropped_duplicates: 0,
            repeats: 0,
            short_recordings: 0,
            notes: vec![],
        }
    }
}

impl TaskData {
    /// Drops what later splits hold too, counts, and refuses what cannot be learned or tested.
    pub(super) fn finish(&mut self) -> Result<(), DataError> {
        let mut held: HashSet<(String, String)> = HashSet::new();
        for split in [Split::Test, Split::Validation, Split::Train] {
            let mut own = HashSet::new();
            self.examples[split as usize].retain(|e| {
                let key = (e.instruction.clone(), e.input.clone());
                if held.contains(&key) {
                    self.facts.dropped_duplicates += 1;
                    return false;
                }
                self.facts.repeats += usize::from(!own.insert(key));
                true
            });
            held.extend(own);
        }
        let tested: HashSet<&str> =
            self.examples[1..].iter().flatten().filter(|e| e.readings.is_some()).map(|e| e.input.as_str()).collect();
        self.documents.retain(|d| !tested.contains(d.input.as_str()));
        for split in Split::ALL {
            let examples = &self.examples[split as usize];
            let name = split.name();
            if examples.is_empty() {
                return Err(DataError::recipe(format!(
                    "the {name} split has no example; change [split], or the stride, or add recordings"
                )));
            }
            let count = |label: &String| examples.iter().filter(|e| e.output == *label).count();
            let per_label: Vec<usize> = self.codec.labels.iter().map(count).collect();
            for (label, _) in self.codec.labels.iter().zip(&per_label).filter(|(_, n)| **n == 0) {
                if split == Split::Train {
                    return Err(DataError::recipe(format!(
                        "class '{label}' has no training example, so it cannot be learned; split otherwise, shorten the window, or add it to ignore"
                    )));
                }
                self.facts.notes.push(format!("class '{label}' has no {name} example"));
            }
            let subjects: BTreeSet<&String> = examples.iter().map(|e| &e.subject).filter(|s| !s.is_empty()).collect();
            let recordings: BTreeSet<(&String, &String)> =
                examples.iter().map(|e| (&e.subject, &e.series)).filter(|s| !s.1.is_empty()).collect();
            self.facts.splits.push(SplitFacts {
                split,
                examples: examples.len(),
                per_label,
                subjects: subjects.into_iter().cloned().collect(),
                recordings: recordings.len(),
            });
        }
        Ok(())
    }

    /// Measures the examples in tokens; one that does not fit into the context is an error that says what takes how much.
    pub fn measure(&mut self, tokenizer: &Tokenizer, context: usize) -> Result<(), DataError> {
        if let Some(sensor) = &self.codec.sensor {
            sensor.check_tokens(tokenizer)?;
        }
        let mut all: Vec<(usize, &Example)> =
            self.examples.iter().flatten().map(|e| (self.codec.tokens(tokenizer, e).positions(), e)).collect();
        all.sort_by_key(|(n, _)| *n);
        let (Some(&(shortest, _)), Some(&(longest, worst))) = (all.first(), all.last()) else { return Ok(()) };
        let middle = all[all.len() / 2];
        let parts = |e: &Example| {
            let window = tokenizer.encode(&e.input).len();
            let tokens = self.codec.tokens(tokenizer, e);
            [window, tokens.prompt.len() - window.min(tokens.prompt.len()), tokens.answer.len()]
        };
        if longest > context {
            let [window, instruction, answer] = parts(worst);
            return Err(DataError::recipe(format!(
                "an example ({}) takes {longest} positions and context = {context}: its window {window} tokens, the instruction and its template \
                 {instruction}, the answer {answer}. {}",
                worst.at,
                if self.codec.sensor.is_some() {
                    "Take fewer readings (window, resample_hz) or channels, shorten the instruction, or raise context"
                } else {
                    "Shorten the texts, or raise context"
                }
            )));
        }
        self.facts.positions = [shortest, middle.0, longest];
        self.facts.window_instruction_answer = parts(middle.1);
        Ok(())
    }
}

/// The windows of readings that only pre-train, all of them.
pub fn documents(r: &plan::Readings) -> Result<(Codec, Vec<Example>), DataError> {
    let recordings = r.columns.read_files(&r.files, true)?;
    let parts = recordings.series.iter().map(|s| r.sampling.parts(s)).collect::<Result<Vec<_>, _>>()?;
    let codec = fit(r, None, &recordings, &parts.iter().flatten().collect::<Vec<_>>())?;
    let Some(sensor) = &codec.sensor else { unreachable!("fit makes a codec of readings") };
    let names = codec.label_indexes(&recordings);
    let windows = recordings
        .series
        .iter()
        .zip(&parts)
        .flat_map(|(s, parts)| r.sampling.cut(parts, &names, 0).into_iter().map(|w| codec.example(sensor, s, w)).collect::<Vec<_>>());
    let windows: Vec<Example> = windows.collect();
    if windows.is_empty() {
        return Err(DataError::recipe(format!("'{}': a window of {} is longer than any recording", r.name, r.sampling.describe())));
    }
    Ok((codec, windows))
}
