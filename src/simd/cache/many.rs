//! Many queries: a tile of keys and values is turned into `f32` once for up to [`QUERIES`] of them. Lanes are queries.

use super::super::attention::{KEYS, MASKED, QUERIES, Rows, product};
use super::super::parallel::Columns;
use super::super::{Simd, math};
use super::{Element, Kept, score_scale};

/// Elements that are worked in: queries and sums, `(D, QUERIES)` each, a tile's scores `(KEYS, QUERIES)`, the greatest score, the sum of weights and
/// what it is divided by; a tile's keys `(D, KEYS)` and values `(KEYS, D)`, whose places the outputs take in the end.
pub const fn scratch_len(d: usize) -> usize {
    (2 * d + KEYS + 2) * QUERIES + KEYS * (d + d.next_multiple_of(16))
}

/// Rows `first .. first + n` of `out` = what the queries at positions `start .. start + n` see; rows of `q`, `stride` apart; `n <= QUERIES`.
#[inline(always)]
pub fn attend<S: Simd, E: Element>(
    s: S,
    kept: &Kept<'_, E>,
    out: &mut Columns<'_>,
    first: usize,
    q: &[f32],
    stride: usize,
    start: usize,
    n: usize,
    scratch: &mut [f32],
) {
    let (d, d_whole, lanes, wide) = (kept.d, kept.d.next_multiple_of(16), S::LANES, n.next_multiple_of(S::LANES));
    let (query, rest) = scratch.split_at_mut(d * QUERIES);
    let (sums, rest) = rest.split_at_mut(d * QUERIES);
    let (scores, rest) = rest.split_at_mut(KEYS * QUERIES);
    let (most, rest) = rest.split_at_mut(QUERIES);
    let (total, rest) = rest.split_at_mut(QUERIES);
    let (key_room, rest) = rest.split_at_mut(KEYS * d);
    let value_room = &mut rest[..KEYS * d_whole];

    Rows { data: q, from: 0, stride }.transpose(s, query, QUERIES, 0, n, d);
    let scale = s.splat(score_scale(d));
    for x in query.chunks_exact_mut(lanes) {
        s.store(s.mul(s.load(x), scale), x);
    }
    most.fill(MASKED);
    total.fill(0.0);
    sums.fill(0.0);
    for from in (0..start + n).step_by(KEYS) {
        let len = KEYS.min(start + n - from);
        let keys = E::widen(s, &kept.keys[from * d..][..KEYS * d], key_room);
        product::<S, 1>(s, (len, n, d), (keys, KEYS), (query, QUERIES), (scores, QUERIES), false);
        for (key, row) in scores.chunks_exact_mut(QUERIES).take(len).enumerate() {
            if E::SCALED {
                scale_row(s, &mut row[..wide], kept.key_scales[from + key]);
            }
            row[..(from + key).saturating_sub(start).min(QUERIES)].fill(MASKED); // queries before the key
        }
        for j in (0..wide).step_by(lanes) {
            let before = s.load(&most[j..]);
            let mut now = before;
            for row in scores.chunks_exact(QUERIES).take(len) {
                now = s.max(now, s.load(&row[j..]));
            }
            let fade = math::exp(s, s.sub(before, now));
            let mut sum = s.mul(s.load(&total[j..]), fade);
            for row in scores.chunks_exact_mut(QUERIES).take(len) {
                let weight = math::exp(s, s.sub(s.load(&row[j..]), now));
                s.store(weight, &mut row[j..]);
                sum = s.add(sum, weight);
            }
            s.store(now, &mut most[j..]);
            s.store(sum, &mut total[j..]);
            for row in sums.chunks_exact_mut(QUERIES) {
                s.store(s.mul(s.load(&row[j..]), fade), &mut row[j..]);
            }
        }
        if E::SCALED {
            for (row, &scale) in scores.chunks_exact_mut(QUERIES).zip(&kept.value_scales[from..from + len]) {
                scale_row(s, &mut row[..wide], scale);
            }
        }
        let values = E::widen(s, &kept.values[from * d_whole..][..len * d_whole], value_room);
        product::<S, 1>(s, (d, n, len), (values, d_whole), (scores, QUERIES), (sums, QUERIES), true);
    }
    let rows = &mut key_room[..QUERIES * d];
    Rows { data: sums, from: 0, stride: QUERIES }.transpose(s, rows, d, 0, d, QUERIES);
    for (r, row) in rows.chunks_exact(d).take(n).enumerate() {
        let factor = s.splat(1.0 / total[r]);
        for (out, row) in out.row(first + r)[..d].chunks_mut(lanes).zip(row.chunks(lanes)) {
            s.store_head(s.mul(s.load_head(row), factor), out);
        }
    }
}

#[inline(always)]
fn scale_row<S: Simd>(s: S, row: &mut [f32], scale: f32) {
    for x in row.chunks_exact_mut(S::LANES) {
        s.store(s.mul(s.load(x), s.splat(scale)), x);
    }
}
