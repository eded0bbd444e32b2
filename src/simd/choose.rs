//! The highest of many numbers, by way of the highest of each block.

use super::{Op, Simd};

/// Numbers of a block.
pub const BLOCK: usize = 64;

/// `-inf` for what is no number.
#[inline(always)]
fn number<S: Simd>(s: S, x: S::V) -> S::V {
    let lowest = s.splat(f32::NEG_INFINITY);
    s.select_lt(lowest, x, x, lowest)
}

/// A copy in which what is no number is `-inf`, and the highest of each [`BLOCK`].
pub struct Copied<'a> {
    /// `(N)`
    pub to: &'a mut [f32],
    /// `(N / 64)`, rounded up.
    pub highest: &'a mut [f32],
    /// `(N)`
    pub from: &'a [f32],
}

impl Op for Copied<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((to, from), highest) in self.to.chunks_mut(BLOCK).zip(self.from.chunks(BLOCK)).zip(self.highest) {
            let mut most = s.splat(f32::NEG_INFINITY);
            if let (Some(to), Some(from)) = (to.as_chunks_mut::<BLOCK>().0.first_mut(), from.as_chunks::<BLOCK>().0.first()) {
                for i in (0..BLOCK).step_by(S::LANES) {
                    let x = number(s, s.load(&from[i..]));
                    s.store(x, &mut to[i..]);
                    most = s.max(most, x);
                }
                *highest = s.greatest(most);
            } else {
                *highest = f32::NEG_INFINITY;
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = if from.is_nan() { f32::NEG_INFINITY } else { from };
                    *highest = highest.max(*to);
                }
            }
        }
    }
}

/// The highest number, `-inf` if there is none; what is no number is passed over.
pub struct Highest<'a>(pub &'a [f32]);

impl Op for Highest<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut most = [s.splat(f32::NEG_INFINITY); 4];
        let mut chunks = self.0.chunks_exact(4 * S::LANES);
        for chunk in &mut chunks {
            for k in 0..4 {
                most[k] = s.max(most[k], number(s, s.load(&chunk[k * S::LANES..])));
            }
        }
        let most = s.greatest(s.max(s.max(most[0], most[1]), s.max(most[2], most[3])));
        chunks.remainder().iter().fold(most, |m, &x| m.max(x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;

    #[test]
    fn the_highest_is_found_wherever_it_stands() {
        for isa in Isa::available() {
            for n in [0, 1, 5, 63, 64, 65, 200] {
                for at in 0..n {
                    let mut x: Vec<f32> = (0..n).map(|i| if i % 7 == 3 { f32::NAN } else { -1.0 - i as f32 }).collect();
                    x[at] = if at % 5 == 4 { f32::INFINITY } else { 2.0 };
                    assert_eq!(isa.run(Highest(&x)), x[at], "{} {n}", isa.name());
                    let (mut to, mut highest) = (vec![0.0; n], vec![0.0; n.div_ceil(BLOCK)]);
                    isa.run(Copied { to: &mut to, highest: &mut highest, from: &x });
                    let want: Vec<f32> = x.iter().map(|x| if x.is_nan() { f32::NEG_INFINITY } else { *x }).collect();
                    assert_eq!(to, want, "{} {n}", isa.name());
                    let most = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(highest, want.chunks(BLOCK).map(most).collect::<Vec<_>>(), "{} {n}", isa.name());
                }
                assert_eq!(isa.run(Highest(&vec![f32::NAN; n])), f32::NEG_INFINITY, "{} {n}", isa.name());
            }
        }
    }
}
