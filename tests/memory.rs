//! What a process takes of memory is the sum of what it says it needs.
#![cfg(target_os = "linux")]

#[path = "common/counting_alloc.rs"]
mod counting_alloc;
#[path = "common/gguf_model.rs"]
mod gguf_model;

use assert_cmd::Command;
use std::path::Path;
use tinyllm::gguf::Gguf;
use tinyllm::infer::{CacheType, Model, Need, Sampler, Sampling, Session, pool};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::Dots;

/// Some ten million weights.
fn middle() -> Config {
    Config { n_embd: 384, n_head: 6, n_layer: 6, n_ff: None, n_ctx: 512, n_vocab: Some(261) }
}

fn need(path: &Path, cache: CacheType) -> Need {
    Need::of(&Gguf::open(path).unwrap(), Dots::under(Isa::detect()).layout(), cache, 2, false).unwrap()
}

/// Peak memory of a process that reads `prompt` bytes and makes 8 tokens, as it says itself.
fn peak(path: &Path, prompt: usize, more: &[&str]) -> f64 {
    let text = "x".repeat(prompt);
    let args = ["generate", path.to_str().unwrap(), "-t", "2", "-p", &text, "-n", "8", "--temp", "0"];
    let out = Command::cargo_bin("tinyllm-run").unwrap().args(args).args(more).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{err}");
    let mb = err.split("peak memory ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    mb.unwrap_or_else(|| panic!("{err}")) * 1e6
}

/// One test, as one allocator counts for all threads.
#[test]
fn memory_is_the_sum_of_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let (tiny, path) = (dir.path().join("tiny.gguf"), dir.path().join("m.gguf"));
    gguf_model::tiny_model(&tiny, GgmlType::Q8_0, 1);
    gguf_model::tiny_model_with(&path, &middle(), GgmlType::Q8_0, 1, &[]);

    // Inside: sessions and weights take what they are said to.
    let model = Model::open(&path).unwrap();
    for cache in [CacheType::F32, CacheType::F16, CacheType::Q8] {
        let need = need(&path, cache);
        let (_, _, held) = counting_alloc::count(|| {
            let pool = pool(2).unwrap();
            pool.install(|| (Session::with(&model, 512, cache), Sampler::new(Sampling::default(), 261)));
        });
        let said = need.cache + need.room;
        // Threads and their names are a few more bytes.
        assert!(held.abs_diff(said) < 100_000, "{cache:?}: {held} bytes held, {said} said");
    }
    let (_, _, held) = counting_alloc::count(|| Model::open(&path).unwrap());
    let said = need(&path, CacheType::F16).weights;
    assert!(held.abs_diff(said) < said / 100 + 300_000, "{held} bytes held, {said} of weights said");
    drop(model);

    // Outside: a process takes what the tiny model's takes, and the parts, of which half of the context is read and half of the cache
    // touched; stretches of the file that are being packed, and what allocators keep, are a few more megabytes.
    let parts = |need: Need, share: usize| need.weights + need.mapped + need.cache * share / 10 + need.room;
    let (need, base) = (need(&path, CacheType::F16), peak(&tiny, 40, &[]));
    let parts = (parts(need, 6) - parts(self::need(&tiny, CacheType::F16), 6)) as f64;
    for more in [&[][..], &["--packed"], &["--packed"]] {
        let taken = peak(&path, 256, more) - base;
        assert!(taken < parts + 4e6, "{more:?}: {:.1} MB taken, {:.1} MB of parts", taken / 1e6, parts / 1e6);
        assert!(taken > 0.5 * need.weights as f64, "{more:?}: only {:.1} MB taken", taken / 1e6);
    }
}
