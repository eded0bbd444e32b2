//! What a device can do at best, measured through its own kernels: a large product, and a copy or a sum that no cache holds.

use super::{Backend, BackendError};
use crate::rng::Rng;

/// The two rates that floors are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Floating-point operations a second of a large matrix product.
    pub flops_per_s: f64,
    /// Bytes a second, read and written counted, of a large copy or sum.
    pub bytes_per_s: f64,
}

/// Runs of each measurement; the best one counts, since a ceiling is what the device can do when nobody disturbs it.
const RUNS: usize = 7;
/// Random numbers that are drawn; larger buffers repeat them. On equal numbers a GPU is faster than on any model's.
const DRAWN: usize = 1 << 20;

/// The rate of a product of two square matrices of random numbers, `side` rows each.
pub fn product<B: Backend>(be: &B, side: usize) -> Result<f64, BackendError> {
    let mut rng = Rng::new(1);
    let drawn: Vec<f32> = (0..DRAWN.min(side * side)).map(|_| rng.normal() as f32).collect();
    let random = || {
        let mut buf = be.alloc_matrix(side, side)?;
        let values: Vec<f32> = drawn.iter().copied().cycle().take(side * side).collect();
        be.upload(&mut buf, &values)?;
        Ok::<_, BackendError>(buf)
    };
    let (x, w, mut y) = (random()?, random()?, be.alloc_matrix(side, side)?);
    let ms = best(be, &mut || be.linear(&mut y, &x, &w, None, side, side, side))?;
    Ok(2.0 * (side as f64).powi(3) / ms * 1e3)
}

/// The rate of memory: `y = x` or `y += x` of `bytes`, whichever is faster. A processor's cache reads what a copy only writes, so
/// that there the sum, which has to read it, moves the more bytes a second.
pub fn memory<B: Backend>(be: &B, bytes: usize) -> Result<f64, BackendError> {
    let n = bytes / be.widths().buf;
    let moved = (n * be.widths().buf) as f64 * 1e3;
    let (x, mut y) = (be.alloc(n)?, be.alloc(n)?);
    let copied = best(be, &mut || be.copy(&mut y, &x, n))?;
    let summed = best(be, &mut || be.axpy(&mut y, 1.0, &x, n))?;
    Ok((2.0 * moved / copied).max(3.0 * moved / summed))
}

/// The least milliseconds of one call, the first two aside: a device may choose its algorithm in these.
fn best<B: Backend>(be: &B, call: &mut dyn FnMut()) -> Result<f64, BackendError> {
    let mut least = f64::INFINITY;
    for run in 0..2 + RUNS {
        let from = be.mark()?;
        call();
        let ms = be.between(&from, &be.mark()?)?;
        if run >= 2 {
            least = least.min(ms);
        }
    }
    be.sync()?;
    Ok(least)
}
