//! From blocks as they lie in a file to panels, whole blocks of all of a panel's rows at a time: each weight keeps its bits.
//!
//! What a block holds is [`blocks`](super::blocks)' affair; here it is put where the layout wants it. It goes in vectors of four words, four
//! columns each. (Loops, where `array::map` would do: that is not always inlined.)

use super::blocks::{Half, Loose, Source};
use crate::quant::{BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, GgmlType};
use crate::simd::panel::{Format, Layout, Shape};
use std::array::from_fn;
use wide::f32x4;

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

/// Packs up to a panel's rows, which lie one after another in `rows`; rows that are not there become zeros.
///
/// # Panics
/// If there are no whole rows of `cols` columns, or the panel's memory is not as long as they make it.
pub fn pack(ty: GgmlType, layout: Layout, rows: &[u8], cols: usize, quants: &mut [u32], scales: &mut [u8]) {
    let whole = layout.rows * ty.row_bytes(cols);
    if rows.len() < whole {
        return pack(ty, layout, &[rows, &vec![0; whole - rows.len()]].concat(), cols, quants, scales);
    }
    let to = To { layout, quants, scales };
    match ty {
        GgmlType::Q8_0 => to.rows::<BlockQ8_0, 8>(rows),
        GgmlType::Q4_0 => to.rows::<BlockQ4_0, 4>(rows),
        GgmlType::Q4_1 => to.rows::<BlockQ4_1, 4>(rows),
        GgmlType::Q5_0 => to.rows::<BlockQ5_0, 5>(rows),
        GgmlType::Q5_1 => to.rows::<BlockQ5_1, 5>(rows),
        GgmlType::Q2_K => to.rows::<BlockQ2K, 2>(rows),
        GgmlType::Q3_K => to.rows::<BlockQ3K, 3>(rows),
        GgmlType::Q4_K => to.rows::<BlockQ4K, 4>(rows),
        GgmlType::Q5_K => to.rows::<BlockQ5K, 5>(rows),
        GgmlType::Q6_K => to.rows::<BlockQ6K, 6>(rows),
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => unreachable!("floats are not packed"),
    }
}

/// A panel to be written.
struct To<'a> {
    layout: Layout,
    quants: &'a mut [u32],
    scales: &'a mut [u8],
}

impl To<'_> {
    /// Picks the loops for the layout.
    fn rows<B: Source, const BITS: usize>(self, rows: &[u8]) {
        match (self.layout.rows, self.layout.tight, self.layout.columns) {
            (4, true, true) => self.blocks::<B, BITS, 4, true, true>(rows),
            (4, true, false) => self.blocks::<B, BITS, 4, true, false>(rows),
            (4, false, false) => self.blocks::<B, BITS, 4, false, false>(rows),
            (8, false, false) => self.blocks::<B, BITS, 8, false, false>(rows),
            (16, false, false) => self.blocks::<B, BITS, 16, false, false>(rows),
            _ => unreachable!("no instruction set has the layout {:?}", self.layout),
        }
    }

    fn blocks<B: Source, const BITS: usize, const R: usize, const TIGHT: bool, const COLUMNS: bool>(self, rows: &[u8]) {
        let Self { layout, quants, scales } = self;
        let (shape, blocks) = (B::FORMAT.shape(), bytemuck::cast_slice::<u8, B>(rows));
        let n = blocks.len() / R;
        let (steps, block_bytes) = (shape.block / 32, shape.block_bytes(R));
        let rows: [&[B]; R] = from_fn(|r| &blocks[r * n..][..n]);
        let (quants, scales) = (&mut quants[..n * steps * BITS * R], &mut scales[..n * block_bytes]);
        let flip = Half::splat(u32::from_le_bytes([layout.flip(BITS); 4]));
        for (b, (quants, scales)) in quants.chunks_exact_mut(steps * BITS * R).zip(scales.chunks_exact_mut(block_bytes)).enumerate() {
            let mut row = [&rows[0][b]; R];
            (1..R).for_each(|r| row[r] = &rows[r][b]);
            for (s, planes) in quants.chunks_exact_mut(BITS * R).enumerate() {
                // Four rows at a time: a quarter of a plane in panels of sixteen.
                for from in (0..R).step_by(4) {
                    let mut registers = [[Half::ZERO; 4]; 2];
                    for r in 0..4 {
                        let [low, high] = row[from + r].step(s);
                        (registers[0][r], registers[1][r]) = (low ^ flip, high ^ flip);
                    }
                    if !COLUMNS {
                        registers = [transpose(registers[0]), transpose(registers[1])];
                    }
                    for (plane, words) in merge::<BITS, TIGHT>(registers.as_flattened()).into_iter().enumerate() {
                        planes[plane * R + from..][..4].copy_from_slice(words.as_array());
                    }
                }
            }
            let mut loose = [row[0].scales(); R];
            (1..R).for_each(|r| loose[r] = row[r].scales());
            write_scales(scales, shape, layout.paired, &loose);
        }
    }
}

/// Columns in words become rows in words.
#[inline(always)]
fn transpose(rows: [Half; 4]) -> [Half; 4] {
    bytemuck::cast(f32x4::transpose(bytemuck::cast(rows)))
}

/// Four words of each plane of a step, from those of its eight registers.
#[inline(always)]
fn merge<const BITS: usize, const TIGHT: bool>(registers: &[Half]) -> [Half; BITS] {
    let mut planes = [Half::ZERO; BITS];
    // Written out, so that places are constants.
    macro_rules! registers {
        ($($g:literal)*) => {$(
            let [first, second, third] = const { parts(BITS, TIGHT, $g) };
            [first, second, third].into_iter().flatten().for_each(|part| part.put(&mut planes, registers[$g]));
        )*};
    }
    registers!(0 1 2 3 4 5 6 7);
    planes
}

/// Where some bits of a register go.
#[derive(Clone, Copy)]
struct Part {
    /// The lowest of them.
    from: u32,
    plane: usize,
    shift: u32,
    bits: u32,
}

impl Part {
    #[inline(always)]
    fn put(self, planes: &mut [Half], register: Half) {
        let mask = Half::splat(u32::from_le_bytes([0xFF >> (8 - self.bits); 4]));
        planes[self.plane] |= (register >> self.from & mask) << self.shift;
    }
}

/// The parts of register `g`.
const fn parts(bits: usize, tight: bool, g: usize) -> [Option<Part>; 3] {
    let fields = Layout { rows: 0, signed: false, paired: false, tight, columns: false }.fields(bits, g);
    let (mut all, mut from, mut i) = ([None; 3], 0, 0);
    while i < 3 {
        if let Some((plane, shift, bits)) = fields[i] {
            all[i] = Some(Part { from, plane, shift: shift as u32, bits: bits as u32 });
            from += bits as u32;
        }
        i += 1;
    }
    all
}

/// Writes the scales of a block of each row.
#[inline(always)]
fn write_scales<const R: usize>(to: &mut [u8], shape: Shape, paired: bool, rows: &[Loose; R]) {
    let (scale, rest) = to.split_at_mut(2 * R);
    let (minimum, rest) = rest.split_at_mut(if shape.minima { 2 * R } else { 0 });
    scale.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, row)| *to = row.scale);
    minimum.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, row)| *to = row.minimum);
    if shape.block == 32 {
        return;
    }
    let (scales, minima) = rest.split_at_mut(shape.block / shape.sub * R);
    for (sub, to) in scales.as_chunks_mut::<R>().0.iter_mut().enumerate() {
        (0..R).for_each(|r| to[r] = rows[r].scales[sub]);
    }
    for (pair, to) in minima.chunks_exact_mut(2 * R).enumerate() {
        for r in 0..R {
            let (even, odd) = if paired { (2 * r, 2 * r + 1) } else { (r, R + r) };
            (to[even], to[odd]) = (rows[r].minima[2 * pair], rows[r].minima[2 * pair + 1]);
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
