//! `tinyllm-run` as a user meets it: output, errors, exit codes.

#[path = "common/gguf_model.rs"]
mod gguf_model;
#[path = "common/watch.rs"]
mod watch;

use assert_cmd::Command;
use serde_json::Value as Json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tinyllm::gguf::{Gguf, Value, Writer};
use tinyllm::infer::{CacheType, Model, Session, continue_greedily};
use tinyllm::model::Config;
use tinyllm::quant::{FileType, GgmlType};
use watch::codec;

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
    let commands = ["info", "generate", "logits", "classify", "quantize", "pack", "perplexity", "imatrix", "bench", "random"];
    assert!(commands.iter().chain(&["Exit status"]).all(|w| help.contains(w)), "{help}");
    for command in commands {
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
    let tokens = model.prompt("Ax: 4 the").unwrap();
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
    let want = continue_greedily(&mut session, &model.prompt("Ax: 4").unwrap(), 20).unwrap();
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
fn a_constant_prefix_is_read_once_and_kept_in_a_file() {
    let (dir, _plain, watch) = models();
    let (csv, file) = (dir.path().join("readings.csv"), dir.path().join("watch.prefix"));
    std::fs::write(&csv, "ax,ay\n0,0.5\n0.1,0.5\n0.2,0.5\n-1,1\n0,1\n9,-9\n").unwrap();
    let classify = |more: &[&str]| {
        let (out, err) = ok(&[&["classify", text(&watch), text(&csv), "--json"], more].concat());
        (out.lines().map(json).collect::<Vec<_>>(), err)
    };
    let number = |line: &Json, key: &str| line[key].as_u64().unwrap();
    let without_counts = |mut lines: Vec<Json>| {
        for line in &mut lines {
            line["tokens"].take();
            line["kept"].take();
        }
        lines
    };
    let (plainly, err) = classify(&[]);
    assert_eq!(number(&plainly[0], "kept"), 0);
    // The second window: all up to its first reading is held from the first.
    let prefix = number(&plainly[1], "kept");
    assert!(prefix > 10 && number(&plainly[1], "tokens") < number(&plainly[0], "tokens"), "{plainly:?}");
    let read: u64 = plainly.iter().map(|line| number(line, "tokens")).sum();
    assert!(err.contains("2 windows") && err.contains(&format!("{read} tokens read, {prefix} kept")), "{err}");

    for cache in ["f32", "f16", "q8"] {
        let with_file = ["--cache", cache, "--prefix-file", text(&file)];
        let (want, _) = classify(&["--cache", cache]);
        let (first, said) = classify(&with_file);
        assert!(said.contains(&format!("the prefix of {prefix} tokens is kept")), "{said}");
        // Another cache's file is there from the round before.
        assert_eq!(said.contains("made anew"), cache != "f32", "{said}");
        let (second, said) = classify(&with_file);
        assert!(!said.contains("prefix"), "{said}");
        assert!(said.contains(&format!("{} tokens read, {} kept", read - prefix, 2 * prefix)), "{said}");
        assert_eq!(number(&second[0], "kept"), prefix);
        assert_eq!(number(&second[0], "tokens") + prefix, number(&want[0], "tokens"));
        let want = without_counts(want);
        assert_eq!((without_counts(first), without_counts(second)), (want.clone(), want), "the same digits");
    }

    // Damaged, and of another model: the answers are right, and the file is right again.
    let good = std::fs::read(&file).unwrap();
    let want = without_counts(classify(&["--cache", "q8"]).0);
    let with_file = ["--cache", "q8", "--prefix-file", text(&file)];
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bad).unwrap();
    let (got, said) = classify(&with_file);
    assert!(said.contains("checksum is wrong") && said.contains("made anew"), "{said}");
    assert_eq!((without_counts(got), std::fs::read(&file).unwrap()), (want, good.clone()));
    let more = [("tinyllm.codec", Value::String(codec().to_json())), ("tinyllm.labels", Value::strings(codec().labels))];
    gguf_model::tiny_model_with(&watch, &Config { n_ctx: 160, ..gguf_model::tiny_config() }, GgmlType::Q8_0, 4, &more);
    let (got, said) = classify(&with_file);
    assert!(said.contains("watch.prefix: it is of a") && said.contains("made anew"), "{said}");
    assert_eq!(without_counts(got), without_counts(classify(&["--cache", "q8"]).0));
    assert_ne!(std::fs::read(&file).unwrap(), good);
    // What is no prefix is not written over. Where it cannot be written the answers come all the same.
    let (before, (got, said)) = (std::fs::read(&csv).unwrap(), classify(&["--prefix-file", text(&csv)]));
    assert!(said.contains("readings.csv: this is no file of a prefix") && said.contains("left as it is"), "{said}");
    assert_eq!((without_counts(got), std::fs::read(&csv).unwrap()), (without_counts(classify(&[]).0), before));
    let (got, said) = classify(&["--prefix-file", "no/such/folder/prefix"]);
    assert!(said.contains("no/such/folder") && said.contains("the prefix is not kept"), "{said}");
    assert_eq!(without_counts(got), without_counts(classify(&[]).0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left beside the files");
    let wide = wide(dir.path());
    refused(&["classify", text(&wide), "--prompt", "x", "--prefix-file", text(&file)], 1, "leave out --prefix-file");
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

#[test]
fn perplexity_is_told_and_what_has_none_is_refused() {
    let (dir, plain, watch) = models();
    let (text_file, gz) = (dir.path().join("t.txt"), dir.path().join("t.gz"));
    let words: String = (0..200).map(|i| format!("the {} 4\n", i * 37 % 101)).collect();
    std::fs::write(&text_file, &words).unwrap();
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    std::io::Write::write_all(&mut packed, words.as_bytes()).unwrap();
    std::fs::write(&gz, packed.finish().unwrap()).unwrap();
    let told = json(&ok(&["perplexity", text(&plain), text(&text_file), "--json"]).0);
    let n = Model::open(&plain).unwrap().prompt(&words).unwrap().len();
    assert_eq!((told["tokens"].as_u64(), told["ctx"].as_u64()), (Some(n as u64), Some(96)));
    assert_eq!(told["windows"], n / 96);
    assert_eq!(told["scored"], n / 96 * 47, "the tokens behind the first 49 of each window");
    assert!(told["perplexity"].as_f64().unwrap() > 1.0 && told["perplexity_error"].as_f64().unwrap() > 0.0 && told["against"].is_null());
    let same = |other: &Json| assert_eq!(other["perplexity"], told["perplexity"]);
    same(&json(&ok(&["perplexity", text(&plain), text(&gz), "--json", "-t", "1"]).0));
    let piped =
        Command::cargo_bin("tinyllm-run").unwrap().args(["perplexity", text(&plain), "-", "--json"]).write_stdin(words.clone()).output();
    same(&json(&String::from_utf8(piped.unwrap().stdout).unwrap()));
    assert_eq!(json(&ok(&["perplexity", text(&plain), text(&text_file), "--ctx", "20", "--json"]).0)["ctx"], 20);
    let (out, _) = ok(&["perplexity", text(&watch), text(&text_file), "--ctx", "90", "--against", text(&plain)]);
    assert!(["perplexity", "ratio", "divergence", "99 % below", "same likeliest token"].iter().all(|w| out.contains(w)), "{out}");

    refused(&["perplexity", text(&plain), "no/such.txt"], 1, "no/such.txt");
    refused(&["perplexity", text(&plain), text(&text_file), "--ctx", "1"], 2, "2 tokens or more");
    refused(&["perplexity", text(&plain), text(&text_file), "--ctx", "97"], 1, "the model has 96 positions");
    refused(&["perplexity", text(&watch), text(&text_file), "--against", text(&plain)], 1, "give --ctx 96");
    for (what, with) in [("", "the text is empty"), ("x", "one token")] {
        std::fs::write(&text_file, what).unwrap();
        refused(&["perplexity", text(&plain), text(&text_file)], 1, with);
        refused(&["imatrix", text(&plain), text(&text_file), "--out", text(&dir.path().join("i"))], 1, with);
    }
    std::fs::write(&text_file, [b'a', 0xff, b'b']).unwrap();
    refused(&["perplexity", text(&plain), text(&text_file)], 1, "UTF-8");
    std::fs::write(&text_file, "two words").unwrap();
    let other = dir.path().join("other.gguf");
    let vocabulary = Config { n_vocab: Some(262), ..gguf_model::tiny_config() };
    other_vocabulary(&other, &vocabulary);
    refused(&["perplexity", text(&plain), text(&text_file), "--against", text(&other)], 1, "cannot be compared");
}

/// A model with one token more.
fn other_vocabulary(path: &Path, config: &Config) {
    let (mut tokens, merges) = gguf_model::tiny_vocabulary();
    tokens.insert(260, "Ġ4Ġ".into());
    let mut w = Writer::new();
    gguf_model::metadata(&mut w, config, &tokens, &merges, 261, 0);
    gguf_model::tensors(&mut w, config, &gguf_model::random_weights(config, 3), GgmlType::F32);
    w.write(path).unwrap();
}

#[test]
fn a_mix_needs_a_text_and_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out, words) = (wide(dir.path()), dir.path().join("out.gguf"), dir.path().join("t.txt"));
    std::fs::write(&words, "the 4 the 5 the 6 ".repeat(20)).unwrap();
    refused(&["quantize", text(&model), text(&out), "--type", "auto"], 2, "--text");
    refused(&["quantize", text(&model), text(&out), "--type", "q4_0", "--text", text(&words)], 1, "--text is what --type auto");
    refused(&["quantize", text(&model), text(&out), "--type", "auto", "--text", text(&words), "--max-kl", "0"], 2, "above 0");
    refused(&["quantize", text(&model), text(&out), "--type", "auto", "--text", text(&words), "--max-kl", "1e-12"], 1, "raise the bound");
    refused(&["quantize", text(&model), text(&out), "--type", "auto", "--text", "no/such"], 1, "no/such");
    assert!(!out.exists());
    let (said, _) = ok(&["quantize", text(&model), text(&out), "--type", "auto", "--text", text(&words), "--max-kl", "0.02"]);
    assert!(["matrix", "share", "measured as a whole", "auto (file type"].iter().all(|w| said.contains(w)), "{said}");
    assert_eq!(ok(&["logits", text(&out), "-p", "Ax", "--top", "2"]).0.lines().count(), 2);
    refused(&["quantize", text(&out), text(&dir.path().join("again")), "--type", "auto", "--text", text(&words)], 1, "already");
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
