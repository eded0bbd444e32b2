//! What a trained model loses by being quantized, and what importance and a mix of formats win back, through the programs.

#[path = "common/small_run.rs"]
mod small_run;

use serde_json::Value as Json;
use small_run::{Place, RUN, said};

/// Rows of 64 and 256: `ffn_down` gets K-quants, the others their stand-ins.
const MODEL: &str = "n_embd = 64\nn_head = 2\nn_layer = 2\nn_ctx = 64\n";

fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    let out = place.command(RUN, args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn json(place: &Place, args: &[&str]) -> Json {
    let (code, out, err) = run(place, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// A model that has learned something, its data, and texts of their kind: `training.txt`, `held-out.txt`.
fn trained() -> Place {
    let place = Place::prepared();
    place.write("sized.toml", MODEL);
    place.ok(&[
        "pretrain",
        "--data",
        "data",
        "--model",
        "sized.toml",
        "--steps",
        "120",
        "--batch-tokens",
        "512",
        "--lr",
        "3e-3",
        "--out",
        "base",
    ]);
    let windows = |split: &str| -> String {
        let lines = std::fs::read_to_string(place.path(&format!("data/finetune/{split}.jsonl"))).unwrap();
        let input = |line: &str| serde_json::from_str::<Json>(line).unwrap()["input"].as_str().unwrap().to_owned() + "\n";
        lines.lines().map(input).collect()
    };
    place.write("training.txt", &windows("train"));
    place.write("held-out.txt", &(windows("validation") + &windows("test")));
    place
}

#[test]
fn what_importance_and_mixes_win() {
    let place = trained();
    place.ok(&["export", "base", "--type", "f32", "--out", "f32.gguf"]);
    let kl = |file: &str| -> f64 {
        let told = json(&place, &["perplexity", file, "held-out.txt", "--against", "f32.gguf", "--json"]);
        assert!(told["perplexity"].as_f64().unwrap() < 100.0, "a model of 400 tokens that learned something: {told}");
        told["against"]["kl"]["mean"].as_f64().unwrap()
    };

    // Importance: of a folder, a text and a file, by either program.
    let said_of_export = place.ok(&["export", "base", "--type", "q2_k,q4_0", "--imatrix", "data", "--out", "weighed"]);
    assert!(said_of_export.contains("Q2_K") && !place.path("weighed/.model-q2_k.unquantized").exists(), "{said_of_export}");
    assert!(place.leftovers("weighed").is_empty());
    place.ok(&["export", "base", "--type", "q2_k,q4_0", "--out", "plain"]);
    for ty in ["q2_k", "q4_0"] {
        let (with, without) = (kl(&format!("weighed/model-{ty}.gguf")), kl(&format!("plain/model-{ty}.gguf")));
        println!("{ty}: {without:.5} without, {with:.5} with importance");
        assert!(with < 0.95 * without, "{ty}: {with} {without}");
    }
    let (code, out, err) = run(&place, &["imatrix", "f32.gguf", "training.txt", "--out", "i.gguf"]);
    assert!(code == 0 && out.contains("9 matrices"), "{out}{err}");
    json(&place, &["quantize", "f32.gguf", "by-file.gguf", "--type", "q4_0", "--imatrix", "i.gguf", "--json"]);
    json(&place, &["quantize", "f32.gguf", "by-text.gguf", "--type", "q4_0", "--imatrix", "training.txt", "--json"]);
    place.ok(&["export", "base", "--type", "q4_0", "--imatrix", "i.gguf", "--out", "exported.gguf"]);
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("by-file.gguf") == bytes("exported.gguf"), "the same importance, the same file");
    // The sums of a file are f32, and those of a text were not.
    assert!((kl("by-file.gguf") / kl("by-text.gguf") - 1.0).abs() < 0.1);

    // A mix: by default measured on the run's own validation data.
    let told = place.ok(&["export", "base", "--type", "auto", "--max-kl", "0.02", "--imatrix", "data", "--out", "auto.gguf"]);
    assert!(told.contains("token_embd.weight") && told.contains("measured as a whole") && told.contains("auto (file type"), "{told}");
    place.ok(&["export", "base", "--type", "q8_0", "--out", "q8_0.gguf"]);
    assert!(bytes("auto.gguf").len() < bytes("q8_0.gguf").len());
    assert!(kl("auto.gguf") < 0.03, "{}", kl("auto.gguf"));
    let args = ["quantize", "f32.gguf", "mixed.gguf", "--type", "auto", "--text", "held-out.txt", "--max-kl", "0.02", "--json"];
    let told = json(&place, &args);
    assert_eq!(told["auto"]["groups"].as_array().unwrap().len(), 9);
    assert!((kl("mixed.gguf") / told["auto"]["kl"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{told}");

    // What cannot be.
    let refused = |args: &[&str], code: i32, with: &str| {
        let out = place.train(args);
        assert!(out.status.code() == Some(code) && said(&out).contains(with), "{args:?}: {}", said(&out));
        assert!(!place.path("no.gguf").exists());
    };
    refused(&["export", "base", "--type", "q4_0", "--imatrix", "nowhere", "--out", "no.gguf"], 1, "nowhere");
    refused(&["export", "base", "--type", "q4_0", "--imatrix", "base", "--out", "no.gguf"], 1, "no prepared data here");
    refused(&["export", "base", "--type", "q4_0", "--imatrix", "f32.gguf", "--out", "no.gguf"], 1, "no importance matrix");
    refused(&["export", "base", "--type", "q4_0", "--text", "held-out.txt", "--out", "no.gguf"], 2, "--text is what --type auto");
    refused(&["export", "base", "--type", "auto", "--max-kl", "0", "--out", "no.gguf"], 2, "--max-kl");
    refused(&["export", "base", "--type", "auto", "--max-kl", "1e-12", "--out", "no.gguf"], 1, "raise the bound");
    refused(&["export", "base/best", "--type", "autos", "--out", "no.gguf"], 2, "there is no such type");
}
