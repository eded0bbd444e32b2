//! What Q2_K, Q4_K and Q5_K share: 256 weights in groups, each with an integer scale and an integer minimum,
//! `w = (d scale) level - (dmin minimum)`.
//!
//! The reference: each group is fitted alone; `d` and `dmin` put the largest scale and minimum at the greatest integers;
//! weights are then rounded anew under the scales as stored. With importance that is a start: the pair `(d, dmin)` is
//! solved for again under the levels found, and what errs least is kept.

use super::block::{Block, half, loss, nearest, to_half, usable};
use super::fit::{self, Affine, GROUPS, Grid, Side, side_by_side};
use crate::simd::Simd;

/// Weights of a block.
pub const LEN: usize = 256;

/// What distinguishes the formats, beside the layout of their bytes.
pub struct Kind {
    /// The reference's search; its `top` is the highest level.
    pub grid: Grid,
    /// The greatest scale and minimum.
    pub greatest: u8,
    /// Whether the root mean square of a group is added to what weighs its errors, `|w|`.
    pub spread: bool,
}

/// A block before its bits are packed: `G` groups.
#[derive(Clone, Copy)]
pub struct Loose<const G: usize> {
    /// Scale of the scales, `F16`.
    pub d: [u8; 2],
    /// Scale of the minima, `F16`.
    pub dmin: [u8; 2],
    /// Scales.
    pub scales: [u8; G],
    /// Minima.
    pub mins: [u8; G],
    /// Levels.
    pub levels: [u8; LEN],
}

impl<const G: usize> Loose<G> {
    /// The weights, as any of the formats decodes them.
    #[inline(always)]
    pub fn decode(&self) -> [f32; LEN] {
        let (d, dmin) = (half(self.d), half(self.dmin));
        let mut w = [0.0; LEN];
        for g in 0..G {
            let (scale, min) = (d * f32::from(self.scales[g]), dmin * f32::from(self.mins[g]));
            for i in g * (LEN / G)..(g + 1) * (LEN / G) {
                w[i] = scale * f32::from(self.levels[i]) - min;
            }
        }
        w
    }

    /// Rounds the weights under the scales; a group whose scale is 0 keeps its levels.
    #[inline(always)]
    fn round(&mut self, w: &[f32; LEN], top: i32) {
        let (d, dmin) = (half(self.d), half(self.dmin));
        for g in 0..G {
            let (scale, min) = (d * f32::from(self.scales[g]), dmin * f32::from(self.mins[g]));
            if scale != 0.0 {
                for i in g * (LEN / G)..(g + 1) * (LEN / G) {
                    self.levels[i] = nearest((w[i] + min) / scale).clamp(0, top) as u8;
                }
            }
        }
    }
}

/// [`Block::encode`] for a format of `G` groups of `N` weights.
#[inline(always)]
pub fn encode<S: Simd, B: Block<LEN>, const G: usize, const N: usize>(
    s: S,
    kind: &Kind,
    blocks: &mut [B],
    w: &[[f32; LEN]],
    importance: Option<&[[f32; LEN]]>,
    pack: impl Fn(&Loose<G>) -> B,
) {
    const { assert!(G * N == LEN && (G == GROUPS || 2 * G == GROUPS)) };
    let together = GROUPS / G;
    for (at, blocks) in (0..).step_by(together).zip(blocks.chunks_mut(together)) {
        let w = &w[at..][..blocks.len()];
        let side = side_by_side::<N>(w.as_flattened());
        let reference = fit::affine(s, &side, &weigh(s, &side, kind.spread), &kind.grid);
        // No closures around searches: they would not be compiled in the instruction set's own instructions.
        let mut weights = [[1.0; LEN]; 2];
        let mut important = None;
        if let Some(all) = importance {
            for (to, from) in weights.iter_mut().zip(&all[at..][..blocks.len()]) {
                *to = usable(from);
            }
            let grid = Grid { from: -0.9, step: 0.05, last: 36, absolute: false, ..kind.grid };
            important = Some(fit::affine(s, &side, &side_by_side::<N>(weights.as_flattened()), &grid));
        }
        for (b, (block, w)) in blocks.iter_mut().zip(w).enumerate() {
            let mut best = assemble::<G, N>(kind, w, &reference, b * G);
            if let Some(fit) = &important {
                let fitted = assemble::<G, N>(kind, w, fit, b * G);
                if loss(w, &fitted.decode(), &weights[b]) < loss(w, &best.decode(), &weights[b]) {
                    best = fitted;
                }
                best = improve(kind, w, &weights[b], best);
            }
            *block = pack(&best);
        }
    }
}

/// What errors count for in the reference: `|w|`, or that and the group's root mean square.
#[inline(always)]
fn weigh<S: Simd, const N: usize>(s: S, x: &Side<N>, spread: bool) -> Side<N> {
    let mut out = [[0.0; GROUPS]; N];
    for at in (0..GROUPS).step_by(S::LANES) {
        let mut sum = s.splat(0.0);
        for x in x {
            let x = s.load(&x[at..]);
            sum = s.add(sum, s.mul(x, x));
        }
        let rms = s.sqrt(s.div(sum, s.splat(N as f32)));
        for (out, x) in out.iter_mut().zip(x) {
            let x = s.load(&x[at..]);
            let size = s.max(x, s.sub(s.splat(0.0), x));
            s.store(if spread { s.add(rms, size) } else { size }, &mut out[at..]);
        }
    }
    out
}

/// A block out of the fits of its groups, of which the first is `first`.
#[inline(always)]
fn assemble<const G: usize, const N: usize>(kind: &Kind, w: &[f32; LEN], fit: &Affine, first: usize) -> Loose<G> {
    let greatest = f32::from(kind.greatest);
    let (mut scale, mut min) = (0.0f32, 0.0f32);
    for g in first..first + G {
        scale = if fit.scale[g] > scale { fit.scale[g] } else { scale };
        min = if -fit.min[g] > min { -fit.min[g] } else { min };
    }
    let steps = |most: f32, x: f32| if most > 0.0 { nearest(greatest / most * x).min(kind.greatest.into()) as u8 } else { 0 };
    let mut block = Loose {
        d: to_half(scale / greatest).0,
        dmin: to_half(min / greatest).0,
        scales: std::array::from_fn(|g| steps(scale, fit.scale[first + g])),
        mins: std::array::from_fn(|g| steps(min, -fit.min[first + g])),
        levels: std::array::from_fn(|i| fit.level(first + i / N, w[i])),
    };
    block.round(w, kind.grid.top as i32);
    block
}

/// Solves for `d` and `dmin` under the block's integers, rounds again, as long as the loss shrinks.
#[inline(always)]
fn improve<const G: usize>(kind: &Kind, w: &[f32; LEN], importance: &[f32; LEN], mut best: Loose<G>) -> Loose<G> {
    let mut least = loss(w, &best.decode(), importance);
    for _ in 0..4 {
        // Normal equations of w = d a - dmin b, with a = scale level, b = minimum.
        let (mut aa, mut ab, mut bb, mut aw, mut bw) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for i in 0..LEN {
            let g = i / (LEN / G);
            let (a, b) = (f64::from(best.scales[g]) * f64::from(best.levels[i]), -f64::from(best.mins[g]));
            let (v, x) = (f64::from(importance[i]), f64::from(w[i]));
            aa += v * a * a;
            ab += v * a * b;
            bb += v * b * b;
            aw += v * a * x;
            bw += v * b * x;
        }
        let det = aa * bb - ab * ab;
        let (d, dmin) = if det > 1e-9 * aa * bb {
            ((aw * bb - bw * ab) / det, (bw * aa - aw * ab) / det)
        } else if aa > 0.0 {
            (aw / aa, 0.0)
        } else {
            break;
        };
        let mut next = Loose { d: to_half(d as f32).0, dmin: to_half(dmin.max(0.0) as f32).0, ..best };
        regroup(kind, w, importance, &mut next);
        next.round(w, kind.grid.top as i32);
        let error = loss(w, &next.decode(), importance);
        if error >= least {
            break;
        }
        (best, least) = (next, error);
    }
    best
}

/// Chooses each group's scale and minimum anew, one up or down, under `d` and `dmin`.
#[inline(always)]
fn regroup<const G: usize>(kind: &Kind, w: &[f32; LEN], importance: &[f32; LEN], block: &mut Loose<G>) {
    let (d, dmin, top) = (half(block.d), half(block.dmin), kind.grid.top as i32);
    for g in 0..G {
        let range = g * (LEN / G)..(g + 1) * (LEN / G);
        let error = |scale: u8, min: u8| {
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let mut sums = [0.0f32; 8];
            for (x, v) in w[range.clone()].as_chunks::<8>().0.iter().zip(importance[range.clone()].as_chunks::<8>().0) {
                for i in 0..8 {
                    let level = nearest((x[i] + min) * inverse).clamp(0, top);
                    let e = x[i] - (scale * level as f32 - min);
                    sums[i] += v[i] * (e * e);
                }
            }
            sums.iter().sum::<f32>()
        };
        let (scale, min) = (block.scales[g], block.mins[g]);
        let mut least = error(scale, min);
        for a in scale.saturating_sub(1)..=(scale + 1).min(kind.greatest) {
            for b in min.saturating_sub(1)..=(min + 1).min(kind.greatest) {
                let e = error(a, b);
                if e < least {
                    (least, block.scales[g], block.mins[g]) = (e, a, b);
                }
            }
        }
    }
}
