//! What this machine can do: a bench's figures mean little without it.
#![allow(dead_code)] // each bench uses what it needs

use std::hint::black_box;
use std::time::{Duration, Instant};
use tinyllm::simd::{Isa, Op, Simd};

/// 12 independent chains of multiply-adds, enough to hide their latency twice over.
struct Chains(usize);

impl Op for Chains {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut acc = [s.splat(1.0); 12];
        for _ in 0..self.0 {
            for chain in &mut acc {
                *chain = s.fma(*chain, a, b);
            }
        }
        acc.into_iter().map(|v| s.sum(v)).sum()
    }
}

struct Lanes;
impl Op for Lanes {
    type Out = usize;
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

/// Multiply-adds in registers on all threads at once, GFLOP/s: best of three.
pub fn peak(isa: Isa) -> f64 {
    const STEPS: usize = 1 << 19;
    let threads = rayon::current_num_threads();
    let flops = (STEPS * 12 * 2 * isa.run(Lanes) * threads) as f64;
    (0..3)
        .map(|_| {
            let time = clock(|| {
                rayon::broadcast(|_| black_box(isa.run(Chains(STEPS))));
            });
            flops / time.as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}

/// Time of `work`. One thread is charged for what it ran, so that a busy machine does not count.
pub fn clock(work: impl FnOnce()) -> Duration {
    let ran = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (before, start) = (ran(), Instant::now());
    work();
    let wall = start.elapsed();
    if rayon::current_num_threads() == 1 { ran() - before } else { wall }
}

/// Adds up all of a buffer: what a core can read.
struct Read<'a>(&'a [f32]);

impl Op for Read<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut acc = [s.splat(0.0); 8];
        for chunk in self.0.chunks_exact(8 * S::LANES) {
            for (acc, x) in acc.iter_mut().zip(chunk.chunks_exact(S::LANES)) {
                *acc = s.add(*acc, s.load(x));
            }
        }
        acc.into_iter().map(|v| s.sum(v)).sum()
    }
}

/// Bytes a second, in GB, at which this thread reads a buffer again and again: best of some.
pub fn reading(isa: Isa, bytes: usize) -> f64 {
    let buffer = vec![1.0f32; bytes / 4];
    let times = (0..8).map(|_| {
        let start = Instant::now();
        black_box(isa.run(Read(&buffer)));
        start.elapsed().as_secs_f64()
    });
    bytes as f64 / times.fold(f64::MAX, f64::min) / 1e9
}
