//! Writing rows into panels, and reading them back: plain loops, the truth of the layout.

use super::{Format, Layout, Panel, Shape};
use half::f16;

/// A block of one row's weights, loose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Unsigned quants, the first [`Shape::block`] of them.
    pub quants: [u8; 256],
    /// The scale, or the scale of scales; bits of an f16.
    pub scale: u16,
    /// The minimum, or the scale of minima, where the format has them.
    pub minimum: u16,
    /// Scales of the sub-blocks, in a block of 256.
    pub scales: [u8; 16],
    /// Their minima, where the format has them.
    pub minima: [u8; 16],
}

impl Default for Block {
    fn default() -> Self {
        Self { quants: [0; 256], scale: 0, minimum: 0, scales: [0; 16], minima: [0; 16] }
    }
}

/// Where some bits of a quant lie: plane of the step, shift, how many.
pub type Field = Option<(usize, usize, usize)>;

impl Layout {
    /// Where the bits of register `g` of a step lie, the lowest first.
    #[must_use]
    pub const fn fields(self, bits: usize, g: usize) -> [Field; 3] {
        let nibble = Some((g % 4, 4 * (g / 4), 4));
        match bits {
            8 => [Some((g, 0, 8)), None, None],
            4 => [nibble, None, None],
            2 => [Some((g / 4, 2 * (g % 4), 2)), None, None],
            _ if self.tight => tight(bits, g),
            5 => [nibble, Some((4, g, 1)), None],
            3 => [Some((g / 4, 2 * (g % 4), 2)), Some((2, g, 1)), None],
            6 => [nibble, Some((4 + g / 4, 2 * (g % 4), 2)), None],
            _ => panic!("no format has so many bits"),
        }
    }

    /// In which register of a step group `group` of row `r` is, and which four bytes of it are.
    #[inline]
    #[must_use]
    pub const fn place(self, r: usize, group: usize) -> (usize, usize) {
        if self.columns { (group / 4 * self.rows + r, group % 4) } else { (group, r) }
    }

    /// What a quant is XORed with where it is kept.
    #[inline]
    #[must_use]
    pub const fn flip(self, bits: usize) -> u8 {
        match bits {
            8 if self.signed => 128,
            6 if self.tight => 32,
            _ => 0,
        }
    }
}

/// [`Layout::fields`] of tight ones.
const fn tight(bits: usize, g: usize) -> [Field; 3] {
    match (bits, g) {
        (3, 0..6) => [Some((g / 2, 5 * (g % 2), 3)), None, None],
        (3, _) => [Some((g - 6, 3, 2)), Some((2, g - 3, 1)), None],
        (5, 0..5) => [Some((g, 3, 5)), None, None],
        (5, 5 | 6) => [Some((2 * g - 10, 0, 3)), Some((2 * g - 9, 0, 2)), None],
        (5, _) => [Some((4, 0, 3)), Some((1, 2, 1)), Some((3, 2, 1))],
        (6, 3 | 7) => [Some((g / 4 * 3 + 2, 0, 2)), Some((g / 4 * 3 + 1, 0, 2)), Some((g / 4 * 3, 0, 2))],
        (6, _) => [Some((g / 4 * 3 + g % 4, 2, 6)), None, None],
        _ => panic!("no format has so many bits"),
    }
}

/// Where the scales of sub-block `sub` of row `r` are in a block of 256's, and its minimum.
fn places(shape: Shape, layout: Layout, r: usize, sub: usize) -> (usize, usize) {
    let halves = if shape.minima { 2 } else { 1 };
    let scales = 2 * halves * layout.rows;
    let minima = scales + shape.block / shape.sub * layout.rows;
    let within = if layout.paired { 2 * r + sub % 2 } else { sub % 2 * layout.rows + r };
    (scales + sub * layout.rows + r, minima + sub / 2 * 2 * layout.rows + within)
}

impl Format {
    /// Writes block `b` of row `r` into a panel, all of whose bytes are 0 before.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn put(self, layout: Layout, quants: &mut [u8], scales: &mut [u8], r: usize, b: usize, block: &Block) {
        let (shape, rows) = (self.shape(), layout.rows);
        let step_bytes = shape.bits * 4 * rows;
        for step in 0..shape.block / 32 {
            let planes = &mut quants[(b * shape.block / 32 + step) * step_bytes..][..step_bytes];
            for column in 0..32 {
                let mut quant = block.quants[32 * step + column] ^ layout.flip(shape.bits);
                let (register, four) = layout.place(r, column / 4);
                for (plane, shift, bits) in layout.fields(shape.bits, register).into_iter().flatten() {
                    planes[plane * 4 * rows + 4 * four + column % 4] |= (quant & (0xFF >> (8 - bits))) << shift;
                    quant = quant.checked_shr(bits as u32).unwrap_or(0);
                }
            }
        }
        let scales = &mut scales[b * shape.block_bytes(rows)..][..shape.block_bytes(rows)];
        scales[2 * r..][..2].copy_from_slice(&block.scale.to_le_bytes());
        if shape.minima {
            scales[2 * (rows + r)..][..2].copy_from_slice(&block.minimum.to_le_bytes());
        }
        if shape.block == 256 {
            for sub in 0..256 / shape.sub {
                let (scale, minimum) = places(shape, layout, r, sub);
                scales[scale] = block.scales[sub];
                if shape.minima {
                    scales[minimum] = block.minima[sub];
                }
            }
        }
    }

    /// Block `b` of row `r` of a panel.
    ///
    /// # Panics
    /// If it lies outside.
    #[must_use]
    pub fn get(self, layout: Layout, panel: Panel<'_>, r: usize, b: usize) -> Block {
        let (shape, rows) = (self.shape(), layout.rows);
        let mut block = Block::default();
        let step_bytes = shape.bits * 4 * rows;
        for step in 0..shape.block / 32 {
            let planes = &panel.quants[(b * shape.block / 32 + step) * step_bytes..][..step_bytes];
            for column in 0..32 {
                let (mut quant, mut at) = (0, 0);
                let (register, four) = layout.place(r, column / 4);
                for (plane, shift, bits) in layout.fields(shape.bits, register).into_iter().flatten() {
                    quant |= (planes[plane * 4 * rows + 4 * four + column % 4] >> shift & (0xFF >> (8 - bits))) << at;
                    at += bits;
                }
                block.quants[32 * step + column] = quant ^ layout.flip(shape.bits);
            }
        }
        let scales = &panel.scales[b * shape.block_bytes(rows)..][..shape.block_bytes(rows)];
        let half = |at: usize| u16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]);
        block.scale = half(r);
        if shape.minima {
            block.minimum = half(rows + r);
        }
        if shape.block == 256 {
            for sub in 0..256 / shape.sub {
                let (scale, minimum) = places(shape, layout, r, sub);
                block.scales[sub] = scales[scale];
                if shape.minima {
                    block.minima[sub] = scales[minimum];
                }
            }
        }
        block
    }

    /// The weights of a block, as ggml's type of the format decodes them.
    pub fn decode(self, out: &mut [f32], block: &Block) {
        let shape = self.shape();
        let (scale, minimum) = (f16::from_bits(block.scale).to_f32(), f16::from_bits(block.minimum).to_f32());
        for (sub, out) in out[..shape.block].chunks_mut(shape.sub).enumerate() {
            let (scale, minimum) = match (shape.block, shape.minima) {
                (32, _) => (scale, minimum),
                (_, true) => (scale * f32::from(block.scales[sub]), -(minimum * f32::from(block.minima[sub]))),
                (_, false) => (scale * f32::from(block.scales[sub] as i8), 0.0),
            };
            for (out, &quant) in out.iter_mut().zip(&block.quants[sub * shape.sub..]) {
                let weight = scale * (i32::from(quant) - shape.offset) as f32;
                *out = if shape.minima { weight + minimum } else { weight };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dots, Inputs};
    use super::*;
    use crate::rng::Rng;

    /// A block of quants, scales and minima that use all their bits; `wild`: at their ends.
    fn block(rng: &mut Rng, format: Format, wild: bool) -> Block {
        let shape = format.shape();
        let mut byte = |below: u64| if wild { (below - 1) * rng.below(2) } else { rng.below(below) } as u8;
        let quants = std::array::from_fn(|i| if i < shape.block { byte(1 << shape.bits) } else { 0 });
        let subs = if shape.block == 256 { 256 / shape.sub } else { 0 };
        // 6 bits where unsigned, as ggml's are at most; all 8 where signed.
        let scales = std::array::from_fn(|i| if i < subs { byte(if shape.minima { 64 } else { 256 }) } else { 0 });
        let minima = std::array::from_fn(|i| if i < subs && shape.minima { byte(64) } else { 0 });
        let scale = f16::from_f32((rng.normal() * 0.01) as f32).to_bits();
        let minimum = if shape.minima { f16::from_f32((rng.normal() * 0.02) as f32).to_bits() } else { 0 };
        Block { quants, scale, minimum, scales, minima }
    }

    struct Case {
        quants: Vec<u8>,
        scales: Vec<u8>,
        blocks: Vec<Vec<Block>>,
    }

    fn case(format: Format, layout: Layout, cols: usize, wild: bool) -> Case {
        let shape = format.shape();
        let mut rng = Rng::new(7 + cols as u64);
        let (mut quants, mut scales) = (vec![0; shape.quant_bytes(layout.rows, cols)], vec![0; shape.scale_bytes(layout.rows, cols)]);
        let mut row = || (0..cols / shape.block).map(|_| block(&mut rng, format, wild)).collect::<Vec<_>>();
        let blocks: Vec<Vec<Block>> = (0..layout.rows).map(|_| row()).collect();
        for (r, row) in blocks.iter().enumerate() {
            for (b, block) in row.iter().enumerate() {
                format.put(layout, &mut quants, &mut scales, r, b, block);
            }
        }
        Case { quants, scales, blocks }
    }

    #[test]
    fn layouts_by_name_are_those_of_the_instructions() {
        for dots in Dots::available() {
            assert_eq!(Layout::named(dots.name()), Some(dots.layout()), "{}", dots.name());
        }
    }

    #[test]
    fn a_panel_gives_back_what_was_put_into_it() {
        for &format in Format::ALL {
            for rows in [4, 8, 16] {
                let layout = |signed, paired, tight, columns| Layout { rows, signed, paired, tight, columns };
                for layout in [layout(false, true, false, false), layout(true, false, true, false), layout(true, false, true, true)] {
                    if layout.columns && rows != 4 {
                        continue; // a register has sixteen bytes there
                    }
                    let case = case(format, layout, 512, false);
                    let panel = Panel { quants: &case.quants, scales: &case.scales, count: 1 };
                    for (r, row) in case.blocks.iter().enumerate() {
                        for (b, block) in row.iter().enumerate() {
                            assert_eq!(format.get(layout, panel, r, b), *block, "{format:?}");
                        }
                    }
                }
            }
        }
    }

    /// Sums within a sub-block are exact. What is left are the roundings of some `cols / 8` float steps, 2^-24 each, of terms whose sizes
    /// are summed beside them.
    #[test]
    fn products_are_those_of_the_weights() {
        for dots in Dots::available() {
            let layout = dots.layout();
            for &format in Format::ALL {
                let shape = format.shape();
                for cols in [shape.block, 256 + shape.block, 768] {
                    for (n, wild) in [(1, false), (1, true), (2, true), (3, false), (7, false), (8, true), (70, false)] {
                        let case = case(format, layout, cols, wild);
                        let mut rng = Rng::new(n as u64);
                        let quants: Vec<i8> = (0..n * cols)
                            .map(|_| if wild { [-127, 127][rng.below(2) as usize] } else { (rng.below(255) as i32 - 127) as i8 })
                            .collect();
                        let scales: Vec<f32> = (0..n * cols / shape.block).map(|_| (rng.normal() * 0.1) as f32).collect();
                        let sums: Vec<i16> = quants.chunks(shape.sub).map(|sub| sub.iter().map(|&q| i16::from(q)).sum()).collect();
                        let x = Inputs { n, cols, quants: &quants, scales: &scales, sums: &sums };
                        let panel = Panel { quants: &case.quants, scales: &case.scales, count: 1 };
                        let mut out = vec![f32::NAN; n * layout.rows];
                        dots.product(format, &mut out, panel, &x);
                        for (i, out) in out.chunks(layout.rows).enumerate() {
                            for (r, &got) in out.iter().enumerate() {
                                let (mut want, mut size) = (0.0f64, 0.0f64);
                                let mut weights = vec![0.0; shape.block];
                                for (b, block) in case.blocks[r].iter().enumerate() {
                                    format.decode(&mut weights, block);
                                    let scale = f64::from(scales[i * cols / shape.block + b]);
                                    for (k, &w) in weights.iter().enumerate() {
                                        let term = f64::from(w) * scale * f64::from(quants[i * cols + b * shape.block + k]);
                                        (want, size) = (want + term, size + term.abs());
                                    }
                                }
                                let bar = size * 6e-8 * (4.0 + cols as f64 / 16.0).sqrt() * 2.0;
                                let error = (f64::from(got) - want).abs();
                                assert!(
                                    error <= bar,
                                    "{format:?} on {}, {cols} columns, {n} inputs: {got}, not {want}, bar {bar:.1e}",
                                    dots.name()
                                );
                            }
                        }
                        // Two panels at once, the same bits twice.
                        let twice = |bytes: &[u8]| [bytes, bytes].concat();
                        let (two_quants, two_scales) = (twice(&case.quants), twice(&case.scales));
                        let mut both = vec![f32::NAN; 2 * out.len()];
                        dots.product(format, &mut both, Panel { quants: &two_quants, scales: &two_scales, count: 2 }, &x);
                        assert_eq!(both, [&out[..], &out[..]].concat(), "{format:?} on {}, two panels", dots.name());
                        // One at a time, the same bits.
                        for (i, out) in out.chunks(layout.rows).enumerate() {
                            let x = Inputs {
                                n: 1,
                                cols,
                                quants: &quants[i * cols..],
                                scales: &scales[i * cols / shape.block..],
                                sums: &sums[i * cols / shape.sub..],
                            };
                            let mut alone = vec![f32::NAN; layout.rows];
                            dots.product(format, &mut alone, panel, &x);
                            assert_eq!(alone, out, "{format:?} on {}", dots.name());
                        }
                    }
                }
            }
        }
    }
}
