//! `tinyllm-run` as a user meets it: output, errors, exit codes.

#[path = "common/gguf_model.rs"]
mod gguf_model;

use assert_cmd::Command;
use serde_json::Value as Json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tinyllm::data::Codec;
use tinyllm::data::codec::SensorCodec;
use tinyllm::data::readings::{Columns, TimeUnit};
use tinyllm::data::sampling::Sampling;
use tinyllm::data::scale::{Channel, Scale};
use tinyllm::gguf::Value;
use tinyllm::infer::{CacheType, Model, Session, continue_greedily};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;

fn run(args: &[&str]) -> (i32, String, String) {
    let out = Command::cargo_bin("tinyllm-run").unwrap().args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn ok(args: &[&str]) -> (String, String) {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    (out, err)
}

fn refused(args: &[&str], code: i32, with: &str) {
    let (got, out, err) = run(args);
    assert_eq!(got, code, "{args:?}: {err}");
    assert!(err.contains(with) && out.is_empty(), "{args:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

fn codec() -> Codec {
    let channel = |name: &str| Channel {
        name: name.into(),
        sensor: "accelerometer".into(),
        unit: "g".into(),
        scale: Scale::Range { lo: -1.0, hi: 1.0 },
        log: false,
        mirrored: false,
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
        label_names: [("0".to_owned(), "still".to_owned()), ("1".to_owned(), "walk".to_owned())].into(),
        sampling: Sampling { rate_hz: Some(10.0), target_hz: None, window: 3, stride: 3, label_share: 1.0 },
        channels: vec![channel("Ax"), channel("Ay")],
        levels: 100,
    };
    Codec::new("Which?".into(), vec!["still".into(), "walk".into(), "walk up".into()], Some(sensor))
}

/// A folder with `plain.gguf`, no classifier, and `watch.gguf`, one with the codec.
fn models() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (plain, watch) = (dir.path().join("plain.gguf"), dir.path().join("watch.gguf"));
    let config = Config { n_ctx: 160, ..gguf_model::tiny_config() };
    gguf_model::tiny_model(&plain, GgmlType::F16, 3);
    let codec = codec();
    let more = [
        ("tinyllm.codec", Value::String(codec.to_json())),
        ("tinyllm.labels", Value::strings(codec.labels.clone())),
        ("tinyllm.version", "0.1.0".into()),
    ];
    gguf_model::tiny_model_with(&watch, &config, GgmlType::Q8_0, 3, &more);
    (dir, plain, watch)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn help_and_nonsense() {
    let (help, _) = ok(&["--help"]);
    assert!(["info", "generate", "logits", "classify", "Exit status"].iter().all(|w| help.contains(w)), "{help}");
    for command in ["info", "generate", "logits", "classify"] {
        assert!(ok(&[command, "--help"]).0.contains("Examples:"), "{command}");
    }
    refused(&[], 2, "Usage");
    refused(&["generate"], 2, "MODEL.gguf");
    refused(&["generate", "m.gguf", "-n", "many"], 2, "many");
    refused(&["generate", "m.gguf", "-t", "0"], 2, "0");
    refused(&["classify", "m.gguf"], 2, "READINGS.csv");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (dir, plain, _) = models();
    refused(&["info", "no/such.gguf"], 1, "no/such.gguf");
    let cut = dir.path().join("cut.gguf");
    let all = std::fs::read(&plain).unwrap();
    std::fs::write(&cut, &all[..all.len() / 2]).unwrap();
    for command in ["info", "generate", "logits"] {
        refused(&[command, text(&cut)], 1, "cut.gguf: byte ");
    }
    std::fs::write(&cut, "id,label\n1,2\n").unwrap();
    refused(&["generate", text(&cut)], 1, "does not begin with 'GGUF'");
}

#[test]
fn info_tells_what_is_inside() {
    let (_dir, plain, watch) = models();
    let (out, _) = ok(&["info", text(&plain)]);
    assert!(["2 blocks", "F16", "gpt2.block_count = 2", "no classifier"].iter().all(|w| out.contains(w)), "{out}");
    let info = json(&ok(&["info", text(&watch), "--json"]).0);
    assert_eq!(info["model"]["n_embd"], 96);
    assert_eq!(info["labels"][2], "walk up");
    assert_eq!(info["codec"]["instruction"], "Which?");
    assert_eq!(info["version"], "0.1.0");
    assert_eq!(info["tokenizer"]["tokens"], 261);
    let config = Config { n_ctx: 160, ..gguf_model::tiny_config() };
    assert_eq!(info["parameters"], config.parameters());
    assert_eq!(info["file_bytes"], std::fs::metadata(&watch).unwrap().len());
}

#[test]
fn logits_are_the_librarys() {
    let (_dir, plain, _) = models();
    let (out, _) = ok(&["logits", text(&plain), "-p", "Ax: 4 the", "--top", "3", "--json"]);
    let got = json(&out);
    let model = Model::open(&plain).unwrap();
    let tokens = model.prompt("Ax: 4 the");
    assert_eq!(got["tokens"], serde_json::json!(tokens));
    // The program's cache is of 16 bits unless it is told otherwise.
    let mut session = Session::with(&model, model.config.n_ctx, CacheType::F16);
    session.feed(&tokens).unwrap();
    let mut all = session.logits().to_vec();
    tinyllm::infer::log_softmax(&mut all);
    let top = got["top"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    for entry in top {
        let id = entry["id"].as_u64().unwrap() as usize;
        assert!((entry["logprob"].as_f64().unwrap() - f64::from(all[id])).abs() < 1e-6);
        assert_eq!(entry["text"], model.tokenizer.decode(&[id as u32]));
    }
    assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    assert_eq!(json(&ok(&["logits", text(&plain), "--json"]).0)["tokens"], serde_json::json!([260]), "an empty prompt is the end token");
    assert_eq!(ok(&["logits", text(&plain), "-p", "x", "--top", "5"]).0.lines().count(), 5);
    let ids = tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let every = json(&ok(&["logits", text(&plain), "--tokens", &ids, "--every", "--top", "3", "--json"]).0);
    assert_eq!(every["top"], got["top"]);
    assert_eq!(every["every"].as_array().unwrap().len(), tokens.len());
    refused(&["logits", text(&plain), "--tokens", "1,999"], 1, "999 is no token");
}

#[test]
fn generation_is_greedy_at_0_and_repeats_by_seed() {
    let (_dir, plain, _) = models();
    let model = Model::open(&plain).unwrap();
    let mut session = Session::new(&model);
    let want = continue_greedily(&mut session, &model.prompt("Ax: 4"), 20).unwrap();
    let greedy = ["generate", text(&plain), "-p", "Ax: 4", "-n", "20", "--temp", "0", "--repeat-penalty", "1"];
    let (out, err) = ok(&greedy);
    assert_eq!(out, model.tokenizer.decode(&want) + "\n");
    assert!(err.contains("tokens/s"), "{err}");
    let draw = |seed: &str, threads: &str| {
        ok(&["generate", text(&plain), "-p", "Ax", "-n", "30", "--temp", "1.5", "--top-k", "0", "--seed", seed, "-t", threads]).0
    };
    assert_eq!(draw("1", "1"), draw("1", "2"));
    assert_ne!(draw("1", "1"), draw("2", "1"));
    refused(&["generate", text(&plain), "--temp", "-1"], 2, "from 0 up");
    refused(&["generate", text(&plain), "--top-p", "0"], 2, "above 0 and up to 1");
    refused(&["generate", text(&plain), "--repeat-penalty", "nan"], 2, "above 0");
}

#[test]
fn a_full_context_says_so() {
    let (_dir, plain, _) = models();
    let (_, err) = ok(&["generate", text(&plain), "-p", &"x".repeat(90), "-n", "50", "--temp", "0"]);
    assert!(err.contains("context is full") || err.contains("the model ended the text"), "{err}");
    refused(&["generate", text(&plain), "-p", &"x".repeat(97)], 1, "context is full");
    refused(&["logits", text(&plain), "-p", &"x".repeat(97)], 1, "96 positions");
}

#[test]
fn readings_become_labels_with_probabilities() {
    let (dir, plain, watch) = models();
    let csv = dir.path().join("readings.csv");
    std::fs::write(&csv, "ax,ay,label\n0,0.5,0\n0.1,0.5,0\n0.2,0.5,0\n-1,1,1\n0,,1\n9,-9,1\n0,0,0\n").unwrap();
    let (out, err) = ok(&["classify", text(&watch), text(&csv), "--json"]);
    let lines: Vec<Json> = out.lines().map(json).collect();
    assert_eq!(lines.len(), 2, "two windows of three rows");
    for line in &lines {
        let probs = line["probs"].as_object().unwrap();
        assert_eq!(probs.keys().collect::<Vec<_>>(), ["still", "walk", "walk up"]);
        assert!((probs.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(probs[line["label"].as_str().unwrap()], line["prob"]);
        assert!(probs.values().all(|p| p.as_f64() <= line["prob"].as_f64()));
        assert!(line["at"].as_str().unwrap().contains("readings.csv"));
    }
    assert_eq!(lines[1]["truth"], "walk");
    assert!(err.contains("2 windows"), "{err}");
    let prompt = codec().prompt("Ax: 50 55 60\nAy: 75 75 75");
    let by_prompt = json(&ok(&["classify", text(&watch), "--prompt", &prompt, "--json"]).0);
    let by_input = json(&ok(&["classify", text(&watch), "--input", "Ax: 50 55 60\nAy: 75 75 75", "--json"]).0);
    assert_eq!(by_prompt["probs"], lines[0]["probs"]);
    assert_eq!(by_input["probs"], lines[0]["probs"]);
    let piped = Command::cargo_bin("tinyllm-run")
        .unwrap()
        .args(["classify", text(&watch), "-", "--json"])
        .write_stdin(std::fs::read(&csv).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap().lines().count(), 2);
    assert!(ok(&["classify", text(&watch), text(&csv)]).0.contains(" %  "));

    refused(&["classify", text(&plain), text(&csv)], 1, "knows no labels");
    std::fs::write(&csv, "ax,az\n1,2\n").unwrap();
    refused(&["classify", text(&watch), text(&csv)], 1, "ay");
    std::fs::write(&csv, "ax,ay\n1,2\n1,much\n1,3\n").unwrap();
    refused(&["classify", text(&watch), text(&csv)], 1, "readings.csv");
    std::fs::write(&csv, "ax,ay\n1,2\n").unwrap();
    refused(&["classify", text(&watch), text(&csv)], 1, "window");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let (_dir, plain, _) = models();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("tinyllm-run"))
        .args(["info", text(&plain)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}
