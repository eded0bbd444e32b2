//! The backward pass: probabilities again from scores and `lse`, then four products a tile.

use super::super::parallel::Shared;
use super::super::{Isa, Op, Simd, math};
use super::{KEYS, QUERIES, Queries, Rows, Sizes, each_head, product};

/// One head of one sequence.
struct Head<'a> {
    dqkv: Shared<'a>,
    delta: Shared<'a>,
    dy: &'a [f32],
    y: &'a [f32],
    qkv: &'a [f32],
    lse: &'a [f32],
    /// Of this sequence.
    starts: &'a [u32],
    seq: usize,
    head: usize,
    s: Sizes,
    scratch: &'a mut [f32],
}

/// Elements that a head works in.
fn scratch_len(s: Sizes) -> usize {
    s.t_whole() * (2 * s.d + 5 * s.d_whole()) + 3 * s.d * QUERIES + 2 * KEYS * QUERIES + 2 * QUERIES
}

impl Op for Head<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { t, h, d, scale, .. } = self.s;
        let (c, d_whole, lanes) = (self.s.c(), self.s.d_whole(), S::LANES);
        let (row0, t_whole) = (self.seq * t, self.s.t_whole());
        let part = |part: usize| Rows { data: self.qkv, from: row0 * 3 * c + part * c + self.head * d, stride: 3 * c };
        let (q, k, v) = (part(0), part(1), part(2));
        let of = |data| Rows { data, from: row0 * c + self.head * d, stride: c };
        let (y, dy) = (of(self.y), of(self.dy));
        // keys^T and values^T, a tile (D, KEYS) after the other; the rest (T, D) but for what belongs to a tile of
        // queries: queries^T, dy^T, dq^T (D, QUERIES), p^T and ds^T (KEYS, QUERIES), lse and delta (QUERIES)
        let (keys_t, rest) = self.scratch.split_at_mut(t_whole * d);
        let (values_t, rest) = rest.split_at_mut(t_whole * d);
        let (keys, rest) = rest.split_at_mut(t_whole * d_whole);
        let (queries_all, rest) = rest.split_at_mut(t_whole * d_whole);
        let (dy_all, rest) = rest.split_at_mut(t_whole * d_whole);
        let (dk, rest) = rest.split_at_mut(t_whole * d_whole);
        let (dv, rest) = rest.split_at_mut(t_whole * d_whole);
        let (query_t, rest) = rest.split_at_mut(d * QUERIES);
        let (dy_t, rest) = rest.split_at_mut(d * QUERIES);
        let (dq_t, rest) = rest.split_at_mut(d * QUERIES);
        let (p, rest) = rest.split_at_mut(KEYS * QUERIES);
        let (ds, rest) = rest.split_at_mut(KEYS * QUERIES);
        let (lse, delta) = rest.split_at_mut(QUERIES);
        for tile in 0..t_whole / KEYS {
            let (at, rows) = (tile * KEYS * d, KEYS.min(t - tile * KEYS));
            k.transpose(s, &mut keys_t[at..][..KEYS * d], KEYS, tile * KEYS, rows, d);
            v.transpose(s, &mut values_t[at..][..KEYS * d], KEYS, tile * KEYS, rows, d);
        }
        k.gather(keys, t, d, d_whole);
        q.gather(queries_all, t, d, d_whole);
        dy.gather(dy_all, t, d, d_whole);
        dk.fill(0.0);
        dv.fill(0.0);

        for tile in 0..t.div_ceil(QUERIES) {
            let queries = Queries::new(tile, self.starts);
            let n_q = queries.count;
            q.transpose(s, query_t, QUERIES, queries.from, n_q, d);
            dy.transpose(s, dy_t, QUERIES, queries.from, n_q, d);
            // A query behind the last one: exp(score - lse) = 0.
            lse.fill(1e30);
            delta.fill(0.0);
            for i in 0..n_q {
                let (row, at) = (queries.from + i, (row0 + queries.from + i) * h + self.head);
                lse[i] = self.lse[at];
                delta[i] = dot(s, dy.row(row, d), y.row(row, d));
                // SAFETY: each task has a place of its own in each row.
                unsafe { self.delta.part(at, 1) }.copy_from_slice(&delta[i..=i]);
            }
            dq_t.fill(0.0);
            for tile in queries.key_tiles() {
                let n = queries.keys(tile);
                let at = tile * KEYS * d;
                product::<S, 1>(s, (n, QUERIES, d), (&keys_t[at..][..KEYS * d], KEYS), (query_t, QUERIES), (p, QUERIES), false);
                product::<S, 1>(s, (n, QUERIES, d), (&values_t[at..][..KEYS * d], KEYS), (dy_t, QUERIES), (ds, QUERIES), false);
                queries.mask(p, tile);
                let factor = s.splat(scale);
                for j in (0..QUERIES).step_by(lanes) {
                    let (lse, delta) = (s.load(&lse[j..]), s.load(&delta[j..]));
                    for (p, ds) in p.chunks_exact_mut(QUERIES).zip(ds.chunks_exact_mut(QUERIES)).take(n) {
                        let (p, ds) = (&mut p[j..], &mut ds[j..]);
                        let e = math::exp(s, s.sub(s.mul(s.load(p), factor), lse));
                        s.store(e, p);
                        s.store(s.mul(s.mul(e, factor), s.sub(s.load(ds), delta)), ds);
                    }
                }
                let (at, from) = (tile * KEYS * d_whole, queries.from * d_whole);
                let (dv, dk) = (&mut dv[at..][..KEYS * d_whole], &mut dk[at..][..KEYS * d_whole]);
                product::<S, QUERIES>(s, (n, d, n_q), (p, 1), (&dy_all[from..], d_whole), (dv, d_whole), true);
                product::<S, QUERIES>(s, (n, d, n_q), (ds, 1), (&queries_all[from..], d_whole), (dk, d_whole), true);
                product::<S, 1>(s, (d, QUERIES, n), (&keys[at..], d_whole), (ds, QUERIES), (dq_t, QUERIES), true);
            }
            for i in 0..n_q {
                let row = (row0 + queries.from + i) * 3 * c + self.head * d;
                // SAFETY: each task has channels of its own in each row.
                let dq = unsafe { self.dqkv.part(row, d) };
                for (dq, from) in dq.iter_mut().zip(dq_t.chunks_exact(QUERIES)) {
                    *dq = from[i];
                }
            }
        }
        for i in 0..t {
            for (part, from) in [(1, &*dk), (2, &*dv)] {
                let row = (row0 + i) * 3 * c + part * c + self.head * d;
                // SAFETY: as above.
                unsafe { self.dqkv.part(row, d) }.copy_from_slice(&from[i * d_whole..][..d]);
            }
        }
    }
}

/// `a . b`: one strand of vectors, then their lanes as a tree.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in a.chunks(S::LANES).zip(b.chunks(S::LANES)) {
        sum = s.fma(s.load_head(a), s.load_head(b), sum);
    }
    s.sum(sum)
}

/// `dqkv (N, 3C)` from `dy (N, C)`, with the forward pass's `y` and `lse (N, H)`; `delta (N, H)` is overwritten.
///
/// # Panics
/// If a buffer does not fit the sizes.
pub fn backward(isa: Isa, dqkv: &mut [f32], delta: &mut [f32], dy: &[f32], y: &[f32], qkv: &[f32], lse: &[f32], starts: &[u32], s: Sizes) {
    let (c, n) = (s.c(), s.b * s.t);
    assert!(dqkv.len() == 3 * n * c && delta.len() == n * s.h && dy.len() == n * c && y.len() == n * c);
    assert!(lse.len() == n * s.h && qkv.len() == 3 * n * c && starts.len() == n);
    let (dqkv, delta) = (Shared::new(dqkv), Shared::new(delta));
    each_head(s, scratch_len(s), |seq, head, scratch| {
        isa.run(Head { dqkv, delta, dy, y, qkv, lse, starts: &starts[seq * s.t..][..s.t], seq, head, s, scratch });
    });
}
