//! A run that is killed at any moment and resumed ends as one that was left alone, bit for bit.

#[path = "common/small_run.rs"]
mod small_run;

use small_run::{Place, TRAIN, differing, said};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tinyllm::rng::Rng;

const PRETRAIN: [&str; 14] = [
    "pretrain",
    "--data",
    "data",
    "--model",
    "model.toml",
    "--steps",
    "40",
    "--batch-tokens",
    "512",
    "--micro-batch",
    "4",
    "--eval-every",
    "4",
    "--save-every=3",
];
const FINETUNE: [&str; 16] = [
    "finetune",
    "--base",
    "base",
    "--data",
    "data",
    "--steps",
    "30",
    "--accumulate",
    "2",
    "--micro-batch",
    "2",
    "--eval-every",
    "4",
    "--lora-dropout",
    "0.2",
    "--augment",
];

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// After so many milliseconds.
    After(u64),
    /// While a checkpoint is being written: its folder, as yet under another name, was seen, and so many microseconds passed.
    Writing(u64),
}

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

/// Sends SIGKILL at the moment; true where the run was still at work.
fn kill(run: &mut Child, folder: &Path, moment: Kill) -> bool {
    let began = Instant::now();
    let writing = || {
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
        names.into_iter().any(|n| n.to_string_lossy().contains(".tmp-"))
    };
    loop {
        let due = match moment {
            Kill::After(ms) => began.elapsed() >= Duration::from_millis(ms),
            Kill::Writing(_) => writing(),
        };
        if run.try_wait().unwrap().is_some() {
            return false;
        }
        if due {
            break;
        }
        sleep(Duration::from_micros(200));
    }
    if let Kill::Writing(us) = moment {
        sleep(Duration::from_micros(us));
    }
    run.kill().unwrap();
    run.wait().unwrap().code().is_none()
}

/// Starts a run, kills it again and again, lets it end, and compares it with `whole`. One that ends between two kills is compared
/// too, and the next one started.
fn survives(place: &Place, args: &[&str], whole: &str, broken: &str, seed: u64) {
    let mut rng = Rng::new(seed);
    let folder = place.path(broken);
    let began = Instant::now();
    let same = |what: &str| {
        assert_eq!(differing(&place.files(whole), &place.files(broken)), [""; 0], "{what}");
        assert_eq!(place.leftovers(broken), [""; 0], "{what}");
    };
    let (mut killed, mut torn, mut round) = (0, 0, 0);
    while (killed < 8 || torn < 2) && began.elapsed() < Duration::from_secs(15) {
        let threads = ["1", "2", "3"][round % 3];
        let mut run = if folder.join("config.toml").exists() {
            place.spawn(&[args[0], "--resume", "--out", broken, "-t", threads])
        } else {
            place.spawn(&with(args, &["--out", broken, "-t", threads]))
        };
        // Disks differ in how long a checkpoint takes: delays from 0.1 to 100 ms, evenly in their logarithm.
        let moment = if round % 3 == 0 { Kill::After(rng.below(600)) } else { Kill::Writing(10f64.powf(2.0 + 3.0 * rng.uniform()) as u64) };
        round += 1;
        if kill(&mut run, &folder, moment) {
            killed += 1;
            torn += usize::from(folder.exists() && !place.leftovers(broken).is_empty());
        } else {
            same(&format!("after {killed} kills, {torn} of them within a checkpoint"));
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    println!("{}: {killed} kills, {torn} of them within a checkpoint", args[0]);
    assert!(killed >= 4 && torn >= 1, "{killed} kills, {torn} of them within a checkpoint: too few to prove anything");
    match folder.join("config.toml").exists() {
        true => place.ok(&[args[0], "--resume", "--out", broken, "-t", "2"]),
        false => place.ok(&with(args, &["--out", broken])),
    };
    same(&format!("after {killed} kills, {torn} of them within a checkpoint"));
}

#[test]
fn a_killed_pretraining_ends_in_the_same_bits() {
    let place = Place::prepared();
    place.ok(&with(&PRETRAIN, &["--out", "whole", "-t", "2"]));
    let files = place.files("whole");
    for name in [
        "config.toml",
        "metrics.jsonl",
        "best/model.safetensors",
        "last/model.safetensors",
        "last/optimizer.safetensors",
        "last/state.json",
    ] {
        assert!(files.contains_key(name), "{name}");
    }
    assert_eq!(String::from_utf8_lossy(&files["metrics.jsonl"]).lines().count(), 40);
    survives(&place, &PRETRAIN, "whole", "broken", 1);

    // One that is finished can be resumed as often as one likes.
    let said = place.ok(&["pretrain", "--resume", "--out", "broken"]);
    assert!(said.contains("after step 40 of 40"), "{said}");
    assert_eq!(differing(&files, &place.files("broken")), [""; 0]);
}

#[test]
fn a_killed_finetuning_ends_in_the_same_bits() {
    let place = Place::prepared();
    place.ok(&with(&PRETRAIN, &["--out", "base"]));
    place.ok(&with(&FINETUNE, &["--out", "whole", "-t", "1"]));
    assert!(place.path("whole/last/adapter").is_dir());
    survives(&place, &FINETUNE, "whole", "broken", 2);
    // All weights at once.
    let full = with(&FINETUNE, &["--full", "--lr", "1e-3"]);
    let full: Vec<&str> = full.into_iter().filter(|a| !["--lora-dropout", "0.2"].contains(a)).collect();
    place.ok(&with(&full, &["--out", "whole-full"]));
    survives(&place, &full, "whole-full", "broken-full", 3);
}

/// Ctrl-C: saved first, told how to go on, exit code 130; and the end is the same.
#[test]
fn an_interrupted_run_saves_first() {
    let place = Place::prepared();
    place.ok(&with(&PRETRAIN, &["--out", "whole"]));
    let run = place.command(TRAIN, &with(&PRETRAIN, &["--out", "broken"])).spawn().unwrap();
    let metrics = place.path("broken/metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).map_or(0, |t| t.lines().count());
    while lines() < 2 {
        sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).stdout(Stdio::null()).status().unwrap();
    assert!(sent.success());
    let out = run.wait_with_output().unwrap();
    let said = said(&out);
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("saved") && said.contains("tinyllm-train pretrain --resume --out broken"), "{said}");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(place.path("broken/last/state.json")).unwrap()).unwrap();
    assert_eq!(state["step"], lines(), "saved is the last step that was made");
    assert!(state["step"].as_u64().unwrap() < 40, "{said}");
    place.ok(&["pretrain", "--resume", "--out", "broken"]);
    assert_eq!(differing(&place.files("whole"), &place.files("broken")), [""; 0]);
}

/// What a crash may leave is put right before the run goes on: half-written folders, an exchange that stopped halfway (as on file
/// systems that need two steps for it), metrics ahead of the checkpoint with a torn last line.
#[test]
fn what_a_crash_left_is_swept() {
    let place = Place::prepared();
    place.ok(&with(&PRETRAIN, &["--out", "run"]));
    let before = place.files("run");
    let copy = |name: &str| {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("model.safetensors"), "half").unwrap();
    };
    copy("run/.last.tmp-77");
    copy("run/.best.tmp-78");
    copy("run/.best.old-78");
    place.write("run/.config.toml.tmp-79", "half");
    fs::rename(place.path("run/last"), place.path("run/.last.old-77")).unwrap();
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let ahead = metrics.lines().last().unwrap().replace("\"step\":40", "\"step\":41");
    place.write("run/metrics.jsonl", &format!("{metrics}{ahead}\n{}", &ahead[..20]));
    place.ok(&["pretrain", "--resume", "--out", "run"]);
    assert_eq!(differing(&before, &place.files("run")), [""; 0]);
    assert_eq!(place.leftovers("run"), [""; 0]);

    // Killed before its settings were down: started anew in the same folder.
    fs::create_dir(place.path("early")).unwrap();
    place.write("early/.config.toml.tmp-80", "half");
    let out = place.train(&["pretrain", "--resume", "--out", "early"]);
    assert!(out.status.code() == Some(1) && said(&out).contains("start one without --resume"), "{}", said(&out));
    place.ok(&with(&PRETRAIN, &["--out", "early"]));
    // Killed before its first checkpoint: resumed from the beginning.
    fs::remove_dir_all(place.path("early/last")).unwrap();
    assert!(place.ok(&["pretrain", "--resume", "--out", "early"]).contains("starting from the beginning"));
    assert_eq!(differing(&before, &place.files("early")), [""; 0]);
}

/// A run goes on as it began or not at all; each refusal leaves it as it was.
#[test]
fn a_run_on_other_ground_is_refused() {
    let place = Place::prepared();
    place.ok(&with(&PRETRAIN, &["--out", "base"]));
    place.ok(&with(&FINETUNE, &["--out", "task"]));
    let (base, task) = (place.files("base"), place.files("task"));
    let mut wrong = Vec::new();
    let mut refused = |what: &str, args: &[&str], words: &[&str]| {
        let out = place.train(args);
        let said = said(&out);
        if out.status.code() != Some(1) || words.iter().any(|w| !said.contains(w)) || said.contains("panicked") {
            wrong.push(format!("{what}: exit {:?}: {said}", out.status.code()));
        }
    };
    let (pretrain, finetune) = (["pretrain", "--resume", "--out", "base"], ["finetune", "--resume", "--out", "task"]);

    refused("another subcommand", &["pretrain", "--resume", "--out", "task"], &["task: this is a run of tinyllm-train finetune"]);
    refused("no run", &["pretrain", "--resume", "--out", "data"], &["data: there is no run to resume here", "without --resume"]);
    refused("no folder", &["pretrain", "--resume", "--out", "nowhere"], &["nowhere: there is no run to resume here"]);

    place.edit("base/config.toml", "peak = 0.0006", "peak = 0.0007");
    refused("changed settings", &pretrain, &["base/config.toml: it was changed", "restore it, or start a new run"]);
    place.edit("base/config.toml", "peak = 0.0007", "peak = 0.0006");
    place.edit("base/config.toml", "seed = 1", "sede = 1");
    refused("unknown settings", &pretrain, &["base/config.toml", "sede"]);
    place.edit("base/config.toml", "sede = 1", "seed = 1");
    place.edit("base/config.toml", "tinyllm-train 0", "tinyllm-train 9");
    refused("another version", &pretrain, &["begun by tinyllm-train 9", "could not end in the same weights"]);
    place.edit("base/config.toml", "tinyllm-train 9", "tinyllm-train 0");

    // Other readings of the same number: as many examples, other windows.
    fs::rename(place.path("data"), place.path("right")).unwrap();
    refused("data that are gone", &pretrain, &["base/config.toml", "'data'", "tinyllm-train prepare"]);
    place.edit("readings.csv", ",0.1", ",0.2");
    place.ok(&["prepare", "recipe.toml", "--out", "data"]);
    for (args, back) in [(&pretrain, "--base base"), (&finetune, "--base task")] {
        refused("changed data", args, &["/data: these are not the data", "start a new run", back]);
    }
    // The right data in another place are the right data.
    fs::remove_dir_all(place.path("data")).unwrap();
    place.edit("base/config.toml", "/data\"", "/right\"");
    assert!(place.ok(&pretrain).contains("going on after step 40"));
    place.edit("base/config.toml", "/right\"", "/data\"");
    fs::rename(place.path("right"), place.path("data")).unwrap();

    fs::rename(place.path("base"), place.path("moved")).unwrap();
    refused("a base that is gone", &finetune, &["base/best", "is not there", "config.toml"]);
    place.edit("task/config.toml", "/base/best", "/moved/best");
    assert!(place.ok(&finetune).contains("going on after step 30"));
    place.edit("task/config.toml", "/moved/best", "/base/best");
    fs::rename(place.path("moved"), place.path("base")).unwrap();
    let weights = place.path("base/best/model.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&weights, &other).unwrap();
    refused("a changed base", &finetune, &["base/best/model.safetensors: this is not the base", "put the old one back"]);
    fs::write(&weights, &good).unwrap();

    // Somebody else is at it.
    let held = fs::File::open(place.path("base/config.toml")).unwrap();
    held.lock().unwrap();
    refused("a run that is being worked on", &pretrain, &["base: another program is working on this run"]);
    drop(held);

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((differing(&base, &place.files("base")), differing(&task, &place.files("task"))), (vec![], vec![]));
}
