//! Products of quantized weights with quantized activations: rows in lanes.
//!
//! A matrix is cut into *panels* of `R` rows, `R` being the 32-bit lanes of a vector: 16, 8 or 4. For every four columns (a *group*) the
//! `4 R` quants of a panel stand together, the four of row 0, the four of row 1 and so on. An instruction that multiplies four pairs of
//! bytes into each lane then needs one broadcast of four activations for all rows, and lane `r` of the sum is row `r`: no sum
//! across lanes is ever taken. The rows of the last panel that are not there are zeros.
//!
//! # What lies where
//!
//! A panel has *quants* and *scales*, two areas of memory. Quants go in steps of 32 columns, 8 groups, `BITS * 4 R` bytes; a *plane* is `4 R` bytes:
//!
//! | bits | planes of a step |
//! | --- | --- |
//! | 8 | 8: plane `g` is group `g` |
//! | 4 | 4: plane `j` has group `j` in its low nibbles, group `j + 4` in its high ones |
//! | 5 | those 4, and one in which bit `g` is the fifth bit of group `g` |
//! | 2 | 2: plane `j` has group `4 j + f` in bits `2 f` |
//! | 3 | those 2, and one in which bit `g` is the third bit of group `g` |
//! | 6 | the 4 of 4 bits, and 2 as of 2 bits with the upper two |
//!
//! So they are for AVX and plain loops. ARM has its own ([`Layout::tight`]): registers 0 to 7 of a step are groups, or columns
//! of rows ([`Layout::columns`]). Those of 2, 4 and 8 bits lie as above. For the others, bits from the lowest:
//!
//! | bits | planes of a step |
//! | --- | --- |
//! | 3 | `a`, `b`, `c`: the low three bits are registers 0, 2, 4, the high three 1, 3, 5; bits 3, 4 of `a` and 3 of `c` are register 6, of `b` and 4 of `c` 7 |
//! | 5 | `a` to `e`: the high five bits are registers 0 to 4; `a`'s low three and `b`'s low two are register 5, `c`'s and `d`'s 6, `e`'s low three and bit 2 of `b` and `d` 7 |
//! | 6 | `a`, `b`, `c` twice, for four registers each: the high six bits are three of them, `c`'s, `b`'s and `a`'s low two the fourth; less 32, in two's complement |
//!
//! Scales go by blocks. A block of 32 columns: `R` scales, and `R` minima where the format has them, in f16. A block of 256: `R` scales
//! of scales and `R` of minima in f16, then for each sub-block of [`Shape::sub`] columns `R` scales of 8 bits; then, where there are
//! minima, those of two sub-blocks at a time: `2 R` bytes, row by row ([`Layout::paired`]) or sub-block by sub-block.
//!
//! A weight is `scale (quant - offset)` or `scale quant + minimum` in a block of 32; `d s (quant - offset)` or `d s quant - dmin m` in one of 256.
//! Quants are unsigned, `offset` making up for it by way of the sum of the activations; 8-bit ones are signed where the
//! instructions want it ([`Layout::signed`]).
//!
//! Sums within a sub-block are integers and exact. Their weighted sums are floats, in an order that depends on sizes alone: one input at a
//! time or many, on any number of threads, a row's product has the same bits.

#[cfg(target_arch = "aarch64")]
mod arm;
mod format;
mod pack;
mod plain;
mod product;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use format::{Format, Shape};
pub use pack::{Block, Field};
pub use product::Inputs;

use super::Isa;

/// An instruction set that the products are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dots(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    DotProd,
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

impl Dots {
    /// All that this machine has, the best first; "plain" is always there, last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
                all.push(Self(Kind::Avx512Vnni));
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                all.push(Self(Kind::AvxVnni));
            }
            if avx2 {
                all.push(Self(Kind::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
            if dotprod && std::arch::is_aarch64_feature_detected!("i8mm") {
                all.push(Self(Kind::I8mm));
            }
            if dotprod {
                all.push(Self(Kind::DotProd));
            }
            all.push(Self(Kind::Neon));
        }
        all.push(Self(Kind::Plain));
        all
    }

    /// The best of this machine that needs no more than `isa` allows: "avx2" allows the 256-bit ones, "plain" nothing.
    #[must_use]
    pub fn under(isa: Isa) -> Self {
        let allowed = |dots: &Self| match (isa.name(), dots.name()) {
            (_, "plain") => true,
            ("plain", _) => false,
            ("avx2", name) => name != "avx512-vnni",
            _ => true,
        };
        Self::available().into_iter().find(allowed).expect("plain is always there")
    }

    /// "avx512-vnni", "avx-vnni", "avx2", "i8mm", "dotprod", "neon" or "plain".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::DotProd => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => "i8mm",
        }
    }

    /// How a matrix is to be laid out for it.
    #[must_use]
    pub const fn layout(self) -> Layout {
        match self.0 {
            Kind::Plain => Layout::of::<plain::Plain>(),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => Layout::of::<x86::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => Layout::of::<x86::AvxVnni>(),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => Layout::of::<x86::Avx512Vnni>(),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => arm::layout::<arm::Neon>(),
            #[cfg(target_arch = "aarch64")]
            Kind::DotProd => arm::layout::<arm::DotProd>(),
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => arm::layout::<arm::I8mm>(),
        }
    }

    /// `out[(p * N + i) * R + r]` = row `r` of panel `p` times input `i`. Several panels at once cost a few instructions less each.
    ///
    /// # Panics
    /// If a slice is shorter than the format, the columns and the inputs make it.
    pub fn product(self, format: Format, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
        match self.0 {
            Kind::Plain => plain::plain(format, out, panel, x),
            // SAFETY: a `Dots` of this kind is made by `available` alone, after it found the features; so below.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::avx2(format, out, panel, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => unsafe { x86::avx_vnni(format, out, panel, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { x86::avx512_vnni(format, out, panel, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { format.run_arm(arm::Neon(()), out, panel, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::DotProd => unsafe { format.run_arm(arm::DotProd(()), out, panel, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => unsafe { format.run_arm(arm::I8mm(()), out, panel, x) },
        }
    }
}

/// How an instruction set wants its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows of a panel.
    pub rows: usize,
    /// Whether 8-bit quants are signed.
    pub signed: bool,
    /// Whether the minima of two sub-blocks stand row by row.
    pub paired: bool,
    /// Whether quants of 3, 5 and 6 bits are packed for shifts that insert, those of 6 bits signed.
    pub tight: bool,
    /// Whether register `4 h + r` of a step is columns `16 h ..` of row `r`.
    pub columns: bool,
}

impl Layout {
    /// By the names of [`Dots`], also those of other machines, so that a board's weights can be packed elsewhere.
    pub const NAMED: [(&str, Self); 7] = [
        ("avx512-vnni", Self { rows: 16, signed: false, paired: true, tight: false, columns: false }),
        ("avx-vnni", Self { rows: 8, signed: false, paired: true, tight: false, columns: false }),
        ("avx2", Self { rows: 8, signed: true, paired: true, tight: false, columns: false }),
        ("i8mm", Self { rows: 4, signed: true, paired: false, tight: true, columns: false }),
        ("dotprod", Self { rows: 4, signed: true, paired: false, tight: true, columns: false }),
        ("neon", Self { rows: 4, signed: true, paired: false, tight: true, columns: true }),
        ("plain", Self { rows: 4, signed: true, paired: true, tight: false, columns: false }),
    ];

    /// The layout of the instruction set of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(n, _)| *n == name).map(|(_, layout)| *layout)
    }

    const fn of<L: Lanes>() -> Self {
        Self { rows: L::ROWS, signed: L::SIGNED, paired: L::PAIRED, tight: false, columns: false }
    }
}

/// The memory of a panel, or of several that lie one after another.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    /// Its quants, step by step.
    pub quants: &'a [u8],
    /// Its scales, block by block.
    pub scales: &'a [u8],
    /// How many panels.
    pub count: usize,
}

/// The instructions that a product is made of. Pointers are to as many bytes as the names say; whoever calls keeps within the panel.
trait Lanes: Copy {
    /// Rows of a panel, `R`.
    const ROWS: usize;
    /// See [`Layout::signed`].
    const SIGNED: bool;
    /// See [`Layout::paired`].
    const PAIRED: bool;
    /// A plane: `4 R` bytes.
    type B: Copy;
    /// Sixteen activations, four groups.
    type X: Copy;
    /// Sums under way.
    type Acc: Copy;
    /// `R` integers.
    type I: Copy;
    /// `R` floats.
    type F: Copy;
    /// `R` scales of 8 bits, ready to weigh sums.
    type S: Copy;
    /// Weighed sums of a block.
    type T: Copy;

    /// [`product::tile`], compiled for these instructions.
    unsafe fn tile(self, tile: product::Tile);

    unsafe fn load(self, plane: *const u8) -> Self::B;
    unsafe fn keep(self, plane: *mut u8, b: Self::B);
    /// `(b >> RIGHT) & MASK` in each byte.
    fn field<const RIGHT: i32, const MASK: i32>(self, b: Self::B) -> Self::B;
    /// `low | (high << LEFT) & MASK` in each byte; a negative `LEFT` shifts to the right.
    fn merge<const LEFT: i32, const MASK: i32>(self, low: Self::B, high: Self::B) -> Self::B;

    unsafe fn activations(self, x: *const i8) -> Self::X;
    /// The beginning of a sum that is to come out less by `offset`. Where [`finish`](Self::finish) takes it off, this may leave it.
    fn begin(self, offset: i32) -> Self::Acc;
    /// Adds the products of quants of up to 6 bits with group `G` of `x`; up to 8 times (6 bits: 4) before `finish`.
    fn dot<const G: i32>(self, acc: Self::Acc, w: Self::B, x: Self::X) -> Self::Acc;
    /// Adds those of 8-bit quants with groups 0 to 3.
    fn dot_wide(self, acc: Self::Acc, w: [Self::B; 4], x: Self::X) -> Self::Acc;
    fn finish(self, acc: Self::Acc, offset: i32) -> Self::I;
    fn float(self, i: Self::I) -> Self::F;

    /// No sum yet.
    fn nothing(self) -> Self::T;
    unsafe fn scale<const UNSIGNED: bool>(self, scales: *const u8) -> Self::S;
    /// `total + sums scale`
    fn weigh(self, total: Self::T, sums: Self::I, scale: Self::S) -> Self::T;
    fn total(self, total: Self::T) -> Self::F;
    fn zero(self) -> Self::I;
    /// `acc +` the minima (`2 R` bytes) of two sub-blocks times the sums of their activations.
    unsafe fn minima(self, acc: Self::I, minima: *const u8, sums: *const i16) -> Self::I;

    unsafe fn half(self, f16s: *const u8) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn read(self, p: *const f32) -> Self::F;
    unsafe fn write(self, p: *mut f32, f: Self::F);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best set of a processor is found. `scripts/arm.sh test` says which one it must be, so that no kernel goes untested unnoticed.
    #[test]
    fn the_best_set_comes_first_and_plain_last() {
        let names: Vec<&str> = Dots::available().into_iter().map(Dots::name).collect();
        println!("products by {}", names.join(", "));
        assert_eq!(names.last(), Some(&"plain"));
        assert_eq!(Dots::under(Isa::detect()).name(), names[0]);
        if let Ok(expected) = std::env::var("TINYLLM_EXPECTED_DOTS") {
            assert_eq!(names[0], expected);
        }
    }
}
