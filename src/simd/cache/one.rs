//! One query: keys and values are read once, from front to back. While a tile's keys are read, its values are asked for, and the next
//! tile's keys while those are: that is worth a tenth where the cache comes from memory.

use super::super::attention::{KEYS, MASKED};
use super::super::{Simd, math};
use super::{Element, Kept, STRANDS, score_scale, sum_of};

/// Elements that are worked in.
pub const fn scratch_len(d: usize) -> usize {
    d + 2 * KEYS + d.next_multiple_of(16)
}

/// `out (D)` = what `q (D)` sees of the first `seen` positions.
#[inline(always)]
pub fn attend<S: Simd, E: Element>(s: S, kept: &Kept<'_, E>, out: &mut [f32], q: &[f32], seen: usize, scratch: &mut [f32]) {
    let (d, d_whole) = (kept.d, kept.d.next_multiple_of(16));
    let (weights, rest) = scratch.split_first_chunk_mut::<KEYS>().expect("room for weights");
    let (scaled, rest) = rest.split_first_chunk_mut::<KEYS>().expect("room for scaled weights");
    let (sums, rest) = rest.split_at_mut(d_whole);
    let query = &mut rest[..d];
    for (query, q) in query.iter_mut().zip(q) {
        *query = q * score_scale(d);
    }
    sums.fill(0.0);
    let (mut most, mut total) = (MASKED, [0.0f32; STRANDS]);
    for from in (0..seen).step_by(KEYS) {
        let len = KEYS.min(seen - from);
        let keys = &kept.keys[from * d..][..KEYS * d];
        let values = &kept.values[from * d_whole..][..len * d_whole];
        match len.div_ceil(16) {
            1 => scores::<S, E, 1>(s, weights, query, keys, values),
            2 => scores::<S, E, 2>(s, weights, query, keys, values),
            _ => scores::<S, E, 4>(s, weights, query, keys, values),
        }
        let end = s.splat(len as f32);
        let mut greatest = s.splat(MASKED);
        for i in (0..len).step_by(S::LANES) {
            let mut score = s.load(&weights[i..]);
            if E::SCALED {
                score = s.mul(score, s.load(&kept.key_scales[from + i..]));
            }
            if i + S::LANES > len {
                score = s.select_lt(s.add(s.ramp(), s.splat(i as f32)), end, score, s.splat(MASKED));
            }
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
        let factors = if E::SCALED { &scaled[..len] } else { &weights[..len] };
        let next = if from + KEYS < seen { keys.as_ptr().wrapping_add(KEYS * d) } else { values.as_ptr() };
        let mut at = 0;
        while at + 64 <= d_whole {
            add::<S, E, 4>(s, &mut sums[at..], fade, factors, &values[at..], d_whole, next);
            at += 64;
        }
        if at + 32 <= d_whole {
            add::<S, E, 2>(s, &mut sums[at..], fade, factors, &values[at..], d_whole, next);
            at += 32;
        }
        if at < d_whole {
            add::<S, E, 1>(s, &mut sums[at..], fade, factors, &values[at..], d_whole, next);
        }
        let mut fades = [0.0; 16];
        s.store(fade, &mut fades);
        total = total.map(|sum| sum * fades[0]);
        // Weights of positions behind the end are 0.
        for weights in weights.as_chunks::<STRANDS>().0.iter().take(len.div_ceil(STRANDS)) {
            for (sum, weight) in total.iter_mut().zip(weights) {
                *sum += weight;
            }
        }
    }
    let factor = s.splat(1.0 / sum_of(total));
    for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
        s.store_head(s.mul(s.load(sums), factor), out);
    }
}

/// The first `16 G` of `scores` = products of the query `(D)` with a tile of keys, `(D, KEYS)`.
#[inline(always)]
fn scores<S: Simd, E: Element, const G: usize>(s: S, scores: &mut [f32; KEYS], query: &[f32], keys: &[E], next: &[E]) {
    assert!(keys.len() == query.len() * KEYS && 16 * G <= KEYS);
    let mut sums = [s.wide(&[0.0; 16]); G];
    let (mut key, mut ahead) = (keys.as_ptr(), next.as_ptr());
    for &q in query {
        let q = s.splat(q);
        for g in 0..G {
            // SAFETY: each of the query's channels has `KEYS` elements, as asserted, and `key` is at this one's first.
            let k = E::load(s, unsafe { &*key.add(16 * g).cast() });
            for j in 0..16 / S::LANES {
                sums[g].as_mut()[j] = s.fma(q, k.as_ref()[j], sums[g].as_ref()[j]);
            }
        }
        prefetch(s, ahead);
        (key, ahead) = (key.wrapping_add(KEYS), ahead.wrapping_add(KEYS));
    }
    for g in 0..G {
        for j in 0..16 / S::LANES {
            s.store(sums[g].as_ref()[j], &mut scores[16 * g + S::LANES * j..]);
        }
    }
}

/// The first `16 G` of `sums` = `sums fade + sum of weights times values`, rows `step` apart.
#[inline(always)]
fn add<S: Simd, E: Element, const G: usize>(
    s: S,
    sums: &mut [f32],
    fade: S::V,
    weights: &[f32],
    values: &[E],
    step: usize,
    next: *const E,
) {
    let sums = &mut sums[..16 * G];
    assert!(!weights.is_empty() && (weights.len() - 1) * step + 16 * G <= values.len());
    let mut acc = [s.wide(&[0.0; 16]); G];
    for g in 0..G {
        for j in 0..16 / S::LANES {
            acc[g].as_mut()[j] = s.mul(s.load(&sums[16 * g + S::LANES * j..]), fade);
        }
    }
    let (mut value, mut ahead) = (values.as_ptr(), next);
    for &weight in weights {
        let weight = s.splat(weight);
        for g in 0..G {
            // SAFETY: each weight's row has `16 G` elements, as asserted, and `value` is at this one's first.
            let v = E::load(s, unsafe { &*value.add(16 * g).cast() });
            for j in 0..16 / S::LANES {
                acc[g].as_mut()[j] = s.fma(weight, v.as_ref()[j], acc[g].as_ref()[j]);
            }
        }
        prefetch(s, ahead);
        (value, ahead) = (value.wrapping_add(step), ahead.wrapping_add(step));
    }
    for g in 0..G {
        for j in 0..16 / S::LANES {
            s.store(acc[g].as_ref()[j], &mut sums[16 * g + S::LANES * j..]);
        }
    }
}

/// Asks for the 64 elements at `p`, which need not be there.
#[inline(always)]
fn prefetch<S: Simd, E>(s: S, p: *const E) {
    for line in 0..size_of::<[E; 64]>() / 64 {
        s.prefetch(p.cast::<f32>().wrapping_add(16 * line));
    }
}
