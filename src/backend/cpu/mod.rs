//! The CPU: `f32`, vector instructions chosen at run time, rayon's current pool.
//!
//! The loops are in [`crate::simd`]; here their sizes are cut to the rows at hand. A pass does best inside
//! `ThreadPool::install`, where a parallel loop costs a few microseconds; from outside each wakes the pool.

mod classify;
mod embed;

use super::{AdamLeaf, Backend, BackendError, Control, Heads, NORM_EPS, Targets, Widths};
use crate::rng;
use crate::simd::elements::{Axpy, Copied, Gelu, GeluBackward};
use crate::simd::gemm::{Finish, Mat, Start, gemm};
use crate::simd::{Isa, IsaError, adamw, attention, dropout, elements, norm};
use std::time::Instant;

pub use classify::Head;

/// The CPU with one of its instruction sets.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// With the best instruction set of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::with_isa(Isa::detect())
    }

    /// With the instruction set that the environment variable `TINYLLM_ISA` names, or the best.
    pub fn from_env() -> Result<Self, IsaError> {
        Isa::from_env().map(Self::with_isa)
    }

    /// With one of [`Isa::available`].
    #[must_use]
    pub const fn with_isa(isa: Isa) -> Self {
        Self { isa }
    }

    /// The instruction set.
    #[must_use]
    pub const fn isa(self) -> Isa {
        self.isa
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// `len` copies of `value`, or an error instead of an abort.
fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>, BackendError> {
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { device: "CPU", bytes: len.saturating_mul(size_of::<T>()) })?;
    all.resize(len, value);
    Ok(all)
}

fn start(bias: Option<&Vec<f32>>, o: usize) -> Start<'_> {
    bias.map_or(Start::Zero, |bias| Start::Bias(&bias[..o]))
}

impl Backend for Cpu {
    type Buf = Vec<f32>;
    type Acc = Vec<f32>;
    type Ids = Vec<u32>;
    type Ctl = Control;
    type Head = Head;
    type Late = Vec<f64>;
    type Mark = Instant;

    const NAME: &'static str = "cpu";

    fn alloc(&self, len: usize) -> Result<Vec<f32>, BackendError> {
        filled(len, 0.0)
    }
    fn alloc_acc(&self, len: usize) -> Result<Vec<f32>, BackendError> {
        filled(len, 0.0)
    }
    fn alloc_ids(&self, len: usize) -> Result<Vec<u32>, BackendError> {
        filled(len, 0)
    }
    fn alloc_ctl(&self) -> Result<Control, BackendError> {
        Ok(Control { lr: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.0, clip: 1.0, step: 1, dropout_key: 0, rounding_key: 0 })
    }
    fn alloc_head(&self, n: usize, c: usize, v: usize) -> Result<Head, BackendError> {
        Head::new(n, c, v)
    }

    fn upload(&self, dst: &mut Vec<f32>, src: &[f32]) -> Result<(), BackendError> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn download(&self, dst: &mut [f32], src: &Vec<f32>) -> Result<(), BackendError> {
        dst.copy_from_slice(&src[..dst.len()]);
        Ok(())
    }
    fn upload_acc(&self, dst: &mut Vec<f32>, src: &[f64]) -> Result<(), BackendError> {
        for (dst, &src) in dst[..src.len()].iter_mut().zip(src) {
            *dst = src as f32;
        }
        Ok(())
    }
    fn download_acc(&self, dst: &mut [f64], src: &Vec<f32>) -> Result<(), BackendError> {
        let n = dst.len();
        for (dst, &src) in dst.iter_mut().zip(&src[..n]) {
            *dst = f64::from(src);
        }
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
    fn read_late(&self, values: &[&Vec<f32>]) -> Result<Vec<f64>, BackendError> {
        Ok(values.iter().map(|v| f64::from(v[0])).collect())
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
        Widths { buf: 4, acc: 4 }
    }
    fn acc_len(&self, acc: &Vec<f32>) -> usize {
        acc.len()
    }

    fn zero_acc(&self, dst: &mut Vec<f32>) {
        elements::zero(dst);
    }
    fn zero(&self, dst: &mut Vec<f32>, n: usize) {
        elements::zero(&mut dst[..n]);
    }
    fn copy(&self, y: &mut Vec<f32>, x: &Vec<f32>, n: usize) {
        elements::each(self.isa, Copied, &mut y[..n], &x[..n]);
    }
    fn axpy(&self, y: &mut Vec<f32>, alpha: f64, x: &Vec<f32>, n: usize) {
        elements::each(self.isa, Axpy(alpha as f32), &mut y[..n], &x[..n]);
    }
    fn gelu(&self, y: &mut Vec<f32>, x: &Vec<f32>, n: usize) {
        elements::each(self.isa, Gelu, &mut y[..n], &x[..n]);
    }
    fn gelu_backward(&self, d: &mut Vec<f32>, x: &Vec<f32>, n: usize) {
        elements::each(self.isa, GeluBackward, &mut d[..n], &x[..n]);
    }
    fn dropout(&self, y: &mut Vec<f32>, x: &Vec<f32>, p: f32, site: u64, ctl: &Control, n: usize) {
        dropout::dropout(self.isa, &mut y[..n], &x[..n], p, rng::key(ctl.dropout_key, &[site]));
    }

    fn embed(&self, x: &mut Vec<f32>, tokens: &Vec<u32>, positions: &Vec<u32>, wte: &Vec<f32>, wpe: &Vec<f32>, n: usize, c: usize) {
        embed::forward(&mut x[..n * c], &tokens[..n], &positions[..n], wte, wpe, c);
    }
    fn embed_backward(
        &self,
        dwte: Option<&mut Vec<f32>>,
        dwpe: Option<&mut Vec<f32>>,
        dx: &Vec<f32>,
        tokens: &Vec<u32>,
        positions: &Vec<u32>,
        n: usize,
        c: usize,
    ) {
        if let Some(dwte) = dwte {
            embed::backward(dwte, &dx[..n * c], &tokens[..n], c);
        }
        if let Some(dwpe) = dwpe {
            embed::backward(dwpe, &dx[..n * c], &positions[..n], c);
        }
    }

    fn norm(&self, y: &mut Vec<f32>, stats: &mut Vec<f32>, x: &Vec<f32>, w: &Vec<f32>, b: &Vec<f32>, n: usize, c: usize) {
        norm::forward(self.isa, &mut y[..n * c], &mut stats[..2 * n], &x[..n * c], &w[..c], &b[..c], NORM_EPS as f32);
    }
    fn norm_backward(
        &self,
        dx: &mut Vec<f32>,
        dw: Option<&mut Vec<f32>>,
        db: Option<&mut Vec<f32>>,
        sums: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        w: &Vec<f32>,
        stats: &Vec<f32>,
        n: usize,
        c: usize,
    ) {
        let (dw, db) = (dw.map(|d| &mut d[..c]), db.map(|d| &mut d[..c]));
        norm::backward(self.isa, &mut dx[..n * c], dw, db, &dy[..n * c], &x[..n * c], &w[..c], &stats[..2 * n]);
        if let Some(sums) = sums {
            elements::column_sums(self.isa, &mut sums[..c], &dx[..n * c], 1.0);
        }
    }

    fn linear(&self, y: &mut Vec<f32>, x: &Vec<f32>, w: &Vec<f32>, b: Option<&Vec<f32>>, n: usize, i: usize, o: usize) {
        let (x, w) = (Mat::rows(x, i), Mat::transposed(w, i));
        gemm(self.isa, &mut y[..n * o], n, o, i, 1.0, x, w, start(b, o), Finish::Keep);
    }
    fn linear_add(&self, y: &mut Vec<f32>, alpha: f64, x: &Vec<f32>, w: &Vec<f32>, n: usize, i: usize, o: usize) {
        let (x, w) = (Mat::rows(x, i), Mat::transposed(w, i));
        gemm(self.isa, &mut y[..n * o], n, o, i, alpha as f32, x, w, Start::Own, Finish::Keep);
    }
    fn linear_gelu(
        &self,
        y: &mut Vec<f32>,
        pre: &mut Vec<f32>,
        x: &Vec<f32>,
        w: &Vec<f32>,
        b: Option<&Vec<f32>>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        let (x, w) = (Mat::rows(x, i), Mat::transposed(w, i));
        gemm(self.isa, &mut pre[..n * o], n, o, i, 1.0, x, w, start(b, o), Finish::Gelu(&mut y[..n * o]));
    }
    fn linear_residual(
        &self,
        y: &mut Vec<f32>,
        residual: &Vec<f32>,
        x: &Vec<f32>,
        w: &Vec<f32>,
        b: Option<&Vec<f32>>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        let (x, w) = (Mat::rows(x, i), Mat::transposed(w, i));
        let start = Start::Other(&residual[..n * o], b.map(|b| &b[..o]));
        gemm(self.isa, &mut y[..n * o], n, o, i, 1.0, x, w, start, Finish::Keep);
    }
    fn linear_dx(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, w: &Vec<f32>, n: usize, i: usize, o: usize) {
        let (dy, w) = (Mat::rows(dy, o), Mat::rows(w, i));
        gemm(self.isa, &mut dx[..n * i], n, i, o, 1.0, dy, w, Start::Zero, Finish::Keep);
    }
    fn linear_dx_add(&self, dx: &mut Vec<f32>, alpha: f64, dy: &Vec<f32>, w: &Vec<f32>, n: usize, i: usize, o: usize) {
        let (dy, w) = (Mat::rows(dy, o), Mat::rows(w, i));
        gemm(self.isa, &mut dx[..n * i], n, i, o, alpha as f32, dy, w, Start::Own, Finish::Keep);
    }
    fn linear_dx_gelu(&self, dpre: &mut Vec<f32>, dy: &Vec<f32>, w: &Vec<f32>, pre: &Vec<f32>, n: usize, i: usize, o: usize) {
        let (dy, w) = (Mat::rows(dy, o), Mat::rows(w, i));
        gemm(self.isa, &mut dpre[..n * i], n, i, o, 1.0, dy, w, Start::Zero, Finish::GeluSlope(&pre[..n * i]));
    }
    fn linear_dw(
        &self,
        dw: Option<&mut Vec<f32>>,
        db: Option<&mut Vec<f32>>,
        alpha: f64,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        if let Some(dw) = dw {
            let (dy, x) = (Mat::transposed(dy, o), Mat::rows(x, i));
            gemm(self.isa, &mut dw[..o * i], o, i, n, alpha as f32, dy, x, Start::Own, Finish::Keep);
        }
        if let Some(db) = db {
            elements::column_sums(self.isa, &mut db[..o], &dy[..n * o], 1.0);
        }
    }

    fn attention(&self, y: &mut Vec<f32>, lse: &mut Vec<f32>, qkv: &Vec<f32>, starts: &Vec<u32>, s: Heads) {
        let (n, c) = (s.n(), s.c());
        attention::forward(self.isa, &mut y[..n * c], &mut lse[..n * s.h], &qkv[..3 * n * c], &starts[..n], sizes(s));
    }
    fn attention_backward(
        &self,
        dqkv: &mut Vec<f32>,
        delta: &mut Vec<f32>,
        dy: &Vec<f32>,
        y: &Vec<f32>,
        qkv: &Vec<f32>,
        lse: &Vec<f32>,
        starts: &Vec<u32>,
        s: Heads,
    ) {
        let (n, c, nh) = (s.n(), s.c(), s.n() * s.h);
        let (dqkv, delta, dy, y) = (&mut dqkv[..3 * n * c], &mut delta[..nh], &dy[..n * c], &y[..n * c]);
        attention::backward(self.isa, dqkv, delta, dy, y, &qkv[..3 * n * c], &lse[..nh], &starts[..n], sizes(s));
    }

    fn classify_loss(
        &self,
        loss: &mut Vec<f32>,
        dx: Option<&mut Vec<f32>>,
        dwte: Option<&mut Vec<f32>>,
        head: &mut Head,
        x: &Vec<f32>,
        wte: &Vec<f32>,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    ) {
        let (dx, dwte) = (dx.map(|d| &mut d[..n * c]), dwte.map(|d| &mut d[..v * c]));
        head.classify(self.isa, &mut loss[0], dx, dwte, &x[..n * c], &wte[..v * c], targets, c, v);
    }
    fn logits(&self, logits: &mut Vec<f32>, x: &Vec<f32>, rows: &Vec<u32>, count: usize, wte: &Vec<f32>, c: usize, v: usize) {
        let mut gathered = vec![0.0; count * c];
        for (to, &row) in gathered.chunks_exact_mut(c).zip(&rows[..count]) {
            to.copy_from_slice(&x[row as usize * c..][..c]);
        }
        let (x, wte) = (Mat::rows(&gathered, c), Mat::transposed(&wte[..v * c], c));
        gemm(self.isa, &mut logits[..count * v], count, v, c, 1.0, x, wte, Start::Zero, Finish::Keep);
    }

    fn grad_norm(&self, norm: &mut Vec<f32>, grads: &[&Vec<f32>]) {
        let total: f64 = grads.iter().map(|g| adamw::squares(self.isa, g)).sum();
        norm[0] = total.sqrt() as f32;
    }
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Vec<f32>, ctl: &Control) {
        let norm = f64::from(norm[0]);
        let scale = if norm > ctl.clip { ctl.clip / norm } else { 1.0 };
        let step = ctl.step as f64;
        for leaf in leaves {
            let numbers = adamw::Numbers {
                scale: scale as f32,
                beta1: ctl.beta1 as f32,
                beta2: ctl.beta2 as f32,
                gain1: (1.0 - ctl.beta1) as f32,
                gain2: (1.0 - ctl.beta2) as f32,
                rate: (ctl.lr / (1.0 - ctl.beta1.powf(step))) as f32,
                root: (1.0 / (1.0 - ctl.beta2.powf(step)).sqrt()) as f32,
                eps: ctl.eps as f32,
                shrink: if leaf.decay { (ctl.lr * ctl.decay) as f32 } else { 0.0 },
            };
            adamw::step(self.isa, leaf.w, leaf.m, leaf.v, leaf.g, numbers);
        }
    }
}

fn sizes(s: Heads) -> attention::Sizes {
    attention::Sizes { b: s.b, t: s.t, h: s.h, d: s.d, scale: s.scale() as f32 }
}
