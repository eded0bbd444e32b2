use super::*;
use crate::rng::Rng;

const TYPES: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Q8];

fn normals(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// Queries, keys and values as a session has them: `(T, 3 H D)`.
struct Case {
    isa: Isa,
    ty: CacheType,
    h: usize,
    t: usize,
    d: usize,
    qkv: Vec<f32>,
}

impl Case {
    fn new(isa: Isa, ty: CacheType, h: usize, t: usize, d: usize) -> Self {
        let mut rng = Rng::new((t * 1000 + d) as u64);
        let mut qkv = normals(&mut rng, t * 3 * h * d);
        // Sharper than a fresh model, so that a few positions matter.
        qkv.iter_mut().for_each(|x| *x *= 1.5);
        Self { isa, ty, h, t, d, qkv }
    }

    /// `(T, H D)`, read in chunks of these lengths.
    fn run(&self, chunks: impl IntoIterator<Item = usize>) -> Vec<f32> {
        let Self { isa, ty, h, t, d, ref qkv } = *self;
        let c = h * d;
        let mut cache = KvCache::new(ty, 2, h, t, d);
        let mut out = vec![f32::NAN; t * c];
        let mut start = 0;
        for n in chunks {
            let rows = &qkv[start * 3 * c..];
            // The other layer's memory is not touched: it is poisoned.
            for (i, mut head) in cache.each_head(0).enumerate() {
                head.append(isa, start, n, &rows[i * d..], &rows[i * d..], 3 * c);
            }
            let outs = Shared::new(&mut out[start * c..]);
            let layers = cache.shared();
            let mut scratch = vec![f32::NAN; scratch_len(n, d)];
            for i in 0..h {
                // SAFETY: one after the other.
                let (mut head, mut out) = unsafe { (layers.head(1, i), outs.columns(i * d, d, c)) };
                head.append(isa, start, n, &rows[c + i * d..], &rows[2 * c + i * d..], 3 * c);
                head.attend(isa, &mut out, &rows[i * d..], 3 * c, start, n, &mut scratch);
            }
            start += n;
        }
        assert_eq!(start, t);
        out
    }

    /// As a cache of this type keeps it.
    fn kept(&self, x: &[f32]) -> Vec<f64> {
        let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let step = f64::from(most) / 127.0;
        x.iter()
            .map(|&x| match self.ty {
                CacheType::F32 => f64::from(x),
                CacheType::F16 => f16::from_f32(x).to_f64(),
                CacheType::Q8 => (f64::from(x) / step).round() * step,
            })
            .collect()
    }

    fn truth(&self) -> Vec<f64> {
        let Self { h, t, d, .. } = *self;
        let c = h * d;
        let part = |p: usize, r: usize, i: usize| &self.qkv[(r * 3 + p) * c + i * d..][..d];
        let mut out = vec![0.0; t * c];
        for i in 0..h {
            let keys: Vec<_> = (0..t).map(|r| self.kept(part(1, r, i))).collect();
            let values: Vec<_> = (0..t).map(|r| self.kept(part(2, r, i))).collect();
            for r in 0..t {
                let dot = |k: &[f64]| part(0, r, i).iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum::<f64>() / (d as f64).sqrt();
                let scores: Vec<f64> = keys[..=r].iter().map(|k| dot(k)).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (c, out) in out[r * c + i * d..][..d].iter_mut().enumerate() {
                    *out = weights.iter().zip(&values).map(|(w, v)| w * v[c]).sum::<f64>() / total;
                }
            }
        }
        out
    }
}

/// Lengths of chunks that add up to `t`.
fn ragged(t: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let (mut all, mut left) = (vec![], t);
    while left > 0 {
        let most = [1, 3, 17, 64, 100][rng.below(5) as usize];
        let n = (1 + rng.below(most) as usize).min(left);
        all.push(n);
        left -= n;
    }
    all
}

#[test]
fn a_row_sees_what_was_kept_and_has_one_set_of_bits() {
    for ty in TYPES {
        for (t, d) in [(1, 64), (17, 8), (64, 16), (65, 64), (130, 80), (97, 12), (150, 128), (300, 64)] {
            let truth = Case::new(Isa::detect(), ty, 2, t, d).truth();
            for isa in Isa::available() {
                let case = Case::new(isa, ty, 2, t, d);
                let alone = case.run(vec![1; t]);
                for (got, want) in alone.iter().zip(&truth) {
                    // Scores of size 3 err by some 2^-24 sqrt(d) of that, and weights by as much; values are of size 1.5. An 8-bit number may be
                    // rounded to the other side where it lies midway: 1.5 x 3 / 127 of one position's value, or of its share in a score.
                    let room = if ty == CacheType::Q8 { 1e-3 } else { 1e-5 };
                    assert!((f64::from(*got) - want).abs() < room, "{} {ty:?} T {t} D {d}: {got} {want}", isa.name());
                }
                for chunks in [vec![t], ragged(t, 1), ragged(t, 2), ragged(t, 3)] {
                    assert_eq!(case.run(chunks.clone()), alone, "{} {ty:?} T {t} D {d}: chunks {chunks:?}", isa.name());
                }
            }
        }
    }
}

#[test]
fn what_was_cut_off_is_not_seen() {
    for ty in TYPES {
        let case = Case::new(Isa::detect(), ty, 1, 100, 64);
        let run = |first: usize| {
            let mut cache = KvCache::new(ty, 1, 1, 100, 64);
            let mut out = vec![0.0; 100 * 64];
            let mut head = cache.each_head(0).next().unwrap();
            let mut scratch = vec![0.0; scratch_len(90, 64)];
            // Rows that are forgotten are of another size, so that they would show.
            let other: Vec<f32> = case.qkv.iter().map(|x| x * 50.0).collect();
            head.append(case.isa, 0, first, &other[64..], &other[128..], 192);
            for (start, n) in [(0, 10), (10, 1), (11, 30)] {
                let rows = &case.qkv[start * 192..];
                head.append(case.isa, start, n, &rows[64..], &rows[128..], 192);
                head.attend(case.isa, &mut Columns::new(&mut out[start * 64..], 64, 64), rows, 192, start, n, &mut scratch);
            }
            out
        };
        assert_eq!(run(0), run(90), "{ty:?}");
    }
}

#[test]
fn extremes_stay_finite() {
    for isa in Isa::available() {
        for ty in TYPES {
            for n in [1, 40] {
                let (d, t) = (16, 40);
                let mut cache = KvCache::new(ty, 1, 1, t, d);
                let mut head = cache.each_head(0).next().unwrap();
                let row = |x: f32| vec![x; t * d];
                let (q, mut k, v) = (row(30.0), row(1e5), row(1e-35));
                k[..d].fill(0.0);
                head.append(isa, 0, t, &k, &v, d);
                let mut out = vec![f32::NAN; n * d];
                head.attend(isa, &mut Columns::new(&mut out, d, d), &q, d, t - n, n, &mut vec![0.0; scratch_len(n, d)]);
                assert!(out.iter().all(|x| x.is_finite()), "{} {ty:?}", isa.name());
            }
        }
    }
}

#[test]
fn halves_widen_and_narrow_exactly() {
    struct Both<'a>(&'a [f16], &'a mut Vec<u32>, &'a mut Vec<u16>);
    impl Op for Both<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.as_chunks().0 {
                let wide = s.wide_f16(x);
                self.1.extend(numbers(s, wide).map(f32::to_bits));
                self.2.extend(s.narrow_f16(wide).map(f16::to_bits));
            }
        }
    }
    struct Narrow<'a>(&'a [f32], &'a mut Vec<u16>);
    impl Op for Narrow<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.as_chunks().0 {
                self.1.extend(s.narrow_f16(s.wide(x)).map(f16::to_bits));
            }
        }
    }
    // All halves but NaNs, whose payloads may change.
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).map(|x| if x.is_nan() { f16::ONE } else { x }).collect();
    let mut rng = Rng::new(5);
    let some: Vec<f32> = (0..1 << 16).map(|i| rng.normal() as f32 * f32::from(i as i8).exp2()).filter(|x| x.abs() < 1e9).collect();
    let some = &some[..some.len() / 16 * 16];
    for isa in Isa::available() {
        let (mut wide, mut back, mut narrow) = (vec![], vec![], vec![]);
        isa.run(Both(&all, &mut wide, &mut back));
        isa.run(Narrow(some, &mut narrow));
        assert!(all.iter().zip(&wide).all(|(x, w)| x.to_f32_const().to_bits() == *w), "{}", isa.name());
        assert!(all.iter().zip(&back).all(|(x, b)| x.to_bits() == *b), "{}", isa.name());
        assert!(some.iter().zip(&narrow).all(|(x, n)| f16::from_f32_const(*x).to_bits() == *n), "{}", isa.name());
    }
}

#[test]
fn sizes_are_what_the_board_has_room_for() {
    let bytes = |ty| KvCache::new(ty, 12, 12, 1024, 64).bytes();
    assert_eq!(bytes(CacheType::F16), 4 * 12 * 768 * 1024);
    assert_eq!(bytes(CacheType::F32), 8 * 12 * 768 * 1024);
    assert_eq!(bytes(CacheType::Q8), (2 * 12 * 768 + 12 * 12 * 8) * 1024);
}
