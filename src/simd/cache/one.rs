//! One query: keys and values are read once, from front to back.

use super::super::attention::{KEYS, MASKED};
use super::super::{Simd, math};
use super::{Element, Kept, score_scale};

/// Elements that are worked in.
pub const fn scratch_len(d: usize) -> usize {
    d + 2 * KEYS + d.next_multiple_of(16)
}

/// `out (D)` = what `q (D)` sees of the first `seen` positions.
#[inline(always)]
pub fn attend<S: Simd, E: Element>(s: S, kept: &Kept<'_, E>, out: &mut [f32], q: &[f32], seen: usize, scratch: &mut [f32]) {
    let (d, d_whole) = (kept.d, kept.d.next_multiple_of(16));
    let (query, rest) = scratch.split_at_mut(d);
    let (weights, rest) = rest.split_first_chunk_mut::<KEYS>().expect("room for weights");
    let (scaled, rest) = rest.split_first_chunk_mut::<KEYS>().expect("room for scaled weights");
    let sums = &mut rest[..d_whole];
    for (query, q) in query.iter_mut().zip(q) {
        *query = q * score_scale(d);
    }
    sums.fill(0.0);
    let (mut most, mut total) = (MASKED, s.splat(0.0));
    for from in (0..seen).step_by(KEYS) {
        let len = KEYS.min(seen - from);
        let keys = kept.keys[from * d..][..KEYS * d].as_chunks().0;
        let values = &kept.values[from * d_whole..][..len * d_whole];
        match len.div_ceil(16) {
            1 => scores::<S, E, 1>(s, weights, query, keys),
            2 => scores::<S, E, 2>(s, weights, query, keys),
            _ => scores::<S, E, 4>(s, weights, query, keys),
        }
        let end = s.splat(len as f32);
        let mut greatest = s.splat(MASKED);
        for i in (0..len).step_by(S::LANES) {
            let mut score = s.load(&weights[i..]);
            if E::SCALED {
                score = s.mul(score, s.load(&kept.key_scales[from + i..]));
            }
            score = s.select_lt(s.add(s.ramp(), s.splat(i as f32)), end, score, s.splat(MASKED));
            greatest = s.max(greatest, score);
            s.store(score, &mut weights[i..]);
        }
        let now = s.greatest(greatest).max(most);
        let fade = math::exp(s, s.sub(s.splat(most), s.splat(now)));
        most = now;
        for i in (0..len).step_by(S::LANES) {
            let weight = math::exp(s, s.sub(s.load(&weights[i..]), s.splat(now)));
            s.store(weight, &mut weights[i..]);
            if E::SCALED {
                s.store(s.mul(weight, s.load(&kept.value_scales[from + i..])), &mut scaled[i..]);
            }
        }
        total = s.mul(total, fade);
        let factors = if E::SCALED { &scaled[..len] } else { &weights[..len] };
        let mut at = 0;
        while at + 64 <= d_whole {
            add::<S, E, 4>(s, &mut sums[at..], fade, factors, &values[at..], d_whole);
            at += 64;
        }
        if at + 32 <= d_whole {
            add::<S, E, 2>(s, &mut sums[at..], fade, factors, &values[at..], d_whole);
            at += 32;
        }
        if at < d_whole {
            add::<S, E, 1>(s, &mut sums[at..], fade, factors, &values[at..], d_whole);
        }
        for &weight in &weights[..len] {
            total = s.add(total, s.splat(weight));
        }
    }
    let factor = s.div(s.splat(1.0), total);
    for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
        s.store_head(s.mul(s.load(sums), factor), out);
    }
}

/// The first `16 G` of `scores` = products of the query with a tile of keys, `(D, KEYS)`.
#[inline(always)]
fn scores<S: Simd, E: Element, const G: usize>(s: S, scores: &mut [f32; KEYS], query: &[f32], keys: &[[E; KEYS]]) {
    let mut sums = [s.wide(&[0.0; 16]); G];
    for (&q, keys) in query.iter().zip(keys) {
        let (q, keys) = (s.splat(q), keys.as_chunks::<16>().0);
        for g in 0..G {
            let k = E::load(s, &keys[g]);
            for (sum, &k) in sums[g].as_mut().iter_mut().zip(k.as_ref()) {
                *sum = s.fma(q, k, *sum);
            }
        }
    }
    put(s, scores, &sums);
}

/// `sums (16 G) = sums fade + sum of weights times values`, rows of `step` numbers.
#[inline(always)]
fn add<S: Simd, E: Element, const G: usize>(s: S, sums: &mut [f32], fade: S::V, weights: &[f32], values: &[E], step: usize) {
    let mut acc = [s.wide(&[0.0; 16]); G];
    for (acc, sums) in acc.iter_mut().zip(sums.as_chunks().0) {
        *acc = s.wide(sums);
        for acc in acc.as_mut() {
            *acc = s.mul(*acc, fade);
        }
    }
    // The last row ends where the strip does.
    for (&weight, values) in weights.iter().zip(values.chunks(step)) {
        let (weight, values) = (s.splat(weight), values[..16 * G].as_chunks::<16>().0);
        for g in 0..G {
            let v = E::load(s, &values[g]);
            for (acc, &v) in acc[g].as_mut().iter_mut().zip(v.as_ref()) {
                *acc = s.fma(weight, v, *acc);
            }
        }
    }
    put(s, sums, &acc);
}

#[inline(always)]
fn put<S: Simd, const G: usize>(s: S, to: &mut [f32], from: &[S::Wide; G]) {
    for (to, from) in to.chunks_exact_mut(16).zip(from) {
        for (to, &from) in to.chunks_exact_mut(S::LANES).zip(from.as_ref()) {
            s.store(from, to);
        }
    }
}
