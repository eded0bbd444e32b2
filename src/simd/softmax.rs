//! Rows of logits as probabilities: cross entropy and its gradient, the normalizing sum, the distance of one from another.

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
        let most = greatest(s, logits);
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

/// The greatest of some numbers.
#[inline(always)]
fn greatest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut most = s.splat(f32::MIN);
    let chunks = x.chunks_exact(S::LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        most = s.max(most, s.load(chunk));
    }
    rest.iter().fold(s.greatest(most), |m, &x| m.max(x))
}

/// `ln sum e^x` of a row of logits, which makes log-probabilities of them: `x - ln sum e^x`. Summed in `f64`.
pub struct LogSum<'a>(pub &'a [f32]);

impl Op for LogSum<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let most = greatest(s, self.0);
        let (shift, mut total) = (s.splat(most), 0.0f64);
        let mut room = [0.0; 16];
        for group in self.0.chunks(STRAND * S::LANES) {
            let (mut strand, chunks) = (s.splat(0.0), group.chunks_exact(S::LANES));
            let rest = chunks.remainder();
            for chunk in chunks {
                strand = s.add(strand, math::exp(s, s.sub(s.load(chunk), shift)));
            }
            total += f64::from(s.sum(strand));
            s.store_head(math::exp(s, s.sub(s.load_head(rest), shift)), &mut room[..rest.len()]);
            total += room[..rest.len()].iter().map(|&e| f64::from(e)).sum::<f64>();
        }
        f64::from(most) + total.ln()
    }
}

/// Vectors whose sum is folded into `f64` at a time.
const STRAND: usize = 64;

/// The Kullback-Leibler divergence `sum p ln (p / q)` of two rows of logits, in nats, summed in `f64`; good to some 3e-7, which is what
/// `exp` leaves of the two sums.
pub struct Divergence<'a> {
    /// Logits of what should be, `(V)`.
    pub p: &'a [f32],
    /// Logits of what is, `(V)`.
    pub q: &'a [f32],
    /// [`LogSum`] of `p`.
    pub p_sum: f64,
    /// [`LogSum`] of `q`.
    pub q_sum: f64,
}

impl Op for Divergence<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { p, q, p_sum, q_sum } = self;
        assert_eq!(p.len(), q.len(), "rows of one vocabulary");
        // ln p - ln q is (logit p - logit q) - apart: small numbers, of which f32 loses nothing that counts. What `f32` takes from
        // `apart` comes back at the end.
        let apart = (p_sum - q_sum) as f32;
        let (shift, offset) = (s.splat(p_sum as f32), s.splat(apart));
        let (mut mass, mut total) = (0.0f64, 0.0f64);
        let (mut es, mut ds) = ([0.0; 16], [0.0; 16]);
        for (p, q) in p.chunks(STRAND * S::LANES).zip(q.chunks(STRAND * S::LANES)) {
            let (mut weights, mut terms) = (s.splat(0.0), s.splat(0.0));
            let (ps, qs) = (p.chunks_exact(S::LANES), q.chunks_exact(S::LANES));
            let (p_rest, q_rest) = (ps.remainder(), qs.remainder());
            for (p, q) in ps.zip(qs) {
                let (p, q) = (s.load(p), s.load(q));
                let e = math::exp(s, s.sub(p, shift));
                weights = s.add(weights, e);
                terms = s.fma(e, s.sub(s.sub(p, q), offset), terms);
            }
            mass += f64::from(s.sum(weights));
            total += f64::from(s.sum(terms));
            let (p, q, n) = (s.load_head(p_rest), s.load_head(q_rest), p_rest.len());
            s.store_head(math::exp(s, s.sub(p, shift)), &mut es[..n]);
            s.store_head(s.sub(s.sub(p, q), offset), &mut ds[..n]);
            for (&e, &d) in es[..n].iter().zip(&ds[..n]) {
                mass += f64::from(e);
                total += f64::from(e) * f64::from(d);
            }
        }
        // The masses are of a shift rounded to f32: they sum to nearly 1.
        let divergence = total / mass + (f64::from(apart) - (p_sum - q_sum));
        // No less than 0, but for rounding; what is no number stays none.
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn sums_and_divergences_are_those_of_f64() {
        let mut rng = Rng::new(11);
        for n in [1, 2, 7, 16, 33, 512, 5003] {
            for far in [0.0, 1e-4, 0.1, 3.0] {
                let p: Vec<f32> = (0..n).map(|_| (20.0 + 4.0 * rng.normal()) as f32).collect();
                let q: Vec<f32> = p.iter().map(|p| p + (7.0 + far * rng.normal()) as f32).collect();
                let log_sum = |x: &[f32]| x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                let (p_sum, q_sum) = (log_sum(&p), log_sum(&q));
                let term = |(p, q): (&f32, &f32)| {
                    let (p, q) = (f64::from(*p) - p_sum, f64::from(*q) - q_sum);
                    p.exp() * (p - q)
                };
                let want: f64 = p.iter().zip(&q).map(term).sum();
                for isa in Isa::available() {
                    let sum = isa.run(LogSum(&p));
                    assert!((sum - p_sum).abs() < 1e-6, "{} {n}: {sum} {p_sum}", isa.name());
                    let got = isa.run(Divergence { p: &p, q: &q, p_sum: isa.run(LogSum(&p)), q_sum: isa.run(LogSum(&q)) });
                    // Both sums err by the 2 ULP of `exp`, 1.2e-7 each, and logits of 27 by 2e-6, which a divergence of far^2 / 2 feels.
                    assert!((got - want).abs() < 5e-7 + 2e-6 * far + 1e-6 * want, "{} {n} {far}: {got} {want}", isa.name());
                }
            }
        }
        assert!(Isa::detect().run(LogSum(&[1.0, f32::NAN])).is_nan());
    }
}
