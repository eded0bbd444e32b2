//! NEON as every aarch64 has it, with dot products, and with matrix products of bytes.
//!
//! Panels of four rows; a register of unpacked quants is four rows of four columns, or, where there are no dot products, sixteen
//! columns of one row ([`Layout::columns`](super::Layout)): then activations are multiplied as they lie, none is spread over lanes. What all sets share is in
//! [`product`], the order of sums too; [`sums`] has what they do in their own ways.
//!
//! Small cores take an instruction or two a cycle, and a 128-bit load costs them as much as two or four others: so planes are laid out for
//! shifts that insert ([`unpack`]), loads come in pairs, and scales are widened several at a time.

mod product;
mod sums;
mod unpack;

use super::format::Form;
use super::product::check;
use super::{Inputs, Layout, Panel};
pub use sums::{DotProd, I8mm, Neon, Sums};

/// Wraps an intrinsic.
macro_rules! v {
    ($e:expr) => {{
        // SAFETY: whoever holds the token is on a machine with the features, and pointers are the caller's promise.
        #[allow(unused_unsafe)]
        unsafe {
            $e
        }
    }};
}
use v;

/// How a set's panels are laid out.
pub const fn layout<S: Sums>() -> Layout {
    Layout { rows: 4, signed: true, paired: false, tight: true, columns: S::COLUMNS }
}

/// Runs a product.
///
/// # Safety
/// The machine must have the set's features.
#[inline(always)]
pub unsafe fn run<S: Sums, F: Form>(s: S, out: &mut [f32], panel: Panel<'_>, x: &Inputs<'_>) {
    check::<F>(4, out, panel, x);
    // SAFETY: `check` saw that panel, inputs and output are as long as they must be; features are the caller's promise.
    unsafe { if x.n == 1 { s.one::<F>(out.as_mut_ptr(), panel, x) } else { s.many::<F>(out.as_mut_ptr(), panel, x) } }
}
