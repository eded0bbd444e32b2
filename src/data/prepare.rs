//! Carries a recipe out: a folder with tokens, examples, tokenizer, codec and manifest, whole or not at all.

use super::corpus::{self, Seen};
use super::documents::{Part, SensorDocs, SensorPool, TextDocs};
use super::error::DataError;
use super::example::write_jsonl;
use super::manifest::{FileFacts, Manifest, PretrainFacts, VERSION};
use super::mix::{Drawn, Pool, draw, held_out};
use super::plan::{Plan, Pretrain, SourceKind, Task};
use super::recipe::Vocabulary;
use super::shard::{MAX_VOCAB, ShardWriter};
use super::split::Split;
use super::task::{self, TaskData};
use super::tokenizer::{Tokenizer, VocabBuilder};
use crate::fsio::{self, At, NewDir};
use crate::progress::Progress;
use crate::rng::key_of;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was prepared, for a person to read.
#[derive(Clone, Debug)]
pub struct Report {
    /// The folder.
    pub path: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.manifest)?;
        write!(f, "prepared         {}", self.path.display())
    }
}

/// One source of the mix, before it is tokens.
enum Docs {
    Text(Vec<String>),
    Sensor(Box<SensorDocs>),
}

/// Prepares the data of a recipe in the folder `out`, which must not be there yet.
pub fn prepare(recipe: &Path, out: &Path) -> Result<Report, DataError> {
    carry_out(recipe, out).map_err(|e| e.in_recipe(recipe))
}

fn carry_out(recipe: &Path, out: &Path) -> Result<Report, DataError> {
    let plan = Plan::load(recipe)?;
    if out.exists() {
        return Err(DataError::Exists { path: out.into(), finished: is_finished(&plan, out) });
    }
    let mut progress = Progress::new("preparing", "steps", 6);
    progress.set(0, "hashing the sources");
    let sources = source_facts(&plan)?;
    progress.set(1, "cutting windows");
    let mut task = task::build(&plan)?;
    progress.set(2, "reading texts");
    let (docs, dropped_texts) = documents(&plan, task.as_ref())?;
    progress.set(3, "choosing the vocabulary");
    let tokenizer = vocabulary(&plan, task.as_ref(), &docs)?;
    if let Some(task) = &mut task {
        task.measure(&tokenizer, plan.context)?;
    }
    for docs in &docs {
        if let Docs::Sensor(docs) = docs
            && let Some(sensor) = &docs.codec.sensor
        {
            sensor.check_tokens(&tokenizer)?;
        }
    }

    let folder = NewDir::new(out)?;
    let dir = folder.dir();
    let write = |name: &str, text: &str| -> Result<(), DataError> {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).at(parent, "create")?;
        }
        Ok(std::fs::write(&path, text).at(&path, "write")?)
    };
    write("recipe.toml", &plan.text)?;
    write("tokenizer/vocab.json", &tokenizer.vocab_json())?;
    write("tokenizer/merges.txt", &tokenizer.merges_txt())?;
    progress.set(4, "mixing documents");
    let pretrain = match &plan.pretrain {
        Some(spec) => Some(mix(&plan, spec, &docs, &tokenizer, dropped_texts, dir)?),
        None => None,
    };
    progress.set(5, "writing examples");
    if let Some(task) = &task {
        write("codec.json", &task.codec.to_json())?;
        let sub = dir.join("finetune");
        std::fs::create_dir_all(&sub).at(&sub, "create")?;
        for split in Split::ALL {
            write_jsonl(&sub.join(format!("{}.jsonl", split.name())), task.examples[split as usize].iter())?;
        }
        write_readings(task, dir)?;
    }
    let manifest = Manifest {
        version: VERSION,
        program: format!("tinyllm {}", env!("CARGO_PKG_VERSION")),
        seed: plan.seed,
        context: plan.context,
        n_vocab: tokenizer.n_vocab(),
        sources,
        files: facts_below(dir)?,
        pretrain,
        task: task.map(|t| t.facts),
    };
    let json = serde_json::to_string_pretty(&manifest).map_err(std::io::Error::other).at(out, "write")?;
    write("manifest.json", &json)?;
    folder.commit()?;
    Ok(Report { path: out.into(), manifest })
}

/// Whether a folder holds what this plan would make of these sources.
fn is_finished(plan: &Plan, out: &Path) -> bool {
    let manifest = fsio::read_text(&out.join("manifest.json")).ok().and_then(|t| serde_json::from_str::<Manifest>(&t).ok());
    let same_recipe = fsio::read_text(&out.join("recipe.toml")).is_ok_and(|t| t == plan.text);
    same_recipe && manifest.is_some_and(|m| source_facts(plan).is_ok_and(|s| s == m.sources))
}

/// Every file a plan reads, each once.
fn source_facts(plan: &Plan) -> Result<Vec<FileFacts>, DataError> {
    let mut paths: Vec<PathBuf> = match &plan.task {
        Some(Task::Readings(r)) => r.files.clone(),
        Some(Task::Examples(e)) => e.files.concat(),
        None => vec![],
    };
    for source in plan.pretrain.iter().flat_map(|p| &p.sources) {
        match &source.kind {
            SourceKind::Text { files, .. } => paths.extend(files.iter().cloned()),
            SourceKind::Windows(r) => paths.extend(r.files.iter().cloned()),
            SourceKind::TaskWindows => {}
        }
    }
    let mut seen = std::collections::HashSet::new();
    paths.retain(|p| seen.insert(p.clone()));
    let base = plan.path.parent().unwrap_or(Path::new(""));
    paths.iter().map(|p| facts(p, p.strip_prefix(base).unwrap_or(p))).collect()
}

fn facts(path: &Path, name: &Path) -> Result<FileFacts, DataError> {
    let (sha256, bytes) = corpus::hash(path)?;
    Ok(FileFacts { path: name.to_string_lossy().into_owned(), bytes, sha256 })
}

fn facts_below(dir: &Path) -> Result<Vec<FileFacts>, DataError> {
    let all = super::readings::files(dir, &[String::new()], &[""])?;
    all.iter().map(|p| facts(p, p.strip_prefix(dir).unwrap_or(p))).collect()
}

fn documents(plan: &Plan, task: Option<&TaskData>) -> Result<(Vec<Docs>, usize), DataError> {
    let (mut seen, mut dropped, mut out) = (Seen::default(), 0, vec![]);
    for (i, source) in plan.pretrain.iter().flat_map(|p| &p.sources).enumerate() {
        let seed = key_of(plan.seed, &format!("documents {i}"));
        let sensor = |codec, windows| Docs::Sensor(Box::new(SensorDocs { codec, windows, augment: plan.augment, seed }));
        out.push(match (&source.kind, task) {
            (SourceKind::Text { files, field, separator }, _) => {
                let (texts, left_out) = corpus::read(files, field, separator.as_deref(), &mut seen)?;
                dropped += left_out;
                Docs::Text(texts)
            }
            (SourceKind::Windows(r), _) => {
                let (codec, windows) = task::documents(r)?;
                sensor(codec, windows)
            }
            (SourceKind::TaskWindows, Some(task)) => sensor(task.codec.clone(), task.documents.clone()),
            (SourceKind::TaskWindows, None) => unreachable!("a plan with task windows has a task"),
        });
    }
    Ok((out, dropped))
}

/// All of GPT-2's tokens, or those that these data use most.
fn vocabulary(plan: &Plan, task: Option<&TaskData>, docs: &[Docs]) -> Result<Tokenizer, DataError> {
    let Vocabulary::Trimmed(most) = plan.vocabulary else { return Ok(Tokenizer::gpt2().clone()) };
    if most > MAX_VOCAB {
        return Ok(Tokenizer::gpt2().clone());
    }
    let mut builder = VocabBuilder::new(Tokenizer::gpt2());
    let codecs = docs.iter().filter_map(|d| if let Docs::Sensor(d) = d { Some(&d.codec) } else { None });
    for codec in codecs.chain(task.map(|t| &t.codec)) {
        codec.labels.iter().for_each(|label| builder.require_text(label));
        if let Some(sensor) = &codec.sensor {
            (0..=sensor.levels).for_each(|level| builder.require_text(&format!(" {level}")));
            builder.require_text(" ?");
        }
    }
    for docs in docs {
        match docs {
            Docs::Text(texts) => texts.iter().for_each(|t| builder.add_text(t)),
            Docs::Sensor(docs) => (0..docs.windows.len()).for_each(|i| builder.add_text(&docs.text(i, 0))),
        }
    }
    if let Some(task) = task {
        for e in &task.examples[Split::Train as usize] {
            builder.add_text(&task.codec.template.prompt(&e.instruction, &e.input));
            builder.add_text(&e.output);
        }
    }
    let tokenizer = builder.keep_most(most);
    if tokenizer.n_vocab() > most {
        return Err(DataError::recipe(format!(
            "vocabulary.trimmed = {most}: the bytes, the levels and the labels alone need {}; raise it to that at least",
            tokenizer.n_vocab()
        )));
    }
    Ok(tokenizer)
}

/// Draws and writes the shards.
fn mix(
    plan: &Plan,
    spec: &Pretrain,
    docs: &[Docs],
    tokenizer: &Tokenizer,
    dropped_texts: usize,
    dir: &Path,
) -> Result<PretrainFacts, DataError> {
    let bytes = docs.iter().map(|d| if let Docs::Text(t) = d { t.iter().map(|t| t.len() as u64).sum() } else { 0 }).sum();
    let mut progress = Progress::new("tokenizing", "bytes", bytes);
    let texts: Vec<Option<TextDocs>> =
        docs.iter().map(|d| if let Docs::Text(t) = d { Some(TextDocs::new(t, tokenizer, |n| progress.add(n))) } else { None }).collect();
    drop(progress);
    let sensors: Vec<Option<SensorPool<'_>>> =
        docs.iter().map(|d| if let Docs::Sensor(docs) = d { Some(SensorPool { docs, tokenizer }) } else { None }).collect();
    let pools: Vec<&dyn Pool> = texts
        .iter()
        .zip(&sensors)
        .map(|(t, s)| match (t, s) {
            (Some(t), _) => t as &dyn Pool,
            (None, Some(s)) => s,
            (None, None) => unreachable!("a source is text or windows"),
        })
        .collect();

    let (mut train, mut held): (Vec<Part<'_>>, Vec<Part<'_>>) = (vec![], vec![]);
    for (i, pool) in pools.iter().enumerate() {
        let seed = key_of(plan.seed, &format!("held out {i}"));
        let chosen = match (&texts[i], &sensors[i]) {
            (Some(texts), _) => held_out(&texts.sizes(), spec.validation, seed),
            (None, Some(sensors)) => held_windows(sensors.docs, spec.validation, seed),
            (None, None) => unreachable!("a source is text or windows"),
        };
        let members = |held: bool| (0..pool.len()).filter(|&i| chosen[i] == held).collect();
        if pool.len() < 2 {
            let name = &spec.sources[i].name;
            return Err(DataError::recipe(format!(
                "source '{name}' is a single document, so none is left to validate; give a separator, or more files"
            )));
        }
        train.push(Part { pool: *pool, members: members(false) });
        held.push(Part { pool: *pool, members: members(true) });
    }

    let sub = dir.join("pretrain");
    std::fs::create_dir_all(&sub).at(&sub, "create")?;
    let write = |name: &str, parts: &[Part<'_>], budget: u64, again: bool| -> Result<(Vec<String>, u64, Vec<Drawn>), DataError> {
        let sources: Vec<(&str, f64, &dyn Pool)> =
            spec.sources.iter().zip(parts).map(|(s, p)| (s.name.as_str(), s.weight, p as &dyn Pool)).collect();
        let mut writer = ShardWriter::new(&sub, name, spec.shard_tokens);
        let mut progress = Progress::new(&format!("mixing {name}"), "tokens", budget);
        let drawn = draw(&sources, budget, again, key_of(plan.seed, name), tokenizer.end_token(), |document, total| {
            progress.set(total.min(budget), "");
            writer.push(document)
        })?;
        let (paths, total) = writer.finish()?;
        let name = |p: &PathBuf| p.strip_prefix(dir).unwrap_or(p).to_string_lossy().into_owned();
        Ok((paths.iter().map(name).collect(), total, drawn))
    };
    let budget = (spec.tokens as f64 * spec.validation).round() as u64;
    let (validation_shards, validation_tokens, validation) = write("val", &held, budget.max(1), false)?;
    let (train_shards, train_tokens, train) = write("train", &train, spec.tokens - budget, true)?;
    Ok(PretrainFacts { train_tokens, validation_tokens, train, validation, train_shards, validation_shards, dropped_texts })
}

/// Which windows validate: all windows of some recordings, because neighbours share readings; where there is only one recording,
/// its last windows.
fn held_windows(docs: &SensorDocs, share: f64, seed: u64) -> Vec<bool> {
    let groups = docs.groups();
    let count = groups.iter().max().map_or(0, |g| g + 1);
    if count < 2 {
        let n = groups.len();
        let first = n - ((n as f64 * share).ceil() as usize).min(n.saturating_sub(1));
        return (0..n).map(|i| i >= first).collect();
    }
    let mut sizes = vec![0; count];
    groups.iter().for_each(|&g| sizes[g] += 1);
    let held = held_out(&sizes, share, seed);
    groups.iter().map(|&g| held[g]).collect()
}

/// The raw readings of the test split, for `classify`.
fn write_readings(task: &TaskData, dir: &Path) -> Result<(), DataError> {
    let Some(sensor) = &task.codec.sensor else { return Ok(()) };
    let sub = dir.join("readings");
    std::fs::create_dir_all(&sub).at(&sub, "create")?;
    let path = sub.join("test.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).at(&path, "create")?);
    sensor.columns.write(&mut file, &task.test, &task.raw_labels).at(&path, "write")?;
    Ok(())
}
