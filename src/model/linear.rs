//! `y = x w^T + b`, and beside it, when adapted, LoRA's pair: `+ scale (drop(x) a^T) b^T` (Hu et al. 2021).

use super::pass::{Grad, Pass};
use super::tree::{Leaf, Tree, tree};
use crate::backend::{Backend, BackendError};

tree!(
    /// A matrix product with its bias and its adapter.
    Linear {
        /// `(O, I)`
        w: Leaf<P>,
        /// `(O)`
        b: Leaf<P>,
        /// The adapter, where there is one.
        lora: Option<LowRank<P>>;
        /// `I`
        inp: usize,
        /// `O`
        out: usize
    }
);
tree!(
    /// LoRA's pair.
    LowRank {
        /// `(R, I)`
        a: Leaf<P>,
        /// `(O, R)`
        b: Leaf<P>;
        /// `R`
        rank: usize,
        /// `alpha / rank`
        scale: f64,
        /// Probability that an element of the input is dropped in training.
        dropout: f32,
        /// Which dropout of the model this is; a part of its key.
        site: u64
    }
);

/// Where the gradient of a bias is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// With the weight's, from `dy`.
    Here,
    /// It was: a product that writes into the residual stream has the stream's gradient as its `dy`, and the norm whose
    /// backward made that took its column sums along ([`Norm::backward`](super::norm::Norm::backward)).
    Taken,
}

/// What a product's backward needs beside its input: `drop(x) a^T (N, R)`.
pub struct LinearSaved<B: Backend> {
    low: Option<B::Buf>,
}

/// Room for the adapters' passes, shared by all of them; empty buffers where nothing is adapted.
pub struct LowScratch<B: Backend> {
    /// `(N, R)`
    dlow: B::Buf,
    /// `(N, widest I)`, twice: an input with dropout; a gradient before it.
    wide: [B::Buf; 2],
}

impl<B: Backend> LowScratch<B> {
    /// Room for `n` rows of products up to `widest` input channels and rank `rank` (0: nothing is adapted).
    pub fn new(be: &B, n: usize, widest: usize, rank: usize) -> Result<Self, BackendError> {
        let widest = if rank == 0 { 0 } else { widest };
        Ok(Self { dlow: be.alloc(n * rank)?, wide: [be.alloc(n * widest)?, be.alloc(n * widest)?] })
    }
}

impl<P> Linear<P> {
    /// Room for a forward pass of up to `n` rows.
    pub fn saved<B: Backend<Buf = P>>(&self, be: &B, n: usize) -> Result<LinearSaved<B>, BackendError> {
        Ok(LinearSaved { low: self.lora.as_ref().map(|l| be.alloc(n * l.rank)).transpose()? })
    }

    /// `y (N, O) = x w^T + b`, adapted.
    pub fn forward<B: Backend<Buf = P>>(&self, p: &Pass<B>, y: &mut P, s: &mut LinearSaved<B>, t: &mut LowScratch<B>, x: &P) {
        p.be.linear(y, x, &self.w.0, Some(&self.b.0), p.n(), self.inp, self.out);
        self.adapt(p, y, s, t, x);
    }

    /// `pre (N, O) = x w^T + b`, adapted; `y = gelu(pre)`.
    pub fn forward_gelu<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        y: &mut P,
        pre: &mut P,
        s: &mut LinearSaved<B>,
        t: &mut LowScratch<B>,
        x: &P,
    ) {
        if self.lora.is_some() {
            self.forward(p, pre, s, t, x);
            p.be.gelu(y, pre, p.n() * self.out);
        } else {
            p.be.linear_gelu(y, pre, x, &self.w.0, Some(&self.b.0), p.n(), self.inp, self.out);
        }
    }

    /// `y (N, O) = residual + x w^T + b`, adapted.
    pub fn forward_residual<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        y: &mut P,
        s: &mut LinearSaved<B>,
        t: &mut LowScratch<B>,
        residual: &P,
        x: &P,
    ) {
        p.be.linear_residual(y, residual, x, &self.w.0, Some(&self.b.0), p.n(), self.inp, self.out);
        self.adapt(p, y, s, t, x);
    }

    fn adapt<B: Backend<Buf = P>>(&self, p: &Pass<B>, y: &mut P, s: &mut LinearSaved<B>, t: &mut LowScratch<B>, x: &P) {
        let (Some(l), Some(low)) = (&self.lora, &mut s.low) else { return };
        let dropped = l.drop(p, &mut t.wide[0], x, self.inp);
        p.be.linear(low, if dropped { &t.wide[0] } else { x }, &l.a.0, None, p.n(), self.inp, l.rank);
        p.be.linear_add(y, l.scale, low, &l.b.0, p.n(), l.rank, self.out);
    }

    /// From `dy (N, O)`: adds the gradients of what trains to `d`, and writes `dx (N, I)` if it is wanted.
    pub fn backward<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        mut dx: Option<&mut P>,
        d: &mut Linear<Grad<B>>,
        bias: Bias,
        s: &LinearSaved<B>,
        t: &mut LowScratch<B>,
        dy: &P,
        x: &P,
    ) {
        if let Some(dx) = dx.as_deref_mut() {
            p.be.linear_dx(dx, dy, &self.w.0, p.n(), self.inp, self.out);
        }
        self.backward_weights(p, dx, d, bias, s, t, dy, x);
    }

    /// [`backward`](Self::backward) on to what stands before a GELU: `dpre (N, I) = dx gelu'(pre)`.
    pub fn backward_gelu<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        dpre: &mut P,
        d: &mut Linear<Grad<B>>,
        bias: Bias,
        s: &LinearSaved<B>,
        t: &mut LowScratch<B>,
        dy: &P,
        x: &P,
        pre: &P,
    ) {
        if self.lora.is_some() {
            self.backward(p, Some(dpre), d, bias, s, t, dy, x);
            p.be.gelu_backward(dpre, pre, p.n() * self.inp);
        } else {
            p.be.linear_dx_gelu(dpre, dy, &self.w.0, pre, p.n(), self.inp, self.out);
            self.backward_weights(p, None, d, bias, s, t, dy, x);
        }
    }

    fn backward_weights<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        dx: Option<&mut P>,
        d: &mut Linear<Grad<B>>,
        bias: Bias,
        s: &LinearSaved<B>,
        t: &mut LowScratch<B>,
        dy: &P,
        x: &P,
    ) {
        let n = p.n();
        let db = d.b.0.as_mut().filter(|_| bias == Bias::Here);
        if d.w.0.is_some() || db.is_some() {
            p.be.linear_dw(d.w.0.as_mut(), db, 1.0, dy, x, n, self.inp, self.out);
        }
        let (Some(l), Some(d), Some(low)) = (&self.lora, &mut d.lora, &s.low) else { return };
        let LowScratch { dlow, wide: [first, second] } = t;
        p.be.linear_dw(d.b.0.as_mut(), None, l.scale, dy, low, n, l.rank, self.out);
        p.be.linear_dx(dlow, dy, &l.b.0, n, l.rank, self.out);
        let dropped = l.drop(p, first, x, self.inp);
        p.be.linear_dw(d.a.0.as_mut(), None, l.scale, dlow, if dropped { first } else { x }, n, self.inp, l.rank);
        let Some(dx) = dx else { return };
        if dropped {
            p.be.linear_dx(first, dlow, &l.a.0, n, self.inp, l.rank);
            l.drop(p, second, first, self.inp);
            p.be.axpy(dx, l.scale, second, n * self.inp);
        } else {
            p.be.linear_dx_add(dx, l.scale, dlow, &l.a.0, n, self.inp, l.rank);
        }
    }
}

impl<P> LowRank<P> {
    /// `y = drop(x)`, in training and where something is to be dropped; false, and nothing done, otherwise.
    fn drop<B: Backend<Buf = P>>(&self, p: &Pass<B>, y: &mut P, x: &P, inp: usize) -> bool {
        match p.ctl {
            Some(ctl) if self.dropout > 0.0 => {
                p.be.dropout(y, x, self.dropout, self.site, ctl, p.n() * inp);
                true
            }
            _ => false,
        }
    }
}
