//! The programs on a device.

use crate::fakes::{folder, loads};
use crate::small_run::{Place, TRAIN, differing, said};
use std::process::{Command, Output};

/// A prepared place whose programs find the stand-ins; `None` where there are none.
fn place() -> Option<Place> {
    folder().map(|_| Place::prepared())
}

fn command(place: &Place, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = place.command(TRAIN, args);
    loads(&mut command, folder().unwrap(), &place.path("cache")).envs(environment.iter().copied());
    command
}

fn run(place: &Place, args: &[&str], environment: &[(&str, &str)]) -> Output {
    command(place, args, environment).output().unwrap()
}

/// It must succeed; what it said.
fn ok(place: &Place, args: &[&str], environment: &[(&str, &str)]) -> String {
    let out = run(place, args, environment);
    let said = said(&out);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
    said
}

const PRETRAIN: [&str; 17] = [
    "pretrain",
    "--data",
    "data",
    "--model",
    "model.toml",
    "--batch-tokens",
    "128",
    "--micro-batch",
    "1",
    "--steps",
    "6",
    "--eval-every",
    "3",
    "--save-every",
    "2",
    "--lr",
    "3e-3",
];

fn pretrain<'a>(more: &[&'a str]) -> Vec<&'a str> {
    PRETRAIN.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_machine_without_a_gpu_is_told_before_anything_is_written() {
    let place = Place::prepared();
    let out = place.train(&pretrain(&["--device", "cuda", "--out", "run"]));
    let words = said(&out);
    assert_eq!(out.status.code(), Some(1), "{words}");
    assert!(words.contains("no NVIDIA driver answers") && words.contains("--device cpu") && !words.contains("panicked"), "{words}");
    assert!(!place.path("run").exists());
}

#[test]
fn an_unfit_gpu_is_told_and_auto_does_without_it() {
    let Some(place) = place() else { return };
    let old = [("FAKE_CUDA_DRIVER", "12080")];
    let out = run(&place, &pretrain(&["--device", "cuda", "--out", "run"]), &old);
    let words = said(&out);
    assert_eq!(out.status.code(), Some(1), "{words}");
    assert!(words.contains("speaks CUDA 12.8") && !place.path("run").exists(), "{words}");
    let words = ok(&place, &pretrain(&["--device", "auto", "--out", "run"]), &old);
    assert!(
        words.contains("device: this machine's processor, because the GPU cannot be used: GPU: the driver speaks CUDA 12.8"),
        "{words}"
    );
}

#[test]
fn a_run_on_a_gpu_is_picked_told_and_ends_in_the_same_bits_twice() {
    let Some(place) = place() else { return };
    let words = ok(&place, &pretrain(&["--out", "a"]), &[]);
    assert!(words.contains("device: a processor playing a GPU"), "{words}");
    ok(&place, &pretrain(&["--device", "cuda", "--out", "b"]), &[("FAKE_CUDA_ORDER", "1")]);
    // Kernel by kernel, without recordings.
    ok(&place, &pretrain(&["--device", "cuda", "--out", "c"]), &[("TINYLLM_CUDA_GRAPHS", "0")]);
    for other in ["b", "c"] {
        assert_eq!(differing(&place.files("a"), &place.files(other)), Vec::<String>::new(), "{other}");
    }
}

#[test]
fn a_stopped_run_goes_on_with_its_bits_and_its_algorithms() {
    let Some(place) = place() else { return };
    ok(&place, &pretrain(&["--device", "cuda", "--out", "whole"]), &[]);
    // The device dies in the midst of a step, after a save.
    let out = run(&place, &pretrain(&["--device", "cuda", "--out", "halves"]), &[("FAKE_CUDA_FAIL", "adamw:5")]);
    let words = said(&out);
    assert_eq!(out.status.code(), Some(1), "{words}");
    assert!(words.contains("illegal memory access") && words.contains("halves/last"), "the last good checkpoint is named: {words}");
    let state = std::fs::read_to_string(place.path("halves/last/state.json")).unwrap();
    assert!(state.contains("\"plans\"") && state.contains("a processor playing a GPU") && state.contains("\"algorithm\""), "{state}");
    ok(&place, &["pretrain", "--resume", "--out", "halves"], &[]);
    assert_eq!(differing(&place.files("whole"), &place.files("halves")), Vec::<String>::new());
}

#[test]
fn a_run_changes_its_device() {
    let Some(place) = place() else { return };
    let out = run(&place, &pretrain(&["--device", "cuda", "--out", "run"]), &[("FAKE_CUDA_FAIL", "adamw:5")]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    // Where it began there is no GPU any more.
    let refused = place.train(&["pretrain", "--resume", "--out", "run"]);
    assert!(!refused.status.success() && said(&refused).contains("this run began on a GPU"), "{}", said(&refused));
    place.ok(&["pretrain", "--resume", "--device", "cpu", "--out", "run"]);
}

#[test]
fn a_model_of_odd_sizes_trains_and_hears_that_it_is_slow() {
    let Some(place) = place() else { return };
    place.write("model.toml", "n_embd = 21\nn_head = 3\nn_layer = 1\nn_ctx = 64\nn_ff = 50\n");
    let words = ok(&place, &pretrain(&["--device", "cuda", "--out", "run"]), &[]);
    assert!(words.contains("these are 21, 50 and 7"), "{words}");
    let losses = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let loss = |line: Option<&str>| serde_json::from_str::<serde_json::Value>(line.unwrap()).unwrap()["loss"].as_f64().unwrap();
    let (first, last) = (loss(losses.lines().next()), loss(losses.lines().last()));
    assert!(last < first, "{losses}");
}

#[test]
fn a_card_too_small_is_told() {
    let Some(place) = place() else { return };
    let out = run(&place, &pretrain(&["--device", "cuda", "--out", "run"]), &[("FAKE_CUDA_MEMORY", "40000000")]);
    let words = said(&out);
    assert!(!out.status.success() && (words.contains("has no room") || words.contains("GB free")), "{words}");
    assert!(!place.path("run").exists());
}
