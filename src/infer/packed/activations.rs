//! Inputs of a product, quantized once for all the rows they meet.

use super::Kind;
use crate::simd::panel::Inputs;
use crate::simd::parallel::Shared;
use crate::simd::{Isa, Op, Simd};

/// Rows of activations, in what a matrix of some [`Kind`] takes. The room is taken once and used again.
pub struct Activations {
    /// The rows themselves, where the matrix is of floats.
    floats: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i16>,
}

/// Rows that are ready for a product.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// What matrices take them.
    pub kind: Kind,
    /// The rows as they are; of this kind alone.
    pub floats: &'a [f32],
    /// How many rows and columns; quantized, but for that kind.
    pub quants: Inputs<'a>,
}

impl Activations {
    /// Room for `n` rows of up to `cols` columns of any kind.
    #[must_use]
    pub fn new(n: usize, cols: usize) -> Self {
        Self {
            floats: vec![0.0; n * cols],
            quants: vec![0; n * cols],
            scales: vec![0.0; n * cols.div_ceil(32)],
            sums: vec![0; n * cols.div_ceil(16)],
        }
    }

    /// Bytes of such room.
    #[must_use]
    pub const fn bytes(n: usize, cols: usize) -> usize {
        n * (cols * (size_of::<f32>() + 1) + cols.div_ceil(32) * size_of::<f32>() + cols.div_ceil(16) * size_of::<i16>())
    }

    /// Its parts, to be filled and read by several threads.
    pub(in crate::infer) fn parts(&mut self) -> Parts<'_> {
        Parts {
            floats: Shared::new(&mut self.floats),
            quants: Shared::new(&mut self.quants),
            scales: Shared::new(&mut self.scales),
            sums: Shared::new(&mut self.sums),
        }
    }

    /// Takes one row for matrices of this kind.
    pub fn set(&mut self, kind: Kind, isa: Isa, x: &[f32]) {
        let (block, sub) = kind.blocks(x.len());
        let (floats, quants) = (&mut self.floats[..x.len()], &mut self.quants[..x.len()]);
        Row { kind, floats, quants, scales: &mut self.scales[..x.len() / block], sums: &mut self.sums[..x.len() / sub] }.set(isa, x);
    }

    /// The row that was set, of `cols` columns.
    #[must_use]
    pub fn input(&self, kind: Kind, cols: usize) -> Input<'_> {
        let quants = Inputs { n: 1, cols, quants: &self.quants, scales: &self.scales, sums: &self.sums };
        Input { kind, floats: &self.floats[..cols], quants }
    }
}

/// See [`Activations::parts`].
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub floats: Shared<'a>,
    pub quants: Shared<'a, i8>,
    pub scales: Shared<'a>,
    pub sums: Shared<'a, i16>,
}

/// One row.
pub struct Row<'a> {
    /// What matrices it is for.
    pub kind: Kind,
    /// `(cols)`
    pub floats: &'a mut [f32],
    /// `(cols)`
    pub quants: &'a mut [i8],
    /// `(cols / block)`
    pub scales: &'a mut [f32],
    /// `(cols / sub)`
    pub sums: &'a mut [i16],
}

impl Row<'_> {
    /// Takes a row of activations.
    ///
    /// # Panics
    /// If `x` is not as long as the row.
    pub fn set(self, isa: Isa, x: &[f32]) {
        match self.kind {
            Kind::Floats => self.floats.copy_from_slice(x),
            Kind::Small => isa.run(Quantize::<32, 32> { row: self, x }),
            Kind::Wide => isa.run(Quantize::<256, 32> { row: self, x }),
            Kind::Fine => isa.run(Quantize::<256, 16> { row: self, x }),
        }
    }
}

/// `x = scale quant`, a scale for every `BLOCK` columns, quants up to 127; sums of every `SUB` quants.
struct Quantize<'a, const BLOCK: usize, const SUB: usize> {
    row: Row<'a>,
    x: &'a [f32],
}

/// 1.5 x 2^23: what is added to it stands in the low bits of the sum, rounded to the nearest integer, ties to even.
const ROUNDING: f32 = 12_582_912.0;

impl<const BLOCK: usize, const SUB: usize> Op for Quantize<'_, BLOCK, SUB> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Row { quants, scales, sums, .. } = self.row;
        assert!(self.x.len() == quants.len());
        let (x, quants) = (self.x.as_chunks::<BLOCK>().0, quants.as_chunks_mut::<BLOCK>().0);
        for (((x, quants), scale), sums) in x.iter().zip(quants).zip(scales).zip(sums.chunks_exact_mut(BLOCK / SUB)) {
            // Sixteen maxima side by side, so that the compiler keeps them in a vector.
            let mut most = [0.0f32; 16];
            for x in x.as_chunks::<16>().0 {
                for i in 0..16 {
                    most[i] = if x[i].abs() > most[i] { x[i].abs() } else { most[i] };
                }
            }
            let most = most.into_iter().fold(0.0f32, f32::max);
            let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
            *scale = most / 127.0;
            for i in 0..BLOCK {
                quants[i] = (x[i] * inverse + ROUNDING).to_bits() as i8;
            }
            for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<SUB>().0) {
                *sum = quants.iter().map(|&q| i16::from(q)).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn quants_are_the_nearest_and_the_same_everywhere() {
        let mut rng = Rng::new(5);
        for (kind, cols) in [(Kind::Small, 96), (Kind::Wide, 512), (Kind::Fine, 256)] {
            let mut x: Vec<f32> = (0..cols).map(|_| rng.normal() as f32).collect();
            x[..32].fill(0.0);
            let (block, sub) = kind.blocks(cols);
            let mut truth = None;
            for isa in Isa::available() {
                let mut acts = Activations::new(1, cols);
                acts.set(kind, isa, &x);
                let got = acts.input(kind, cols).quants;
                for (i, &x) in x.iter().enumerate() {
                    let (scale, quant) = (got.scales[i / block], f32::from(got.quants[i]));
                    assert!((x - scale * quant).abs() <= 0.5001 * scale, "{}: {x} is not {quant} x {scale}", isa.name());
                }
                for (sum, quants) in got.sums.iter().zip(got.quants.chunks(sub)) {
                    assert_eq!(i32::from(*sum), quants.iter().map(|&q| i32::from(q)).sum::<i32>());
                }
                let all = (got.quants.to_vec(), got.scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>());
                assert_eq!(truth.get_or_insert_with(|| all.clone()), &all, "{}", isa.name());
            }
        }
    }
}
