//! A recipe, a model and runs small enough to be made by the dozen, through the real programs.
#![allow(dead_code)] // each test uses what it needs

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tinyllm::rng::Rng;

/// The programs under test.
pub const TRAIN: &str = env!("CARGO_BIN_EXE_tinyllm-train");
pub const RUN: &str = env!("CARGO_BIN_EXE_tinyllm-run");

/// Two kinds of movement of four people, felt by two channels.
pub const RECIPE: &str = r#"seed = 1
context = 64
vocabulary.trimmed = 400
instruction = "Which?"

[readings]
files = ["readings.csv"]
label = "label"
subject = "subject"
series = "series"
rate_hz = 10.0
window = 8
stride = 4

[[readings.sensor]]
name = "accelerometer"
channels = ["ax", "ay"]
unit = "g"

[readings.labels]
s = "still"
w = "walk"

[split]
by = "subject"
train = [1, 2]
validation = [3]
test = [4]

[pretrain]
tokens = 20_000
validation = 0.1

[[pretrain.sensor]]
weight = 1.0

[augment]
stretch = 0.2
jitter = 0.02
"#;

/// What `--model` takes here.
pub const MODEL: &str = "n_embd = 48\nn_head = 3\nn_layer = 2\nn_ctx = 64\n";

/// The readings that [`RECIPE`] names.
pub fn readings() -> String {
    let mut rng = Rng::new(5);
    let mut csv = String::from("subject,series,label,ax,ay\n");
    for subject in 1..=4 {
        for label in ["s", "w"] {
            for i in 0..80 {
                let swing = if label == "s" { 0.05 } else { 1.0 };
                let (ax, ay) = (swing * (0.7 * f64::from(i) + f64::from(subject)).sin() + 0.05 * rng.normal(), 0.3 * rng.normal());
                writeln!(csv, "{subject},{subject}{label},{label},{ax:.4},{ay:.4}").unwrap();
            }
        }
    }
    csv
}

/// A folder with a recipe, readings and a model description, to run programs in.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// With `recipe.toml`, `readings.csv` and `model.toml`.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("recipe.toml", RECIPE);
        place.write("readings.csv", &readings());
        place.write("model.toml", MODEL);
        place
    }

    /// The same with `data` prepared.
    pub fn prepared() -> Self {
        let place = Self::new();
        place.ok(&["prepare", "recipe.toml", "--out", "data"]);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Changes a file's text.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} holds no '{from}'");
        self.write(name, &text.replace(from, to));
    }

    /// A program that is to run here.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `tinyllm-train` to its end.
    pub fn train(&self, args: &[&str]) -> Output {
        self.command(TRAIN, args).output().unwrap()
    }

    /// `tinyllm-train`, which must succeed; what it said.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.train(args);
        let said = said(&out);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
        said
    }

    /// `tinyllm-train` in the background, saying nothing.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(TRAIN, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Every file under a folder with its bytes; of metrics, the lines without their times.
    pub fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.path(folder);
        let mut found = BTreeMap::new();
        walk(&root, &mut |path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let bytes = fs::read(path).unwrap();
            found.insert(name.clone(), if name == "metrics.jsonl" { timeless(&bytes) } else { bytes });
        });
        found
    }

    /// Names of what lies in a folder and begins with a dot: half-written things.
    pub fn leftovers(&self, folder: &str) -> Vec<String> {
        let names = fs::read_dir(self.path(folder)).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with('.')).collect()
    }
}

/// Standard error and output of a program.
pub fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout))
}

/// The names of files that differ, or are there in one alone.
pub fn differing(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

fn timeless(metrics: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    for line in std::str::from_utf8(metrics).unwrap().lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        assert!(fields.remove("tokens_per_s").is_some() && fields.remove("seconds").is_some());
        writeln!(out, "{line}").unwrap();
    }
    out.into_bytes()
}
