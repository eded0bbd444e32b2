//! AdamW in one pass over memory (Loshchilov and Hutter 2019), and the norm that clips its gradients.

use super::parallel::{BITE, WORTH};
use super::{Isa, Op, Simd};
use rayon::prelude::*;

/// The numbers of a step that all elements of a leaf share.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// The gradient's factor, from clipping.
    pub scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta1`, rounded from f64.
    pub gain1: f32,
    /// `1 - beta2`, rounded from f64.
    pub gain2: f32,
    /// `lr / (1 - beta1^t)`
    pub rate: f32,
    /// `1 / sqrt(1 - beta2^t)`
    pub root: f32,
    /// Added to the root.
    pub eps: f32,
    /// `lr decay`, or 0.
    pub shrink: f32,
}

struct Leaf<'a> {
    w: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    numbers: Numbers,
}

impl Leaf<'_> {
    #[inline(always)]
    fn step<S: Simd>(s: S, n: &Numbers, w: S::V, m: S::V, v: S::V, g: S::V) -> (S::V, S::V, S::V) {
        let g = s.mul(g, s.splat(n.scale));
        let m = s.fma(s.splat(n.beta1), m, s.mul(s.splat(n.gain1), g));
        let v = s.fma(s.splat(n.beta2), v, s.mul(s.mul(s.splat(n.gain2), g), g));
        let divisor = s.fma(s.sqrt(v), s.splat(n.root), s.splat(n.eps));
        let step = s.fma(s.splat(n.shrink), w, s.div(s.mul(s.splat(n.rate), m), divisor));
        (s.sub(w, step), m, v)
    }
}

impl Op for Leaf<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.w.len() / S::LANES * S::LANES;
        let (w, w_rest) = self.w.split_at_mut(whole);
        let (m, m_rest) = self.m.split_at_mut(whole);
        let (v, v_rest) = self.v.split_at_mut(whole);
        let (g, g_rest) = self.g.split_at(whole);
        let l = S::LANES;
        for (((w, m), v), g) in w.chunks_exact_mut(l).zip(m.chunks_exact_mut(l)).zip(v.chunks_exact_mut(l)).zip(g.chunks_exact(l)) {
            let (w1, m1, v1) = Self::step(s, &self.numbers, s.load(w), s.load(m), s.load(v), s.load(g));
            s.store(w1, w);
            s.store(m1, m);
            s.store(v1, v);
        }
        if !w_rest.is_empty() {
            let (w, m, v, g) = (s.load_head(w_rest), s.load_head(m_rest), s.load_head(v_rest), s.load_head(g_rest));
            let (w, m, v) = Self::step(s, &self.numbers, w, m, v, g);
            s.store_head(w, w_rest);
            s.store_head(m, m_rest);
            s.store_head(v, v_rest);
        }
    }
}

/// One step of one leaf.
///
/// # Panics
/// If the lengths differ.
pub fn step(isa: Isa, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], numbers: Numbers) {
    assert!(w.len() == m.len() && w.len() == v.len() && w.len() == g.len(), "a leaf's buffers differ in length");
    if w.len() < WORTH || rayon::current_num_threads() == 1 {
        return isa.run(Leaf { w, m, v, g, numbers });
    }
    w.par_chunks_mut(BITE)
        .zip(m.par_chunks_mut(BITE))
        .zip(v.par_chunks_mut(BITE))
        .zip(g.par_chunks(BITE))
        .for_each(|(((w, m), v), g)| isa.run(Leaf { w, m, v, g, numbers }));
}

struct Squares<'a>(&'a [f32]);

impl Op for Squares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        // f32 strands of at most 256 squares each: relative error below 256 epsilon / 2, in practice a tenth of it.
        for group in self.0.chunks(512 * S::LANES) {
            let mut strands = [s.splat(0.0); 2];
            for pair in group.chunks(2 * S::LANES) {
                for (strand, x) in strands.iter_mut().zip(pair.chunks(S::LANES)) {
                    let x = s.load_head(x);
                    *strand = s.fma(x, x, *strand);
                }
            }
            total += f64::from(s.sum(s.add(strands[0], strands[1])));
        }
        total
    }
}

/// Sum of squares: bites of fixed size, then bite by bite in f64.
#[must_use]
pub fn squares(isa: Isa, x: &[f32]) -> f64 {
    if x.len() < WORTH || rayon::current_num_threads() == 1 {
        return x.chunks(BITE).map(|x| isa.run(Squares(x))).sum();
    }
    x.par_chunks(BITE).map(|x| isa.run(Squares(x))).collect::<Vec<f64>>().into_iter().sum()
}
