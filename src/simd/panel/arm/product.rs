//! The algorithm of the ARM sets: one input at a time, or tiles of them.

use super::super::format::Form;
use super::super::{Inputs, Panel};
use super::sums::Sums;
use super::unpack::{Step, unpack};
use super::v;
use std::arch::aarch64::*;
use std::mem::MaybeUninit;

/// Columns whose quants are unpacked together for several inputs: they and four inputs' stay in 32 KB of L1.
const STRETCH: usize = 1024;
/// Inputs worked at together: eight registers of quants serve them all.
const TILE: usize = 4;

const fn step_bytes<F: Form>() -> usize {
    F::SHAPE.bits * 16
}

/// What is taken off quants by way of the activations' sums; those of 6 and 8 bits are signed, and have nothing to be taken off.
const fn offset<F: Form>() -> i16 {
    if F::SHAPE.bits == 6 || F::SHAPE.bits == 8 { 0 } else { F::SHAPE.offset as i16 }
}

/// Keeps LLVM from beginning many steps at once and spilling what they hold: what is loaded for one comes after the sums of the last but one. The last's
/// may still be under way, as cores that work in order need it.
#[derive(Clone, Copy)]
struct Pace([int32x4_t; 2]);

impl Pace {
    #[inline(always)]
    fn new() -> Self {
        v!(Self([vdupq_n_s32(0); 2]))
    }

    /// After the last two of `sums`.
    #[inline(always)]
    fn after<const N: usize>(sums: [int32x4_t; N]) -> Self {
        Self([sums[N.saturating_sub(2)], sums[N - 1]])
    }

    #[inline(always)]
    fn step(&mut self) {
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!("/* {0:v} */", in(vreg) self.0[0], options(nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn done(&mut self, sums: int32x4_t) {
        self.0 = [self.0[1], sums];
    }
}

/// `x`, of which LLVM is not to know the value: multiplying by a power of two it would make into a shift, a subtraction and a copy.
#[inline(always)]
fn hidden(x: int16x4_t) -> int16x4_t {
    let mut x = x;
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0:v} */", inout(vreg) x, options(pure, nomem, nostack, preserves_flags)) }
    x
}

/// # Safety
/// `x` is to 32 activations.
#[inline(always)]
unsafe fn activations(x: *const i8) -> [int8x16_t; 2] {
    v!([vld1q_s8(x), vld1q_s8(x.add(16))])
}

/// Four halves.
#[inline(always)]
fn floats(halves: int16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: an instruction that every aarch64 has, between registers.
    unsafe {
        std::arch::asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

/// The upper four of eight.
#[inline(always)]
fn high_floats(halves: int16x8_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

/// Four halves.
///
/// # Safety
/// `p` is to them.
#[inline(always)]
unsafe fn four_floats(p: *const u8) -> float32x4_t {
    v!(floats(vld1_s16(p.cast())))
}

/// Scales of up to four blocks of 32, of one input.
#[derive(Clone, Copy)]
struct Few {
    scales: float32x4_t,
    sums: int16x4_t,
    /// Scale times sum, where there are minima.
    totals: float32x4_t,
}

impl Few {
    /// # Safety
    /// The pointers are to four blocks' (`ONE`: one block's).
    #[inline(always)]
    unsafe fn read<F: Form, const ONE: bool>(scales: *const f32, sums: *const i16) -> Self {
        v!({
            let scales = if ONE { vld1q_dup_f32(scales) } else { vld1q_f32(scales) };
            let sums = if offset::<F>() == 0 && !F::SHAPE.minima {
                vdup_n_s16(0)
            } else if ONE {
                vld1_dup_s16(sums)
            } else {
                vld1_s16(sums)
            };
            Self { scales, sums, totals: vmulq_f32(scales, vcvtq_f32_s32(vmovl_s16(sums))) }
        })
    }
}

/// `y + ` the products of a block of 32 with the input whose scales are the `K`th, from the sums of its quants.
#[inline(always)]
fn small<F: Form, const K: i32>(y: float32x4_t, mut sums: int32x4_t, few: &Few, scale: float32x4_t, minimum: float32x4_t) -> float32x4_t {
    v!({
        if offset::<F>() != 0 {
            sums = vmlal_lane_s16::<K>(sums, hidden(vdup_n_s16(-offset::<F>())), few.sums);
        }
        let y = vfmaq_laneq_f32::<K>(y, vmulq_f32(vcvtq_f32_s32(sums), scale), few.scales);
        if F::SHAPE.minima { vfmaq_laneq_f32::<K>(y, minimum, few.totals) } else { y }
    })
}

/// Panels times one input.
///
/// # Safety
/// As [`Sums::one`] says.
#[inline(always)]
pub unsafe fn one<S: Sums, F: Form>(s: S, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>) {
    // SAFETY: as the caller promises.
    unsafe {
        let (mut quants, mut scales) = (panel.quants.as_ptr(), panel.scales.as_ptr());
        for p in 0..panel.count {
            let y = one_panel::<S, F>(s, quants, scales, x);
            vst1q_f32(out.add(4 * p), y);
            (quants, scales) = (quants.add(F::SHAPE.quant_bytes(4, x.cols)), scales.add(F::SHAPE.scale_bytes(4, x.cols)));
        }
    }
}

/// The rows of a panel times one input.
///
/// # Safety
/// As [`one`] says.
#[inline(always)]
unsafe fn one_panel<S: Sums, F: Form>(s: S, mut quants: *const u8, mut scales: *const u8, x: &Inputs<'_>) -> float32x4_t {
    let block_bytes = F::SHAPE.block_bytes(4);
    let (mut input, mut sums, mut dx) = (x.quants.as_ptr(), x.sums.as_ptr(), x.scales.as_ptr());
    let mut blocks = x.cols / F::SHAPE.block;
    // SAFETY: pointers go through panel and input as their lengths, checked before, allow.
    unsafe {
        let (mut y, mut pace) = (vdupq_n_f32(0.0), Pace::new());
        if F::SHAPE.block == 32 {
            let none = vdupq_n_f32(0.0);
            while blocks >= 4 {
                let few = Few::read::<F, false>(dx, sums);
                let halves: [int16x8_t; 4] =
                    std::array::from_fn(
                        |i| if i < 2 || F::SHAPE.minima { vld1q_s16(scales.cast::<i16>().add(8 * i)) } else { vdupq_n_s16(0) },
                    );
                let pick = |k: usize| match (F::SHAPE.minima, k % 2) {
                    (true, _) => (floats(v!(vget_low_s16(halves[k]))), high_floats(halves[k])),
                    (false, 0) => (floats(v!(vget_low_s16(halves[k / 2]))), none),
                    (false, _) => (high_floats(halves[k / 2]), none),
                };
                macro_rules! block {
                    ($($k:literal)*) => {$(
                        // Where there are no columns, registers suffice as LLVM has it.
                        if S::COLUMNS {
                            pace.step();
                        }
                        let (w, (scale, minimum)) = (unpack::<F>(quants.add($k * step_bytes::<F>())), pick($k));
                        y = small::<F, $k>(y, s.all::<F>(&w, activations(input.add(32 * $k))), &few, scale, minimum);
                        pace.done(vreinterpretq_s32_f32(y));
                    )*};
                }
                block!(0 1 2 3);
                (quants, scales, blocks) = (quants.add(4 * step_bytes::<F>()), scales.add(4 * block_bytes), blocks - 4);
                (input, sums, dx) = (input.add(128), sums.add(4), dx.add(4));
            }
            while blocks > 0 {
                let minimum = if F::SHAPE.minima { four_floats(scales.add(8)) } else { none };
                let (few, w) = (Few::read::<F, true>(dx, sums), unpack::<F>(quants));
                y = small::<F, 0>(y, s.all::<F>(&w, activations(input)), &few, four_floats(scales), minimum);
                (quants, scales, blocks) = (quants.add(step_bytes::<F>()), scales.add(block_bytes), blocks - 1);
                (input, sums, dx) = (input.add(32), sums.add(1), dx.add(1));
            }
        } else {
            while blocks > 0 {
                let mut block = [Super::new()];
                macro_rules! pairs {
                    ($($p:literal)*) => {$(
                        let w = quants.add(2 * $p * step_bytes::<F>());
                        let of_pair = parts::<F>(scales).0.add($p * pair_scales::<F>());
                        pair::<S, F, 1, false>(s, &mut pace, &mut block, w, of_pair, [input.add(64 * $p)], [sums.add($p * 64 / F::SHAPE.sub)]);
                    )*};
                }
                pairs!(0 1 2 3);
                [y] = end::<F, 1>([y], block, scales, [sums], [dx]);
                (quants, scales, blocks) = (quants.add(8 * step_bytes::<F>()), scales.add(block_bytes), blocks - 1);
                (input, sums, dx) = (input.add(256), sums.add(256 / F::SHAPE.sub), dx.add(1));
            }
        }
        y
    }
}

/// The sums of a block of 256.
#[derive(Clone, Copy)]
struct Super {
    total: int32x4_t,
    /// Scales times sums of activations, where an offset is to be taken off.
    excess: int32x4_t,
}

impl Super {
    #[inline(always)]
    fn new() -> Self {
        v!(Self { total: vdupq_n_s32(0), excess: vdupq_n_s32(0) })
    }
}

/// Bytes of the scales of two steps.
const fn pair_scales<F: Form>() -> usize {
    4 * 64 / F::SHAPE.sub
}

/// The scales of the sub-blocks, and their minima.
///
/// # Safety
/// `scales` is to a block of 256's.
#[inline(always)]
unsafe fn parts<F: Form>(scales: *const u8) -> (*const u8, *const u8) {
    // SAFETY: as the caller promises.
    unsafe {
        let first = scales.add(if F::SHAPE.minima { 16 } else { 8 });
        (first, first.add(4 * pair_scales::<F>()))
    }
}

/// The quants of a step, which `UNPACKED` are 128 bytes.
///
/// # Safety
/// `from` is to the step.
#[inline(always)]
unsafe fn step<F: Form, const UNPACKED: bool>(from: *const u8) -> Step {
    if !UNPACKED {
        return v!(unpack::<F>(from));
    }
    let w = from.cast::<i8>();
    v!([
        vld1q_s8(w),
        vld1q_s8(w.add(16)),
        vld1q_s8(w.add(32)),
        vld1q_s8(w.add(48)),
        vld1q_s8(w.add(64)),
        vld1q_s8(w.add(80)),
        vld1q_s8(w.add(96)),
        vld1q_s8(w.add(112)),
    ])
}

/// Takes two steps in, for `N` inputs.
///
/// # Safety
/// `w` is to the steps, `scales` to their sub-blocks', `x` to 64 activations each, `sums` to the sums of their sub-blocks.
#[inline(always)]
unsafe fn pair<S: Sums, F: Form, const N: usize, const UNPACKED: bool>(
    s: S,
    pace: &mut Pace,
    blocks: &mut [Super; N],
    w: *const u8,
    scales: *const u8,
    x: [*const i8; N],
    sums: [*const i16; N],
) {
    let bytes = if UNPACKED { 128 } else { step_bytes::<F>() };
    // SAFETY: as the caller promises.
    unsafe {
        pace.step();
        let wide =
            |eight: uint8x8_t| if F::SHAPE.minima { vreinterpretq_s16_u16(vmovl_u8(eight)) } else { vmovl_s8(vreinterpret_s8_u8(eight)) };
        if F::SHAPE.sub == 32 {
            let scales = wide(vld1_u8(scales));
            macro_rules! half {
                ($h:literal, $scale:expr) => {
                    pace.step();
                    let (w, scale) = (step::<F, UNPACKED>(w.add($h * bytes)), $scale);
                    for k in 0..if S::TWOS && UNPACKED { N.div_ceil(2) } else { 0 } {
                        let (a, b) = (2 * k, (2 * k + 1).min(N - 1));
                        let [[first, second], _] = s.two::<true>(&w, [activations(x[a].add(32 * $h)), activations(x[b].add(32 * $h))]);
                        blocks[a].total = vmlaq_s32(blocks[a].total, first, scale);
                        if b != a {
                            blocks[b].total = vmlaq_s32(blocks[b].total, second, scale);
                        }
                    }
                    for k in 0..if S::TWOS && UNPACKED { 0 } else { N } {
                        pace.step();
                        blocks[k].total = vmlaq_s32(blocks[k].total, s.all::<F>(&w, activations(x[k].add(32 * $h))), scale);
                        pace.done(blocks[k].total);
                    }
                };
            }
            half!(0, vmovl_s16(vget_low_s16(scales)));
            half!(1, vmovl_high_s16(scales));
        } else {
            let scales = vld1q_u8(scales);
            let scales = [wide(vget_low_u8(scales)), wide(vget_high_u8(scales))];
            macro_rules! half {
                ($h:literal) => {
                    pace.step();
                    let w = step::<F, UNPACKED>(w.add($h * bytes));
                    for k in 0..if S::TWOS && UNPACKED { N.div_ceil(2) } else { 0 } {
                        let (a, b) = (2 * k, (2 * k + 1).min(N - 1));
                        let sums = s.two::<false>(&w, [activations(x[a].add(32 * $h)), activations(x[b].add(32 * $h))]);
                        let (low, high) = (vmovl_s16(vget_low_s16(scales[$h])), vmovl_high_s16(scales[$h]));
                        blocks[a].total = vmlaq_s32(vmlaq_s32(blocks[a].total, sums[0][0], low), sums[1][0], high);
                        if b != a {
                            blocks[b].total = vmlaq_s32(vmlaq_s32(blocks[b].total, sums[0][1], low), sums[1][1], high);
                        }
                    }
                    for k in 0..if S::TWOS && UNPACKED { 0 } else { N } {
                        pace.step();
                        blocks[k].total = s.halves::<F>(blocks[k].total, &w, activations(x[k].add(32 * $h)), scales[$h]);
                        pace.done(blocks[k].total);
                    }
                };
            }
            half!(0);
            half!(1);
            if offset::<F>() != 0 && !F::SHAPE.minima {
                for k in 0..N {
                    let sums = vld1_s16(sums[k]);
                    let excess = vmlal_lane_s16::<0>(blocks[k].excess, vget_low_s16(scales[0]), sums);
                    let excess = vmlal_lane_s16::<2>(vmlal_high_lane_s16::<1>(excess, scales[0], sums), vget_low_s16(scales[1]), sums);
                    blocks[k].excess = vmlal_high_lane_s16::<3>(excess, scales[1], sums);
                }
            }
        }
    }
}

/// `y + ` the products of a block of 256 with `N` inputs.
///
/// # Safety
/// `scales` is to the block's scales, `sums` to those of its activations, `dx` to the inputs' scales.
#[inline(always)]
unsafe fn end<F: Form, const N: usize>(
    mut y: [float32x4_t; N],
    blocks: [Super; N],
    scales: *const u8,
    sums: [*const i16; N],
    dx: [*const f32; N],
) -> [float32x4_t; N] {
    // SAFETY: as the caller promises.
    unsafe {
        let scale = four_floats(scales);
        for k in 0..N {
            let mut total = blocks[k].total;
            if offset::<F>() != 0 && !F::SHAPE.minima {
                total = vmlaq_s32(total, blocks[k].excess, vdupq_n_s32(-i32::from(offset::<F>())));
            }
            y[k] = vfmaq_n_f32(y[k], vmulq_f32(vcvtq_f32_s32(total), scale), *dx[k]);
        }
        if F::SHAPE.minima {
            let scale = four_floats(scales.add(8));
            let least = minima::<F, N>(parts::<F>(scales).1, sums);
            for k in 0..N {
                y[k] = vfmaq_n_f32(y[k], vmulq_f32(vcvtq_f32_s32(least[k]), scale), *dx[k]);
            }
        }
        y
    }
}

/// Less the minima of a block of 256 times the sums of their activations.
///
/// # Safety
/// `minima` is to the block's minima, `sums` to the sums of its sub-blocks.
#[inline(always)]
unsafe fn minima<F: Form, const N: usize>(minima: *const u8, sums: [*const i16; N]) -> [int32x4_t; N] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut acc = [vdupq_n_s32(0); N];
        eight_minima(&mut acc, minima, sums);
        if F::SHAPE.sub == 16 {
            eight_minima(&mut acc, minima.add(32), std::array::from_fn(|k| sums[k].add(8)));
        }
        acc
    }
}

/// Takes those of eight sub-blocks off.
///
/// # Safety
/// As [`minima`] says.
#[inline(always)]
unsafe fn eight_minima<const N: usize>(acc: &mut [int32x4_t; N], minima: *const u8, sums: [*const i16; N]) {
    // SAFETY: as the caller promises.
    unsafe {
        let sums: [int16x8_t; N] = std::array::from_fn(|k| vld1q_s16(sums[k]));
        macro_rules! sixteen {
            ($($q:literal $a:literal $b:literal $c:literal $d:literal),*) => {$(
                let m = vld1q_u8(minima.add(16 * $q));
                let (low, high) = (vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(m))), vreinterpretq_s16_u16(vmovl_high_u8(m)));
                for k in 0..N {
                    let a = vmlsl_laneq_s16::<$a>(acc[k], vget_low_s16(low), sums[k]);
                    let a = vmlsl_high_laneq_s16::<$b>(a, low, sums[k]);
                    let a = vmlsl_laneq_s16::<$c>(a, vget_low_s16(high), sums[k]);
                    acc[k] = vmlsl_high_laneq_s16::<$d>(a, high, sums[k]);
                }
            )*};
        }
        sixteen!(0 0 1 2 3, 1 4 5 6 7);
    }
}

/// Panels times several inputs.
///
/// # Safety
/// As [`Sums::many`] says.
#[inline(always)]
pub unsafe fn many<S: Sums, F: Form>(s: S, out: *mut f32, panel: Panel<'_>, x: &Inputs<'_>) {
    /// Room for a stretch.
    #[repr(align(64))]
    struct Unpacked([MaybeUninit<i8>; STRETCH * 4]);
    let mut unpacked = Unpacked([const { MaybeUninit::uninit() }; STRETCH * 4]);
    let room = unpacked.0.as_mut_ptr().cast::<i8>();
    // SAFETY: as the caller promises.
    unsafe {
        let (mut out, mut quants, mut scales) = (out, panel.quants.as_ptr(), panel.scales.as_ptr());
        for _ in 0..panel.count {
            many_of_one::<S, F>(s, out, quants, scales, x, room);
            (quants, scales) = (quants.add(F::SHAPE.quant_bytes(4, x.cols)), scales.add(F::SHAPE.scale_bytes(4, x.cols)));
            out = out.add(4 * x.n);
        }
    }
}

/// One panel times several inputs; its quants are unpacked to `room`.
///
/// # Safety
/// As [`many`] says.
#[inline(always)]
unsafe fn many_of_one<S: Sums, F: Form>(s: S, out: *mut f32, quants: *const u8, scales: *const u8, x: &Inputs<'_>, room: *mut i8) {
    // SAFETY: pointers go through panel, inputs and output as their lengths, checked before, allow.
    unsafe {
        for i in 0..x.n {
            vst1q_f32(out.add(4 * i), vdupq_n_f32(0.0));
        }
        for at in (0..x.cols).step_by(STRETCH) {
            let steps = (x.cols - at).min(STRETCH) / 32;
            let packed = quants.add(at / 32 * step_bytes::<F>());
            let unpacks = F::SHAPE.bits < 8 || S::TWOS;
            if unpacks {
                for i in 0..steps {
                    for (g, w) in s.zipped(unpack::<F>(packed.add(i * step_bytes::<F>()))).into_iter().enumerate() {
                        vst1q_s8(room.add(128 * i + 16 * g), w);
                    }
                }
            }
            let w = if unpacks { room.cast_const().cast() } else { packed };
            let scales = scales.add(at / F::SHAPE.block * F::SHAPE.block_bytes(4));
            let mut i = 0;
            while i < x.n {
                match x.n - i {
                    TILE.. => {
                        tile::<S, F, TILE>(s, w, scales, steps, std::array::from_fn(|k| Input::of::<F>(out, x, i + k, at)));
                        i += TILE;
                    }
                    _ => {
                        tile::<S, F, 1>(s, w, scales, steps, [Input::of::<F>(out, x, i, at)]);
                        i += 1;
                    }
                }
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

impl Input {
    /// Input `i` from column `at` on.
    ///
    /// # Safety
    /// `i` and `at` are within the inputs.
    #[inline(always)]
    unsafe fn of<F: Form>(out: *mut f32, x: &Inputs<'_>, i: usize, at: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                x: x.quants.as_ptr().add(i * x.cols + at),
                sums: x.sums.as_ptr().add((i * x.cols + at) / F::SHAPE.sub),
                scales: x.scales.as_ptr().add((i * x.cols + at) / F::SHAPE.block),
                out: out.add(4 * i),
            }
        }
    }
}

/// Adds the product of a stretch of unpacked quants with `N` inputs.
///
/// # Safety
/// As [`many`] says.
#[inline(always)]
unsafe fn tile<S: Sums, F: Form, const N: usize>(s: S, mut w: *const u8, mut scales: *const u8, steps: usize, inputs: [Input; N]) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut y: [float32x4_t; N] = std::array::from_fn(|k| vld1q_f32(inputs[k].out));
        if F::SHAPE.block == 32 {
            for i in 0..steps {
                let mut pace = Pace::after(std::array::from_fn::<_, N, _>(|k| vreinterpretq_s32_f32(y[k])));
                pace.step();
                let (q, scale) = (step::<F, true>(w), four_floats(scales));
                let minimum = if F::SHAPE.minima { four_floats(scales.add(8)) } else { scale };
                for k in 0..if S::TWOS { N.div_ceil(2) } else { 0 } {
                    let (a, b) = (2 * k, (2 * k + 1).min(N - 1));
                    let x = [activations(inputs[a].x.add(32 * i)), activations(inputs[b].x.add(32 * i))];
                    let [[first, second], _] = s.two::<true>(&q, x);
                    let few = Few::read::<F, true>(inputs[a].scales.add(i), inputs[a].sums.add(i));
                    y[a] = small::<F, 0>(y[a], first, &few, scale, minimum);
                    if b != a {
                        let few = Few::read::<F, true>(inputs[b].scales.add(i), inputs[b].sums.add(i));
                        y[b] = small::<F, 0>(y[b], second, &few, scale, minimum);
                    }
                }
                for k in 0..if S::TWOS { 0 } else { N } {
                    pace.step();
                    let few = Few::read::<F, true>(inputs[k].scales.add(i), inputs[k].sums.add(i));
                    y[k] = small::<F, 0>(y[k], s.all::<F>(&q, activations(inputs[k].x.add(32 * i))), &few, scale, minimum);
                    pace.done(vreinterpretq_s32_f32(y[k]));
                }
                (w, scales) = (w.add(128), scales.add(F::SHAPE.block_bytes(4)));
            }
        } else {
            for b in 0..steps / 8 {
                let sums = std::array::from_fn(|k| inputs[k].sums.add(b * 256 / F::SHAPE.sub));
                let mut blocks = [Super::new(); N];
                for p in 0..4 {
                    let x = std::array::from_fn(|k| inputs[k].x.add(256 * b + 64 * p));
                    let sums: [*const i16; N] = std::array::from_fn(|k| sums[k].add(p * 64 / F::SHAPE.sub));
                    let mut pace = Pace::after(std::array::from_fn::<_, N, _>(|k| blocks[k].total));
                    pair::<S, F, N, true>(s, &mut pace, &mut blocks, w, parts::<F>(scales).0.add(p * pair_scales::<F>()), x, sums);
                    w = w.add(256);
                }
                y = end::<F, N>(y, blocks, scales, sums, std::array::from_fn(|k| inputs[k].scales.add(b)));
                scales = scales.add(F::SHAPE.block_bytes(4));
            }
        }
        for k in 0..N {
            vst1q_f32(inputs[k].out, y[k]);
        }
    }
}
