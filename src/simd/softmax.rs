//! Cross entropy of one row of logits, and its gradient in their place.

use super::{Op, Simd, math};

/// Overwrites a row of logits by `weight (softmax - onehot(target))`; returns its cross entropy, not weighted.
pub struct CrossEntropy<'a> {
    /// `(V)`, overwritten.
    pub logits: &'a mut [f32],
    /// The token that should be.
    pub target: usize,
    /// Factor of the gradient.
    pub weight: f32,
    /// Whether the gradient is wanted; the logits' place is overwritten either way.
    pub gradient: bool,
}

impl Op for CrossEntropy<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (logits, step) = (self.logits, S::LANES);
        let at_target = logits[self.target];
        let whole = logits.len() / step * step;
        let mut most = s.splat(f32::MIN);
        for chunk in logits.chunks_exact(step) {
            most = s.max(most, s.load(chunk));
        }
        let most = logits[whole..].iter().fold(s.greatest(most), |m, &x| m.max(x));
        let shift = s.splat(most);
        // A strand is folded into f64 every 64 vectors: f32 sums of 50,257 terms would lose two digits.
        let mut total = 0.0f64;
        for group in logits[..whole].chunks_mut(64 * step) {
            let mut strand = s.splat(0.0);
            for chunk in group.chunks_exact_mut(step) {
                let e = math::exp(s, s.sub(s.load(chunk), shift));
                s.store(e, chunk);
                strand = s.add(strand, e);
            }
            total += f64::from(s.sum(strand));
        }
        if whole < logits.len() {
            let rest = &mut logits[whole..];
            s.store_head(math::exp(s, s.sub(s.load_head(rest), shift)), rest);
            total += rest.iter().map(|&e| f64::from(e)).sum::<f64>();
        }
        if self.gradient {
            let factor = s.splat((f64::from(self.weight) / total) as f32);
            let mut chunks = logits.chunks_exact_mut(step);
            for chunk in &mut chunks {
                s.store(s.mul(s.load(chunk), factor), chunk);
            }
            let rest = chunks.into_remainder();
            s.store_head(s.mul(s.load_head(rest), factor), rest);
            logits[self.target] -= self.weight;
        }
        total.ln() + f64::from(most) - f64::from(at_target)
    }
}
