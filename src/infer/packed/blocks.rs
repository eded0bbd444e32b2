//! What the blocks of a file hold: quants in words of four columns, and scales.
//!
//! ggml's formats keep low bits of columns that are 16, 32 or 128 apart in one byte, so that a word of four bytes has four neighbouring
//! columns of each of them.

use crate::quant::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, unpack_q3_k_scales,
    unpack_q45_k_scales,
};
use crate::simd::panel::Format;
use bytemuck::Pod;
use wide::u32x4;

/// A block of a file.
pub trait Source: Pod {
    /// The format of panels that its weights go into.
    const FORMAT: Format;

    /// Quants of step `s`: 32 columns, unsigned.
    fn step(&self, s: usize) -> [Half; 2];

    /// Its scales.
    fn scales(&self) -> Loose;
}

/// A block's scales, loose; those that the format does not have are 0.
#[derive(Clone, Copy, Default)]
pub struct Loose {
    /// The scale, or the scale of scales: an f16.
    pub scale: [u8; 2],
    /// The minimum, or the scale of minima.
    pub minimum: [u8; 2],
    /// Scales of sub-blocks.
    pub scales: [u8; 16],
    /// Their minima.
    pub minima: [u8; 16],
}

/// Eight or sixteen bytes in the room of sixteen.
#[inline(always)]
fn wide<const N: usize>(bytes: [u8; N]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..N].copy_from_slice(&bytes);
    all
}

/// Quants of 16 columns: words of four columns each.
pub type Half = u32x4;

/// The same byte everywhere.
#[inline(always)]
fn splat(byte: u8) -> Half {
    Half::splat(u32::from_le_bytes([byte; 4]))
}

/// Bits `shift ..` of 32 bytes, as many as `mask` has: the `i`th such piece of some bytes.
#[inline(always)]
fn fields(bytes: &[u8], i: usize, shift: u32, mask: u8) -> [Half; 2] {
    let half = |h: usize| bytemuck::pod_read_unaligned::<Half>(&bytes[32 * i + 16 * h..][..16]);
    [half(0) >> shift & splat(mask), half(1) >> shift & splat(mask)]
}

/// `low`, and `high` behind its lowest `bits`.
#[inline(always)]
fn join(low: [Half; 2], high: [Half; 2], bits: u32) -> [Half; 2] {
    [low[0] | high[0] << bits, low[1] | high[1] << bits]
}

/// Bits of 32 columns, one after another, as the low bits of bytes.
#[inline(always)]
fn bits_of(columns: [u8; 4]) -> [Half; 2] {
    let columns = u32::from_le_bytes(columns);
    let half = |columns: u32| {
        let four = Half::new([columns & 15, columns >> 4 & 15, columns >> 8 & 15, columns >> 12 & 15]);
        // Bit i to byte i: copies at distances 0, 7, 14, 21.
        (four | four << 7 | four << 14 | four << 21) & splat(1)
    };
    [half(columns), half(columns >> 16)]
}

/// Four bits of a block of 32: columns 0 to 15 are in the low halves, 16 to 31 in the high ones.
#[inline(always)]
fn nibbles(qs: [u8; 16]) -> [Half; 2] {
    let qs: Half = bytemuck::cast(qs);
    [qs & splat(15), qs >> 4 & splat(15)]
}

impl Source for BlockQ8_0 {
    const FORMAT: Format = Format::Q8;
    #[inline(always)]
    fn step(&self, _: usize) -> [Half; 2] {
        let [low, high]: [Half; 2] = bytemuck::cast(self.qs);
        [low ^ splat(0x80), high ^ splat(0x80)]
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, ..Loose::default() }
    }
}

impl Source for BlockQ4_0 {
    const FORMAT: Format = Format::Q4;
    #[inline(always)]
    fn step(&self, _: usize) -> [Half; 2] {
        nibbles(self.qs)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, ..Loose::default() }
    }
}

impl Source for BlockQ4_1 {
    const FORMAT: Format = Format::Q4M;
    #[inline(always)]
    fn step(&self, _: usize) -> [Half; 2] {
        nibbles(self.qs)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, minimum: self.m, ..Loose::default() }
    }
}

impl Source for BlockQ5_0 {
    const FORMAT: Format = Format::Q5;
    #[inline(always)]
    fn step(&self, _: usize) -> [Half; 2] {
        join(nibbles(self.qs), bits_of(self.qh), 4)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, ..Loose::default() }
    }
}

impl Source for BlockQ5_1 {
    const FORMAT: Format = Format::Q5M;
    #[inline(always)]
    fn step(&self, _: usize) -> [Half; 2] {
        join(nibbles(self.qs), bits_of(self.qh), 4)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, minimum: self.m, ..Loose::default() }
    }
}

impl Source for BlockQ2K {
    const FORMAT: Format = Format::K2;
    #[inline(always)]
    fn step(&self, s: usize) -> [Half; 2] {
        fields(&self.qs, s / 4, 2 * (s as u32 % 4), 3)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, minimum: self.dmin, scales: self.scales.map(|s| s & 15), minima: self.scales.map(|s| s >> 4) }
    }
}

impl Source for BlockQ3K {
    const FORMAT: Format = Format::K3;
    #[inline(always)]
    fn step(&self, s: usize) -> [Half; 2] {
        join(fields(&self.qs, s / 4, 2 * (s as u32 % 4), 3), fields(&self.hmask, 0, s as u32, 1), 2)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, scales: unpack_q3_k_scales(&self.scales).map(i8::cast_unsigned), ..Loose::default() }
    }
}

impl Source for BlockQ4K {
    const FORMAT: Format = Format::K4;
    #[inline(always)]
    fn step(&self, s: usize) -> [Half; 2] {
        fields(&self.qs, s / 2, 4 * (s as u32 % 2), 15)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        let (scales, minima) = unpack_q45_k_scales(&self.scales);
        Loose { scale: self.d, minimum: self.dmin, scales: wide(scales), minima: wide(minima) }
    }
}

impl Source for BlockQ5K {
    const FORMAT: Format = Format::K5;
    #[inline(always)]
    fn step(&self, s: usize) -> [Half; 2] {
        join(fields(&self.qs, s / 2, 4 * (s as u32 % 2), 15), fields(&self.qh, 0, s as u32, 1), 4)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        let (scales, minima) = unpack_q45_k_scales(&self.scales);
        Loose { scale: self.d, minimum: self.dmin, scales: wide(scales), minima: wide(minima) }
    }
}

impl Source for BlockQ6K {
    const FORMAT: Format = Format::K6;
    #[inline(always)]
    fn step(&self, s: usize) -> [Half; 2] {
        let (half, k) = (s / 4, s % 4);
        join(fields(&self.ql, 2 * half + k % 2, k as u32 / 2 * 4, 15), fields(&self.qh, half, 2 * k as u32, 3), 4)
    }
    #[inline(always)]
    fn scales(&self) -> Loose {
        Loose { scale: self.d, scales: self.scales.map(i8::cast_unsigned), ..Loose::default() }
    }
}
