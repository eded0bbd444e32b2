//! Matrix products: what each is in the driver's words, and what happens where an epilogue is not to be had; `kernels/products.cu`.
//!
//! In row-major terms `y (N, O) = x (N, I) w (O, I)^T`, `dx = dy w`, `dw = dy^T x`.

use super::driver::{Arg, Epilogue, Kernel, Matrix, NULL, Product, Ptr, Shape};
use super::{Acc, Buf, Cuda, args};
use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

const THREADS: u32 = 256;
/// Columns and rows of a block's part of a plain product.
const TILE: usize = 32;
/// Rows that a block sums columns over, as long as [`MOST_CHUNKS`] are enough.
const CHUNK_ROWS: usize = 64;
/// Blocks above one another in a sum of columns: with a few beside them they fill a device, and their sums are few.
const MOST_CHUNKS: usize = 128;

/// A kind of epilogue, whether the product is added to something, and its sizes.
type Asked = (Discriminant<Epilogue>, bool, [usize; 3]);

/// Products that the driver refused with their epilogue: it is asked once for each.
#[derive(Default)]
pub(super) struct Refused(RefCell<HashSet<Asked>>);

/// The launch that computes a product without an epilogue, of any sizes, strides and transpositions: for a driver whose library
/// has no algorithm for it. Slow, and right.
///
/// # Panics
/// If the product has an epilogue: that is the driver's to refuse.
#[must_use]
pub fn plain(p: &Product) -> (Kernel, Shape, Vec<Arg>) {
    assert_eq!(p.epilogue, Epilogue::None, "the plain product has no epilogue");
    let name = if p.accumulate { "product_plain_wide" } else { "product_plain" };
    let grid = [p.n.div_ceil(TILE) as u32, p.m.div_ceil(TILE) as u32, 1];
    let shape = Shape { grid, block: [THREADS, 1, 1], shared: 0 };
    let transposed = [u32::from(p.a.transposed), u32::from(p.b.transposed)];
    let args: &[Arg] =
        args![p.y, p.c, p.a.ptr, p.b.ptr, p.m, p.n, p.k, p.a.stride, p.b.stride, p.stride, transposed[0], transposed[1], p.alpha, p.beta];
    (Kernel::new("products", name), shape, args.to_vec())
}

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

    /// Runs a product without an epilogue.
    pub(super) fn run(&self, product: &Product) {
        debug_assert_eq!(product.epilogue, Epilogue::None);
        self.driver.product(product).expect("every driver multiplies plain matrices");
    }

    /// Runs a product with its epilogue, or nothing where the driver has none such.
    fn ran_whole(&self, product: &Product) -> bool {
        let key: Asked = (discriminant(&product.epilogue), product.beta != 0.0, [product.m, product.n, product.k]);
        if self.refused.0.borrow().contains(&key) {
            return false;
        }
        let ran = self.driver.product(product).is_ok();
        if !ran {
            self.refused.0.borrow_mut().insert(key);
        }
        ran
    }

    pub(super) fn product_forward(&self, y: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let plain = Self::forward(y, x, w, n, i, o);
        let Some(b) = b else { return self.run(&plain) };
        if !self.ran_whole(&Product { epilogue: Epilogue::Bias(b.ptr()), ..plain }) {
            self.run(&plain);
            self.bias_add_kernel(y.ptr(), NULL, b.ptr(), n, o);
        }
    }

    pub(super) fn product_forward_add(&self, y: &mut Buf, alpha: f64, x: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.run(&Product { alpha: alpha as f32, beta: 1.0, ..Self::forward(y, x, w, n, i, o) });
    }

    pub(super) fn product_gelu(&self, y: &mut Buf, pre: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let b = b.map_or(NULL, Buf::ptr);
        let epilogue = Epilogue::BiasGelu { bias: b, pre: pre.ptr() };
        if !self.ran_whole(&Product { epilogue, ..Self::forward(y, x, w, n, i, o) }) {
            self.run(&Self::forward(pre, x, w, n, i, o));
            self.bias_gelu_kernel(y.ptr(), pre.ptr(), b, n, o);
        }
    }

    pub(super) fn product_residual(&self, y: &mut Buf, residual: &Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        let plain = Self::forward(y, x, w, n, i, o);
        let added = Product { c: residual.ptr(), beta: 1.0, ..plain };
        let Some(b) = b else { return self.run(&added) };
        if !self.ran_whole(&Product { epilogue: Epilogue::Bias(b.ptr()), ..added }) {
            // The residual comes with the bias: it is the larger part, and so is rounded once.
            self.run(&plain);
            self.bias_add_kernel(y.ptr(), residual.ptr(), b.ptr(), n, o);
        }
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
        let plain = Self::backward(dpre, dy, w, n, i, o);
        if !self.ran_whole(&Product { epilogue: Epilogue::GeluBackward { pre: pre.ptr() }, ..plain }) {
            self.run(&plain);
            self.gelu_backward_kernel(dpre, pre, n * i);
        }
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
        let product = dw.map(|dw| Product {
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
        match (product, db) {
            (Some(product), Some(db)) => {
                // The epilogue overwrites, so that its sums go by way of scratch.
                let sums = self.scratch("column sums", o * 4);
                if sums == NULL {
                    return;
                }
                if self.ran_whole(&Product { epilogue: Epilogue::LeftSums(sums), ..product }) {
                    self.add_partials(db, sums, 1, o);
                } else {
                    self.run(&product);
                    self.column_sums(db, dy, n, o);
                }
            }
            (Some(product), None) => self.run(&product),
            (None, Some(db)) => self.column_sums(db, dy, n, o),
            (None, None) => {}
        }
    }

    /// `db (O) += column sums of dy (N, O)`.
    fn column_sums(&self, db: &mut Acc, dy: &Buf, n: usize, o: usize) {
        let chunks = n.div_ceil(CHUNK_ROWS).min(MOST_CHUNKS);
        let chunk = n.div_ceil(chunks.max(1));
        let partials = self.scratch("column sums", chunks * o * 4);
        if partials == NULL {
            return;
        }
        let columns = 32 * 16 / self.precision().bytes();
        let shape = Shape { grid: [o.div_ceil(columns) as u32, chunks as u32, 1], block: [THREADS, 1, 1], shared: 0 };
        self.launch(Kernel::new("products", "column_sums"), shape, args![partials, dy, n, o, chunk]);
        self.add_partials(db, partials, chunks, o);
    }

    /// `db (O) +=` the sums of `partials (chunks, O)`.
    fn add_partials(&self, db: &mut Acc, partials: Ptr, chunks: usize, o: usize) {
        let shape = Shape::of(o.div_ceil(32), THREADS);
        self.launch(Kernel::new("products", "add_partials"), shape, args![db, partials, chunks, o]);
    }
}
