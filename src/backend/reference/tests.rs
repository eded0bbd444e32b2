//! Facts that have a closed form.

use super::*;
use approx::assert_relative_eq;

const R: Reference = Reference;

/// Without differences between scores, attention is the mean of the values it may see.
#[test]
fn equal_keys_give_the_mean_of_the_values() {
    let s = Heads { b: 1, t: 4, h: 2, d: 3 };
    let mut qkv = vec![0.5; s.n() * 3 * s.c()];
    for row in 0..4 {
        for i in 0..6 {
            qkv[row * 18 + 12 + i] = (row * 10 + i) as f64;
        }
    }
    let (mut y, mut lse) = (vec![f64::NAN; s.n() * s.c()], vec![f64::NAN; s.n() * s.h]);
    R.attention(&mut y, &mut lse, &qkv, &vec![0, 0, 2, 2], s);
    for (row, mean, seen) in [(0, 0.0, 1.0f64), (1, 5.0, 2.0), (2, 20.0, 1.0), (3, 25.0, 2.0)] {
        for i in 0..6 {
            assert_relative_eq!(y[row * 6 + i], mean + i as f64, max_relative = 1e-14);
        }
        // A score is D 0.5^2 / sqrt(D).
        assert_relative_eq!(lse[row * 2 + 1], 0.75 / 3f64.sqrt() + seen.ln(), max_relative = 1e-14);
    }
}

/// A softmax over equal logits: the loss is ln V and the gradient pulls at the target alone.
#[test]
fn equal_logits_cost_the_log_of_the_vocabulary() {
    let (n, c, v) = (3, 2, 5);
    let (x, wte) = (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![0.0; v * c]);
    let targets = Targets::<Reference> { count: 2, rows: vec![0, 2], ids: vec![4, 1], weights: vec![0.25, 0.5] };
    let (mut loss, mut dx, mut dwte, mut head) = (vec![1.0], vec![f64::NAN; n * c], vec![0.0; v * c], vec![f64::NAN; v]);
    R.classify_loss(&mut loss, Some(&mut dx), Some(&mut dwte), &mut head, &x, &wte, &targets, n, c, v);
    assert_relative_eq!(loss[0], 1.0 + 0.75 * 5f64.ln(), max_relative = 1e-15);
    assert_eq!(dx, vec![0.0; n * c]);
    for token in 0..v {
        for i in 0..c {
            let share = |row: usize, id: usize, weight: f64| weight * (0.2 - f64::from(u8::from(id == token))) * x[row * c + i];
            assert_relative_eq!(dwte[token * c + i], share(0, 4, 0.25) + share(2, 1, 0.5), max_relative = 1e-14);
        }
    }
}

#[test]
fn a_constant_row_is_normed_to_the_bias() {
    let (mut y, mut stats) = (vec![f64::NAN; 8], vec![f64::NAN; 4]);
    R.norm(&mut y, &mut stats, &vec![7.0, 7.0, 7.0, 7.0, -1.0, 1.0, -1.0, 1.0], &vec![2.0; 4], &vec![0.5; 4], 2, 4);
    assert_eq!(y[..4], [0.5; 4]);
    let rstd = 1.0 / 1.00001f64.sqrt();
    assert_relative_eq!(stats[..], [7.0, 1.0 / 1e-5f64.sqrt(), 0.0, rstd][..], max_relative = 1e-15);
    assert_relative_eq!(y[4..], [0.5 - 2.0 * rstd, 0.5 + 2.0 * rstd, 0.5 - 2.0 * rstd, 0.5 + 2.0 * rstd][..], max_relative = 1e-15);
}

/// Facts of the tanh form: odd part x/2, 0 at 0, x for large x.
#[test]
fn gelu_has_its_limits() {
    let x = vec![0.0, 1.3, -1.3, 20.0, -20.0];
    let mut y = vec![f64::NAN; 5];
    R.gelu(&mut y, &x, 5);
    assert_eq!((y[0], y[3], y[4].abs()), (0.0, 20.0, 0.0));
    assert_relative_eq!(y[1] - y[2], 1.3, max_relative = 1e-14);
    let mut d = vec![3.0; 5];
    R.gelu_backward(&mut d, &x, 5);
    assert_eq!((d[0], d[3], d[4]), (1.5, 3.0, 0.0));
}

#[test]
fn dropout_keeps_its_share_and_repeats_itself() {
    let (n, p) = (100_000, 0.1);
    let x = vec![2.0; n];
    let draw = |key, site| {
        let mut y = vec![f64::NAN; n];
        R.dropout(&mut y, &x, p, site, &Control { dropout_key: key, ..R.alloc_ctl().unwrap() }, n);
        y
    };
    let y = draw(1, 2);
    assert_eq!(y, draw(1, 2));
    assert_ne!(y, draw(1, 3));
    assert_ne!(y, draw(2, 2));
    let kept = y.iter().filter(|&&y| y != 0.0).count() as f64 / n as f64;
    // Four standard errors: 4 sqrt(0.09 / n).
    assert!((kept - 0.9).abs() < 0.0038, "{kept}");
    let scaled = 2.0 / (1.0 - f64::from(p));
    assert!(y.iter().all(|&y| y == 0.0 || y == scaled));
}

/// One step with the numbers done by hand: the first corrected moments are the clipped gradient itself.
#[test]
fn the_first_adamw_step_is_the_sign_of_the_gradient() {
    let ctl = Control { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.5, clip: 1.0, step: 1, dropout_key: 0, rounding_key: 0 };
    let g = [vec![3.0, 0.0], vec![-4.0]];
    let mut norm = vec![f64::NAN];
    R.grad_norm(&mut norm, &[&g[0], &g[1]]);
    assert_eq!(norm, [5.0]);
    let (mut w, mut m, mut v) = ([vec![1.0, 2.0], vec![1.0]], [vec![0.0; 2], vec![0.0]], [vec![0.0; 2], vec![0.0]]);
    let [w0, w1] = &mut w;
    let [m0, m1] = &mut m;
    let [v0, v1] = &mut v;
    R.adamw(
        &mut [
            AdamLeaf { w: w0, master: None, m: m0, v: v0, g: &g[0], decay: true },
            AdamLeaf { w: w1, master: None, m: m1, v: v1, g: &g[1], decay: false },
        ],
        &norm,
        &ctl,
    );
    // Clipped gradients are 0.6, 0 and -0.8; the decayed leaf loses 0.1 0.5 w besides.
    assert_relative_eq!(w[0][..], [1.0 - 0.1 - 0.05, 2.0 - 0.1][..], max_relative = 1e-8);
    assert_relative_eq!(w[1][0], 1.1, max_relative = 1e-8);
    assert_relative_eq!(m[0][0], 0.06, max_relative = 1e-14);
    assert_relative_eq!(v[1][0], 0.032, max_relative = 1e-14);
}
