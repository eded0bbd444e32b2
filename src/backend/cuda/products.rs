//! Matrix products: what each is in the driver's words, and what happens where an epilogue is not to be had.
//!
//! In row-major terms `y (N, O) = x (N, I) w (O, I)^T`, `dx = dy w`, `dw = dy^T x`.

use super::driver::{Epilogue, Matrix, NULL, Product};
use super::{Acc, Buf, Cuda};

impl Cuda {
    fn forward(y: &Buf, x: &Buf, w: &Buf, n: usize, i: usize, o: usize) -> Product {
        Product {
            m: n,
            n: o,
            k: i,
            a: Matrix::plain(x.ptr(), i),
            b: Matrix::transposed(w.ptr(), i),
            y: y.ptr(),
            c: y.ptr(),
            stride: o,
            alpha: 1.0,
            beta: 0.0,
            accumulate: false,
            epilogue: Epilogue::None,
        }
    }

    fn run(&self, product: &Product) {
        self.driver.product(product).expect("every driver multiplies plain matrices");
    }

    pub(super) fn product_forward(&self, y: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let epilogue = b.map_or(Epilogue::None, |b| Epilogue::Bias(b.ptr()));
        self.run(&Product { epilogue, ..Self::forward(y, x, w, n, i, o) });
    }

    pub(super) fn product_forward_add(&self, y: &mut Buf, alpha: f64, x: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.run(&Product { alpha: alpha as f32, beta: 1.0, ..Self::forward(y, x, w, n, i, o) });
    }

    pub(super) fn product_gelu(&self, y: &mut Buf, pre: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let epilogue = Epilogue::BiasGelu { bias: b.map_or(NULL, Buf::ptr), pre: pre.ptr() };
        self.run(&Product { epilogue, ..Self::forward(y, x, w, n, i, o) });
    }

    pub(super) fn product_residual(&self, y: &mut Buf, residual: &Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let epilogue = b.map_or(Epilogue::None, |b| Epilogue::Bias(b.ptr()));
        self.run(&Product { c: residual.ptr(), beta: 1.0, epilogue, ..Self::forward(y, x, w, n, i, o) });
    }

    fn backward(dx: &Buf, dy: &Buf, w: &Buf, n: usize, i: usize, o: usize) -> Product {
        Product { n: i, k: o, a: Matrix::plain(dy.ptr(), o), b: Matrix::plain(w.ptr(), i), stride: i, ..Self::forward(dx, dy, w, n, i, o) }
    }

    pub(super) fn product_dx(&self, dx: &mut Buf, dy: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.run(&Self::backward(dx, dy, w, n, i, o));
    }

    pub(super) fn product_dx_add(&self, dx: &mut Buf, alpha: f64, dy: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.run(&Product { alpha: alpha as f32, beta: 1.0, ..Self::backward(dx, dy, w, n, i, o) });
    }

    pub(super) fn product_dx_gelu(&self, dpre: &mut Buf, dy: &Buf, w: &Buf, pre: &Buf, n: usize, i: usize, o: usize) {
        self.run(&Product { epilogue: Epilogue::GeluBackward { pre: pre.ptr() }, ..Self::backward(dpre, dy, w, n, i, o) });
    }

    pub(super) fn product_dw(
        &self,
        dw: Option<&mut Acc>,
        db: Option<&mut Acc>,
        alpha: f64,
        dy: &Buf,
        x: &Buf,
        n: usize,
        i: usize,
        o: usize,
    ) {
        let Some(dw) = dw else { todo!("column sums by themselves") };
        let _ = db;
        self.run(&Product {
            m: o,
            n: i,
            k: n,
            a: Matrix::transposed(dy.ptr(), o),
            b: Matrix::plain(x.ptr(), i),
            y: dw.ptr(),
            c: dw.ptr(),
            stride: i,
            alpha: alpha as f32,
            beta: 1.0,
            accumulate: true,
            epilogue: Epilogue::None,
        });
    }
}
