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
use tinyllm::gguf::{Gguf, Value, Writer};
use tinyllm::infer::{CacheType, Model, Session, continue_greedily};
use tinyllm::model::Config;
use tinyllm::quant::{FileType, GgmlType};

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
    assert!(["info", "generate", "logits", "classify", "quantize", "pack", "Exit status"].iter().all(|w| help.contains(w)), "{help}");
    for command in ["info", "generate", "logits", "classify", "quantize", "pack"] {
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
    let memory = |part: &str| info["memory"][part].as_u64().unwrap();
    assert_eq!(
        info["memory"]["cache"]["f32"],
        2 * 4 * 2 * 96 * 192,
        "keys and values, 4 bytes, 2 blocks, 96 channels, 160 positions in whole tiles"
    );
    assert!(memory("weights") > 150_000 && memory("total") > memory("weights") + memory("room") + memory("program"));
    assert!(out.contains("memory to run it: "), "{out}");
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

/// A model whose rows are multiples of 256, with labels, as F32.
fn wide(dir: &Path) -> PathBuf {
    let path = dir.join("wide.gguf");
    let more = [("tinyllm.labels", Value::strings(["still", "walk"]))];
    gguf_model::tiny_model_with(&path, &gguf_model::wide_config(), GgmlType::F32, 3, &more);
    path
}

#[test]
fn a_model_of_every_type_is_written_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let model = wide(dir.path());
    let before = json(&ok(&["info", text(&model), "--json"]).0);
    let classified =
        |path: &Path| json(&ok(&["classify", text(path), "--prompt", "Ax: 47 the 4", "--json"]).0)["probs"]["still"].as_f64().unwrap();
    let (want, mut bytes) = (classified(&model), f64::INFINITY);
    for ty in FileType::ALL {
        let out = dir.path().join(format!("{}.gguf", ty.name()));
        let told = json(&ok(&["quantize", text(&model), text(&out), "--type", &ty.name().to_lowercase(), "--json"]).0);
        assert_eq!((told["type"].as_str(), told["file_bytes"].as_u64()), (Some(ty.name()), Some(std::fs::metadata(&out).unwrap().len())));
        let info = json(&ok(&["info", text(&out), "--json"]).0);
        assert_eq!(info["metadata"]["general.file_type"], ty.id());
        assert_eq!(
            (&info["parameters"], &info["labels"], &info["tensors"]),
            (&before["parameters"], &before["labels"], &before["tensors"])
        );
        assert!(info["not_runnable"].is_null(), "{info}");
        for tensor in told["tensors"].as_array().unwrap() {
            let name = tensor["name"].as_str().unwrap();
            let matrix = name.ends_with("weight") && !name.contains("norm") && !name.starts_with("position");
            assert_eq!(tensor["error"].is_null(), !matrix || ty == FileType::F32, "{name}");
            // A matrix of normal weights: no format loses a third, and those of 16 bits next to nothing.
            assert!(
                tensor["error"].as_f64().is_none_or(|e| e > 0.0 && e < if ty.format().is_quantized() { 0.31 } else { 0.003 }),
                "{tensor}"
            );
        }
        let bits = told["bits_per_weight"].as_f64().unwrap();
        // Q4_1 and Q5_1, Q5_0 differ from their K-quants by the head alone; all others fall with the list.
        assert!(bits <= bytes + 0.6, "{}: {bits} after {bytes}", ty.name());
        bytes = bits;
        // Two bits leave the label's probability within some tenths; this is a random model.
        assert!((classified(&out) - want).abs() < if ty.format().is_quantized() { 0.35 } else { 0.01 }, "{}", ty.name());
        assert!(!ok(&["generate", text(&out), "-p", "Ax", "-n", "4", "--temp", "0"]).0.is_empty());
        assert_eq!(ok(&["logits", text(&out), "-p", "Ax", "--top", "2"]).0.lines().count(), 2);
    }
    // The way round: from a smaller type, asked for.
    let (small, again) = (dir.path().join("Q8_0.gguf"), dir.path().join("again.gguf"));
    refused(&["quantize", text(&small), text(&again), "--type", "q4_k"], 1, "Q8_0 already");
    assert!(!again.exists());
    let (said, _) = ok(&["quantize", text(&small), text(&again), "--type", "q4_k", "--allow-requantize", "-t", "1"]);
    assert!(said.contains("Q4_K_M") && said.contains("blk.1.attn_qkv.weight") && said.contains("bits a weight"), "{said}");
    let tensor = |path: &Path| Gguf::open(path).unwrap().tensor("blk.0.ffn_up.weight").unwrap().ty.name;
    assert_eq!((tensor(&again), tensor(&small)), ("Q4_K", "Q8_0"));
}

#[test]
fn what_cannot_be_quantized_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let model = wide(dir.path());
    let out = dir.path().join("out.gguf");
    refused(&["quantize", text(&model), text(&out), "--type", "q4_k_x"], 2, "q4_k_m");
    refused(&["quantize", text(&model), text(&out)], 2, "--type");
    refused(&["quantize", text(&model), text(&out), "--type", "q4_0", "-t", "0"], 2, "0");
    refused(&["quantize", text(&model), text(&model), "--type", "q4_0"], 1, "exists already");
    refused(&["quantize", "no/such.gguf", text(&out), "--type", "q4_0"], 1, "no/such.gguf");
    refused(&["quantize", text(&model), "no/such/out.gguf", "--type", "q4_0"], 1, "no/such");
    refused(&["quantize", text(&model), text(&out), "--type", "q4_0", "--imatrix", text(&model)], 1, "no importance matrix");

    // A weight that is no number, found when half of the file is written.
    let mut bytes = std::fs::read(&model).unwrap();
    let at = {
        let file = Gguf::open(&model).unwrap();
        let tensor = file.tensor("blk.1.ffn_up.weight").unwrap();
        tensor.start + 4 * (256 * 7 + 3)
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = dir.path().join("bad.gguf");
    std::fs::write(&bad, &bytes).unwrap();
    refused(&["quantize", text(&bad), text(&out), "--type", "q4_0"], 1, "blk.1.ffn_up.weight: a weight of row 7 is no finite number");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left of it");
}

/// A file as llama-imatrix writes it, of the model's first matrices.
fn importance_file(path: &Path, columns: u64, names: &[&str]) {
    let mut w = Writer::new();
    w.meta("general.type", "imatrix").meta("imatrix.chunk_count", 1u32);
    for name in names {
        let sums: Vec<u8> = (0..columns).flat_map(|c| (0.25 * (c % 9) as f32).exp().to_le_bytes()).collect();
        w.tensor(&format!("{name}.in_sum2"), 0, &[columns, 1], Box::new(move |out| out.write_all(&sums)));
        w.tensor(&format!("{name}.counts"), 0, &[1, 1], Box::new(|out| out.write_all(&64f32.to_le_bytes())));
    }
    w.write(path).unwrap();
}

#[test]
fn importance_is_used_where_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let model = wide(dir.path());
    let (imatrix, out, plain) = (dir.path().join("i.gguf"), dir.path().join("out.gguf"), dir.path().join("plain.gguf"));
    importance_file(&imatrix, 256, &["blk.0.attn_qkv.weight", "blk.1.ffn_up.weight"]);
    ok(&["quantize", text(&model), text(&plain), "--type", "q4_k"]);
    let told = json(&ok(&["quantize", text(&model), text(&out), "--type", "q4_k", "--imatrix", text(&imatrix), "--json"]).0);
    let (weighed, unweighed) = (Gguf::open(&out).unwrap(), Gguf::open(&plain).unwrap());
    for tensor in told["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let known = ["blk.0.attn_qkv.weight", "blk.1.ffn_up.weight"].contains(&name);
        assert_eq!(tensor["importance"], known);
        let (a, b) = (weighed.tensor(name).unwrap(), unweighed.tensor(name).unwrap());
        assert_eq!(weighed.data(a) == unweighed.data(b), !known, "{name}");
    }
    std::fs::remove_file(&out).unwrap();
    importance_file(&imatrix, 128, &["blk.0.attn_qkv.weight"]);
    refused(&["quantize", text(&model), text(&out), "--type", "q4_k", "--imatrix", text(&imatrix)], 1, "it is another model's");
    importance_file(&imatrix, 256, &["blk.0.other.weight"]);
    refused(&["quantize", text(&model), text(&out), "--type", "q4_k", "--imatrix", text(&imatrix)], 1, "none of the model's tensors");
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_fit_is_refused_with_figures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    // A cache of 100 MB.
    let config = Config { n_ctx: 1 << 16, ..gguf_model::tiny_config() };
    gguf_model::tiny_model_with(&path, &config, GgmlType::Q8_0, 1, &[]);
    let run = assert_cmd::cargo::cargo_bin("tinyllm-run");
    let limited = |kilobytes: u32, cache: &str| {
        let script =
            format!("ulimit -v {kilobytes} && exec '{}' generate '{}' -p x -n 2 -t 1 --cache {cache}", run.display(), path.display());
        let out = Command::new("sh").args(["-c", &script]).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, err) = limited(120_000, "f32");
    assert_eq!(code, Some(1), "{err}");
    let figures = ["large.gguf: running it takes", "cache of 65536 tokens 100.7", "available under this process's limits", "--cache q8"];
    assert!(figures.iter().all(|f| err.contains(f)), "{err}");
    let (code, err) = limited(400_000, "f32");
    assert_eq!(code, Some(0), "{err}");
}
