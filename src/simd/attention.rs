//! Causal attention, forward and backward.

use super::Isa;
use super::parallel::{self, Shared};

/// Sizes: `b` sequences of `t` rows, `h` heads of `d` channels.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences.
    pub b: usize,
    /// Rows of each.
    pub t: usize,
    /// Heads.
    pub h: usize,
    /// Channels of a head.
    pub d: usize,
    /// Factor of the scores.
    pub scale: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut strands = [0.0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((s, a), b) in strands.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
    strands.iter().sum()
}

fn axpy(y: &mut [f32], alpha: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// `y (N, C)` and `lse (N, H)` of `qkv (N, 3C)`; row `i` of a sequence sees `starts[i] ..= i`.
pub fn forward(_isa: Isa, y: &mut [f32], lse: &mut [f32], qkv: &[f32], starts: &[u32], s: Sizes) {
    let Sizes { b, t, h, d, scale } = s;
    let (c, n) = (h * d, b * t);
    assert!(y.len() == n * c && lse.len() == n * h && qkv.len() == 3 * n * c && starts.len() == n);
    let (y, lse) = (Shared::new(y), Shared::new(lse));
    parallel::for_each(b * h, n * t * c > 1 << 16, |task| {
        let (seq, head) = (task / h * t, task % h);
        let mut scores = vec![0.0f32; t];
        for i in 0..t {
            let row = |i: usize, part: usize| &qkv[(seq + i) * 3 * c + part * c + head * d..][..d];
            // SAFETY: each task has channels of its own in each row.
            let (y, lse) = unsafe { (y.part((seq + i) * c + head * d, d), lse.part((seq + i) * h + head, 1)) };
            let from = starts[seq + i] as usize;
            let mut most = f32::MIN;
            for j in from..=i {
                scores[j] = dot(row(i, 0), row(j, 1)) * scale;
                most = most.max(scores[j]);
            }
            let mut total = 0.0;
            for p in &mut scores[from..=i] {
                *p = (*p - most).exp();
                total += *p;
            }
            y.fill(0.0);
            for j in from..=i {
                axpy(y, scores[j] / total, row(j, 2));
            }
            lse[0] = most + total.ln();
        }
    });
}

/// `dqkv (N, 3C)` from `dy (N, C)`; `delta (N, H)` is scratch.
pub fn backward(_isa: Isa, dqkv: &mut [f32], delta: &mut [f32], dy: &[f32], y: &[f32], qkv: &[f32], lse: &[f32], starts: &[u32], s: Sizes) {
    let Sizes { b, t, h, d, scale } = s;
    let (c, n) = (h * d, b * t);
    assert!(dqkv.len() == 3 * n * c && delta.len() == n * h && dy.len() == n * c && y.len() == n * c);
    assert!(lse.len() == n * h && qkv.len() == 3 * n * c && starts.len() == n);
    let (dqkv, delta) = (Shared::new(dqkv), Shared::new(delta));
    parallel::for_each(b * h, n * t * c > 1 << 16, |task| {
        let (seq, head) = (task / h * t, task % h);
        let row = |i: usize, part: usize| &qkv[(seq + i) * 3 * c + part * c + head * d..][..d];
        // SAFETY: each task has channels of its own in each row, and holds one slice at a time.
        let out = |i: usize, part: usize| unsafe { dqkv.part((seq + i) * 3 * c + part * c + head * d, d) };
        for i in 0..t {
            for part in 0..3 {
                out(i, part).fill(0.0);
            }
        }
        for i in 0..t {
            let (dy, y) = (&dy[(seq + i) * c + head * d..][..d], &y[(seq + i) * c + head * d..][..d]);
            let sum = dot(dy, y);
            // SAFETY: as above.
            let delta = unsafe { delta.part((seq + i) * h + head, 1) };
            delta[0] = sum;
            for j in starts[seq + i] as usize..=i {
                let p = (dot(row(i, 0), row(j, 1)) * scale - lse[(seq + i) * h + head]).exp();
                axpy(out(j, 2), p, dy);
                let ds = p * (dot(dy, row(j, 2)) - sum) * scale;
                axpy(out(i, 0), ds, row(j, 1));
                axpy(out(j, 1), ds, row(i, 0));
            }
        }
    });
}
