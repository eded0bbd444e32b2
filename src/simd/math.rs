//! `exp` and GELU over vectors.
//!
//! `exp` reduces to |r| <= ln 2 / 2 in two steps (Cody and Waite 1980) and takes Cephes' minimax polynomial of
//! degree 6 (Moshier 1992). GELU needs no tanh: `(1 + tanh u) / 2 = 1 / (1 + exp(-2u))`.

use super::Simd;

/// Below this `exp` gives 0: the result would be subnormal.
const LEAST: f32 = -87.3;
/// Above this `exp` stays at `exp(88)`, some 1.65e38.
const MOST: f32 = 88.0;

/// `e^x`, within 2 ULP for x in -87.3..=88; 0 below, `e^88` above, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    // x comes second: that is what `min` and `max` of x86 give back where one is NaN.
    let within = s.min(s.splat(MOST), s.max(s.splat(LEAST), x));
    let n = s.round(s.mul(within, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 as 355/512 (exact in few bits, so that n times it is exact) and the small rest.
    let r = s.fma(n, s.splat(-355.0 / 512.0), within);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    s.select_lt(x, s.splat(LEAST), zero, s.mul(y, s.pow2(n)))
}

/// `sqrt(2 / pi)`
const K: f32 = 0.797_884_6;
/// GPT-2's cubic coefficient.
const CUBIC: f32 = 0.044_715;

/// `e = exp(-2u)` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, and `1 / (1 + e)`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let x2 = s.mul(x, x);
    let u2 = s.mul(s.mul(x, s.splat(-2.0 * K)), s.fma(x2, s.splat(CUBIC), s.splat(1.0)));
    let e = exp(s, u2);
    (e, s.div(s.splat(1.0), s.add(e, s.splat(1.0))))
}

/// `x (1 + tanh u) / 2`, GPT-2's GELU.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, sigmoid(s, x).1)
}

/// The derivative of [`gelu`]: `p + x p (1 - p) 2u'`, `p` being `1 / (1 + exp(-2u))`.
#[inline(always)]
pub fn gelu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let (e, p) = sigmoid(s, x);
    let slope2 = s.fma(s.mul(x, x), s.splat(6.0 * K * CUBIC), s.splat(2.0 * K));
    // 1 - p as e p: no cancellation where p is near 1.
    s.fma(s.mul(s.mul(x, slope2), s.mul(p, e)), p, p)
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Op, Simd};
    use super::*;

    struct Map<'a, F>(&'a mut [f32], F);

    trait Function {
        fn apply<S: Simd>(&self, s: S, x: S::V) -> S::V;
    }
    struct Exp;
    impl Function for Exp {
        #[inline(always)]
        fn apply<S: Simd>(&self, s: S, x: S::V) -> S::V {
            exp(s, x)
        }
    }
    struct Slope;
    impl Function for Slope {
        #[inline(always)]
        fn apply<S: Simd>(&self, s: S, x: S::V) -> S::V {
            gelu_slope(s, x)
        }
    }
    struct GeluOf;
    impl Function for GeluOf {
        #[inline(always)]
        fn apply<S: Simd>(&self, s: S, x: S::V) -> S::V {
            gelu(s, x)
        }
    }
    impl<F: Function> Op for Map<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.chunks_mut(S::LANES) {
                s.store_head(self.1.apply(s, s.load_head(x)), x);
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let xs: Vec<f32> = (0..2_000_001).map(|i| -87.3 + 175.3 * i as f32 / 2e6).collect();
        for isa in Isa::available() {
            let mut ys = xs.clone();
            isa.run(Map(&mut ys, Exp));
            for (&x, &y) in xs.iter().zip(&ys).filter(|(x, _)| **x >= LEAST && **x <= MOST) {
                let want = f64::from(x).exp();
                let near = want as f32;
                let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
                assert!((f64::from(y) - want).abs() <= 2.0 * ulp, "{}: exp({x}) = {y}, should be {want}", isa.name());
            }
            let mut ends = [-1e30, f32::NEG_INFINITY, -87.4, 0.0, 1e30, f32::INFINITY, f32::NAN];
            isa.run(Map(&mut ends, Exp));
            assert_eq!(ends[..4], [0.0, 0.0, 0.0, 1.0], "{}", isa.name());
            assert!(ends[4] == ends[5] && (1.6e38..1.7e38).contains(&ends[4]) && ends[6].is_nan(), "{}: {ends:?}", isa.name());
        }
    }

    /// Far out GELU is x or 0 and its slope 1 or 0, and no exponential spills over; NaN stays NaN.
    #[test]
    fn gelu_has_its_limits() {
        for isa in Isa::available() {
            let xs = [-1e4, -30.0, 0.0, 30.0, 1e4, f32::NAN];
            let (mut ys, mut slopes) = (xs, xs);
            isa.run(Map(&mut ys, GeluOf));
            isa.run(Map(&mut slopes, Slope));
            for (i, &x) in xs[..5].iter().enumerate() {
                assert!((ys[i] - x.max(0.0)).abs() < 1e-30, "{}: gelu({x}) = {}", isa.name(), ys[i]);
                let slope = if x == 0.0 { 0.5 } else { f32::from(x > 0.0) };
                assert!((slopes[i] - slope).abs() < 1e-20, "{}: gelu'({x}) = {}", isa.name(), slopes[i]);
            }
            assert!(ys[5].is_nan() && slopes[5].is_nan());
        }
    }
}
