//! The one algorithm of all formats and instruction sets.

use super::format::{Class, ClassOf, Form, Of};
use super::{Lanes, Panel};

/// Inputs of a product, quantized: `x = scale quant`, a scale for each block of the format's columns.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// How many.
    pub n: usize,
    /// Columns of each.
    pub cols: usize,
    /// `(N, cols)`
    pub quants: &'a [i8],
    /// `(N, cols / block)`
    pub scales: &'a [f32],
    /// Sums of the quants of each sub-block: `(N, cols / sub)`.
    pub sums: &'a [i16],
}

/// Panics if a slice is shorter than format, columns and inputs make it. Shapes are constants here: a panel of a small model takes some
/// hundred instructions, and divisions would be seen among them.
#[inline(always)]
pub(super) fn check<F: Form>(rows: usize, out: &[f32], panel: Panel<'_>, x: &Inputs<'_>) {
    let (shape, Inputs { n, cols, quants, scales, sums }) = (F::SHAPE, *x);
    let whole = cols.is_multiple_of(shape.block);
    let (quant_bytes, scale_bytes) = (panel.count * shape.quant_bytes(rows, cols), panel.count * shape.scale_bytes(rows, cols));
    let weights = (panel.quants.len() >= quant_bytes) & (panel.scales.len() >= scale_bytes);
    let inputs = (quants.len() >= n * cols) & (scales.len() >= n * (cols / shape.block)) & (sums.len() >= n * (cols / shape.sub));
    assert!(
        whole & weights & inputs & (out.len() >= panel.count * rows * n),
        "panels, their inputs or their output are shorter than {cols} columns make them"
    );
}

/// Columns whose quants are unpacked together for several inputs.
const STRETCH: usize = 256;
/// Inputs that unpacked quants meet together: as many sums as registers hold, and enough of them that none waits for another.
const TILE: usize = 4;
/// Inputs whose sums wait in L1 while the next stretch is unpacked.
const WAITING: usize = 64;

#[inline(always)]
pub(super) fn run<L: Lanes, F: Form>(l: L, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    check::<F>(L::ROWS, out, panel, x);
    // SAFETY: `check` saw that panel, inputs and output are as long as format, columns and inputs make them.
    unsafe {
        for p in 0..panel.count {
            let (quant_bytes, scale_bytes) = (F::SHAPE.quant_bytes(L::ROWS, x.cols), F::SHAPE.scale_bytes(L::ROWS, x.cols));
            let (quants, scales) = (panel.quants.as_ptr().add(p * quant_bytes), panel.scales.as_ptr().add(p * scale_bytes));
            let out = out.as_mut_ptr().add(p * x.n * L::ROWS);
            if x.n == 1 {
                one::<L, F>(l, out, quants, scales, x);
            } else {
                for first in (0..x.n).step_by(WAITING) {
                    let n = (x.n - first).min(WAITING);
                    many::<L, F>(l, out.add(first * L::ROWS), quants, scales, x, first, n);
                }
            }
        }
    }
}

// What follows is functions that are inlined whatever their size, and no closures: a function of its own would be compiled without the
// features of its instruction set, and each of its instructions would be a call. `scripts/check_inlined.sh` finds such calls.

/// Plane `i` of a step.
///
/// # Safety
/// `from` is to a step's planes, and `i` is one of them: a step has as many as its quants have bits.
#[inline(always)]
unsafe fn plane<L: Lanes>(l: L, from: *const u8, i: usize) -> L::B {
    // SAFETY: as the caller promises.
    unsafe { l.load(from.add(i * 4 * L::ROWS)) }
}

/// Eight groups of four bits, from a step's planes 0 to 3.
///
/// # Safety
/// As [`plane`] says.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(l: L, from: *const u8) -> [L::B; 8] {
    // SAFETY: as the caller promises.
    let [a, b, c, d] = unsafe { [plane(l, from, 0), plane(l, from, 1), plane(l, from, 2), plane(l, from, 3)] };
    [
        l.field::<0, 15>(a),
        l.field::<0, 15>(b),
        l.field::<0, 15>(c),
        l.field::<0, 15>(d),
        l.field::<4, 15>(a),
        l.field::<4, 15>(b),
        l.field::<4, 15>(c),
        l.field::<4, 15>(d),
    ]
}

/// Eight groups of two bits, from a step's planes 0 and 1.
///
/// # Safety
/// As [`plane`] says.
#[inline(always)]
unsafe fn pairs<L: Lanes>(l: L, from: *const u8) -> [L::B; 8] {
    // SAFETY: as the caller promises.
    let [a, b] = unsafe { [plane(l, from, 0), plane(l, from, 1)] };
    [
        l.field::<0, 3>(a),
        l.field::<2, 3>(a),
        l.field::<4, 3>(a),
        l.field::<6, 3>(a),
        l.field::<0, 3>(b),
        l.field::<2, 3>(b),
        l.field::<4, 3>(b),
        l.field::<6, 3>(b),
    ]
}

/// Eight planes.
///
/// # Safety
/// As [`plane`] says.
#[inline(always)]
unsafe fn planes<L: Lanes>(l: L, from: *const u8) -> [L::B; 8] {
    // SAFETY: as the caller promises.
    unsafe {
        [
            plane(l, from, 0),
            plane(l, from, 1),
            plane(l, from, 2),
            plane(l, from, 3),
            plane(l, from, 4),
            plane(l, from, 5),
            plane(l, from, 6),
            plane(l, from, 7),
        ]
    }
}

/// The quants of 32 columns, a group a plane.
///
/// # Safety
/// `from` is to a step's planes.
#[inline(always)]
unsafe fn step<L: Lanes, F: Form>(l: L, from: *const u8) -> [L::B; 8] {
    // SAFETY: planes are asked for that the format has.
    unsafe {
        match F::SHAPE.bits {
            8 => planes(l, from),
            4 => nibbles(l, from),
            5 => {
                let (q, h) = (nibbles(l, from), plane(l, from, 4));
                [
                    l.merge::<4, 16>(q[0], h),
                    l.merge::<3, 16>(q[1], h),
                    l.merge::<2, 16>(q[2], h),
                    l.merge::<1, 16>(q[3], h),
                    l.merge::<0, 16>(q[4], h),
                    l.merge::<-1, 16>(q[5], h),
                    l.merge::<-2, 16>(q[6], h),
                    l.merge::<-3, 16>(q[7], h),
                ]
            }
            2 => pairs(l, from),
            3 => {
                let (q, h) = (pairs(l, from), plane(l, from, 2));
                [
                    l.merge::<2, 4>(q[0], h),
                    l.merge::<1, 4>(q[1], h),
                    l.merge::<0, 4>(q[2], h),
                    l.merge::<-1, 4>(q[3], h),
                    l.merge::<-2, 4>(q[4], h),
                    l.merge::<-3, 4>(q[5], h),
                    l.merge::<-4, 4>(q[6], h),
                    l.merge::<-5, 4>(q[7], h),
                ]
            }
            6 => {
                let (q, g, h) = (nibbles(l, from), plane(l, from, 4), plane(l, from, 5));
                [
                    l.merge::<4, 48>(q[0], g),
                    l.merge::<2, 48>(q[1], g),
                    l.merge::<0, 48>(q[2], g),
                    l.merge::<-2, 48>(q[3], g),
                    l.merge::<4, 48>(q[4], h),
                    l.merge::<2, 48>(q[5], h),
                    l.merge::<0, 48>(q[6], h),
                    l.merge::<-2, 48>(q[7], h),
                ]
            }
            _ => unreachable!(),
        }
    }
}

/// What is taken off a quant by way of the sums.
const fn offset<L: Lanes, F: Form>() -> i32 {
    if F::SHAPE.bits == 8 && L::SIGNED { 0 } else { F::SHAPE.offset }
}

/// `acc` and the products of 16 columns.
#[inline(always)]
fn sixteen<L: Lanes, C: Class>(l: L, acc: L::Acc, w: [L::B; 4], x: L::X) -> L::Acc {
    if C::WIDE {
        return l.dot_wide(acc, w, x);
    }
    l.dot::<3>(l.dot::<2>(l.dot::<1>(l.dot::<0>(acc, w[0], x), w[1], x), w[2], x), w[3], x)
}

/// Sums of 32 columns: of the first and the second 16, or of all of them in the first.
///
/// # Safety
/// `x` is to 32 activations, `sums` to the sums of their sub-blocks.
#[inline(always)]
unsafe fn dots<L: Lanes, C: Class>(l: L, offset: i32, w: &[L::B; 8], x: *const i8, sums: *const i16) -> [L::I; 2] {
    // SAFETY: as the caller promises.
    let ([x, y], sum) = unsafe { ([l.activations(x), l.activations(x.add(16))], |i: usize| offset * i32::from(*sums.add(i))) };
    let (low, high) = ([w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]]);
    let first = sixteen::<L, C>(l, l.begin(sum(0)), low, x);
    if C::SUB == 32 {
        let all = l.finish(sixteen::<L, C>(l, first, high, y), sum(0));
        [all, all]
    } else {
        [l.finish(first, sum(0)), l.finish(sixteen::<L, C>(l, l.begin(sum(1)), high, y), sum(1))]
    }
}

/// Where the parts of a block of 256's scales begin.
struct Parts {
    scales: usize,
    minima: usize,
}

impl Parts {
    const fn of<L: Lanes, C: Class>() -> Self {
        let halves = if C::MINIMA { 2 } else { 1 };
        let scales = 2 * halves * L::ROWS;
        Self { scales, minima: scales + C::BLOCK / C::SUB * L::ROWS }
    }
}

/// The sums of a block of 256 and their minima's, step by step.
struct Super<L: Lanes> {
    total: L::T,
    minima: L::I,
}

impl<L: Lanes> Super<L> {
    #[inline(always)]
    fn new(l: L) -> Self {
        Self { total: l.nothing(), minima: l.zero() }
    }

    /// Takes step `i` in.
    ///
    /// # Safety
    /// `scales` is to the block's scales, `sums` to the sums of the block's sub-blocks.
    #[inline(always)]
    unsafe fn take<C: Class>(&mut self, l: L, i: usize, [first, second]: [L::I; 2], scales: *const u8, sums: *const i16) {
        let parts = Parts::of::<L, C>();
        // SAFETY: as the caller promises.
        unsafe {
            let (scale, minima) = (scales.add(parts.scales), scales.add(parts.minima));
            if C::SUB == 32 {
                self.total = l.weigh(self.total, first, l.scale_of::<C>(scale.add(i * L::ROWS)));
                if C::MINIMA && i % 2 == 1 {
                    let pair = i / 2;
                    self.minima = l.minima(self.minima, minima.add(pair * 2 * L::ROWS), sums.add(2 * pair));
                }
            } else {
                self.total = l.weigh(self.total, first, l.scale_of::<C>(scale.add(2 * i * L::ROWS)));
                self.total = l.weigh(self.total, second, l.scale_of::<C>(scale.add((2 * i + 1) * L::ROWS)));
                if C::MINIMA {
                    self.minima = l.minima(self.minima, minima.add(i * 2 * L::ROWS), sums.add(2 * i));
                }
            }
        }
    }

    /// `y + ` the block's product with an input of scale `dx`.
    ///
    /// # Safety
    /// `scales` is to the block's scales.
    #[inline(always)]
    unsafe fn end<C: Class>(self, l: L, y: L::F, scales: *const u8, dx: f32) -> L::F {
        // SAFETY: as the caller promises.
        unsafe {
            let y = l.fma(l.mul(l.total(self.total), l.half(scales)), l.splat(dx), y);
            if C::MINIMA { l.fma(l.mul(l.float(self.minima), l.half(scales.add(2 * L::ROWS))), l.splat(-dx), y) } else { y }
        }
    }
}

trait ScaleOf: Lanes {
    /// # Safety
    /// `p` is to `R` scales.
    #[inline(always)]
    unsafe fn scale_of<C: Class>(self, p: *const u8) -> Self::S {
        // SAFETY: as the caller promises.
        unsafe { if C::MINIMA { self.scale::<true>(p) } else { self.scale::<false>(p) } }
    }
}
impl<L: Lanes> ScaleOf for L {}

/// `y + ` the product of a block of 32 with an input: `sums` of its quants, `total` of the input's.
///
/// # Safety
/// `scales` is to the block's scales.
#[inline(always)]
unsafe fn small<L: Lanes, C: Class>(l: L, y: L::F, sums: L::I, scales: *const u8, dx: f32, total: i16) -> L::F {
    // SAFETY: as the caller promises.
    unsafe {
        let y = l.fma(l.mul(l.float(sums), l.half(scales)), l.splat(dx), y);
        if C::MINIMA { l.fma(l.half(scales.add(2 * L::ROWS)), l.splat(dx * f32::from(total)), y) } else { y }
    }
}

/// A panel times one input: weights are read once, from memory.
///
/// # Safety
/// As [`run`] says.
#[inline(always)]
unsafe fn one<L: Lanes, F: Form>(l: L, out: *mut f32, mut quants: *const u8, mut scales: *const u8, x: &Inputs<'_>) {
    let (bytes, block_bytes) = (F::SHAPE.bits * 4 * L::ROWS, F::SHAPE.block_bytes(L::ROWS));
    let (mut input, mut sums, mut dx) = (x.quants.as_ptr(), x.sums.as_ptr(), x.scales.as_ptr());
    let mut y = l.splat(0.0);
    // SAFETY: pointers go through panel and input as their lengths, checked before, allow.
    unsafe {
        for _ in 0..x.cols / F::SHAPE.block {
            if F::SHAPE.block == 32 {
                let w = step::<L, F>(l, quants);
                let [all, _] = dots::<L, F::Class>(l, offset::<L, F>(), &w, input, sums);
                y = small::<L, F::Class>(l, y, all, scales, *dx, *sums);
            } else {
                let mut block = Super::new(l);
                for i in 0..8 {
                    let w = step::<L, F>(l, quants.add(i * bytes));
                    let each = dots::<L, F::Class>(l, offset::<L, F>(), &w, input.add(32 * i), sums.add(i * (32 / F::SHAPE.sub)));
                    block.take::<F::Class>(l, i, each, scales, sums);
                }
                y = block.end::<F::Class>(l, y, scales, *dx);
            }
            quants = quants.add(F::SHAPE.block / 32 * bytes);
            scales = scales.add(block_bytes);
            (input, sums, dx) = (input.add(F::SHAPE.block), sums.add(F::SHAPE.block / F::SHAPE.sub), dx.add(1));
        }
        l.write(out, y);
    }
}

/// A panel times inputs `first .. first + n`: quants are unpacked into L1 and used for all of them.
///
/// # Safety
/// As [`run`] says; `out` is to the first input's rows.
#[inline(always)]
unsafe fn many<L: Lanes, F: Form>(l: L, out: *mut f32, quants: *const u8, scales: *const u8, x: &Inputs<'_>, first: usize, n: usize) {
    /// Room for a stretch of the widest panel.
    #[repr(align(64))]
    struct Unpacked([std::mem::MaybeUninit<u8>; STRETCH * 16]);
    let mut unpacked = Unpacked([const { std::mem::MaybeUninit::uninit() }; STRETCH * 16]);
    let room = unpacked.0.as_mut_ptr().cast::<u8>();
    let plane = 4 * L::ROWS;
    let block_bytes = F::SHAPE.block_bytes(L::ROWS);
    let (blocks, subs) = (x.cols / F::SHAPE.block, x.cols / F::SHAPE.sub);
    // SAFETY: pointers go through panel, inputs and output as their lengths, checked before, allow.
    unsafe {
        for i in 0..n {
            l.write(out.add(i * L::ROWS), l.splat(0.0));
        }
        for at in (0..x.cols).step_by(STRETCH) {
            let steps = (x.cols - at).min(STRETCH) / 32;
            for i in 0..steps {
                let w = step::<L, F>(l, quants.add((at / 32 + i) * F::SHAPE.bits * plane));
                for (g, &w) in w.iter().enumerate() {
                    l.keep(room.add((8 * i + g) * plane), w);
                }
            }
            let scales = scales.add(at / F::SHAPE.block * block_bytes);
            for i in (0..n).step_by(TILE) {
                let input = |k: usize| {
                    let i = (i + k).min(n - 1);
                    Input {
                        x: x.quants.as_ptr().add((first + i) * x.cols + at),
                        sums: x.sums.as_ptr().add((first + i) * subs + at / F::SHAPE.sub),
                        scales: x.scales.as_ptr().add((first + i) * blocks + at / F::SHAPE.block),
                        out: out.add(i * L::ROWS),
                    }
                };
                let offset = offset::<L, F>();
                l.tile(Tile {
                    class: F::CLASS,
                    unpacked: room,
                    scales,
                    steps,
                    offset,
                    inputs: std::array::from_fn(input),
                    n: (n - i).min(TILE),
                });
            }
        }
    }
}

/// One input from a stretch on, and where its sums are.
struct Input {
    x: *const i8,
    sums: *const i16,
    scales: *const f32,
    out: *mut f32,
}

/// Unpacked quants of a stretch and inputs that they meet; the first `n` of these count.
pub(super) struct Tile {
    class: ClassOf,
    unpacked: *const u8,
    scales: *const u8,
    steps: usize,
    offset: i32,
    inputs: [Input; TILE],
    n: usize,
}

/// Adds the product of a stretch to each input's sums. Instruction sets make it a function of its own ([`Lanes::tile`]), so that it is there
/// once for a class and not once for each format.
///
/// # Safety
/// As [`many`] says.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes>(l: L, t: &Tile) {
    // SAFETY: as the caller promises.
    unsafe {
        match t.class {
            ClassOf::Wide => of_class::<L, Of<32, 32, false, true>>(l, t),
            ClassOf::Small => of_class::<L, Of<32, 32, false, false>>(l, t),
            ClassOf::SmallMinima => of_class::<L, Of<32, 32, true, false>>(l, t),
            ClassOf::Fine => of_class::<L, Of<256, 16, false, false>>(l, t),
            ClassOf::FineMinima => of_class::<L, Of<256, 16, true, false>>(l, t),
            ClassOf::Minima => of_class::<L, Of<256, 32, true, false>>(l, t),
        }
    }
}

/// # Safety
/// As [`many`] says.
#[inline(always)]
unsafe fn of_class<L: Lanes, C: Class>(l: L, t: &Tile) {
    // SAFETY: as the caller promises.
    unsafe {
        if t.n == TILE {
            inputs::<L, C, TILE>(l, t, &t.inputs);
        } else {
            for input in &t.inputs[..t.n] {
                inputs::<L, C, 1>(l, t, std::array::from_ref(input));
            }
        }
    }
}

/// # Safety
/// As [`many`] says.
#[inline(always)]
unsafe fn inputs<L: Lanes, C: Class, const N: usize>(l: L, t: &Tile, inputs: &[Input; N]) {
    let Tile { unpacked, scales, steps, offset, .. } = *t;
    let plane = 4 * L::ROWS;
    // SAFETY: as the caller promises.
    unsafe {
        let mut y: [L::F; N] = std::array::from_fn(|k| l.read(inputs[k].out));
        if C::BLOCK == 32 {
            let block_bytes = if C::MINIMA { 4 } else { 2 } * L::ROWS;
            for i in 0..steps {
                let (w, scales) = (planes(l, unpacked.add(8 * i * plane)), scales.add(i * block_bytes));
                for k in 0..N {
                    let [all, _] = dots::<L, C>(l, offset, &w, inputs[k].x.add(32 * i), inputs[k].sums.add(i));
                    y[k] = small::<L, C>(l, y[k], all, scales, *inputs[k].scales.add(i), *inputs[k].sums.add(i));
                }
            }
        } else {
            let mut blocks: [Super<L>; N] = std::array::from_fn(|_| Super::new(l));
            for i in 0..8 {
                let w = planes(l, unpacked.add(8 * i * plane));
                for (block, input) in blocks.iter_mut().zip(inputs) {
                    let each = dots::<L, C>(l, offset, &w, input.x.add(32 * i), input.sums.add(i * (32 / C::SUB)));
                    block.take::<C>(l, i, each, scales, input.sums);
                }
            }
            for (k, block) in blocks.into_iter().enumerate() {
                y[k] = block.end::<C>(l, y[k], scales, *inputs[k].scales);
            }
        }
        for k in 0..N {
            l.write(inputs[k].out, y[k]);
        }
    }
}
