//! Every kernel of the CPU, on every instruction set of this machine, held to the reference in f64.
//!
//! Sizes are ragged on purpose. Outputs that a kernel overwrites are NaN before, so that an element it forgets is
//! seen; outputs it adds to begin with numbers. Buffers are longer than what is asked for, and what lies behind
//! must not change.
//!
//! Tolerances, of relative norms of whole tensors. An honest f32 pass over GPT-2 is off by 5e-7 in activations and
//! 1e-6 in gradients (measured against PyTorch in f64): sums of n terms add about sqrt(n) eps / 2 = 1.7e-6 for
//! n = 3,072 at the very worst. The bounds leave a factor of 5 to 10, and a wrong term is off by far more.

use rayon::ThreadPoolBuilder;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{AdamLeaf, Backend, Control, Heads, Targets};
use tinyllm::rng::Rng;
use tinyllm::simd::Isa;

const ACTIVATION: f64 = 5e-6;
const GRADIENT: f64 = 1e-5;
/// AdamW's elements: a handful of roundings each, and a difference of nearly equal moments is not among them.
const STEP: f64 = 1e-6;

/// The same numbers for both backends; `len` of them matter, some more lie behind.
struct Twin {
    cpu: Vec<f32>,
    reference: Vec<f64>,
    len: usize,
}

const BEHIND: usize = 37;
const SENTINEL: f32 = 12_345.0;

impl Twin {
    fn of(len: usize, mut number: impl FnMut() -> f32) -> Self {
        let mut cpu: Vec<f32> = (0..len).map(|_| number()).collect();
        cpu.extend([SENTINEL; BEHIND]);
        let reference = cpu.iter().map(|&x| f64::from(x)).collect();
        Self { cpu, reference, len }
    }
    fn normal(seed: u64, len: usize, scale: f32) -> Self {
        let mut rng = Rng::new(seed);
        Self::of(len, || rng.normal() as f32 * scale)
    }
    fn poison(len: usize) -> Self {
        Self::of(len, || f32::NAN)
    }
    /// An error to report, if the CPU's numbers are not the reference's.
    fn compare(&self, name: &str, tolerance: f64) -> Result<(), String> {
        let (mut error, mut norm, mut worst, mut most) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for i in 0..self.len {
            let (got, want) = (f64::from(self.cpu[i]), self.reference[i]);
            if !got.is_finite() || !want.is_finite() {
                return Err(format!("{name}[{i}] = {got}, should be {want}"));
            }
            let d = (got - want).abs();
            (error, norm, worst, most) = (error + d * d, norm + want * want, worst.max(d), most.max(want.abs()));
        }
        let (error, worst) = (error.sqrt() / norm.sqrt().max(1e-30), worst / most.max(1e-30));
        if error > tolerance || worst > 5.0 * tolerance {
            return Err(format!("{name}: relative norm {error:.1e}, worst element {worst:.1e}, tolerance {tolerance:.0e}"));
        }
        if self.cpu[self.len..].iter().any(|&x| x != SENTINEL) {
            return Err(format!("{name}: written behind its end"));
        }
        Ok(())
    }
}

/// Runs `case` for each instruction set and each of `sizes`; reports all that fail.
fn each<T: std::fmt::Debug>(sizes: &[T], case: impl Fn(Cpu, &T) -> Result<(), String>) {
    let mut failures = Vec::new();
    for isa in Isa::available() {
        for size in sizes {
            if let Err(message) = case(Cpu::with_isa(isa), size) {
                failures.push(format!("{} {size:?}: {message}", isa.name()));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// `both!(cpu, kernel(&mut y, &x, 3))`: a kernel with twins as arguments on both backends.
macro_rules! both {
    ($cpu:expr, $kernel:ident($($arg:tt)*)) => {{
        both!(@call $cpu, cpu, $kernel, [] $($arg)*,);
        both!(@call Reference, reference, $kernel, [] $($arg)*,);
    }};
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*] mut $t:ident, $($rest:tt)*) => {
        both!(@call $on, $side, $kernel, [$($done)* &mut $t.$side,] $($rest)*)
    };
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*] some mut $t:ident, $($rest:tt)*) => {
        both!(@call $on, $side, $kernel, [$($done)* Some(&mut $t.$side),] $($rest)*)
    };
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*] some $t:ident, $($rest:tt)*) => {
        both!(@call $on, $side, $kernel, [$($done)* Some(&$t.$side),] $($rest)*)
    };
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*] of $t:ident, $($rest:tt)*) => {
        both!(@call $on, $side, $kernel, [$($done)* &$t.$side,] $($rest)*)
    };
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*] $e:expr, $($rest:tt)*) => {
        both!(@call $on, $side, $kernel, [$($done)* $e,] $($rest)*)
    };
    (@call $on:expr, $side:ident, $kernel:ident, [$($done:tt)*]) => { $on.$kernel($($done)*) };
}

const LENGTHS: [usize; 9] = [1, 3, 15, 16, 17, 64, 1000, 65_536, 100_003];

#[test]
fn elements() {
    each(&LENGTHS, |cpu, &n| {
        let x = Twin::normal(1, n, 2.0);
        let mut y = Twin::poison(n);
        both!(cpu, copy(mut y, of x, n));
        y.compare("copy", 0.0)?;
        both!(cpu, axpy(mut y, -0.3, of x, n));
        y.compare("axpy", ACTIVATION)?;
        let mut y = Twin::poison(n);
        both!(cpu, gelu(mut y, of x, n));
        y.compare("gelu", ACTIVATION)?;
        let mut d = Twin::normal(2, n, 1.0);
        both!(cpu, gelu_backward(mut d, of x, n));
        d.compare("gelu_backward", GRADIENT)?;
        both!(cpu, zero(mut d, n));
        d.compare("zero", 0.0)
    });
}

#[test]
fn gelu_far_from_zero() {
    each(&[()], |cpu, ()| {
        let mut at = -60.0f32;
        let x = Twin::of(4801, || {
            at += 0.025;
            at
        });
        let (mut y, mut d) = (Twin::poison(x.len), Twin::of(x.len, || 1.0));
        both!(cpu, gelu(mut y, of x, x.len));
        both!(cpu, gelu_backward(mut d, of x, x.len));
        for i in 0..x.len {
            // Within 4 ULP of 1 + |x|: what is added to a residual stream of that size.
            let bound = 4.0 * f64::from(f32::EPSILON) * (1.0 + f64::from(x.cpu[i].abs()));
            for (name, t) in [("gelu", &y), ("slope", &d)] {
                let error = (f64::from(t.cpu[i]) - t.reference[i]).abs();
                if error.is_nan() || error > bound {
                    return Err(format!("{name}({}) = {}, should be {}", x.cpu[i], t.cpu[i], t.reference[i]));
                }
            }
        }
        Ok(())
    });
}

fn control() -> Control {
    Control { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, clip: 1.0, step: 3, dropout_key: 77, rounding_key: 78 }
}

#[test]
fn dropout_has_the_same_mask() {
    each(&LENGTHS, |cpu, &n| {
        let x = Twin::normal(1, n, 1.0);
        let mut y = Twin::poison(n);
        let ctl = control();
        both!(cpu, dropout(mut y, of x, 0.3, 5, &ctl, n));
        if (0..n).any(|i| (y.cpu[i] == 0.0) != (y.reference[i] == 0.0)) {
            return Err("masks differ".into());
        }
        y.compare("dropout", ACTIVATION)
    });
}

fn ids(seed: u64, n: usize, below: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(below as u64) as u32).collect()
}

#[test]
fn embedding() {
    each(&[(1, 1, 1), (7, 24, 5), (145, 88, 263), (300, 128, 9), (1100, 96, 40)], |cpu, &(n, c, v)| {
        let (wte, wpe) = (Twin::normal(1, v * c, 1.0), Twin::normal(2, n * c, 1.0));
        let tokens = ids(3, n, v);
        let positions: Vec<u32> = (0..n as u32).map(|i| i % 72).collect();
        let mut x = Twin::poison(n * c);
        both!(cpu, embed(mut x, &tokens, &positions, of wte, of wpe, n, c));
        x.compare("embed", ACTIVATION)?;
        let (mut dwte, mut dwpe) = (Twin::normal(4, v * c, 1.0), Twin::normal(5, n * c, 1.0));
        both!(cpu, embed_backward(some mut dwte, some mut dwpe, of x, &tokens, &positions, n, c));
        dwte.compare("dwte", GRADIENT)?;
        dwpe.compare("dwpe", GRADIENT)?;
        both!(cpu, embed_backward(None, some mut dwpe, of x, &tokens, &positions, n, c));
        dwpe.compare("dwpe alone", GRADIENT)
    });
}

#[test]
fn norms() {
    each(&[(1, 1), (1, 24), (3, 17), (33, 88), (65, 128), (200, 768)], |cpu, &(n, c)| {
        let mut x = Twin::normal(1, n * c, 1.5);
        for i in 0..x.len {
            x.cpu[i] += 3.0; // a mean that is not 0
            x.reference[i] = f64::from(x.cpu[i]);
        }
        let (w, b) = (Twin::normal(2, c, 1.0), Twin::normal(3, c, 1.0));
        let (mut y, mut stats) = (Twin::poison(n * c), Twin::poison(2 * n));
        both!(cpu, norm(mut y, mut stats, of x, of w, of b, n, c));
        y.compare("norm", ACTIVATION)?;
        stats.compare("stats", ACTIVATION)?;
        let dy = Twin::normal(4, n * c, 1.0);
        let (mut dx, mut dw, mut db) = (Twin::normal(5, n * c, 1.0), Twin::normal(6, c, 1.0), Twin::normal(7, c, 1.0));
        let mut sums = Twin::normal(8, c, 1.0);
        both!(cpu, norm_backward(mut dx, some mut dw, some mut db, some mut sums, of dy, of x, of w, of stats, n, c));
        dx.compare("dx", GRADIENT)?;
        dw.compare("dw", GRADIENT)?;
        db.compare("db", GRADIENT)?;
        sums.compare("sums", GRADIENT)?;
        both!(cpu, norm_backward(mut dx, None, some mut db, None, of dy, of x, of w, of stats, n, c));
        db.compare("db alone", GRADIENT)?;
        both!(cpu, norm_backward(mut dx, None, None, some mut sums, of dy, of x, of w, of stats, n, c));
        sums.compare("sums alone", GRADIENT)?;
        both!(cpu, norm_backward(mut dx, None, None, None, of dy, of x, of w, of stats, n, c));
        dx.compare("dx alone", GRADIENT)
    });
}

/// N, I, O. The last three have several chunks of terms, several packs of them, and several panels.
const PRODUCTS: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 24, 263),
    (2, 3, 5),
    (7, 88, 24),
    (13, 8, 64),
    (14, 32, 32),
    (29, 33, 65),
    (64, 4, 128),
    (145, 128, 384),
    (150, 263, 88),
    (71, 385, 31),
    (67, 1537, 47),
    (33, 20_001, 17),
    (3100, 9, 3079),
];

#[test]
fn products() {
    each(&PRODUCTS, |cpu, &(n, i, o)| {
        let (x, w, b) = (Twin::normal(1, n * i, 1.0), Twin::normal(2, o * i, 0.3), Twin::normal(3, o, 1.0));
        let mut y = Twin::poison(n * o);
        both!(cpu, linear(mut y, of x, of w, None, n, i, o));
        y.compare("linear", ACTIVATION)?;
        both!(cpu, linear_add(mut y, 0.7, of x, of w, n, i, o));
        y.compare("linear_add", ACTIVATION)?;
        let mut y = Twin::poison(n * o);
        both!(cpu, linear(mut y, of x, of w, some b, n, i, o));
        y.compare("linear + bias", ACTIVATION)?;
        let (mut y, mut pre) = (Twin::poison(n * o), Twin::poison(n * o));
        both!(cpu, linear_gelu(mut y, mut pre, of x, of w, some b, n, i, o));
        y.compare("linear_gelu", ACTIVATION)?;
        pre.compare("linear_gelu's pre", ACTIVATION)?;
        let residual = Twin::normal(4, n * o, 1.0);
        for bias in [None, Some(&b)] {
            let mut y = Twin::poison(n * o);
            cpu.linear_residual(&mut y.cpu, &residual.cpu, &x.cpu, &w.cpu, bias.map(|b| &b.cpu), n, i, o);
            Reference.linear_residual(
                &mut y.reference,
                &residual.reference,
                &x.reference,
                &w.reference,
                bias.map(|b| &b.reference),
                n,
                i,
                o,
            );
            y.compare("linear_residual", ACTIVATION)?;
        }
        Ok(())
    });
}

#[test]
fn products_backward() {
    each(&PRODUCTS, |cpu, &(n, i, o)| {
        let (x, w, dy) = (Twin::normal(1, n * i, 1.0), Twin::normal(2, o * i, 0.3), Twin::normal(3, n * o, 1.0));
        let mut dx = Twin::poison(n * i);
        both!(cpu, linear_dx(mut dx, of dy, of w, n, i, o));
        dx.compare("linear_dx", GRADIENT)?;
        both!(cpu, linear_dx_add(mut dx, -1.5, of dy, of w, n, i, o));
        dx.compare("linear_dx_add", GRADIENT)?;
        let mut dpre = Twin::poison(n * i);
        both!(cpu, linear_dx_gelu(mut dpre, of dy, of w, of x, n, i, o));
        dpre.compare("linear_dx_gelu", GRADIENT)?;
        let (mut dw, mut db) = (Twin::normal(4, o * i, 1.0), Twin::normal(5, o, 1.0));
        both!(cpu, linear_dw(some mut dw, some mut db, 0.5, of dy, of x, n, i, o));
        dw.compare("linear_dw", GRADIENT)?;
        db.compare("linear_dw's db", GRADIENT)?;
        both!(cpu, linear_dw(None, some mut db, 0.5, of dy, of x, n, i, o));
        db.compare("db alone", GRADIENT)
    });
}

/// Sequence starts as packing makes them: documents of uneven lengths.
fn starts(s: Heads, packed: bool) -> Vec<u32> {
    let mut rng = Rng::new(9);
    let mut all = Vec::new();
    for _ in 0..s.b {
        let mut from = 0;
        for t in 0..s.t {
            if packed && rng.below(23) == 0 {
                from = t;
            }
            all.push(from as u32);
        }
    }
    all
}

#[test]
fn attention() {
    let mut sizes = Vec::new();
    for (b, t, h, d) in [
        (1, 1, 1, 8),
        (2, 2, 3, 1),
        (3, 31, 2, 8),
        (2, 72, 2, 12),
        (1, 33, 2, 16),
        (1, 64, 3, 64),
        (2, 129, 1, 80),
        (1, 200, 2, 128),
        (1, 263, 2, 64),
        (1, 97, 1, 137),
    ] {
        sizes.extend([(Heads { b, t, h, d }, false), (Heads { b, t, h, d }, true)]);
    }
    each(&sizes, |cpu, &(s, packed)| {
        let (n, c) = (s.n(), s.c());
        // Scores of a few units, so that the softmax is neither flat nor a single spike.
        let qkv = Twin::normal(1, n * 3 * c, 1.3);
        let starts = starts(s, packed);
        let (mut y, mut lse) = (Twin::poison(n * c), Twin::poison(n * s.h));
        both!(cpu, attention(mut y, mut lse, of qkv, &starts, s));
        y.compare("attention", ACTIVATION)?;
        lse.compare("lse", ACTIVATION)?;
        let dy = Twin::normal(2, n * c, 1.0);
        let (mut dqkv, mut delta) = (Twin::poison(n * 3 * c), Twin::poison(n * s.h));
        both!(cpu, attention_backward(mut dqkv, mut delta, of dy, of y, of qkv, of lse, &starts, s));
        dqkv.compare("dqkv", GRADIENT)
    });
}

#[test]
fn classifier() {
    // N, C, V; the last has more rows than a chunk of logits.
    each(&[(1, 24, 5), (9, 88, 263), (72, 64, 1000), (700, 8, 50_257)], |cpu, &(n, c, v)| {
        let (x, wte) = (Twin::normal(1, n * c, 1.0), Twin::normal(2, v * c, 0.5));
        let rows: Vec<u32> = (0..n as u32).filter(|row| row % 3 != 1).collect();
        let count = rows.len();
        let ids = ids(3, count, v);
        let weights = Twin::of(count, || 0.25 / count as f32);
        let on_cpu = Targets::<Cpu> { count, rows: rows.clone(), ids: ids.clone(), weights: weights.cpu };
        let on_reference = Targets::<Reference> { count, rows: rows.clone(), ids, weights: weights.reference };
        let mut head = cpu.alloc_head(n, c, v).unwrap();
        let mut reference_head = Reference.alloc_head(n, c, v).unwrap();
        for gradients in [false, true] {
            let mut loss = Twin::normal(4, 1, 1.0);
            let (mut dx, mut dwte) = (Twin::poison(n * c), Twin::normal(5, v * c, 1e-4));
            let (a, b) = if gradients { (Some(&mut dx.cpu), Some(&mut dwte.cpu)) } else { (None, None) };
            cpu.classify_loss(&mut loss.cpu, a, b, &mut head, &x.cpu, &wte.cpu, &on_cpu, n, c, v);
            let (a, b) = if gradients { (Some(&mut dx.reference), Some(&mut dwte.reference)) } else { (None, None) };
            let (x, wte) = (&x.reference, &wte.reference);
            Reference.classify_loss(&mut loss.reference, a, b, &mut reference_head, x, wte, &on_reference, n, c, v);
            loss.compare("loss", 1e-6)?; // one f32 rounding of a sum made in f64, of rows good to 1e-6
            if gradients {
                dx.compare("dx", GRADIENT)?;
                dwte.compare("dwte", GRADIENT)?;
            }
        }
        let mut logits = Twin::poison(count * v);
        both!(cpu, logits(mut logits, of x, &rows, count, of wte, c, v));
        logits.compare("logits", ACTIVATION)
    });
}

#[test]
fn optimizer() {
    each(&LENGTHS, |cpu, &n| {
        let mut g = [Twin::normal(1, n, 1.0), Twin::normal(2, 7, 1e-3)];
        for g in &mut g {
            g.cpu.truncate(g.len);
            g.reference.truncate(g.len);
        }
        let mut norm = Twin::poison(1);
        cpu.grad_norm(&mut norm.cpu, &[&g[0].cpu, &g[1].cpu]);
        Reference.grad_norm(&mut norm.reference, &[&g[0].reference, &g[1].reference]);
        norm.compare("norm", 1e-6)?;
        for (decay, clip) in [(true, 0.5), (false, 1e6)] {
            let (mut w, mut m, mut v) = (Twin::normal(3, n, 0.1), Twin::normal(4, n, 0.1), Twin::normal(5, n, 0.1));
            for t in [&mut w, &mut m, &mut v] {
                t.cpu.truncate(n);
                t.reference.truncate(n);
            }
            for i in 0..n {
                v.cpu[i] = v.cpu[i].abs();
                v.reference[i] = v.reference[i].abs();
            }
            let ctl = Control { clip, ..control() };
            let mut leaf = [AdamLeaf::<Cpu> { w: &mut w.cpu, master: None, m: &mut m.cpu, v: &mut v.cpu, g: &g[0].cpu, decay }];
            cpu.adamw(&mut leaf, &norm.cpu, &ctl);
            let (w64, m64, v64) = (&mut w.reference, &mut m.reference, &mut v.reference);
            let mut leaf = [AdamLeaf::<Reference> { w: w64, master: None, m: m64, v: v64, g: &g[0].reference, decay }];
            Reference.adamw(&mut leaf, &norm.reference, &ctl);
            w.compare("w", STEP)?;
            m.compare("m", STEP)?;
            v.compare("v", STEP)?;
        }
        Ok(())
    });
}

/// All kernels that sum, at sizes cut into many tasks: their bits.
fn bits(cpu: Cpu) -> Vec<(&'static str, Vec<f32>)> {
    let (n, c, v) = (301, 136, 2003);
    let x = Twin::normal(1, n * c, 1.0).cpu;
    let w = Twin::normal(2, v * c, 0.2).cpu;
    let dy = Twin::normal(3, n * v, 1.0).cpu;
    let mut out = Vec::new();
    let mut y = vec![0.0; n * v];
    cpu.linear(&mut y, &x, &w, None, n, c, v);
    out.push(("linear", y));
    let mut dx = vec![0.0; n * c];
    cpu.linear_dx(&mut dx, &dy, &w, n, c, v);
    let (mut dw, mut db) = (vec![0.0; v * c], vec![0.0; v]);
    cpu.linear_dw(Some(&mut dw), Some(&mut db), 1.0, &dy, &x, n, c, v);
    out.extend([("linear_dx", dx), ("linear_dw", dw), ("db", db)]);
    let (mut y, mut stats) = (vec![0.0; n * c], vec![0.0; 2 * n]);
    cpu.norm(&mut y, &mut stats, &x, &w, &w, n, c);
    let (mut dx, mut dw, mut db, mut sums) = (vec![0.0; n * c], vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    cpu.norm_backward(&mut dx, Some(&mut dw), Some(&mut db), Some(&mut sums), &dy, &x, &w, &stats, n, c);
    out.extend([("norm", y), ("norm dx", dx), ("norm dw", dw), ("norm db", db), ("norm sums", sums)]);
    let s = Heads { b: 1, t: n, h: 2, d: 68 };
    let starts = starts(s, true);
    let (mut y, mut lse) = (vec![0.0; n * c], vec![0.0; n * 2]);
    cpu.attention(&mut y, &mut lse, &dy, &starts, s);
    let (mut dqkv, mut delta) = (vec![0.0; 3 * n * c], vec![0.0; 2 * n]);
    cpu.attention_backward(&mut dqkv, &mut delta, &x, &y, &dy, &lse, &starts, s);
    out.extend([("attention", y), ("lse", lse), ("dqkv", dqkv)]);
    let count = 200;
    let targets = Targets::<Cpu> { count, rows: (0..200).collect(), ids: ids(4, count, v), weights: vec![0.005; count] };
    let mut head = cpu.alloc_head(n, c, v).unwrap();
    let (mut loss, mut dx, mut dwte) = (vec![0.0], vec![0.0; n * c], vec![0.0; v * c]);
    cpu.classify_loss(&mut loss, Some(&mut dx), Some(&mut dwte), &mut head, &x, &w, &targets, n, c, v);
    let mut norm = vec![0.0];
    cpu.grad_norm(&mut norm, &[&dwte, &dx]);
    let mut dwpe = vec![0.0; n * c];
    cpu.embed_backward(Some(&mut dwte), Some(&mut dwpe), &dx, &ids(5, n, 20), &ids(6, n, 30), n, c);
    out.extend([("loss", loss), ("classify dx", dx), ("dwte", dwte), ("dwpe", dwpe), ("grad_norm", norm)]);
    out
}

#[test]
fn bits_do_not_depend_on_threads() {
    for isa in Isa::available() {
        let with = |threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| bits(Cpu::with_isa(isa)));
        let one = with(1);
        for threads in [2, 3, 5] {
            for ((name, a), (_, b)) in one.iter().zip(with(threads)) {
                assert!(a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())), "{} {name} on {threads} threads", isa.name());
            }
        }
    }
}

/// The checks themselves must be able to fail: one weight 1 % off.
#[test]
fn a_wrong_weight_is_seen() {
    let (n, i, o) = (64, 96, 80);
    let (x, mut w) = (Twin::normal(1, n * i, 1.0), Twin::normal(2, o * i, 0.3));
    w.cpu[i * 17 + 5] *= 1.01;
    let mut y = Twin::poison(n * o);
    both!(Cpu::new(), linear(mut y, of x, of w, None, n, i, o));
    assert!(y.compare("linear", ACTIVATION).is_err());
}

#[test]
fn the_environment_variable_is_checked() {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    assert_eq!(names.last(), Some(&"plain"));
    assert_eq!(Isa::detect().name(), names[0]);
}
