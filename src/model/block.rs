//! One block of GPT-2: `mid = x + attn(norm1(x))`, `out = mid + mlp(norm2(mid))` (Radford et al. 2019).

use super::linear::{Bias, Linear, LinearSaved, LowScratch};
use super::norm::{Norm, NormSaved};
use super::pass::{Grad, Pass};
use super::tree::{Tree, tree};
use crate::backend::{Backend, BackendError};

tree!(
    /// Causal self-attention.
    Attention {
        /// Queries, keys and values side by side: `(3C, C)`.
        qkv: Linear<P>,
        /// `(C, C)`
        out: Linear<P>;
        /// `H`
        n_head: usize,
        /// `D`
        head_dim: usize
    }
);
tree!(
    /// `down(gelu(up(x)))`
    Mlp {
        /// `(F, C)`
        up: Linear<P>,
        /// `(C, F)`
        down: Linear<P>
    }
);
tree!(
    /// A block.
    Block {
        /// Before attention.
        norm1: Norm<P>,
        /// Attention.
        attn: Attention<P>,
        /// Before the MLP.
        norm2: Norm<P>,
        /// The MLP.
        mlp: Mlp<P>
    }
);

/// What a block's backward needs beside its input.
pub struct BlockSaved<B: Backend> {
    norm1: NormSaved<B>,
    /// Queries, keys, values: `(N, 3C)`.
    pub qkv: B::Buf,
    qkv_low: LinearSaved<B>,
    /// Log-sum-exp of the scores: `(N, H)`.
    lse: B::Acc,
    /// What attention read together: `(N, C)`.
    pub att: B::Buf,
    out_low: LinearSaved<B>,
    /// The stream between the halves: `(N, C)`.
    pub mid: B::Buf,
    norm2: NormSaved<B>,
    /// Before GELU: `(N, F)`.
    pre: B::Buf,
    up_low: LinearSaved<B>,
    /// After it: `(N, F)`.
    hidden: B::Buf,
    down_low: LinearSaved<B>,
}

/// Gradients of activations, reused by every block.
pub struct Scratch<B: Backend> {
    /// `(N, C)`
    pub c: B::Buf,
    ff: B::Buf,
    qkv: B::Buf,
    delta: B::Acc,
    low: LowScratch<B>,
}

impl<P> Block<P> {
    /// Room for a forward pass of up to `n` rows.
    pub fn saved<B: Backend<Buf = P>>(&self, be: &B, n: usize) -> Result<BlockSaved<B>, BackendError> {
        let (c, f) = (self.norm1.c, self.mlp.up.out);
        Ok(BlockSaved {
            norm1: self.norm1.saved(be, n)?,
            qkv: be.alloc(n * 3 * c)?,
            qkv_low: self.attn.qkv.saved(be, n)?,
            lse: be.alloc_acc(n * self.attn.n_head)?,
            att: be.alloc(n * c)?,
            out_low: self.attn.out.saved(be, n)?,
            mid: be.alloc(n * c)?,
            norm2: self.norm2.saved(be, n)?,
            pre: be.alloc(n * f)?,
            up_low: self.mlp.up.saved(be, n)?,
            hidden: be.alloc(n * f)?,
            down_low: self.mlp.down.saved(be, n)?,
        })
    }

    /// Room for the backward pass of any block of this shape.
    pub fn scratch<B: Backend<Buf = P>>(&self, be: &B, n: usize) -> Result<Scratch<B>, BackendError> {
        let (c, f) = (self.norm1.c, self.mlp.up.out);
        let ranks = [&self.attn.qkv, &self.attn.out, &self.mlp.up, &self.mlp.down].map(|l| l.lora.as_ref().map_or(0, |l| l.rank));
        Ok(Scratch {
            c: be.alloc(n * c)?,
            ff: be.alloc(n * f)?,
            qkv: be.alloc(n * 3 * c)?,
            delta: be.alloc_acc(n * self.attn.n_head)?,
            low: LowScratch::new(be, n, c.max(f), ranks.into_iter().max().unwrap_or(0))?,
        })
    }

    /// `out (N, C)` from `x (N, C)`.
    pub fn forward<B: Backend<Buf = P>>(&self, p: &Pass<B>, out: &mut P, s: &mut BlockSaved<B>, t: &mut Scratch<B>, x: &P) {
        let (attn, mlp, low) = (&self.attn, &self.mlp, &mut t.low);
        self.norm1.forward(p, &mut s.norm1, x);
        attn.qkv.forward(p, &mut s.qkv, &mut s.qkv_low, low, &s.norm1.y);
        p.be.attention(&mut s.att, &mut s.lse, &s.qkv, p.starts, p.heads(attn.n_head, attn.head_dim));
        attn.out.forward_residual(p, &mut s.mid, &mut s.out_low, low, x, &s.att);
        self.norm2.forward(p, &mut s.norm2, &s.mid);
        mlp.up.forward_gelu(p, &mut s.hidden, &mut s.pre, &mut s.up_low, low, &s.norm2.y);
        mlp.down.forward_residual(p, out, &mut s.down_low, low, &s.mid, &s.hidden);
    }

    /// The same, read upwards: `dx` comes in as the gradient of `out` and leaves as that of `x`. Where nothing below
    /// trains (`below` is false) the last step, into the input, is left out.
    ///
    /// Column sums of `dx` are gradients of biases: those of `mlp.down` were taken by whoever made the gradient of `out`, those
    /// of `x` go to `below_bias`, the bias of the product that wrote `x`.
    pub fn backward<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        dx: &mut P,
        d: &mut Block<Grad<B>>,
        s: &BlockSaved<B>,
        t: &mut Scratch<B>,
        x: &P,
        below: bool,
        below_bias: Option<&mut Grad<B>>,
    ) {
        let (attn, mlp) = (&self.attn, &self.mlp);
        let Scratch { c, ff, qkv, delta, low } = t;
        mlp.down.backward_gelu(p, ff, &mut d.mlp.down, Bias::Taken, &s.down_low, low, dx, &s.hidden, &s.pre);
        mlp.up.backward(p, Some(c), &mut d.mlp.up, Bias::Here, &s.up_low, low, ff, &s.norm2.y);
        self.norm2.backward(p, dx, &mut d.norm2, Some(&mut d.attn.out.b.0), &s.norm2, c, &s.mid);
        attn.out.backward(p, Some(c), &mut d.attn.out, Bias::Taken, &s.out_low, low, dx, &s.att);
        p.be.attention_backward(qkv, delta, c, &s.att, &s.qkv, &s.lse, p.starts, p.heads(attn.n_head, attn.head_dim));
        let norm_trains = d.norm1.leaves().iter().any(|g| g.is_some());
        if below || norm_trains {
            attn.qkv.backward(p, Some(c), &mut d.attn.qkv, Bias::Here, &s.qkv_low, low, qkv, &s.norm1.y);
            self.norm1.backward(p, dx, &mut d.norm1, below_bias, &s.norm1, c, x);
        } else {
            attn.qkv.backward(p, None, &mut d.attn.qkv, Bias::Here, &s.qkv_low, low, qkv, &s.norm1.y);
        }
    }
}
