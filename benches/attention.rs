//! Attention over the cache, one thread, at the sizes of the five models: what a generated token and what a row of a prompt pays.
//!
//! `cargo bench --bench attention -- [FILTER]`, with `TINYLLM_ISA` to choose. Times are medians of the thread's own, beside what the core can multiply in
//! registers and read from a buffer as large as the cache.

#[path = "common/peak.rs"]
mod peak;

use peak::{clock, peak, reading};
use std::time::Duration;
use tinyllm::infer::{CacheType, KvCache};
use tinyllm::simd::parallel::Columns;
use tinyllm::simd::{Isa, cache};

/// In -0.5..0.5, by a multiplicative hash: quick to make.
fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 8) as f32 / 16_777_216.0 - 0.5).collect()
}

fn median(runs: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..runs).map(|_| clock(&mut work)).collect();
    times.sort_unstable();
    times[runs / 2]
}

const D: usize = 64;

/// Takes in and answers `n` rows from `start` on, in all layers.
fn pass(isa: Isa, cache: &mut KvCache, layers: usize, qkv: &[f32], out: &mut [f32], scratch: &mut [f32], start: usize, n: usize) {
    let c = cache.heads().0 * D;
    for layer in 0..layers {
        for (i, mut head) in cache.each_head(layer).enumerate() {
            head.append(isa, start, n, &qkv[c + i * D..], &qkv[2 * c + i * D..], 3 * c);
            head.attend(isa, &mut Columns::new(&mut out[i * D..], D, c), &qkv[i * D..], 3 * c, start, n, scratch);
        }
    }
}

fn main() {
    let isa = Isa::from_env().unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2)
    });
    // One thread, also where the peak is measured.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread pool");
    pool.install(|| report(isa));
}

fn report(isa: Isa) {
    let runs = std::env::var("RUNS").ok().and_then(|x| x.parse().ok()).unwrap_or(15);
    println!("{} on one thread", isa.name());
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for (name, l, h) in [("30m", 6, 6), ("124m", 12, 12)] {
        let c = h * D;
        let (qkv, mut out, mut scratch) = (numbers(64 * 3 * c), vec![0.0; 64 * c], vec![0.0; cache::scratch_len(64, D)]);
        for ty in [CacheType::F32, CacheType::F16, CacheType::Q8] {
            if !format!("{name} {ty:?}").contains(&filter) {
                continue;
            }
            let mut cache = KvCache::new(ty, l, h, 1024, D);
            for start in (0..1024).step_by(64) {
                pass(isa, &mut cache, l, &qkv, &mut out, &mut scratch, start, 64);
            }
            println!("{name} {ty:?}");
            for depth in [0, 127, 511, 1023] {
                let time = median(runs, || pass(isa, &mut cache, l, &qkv, &mut out, &mut scratch, depth, 1)).as_secs_f64();
                let (heads, seen) = ((l * h) as f64, (depth + 1) as f64);
                let bytes = cache.bytes() as f64 / 1024.0 * seen;
                println!(
                    "  token at depth {depth:>4}: {:>8.1} us, {:>6.2} ns a head and position; {:>6.1} GB/s of {:>6.1}; {:>6.1} GFLOP/s of {:.0}",
                    time * 1e6,
                    time * 1e9 / heads / seen,
                    bytes / time / 1e9,
                    reading(isa, (bytes as usize).max(1 << 16)),
                    4.0 * heads * seen * D as f64 / time / 1e9,
                    peak(isa),
                );
            }
            for n in [4, 16, 64] {
                let time = median(runs, || {
                    for start in (0..512).step_by(n) {
                        pass(isa, &mut cache, l, &qkv, &mut out, &mut scratch, start, n);
                    }
                })
                .as_secs_f64();
                let flops = 4.0 * (l * h * D) as f64 * (512.0 * 513.0 / 2.0);
                println!(
                    "  prompt of 512 by {n:>2}: {:>8.1} us a token, {:>6.0} ns a head and query; {:>6.1} GFLOP/s of {:.0}",
                    time * 1e6 / 512.0,
                    time * 1e9 / 512.0 / (l * h) as f64,
                    flops / time / 1e9,
                    peak(isa),
                );
            }
        }
    }
}
