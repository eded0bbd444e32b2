//! LayerNorm (Ba, Kiros, Hinton 2016).

use super::pass::{Grad, Pass};
use super::tree::{Leaf, Tree, tree};
use crate::backend::{Backend, BackendError};

tree!(
    /// `y = (x - mean) rstd w + b`
    Norm {
        /// `(C)`
        w: Leaf<P>,
        /// `(C)`
        b: Leaf<P>;
        /// `C`
        c: usize
    }
);

/// What a norm's backward needs beside its input, and its output.
pub struct NormSaved<B: Backend> {
    /// Mean and reciprocal deviation, `(N, 2)`.
    stats: B::Acc,
    /// `(N, C)`
    pub y: B::Buf,
}

impl<P> Norm<P> {
    /// Room for a forward pass of up to `n` rows.
    pub fn saved<B: Backend<Buf = P>>(&self, be: &B, n: usize) -> Result<NormSaved<B>, BackendError> {
        Ok(NormSaved { stats: be.alloc_acc(2 * n)?, y: be.alloc(n * self.c)? })
    }

    /// `s.y` from `x (N, C)`.
    pub fn forward<B: Backend<Buf = P>>(&self, p: &Pass<B>, s: &mut NormSaved<B>, x: &P) {
        p.be.norm(&mut s.y, &mut s.stats, x, &self.w.0, &self.b.0, p.n(), self.c);
    }

    /// Adds to `dx`, the gradient of the residual stream, and the column sums of what it then is to `below`: the gradient of the
    /// bias of the linear layer that wrote `x`, where that bias trains.
    pub fn backward<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        dx: &mut P,
        d: &mut Norm<Grad<B>>,
        below: Option<&mut Grad<B>>,
        s: &NormSaved<B>,
        dy: &P,
        x: &P,
    ) {
        let sums = below.and_then(Option::as_mut);
        p.be.norm_backward(dx, d.w.0.as_mut(), d.b.0.as_mut(), sums, dy, x, &self.w.0, &s.stats, p.n(), self.c);
    }
}
