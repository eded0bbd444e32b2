//! Many queries: a tile of keys and values is turned into `f32` once for up to [`QUERIES`] of them. Lanes are queries.

use super::super::attention::{KEYS, MASKED, QUERIES, Rows, product};
use super::super::parallel::Columns;
use super::super::{Simd, math};
use super::{Element, Kept, STRANDS, score_scale, sum_of};

/// Elements that are worked in: queries and sums, `(D, QUERIES)` each, a tile's scores `(KEYS, QUERIES)`, the greatest score and the sums of
/// weights; a tile's keys `(D, KEYS)` and values `(KEYS, D)`, whose places the outputs take in the end.
pub const fn scratch_len(d: usize) -> usize {
    (2 * d + KEYS + 1 + STRANDS) * QUERIES + KEYS * (d + d.next_multiple_of(16))
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
    let (totals, rest) = rest.split_at_mut(STRANDS * QUERIES);
    let (key_room, rest) = rest.split_at_mut(KEYS * d);
    let value_room = &mut rest[..KEYS * d_whole];

    Rows { data: q, from: 0, stride }.transpose(s, query, QUERIES, 0, n, d);
    let scale = s.splat(score_scale(d));
    for x in query.chunks_exact_mut(lanes) {
        s.store(s.mul(s.load(x), scale), x);
    }
    most.fill(MASKED);
    totals.fill(0.0);
    sums.fill(0.0);
    for from in (0..start + n).step_by(KEYS) {
        let len = KEYS.min(start + n - from);
        let keys = E::widen(s, &kept.keys[from * d..][..KEYS * d], key_room);
        product::<S, 1>(s, (len, n, d), (keys, KEYS), (query, QUERIES), (scores, QUERIES), false);
        if E::SCALED {
            for (row, &scale) in scores.chunks_exact_mut(QUERIES).zip(&kept.key_scales[from..from + len]) {
                for x in row[..wide].chunks_exact_mut(lanes) {
                    s.store(s.mul(s.load(x), s.splat(scale)), x);
                }
            }
        }
        // Queries before the key do not see it.
        for key in start.saturating_sub(from)..len {
            scores[key * QUERIES..][..(from + key - start).min(QUERIES)].fill(MASKED);
        }
        let scales: &[f32] = if E::SCALED { &kept.value_scales[from..from + len] } else { &[] };
        for j in (0..wide).step_by(lanes) {
            let column = &mut scores[j..(len - 1) * QUERIES + j + lanes];
            let before = s.load(&most[j..]);
            let now = s.max(greatest(s, column), before);
            let fade = math::exp(s, s.sub(before, now));
            let mut sums_now = [s.splat(0.0); STRANDS];
            for k in 0..STRANDS {
                sums_now[k] = s.mul(s.load(&totals[k * QUERIES + j..]), fade);
            }
            to_weights::<S, E>(s, column, now, &mut sums_now, scales);
            for k in 0..STRANDS {
                s.store(sums_now[k], &mut totals[k * QUERIES + j..]);
            }
            s.store(now, &mut most[j..]);
            for row in sums.chunks_exact_mut(QUERIES) {
                s.store(s.mul(s.load(&row[j..]), fade), &mut row[j..]);
            }
        }
        let values = E::widen(s, &kept.values[from * d_whole..][..len * d_whole], value_room);
        product::<S, 1>(s, (d, n, len), (values, d_whole), (scores, QUERIES), (sums, QUERIES), true);
    }
    let rows = &mut key_room[..QUERIES * d];
    Rows { data: sums, from: 0, stride: QUERIES }.transpose(s, rows, d, 0, d, QUERIES);
    for (r, row) in rows.chunks_exact(d).take(n).enumerate() {
        let factor = s.splat(1.0 / sum_of(std::array::from_fn(|k| totals[k * QUERIES + r])));
        for (out, row) in out.row(first + r)[..d].chunks_mut(lanes).zip(row.chunks(lanes)) {
            s.store_head(s.mul(s.load_head(row), factor), out);
        }
    }
}

/// The greatest of each lane of `column`: vectors, `QUERIES` elements apart.
#[inline(always)]
fn greatest<S: Simd>(s: S, column: &[f32]) -> S::V {
    let mut most = [s.splat(MASKED); 4];
    for rows in column.chunks(4 * QUERIES) {
        for (most, row) in most.iter_mut().zip(rows.chunks(QUERIES)) {
            *most = s.max(*most, s.load(row));
        }
    }
    s.max(s.max(most[0], most[1]), s.max(most[2], most[3]))
}

/// Scores of `column` become weights, times the values' scales where there are any; they are added up without them.
#[inline(always)]
fn to_weights<S: Simd, E: Element>(s: S, column: &mut [f32], most: S::V, sums: &mut [S::V; STRANDS], scales: &[f32]) {
    for (at, rows) in column.chunks_mut(STRANDS * QUERIES).enumerate() {
        for (k, row) in rows.chunks_mut(QUERIES).enumerate() {
            let weight = math::exp(s, s.sub(s.load(row), most));
            sums[k] = s.add(sums[k], weight);
            s.store(if E::SCALED { s.mul(weight, s.splat(scales[STRANDS * at + k])) } else { weight }, row);
        }
    }
}
