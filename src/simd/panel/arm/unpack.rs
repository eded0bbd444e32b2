//! Planes of a step to its eight registers of quants. `pack::tight` says where each bit lies.

use super::super::format::Form;
use super::v;
use std::arch::aarch64::*;

/// The eight registers of a step.
pub type Step = [int8x16_t; 8];

/// Signed bytes of unsigned ones.
#[inline(always)]
fn signed(b: uint8x16_t) -> int8x16_t {
    v!(vreinterpretq_s8_u8(b))
}

// Neither closures over several planes nor `map`: LLVM leaves some of those as calls, and quants in memory.

/// Four registers of 6 bits, from three planes.
#[inline(always)]
fn sixes(a: int8x16_t, b: int8x16_t, c: int8x16_t) -> [int8x16_t; 4] {
    v!({
        let rest = vsliq_n_s8::<6>(vsliq_n_s8::<4>(vshlq_n_s8::<2>(c), b), a);
        [vshrq_n_s8::<2>(a), vshrq_n_s8::<2>(b), vshrq_n_s8::<2>(c), vshrq_n_s8::<2>(rest)]
    })
}

/// Four registers of 2 bits, from a plane.
#[inline(always)]
fn twos(p: uint8x16_t) -> [int8x16_t; 4] {
    v!({
        let two = vdupq_n_u8(3);
        let (first, second) = (vandq_u8(p, two), vandq_u8(vshrq_n_u8::<2>(p), two));
        [signed(first), signed(second), signed(vandq_u8(vshrq_n_u8::<4>(p), two)), signed(vshrq_n_u8::<6>(p))]
    })
}

/// Unpacks a step.
///
/// # Safety
/// `from` is to its planes.
#[inline(always)]
pub unsafe fn unpack<F: Form>(from: *const u8) -> Step {
    // SAFETY: a step has as many planes as its quants have bits, and `i` is below that.
    let plane = |i: usize| unsafe { vld1q_u8(from.add(16 * i)) };
    let byte = |i: usize| signed(plane(i));
    match F::SHAPE.bits {
        8 => [byte(0), byte(1), byte(2), byte(3), byte(4), byte(5), byte(6), byte(7)],
        6 => {
            let [a, b, c, d] = sixes(byte(0), byte(1), byte(2));
            let [e, f, g, h] = sixes(byte(3), byte(4), byte(5));
            [a, b, c, d, e, f, g, h]
        }
        5 => v!({
            let (a, b, c, d, e) = (plane(0), plane(1), plane(2), plane(3), plane(4));
            let five = vdupq_n_u8(31);
            let rest = vsliq_n_u8::<4>(vsliq_n_u8::<3>(e, vshrq_n_u8::<2>(b)), vshrq_n_u8::<2>(d));
            [
                signed(vshrq_n_u8::<3>(a)),
                signed(vshrq_n_u8::<3>(b)),
                signed(vshrq_n_u8::<3>(c)),
                signed(vshrq_n_u8::<3>(d)),
                signed(vshrq_n_u8::<3>(e)),
                signed(vandq_u8(vsliq_n_u8::<3>(a, b), five)),
                signed(vandq_u8(vsliq_n_u8::<3>(c, d), five)),
                signed(vandq_u8(rest, five)),
            ]
        }),
        4 => v!({
            let (a, b, c, d) = (plane(0), plane(1), plane(2), plane(3));
            let four = vdupq_n_u8(15);
            [
                signed(vandq_u8(a, four)),
                signed(vandq_u8(b, four)),
                signed(vandq_u8(c, four)),
                signed(vandq_u8(d, four)),
                signed(vshrq_n_u8::<4>(a)),
                signed(vshrq_n_u8::<4>(b)),
                signed(vshrq_n_u8::<4>(c)),
                signed(vshrq_n_u8::<4>(d)),
            ]
        }),
        3 => v!({
            let (a, b, c) = (plane(0), plane(1), plane(2));
            let three = vdupq_n_u8(7);
            [
                signed(vandq_u8(a, three)),
                signed(vshrq_n_u8::<5>(a)),
                signed(vandq_u8(b, three)),
                signed(vshrq_n_u8::<5>(b)),
                signed(vandq_u8(c, three)),
                signed(vshrq_n_u8::<5>(c)),
                signed(vandq_u8(vsliq_n_u8::<2>(vshrq_n_u8::<3>(a), vshrq_n_u8::<3>(c)), three)),
                signed(vandq_u8(vsliq_n_u8::<2>(vshrq_n_u8::<3>(b), vshrq_n_u8::<4>(c)), three)),
            ]
        }),
        2 => {
            let ([a, b, c, d], [e, f, g, h]) = (twos(plane(0)), twos(plane(1)));
            [a, b, c, d, e, f, g, h]
        }
        _ => unreachable!(),
    }
}
