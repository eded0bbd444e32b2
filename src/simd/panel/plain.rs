//! Four rows in arrays: the truth of the instructions, and what runs where there are none.

use super::product::{self, Tile};
use super::{Format, Inputs, Lanes, Panel};
use half::f16;

#[derive(Clone, Copy)]
pub struct Plain;

/// Runs a product. By itself: what it keeps on the stack would be made room for before each product of the others.
#[inline(never)]
pub fn plain(format: Format, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    format.run(Plain, out, panel, x);
}

const R: usize = 4;

/// `x` of each lane.
fn lanes<T>(x: impl FnMut(usize) -> T) -> [T; R] {
    std::array::from_fn(x)
}

impl Lanes for Plain {
    const ROWS: usize = R;
    const SIGNED: bool = true;
    const PAIRED: bool = true;
    type B = [u8; 4 * R];
    type X = [i8; 16];
    type Acc = [i32; R];
    type I = [i32; R];
    type F = [f32; R];
    type S = [i32; R];
    type T = [i32; R];

    unsafe fn tile(self, tile: Tile) {
        // SAFETY: as the trait says; so below.
        unsafe { product::tile(self, &tile) }
    }
    unsafe fn load(self, plane: *const u8) -> [u8; 4 * R] {
        // SAFETY: as the trait says.
        unsafe { plane.cast::<[u8; 4 * R]>().read() }
    }
    unsafe fn keep(self, plane: *mut u8, b: [u8; 4 * R]) {
        // SAFETY: as the trait says.
        unsafe { plane.cast::<[u8; 4 * R]>().write(b) }
    }
    fn field<const RIGHT: i32, const MASK: i32>(self, b: [u8; 4 * R]) -> [u8; 4 * R] {
        b.map(|b| b >> RIGHT & MASK as u8)
    }
    fn merge<const LEFT: i32, const MASK: i32>(self, low: [u8; 4 * R], high: [u8; 4 * R]) -> [u8; 4 * R] {
        std::array::from_fn(|i| low[i] | (if LEFT < 0 { high[i] >> -LEFT } else { high[i] << LEFT }) & MASK as u8)
    }
    unsafe fn activations(self, x: *const i8) -> [i8; 16] {
        // SAFETY: as the trait says.
        unsafe { x.cast::<[i8; 16]>().read() }
    }
    fn begin(self, offset: i32) -> [i32; R] {
        [-offset; R]
    }
    fn dot<const G: i32>(self, acc: [i32; R], w: [u8; 4 * R], x: [i8; 16]) -> [i32; R] {
        lanes(|r| acc[r] + (0..4).map(|i| i32::from(w[4 * r + i]) * i32::from(x[4 * G as usize + i])).sum::<i32>())
    }
    fn dot_wide(self, acc: [i32; R], w: [[u8; 4 * R]; 4], x: [i8; 16]) -> [i32; R] {
        lanes(|r| acc[r] + (0..16).map(|i| i32::from(w[i / 4][4 * r + i % 4] as i8) * i32::from(x[i])).sum::<i32>())
    }
    fn finish(self, acc: [i32; R], _: i32) -> [i32; R] {
        acc
    }
    fn float(self, i: [i32; R]) -> [f32; R] {
        i.map(|i| i as f32)
    }
    fn nothing(self) -> [i32; R] {
        [0; R]
    }
    unsafe fn scale<const UNSIGNED: bool>(self, scales: *const u8) -> [i32; R] {
        lanes(|r| {
            // SAFETY: as the trait says.
            let byte = unsafe { *scales.add(r) };
            if UNSIGNED { i32::from(byte) } else { i32::from(byte as i8) }
        })
    }
    fn weigh(self, total: [i32; R], sums: [i32; R], scale: [i32; R]) -> [i32; R] {
        lanes(|r| total[r] + sums[r] * scale[r])
    }
    fn total(self, total: [i32; R]) -> [f32; R] {
        self.float(total)
    }
    fn zero(self) -> [i32; R] {
        [0; R]
    }
    unsafe fn minima(self, acc: [i32; R], minima: *const u8, sums: *const i16) -> [i32; R] {
        // SAFETY: as the trait says.
        lanes(|r| acc[r] + (0..2).map(|i| unsafe { i32::from(*minima.add(2 * r + i)) * i32::from(*sums.add(i)) }).sum::<i32>())
    }
    unsafe fn half(self, f16s: *const u8) -> [f32; R] {
        // SAFETY: as the trait says.
        lanes(|r| f16::from_le_bytes(unsafe { f16s.add(2 * r).cast::<[u8; 2]>().read() }).to_f32())
    }
    fn splat(self, x: f32) -> [f32; R] {
        [x; R]
    }
    fn mul(self, a: [f32; R], b: [f32; R]) -> [f32; R] {
        lanes(|r| a[r] * b[r])
    }
    fn fma(self, a: [f32; R], b: [f32; R], c: [f32; R]) -> [f32; R] {
        // `mul_add` without the instruction is a library call, forty times as slow.
        lanes(|r| a[r] * b[r] + c[r])
    }
    unsafe fn read(self, p: *const f32) -> [f32; R] {
        // SAFETY: as the trait says.
        unsafe { p.cast::<[f32; R]>().read() }
    }
    unsafe fn write(self, p: *mut f32, f: [f32; R]) {
        // SAFETY: as the trait says.
        unsafe { p.cast::<[f32; R]>().write(f) }
    }
}
