//! From blocks as they lie in a file to panels, 32 bits at a time: each weight keeps its bits.
//!
//! ggml's formats keep low bits of columns that are 16, 32 or 128 apart in one byte; panels keep those of neighbouring groups. Four
//! columns of a group are four bytes in both, so that words of 32 bits are taken apart with masks and put together anew.

use crate::quant::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, GgmlType, unpack_q3_k_scales,
    unpack_q45_k_scales,
};
use crate::simd::panel::{Field, Format, Layout};
use bytemuck::Pod;

/// The format of a type's panels; `None` for types of floats.
pub const fn format(ty: GgmlType) -> Option<Format> {
    Some(match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => return None,
        GgmlType::Q8_0 => Format::Q8,
        GgmlType::Q4_0 => Format::Q4,
        GgmlType::Q4_1 => Format::Q4M,
        GgmlType::Q5_0 => Format::Q5,
        GgmlType::Q5_1 => Format::Q5M,
        GgmlType::Q2_K => Format::K2,
        GgmlType::Q3_K => Format::K3,
        GgmlType::Q4_K => Format::K4,
        GgmlType::Q5_K => Format::K5,
        GgmlType::Q6_K => Format::K6,
    })
}

/// Packs up to a panel's rows, which lie one after another in `rows`, into memory that is all zeros.
pub fn pack(ty: GgmlType, layout: Layout, rows: &[u8], cols: usize, quants: &mut [u32], scales: &mut [u8]) {
    let row_bytes = ty.row_bytes(cols);
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let mut to = To { quants, scales, r, rows: layout.rows, layout, block_bytes: 0, at: 0 };
        match ty {
            GgmlType::Q8_0 => to.row(row, Format::Q8, q8_0),
            GgmlType::Q4_0 => to.row(row, Format::Q4, q4_0),
            GgmlType::Q4_1 => to.row(row, Format::Q4M, q4_1),
            GgmlType::Q5_0 => to.row(row, Format::Q5, q5_0),
            GgmlType::Q5_1 => to.row(row, Format::Q5M, q5_1),
            GgmlType::Q2_K => to.row(row, Format::K2, q2_k),
            GgmlType::Q3_K => to.row(row, Format::K3, q3_k),
            GgmlType::Q4_K => to.row(row, Format::K4, q4_k),
            GgmlType::Q5_K => to.row(row, Format::K5, q5_k),
            GgmlType::Q6_K => to.row(row, Format::K6, q6_k),
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => unreachable!("floats are not packed"),
        }
    }
}

/// A row of a panel.
struct To<'a> {
    quants: &'a mut [u32],
    scales: &'a mut [u8],
    r: usize,
    rows: usize,
    layout: Layout,
    /// Bytes of a block's scales, and where those of the block at hand begin.
    block_bytes: usize,
    at: usize,
}

impl To<'_> {
    fn row<B: Pod>(&mut self, row: &[u8], format: Format, block: impl Fn(&mut Self, &mut [u32], &B)) {
        let shape = format.shape();
        self.block_bytes = shape.block_bytes(self.rows);
        let words = shape.block / 32 * shape.bits * self.rows;
        let blocks: &[B] = bytemuck::cast_slice(row);
        let quants = std::mem::take(&mut self.quants);
        for (quants, b) in quants.chunks_exact_mut(words).zip(blocks) {
            block(self, quants, b);
            self.at += self.block_bytes;
        }
        self.quants = quants;
    }

    /// The word of plane `plane` (counted from the block's first) of this row.
    #[inline(always)]
    fn put(&self, quants: &mut [u32], plane: usize, word: u32) {
        quants[plane * self.rows + self.r] = word;
    }

    fn halves(&mut self, scale: [u8; 2], minimum: Option<[u8; 2]>) {
        let block = &mut self.scales[self.at..][..self.block_bytes];
        block[2 * self.r..][..2].copy_from_slice(&scale);
        if let Some(minimum) = minimum {
            block[2 * (self.rows + self.r)..][..2].copy_from_slice(&minimum);
        }
    }

    /// Scales of 8 bits, behind `halves` f16s of each row.
    fn bytes<const G: usize>(&mut self, halves: usize, scales: [u8; G], minima: Option<[u8; G]>) {
        let (r, rows) = (self.r, self.rows);
        let block = &mut self.scales[self.at..][..self.block_bytes];
        let (scale_part, minimum_part) = block[2 * halves * rows..].split_at_mut(G * rows);
        for g in 0..G {
            scale_part[g * rows + r] = scales[g];
        }
        for (g, minimum) in minima.into_iter().flatten().enumerate() {
            let within = if self.layout.paired { 2 * r + g % 2 } else { g % 2 * rows + r };
            minimum_part[g / 2 * 2 * rows + within] = minimum;
        }
    }

    /// A step's quants of `BITS` bits for ARM, group by group: `level(g)` has group `g`'s.
    #[inline(always)]
    fn tight<const BITS: usize>(&self, quants: &mut [u32], first: usize, level: impl Fn(usize) -> u32) {
        let planes = &mut quants[4 * first..][..4 * BITS];
        let flip = u32::from_le_bytes([self.layout.flip(BITS); 4]);
        let levels = [0, 1, 2, 3, 4, 5, 6, 7].map(|g| level(g) ^ flip);
        if !self.layout.columns {
            for g in 0..8 {
                scatter::<BITS>(planes, g, self.r, &levels[g..=g]);
            }
            return;
        }
        // A branch for each row, in which places are constants.
        macro_rules! rows {
            ($($r:literal)*) => {
                match self.r {
                    $($r => {
                        scatter::<BITS>(planes, $r, 0, &levels[..4]);
                        scatter::<BITS>(planes, 4 + $r, 0, &levels[4..]);
                    })*
                    _ => unreachable!("panels have four rows"),
                }
            };
        }
        rows!(0 1 2 3);
    }

    /// A step's planes of 4 bits: `level(g)` has those of group `g` in the low half of each byte.
    #[inline(always)]
    fn nibbles(&self, quants: &mut [u32], first: usize, level: impl Fn(usize) -> u32) {
        for j in 0..4 {
            let (plane, four) = if self.layout.columns { (self.r, j) } else { (j, self.r) };
            quants[(first + plane) * self.rows + four] = level(j) | level(j + 4) << 4;
        }
    }

    /// A step's planes of 2 bits.
    #[inline(always)]
    fn pairs(&self, quants: &mut [u32], first: usize, level: impl Fn(usize) -> u32) {
        for j in 0..2 {
            self.put(quants, first + j, (0..4).fold(0, |word, f| word | level(4 * j + f) << (2 * f)));
        }
    }

    /// A step's plane of single bits.
    #[inline(always)]
    fn bits(&self, quants: &mut [u32], plane: usize, level: impl Fn(usize) -> u32) {
        self.put(quants, plane, (0..8).fold(0, |word, g| word | level(g) << g));
    }

    /// A step of 5 bits: four and one more.
    #[inline(always)]
    fn fives(&self, quants: &mut [u32], first: usize, four: impl Fn(usize) -> u32, one: impl Fn(usize) -> u32) {
        if self.layout.tight {
            return self.tight::<5>(quants, first, |g| four(g) | one(g) << 4);
        }
        self.nibbles(quants, first, four);
        self.bits(quants, first + 4, one);
    }
}

/// Puts words of register `register` of a step into its planes of four words, from word `at` on.
#[inline(always)]
fn scatter<const BITS: usize>(planes: &mut [u32], register: usize, at: usize, levels: &[u32]) {
    const ARM: Layout = Layout { rows: 4, signed: true, paired: false, tight: true, columns: false };
    let [first, second, third] = const { fields_of(ARM, BITS) }[register];
    let mut done = 0;
    for (plane, shift, bits) in [first, second, third].into_iter().flatten() {
        for (to, &level) in planes[4 * plane + at..].iter_mut().zip(levels) {
            *to |= field(level, done, 0xFF >> (8 - bits)) << shift;
        }
        done += bits;
    }
}

const fn fields_of(layout: Layout, bits: usize) -> [[Field; 3]; 8] {
    let mut all = [[None; 3]; 8];
    let mut g = 0;
    while g < 8 {
        all[g] = layout.fields(bits, g);
        g += 1;
    }
    all
}

/// Word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))
}

/// Bits `shift ..` of each byte, as many as `mask` has.
#[inline(always)]
const fn field(word: u32, shift: usize, mask: u8) -> u32 {
    word >> shift & u32::from_le_bytes([mask; 4])
}

/// Bits of 32 columns, one after another, as the low bits of the bytes of group `g`.
#[inline(always)]
const fn bits_of(columns: [u8; 4], g: usize) -> u32 {
    let four = u32::from_le_bytes(columns) >> (4 * g) & 15;
    // Bit i to byte i: copies at distances 0, 7, 14, 21.
    (four | four << 7 | four << 14 | four << 21) & 0x0101_0101
}

fn q8_0(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ8_0) {
    to.halves(b.d, None);
    let flip = if to.layout.signed { 0 } else { 0x8080_8080 };
    for g in 0..8 {
        let (plane, four) = to.layout.place(to.r, g);
        quants[plane * to.rows + four] = word(bytemuck::cast_slice(&b.qs), g) ^ flip;
    }
}

/// Four bits of group `g` of a block of 32: columns 0 to 15 are in the low halves, 16 to 31 in the high ones.
#[inline(always)]
fn half(qs: &[u8; 16], g: usize) -> u32 {
    field(word(qs, g % 4), g / 4 * 4, 15)
}

fn q4_0(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ4_0) {
    to.halves(b.d, None);
    to.nibbles(quants, 0, |g| half(&b.qs, g));
}

fn q4_1(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ4_1) {
    to.halves(b.d, Some(b.m));
    to.nibbles(quants, 0, |g| half(&b.qs, g));
}

fn q5_0(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ5_0) {
    to.halves(b.d, None);
    to.fives(quants, 0, |g| half(&b.qs, g), |g| bits_of(b.qh, g));
}

fn q5_1(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ5_1) {
    to.halves(b.d, Some(b.m));
    to.fives(quants, 0, |g| half(&b.qs, g), |g| bits_of(b.qh, g));
}

/// The two bits of group `g` of step `s` of a block of Q2_K or Q3_K.
#[inline(always)]
fn two_bits(qs: &[u8; 64], s: usize, g: usize) -> u32 {
    field(word(qs, s / 4 * 8 + g), 2 * (s % 4), 3)
}

fn q2_k(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ2K) {
    to.halves(b.d, Some(b.dmin));
    to.bytes(2, b.scales.map(|s| s & 15), Some(b.scales.map(|s| s >> 4)));
    for s in 0..8 {
        if to.layout.columns {
            to.tight::<2>(quants, 2 * s, |g| two_bits(&b.qs, s, g));
        } else {
            to.pairs(quants, 2 * s, |g| two_bits(&b.qs, s, g));
        }
    }
}

fn q3_k(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ3K) {
    to.halves(b.d, None);
    to.bytes(1, unpack_q3_k_scales(&b.scales).map(i8::cast_unsigned), None);
    for s in 0..8 {
        let (two, one) = (|g: usize| two_bits(&b.qs, s, g), |g: usize| field(word(&b.hmask, g), s, 1));
        if to.layout.tight {
            to.tight::<3>(quants, 3 * s, |g| two(g) | one(g) << 2);
        } else {
            to.pairs(quants, 3 * s, two);
            to.bits(quants, 3 * s + 2, one);
        }
    }
}

/// The four low bits of group `g` of step `s` of a block of Q4_K or Q5_K.
#[inline(always)]
fn four_bits(qs: &[u8; 128], s: usize, g: usize) -> u32 {
    field(word(qs, s / 2 * 8 + g), 4 * (s % 2), 15)
}

fn q4_k(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ4K) {
    let (scales, minima) = unpack_q45_k_scales(&b.scales);
    to.halves(b.d, Some(b.dmin));
    to.bytes(2, scales, Some(minima));
    for s in 0..8 {
        to.nibbles(quants, 4 * s, |g| four_bits(&b.qs, s, g));
    }
}

fn q5_k(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ5K) {
    let (scales, minima) = unpack_q45_k_scales(&b.scales);
    to.halves(b.d, Some(b.dmin));
    to.bytes(2, scales, Some(minima));
    for s in 0..8 {
        to.fives(quants, 5 * s, |g| four_bits(&b.qs, s, g), |g| field(word(&b.qh, g), s, 1));
    }
}

fn q6_k(to: &mut To<'_>, quants: &mut [u32], b: &BlockQ6K) {
    to.halves(b.d, None);
    to.bytes(1, b.scales.map(i8::cast_unsigned), None);
    for s in 0..8 {
        let (half, k) = (s / 4, s % 4);
        let four = |g: usize| field(word(&b.ql, 16 * half + k % 2 * 8 + g), k / 2 * 4, 15);
        let two = |g: usize| field(word(&b.qh, 8 * half + g), 2 * k, 3);
        if to.layout.tight {
            to.tight::<6>(quants, 6 * s, |g| four(g) | two(g) << 4);
        } else {
            to.nibbles(quants, 6 * s, four);
            to.pairs(quants, 6 * s + 4, two);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::simd::panel::Panel;

    /// Random bytes are blocks, too; what they decode to, to the bit, is what the panels decode to.
    #[test]
    fn panels_hold_the_weights_of_the_file() {
        let mut rng = Rng::new(3);
        for ty in GgmlType::ALL {
            let Some(format) = format(ty) else { continue };
            let (shape, cols) = (format.shape(), 512);
            let layout = |rows, signed, paired, tight, columns| Layout { rows, signed, paired, tight, columns };
            let arm = [layout(4, true, false, true, false), layout(4, true, false, true, true)];
            for layout in [layout(4, true, true, false, false), layout(8, true, true, false, false), layout(16, false, true, false, false)]
                .into_iter()
                .chain(arm)
            {
                let there = layout.rows - 1;
                let mut bytes: Vec<u8> = (0..there * ty.row_bytes(cols)).map(|_| rng.below(256) as u8).collect();
                // Scales that are numbers: no exponent of all ones.
                for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                    for at in [0, 2, block.len() - 4, block.len() - 2] {
                        block[at + 1] &= 0xBB;
                    }
                }
                let mut quants = vec![0u32; shape.quant_bytes(layout.rows, cols) / 4];
                let mut scales = vec![0; shape.scale_bytes(layout.rows, cols)];
                pack(ty, layout, &bytes, cols, &mut quants, &mut scales);
                let panel = Panel { quants: bytemuck::cast_slice(&quants), scales: &scales, count: 1 };
                for (r, row) in bytes.chunks_exact(ty.row_bytes(cols)).enumerate() {
                    let (mut want, mut got) = (vec![0.0; cols], vec![0.0; cols]);
                    ty.dequantize_row(&mut want, row);
                    for b in 0..cols / shape.block {
                        format.decode(&mut got[b * shape.block..], &format.get(layout, panel, r, b));
                    }
                    assert_eq!(got, want, "{} in panels of {}, row {r}", ty.name(), layout.rows);
                }
            }
        }
    }
}
