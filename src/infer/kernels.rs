//! Inner loops of a session, plain arrays that the compiler vectorises.

/// Partial sums kept apart: enough to fill vector registers, in an order that does not depend on the machine.
const LANES: usize = 8;

/// Dot products of `R` rows with one vector; reading them together loads `x` once.
#[inline]
pub fn dots<const R: usize>(rows: [&[f32]; R], x: &[f32]) -> [f32; R] {
    let mut acc = [[0.0f32; LANES]; R];
    let (chunks, tail) = x.as_chunks::<LANES>();
    let rows_chunks = rows.map(|w| w[..x.len()].as_chunks::<LANES>().0);
    for (i, x) in chunks.iter().enumerate() {
        for r in 0..R {
            let w = &rows_chunks[r][i];
            for l in 0..LANES {
                acc[r][l] += w[l] * x[l];
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        let rest: f32 = rows[r][x.len() - tail.len()..x.len()].iter().zip(tail).map(|(w, x)| w * x).sum();
        let a = &acc[r];
        out[r] = ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7])) + rest;
    }
    out
}

/// Dot product.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dots([a], b)[0]
}

/// `y += alpha x`.
#[inline]
pub fn axpy(y: &mut [f32], alpha: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// `x = exp(x) / sum exp(x)`.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let mut sum = 0.0;
    for v in &mut *x {
        *v = (*v - max).exp();
        sum += *v;
    }
    let inverse = 1.0 / sum;
    x.iter_mut().for_each(|v| *v *= inverse);
}

/// `y = (x - mean) / sqrt(variance + eps) w + b`, all `(C)`.
///
/// The two sums are taken in `f64`: `C` terms cost nothing beside the matrices.
pub fn norm(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f64) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let (mean, rstd) = (mean as f32, (1.0 / (variance + eps).sqrt()) as f32);
    for i in 0..x.len() {
        y[i] = (x[i] - mean) * rstd * w[i] + b[i];
    }
}

/// GPT-2's GELU in place: `x/2 (1 + tanh u)` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, which is `x / (1 + exp(-2u))`.
pub fn gelu(x: &mut [f32]) {
    const TWICE_ROOT: f32 = 1.595_769_2; // 2 sqrt(2/pi)
    for v in x {
        let u2 = TWICE_ROOT * (*v + 0.044_715 * *v * *v * *v);
        *v /= 1.0 + (-u2).exp();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn dots_have_every_term_once() {
        let mut rng = Rng::new(3);
        for n in [0, 1, 7, 8, 9, 31, 64, 100] {
            let [a, b, x] = [(); 3].map(|()| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>());
            let exact = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            for (got, want) in dots([&a, &b], &x).into_iter().zip([exact(&a), exact(&b)]) {
                // A sum of n products in f32: n/2 roundings of terms of size about 1, 2^-24 each.
                assert!((f64::from(got) - want).abs() <= 1e-6 + n as f64 * 6e-8, "{n}: {got} {want}");
            }
        }
    }

    #[test]
    fn gelu_is_the_tanh_form() {
        for i in -200..=200 {
            let x = i as f32 / 10.0;
            let exact = {
                let x = f64::from(x);
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            };
            let mut y = [x];
            gelu(&mut y);
            // exp of an argument a of up to 40 errs by a 2^-24 relatively.
            assert!((f64::from(y[0]) - exact).abs() <= 4e-6 * exact.abs() + 1e-7, "{x}: {} {exact}", y[0]);
        }
        let mut far = [-1e20f32, 1e20, f32::MIN, f32::MAX];
        gelu(&mut far);
        assert_eq!(far, [-0.0, 1e20, -0.0, f32::MAX]);
    }

    #[test]
    fn softmax_sums_to_one_at_any_height() {
        let mut x = [1000.0f32, 1000.0, -1000.0];
        softmax(&mut x);
        assert_eq!(x, [0.5, 0.5, 0.0]);
    }
}
