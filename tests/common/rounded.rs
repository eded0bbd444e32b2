//! Honest bf16: the `Reference` in f64, with what a GPU keeps in bf16 rounded to it, and nothing else.
//!
//! What CUDA in bf16 misses of the truth has two parts: roundings that the storage type makes, and mistakes. This backend makes the
//! same roundings as `kernels/*.cu` and `backend/cuda/products.rs`, so that what CUDA misses of *it* is far smaller. Rounded to
//! nearest, each once, after the kernel that writes it:
//!
//! - every `Buf`: weights, activations, gradients of activations, logits;
//! - logits and their gradient within the classifier (`classify.cu` has both in the storage type), the loss being of rounded logits;
//! - the weights of attention, and their gradients, before the second product that they go into: they are factors of a tensor core. So
//!   only for heads that `attention_sm80.cu` and `attention_sm90.cu` take; `attention_plain.cu` has them in f32. Their sum is of
//!   numbers before rounding, as there.
//!
//! Fused kernels do not round between: `linear_residual` adds bias and residual to the product's own sum, `linear_gelu` takes GELU
//! of the sum before it is rounded into `pre`, `linear_dx_gelu` multiplies the sum by the slope at the rounded `pre`. The column sums
//! that `norm_backward` takes along are of `dx` as it was stored.
//!
//! Not rounded: what is f32 on a GPU (accumulators, masters, moments, statistics, log-sum-exp, losses): 6e-8 where bf16 has 4e-3.
//! Not modelled: that tensor cores' weights of attention are relative to the largest score of the tiles so far and not of all, which
//! rounds the same numbers at another scale; and the driver's ways where a library lacks an epilogue, which round once more.

use std::cell::Cell;
use std::time::Instant;
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{AdamLeaf, Backend, BackendError, Control, Heads, Targets, Widths};
use tinyllm::rng::{self, Rng};

type Result<T> = std::result::Result<T, BackendError>;
type Vector = Vec<f64>;

/// f64 with bf16's roundings.
#[derive(Default)]
pub struct Rounded {
    /// How many kernels have drawn noise, and its seed.
    noise: Option<(u64, Cell<u64>)>,
}

/// What a sum of a hundred terms misses in f32, against the size of what it is a part of: each addition 3e-8 of a partial sum in the
/// mean, and those grow to that size only at the end. With so much, two runs lie as far apart as CUDA lies from one ("gpt2").
const F32_NOISE: f64 = 1e-7;

impl Rounded {
    /// The same with noise as large as f32's before each rounding. Two of these are as far apart as two right backends may be that
    /// sum in other orders.
    pub fn noisy(seed: u64) -> Self {
        Self { noise: Some((seed, Cell::new(0))) }
    }

    /// `x[..n]` as it is stored.
    fn store(&self, x: &mut [f64], n: usize) {
        let x = &mut x[..n];
        if let Some((seed, calls)) = &self.noise {
            calls.set(calls.get() + 1);
            let mut rng = Rng::new(rng::key(*seed, &[calls.get()]));
            let scale = F32_NOISE * (x.iter().map(|x| x * x).sum::<f64>() / n.max(1) as f64).sqrt();
            // What is exactly zero is so in any order.
            x.iter_mut().filter(|x| **x != 0.0).for_each(|x| *x += scale * rng.normal());
        }
        x.iter_mut().for_each(|x| *x = bf16(*x));
    }
}

/// To the nearest bf16 by way of f32, which a kernel has in its registers.
fn bf16(x: f64) -> f64 {
    half::bf16::from_f32(x as f32).to_f64()
}

/// Whether attention works on tensor cores: `has_tensor_cores` in `backend/cuda/attention.rs`.
fn on_tensor_cores(s: Heads) -> bool {
    s.d.is_multiple_of(16) && s.d <= 128
}

impl Backend for Rounded {
    type Buf = Vector;
    type Acc = Vector;
    type Ids = Vec<u32>;
    type Ctl = Control;
    type Head = Vector;
    type Late = Vector;
    type Mark = Instant;

    const NAME: &'static str = "rounded";
    const MASTERS: bool = true;

    fn alloc(&self, len: usize) -> Result<Vector> {
        Reference.alloc(len)
    }
    fn alloc_acc(&self, len: usize) -> Result<Vector> {
        Reference.alloc_acc(len)
    }
    fn alloc_ids(&self, len: usize) -> Result<Vec<u32>> {
        Reference.alloc_ids(len)
    }
    fn alloc_ctl(&self) -> Result<Control> {
        Reference.alloc_ctl()
    }
    fn alloc_head(&self, n: usize, c: usize, v: usize) -> Result<Vector> {
        Reference.alloc_head(n, c, v)
    }
    fn upload(&self, dst: &mut Vector, src: &[f32]) -> Result<()> {
        Reference.upload(dst, src)?;
        dst[..src.len()].iter_mut().for_each(|x| *x = bf16(*x));
        Ok(())
    }
    fn download(&self, dst: &mut [f32], src: &Vector) -> Result<()> {
        Reference.download(dst, src)
    }
    fn upload_acc(&self, dst: &mut Vector, src: &[f64]) -> Result<()> {
        Reference.upload_acc(dst, src)
    }
    fn download_acc(&self, dst: &mut [f64], src: &Vector) -> Result<()> {
        Reference.download_acc(dst, src)
    }
    fn upload_ids(&self, dst: &mut Vec<u32>, src: &[u32]) -> Result<()> {
        Reference.upload_ids(dst, src)
    }
    fn upload_ctl(&self, dst: &mut Control, src: &Control) -> Result<()> {
        Reference.upload_ctl(dst, src)
    }
    fn read_late(&self, values: &[&Vector]) -> Result<Vector> {
        Reference.read_late(values)
    }
    fn take(&self, late: Vector) -> Result<Vector> {
        Reference.take(late)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn mark(&self) -> Result<Instant> {
        Reference.mark()
    }
    fn between(&self, from: &Instant, to: &Instant) -> Result<f64> {
        Reference.between(from, to)
    }
    fn widths(&self) -> Widths {
        Reference.widths()
    }
    fn acc_len(&self, acc: &Vector) -> usize {
        acc.len()
    }

    fn zero_acc(&self, dst: &mut Vector) {
        Reference.zero_acc(dst);
    }
    fn zero(&self, dst: &mut Vector, n: usize) {
        Reference.zero(dst, n);
    }
    fn copy(&self, y: &mut Vector, x: &Vector, n: usize) {
        Reference.copy(y, x, n);
    }
    fn axpy(&self, y: &mut Vector, alpha: f64, x: &Vector, n: usize) {
        Reference.axpy(y, alpha, x, n);
        self.store(y, n);
    }
    fn gelu(&self, y: &mut Vector, x: &Vector, n: usize) {
        Reference.gelu(y, x, n);
        self.store(y, n);
    }
    fn gelu_backward(&self, d: &mut Vector, x: &Vector, n: usize) {
        Reference.gelu_backward(d, x, n);
        self.store(d, n);
    }
    fn dropout(&self, y: &mut Vector, x: &Vector, p: f32, site: u64, ctl: &Control, n: usize) {
        Reference.dropout(y, x, p, site, ctl, n);
        self.store(y, n);
    }

    fn embed(&self, x: &mut Vector, tokens: &Vec<u32>, positions: &Vec<u32>, wte: &Vector, wpe: &Vector, n: usize, c: usize) {
        Reference.embed(x, tokens, positions, wte, wpe, n, c);
        // A sum of two: f32 makes no noise, and bf16 numbers have many ties that noise would break.
        Self::default().store(x, n * c);
    }
    fn embed_backward(
        &self,
        dwte: Option<&mut Vector>,
        dwpe: Option<&mut Vector>,
        dx: &Vector,
        tokens: &Vec<u32>,
        positions: &Vec<u32>,
        n: usize,
        c: usize,
    ) {
        Reference.embed_backward(dwte, dwpe, dx, tokens, positions, n, c);
    }

    fn norm(&self, y: &mut Vector, stats: &mut Vector, x: &Vector, w: &Vector, b: &Vector, n: usize, c: usize) {
        Reference.norm(y, stats, x, w, b, n, c);
        self.store(y, n * c);
    }
    fn norm_backward(
        &self,
        dx: &mut Vector,
        dw: Option<&mut Vector>,
        db: Option<&mut Vector>,
        sums: Option<&mut Vector>,
        dy: &Vector,
        x: &Vector,
        w: &Vector,
        stats: &Vector,
        n: usize,
        c: usize,
    ) {
        Reference.norm_backward(dx, dw, db, None, dy, x, w, stats, n, c);
        self.store(dx, n * c);
        if let Some(sums) = sums {
            dx[..n * c].chunks(c).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        }
    }

    fn linear(&self, y: &mut Vector, x: &Vector, w: &Vector, b: Option<&Vector>, n: usize, i: usize, o: usize) {
        Reference.linear(y, x, w, b, n, i, o);
        self.store(y, n * o);
    }
    fn linear_add(&self, y: &mut Vector, alpha: f64, x: &Vector, w: &Vector, n: usize, i: usize, o: usize) {
        Reference.linear_add(y, alpha, x, w, n, i, o);
        self.store(y, n * o);
    }
    fn linear_gelu(&self, y: &mut Vector, pre: &mut Vector, x: &Vector, w: &Vector, b: Option<&Vector>, n: usize, i: usize, o: usize) {
        Reference.linear_gelu(y, pre, x, w, b, n, i, o);
        self.store(y, n * o);
        self.store(pre, n * o);
    }
    fn linear_residual(&self, y: &mut Vector, residual: &Vector, x: &Vector, w: &Vector, b: Option<&Vector>, n: usize, i: usize, o: usize) {
        Reference.linear_residual(y, residual, x, w, b, n, i, o);
        self.store(y, n * o);
    }
    fn linear_dx(&self, dx: &mut Vector, dy: &Vector, w: &Vector, n: usize, i: usize, o: usize) {
        Reference.linear_dx(dx, dy, w, n, i, o);
        self.store(dx, n * i);
    }
    fn linear_dx_add(&self, dx: &mut Vector, alpha: f64, dy: &Vector, w: &Vector, n: usize, i: usize, o: usize) {
        Reference.linear_dx_add(dx, alpha, dy, w, n, i, o);
        self.store(dx, n * i);
    }
    fn linear_dx_gelu(&self, dpre: &mut Vector, dy: &Vector, w: &Vector, pre: &Vector, n: usize, i: usize, o: usize) {
        Reference.linear_dx_gelu(dpre, dy, w, pre, n, i, o);
        self.store(dpre, n * i);
    }
    fn linear_dw(
        &self,
        dw: Option<&mut Vector>,
        db: Option<&mut Vector>,
        alpha: f64,
        dy: &Vector,
        x: &Vector,
        n: usize,
        i: usize,
        o: usize,
    ) {
        Reference.linear_dw(dw, db, alpha, dy, x, n, i, o);
    }

    fn attention(&self, y: &mut Vector, lse: &mut Vector, qkv: &Vector, starts: &Vec<u32>, s: Heads) {
        if on_tensor_cores(s) {
            y[..s.n() * s.c()].fill(0.0);
            for query in Query::all(s, starts) {
                let scores: Vec<f64> = query.seen.clone().map(|key| query.score(qkv, key)).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                lse[query.stat] = most + sum.ln();
                for (key, score) in query.seen.clone().zip(scores) {
                    add(&mut y[query.out()], bf16((score - most).exp()) / sum, &qkv[query.part(key, V)]);
                }
            }
        } else {
            Reference.attention(y, lse, qkv, starts, s);
        }
        self.store(y, s.n() * s.c());
    }
    fn attention_backward(
        &self,
        dqkv: &mut Vector,
        delta: &mut Vector,
        dy: &Vector,
        y: &Vector,
        qkv: &Vector,
        lse: &Vector,
        starts: &Vec<u32>,
        s: Heads,
    ) {
        if on_tensor_cores(s) {
            dqkv[..s.n() * 3 * s.c()].fill(0.0);
            for query in Query::all(s, starts) {
                let (row, slope) = (query.row, &dy[query.out()]);
                delta[query.stat] = dot(slope, &y[query.out()]);
                for key in query.seen.clone() {
                    let p = (query.score(qkv, key) - lse[query.stat]).exp();
                    let dscore = s.scale() * bf16(p * (dot(slope, &qkv[query.part(key, V)]) - delta[query.stat]));
                    add(&mut dqkv[query.part(row, Q)], dscore, &qkv[query.part(key, K)]);
                    add(&mut dqkv[query.part(key, K)], dscore, &qkv[query.part(row, Q)]);
                    add(&mut dqkv[query.part(key, V)], bf16(p), slope);
                }
            }
        } else {
            Reference.attention_backward(dqkv, delta, dy, y, qkv, lse, starts, s);
        }
        self.store(dqkv, s.n() * 3 * s.c());
    }

    fn classify_loss(
        &self,
        loss: &mut Vector,
        mut dx: Option<&mut Vector>,
        mut dwte: Option<&mut Vector>,
        head: &mut Vector,
        x: &Vector,
        wte: &Vector,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    ) {
        if let Some(dx) = dx.as_deref_mut() {
            dx[..n * c].fill(0.0);
        }
        for target in 0..targets.count {
            let (row, id, weight) = (targets.rows[target] as usize, targets.ids[target] as usize, targets.weights[target]);
            let x = &x[row * c..][..c];
            for token in 0..v {
                head[token] = dot(x, &wte[token * c..][..c]);
            }
            self.store(head, v);
            let most = head[..v].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = most + head[..v].iter().map(|logit| (logit - most).exp()).sum::<f64>().ln();
            loss[0] += weight * (log_sum - head[id]);
            for token in 0..v {
                head[token] = weight * ((head[token] - log_sum).exp() - if token == id { 1.0 } else { 0.0 });
            }
            self.store(head, v);
            for token in 0..v {
                if let Some(dx) = dx.as_deref_mut() {
                    add(&mut dx[row * c..][..c], head[token], &wte[token * c..][..c]);
                }
                if let Some(dwte) = dwte.as_deref_mut() {
                    add(&mut dwte[token * c..][..c], head[token], x);
                }
            }
        }
        if let Some(dx) = dx {
            self.store(dx, n * c);
        }
    }
    fn logits(&self, logits: &mut Vector, x: &Vector, rows: &Vec<u32>, count: usize, wte: &Vector, c: usize, v: usize) {
        Reference.logits(logits, x, rows, count, wte, c, v);
        self.store(logits, count * v);
    }

    fn grad_norm(&self, norm: &mut Vector, grads: &[&Vector]) {
        Reference.grad_norm(norm, grads);
    }
    /// On the masters; weights are those, rounded to nearest.
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Vector, ctl: &Control) {
        for AdamLeaf { w, master, m, v, g, decay } in leaves {
            let master = master.as_deref_mut().expect("a weight in training has a master");
            Reference.adamw(&mut [AdamLeaf { w: master, master: None, m, v, g, decay: *decay }], norm, ctl);
            w.iter_mut().zip(master).for_each(|(w, master)| *w = bf16(*master));
        }
    }
}

/// The parts of a row of qkv.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;

/// One row of one head, with the rows of its sequence that it sees.
struct Query {
    s: Heads,
    sequence: usize,
    head: usize,
    row: usize,
    seen: std::ops::Range<usize>,
    /// Its place in `(N, H)`.
    stat: usize,
}

impl Query {
    fn all(s: Heads, starts: &[u32]) -> impl Iterator<Item = Self> {
        (0..s.n() * s.h).map(move |stat| {
            let (at, head) = (stat / s.h, stat % s.h);
            let row = at % s.t;
            Self { s, sequence: at / s.t, head, row, seen: starts[at] as usize..row + 1, stat }
        })
    }
    /// Where its channels lie in y.
    fn out(&self) -> std::ops::Range<usize> {
        let first = (self.sequence * self.s.t + self.row) * self.s.c() + self.head * self.s.d;
        first..first + self.s.d
    }
    /// Where the channels of its head in one part of a row of its sequence lie in qkv.
    fn part(&self, row: usize, part: usize) -> std::ops::Range<usize> {
        let first = ((self.sequence * self.s.t + row) * 3 + part) * self.s.c() + self.head * self.s.d;
        first..first + self.s.d
    }
    fn score(&self, qkv: &[f64], key: usize) -> f64 {
        self.s.scale() * dot(&qkv[self.part(self.row, Q)], &qkv[self.part(key, K)])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}
