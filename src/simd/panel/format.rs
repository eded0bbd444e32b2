//! The shapes of quants and scales, and a kernel's choice by format.

use super::product::{self, Inputs};
use super::{Lanes, Panel};

/// What a format's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits of a quant.
    pub bits: usize,
    /// Columns with one scale.
    pub sub: usize,
    /// Columns of a block: 32, or 256 where the scales of sub-blocks are integers.
    pub block: usize,
    /// Whether there are minima.
    pub minima: bool,
    /// What is taken off a quant.
    pub offset: i32,
}

impl Shape {
    /// Bytes of a panel's quants.
    #[must_use]
    #[inline(always)]
    pub const fn quant_bytes(self, rows: usize, cols: usize) -> usize {
        cols / 32 * self.bits * 4 * rows
    }
    /// Bytes of a block's scales.
    #[must_use]
    #[inline(always)]
    pub const fn block_bytes(self, rows: usize) -> usize {
        let halves = if self.minima { 2 } else { 1 };
        let bytes = if self.block == 32 { 0 } else { self.block / self.sub * halves };
        (2 * halves + bytes) * rows
    }
    /// Bytes of a panel's scales.
    #[must_use]
    #[inline(always)]
    pub const fn scale_bytes(self, rows: usize, cols: usize) -> usize {
        cols / self.block * self.block_bytes(rows)
    }
}

/// A format at compile time.
pub(super) trait Form {
    const SHAPE: Shape;
    type Class: Class;
    const CLASS: ClassOf = match (Self::SHAPE.block, Self::SHAPE.sub, Self::SHAPE.minima, Self::SHAPE.bits) {
        (32, _, false, 8) => ClassOf::Wide,
        (32, _, false, _) => ClassOf::Small,
        (32, _, true, _) => ClassOf::SmallMinima,
        (_, 16, false, _) => ClassOf::Fine,
        (_, 16, true, _) => ClassOf::FineMinima,
        (_, _, true, _) => ClassOf::Minima,
        _ => unreachable!(),
    };
}

/// A [`Class`] at run time.
#[derive(Clone, Copy)]
pub(super) enum ClassOf {
    Wide,
    Small,
    SmallMinima,
    Fine,
    FineMinima,
    Minima,
}

/// What is left of a format once its quants are unpacked: a kernel for each format, and one for all of a class where several inputs meet
/// unpacked quants.
pub(super) trait Class {
    const BLOCK: usize;
    const SUB: usize;
    const MINIMA: bool;
    /// Whether quants have 8 bits.
    const WIDE: bool;
}

pub(super) struct Of<const BLOCK: usize, const SUB: usize, const MINIMA: bool, const WIDE: bool>;
impl<const BLOCK: usize, const SUB: usize, const MINIMA: bool, const WIDE: bool> Class for Of<BLOCK, SUB, MINIMA, WIDE> {
    const BLOCK: usize = BLOCK;
    const SUB: usize = SUB;
    const MINIMA: bool = MINIMA;
    const WIDE: bool = WIDE;
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident($bits:literal, $sub:literal, $block:literal, $minima:literal, $offset:literal)),* $(,)?) => {
        /// How quants and scales are kept, after ggml's type of the same weights.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types)]
        pub enum Format { $($(#[$doc])* $name),* }

        $(struct $name;
        impl Form for $name {
            const SHAPE: Shape = Shape { bits: $bits, sub: $sub, block: $block, minima: $minima, offset: $offset };
            type Class = Of<$block, $sub, $minima, { $bits == 8 }>;
        })*

        impl Format {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its numbers.
            #[must_use]
            pub const fn shape(self) -> Shape {
                match self { $(Self::$name => <$name as Form>::SHAPE),* }
            }

            #[inline(always)]
            pub(super) fn run<L: Lanes>(self, l: L, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
                match self { $(Self::$name => product::run::<L, $name>(l, out, panel, x)),* }
            }

            /// # Safety
            /// As [`arm::run`](super::arm::run) says.
            #[cfg(target_arch = "aarch64")]
            pub(super) unsafe fn run_arm<S: super::arm::Sums>(self, s: S, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
                // SAFETY: as the caller promises.
                unsafe { match self { $(Self::$name => super::arm::run::<S, $name>(s, out, panel, x)),* } }
            }
        }
    };
}

formats! {
    /// 8 bits.
    Q8(8, 32, 32, false, 128),
    /// 4 bits.
    Q4(4, 32, 32, false, 8),
    /// 4 bits with a minimum.
    Q4M(4, 32, 32, true, 0),
    /// 5 bits.
    Q5(5, 32, 32, false, 16),
    /// 5 bits with a minimum.
    Q5M(5, 32, 32, true, 0),
    /// 2 bits in sub-blocks of 16, with minima.
    K2(2, 16, 256, true, 0),
    /// 3 bits in sub-blocks of 16.
    K3(3, 16, 256, false, 4),
    /// 4 bits in sub-blocks of 32, with minima.
    K4(4, 32, 256, true, 0),
    /// 5 bits in sub-blocks of 32, with minima.
    K5(5, 32, 256, true, 0),
    /// 6 bits in sub-blocks of 16.
    K6(6, 16, 256, false, 32),
}
