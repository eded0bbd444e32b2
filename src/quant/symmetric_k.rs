//! What Q3_K and Q6_K share: 256 weights in 16 groups of 16, each with a signed integer scale, `w = (d scale) (level - half)`.
//!
//! The reference: each group is fitted alone; `d` puts the farthest scale at the lowest integer; weights are then rounded anew
//! under the scales as stored. With importance that is a start: `d` is solved for again under the levels found, each
//! group's scale tries its neighbours, and what errs least is kept.

use super::block::{Block, farthest, half, loss, nearest, to_half, usable};
use super::fit::{self, GROUPS, side_by_side};
use crate::simd::Simd;

/// Weights of a block.
pub const LEN: usize = 256;
/// Weights of a group.
pub const GROUP: usize = 16;

/// What distinguishes the formats, beside the layout of their bytes.
pub struct Kind {
    /// Levels are `-half..half`.
    pub half: i32,
    /// Scales are `-greatest..greatest`.
    pub greatest: i32,
    /// Whether groups change their levels one by one, rather than try several roundings.
    pub stepwise: bool,
    /// Farthest scale that still counts as none: the block is then all zero bytes, levels and all.
    pub nothing: f32,
}

/// A block before its bits are packed.
#[derive(Clone, Copy)]
pub struct Loose {
    /// Scale of the scales, `F16`.
    pub d: [u8; 2],
    /// Scales.
    pub scales: [i8; GROUPS],
    /// Levels, from 0 up.
    pub levels: [u8; LEN],
}

impl Loose {
    /// The weights, as both formats decode them.
    #[inline(always)]
    fn decode(&self, kind: &Kind) -> [f32; LEN] {
        let d = half(self.d);
        std::array::from_fn(|i| d * f32::from(self.scales[i / GROUP]) * (i32::from(self.levels[i]) - kind.half) as f32)
    }

    /// Rounds the weights under the scales; a group whose scale is 0 keeps its levels.
    #[inline(always)]
    fn round(&mut self, w: &[f32; LEN], kind: &Kind) {
        let d = half(self.d);
        for g in 0..GROUPS {
            let scale = d * f32::from(self.scales[g]);
            if scale != 0.0 {
                for i in g * GROUP..(g + 1) * GROUP {
                    self.levels[i] = (nearest(w[i] / scale).clamp(-kind.half, kind.half - 1) + kind.half) as u8;
                }
            }
        }
    }
}

/// [`Block::encode`]; `pack` makes the bytes, of `None` those of a block of nothing.
#[inline(always)]
pub fn encode<S: Simd, B: Block<LEN>>(
    s: S,
    kind: &Kind,
    blocks: &mut [B],
    w: &[[f32; LEN]],
    importance: Option<&[[f32; LEN]]>,
    pack: impl Fn(Option<&Loose>) -> B,
) {
    for (b, (block, w)) in blocks.iter_mut().zip(w).enumerate() {
        let side = side_by_side::<GROUP>(w);
        let reference = if kind.stepwise {
            let mut scales = [0.0; GROUPS];
            let mut levels = [0; LEN];
            for (g, group) in w.as_chunks::<GROUP>().0.iter().enumerate() {
                let (scale, l) = fit::stepwise(group, kind.half);
                scales[g] = scale;
                levels[g * GROUP..][..GROUP].copy_from_slice(&l);
            }
            assemble(kind, w, &scales, levels)
        } else {
            let squares = side.map(|row| row.map(|x| x * x));
            let fit = fit::symmetric(s, &side, &squares, kind.half as f32, 9);
            assemble(kind, w, &fit.scale, std::array::from_fn(|i| fit.level(i / GROUP, w[i])))
        };
        *block = match (reference, importance) {
            (Some(reference), Some(importance)) => {
                let importance = usable(&importance[b]);
                let mut best = reference;
                let fit = fit::symmetric(s, &side, &side_by_side::<GROUP>(&importance), kind.half as f32, 9);
                if let Some(fitted) = assemble(kind, w, &fit.scale, std::array::from_fn(|i| fit.level(i / GROUP, w[i])))
                    && loss(w, &fitted.decode(kind), &importance) < loss(w, &best.decode(kind), &importance)
                {
                    best = fitted;
                }
                pack(Some(&improve(kind, w, &importance, best)))
            }
            (reference, _) => pack(reference.as_ref()),
        };
    }
}

/// A block out of the scales and levels of its groups; none where there is nothing.
#[inline(always)]
fn assemble(kind: &Kind, w: &[f32; LEN], scales: &[f32; GROUPS], levels: [u8; LEN]) -> Option<Loose> {
    let greatest = farthest(scales);
    if greatest.abs() < kind.nothing || greatest == 0.0 {
        return (greatest == 0.0 && kind.nothing == 0.0).then_some(Loose { d: [0; 2], scales: [0; GROUPS], levels });
    }
    let inverse = -(kind.greatest as f32) / greatest;
    let mut block = Loose {
        d: to_half(1.0 / inverse).0,
        scales: scales.map(|scale| nearest(inverse * scale).clamp(-kind.greatest, kind.greatest - 1) as i8),
        levels,
    };
    block.round(w, kind);
    Some(block)
}

/// Solves for `d` under the block's integers, tries neighbouring scales, rounds again, as long as the loss shrinks.
#[inline(always)]
fn improve(kind: &Kind, w: &[f32; LEN], importance: &[f32; LEN], mut best: Loose) -> Loose {
    let mut least = loss(w, &best.decode(kind), importance);
    for _ in 0..4 {
        let (mut aa, mut aw) = (0.0f64, 0.0f64);
        for i in 0..LEN {
            let a = f64::from(best.scales[i / GROUP]) * f64::from(i32::from(best.levels[i]) - kind.half);
            aa += f64::from(importance[i]) * a * a;
            aw += f64::from(importance[i]) * a * f64::from(w[i]);
        }
        if aa == 0.0 {
            break;
        }
        let mut next = Loose { d: to_half((aw / aa) as f32).0, ..best };
        regroup(kind, w, importance, &mut next);
        next.round(w, kind);
        let error = loss(w, &next.decode(kind), importance);
        if error >= least {
            break;
        }
        (best, least) = (next, error);
    }
    best
}

/// Chooses each group's scale anew, one up or down, under `d`.
#[inline(always)]
fn regroup(kind: &Kind, w: &[f32; LEN], importance: &[f32; LEN], block: &mut Loose) {
    let d = half(block.d);
    for g in 0..GROUPS {
        let range = g * GROUP..(g + 1) * GROUP;
        let error = |scale: i32| {
            let scale = d * scale as f32;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let mut sums = [0.0f32; 8];
            for (x, v) in w[range.clone()].as_chunks::<8>().0.iter().zip(importance[range.clone()].as_chunks::<8>().0) {
                for i in 0..8 {
                    let e = x[i] - scale * nearest(x[i] * inverse).clamp(-kind.half, kind.half - 1) as f32;
                    sums[i] += v[i] * (e * e);
                }
            }
            sums.iter().sum::<f32>()
        };
        let scale = i32::from(block.scales[g]);
        let mut least = error(scale);
        for near in (scale - 1).max(-kind.greatest)..=(scale + 1).min(kind.greatest - 1) {
            let e = error(near);
            if e < least {
                (least, block.scales[g]) = (e, near as i8);
            }
        }
    }
}
