//! `tinyllm-run bench` and `random` as a user meets them. What they time is not judged here: only that it is all there, and makes sense.

#[path = "common/gguf_model.rs"]
mod gguf_model;

use assert_cmd::Command;
use serde_json::Value as Json;
use tinyllm::infer::Model;
use tinyllm::quant::{FileType, GgmlType};

fn run(args: &[&str]) -> (i32, String, String) {
    let out = Command::cargo_bin("tinyllm-run").unwrap().args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn a_line_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    gguf_model::tiny_model(&model, GgmlType::Q8_0, 3);
    let sizes = ["--pp", "5,70", "--tg", "4", "--depth", "0,20", "--trials", "3"];
    let how = ["-t", "1,auto", "--instances", "1,2", "--background", "1", "--cache", "q8", "--json"];
    let (code, out, err) = run(&[&["bench", model.to_str().unwrap()], &sizes[..], &how[..]].concat());
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Json> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["model"], &line["type"], &line["background"], &line["trials"]),
            (&"model.gguf".into(), &"Q8_0".into(), &1.into(), &3.into())
        );
        assert_eq!((&line["cache"], line["instances"].as_u64().unwrap()), (&"q8".into(), 1 + i as u64 % 2));
        assert!(line["threads"].as_u64().unwrap() >= 1);
        for key in ["pp5", "pp70", "tg4", "tg4@20", "start_ms", "first_token_ms"] {
            let number = |v: &Json| v[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
            let (median, least, most) = (number(line), number(&line["min"]), number(&line["max"]));
            assert!(0.0 < least && least <= median && median <= most, "{key} in {line}");
        }
        // Of two instances a rate is both together.
        assert_eq!(line["each"]["pp70"].is_number(), i % 2 == 1);
        assert!(line.get("label_ms").is_none());
        if cfg!(target_os = "linux") {
            let (peak, file) = (line["peak_rss_bytes"].as_u64().unwrap(), std::fs::metadata(&model).unwrap().len());
            assert!(peak > file && peak < 1 << 30, "{peak}");
        }
    }
    // For people.
    let (code, out, err) = run(&["bench", model.to_str().unwrap(), "--pp", "8", "--tg", "2", "--trials", "1", "-t", "1"]);
    assert_eq!(code, 0, "{err}");
    for word in ["Q8_0", "1 thread\n", "prompt of 8", "generation of 2", "tokens/s", "first token, after 8"] {
        assert!(out.contains(word), "{word} in {out}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_timed() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    gguf_model::tiny_model(&model, GgmlType::F16, 3); // 96 positions
    let model = model.to_str().unwrap();
    for (args, code, with) in [
        (&["bench", model, "--pp", "97"][..], 1, "--pp 97: the model reads 96 tokens"),
        (&["bench", model, "--pp", "8", "--tg", "90", "--depth", "7"], 1, "97 tokens"),
        (&["bench", model, "--pp", "0"], 2, "0"),
        (&["bench", model, "-t", "0"], 2, "auto or a number from 1"),
        (&["bench", model, "-t", "many"], 2, "auto or a number"),
        (&["bench", model, "--instances", "0"], 2, "0"),
        (&["bench", model, "--trials", "0"], 2, "0"),
        (&["bench", "nowhere.gguf"], 1, "nowhere.gguf"),
        (&["bench", model, "--pp", "8", "--tg", "8", "--classify", "readings.csv"], 1, "no sensor codec"),
        (&["random", "31m", "--type", "q8_0", "--out", "x.gguf"], 2, "31m"),
        (&["random", "30m", "--type", "q9", "--out", "x.gguf"], 2, "q4_k_m"),
        (&["random", "30m", "--type", "q8_0", "--out", model], 1, "exists"),
    ] {
        let (got, out, err) = run(args);
        assert!(got == code && err.contains(with) && out.is_empty() && !err.contains("panicked"), "{args:?}: {got} {out} {err}");
    }
}

#[test]
fn a_random_model_is_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (sizes, out) = (dir.path().join("sizes.toml"), dir.path().join("random.gguf"));
    std::fs::write(&sizes, "n_embd = 64\nn_head = 2\nn_layer = 1\nn_ctx = 32\n").unwrap();
    let (code, _, err) = run(&["random", sizes.to_str().unwrap(), "--type", "q4_0", "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let model = Model::open(&out).unwrap();
    assert_eq!((model.config.n_embd, model.config.n_ctx, model.config.vocab()), (64, 32, 50_257));
    assert_eq!(model.file.unsigned("general.file_type").unwrap(), u64::from(FileType::Q4_0.id()));
}
