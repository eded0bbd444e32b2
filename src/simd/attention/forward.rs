//! The forward pass: softmax on the go, with the greatest score so far.

use super::super::parallel::Shared;
use super::super::{Isa, Op, Simd, math};
use super::{KEYS, MASKED, QUERIES, Queries, Rows, Sizes, each_head, product};

/// One head of one sequence.
struct Head<'a> {
    y: Shared<'a>,
    lse: Shared<'a>,
    qkv: &'a [f32],
    /// Of this sequence.
    starts: &'a [u32],
    seq: usize,
    head: usize,
    s: Sizes,
    scratch: &'a mut [f32],
}

/// Elements that a head works in.
fn scratch_len(s: Sizes) -> usize {
    s.t_whole() * (s.d + s.d_whole()) + 2 * s.d * QUERIES + KEYS * QUERIES + 2 * QUERIES
}

impl Op for Head<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { t, h, d, scale, .. } = self.s;
        let (c, d_whole, lanes) = (self.s.c(), self.s.d_whole(), S::LANES);
        let part = |part: usize| Rows { data: self.qkv, from: self.seq * t * 3 * c + part * c + self.head * d, stride: 3 * c };
        let (q, k, v) = (part(0), part(1), part(2));
        // keys^T, a tile (D, KEYS) after the other; values (T, D); queries^T and outputs^T (D, QUERIES);
        // scores^T (KEYS, QUERIES); the greatest score and the sum of exponentials of each query
        let (keys, rest) = self.scratch.split_at_mut(self.s.t_whole() * d);
        let (values, rest) = rest.split_at_mut(self.s.t_whole() * d_whole);
        let (query, rest) = rest.split_at_mut(d * QUERIES);
        let (out, rest) = rest.split_at_mut(d * QUERIES);
        let (scores, rest) = rest.split_at_mut(KEYS * QUERIES);
        let (most, total) = rest.split_at_mut(QUERIES);
        for (tile, keys) in keys.chunks_exact_mut(KEYS * d).enumerate() {
            k.transpose(s, keys, KEYS, tile * KEYS, KEYS.min(t - tile * KEYS), d);
        }
        v.gather(values, t, d, d_whole);

        for tile in 0..t.div_ceil(QUERIES) {
            let queries = Queries::new(tile, self.starts);
            q.transpose(s, query, QUERIES, queries.from, queries.count, d);
            for chunk in query.chunks_exact_mut(lanes) {
                s.store(s.mul(s.load(chunk), s.splat(scale)), chunk);
            }
            most.fill(MASKED);
            total.fill(0.0);
            out.fill(0.0);
            for tile in queries.key_tiles() {
                let n = queries.keys(tile);
                let keys = &keys[tile * KEYS * d..][..KEYS * d];
                product::<S, 1>(s, (n, QUERIES, d), (keys, KEYS), (query, QUERIES), (scores, QUERIES), false);
                queries.mask(scores, tile);
                for j in (0..QUERIES).step_by(lanes) {
                    let before = s.load(&most[j..]);
                    let mut now = before;
                    for row in scores.chunks_exact(QUERIES).take(n) {
                        now = s.max(now, s.load(&row[j..]));
                    }
                    let fade = math::exp(s, s.sub(before, now));
                    let mut sum = s.splat(0.0);
                    for row in scores.chunks_exact_mut(QUERIES).take(n) {
                        let p = math::exp(s, s.sub(s.load(&row[j..]), now));
                        s.store(p, &mut row[j..]);
                        sum = s.add(sum, p);
                    }
                    s.store(now, &mut most[j..]);
                    s.store(s.fma(s.load(&total[j..]), fade, sum), &mut total[j..]);
                    for row in out.chunks_exact_mut(QUERIES) {
                        s.store(s.mul(s.load(&row[j..]), fade), &mut row[j..]);
                    }
                }
                let values = &values[tile * KEYS * d_whole..];
                product::<S, 1>(s, (d, QUERIES, n), (values, d_whole), (scores, QUERIES), (out, QUERIES), true);
            }
            for i in 0..queries.count {
                let row = self.seq * t + queries.from + i;
                // SAFETY: each task has channels, and a place in `lse`, of its own in each row.
                let (y, lse) = unsafe { (self.y.part(row * c + self.head * d, d), self.lse.part(row * h + self.head, 1)) };
                let factor = 1.0 / total[i];
                for (y, out) in y.iter_mut().zip(out.chunks_exact(QUERIES)) {
                    *y = out[i] * factor;
                }
                lse[0] = most[i] + total[i].ln();
            }
        }
    }
}

/// `y (N, C)` and `lse (N, H)` of `qkv (N, 3C)`; row `i` of a sequence sees `starts[i] ..= i`.
///
/// # Panics
/// If a buffer does not fit the sizes.
pub fn forward(isa: Isa, y: &mut [f32], lse: &mut [f32], qkv: &[f32], starts: &[u32], s: Sizes) {
    let (c, n) = (s.c(), s.b * s.t);
    assert!(y.len() == n * c && lse.len() == n * s.h && qkv.len() == 3 * n * c && starts.len() == n);
    let (y, lse) = (Shared::new(y), Shared::new(lse));
    each_head(s, scratch_len(s), |seq, head, scratch| {
        isa.run(Head { y, lse, qkv, starts: &starts[seq * s.t..][..s.t], seq, head, s, scratch });
    });
}
