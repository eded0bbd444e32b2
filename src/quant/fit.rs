//! How a group of weights gets its scale: searches over a few roundings, for sixteen groups at once.
//!
//! A group's sums have a fixed order, one weight after another, which its bytes depend on; a vector therefore holds a
//! weight each of several groups. Nothing is fused or reordered.

use super::block::nearest;
use crate::simd::Simd;

/// Groups that are searched together: a multiple of every instruction set's lanes.
pub const GROUPS: usize = 16;

/// `N` weights of each of sixteen groups; `side[i][g]` is weight `i` of group `g`.
pub type Side<const N: usize> = [[f32; GROUPS]; N];

/// Lays the groups that `w` consists of side by side; groups beyond its end are 0.
#[inline(always)]
pub fn side_by_side<const N: usize>(w: &[f32]) -> Side<N> {
    let mut side = [[0.0; GROUPS]; N];
    for (g, group) in w.as_chunks::<N>().0.iter().take(GROUPS).enumerate() {
        for i in 0..N {
            side[i][g] = group[i];
        }
    }
    side
}

/// A group whose weights are all below this is taken for zero by the symmetric searches.
pub const NOTHING: f32 = 1e-15;

/// Which roundings an affine search tries: `level = round((top + from + step k) / range (w - low))`, `k = 0..=last`.
#[derive(Clone, Copy)]
pub struct Grid {
    /// The highest level; the lowest is 0.
    pub top: f32,
    /// Of the first rounding.
    pub from: f32,
    /// Between roundings.
    pub step: f32,
    /// Number of the last.
    pub last: usize,
    /// Whether errors count as they are, not squared.
    pub absolute: bool,
}

/// `w = scale level + min`, `min <= 0`, for each group.
pub struct Affine {
    /// A step of a level.
    pub scale: [f32; GROUPS],
    /// The weight at level 0.
    pub min: [f32; GROUPS],
    /// Levels were `round(inverse (w - low))`.
    inverse: [f32; GROUPS],
    low: [f32; GROUPS],
    top: i32,
}

impl Affine {
    /// The level that the search gave weight `x` of group `g`.
    #[inline(always)]
    pub fn level(&self, g: usize, x: f32) -> u8 {
        nearest(self.inverse[g] * (x - self.low[g])).clamp(0, self.top) as u8
    }
}

/// Adding it and taking it off again rounds: see [`nearest`].
const MAGIC: f32 = 12_582_912.0;

/// `round(inverse (x - low))` within `0..=top`.
#[inline(always)]
fn level_above<S: Simd>(s: S, x: S::V, inverse: S::V, low: S::V, top: S::V) -> S::V {
    let l = s.sub(s.add(s.mul(inverse, s.sub(x, low)), s.splat(MAGIC)), s.splat(MAGIC));
    s.min(s.max(l, s.splat(0.0)), top)
}

/// The weighted sum of errors of levels under a scale and a minimum.
#[inline(always)]
fn miss<S: Simd, const N: usize>(
    s: S,
    x: &Side<N>,
    w: &Side<N>,
    at: usize,
    levels: &[S::V; N],
    scale: S::V,
    min: S::V,
    absolute: bool,
) -> S::V {
    let zero = s.splat(0.0);
    let mut sum = zero;
    for i in 0..N {
        let e = s.sub(s.add(s.mul(scale, levels[i]), min), s.load(&x[i][at..]));
        let e = if absolute { s.max(e, s.sub(zero, e)) } else { s.mul(e, e) };
        sum = s.add(sum, s.mul(s.load(&w[i][at..]), e));
    }
    sum
}

/// The best affine fits with weights `w` on the errors. A trial rounds above the best minimum so far, not the least weight.
#[inline(always)]
pub fn affine<S: Simd, const N: usize>(s: S, x: &Side<N>, w: &Side<N>, grid: &Grid) -> Affine {
    let zeros = [0.0; GROUPS];
    let mut out = Affine { scale: zeros, min: zeros, inverse: zeros, low: zeros, top: grid.top as i32 };
    let (zero, endless, top) = (s.splat(0.0), s.splat(f32::INFINITY), s.splat(grid.top));
    for at in (0..GROUPS).step_by(S::LANES) {
        let first = s.load(&x[0][at..]);
        let (mut least, mut greatest, mut sum_w) = (first, first, s.load(&w[0][at..]));
        let mut sum_x = s.mul(sum_w, first);
        for i in 1..N {
            let (x, w) = (s.load(&x[i][at..]), s.load(&w[i][at..]));
            least = s.select_lt(x, least, x, least);
            greatest = s.select_lt(greatest, x, x, greatest);
            sum_w = s.add(sum_w, w);
            sum_x = s.add(sum_x, s.mul(w, x));
        }
        least = s.select_lt(zero, least, zero, least);
        let mut levels = [zero; N];
        let mut inverse = s.div(top, s.sub(greatest, least));
        let (mut scale, mut min, mut low) = (s.div(s.splat(1.0), inverse), least, least);
        for i in 0..N {
            levels[i] = level_above(s, s.load(&x[i][at..]), inverse, low, top);
        }
        let mut best = miss(s, x, w, at, &levels, scale, min, grid.absolute);
        for k in 0..=grid.last {
            let trial = s.div(s.splat(grid.from + grid.step * k as f32 + grid.top), s.sub(greatest, min));
            let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
            for i in 0..N {
                let x = s.load(&x[i][at..]);
                let l = level_above(s, x, trial, min, top);
                levels[i] = l;
                let wl = s.mul(s.load(&w[i][at..]), l);
                sum_l = s.add(sum_l, wl);
                sum_l2 = s.add(sum_l2, s.mul(wl, l));
                sum_xl = s.add(sum_xl, s.mul(wl, x));
            }
            // Least squares; a minimum above 0 cannot be stored, so it becomes 0.
            let det = s.sub(s.mul(sum_w, sum_l2), s.mul(sum_l, sum_l));
            let free_scale = s.div(s.sub(s.mul(sum_w, sum_xl), s.mul(sum_x, sum_l)), det);
            let free_min = s.div(s.sub(s.mul(sum_l2, sum_x), s.mul(sum_l, sum_xl)), det);
            let a = s.select_lt(zero, free_min, s.div(sum_xl, sum_l2), free_scale);
            let b = s.select_lt(zero, free_min, zero, free_min);
            let error = miss(s, x, w, at, &levels, a, b, grid.absolute);
            // Neither levels that are all alike nor a range too small to divide by make a trial.
            let error = s.select_lt(zero, det, error, endless);
            let error = s.select_lt(trial, endless, error, endless);
            inverse = s.select_lt(error, best, trial, inverse);
            low = s.select_lt(error, best, min, low);
            scale = s.select_lt(error, best, a, scale);
            min = s.select_lt(error, best, b, min);
            best = s.select_lt(error, best, error, best);
        }
        // All weights alike and not above 0: the minimum says it all.
        s.store(s.select_lt(least, greatest, scale, zero), &mut out.scale[at..]);
        s.store(s.select_lt(least, greatest, min, least), &mut out.min[at..]);
        s.store(s.select_lt(least, greatest, inverse, zero), &mut out.inverse[at..]);
        s.store(s.select_lt(least, greatest, low, least), &mut out.low[at..]);
    }
    out
}

/// `w = scale (level - half)`, for each group.
pub struct Symmetric {
    /// A step of a level.
    pub scale: [f32; GROUPS],
    /// Levels were `half + round(inverse w)`; 0 where the group is nothing.
    inverse: [f32; GROUPS],
    half: i32,
}

impl Symmetric {
    /// The level that the search gave weight `x` of group `g`, from 0; 0 in a group of nothing.
    #[inline(always)]
    pub fn level(&self, g: usize, x: f32) -> u8 {
        if self.inverse[g] == 0.0 {
            return 0;
        }
        (self.half + nearest(self.inverse[g] * x).clamp(-self.half, self.half - 1)) as u8
    }
}

/// Sums of `w x level` and `w level^2`, of levels `round(inverse x)` within `bottom..=top`.
#[inline(always)]
fn sums<S: Simd, const N: usize>(s: S, x: &Side<N>, w: &Side<N>, at: usize, inverse: S::V, bottom: S::V, top: S::V) -> (S::V, S::V) {
    let (mut xl, mut l2) = (s.splat(0.0), s.splat(0.0));
    for i in 0..N {
        let (x, w) = (s.load(&x[i][at..]), s.load(&w[i][at..]));
        let l = s.sub(s.add(s.mul(inverse, x), s.splat(MAGIC)), s.splat(MAGIC));
        let l = s.max(s.min(l, top), bottom);
        xl = s.add(xl, s.mul(s.mul(w, x), l));
        l2 = s.add(l2, s.mul(s.mul(w, l), l));
    }
    (xl, l2)
}

/// The best symmetric fits to levels `-half..half` with weights `w` on the errors, over roundings up to `0.1 reach`
/// levels narrower and wider than that which puts the farthest weight at `-half`.
#[inline(always)]
pub fn symmetric<S: Simd, const N: usize>(s: S, x: &Side<N>, w: &Side<N>, half: f32, reach: i32) -> Symmetric {
    let mut out = Symmetric { scale: [0.0; GROUPS], inverse: [0.0; GROUPS], half: half as i32 };
    let (zero, bottom, top) = (s.splat(0.0), s.splat(-half), s.splat(half - 1.0));
    for at in (0..GROUPS).step_by(S::LANES) {
        let (mut most, mut farthest) = (zero, zero);
        for x in x {
            let x = s.load(&x[at..]);
            let size = s.max(x, s.sub(zero, x));
            farthest = s.select_lt(most, size, x, farthest);
            most = s.select_lt(most, size, size, most);
        }
        let mut inverse = s.div(bottom, farthest);
        let (xl, l2) = sums(s, x, w, at, inverse, bottom, top);
        let mut scale = s.select_lt(zero, l2, s.div(xl, l2), zero);
        let mut best = s.mul(scale, xl);
        for k in -reach..=reach {
            if k == 0 {
                continue;
            }
            let trial = s.div(s.splat(-(half + 0.1 * k as f32)), farthest);
            let (xl, l2) = sums(s, x, w, at, trial, bottom, top);
            // What the errors shrink by is xl^2 / l2; without levels nothing shrinks.
            let (now, before) = (s.select_lt(zero, l2, s.mul(xl, xl), zero), s.select_lt(zero, l2, s.mul(best, l2), zero));
            let a = s.div(xl, l2);
            scale = s.select_lt(before, now, a, scale);
            inverse = s.select_lt(before, now, trial, inverse);
            best = s.select_lt(before, now, s.mul(a, xl), best);
        }
        let nothing = s.splat(NOTHING);
        s.store(s.select_lt(most, nothing, zero, scale), &mut out.scale[at..]);
        s.store(s.select_lt(most, nothing, zero, inverse), &mut out.inverse[at..]);
    }
    out
}

/// A symmetric fit whose levels are then changed one by one as long as that helps, five rounds at most; `x^2` weighs.
/// The scale, and levels from 0 up.
#[inline(always)]
pub fn stepwise<const N: usize>(x: &[f32; N], half: i32) -> (f32, [u8; N]) {
    let farthest = super::block::farthest(x);
    if farthest.abs() < NOTHING {
        return (0.0, [0; N]);
    }
    let inverse = -(half as f32) / farthest;
    let mut levels = [0i32; N];
    let (mut xl, mut l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        levels[i] = nearest(inverse * x[i]).clamp(-half, half - 1);
        let (w, l) = (x[i] * x[i], levels[i] as f32);
        xl += w * x[i] * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (w, l) = (x[i] * x[i], levels[i] as f32);
            let mut others_xl = xl - w * x[i] * l;
            if others_xl > 0.0 {
                let mut others_l2 = l2 - w * l * l;
                let level = nearest(x[i] * others_l2 / others_xl).clamp(-half, half - 1);
                if level != levels[i] {
                    let l = level as f32;
                    others_xl += w * x[i] * l;
                    others_l2 += w * l * l;
                    if others_l2 > 0.0 && others_xl * others_xl * l2 > xl * xl * others_l2 {
                        levels[i] = level;
                        (xl, l2) = (others_xl, others_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if l2 > 0.0 { xl / l2 } else { 0.0 };
    (scale, levels.map(|l| (l + half) as u8))
}
