//! Inputs of a product, quantized once for all the rows they meet.

use super::Kind;
use crate::simd::panel::Inputs;
use crate::simd::{Isa, Op, Simd};

/// Rows of activations, in what a matrix of some [`Kind`] takes. Its room is taken once and used again.
pub struct Activations {
    n: usize,
    cols: usize,
    kind: Kind,
    /// The rows themselves, where the matrix is of floats.
    floats: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i16>,
}

impl Activations {
    /// Room for `n` rows of up to `cols` columns of any kind.
    #[must_use]
    pub fn new(n: usize, cols: usize) -> Self {
        Self {
            n: 0,
            cols: 0,
            kind: Kind::Floats,
            floats: vec![0.0; n * cols],
            quants: vec![0; n * cols],
            scales: vec![0.0; n * cols.div_ceil(32)],
            sums: vec![0; n * cols.div_ceil(16)],
        }
    }

    /// Says what is to be put in: `n` rows of `cols`, for a matrix of this kind.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn shape(&mut self, kind: Kind, n: usize, cols: usize) {
        assert!(n * cols <= self.quants.len(), "{n} rows of {cols}, and room for {}", self.quants.len());
        (self.kind, self.n, self.cols) = (kind, n, cols);
    }

    /// How many rows there are.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// What matrix they are for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Length of a row.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Row by row, what [`Row::set`] fills.
    pub fn rows(&mut self) -> impl Iterator<Item = Row<'_>> {
        let Self { n, cols, kind, ref mut floats, ref mut quants, ref mut scales, ref mut sums } = *self;
        let (block, sub) = kind.blocks(cols);
        let rows = floats.chunks_mut(cols).zip(quants.chunks_mut(cols)).zip(scales.chunks_mut(cols / block)).zip(sums.chunks_mut(cols / sub));
        rows.take(n).map(move |(((floats, quants), scales), sums)| Row { kind, floats, quants, scales, sums })
    }

    /// The rows as floats.
    pub(super) fn floats(&self) -> &[f32] {
        &self.floats[..self.n * self.cols]
    }

    /// The rows, quantized.
    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs { n: self.n, cols: self.cols, quants: &self.quants, scales: &self.scales, sums: &self.sums }
    }
}

/// One row.
pub struct Row<'a> {
    kind: Kind,
    floats: &'a mut [f32],
    quants: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i16],
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
            let mut x: Vec<f32> = (0..3 * cols).map(|_| rng.normal() as f32).collect();
            x[cols..cols + 32].fill(0.0);
            let (block, sub) = kind.blocks(cols);
            let mut truth = None;
            for isa in Isa::available() {
                let mut acts = Activations::new(3, cols);
                acts.shape(kind, 3, cols);
                acts.rows().zip(x.chunks(cols)).for_each(|(row, x)| row.set(isa, x));
                let got = acts.inputs();
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
