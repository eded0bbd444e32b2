//! The plainest possible kernels, in `f64`: what every other backend is held to.
//!
//! Nothing here is fast, blocked, fused or parallel, and nothing should be: a reader can hold each kernel against
//! its formula, and `tests/gradients.rs` holds each backward against its forward.

use super::{AdamLeaf, Backend, BackendError, Control, Heads, NORM_EPS, Targets, Widths};
use crate::rng;
use std::time::Instant;

/// The oracle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    type Buf = Vec<f64>;
    type Acc = Vec<f64>;
    type Ids = Vec<u32>;
    type Ctl = Control;
    /// The logits of one row.
    type Head = Vec<f64>;
    type Late = Vec<f64>;
    type Mark = Instant;

    const NAME: &'static str = "reference";

    fn alloc(&self, len: usize) -> Result<Vec<f64>, BackendError> {
        Ok(vec![0.0; len])
    }
    fn alloc_acc(&self, len: usize) -> Result<Vec<f64>, BackendError> {
        Ok(vec![0.0; len])
    }
    fn alloc_ids(&self, len: usize) -> Result<Vec<u32>, BackendError> {
        Ok(vec![0; len])
    }
    fn alloc_ctl(&self) -> Result<Control, BackendError> {
        Ok(Control { lr: 0.0, beta1: 0.0, beta2: 0.0, eps: 0.0, decay: 0.0, clip: 0.0, step: 0, dropout_key: 0, rounding_key: 0 })
    }
    fn alloc_head(&self, _n: usize, _c: usize, v: usize) -> Result<Vec<f64>, BackendError> {
        Ok(vec![0.0; v])
    }
    fn upload(&self, dst: &mut Vec<f64>, src: &[f32]) -> Result<(), BackendError> {
        for (dst, &src) in dst[..src.len()].iter_mut().zip(src) {
            *dst = f64::from(src);
        }
        Ok(())
    }
    fn download(&self, dst: &mut [f32], src: &Vec<f64>) -> Result<(), BackendError> {
        let len = dst.len();
        for (dst, &src) in dst.iter_mut().zip(&src[..len]) {
            *dst = src as f32;
        }
        Ok(())
    }
    fn upload_acc(&self, dst: &mut Vec<f64>, src: &[f64]) -> Result<(), BackendError> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn download_acc(&self, dst: &mut [f64], src: &Vec<f64>) -> Result<(), BackendError> {
        dst.copy_from_slice(&src[..dst.len()]);
        Ok(())
    }
    fn upload_ids(&self, dst: &mut Vec<u32>, src: &[u32]) -> Result<(), BackendError> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn upload_ctl(&self, dst: &mut Control, src: &Control) -> Result<(), BackendError> {
        *dst = *src;
        Ok(())
    }
    fn read_late(&self, values: &[&Vec<f64>]) -> Result<Vec<f64>, BackendError> {
        Ok(values.iter().map(|v| v[0]).collect())
    }
    fn take(&self, late: Vec<f64>) -> Result<Vec<f64>, BackendError> {
        Ok(late)
    }
    fn sync(&self) -> Result<(), BackendError> {
        Ok(())
    }
    fn mark(&self) -> Result<Instant, BackendError> {
        Ok(Instant::now())
    }
    fn between(&self, from: &Instant, to: &Instant) -> Result<f64, BackendError> {
        Ok((*to - *from).as_secs_f64() * 1e3)
    }
    fn widths(&self) -> Widths {
        Widths { buf: 8, acc: 8 }
    }
    fn acc_len(&self, acc: &Vec<f64>) -> usize {
        acc.len()
    }

    fn zero_acc(&self, dst: &mut Vec<f64>) {
        dst.fill(0.0);
    }
    fn zero(&self, dst: &mut Vec<f64>, n: usize) {
        dst[..n].fill(0.0);
    }
    fn copy(&self, y: &mut Vec<f64>, x: &Vec<f64>, n: usize) {
        y[..n].copy_from_slice(&x[..n]);
    }
    fn axpy(&self, y: &mut Vec<f64>, alpha: f64, x: &Vec<f64>, n: usize) {
        for i in 0..n {
            y[i] += alpha * x[i];
        }
    }
    fn gelu(&self, y: &mut Vec<f64>, x: &Vec<f64>, n: usize) {
        for i in 0..n {
            y[i] = 0.5 * x[i] * (1.0 + gelu_inner(x[i]).tanh());
        }
    }
    fn gelu_backward(&self, d: &mut Vec<f64>, x: &Vec<f64>, n: usize) {
        for i in 0..n {
            let tanh = gelu_inner(x[i]).tanh();
            let slope = ROOT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBIC * x[i] * x[i]);
            d[i] *= 0.5 * (1.0 + tanh) + 0.5 * x[i] * (1.0 - tanh * tanh) * slope;
        }
    }
    fn dropout(&self, y: &mut Vec<f64>, x: &Vec<f64>, p: f32, site: u64, ctl: &Control, n: usize) {
        let key = rng::key(ctl.dropout_key, &[site]);
        let p = f64::from(p);
        let threshold = (p * 4_294_967_296.0) as u32; // p 2^32
        for i in 0..n {
            let word = rng::block(key, i as u64 / 4)[i % 4];
            y[i] = if word >= threshold { x[i] / (1.0 - p) } else { 0.0 };
        }
    }

    fn embed(&self, x: &mut Vec<f64>, tokens: &Vec<u32>, positions: &Vec<u32>, wte: &Vec<f64>, wpe: &Vec<f64>, n: usize, c: usize) {
        for row in 0..n {
            let (token, position) = (tokens[row] as usize, positions[row] as usize);
            for i in 0..c {
                x[row * c + i] = wte[token * c + i] + wpe[position * c + i];
            }
        }
    }
    fn embed_backward(
        &self,
        mut dwte: Option<&mut Vec<f64>>,
        mut dwpe: Option<&mut Vec<f64>>,
        dx: &Vec<f64>,
        tokens: &Vec<u32>,
        positions: &Vec<u32>,
        n: usize,
        c: usize,
    ) {
        for row in 0..n {
            let (token, position) = (tokens[row] as usize, positions[row] as usize);
            for i in 0..c {
                if let Some(dwte) = dwte.as_deref_mut() {
                    dwte[token * c + i] += dx[row * c + i];
                }
                if let Some(dwpe) = dwpe.as_deref_mut() {
                    dwpe[position * c + i] += dx[row * c + i];
                }
            }
        }
    }

    fn norm(&self, y: &mut Vec<f64>, stats: &mut Vec<f64>, x: &Vec<f64>, w: &Vec<f64>, b: &Vec<f64>, n: usize, c: usize) {
        for row in 0..n {
            let x = &x[row * c..][..c];
            let mean = x.iter().sum::<f64>() / c as f64;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (variance + NORM_EPS).sqrt();
            for i in 0..c {
                y[row * c + i] = (x[i] - mean) * rstd * w[i] + b[i];
            }
            stats[row * 2] = mean;
            stats[row * 2 + 1] = rstd;
        }
    }
    /// With `h = (x - mean) rstd` and `g = dy w`: `dx += rstd (g - mean(g) - h mean(g h))`, `dw += dy h`, `db += dy`, `sums += dx`.
    fn norm_backward(
        &self,
        dx: &mut Vec<f64>,
        mut dw: Option<&mut Vec<f64>>,
        mut db: Option<&mut Vec<f64>>,
        mut sums: Option<&mut Vec<f64>>,
        dy: &Vec<f64>,
        x: &Vec<f64>,
        w: &Vec<f64>,
        stats: &Vec<f64>,
        n: usize,
        c: usize,
    ) {
        for row in 0..n {
            let (x, dy) = (&x[row * c..][..c], &dy[row * c..][..c]);
            let (mean, rstd) = (stats[row * 2], stats[row * 2 + 1]);
            let h = |i: usize| (x[i] - mean) * rstd;
            let g = |i: usize| dy[i] * w[i];
            let mean_g = (0..c).map(g).sum::<f64>() / c as f64;
            let mean_gh = (0..c).map(|i| g(i) * h(i)).sum::<f64>() / c as f64;
            for i in 0..c {
                dx[row * c + i] += rstd * (g(i) - mean_g - h(i) * mean_gh);
                if let Some(dw) = dw.as_deref_mut() {
                    dw[i] += dy[i] * h(i);
                }
                if let Some(db) = db.as_deref_mut() {
                    db[i] += dy[i];
                }
                if let Some(sums) = sums.as_deref_mut() {
                    sums[i] += dx[row * c + i];
                }
            }
        }
    }

    fn linear(&self, y: &mut Vec<f64>, x: &Vec<f64>, w: &Vec<f64>, b: Option<&Vec<f64>>, n: usize, i: usize, o: usize) {
        for row in 0..n {
            for k in 0..o {
                y[row * o + k] = b.map_or(0.0, |b| b[k]) + dot(&x[row * i..][..i], &w[k * i..][..i]);
            }
        }
    }
    fn linear_add(&self, y: &mut Vec<f64>, alpha: f64, x: &Vec<f64>, w: &Vec<f64>, n: usize, i: usize, o: usize) {
        for row in 0..n {
            for k in 0..o {
                y[row * o + k] += alpha * dot(&x[row * i..][..i], &w[k * i..][..i]);
            }
        }
    }
    fn linear_dx(&self, dx: &mut Vec<f64>, dy: &Vec<f64>, w: &Vec<f64>, n: usize, i: usize, o: usize) {
        dx[..n * i].fill(0.0);
        self.linear_dx_add(dx, 1.0, dy, w, n, i, o);
    }
    fn linear_dx_add(&self, dx: &mut Vec<f64>, alpha: f64, dy: &Vec<f64>, w: &Vec<f64>, n: usize, i: usize, o: usize) {
        for row in 0..n {
            for k in 0..o {
                for j in 0..i {
                    dx[row * i + j] += alpha * dy[row * o + k] * w[k * i + j];
                }
            }
        }
    }
    fn linear_dw(
        &self,
        mut dw: Option<&mut Vec<f64>>,
        mut db: Option<&mut Vec<f64>>,
        alpha: f64,
        dy: &Vec<f64>,
        x: &Vec<f64>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        for row in 0..n {
            for k in 0..o {
                let dy = dy[row * o + k];
                if let Some(dw) = dw.as_deref_mut() {
                    for j in 0..i {
                        dw[k * i + j] += alpha * dy * x[row * i + j];
                    }
                }
                if let Some(db) = db.as_deref_mut() {
                    db[k] += dy;
                }
            }
        }
    }

    fn attention(&self, y: &mut Vec<f64>, lse: &mut Vec<f64>, qkv: &Vec<f64>, starts: &Vec<u32>, s: Heads) {
        for (seq, head, row) in queries(s) {
            let at = |row, part| part_of(qkv, s, seq, row, head, part);
            let seen = starts[seq * s.t + row] as usize..row + 1;
            let scores: Vec<f64> = seen.clone().map(|key| s.scale() * dot(at(row, Q), at(key, K))).collect();
            let log_sum = log_sum_exp(&scores);
            lse[(seq * s.t + row) * s.h + head] = log_sum;
            let y = &mut y[(seq * s.t + row) * s.c() + head * s.d..][..s.d];
            y.fill(0.0);
            for (key, score) in seen.zip(scores) {
                let p = (score - log_sum).exp();
                for i in 0..s.d {
                    y[i] += p * at(key, V)[i];
                }
            }
        }
    }
    /// With `p = exp(score - lse)` and `delta = dy . y`: `dv += p dy`, `dscore = p (dy . v - delta)`.
    fn attention_backward(
        &self,
        dqkv: &mut Vec<f64>,
        delta: &mut Vec<f64>,
        dy: &Vec<f64>,
        y: &Vec<f64>,
        qkv: &Vec<f64>,
        lse: &Vec<f64>,
        starts: &Vec<u32>,
        s: Heads,
    ) {
        dqkv[..s.n() * 3 * s.c()].fill(0.0);
        for (seq, head, row) in queries(s) {
            let at = |row, part| part_of(qkv, s, seq, row, head, part);
            let out = (seq * s.t + row) * s.c() + head * s.d;
            let (y, dy) = (&y[out..][..s.d], &dy[out..][..s.d]);
            let stat = (seq * s.t + row) * s.h + head;
            delta[stat] = dot(dy, y);
            for key in starts[seq * s.t + row] as usize..=row {
                let p = (s.scale() * dot(at(row, Q), at(key, K)) - lse[stat]).exp();
                let dscore = s.scale() * p * (dot(dy, at(key, V)) - delta[stat]);
                let [dq, dk, dv] = [(row, Q), (key, K), (key, V)].map(|(row, part)| offset(s, seq, row, head, part));
                for i in 0..s.d {
                    dqkv[dq + i] += dscore * at(key, K)[i];
                    dqkv[dk + i] += dscore * at(row, Q)[i];
                    dqkv[dv + i] += p * dy[i];
                }
            }
        }
    }

    fn classify_loss(
        &self,
        loss: &mut Vec<f64>,
        mut dx: Option<&mut Vec<f64>>,
        mut dwte: Option<&mut Vec<f64>>,
        head: &mut Vec<f64>,
        x: &Vec<f64>,
        wte: &Vec<f64>,
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
            let logits = &mut head[..v];
            for token in 0..v {
                logits[token] = dot(x, &wte[token * c..][..c]);
            }
            let log_sum = log_sum_exp(logits);
            loss[0] += weight * (log_sum - logits[id]);
            for token in 0..v {
                let dlogit = weight * ((logits[token] - log_sum).exp() - if token == id { 1.0 } else { 0.0 });
                for i in 0..c {
                    if let Some(dx) = dx.as_deref_mut() {
                        dx[row * c + i] += dlogit * wte[token * c + i];
                    }
                    if let Some(dwte) = dwte.as_deref_mut() {
                        dwte[token * c + i] += dlogit * x[i];
                    }
                }
            }
        }
    }
    fn logits(&self, logits: &mut Vec<f64>, x: &Vec<f64>, rows: &Vec<u32>, count: usize, wte: &Vec<f64>, c: usize, v: usize) {
        for k in 0..count {
            for token in 0..v {
                logits[k * v + token] = dot(&x[rows[k] as usize * c..][..c], &wte[token * c..][..c]);
            }
        }
    }

    fn grad_norm(&self, norm: &mut Vec<f64>, grads: &[&Vec<f64>]) {
        norm[0] = grads.iter().map(|g| dot(g, g)).sum::<f64>().sqrt();
    }
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Vec<f64>, ctl: &Control) {
        let Control { lr, beta1, beta2, eps, .. } = *ctl;
        let scale = (ctl.clip / norm[0]).min(1.0);
        let correct1 = 1.0 - beta1.powf(ctl.step as f64);
        let correct2 = 1.0 - beta2.powf(ctl.step as f64);
        for leaf in leaves {
            let decay = if leaf.decay { ctl.decay } else { 0.0 };
            for i in 0..leaf.w.len() {
                let g = scale * leaf.g[i];
                leaf.m[i] = beta1 * leaf.m[i] + (1.0 - beta1) * g;
                leaf.v[i] = beta2 * leaf.v[i] + (1.0 - beta2) * g * g;
                leaf.w[i] -= lr * (leaf.m[i] / correct1 / ((leaf.v[i] / correct2).sqrt() + eps) + decay * leaf.w[i]);
            }
        }
    }
}

const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
/// The cubic term of GPT-2's approximation.
const GELU_CUBIC: f64 = 0.044_715;

fn gelu_inner(x: f64) -> f64 {
    ROOT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Every (sequence, head, row of the sequence).
fn queries(s: Heads) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..s.b * s.h * s.t).map(move |i| (i / (s.h * s.t), i / s.t % s.h, i % s.t))
}

/// The parts of a row of qkv.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;

/// Where the channels of one head begin in qkv.
fn offset(s: Heads, seq: usize, row: usize, head: usize, part: usize) -> usize {
    (seq * s.t + row) * 3 * s.c() + part * s.c() + head * s.d
}

/// The channels (D) of one head in one part of one row of qkv.
fn part_of(qkv: &[f64], s: Heads, seq: usize, row: usize, head: usize, part: usize) -> &[f64] {
    &qkv[offset(s, seq, row, head, part)..][..s.d]
}

#[cfg(test)]
mod tests;
