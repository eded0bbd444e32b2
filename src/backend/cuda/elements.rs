//! Element by element: `kernels/elements.cu`.

use super::driver::{Kernel, Ptr, Shape};
use super::{Buf, Ctl, Cuda, args};

const THREADS: u32 = 256;

impl Cuda {
    /// Blocks for `n` elements, a thread 16 bytes.
    fn packs(&self, n: usize) -> Shape {
        Shape::of(n.div_ceil(THREADS as usize * 16 / self.precision().bytes()), THREADS)
    }

    pub(super) fn axpy_kernel(&self, y: &mut Buf, alpha: f64, x: &Buf, n: usize) {
        self.launch(Kernel::new("elements", "axpy"), self.packs(n), args![y, x, alpha as f32, n]);
    }

    pub(super) fn gelu_kernel(&self, y: &mut Buf, x: &Buf, n: usize) {
        self.launch(Kernel::new("elements", "gelu"), self.packs(n), args![y, x, n]);
    }

    pub(super) fn gelu_backward_kernel(&self, d: &mut Buf, x: &Buf, n: usize) {
        self.launch(Kernel::new("elements", "gelu_backward"), self.packs(n), args![d, x, n]);
    }

    /// `y (N, O) += b (O) + residual (N, O)`; `residual` may be `NULL`.
    pub(super) fn bias_add_kernel(&self, y: Ptr, residual: Ptr, b: Ptr, n: usize, o: usize) {
        self.launch(Kernel::new("elements", "bias_add"), self.packs(n * o), args![y, residual, b, n, o]);
    }

    /// `pre (N, O) += b (O)`, `y = gelu(pre)`; `b` may be `NULL`.
    pub(super) fn bias_gelu_kernel(&self, y: Ptr, pre: Ptr, b: Ptr, n: usize, o: usize) {
        self.launch(Kernel::new("elements", "bias_gelu"), self.packs(n * o), args![y, pre, b, n, o]);
    }

    pub(super) fn dropout_kernel(&self, y: &mut Buf, x: &Buf, p: f32, site: u64, ctl: &Ctl, n: usize) {
        let threshold = (f64::from(p) * 4_294_967_296.0) as u32; // p 2^32
        let factor = (1.0 / (1.0 - f64::from(p))) as f32;
        self.launch(Kernel::new("elements", "dropout"), self.packs(n), args![y, x, threshold, factor, site, ctl, n]);
    }
}
