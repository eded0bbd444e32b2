//! Bad input of `tinyllm-train`: each case ends in an error that names the place and the way out, with the right exit
//! code, and what was there before is there afterwards, to the byte.

#[path = "common/small_run.rs"]
mod small_run;
#[path = "common/table.rs"]
mod table;

use small_run::{Place, TRAIN, differing, said};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;
use table::Table;
use tinyllm::model::Tree;
use tinyllm::model::io::hf;

/// What a case does to the recipe and the readings before they are prepared.
enum Change {
    /// Replaces the first text by the second in a file.
    Edit(&'static str, &'static str, &'static str),
    /// Appends to a file.
    Append(&'static str, &'static str),
    /// Writes a file anew.
    Write(&'static str, &'static [u8]),
    /// Removes a file.
    Remove(&'static str),
}
use Change::{Append, Edit, Remove, Write};

#[test]
fn recipes_and_readings() {
    const CSV: &str = "readings.csv";
    const TOML: &str = "recipe.toml";
    let long = "instruction = \"Which of all movements is it that the four people made while they were recorded with a watch on their wrist, \
                walking or not walking at all, and in which direction, how fast, how far and for how long did they go?\"";
    let cases: &[(&str, Change, &[&str])] = &[
        ("a missing column", Edit(CSV, "ax,ay", "ax,az"), &["readings.csv:1: ", "no column 'ay'", "ax, az", "Correct the name"]),
        ("no label column", Edit(CSV, ",label,", ",class,"), &["readings.csv:1: ", "no column 'label'"]),
        ("a row too short", Append(CSV, "1,1s,s,0.5\n"), &["readings.csv:642: ", "4 cells where the header has 5"]),
        ("a row too long", Append(CSV, "1,1s,s,0.5,0.5,0.5\n"), &["readings.csv:642: ", "6 cells where the header has 5", "quotes"]),
        (
            "text for a number",
            Append(CSV, "1,1s,s,0.5,high\n"),
            &["readings.csv:642: ", "column 'ay'", "'high' is no number", "correct it"],
        ),
        ("an endless number", Append(CSV, "1,1s,s,0.5,inf\n"), &["readings.csv:642: ", "'inf' is no number"]),
        ("an unknown label", Append(CSV, "1,1s,run,0.5,0.5\n"), &["readings.csv:642: ", "'run'", "[readings.labels]", "ignore"]),
        ("not UTF-8", Write(CSV, b"subject,series,label,ax,ay\n1,1s,s,0.5,\xff\n"), &["readings.csv:2: ", "UTF-8"]),
        ("an empty file", Write(CSV, b""), &["readings.csv:1: ", "must name the columns"]),
        ("no rows", Write(CSV, b"subject,series,label,ax,ay\n"), &["readings.csv", "no row below the header"]),
        ("a cut gzip", Write(CSV, &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0xac]), &["readings.csv:1: ", "cut short", "copy it again"]),
        ("no readings", Remove(CSV), &["readings.csv"]),
        ("no recipe", Remove(TOML), &["recipe.toml: cannot read"]),
        (
            "an empty class",
            Edit(TOML, "w = \"walk\"", "w = \"walk\"\nr = \"run\""),
            &["recipe.toml: ", "no row is labelled 'r'", "take it out"],
        ),
        ("a class nobody trains", Append(CSV, TESTED_ONLY), &["recipe.toml: ", "class 'x' has no training example", "split otherwise"]),
        (
            "a window too long",
            Edit(TOML, "window = 8", "window = 81"),
            &["recipe.toml: ", "longer than any recording", "80 rows", "shorter window"],
        ),
        (
            "no room for the window",
            Edit(TOML, "instruction = \"Which?\"", long),
            &["recipe.toml: ", "context = 64", "instruction", "raise context"],
        ),
        ("an unknown key", Edit(TOML, "stride = 4", "strode = 4"), &["recipe.toml: ", "line 13", "strode"]),
        ("an unknown key at the top", Edit(TOML, "seed = 1", "sede = 1"), &["recipe.toml: ", "line 1", "sede"]),
        ("an unknown table", Append(TOML, "[finetune]\nsteps = 3\n"), &["recipe.toml: ", "finetune"]),
        ("no TOML", Write(TOML, b"seed == 1"), &["recipe.toml: ", "line 1"]),
        ("nothing to do", Write(TOML, b"seed = 1"), &["recipe.toml: ", "nothing to prepare", "[readings]"]),
        ("a subject twice", Edit(TOML, "test = [4]", "test = [3]"), &["recipe.toml: ", "subject '3' is listed twice"]),
        ("a subject nobody knows", Edit(TOML, "test = [4]", "test = [5]"), &["'"]),
        ("a window of nothing", Edit(TOML, "window = 8", "window = 0"), &["recipe.toml: ", "window"]),
        ("a negative rate", Edit(TOML, "rate_hz = 10.0", "rate_hz = -10.0"), &["recipe.toml: ", "rate_hz"]),
        (
            "too small a vocabulary",
            Edit(TOML, "trimmed = 400", "trimmed = 300"),
            &["recipe.toml: ", "vocabulary.trimmed = 300", "raise it"],
        ),
        ("no tokens to draw", Edit(TOML, "tokens = 20_000", "tokens = 0"), &["recipe.toml: ", "pretrain.tokens"]),
    ];
    let mut table = Table::default();
    for (what, change, words) in cases {
        let place = Place::new();
        match change {
            Edit(file, from, to) => place.edit(file, from, to),
            Append(file, text) => place.write(file, &(fs::read_to_string(place.path(file)).unwrap() + text)),
            Write(file, bytes) => fs::write(place.path(file), bytes).unwrap(),
            Remove(file) => fs::remove_file(place.path(file)).unwrap(),
        }
        if *what == "a class nobody trains" {
            place.edit(TOML, "w = \"walk\"", "w = \"walk\"\nx = \"x\"");
        }
        table.refused(&place, what, TRAIN, &["prepare", "recipe.toml", "--out", "data"], 1, words);
    }
    // What is there already is never written over, whatever it is.
    let place = Place::prepared();
    fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/diary.txt", "dear diary");
    place.write("file", "");
    let prepare = |out| ["prepare", "recipe.toml", "--out", out];
    table.refused(&place, "prepared before", TRAIN, &prepare("data"), 1, &["data: ", "already prepared", "remove the folder"]);
    table.refused(&place, "a folder of something else", TRAIN, &prepare("mine"), 1, &["mine: ", "holds no prepared data", "another --out"]);
    table.refused(&place, "a file in the place of a folder", TRAIN, &prepare("file"), 1, &["file: ", "another --out"]);
    table.refused(&place, "below a file", TRAIN, &prepare("file/data"), 1, &["file/"]);
    table.done(32);
}

/// Eight rows of a class that only the tested subject shows.
const TESTED_ONLY: &str = "4,4x,x,1,1\n4,4x,x,2,2\n4,4x,x,1,1\n4,4x,x,2,2\n4,4x,x,1,1\n4,4x,x,2,2\n4,4x,x,1,1\n4,4x,x,2,2\n";

const PRETRAIN: [&str; 11] =
    ["pretrain", "--data", "data", "--model", "model.toml", "--steps", "6", "--batch-tokens", "256", "--eval-every", "3"];

/// A place with data and `base`, a finished run.
fn trained() -> Place {
    let place = Place::prepared();
    place.ok(&[&PRETRAIN[..], &["--out", "base"]].concat());
    place
}

#[test]
fn data_and_checkpoints() {
    let place = trained();
    place.ok(&["finetune", "--base", "base", "--data", "data", "--steps", "2", "--out", "task"]);
    let mut table = Table::default();
    let pretrain = [&PRETRAIN[..], &["--out", "new"]].concat();
    let finetune = ["finetune", "--base", "base", "--data", "data", "--out", "new"];
    let resume = ["pretrain", "--resume", "--out", "base"];

    // One byte less, one more, none, and one that says what no token is.
    let shard = "data/pretrain/train_000.bin";
    let good = fs::read(place.path(shard)).unwrap();
    for (what, cut) in [("a shard without its last byte", good.len() - 1), ("half a shard", good.len() / 2), ("an empty shard", 0)] {
        fs::write(place.path(shard), &good[..cut]).unwrap();
        let words = ["train_000.bin: ", "the manifest promises", "prepare the data again"];
        table.refused(&place, what, TRAIN, &pretrain, 1, &words);
    }
    let mut bad = good.clone();
    bad[1024..].fill(0xff);
    fs::write(place.path(shard), &bad).unwrap();
    let out = place.train(&pretrain);
    table.judge("a damaged shard", &out, 1, &["train_000.bin at byte ", "token 65535 is beyond the vocabulary", "damaged"]);
    fs::remove_dir_all(place.path("new")).ok();
    fs::write(place.path(shard), &good).unwrap();
    fs::rename(place.path(shard), place.path("aside")).unwrap();
    table.refused(&place, "a shard that is gone", TRAIN, &pretrain, 1, &["train_000.bin: ", "it is not there", "prepare the data again"]);
    fs::rename(place.path("aside"), place.path(shard)).unwrap();

    let mut damaged = |what: &str, file: &str, change: &dyn Fn(&mut Vec<u8>), args: &[&str], words: &[&str]| {
        let good = fs::read(place.path(file)).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        assert_ne!(good, bad, "{what}");
        fs::write(place.path(file), &bad).unwrap();
        table.refused(&place, what, TRAIN, args, 1, words);
        fs::write(place.path(file), &good).unwrap();
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes()
    };
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    damaged("a manifest that is none", "data/manifest.json", &half, &pretrain, &["manifest.json:"]);
    damaged("a codec that is none", "data/codec.json", &|b| b[0] = b'[', &finetune, &["codec.json"]);
    damaged("examples cut short", "data/finetune/train.jsonl", &half, &finetune, &["train.jsonl", "prepare the data again"]);
    damaged(
        "a wrong width",
        "base/best/config.json",
        &replace("\"n_embd\": 48", "\"n_embd\": 96"),
        &finetune,
        &["model.safetensors", "wte.weight", "its shape is"],
    );
    damaged(
        "a block too many",
        "base/best/config.json",
        &replace("\"n_layer\": 2", "\"n_layer\": 3"),
        &finetune,
        &["model.safetensors", "'transformer.h.2.", "missing"],
    );
    damaged(
        "another vocabulary",
        "base/best/config.json",
        &replace("\"vocab_size\": 400", "\"vocab_size\": 399"),
        &finetune,
        &["base/best", "399", "the data's tokenizer 400"],
    );
    damaged("weights cut short", "base/best/model.safetensors", &half, &finetune, &["base/best/model.safetensors"]);
    damaged("weights that are none", "base/best/model.safetensors", &|b| b[..8].fill(0xff), &finetune, &["base/best/model.safetensors"]);
    damaged(
        "a wrong shape, resumed",
        "base/last/config.json",
        &replace("\"n_embd\": 48", "\"n_embd\": 96"),
        &resume,
        &["base/last/model.safetensors", "its shape is"],
    );
    damaged("moments cut short", "base/last/optimizer.safetensors", &half, &resume, &["base/last/optimizer.safetensors"]);
    damaged("a state that is none", "base/last/state.json", &half, &resume, &["base/last/state.json"]);
    damaged(
        "a state elsewhere",
        "base/last/state.json",
        &replace("\"tokens\": 18", "\"tokens\": 28"),
        &resume,
        &["28016 tokens and these have 18016"],
    );
    damaged(
        "an adapter cut short",
        "task/last/adapter/adapter_model.safetensors",
        &half,
        &["finetune", "--resume", "--out", "task"],
        &["adapter_model.safetensors"],
    );
    damaged(
        "a model description that is none",
        "model.toml",
        &replace("n_head = 3", "n_head = 5"),
        &pretrain,
        &["model.toml", "no multiple"],
    );
    damaged("an unknown size", "model.toml", &replace("n_head", "heads"), &pretrain, &["model.toml", "heads"]);

    for (what, args, words) in [
        (
            "a run that is there",
            [&PRETRAIN[..], &["--out", "base"]].concat(),
            &["base: it exists already", "--resume", "another folder"][..],
        ),
        ("a task that is there", [&finetune[..5], &["--out", "task"]].concat(), &["task: it exists already", "--resume", "another folder"]),
        ("a file in its place", [&PRETRAIN[..], &["--out", "model.toml"]].concat(), &["model.toml: it exists already"]),
        ("no data", ["pretrain", "--data", "nodata", "--out", "new"].to_vec(), &["nodata: ", "tinyllm-train prepare"]),
        ("a folder without data", ["pretrain", "--data", "base", "--out", "new"].to_vec(), &["base: ", "tinyllm-train prepare"]),
        ("no base", ["finetune", "--base", "nobase", "--data", "data", "--out", "new"].to_vec(), &["nobase: there is no such folder"]),
        ("a base that is data", ["finetune", "--base", "data", "--data", "data", "--out", "new"].to_vec(), &["data: it is neither a run"]),
        ("no such model", ["pretrain", "--data", "data", "--model", "125m", "--out", "new"].to_vec(), &["'125m'", "124m"]),
        (
            "too long a context",
            ["finetune", "--base", "base", "--data", "data", "--out", "new", "--ctx", "20"].to_vec(),
            &["positions and the model has 20", "longer context"],
        ),
    ] {
        table.refused(&place, what, TRAIN, &args, 1, words);
    }

    place.edit("recipe.toml", "trimmed = 400", "trimmed = 390");
    place.ok(&["prepare", "recipe.toml", "--out", "other"]);
    place.write("there.gguf", "precious");
    fs::create_dir(place.path("models")).unwrap();
    place.write("models/model-f16.gguf", "precious");
    let stranger = &["other: its tokenizer is not the one", "--data"][..];
    for (what, args, words) in [
        ("eval of nothing", &["eval", "norun", "--data", "data"][..], &["norun: there is no such folder"][..]),
        ("eval without data", &["eval", "task", "--data", "nodata"], &["nodata: ", "tinyllm-train prepare"]),
        ("eval on data of others", &["eval", "task", "--data", "other"], stranger),
        ("export of nothing", &["export", "norun", "--out", "new.gguf"], &["norun: there is no such folder"]),
        ("export of data", &["export", "data", "--out", "new.gguf"], &["data: it is neither a run"]),
        ("export with data of others", &["export", "task", "--data", "other", "--out", "new.gguf"], stranger),
        ("export over a file", &["export", "task", "--out", "there.gguf"], &["there.gguf: it exists already", "another --out"]),
        ("export into files", &["export", "task", "--type", "f32,f16", "--out", "models"], &["models/model-f16.gguf: it exists already"]),
        ("export of several to a file", &["export", "task", "--type", "f32,f16", "--out", "there.gguf"], &["there.gguf: it is a file"]),
        ("quickstart over a folder", &["quickstart", "--out", "data"], &["data: it exists already", "another --out"]),
    ] {
        table.refused(&place, what, TRAIN, args, 1, words);
    }
    table.done(38);
}

#[test]
fn numbers_out_of_range() {
    let place = trained();
    let mut table = Table::default();
    let pretrain = [&PRETRAIN[..5], &["--out", "new"]].concat();
    let finetune = ["finetune", "--base", "base", "--data", "data", "--out", "new"];
    let both: &[&[&str]] = &[
        &["--lr", "0"],
        &["--lr", "-1"],
        &["--lr", "nan"],
        &["--lr", "inf"],
        &["--lr", "fast"],
        &["--steps", "0"],
        &["--steps", "-3"],
        &["--steps", "1.5"],
        &["--micro-batch", "0"],
        &["--micro-batch", "999999"],
        &["--ctx", "0"],
        &["--ctx", "65"],
        &["--seed", "text"],
        &["--seed", "-1"],
        &["--seed", "18446744073709551615"],
        &["--end-fraction", "2"],
        &["--end-fraction", "-0.1"],
        &["--end-fraction", "nan"],
        &["--warmup", "1000000"],
        &["--weight-decay", "-1"],
        &["--weight-decay", "nan"],
        &["--eval-every", "0"],
        &["--threads", "0"],
        &["--threads", "99999"],
        &["--device", "tpu"],
    ];
    let own: [&[&[&str]]; 2] = [
        &[&["--batch-tokens", "0"], &["--tokens", "0"], &["--clip", "0"], &["--clip", "nan"], &["--save-every", "0"], &["--resume"]],
        &[
            &["--lora-rank", "0"],
            &["--lora-rank", "49"],
            &["--lora-alpha", "0"],
            &["--lora-alpha", "inf"],
            &["--lora-dropout", "1"],
            &["--lora-dropout", "-0.1"],
            &["--prompt-loss-weight", "1.5"],
            &["--accumulate", "0"],
            &["--targets", "attn.c_attn,attn.q"],
            &["--targets", ""],
            &["--resume"],
        ],
    ];
    for (command, own) in [&pretrain[..], &finetune].into_iter().zip(own) {
        for flags in both.iter().chain(own) {
            let args = [command, flags].concat();
            table.refused(&place, &format!("{} {}", args[0], flags.join(" ")), TRAIN, &args, 2, &flags[..1]);
        }
    }
    // A run goes on with the settings that it began with.
    for flags in [["--lr", "1e-3"], ["--steps", "9"], ["--seed", "2"]] {
        let args = [&["pretrain", "--resume", "--out", "base"], &flags[..]].concat();
        table.refused(&place, &format!("--resume {}", flags.join(" ")), TRAIN, &args, 2, &["'--resume' cannot be used with", flags[0]]);
    }
    for args in
        [&["bench", "--steps", "0"][..], &["bench", "--ctx", "9999"], &["bench", "--micro-batch", "0"], &["prepare"], &["train"], &[]]
    {
        table.refused(&place, &args.join(" "), TRAIN, args, 2, &[]);
    }
    let exam = &["eval", "base", "--data", "data", "--split", "exam"];
    table.refused(&place, "eval --split exam", TRAIN, exam, 2, &["[possible values: "]);
    let type_q4 = &["export", "base", "--type", "q4", "--out", "new"];
    table.refused(&place, "export --type q4", TRAIN, type_q4, 2, &["'q4'", "there is no such type", "q4_k_m"]);
    table.done(70);
}

/// A run that leaves all bounds stops, names the step and the good checkpoint, and that one is good.
#[test]
fn a_run_that_diverges() {
    let place = trained();
    let mut table = Table::default();
    // Far too high at once: nothing to keep, and nothing kept.
    for lr in ["1e3", "1e30"] {
        let out =
            place.train(&["pretrain", "--data", "data", "--model", "model.toml", "--steps", "9", "--lr", lr, "--warmup", "0", "--out", lr]);
        table.judge(&format!("--lr {lr}"), &out, 1, &["step 1: ", " loss is ", "nothing was saved yet", "lower --lr"]);
        assert!(!place.path(lr).join("last").exists() && !place.path(lr).join("best").exists());
    }
    // Rising until it breaks: the steps before are kept.
    let rising =
        ["pretrain", "--data", "data", "--model", "model.toml", "--steps", "60", "--batch-tokens", "256", "--lr", "3", "--warmup", "60"];
    let out = place.train(&[&rising[..], &["--save-every", "2", "--out", "run"]].concat());
    table.judge("a rising rate", &out, 1, &["step ", "worse than guessing", "run/last holds the weights of step ", "lower --lr"]);
    let state: serde_json::Value = serde_json::from_slice(&fs::read(place.path("run/last/state.json")).unwrap()).unwrap();
    assert!(said(&out).contains(&format!("holds the weights of step {}, which are good", state["step"])), "{}", said(&out));
    for which in ["best", "last"] {
        let (_, weights) = hf::read(&place.path("run").join(which)).unwrap();
        assert!(weights.leaves().iter().all(|w| w.iter().all(|v| v.is_finite())), "{which}");
    }
    assert_eq!(place.leftovers("run"), [""; 0]);
    // Such a checkpoint serves.
    place.ok(&["finetune", "--base", "run", "--data", "data", "--steps", "1", "--out", "task"]);
    table.done(3);
}

/// Writing fails in the middle: the old checkpoint stays, nothing half is left, and with room again the run ends as it would have.
#[test]
fn a_full_disk() {
    let place = Place::prepared();
    let mut table = Table::default();
    let run = ["pretrain", "--data", "data", "--model", "model.toml", "--steps", "40", "--batch-tokens", "256", "--eval-every", "4"];
    place.ok(&[&run[..], &["--out", "whole"]].concat());
    let whole = place.files("whole");
    let sh = |script: &str| place.command("sh", &["-c", script]).output().unwrap();
    // No file may grow beyond 400 kB: the weights fit, AdamW's moments do not.
    let limited = |args: &str| sh(&format!("trap '' XFSZ; ulimit -f 800; exec '{TRAIN}' {args}"));
    let words = ["optimizer.safetensors: cannot write", "make room there", "tinyllm-train pretrain --resume --out run"];

    table.judge("no room for a first checkpoint", &limited(&format!("{} --out run", run.join(" "))), 1, &words);
    assert!(!place.path("run/last").exists() && place.leftovers("run").is_empty());

    let mut killed = place.spawn(&["pretrain", "--resume", "--out", "run"]);
    while !place.path("run/last").exists() {
        assert!(killed.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let last = place.files("run/last");
    table.judge("no room for the next checkpoint", &limited("pretrain --resume --out run"), 1, &words);
    assert_eq!((differing(&last, &place.files("run/last")), place.leftovers("run")), (vec![], vec![]));

    // A disk of its own, which is really full: where this system lets its users have one.
    if Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|out| out.status.success()) {
        let on_disk = |kb: u32, script: &str| {
            fs::create_dir_all(place.path("disk")).unwrap();
            let script = format!(
                "rm -rf after; mount -t tmpfs -o size={kb}k tmpfs disk || exit 99; {script}; code=$?; cp -a disk after; exit $code"
            );
            place.command("unshare", &["-rm", "sh", "-c", &script]).output().unwrap()
        };
        let out = on_disk(1800, &format!("cp -a run disk/run; '{TRAIN}' pretrain --resume --out disk/run"));
        table.judge("a full disk", &out, 1, &["disk/run/.last.tmp-", "No space left", "make room there", "--resume --out disk/run"]);
        assert_eq!((differing(&last, &place.files("after/run/last")), place.leftovers("after/run")), (vec![], vec![]));
        let out = on_disk(40, &format!("'{TRAIN}' prepare recipe.toml --out disk/data"));
        table.judge("no room for data", &out, 1, &["disk/", "No space left", "make room there"]);
        assert_eq!(fs::read_dir(place.path("after")).unwrap().count(), 0, "no half of the data stays");
        let out = on_disk(40, &format!("'{TRAIN}' export whole --out disk/model.gguf"));
        table.judge("no room for a model file", &out, 1, &["disk/model.gguf: cannot write", "No space left", "make room there"]);
        assert_eq!(fs::read_dir(place.path("after")).unwrap().count(), 0, "no half of a model stays");
    } else {
        println!("no mount namespaces here: the really full disk was left out");
    }

    place.ok(&["pretrain", "--resume", "--out", "run"]);
    assert_eq!(differing(&whole, &place.files("run")), [""; 0]);
    table.done(2);
}
