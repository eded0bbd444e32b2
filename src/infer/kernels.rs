//! Inner loops of a session.
//!
//! Every sum has one order that does not depend on how many inputs or threads there are, so that a prompt gives the
//! same bits in one piece and token by token.

use crate::quant::GgmlType;
use crate::simd::{Isa, Op, Simd, elements, norm};

/// Rows of a matrix whose products are taken together: `x` is loaded once for all of them.
pub const ROWS: usize = 4;

/// `y[k n + r] += w[k] . x[r step..]` for the first `rows` of `w` and all `n` inputs.
pub struct Multiply<'a> {
    /// `(rows, n)`
    pub y: &'a mut [f32],
    /// Weights, all of one length; those from `rows` on are not read.
    pub w: [&'a [f32]; ROWS],
    /// How many rows there are.
    pub rows: usize,
    /// Inputs, each as long as a row.
    pub x: &'a [f32],
    /// From one input to the next.
    pub step: usize,
    /// How many inputs.
    pub n: usize,
}

impl Op for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { y, w, rows, x, step, n } = self;
        let len = w[0].len();
        let input = |r: usize| &x[r * step..][..len];
        if rows == ROWS {
            let mut r = 0;
            while r + 2 <= n {
                let sums = dots(s, w, [input(r), input(r + 1)]);
                for k in 0..ROWS {
                    y[k * n + r] += sums[k][0];
                    y[k * n + r + 1] += sums[k][1];
                }
                r += 2;
            }
            if r < n {
                let sums = dots(s, w, [input(r)]);
                (0..ROWS).for_each(|k| y[k * n + r] += sums[k][0]);
            }
        } else {
            for k in 0..rows {
                (0..n).for_each(|r| y[k * n + r] += dot(s, w[k], input(r)));
            }
        }
    }
}

/// Dot products of `R` rows with `N` vectors of their length.
#[inline(always)]
fn dots<S: Simd, const R: usize, const N: usize>(s: S, rows: [&[f32]; R], xs: [&[f32]; N]) -> [[f32; N]; R] {
    let len = xs[0].len();
    let mut acc = [[s.splat(0.0); N]; R];
    let mut at = 0;
    while at < len {
        // The last vector is filled up with zeros.
        let whole = at + S::LANES <= len;
        let load = |v: &[f32]| if whole { s.load(&v[at..]) } else { s.load_head(&v[at..len]) };
        let mut x = [s.splat(0.0); N];
        for j in 0..N {
            x[j] = load(xs[j]);
        }
        for i in 0..R {
            let w = load(rows[i]);
            for j in 0..N {
                acc[i][j] = s.fma(w, x[j], acc[i][j]);
            }
        }
        at += S::LANES;
    }
    let mut out = [[0.0; N]; R];
    for i in 0..R {
        for j in 0..N {
            out[i][j] = s.sum(acc[i][j]);
        }
    }
    out
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    dots(s, [a], [b])[0][0]
}

/// Decodes whole blocks: the loop of `quant`, compiled for the instruction set at hand.
pub struct Decode<'a> {
    /// Their format.
    pub ty: GgmlType,
    /// The weights.
    pub out: &'a mut [f32],
    /// Their blocks.
    pub bytes: &'a [u8],
}

impl Op for Decode<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.ty.dequantize_row_inlined(self.out, self.bytes);
    }
}

/// `y += x`.
pub fn add(isa: Isa, y: &mut [f32], x: &[f32]) {
    isa.run(elements::Sum { y, x, b: None });
}

/// `y = (x - mean) / sqrt(variance + eps) w + b`, all `(C)`.
pub fn norm(isa: Isa, y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f64) {
    let c = w.len();
    isa.run(norm::Forward { y: &mut y[..c], stats: &mut [0.0; 2], x: &x[..c], w, b: &b[..c], eps: eps as f32 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn normals(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn products_have_every_term_once_and_one_order() {
        let mut rng = Rng::new(3);
        for isa in Isa::available() {
            for len in [1, 7, 8, 9, 31, 64, 100] {
                for n in [1, 2, 3, 5] {
                    let (w, x) = (normals(&mut rng, ROWS * len), normals(&mut rng, n * len));
                    let rows = std::array::from_fn(|k| &w[k * len..][..len]);
                    let mut y = vec![0.0; ROWS * n];
                    isa.run(Multiply { y: &mut y, w: rows, rows: ROWS, x: &x, step: len, n });
                    for (i, got) in y.iter().enumerate() {
                        let (w, x) = (rows[i / n], &x[i % n * len..][..len]);
                        let want: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        // len/2 roundings of sums of size sqrt(len), 2^-24 each, and some room.
                        assert!((f64::from(*got) - want).abs() <= 1e-6 + len as f64 * 6e-8, "{}, {len}: {got} {want}", isa.name());
                        let mut alone = [0.0];
                        isa.run(Multiply { y: &mut alone, w: [w; ROWS], rows: 1, x, step: len, n: 1 });
                        assert_eq!(alone[0], *got, "{}: the order of a sum is always the same", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_decode_as_their_truth_says() {
        let mut rng = Rng::new(4);
        for ty in GgmlType::ALL {
            let mut bytes = vec![];
            ty.quantize_row(&mut bytes, &normals(&mut rng, 512));
            let mut truth = vec![0.0; 512];
            ty.dequantize_row(&mut truth, &bytes);
            for isa in Isa::available() {
                let mut out = vec![0.0; 512];
                isa.run(Decode { ty, out: &mut out, bytes: &bytes });
                assert_eq!(out, truth, "{} {}", ty.name(), isa.name());
            }
        }
    }

    #[test]
    fn gelu_is_the_tanh_form() {
        for isa in Isa::available() {
            let xs: Vec<f32> = (-201..=200).map(|i| i as f32 / 10.0).collect();
            let mut ys = xs.clone();
            isa.run(elements::BiasGelu { y: &mut ys, b: &vec![0.0; xs.len()] });
            for (&x, &y) in xs.iter().zip(&ys) {
                let x = f64::from(x);
                let exact = 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
                // exp of an argument a of up to 40 errs by a 2^-24 relatively.
                assert!((f64::from(y) - exact).abs() <= 4e-6 * exact.abs() + 1e-7, "{}: {x}: {y} {exact}", isa.name());
            }
        }
    }

    #[test]
    fn norms_are_those_of_f64() {
        let mut rng = Rng::new(6);
        for c in [1, 7, 64, 100, 384, 768] {
            // A mean far from 0, as some channels of a residual stream have it.
            let x: Vec<f32> = normals(&mut rng, c).iter().map(|x| 2.0 * x + 5.0).collect();
            let (w, b) = (normals(&mut rng, c), normals(&mut rng, c));
            let n = c as f64;
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; c];
                norm(isa, &mut y, &x, &w, &b, 1e-5);
                for i in 0..c {
                    let want = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(w[i]) + f64::from(b[i]);
                    // The mean of 5 errs by a few 2^-24 of it, against a deviation of 2; w reaches 4.
                    let room = if c == 1 { 1e-3 } else { 1e-5 };
                    assert!((f64::from(y[i]) - want).abs() < room, "{} {c}: {} {want}", isa.name(), y[i]);
                }
            }
        }
    }
}
