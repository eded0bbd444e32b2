//! The CPU's kernels at the sizes of GPT-2 124M (2,048 rows) and of `nano`, against what this machine can do.
//!
//! `cargo bench --bench kernels -- [FILTER]`, with `TINYLLM_ISA` and `RAYON_NUM_THREADS` to choose. Before
//! criterion's own figures a table gives medians as GFLOP/s and as a share of the multiply-add peak, which is
//! measured in registers around each of them: a shared machine's clock moves.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::{AdamLeaf, Backend, Control, Heads, Targets};
use tinyllm::rng::Rng;
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
fn peak(isa: Isa) -> f64 {
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

/// In -0.5..0.5, by a multiplicative hash: quick to make.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_add(seed).wrapping_mul(0x9E37_79B1) >> 8) as f32 / 16_777_216.0 - 0.5).collect()
}

/// One kernel, ready to run again and again.
struct Case<'a> {
    name: String,
    /// Multiplications and additions, or 0.
    flops: f64,
    /// Bytes that must move, where `flops` is 0.
    bytes: f64,
    run: Box<dyn FnMut() + Send + 'a>,
}

fn products(cpu: Cpu) -> Vec<Case<'static>> {
    let shapes = [
        // N, I, O
        ("qkv", 2048, 768, 2304),
        ("attention out", 2048, 768, 768),
        ("up", 2048, 768, 3072),
        ("down", 2048, 3072, 768),
        ("head, one chunk", 333, 768, 50_257),
        ("nano up", 2048, 128, 512),
        ("nano down", 2048, 512, 128),
        ("nano head", 2048, 128, 500),
        ("lora a, rank 8", 2048, 768, 8),
        ("lora b, rank 8", 2048, 8, 768),
        ("nano lora a, rank 16", 1024, 128, 16),
    ];
    let mut all = Vec::new();
    for (name, n, i, o) in shapes {
        let flops = 2.0 * (n * i * o) as f64;
        let mut case = |kind: &str, run: Box<dyn FnMut() + Send>| {
            all.push(Case { name: format!("{kind} {n} x {i} x {o} ({name})"), flops, bytes: 0.0, run });
        };
        let (x, w, dy) = (numbers(n * i, 1), numbers(o * i, 2), numbers(n * o, 3));
        let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]);
        let (w2, dy2, x2) = (w.clone(), dy.clone(), x.clone());
        case("y ", Box::new(move || cpu.linear(&mut y, &x, &w, None, n, i, o)));
        case("dx", Box::new(move || cpu.linear_dx(&mut dx, &dy, &w2, n, i, o)));
        case("dw", Box::new(move || cpu.linear_dw(Some(&mut dw), None, 1.0, &dy2, &x2, n, i, o)));
    }
    all
}

fn rest(cpu: Cpu) -> Vec<Case<'static>> {
    let mut all: Vec<Case> = Vec::new();
    for s in [Heads { b: 8, t: 256, h: 12, d: 64 }, Heads { b: 2, t: 1024, h: 12, d: 64 }, Heads { b: 4, t: 512, h: 2, d: 64 }] {
        let (n, c) = (s.n(), s.c());
        let starts: Vec<u32> = vec![0; n];
        let (qkv, dy) = (numbers(3 * n * c, 1), numbers(n * c, 2));
        let (mut y, mut lse, mut dqkv, mut delta) = (vec![0.0; n * c], vec![0.0; n * s.h], vec![0.0; 3 * n * c], vec![0.0; n * s.h]);
        cpu.attention(&mut y, &mut lse, &qkv, &starts, s);
        // Two products of T x T x D forward, five backward, half of each masked.
        let flops = 2.0 * (s.b * s.h * s.t * s.t * s.d) as f64;
        let name = format!("B {} T {} H {} D {}", s.b, s.t, s.h, s.d);
        let (q, st, mut y2, mut lse2) = (qkv.clone(), starts.clone(), y.clone(), lse.clone());
        all.push(Case {
            name: format!("attention {name}"),
            flops,
            bytes: 0.0,
            run: Box::new(move || cpu.attention(&mut y2, &mut lse2, &q, &st, s)),
        });
        all.push(Case {
            name: format!("attention_backward {name}"),
            flops: 2.5 * flops,
            bytes: 0.0,
            run: Box::new(move || cpu.attention_backward(&mut dqkv, &mut delta, &dy, &y, &qkv, &lse, &starts, s)),
        });
    }
    for (n, c, v) in [(2048, 768, 50_257), (2048, 128, 500)] {
        let (x, wte) = (numbers(n * c, 1), numbers(v * c, 2));
        let ids = |below: u64| {
            let mut rng = Rng::new(4);
            (0..n).map(|_| rng.below(below) as u32).collect::<Vec<_>>()
        };
        let targets = Targets::<Cpu> { count: n, rows: (0..n as u32).collect(), ids: ids(v as u64), weights: vec![1.0 / n as f32; n] };
        let mut head = cpu.alloc_head(n, c, v).expect("room for the head");
        let (mut loss, mut dx, mut dwte) = (vec![0.0], vec![0.0; n * c], vec![0.0; v * c]);
        all.push(Case {
            name: format!("classify_loss {n} x {c} x {v}"),
            flops: 6.0 * (n * c * v) as f64,
            bytes: 0.0,
            run: Box::new(move || {
                cpu.classify_loss(&mut loss, Some(&mut dx), Some(&mut dwte), &mut head, &x, &wte, &targets, n, c, v);
            }),
        });
        let (tokens, positions, dx) = (ids(v as u64), ids(256), numbers(n * c, 3));
        let (wte, wpe, mut x) = (numbers(v * c, 1), numbers(1024 * c, 2), vec![0.0; n * c]);
        let (mut dwte, mut dwpe) = (vec![0.0; v * c], vec![0.0; 1024 * c]);
        let (t2, p2) = (tokens.clone(), positions.clone());
        all.push(Case {
            name: format!("embed {n} x {c}"),
            flops: 0.0,
            bytes: (12 * n * c) as f64,
            run: Box::new(move || cpu.embed(&mut x, &t2, &p2, &wte, &wpe, n, c)),
        });
        all.push(Case {
            name: format!("embed_backward {n} x {c}"),
            flops: 0.0,
            bytes: (24 * n * c) as f64,
            run: Box::new(move || cpu.embed_backward(Some(&mut dwte), Some(&mut dwpe), &dx, &tokens, &positions, n, c)),
        });
    }
    let (n, c, f) = (2048, 768, 3072);
    let (x, w, b) = (numbers(n * c, 1), numbers(c, 2), numbers(c, 3));
    let (mut y, mut stats) = (vec![0.0; n * c], vec![0.0; 2 * n]);
    cpu.norm(&mut y, &mut stats, &x, &w, &b, n, c);
    let (x2, w2, stats2, dy) = (x.clone(), w.clone(), stats.clone(), numbers(n * c, 4));
    let (mut dx, mut dw, mut db) = (vec![0.0; n * c], vec![0.0; c], vec![0.0; c]);
    let mut push = |name: &str, bytes: usize, run: Box<dyn FnMut() + Send>| {
        all.push(Case { name: name.into(), flops: 0.0, bytes: bytes as f64, run });
    };
    push("norm 2048 x 768", 8 * n * c, Box::new(move || cpu.norm(&mut y, &mut stats, &x, &w, &b, n, c)));
    push(
        "norm_backward 2048 x 768",
        16 * n * c,
        Box::new(move || cpu.norm_backward(&mut dx, Some(&mut dw), Some(&mut db), None, &dy, &x2, &w2, &stats2, n, c)),
    );
    let (x, mut y, x2, mut d) = (numbers(n * f, 1), vec![0.0; n * f], numbers(n * f, 1), vec![0.0; n * f]);
    push("gelu 2048 x 3072", 8 * n * f, Box::new(move || cpu.gelu(&mut y, &x, n * f)));
    push("gelu_backward 2048 x 3072", 12 * n * f, Box::new(move || cpu.gelu_backward(&mut d, &x2, n * f)));
    let (x, mut y) = (numbers(n * c, 1), vec![0.0; n * c]);
    push("axpy 2048 x 768", 12 * n * c, Box::new(move || cpu.axpy(&mut y, 0.5, &x, n * c)));
    let ctl = Control { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, clip: 1.0, step: 3, dropout_key: 1, rounding_key: 2 };
    let (x, mut y) = (numbers(n * c, 1), vec![0.0; n * c]);
    push("dropout 2048 x 768", 8 * n * c, Box::new(move || cpu.dropout(&mut y, &x, 0.1, 1, &ctl, n * c)));
    let p = 50_257 * 768;
    let (mut w, mut m, mut v, g) = (numbers(p, 1), numbers(p, 2), vec![1e-3; p], numbers(p, 3));
    let g2 = g.clone();
    push(
        "adamw, 38.6M",
        28 * p,
        Box::new(move || {
            let mut leaf = [AdamLeaf::<Cpu> { w: &mut w, master: None, m: &mut m, v: &mut v, g: &g, decay: true }];
            cpu.adamw(&mut leaf, &vec![1.0], &ctl);
        }),
    );
    let mut norm = vec![0.0];
    push("grad_norm, 38.6M", 4 * p, Box::new(move || cpu.grad_norm(&mut norm, &[&g2])));
    all
}

/// Time of `work`. One thread is charged for what it ran, so that a busy machine does not count.
fn clock(work: impl FnOnce()) -> Duration {
    let ran = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (before, start) = (ran(), Instant::now());
    work();
    let wall = start.elapsed();
    if rayon::current_num_threads() == 1 { ran() - before } else { wall }
}

/// The median of some runs, after one that warms up.
fn median(case: &mut Case) -> Duration {
    (case.run)();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (times.len() < 200 && begin.elapsed() < Duration::from_millis(400)) {
        times.push(clock(&mut case.run));
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let cpu = Cpu::from_env().unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2)
    });
    // As training does: inside the pool, so that a parallel loop does not wake it from outside.
    let pool = rayon::ThreadPoolBuilder::new().build().expect("a thread pool");
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = |case: &Case| filter.as_ref().is_none_or(|f| case.name.contains(f.as_str()));
    let threads = pool.current_num_threads();
    println!("{} on {threads} threads", cpu.isa().name());
    let mut cases: Vec<_> = products(cpu).into_iter().chain(rest(cpu)).filter(wanted).collect();
    for case in &mut cases {
        let (peak, time) = pool.install(|| (peak(cpu.isa()), median(case)));
        let seconds = time.as_secs_f64();
        let rate = case.flops / seconds / 1e9;
        let share = format!("{:.1} % of {peak:.0}", rate / peak * 100.0);
        if case.flops > 0.0 {
            println!("{:<52} {:>9.3} ms {rate:>7.1} GFLOP/s {share:>14}", case.name, seconds * 1e3);
        } else {
            println!("{:<52} {:>9.3} ms {:>7.1} GB/s", case.name, seconds * 1e3, case.bytes / seconds / 1e9);
        }
    }
    if std::env::args().any(|a| a == "--table") {
        return;
    }
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300)).sample_size(10);
    for case in &mut cases {
        let mut group = criterion.benchmark_group("kernels");
        let work = if case.flops > 0.0 { Throughput::Elements(case.flops as u64) } else { Throughput::Bytes(case.bytes as u64) };
        group.throughput(work);
        group.bench_function(&case.name, |b| pool.install(|| b.iter(|| (case.run)())));
        group.finish();
    }
}
