//! `kernels/products.cu`, and what `backend::cuda::products` makes of a driver with epilogues and of one without.

use super::common::{AccTwin, Bars, Twin, bars, compare, each, normal};
use super::shim::{self, Options};
use tinyllm::backend::Backend;
use tinyllm::backend::cuda::driver::{Epilogue, Matrix, Precision, Product};
use tinyllm::backend::cuda::{Cuda, products};
use tinyllm::backend::reference::Reference;

/// (N, I, O): one of everything, LoRA's ranks, what is no multiple of 8, tiles exactly and a little more.
const SIZES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (5, 3, 7), (33, 24, 3), (17, 3, 40), (64, 32, 64), (65, 33, 31), (70, 40, 300), (129, 8, 263)];

/// [`each`], with epilogues and without.
fn each_way(case: impl Fn(&Cuda, Bars)) {
    each(&case);
    for precision in [Precision::F32, Precision::Bf16] {
        for order in 0..3 {
            let Some(cuda) = shim::cuda(Options { precision, order, plain_products: true, ..Options::default() }) else { return };
            // Where an epilogue is an own kernel, what the product leaves to it is rounded once more.
            let Bars { buf, acc } = bars(precision);
            case(&cuda, Bars { buf: 1.5 * buf, acc });
        }
    }
}

#[test]
fn forward() {
    each_way(|be, bars| {
        for (n, i, o) in SIZES {
            let name = |what: &str| format!("{what}, N {n}, I {i}, O {o}");
            let x = Twin::normal(be, 1, n * i, 1.0);
            let w = Twin::matrix(be, o, i, &normal(2, o * i, (i as f32).powf(-0.5)));
            let b = Twin::normal(be, 3, o, 0.5);
            let residual = Twin::normal(be, 4, n * o, 2.0);
            for bias in [false, true] {
                let (b, b_truth) = (bias.then_some(&b.cuda), bias.then_some(&b.reference));
                let mut y = Twin::poison(be, n * o);
                be.linear(&mut y.cuda, &x.cuda, &w.cuda, b, n, i, o);
                Reference.linear(&mut y.reference, &x.reference, &w.reference, b_truth, n, i, o);
                y.compare(be, &name("linear"), bars.buf);

                be.linear_residual(&mut y.cuda, &residual.cuda, &x.cuda, &w.cuda, b, n, i, o);
                Reference.linear_residual(&mut y.reference, &residual.reference, &x.reference, &w.reference, b_truth, n, i, o);
                y.compare(be, &name("linear_residual"), bars.buf);

                let (mut y, mut pre) = (Twin::poison(be, n * o), Twin::poison(be, n * o));
                be.linear_gelu(&mut y.cuda, &mut pre.cuda, &x.cuda, &w.cuda, b, n, i, o);
                Reference.linear_gelu(&mut y.reference, &mut pre.reference, &x.reference, &w.reference, b_truth, n, i, o);
                pre.compare(be, &name("linear_gelu, before"), bars.buf);
                // GELU is steeper than the identity (up to 1.13), and crosses 0 less than it is wide.
                y.compare(be, &name("linear_gelu"), 1.5 * bars.buf);
            }
            let mut y = Twin::normal(be, 5, n * o, 1.0);
            be.linear_add(&mut y.cuda, -0.7, &x.cuda, &w.cuda, n, i, o);
            Reference.linear_add(&mut y.reference, -0.7, &x.reference, &w.reference, n, i, o);
            y.compare(be, &name("linear_add"), bars.buf);
        }
    });
}

#[test]
fn backward() {
    each_way(|be, bars| {
        for (n, i, o) in SIZES {
            let name = |what: &str| format!("{what}, N {n}, I {i}, O {o}");
            let dy = Twin::normal(be, 1, n * o, 1.0);
            let w = Twin::matrix(be, o, i, &normal(2, o * i, (o as f32).powf(-0.5)));
            let mut dx = Twin::poison(be, n * i);
            be.linear_dx(&mut dx.cuda, &dy.cuda, &w.cuda, n, i, o);
            Reference.linear_dx(&mut dx.reference, &dy.reference, &w.reference, n, i, o);
            dx.compare(be, &name("linear_dx"), bars.buf);

            let mut dx = Twin::normal(be, 3, n * i, 1.0);
            be.linear_dx_add(&mut dx.cuda, 0.3, &dy.cuda, &w.cuda, n, i, o);
            Reference.linear_dx_add(&mut dx.reference, 0.3, &dy.reference, &w.reference, n, i, o);
            dx.compare(be, &name("linear_dx_add"), bars.buf);

            let (mut dpre, pre) = (Twin::poison(be, n * i), Twin::normal(be, 4, n * i, 1.0));
            be.linear_dx_gelu(&mut dpre.cuda, &dy.cuda, &w.cuda, &pre.cuda, n, i, o);
            Reference.linear_dx_gelu(&mut dpre.reference, &dy.reference, &w.reference, &pre.reference, n, i, o);
            dpre.compare(be, &name("linear_dx_gelu"), bars.buf);
        }
    });
}

#[test]
fn weight_gradients() {
    each_way(|be, bars| {
        // And column sums over chunks of more than 64 rows, the last one short; and over more chunks than a block has warps.
        for (n, i, o) in SIZES.into_iter().chain([(8200, 1, 16), (1100, 2, 5)]) {
            let name = |what: &str| format!("{what}, N {n}, I {i}, O {o}");
            let (dy, x) = (Twin::normal(be, 1, n * o, 1.0), Twin::normal(be, 2, n * i, 1.0));
            for (with_dw, with_db) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut dw = AccTwin::matrix(be, o, i, &normal(3, o * i, 1.0));
                let mut db = AccTwin::normal(be, 4, o, 1.0);
                // Twice: gradients add up.
                for alpha in [1.0, -0.4] {
                    let (to_dw, to_db) = (with_dw.then_some(&mut dw.cuda), with_db.then_some(&mut db.cuda));
                    be.linear_dw(to_dw, to_db, alpha, &dy.cuda, &x.cuda, n, i, o);
                    let (to_dw, to_db) = (with_dw.then_some(&mut dw.reference), with_db.then_some(&mut db.reference));
                    Reference.linear_dw(to_dw, to_db, alpha, &dy.reference, &x.reference, n, i, o);
                }
                // The stand-in sums 8,200 products one after another: 1e-7 of the root of as many.
                let bar = bars.acc * if n > 1000 { 10.0 } else { 1.0 };
                dw.compare(be, &name("dw"), bar);
                db.compare(be, &name("db"), bar);
            }
        }
    });
}

/// Also where the driver was asked the first time, and is not the second.
#[test]
fn the_same_bits_twice() {
    each_way(|be, _| {
        let (n, i, o) = (300, 8, 24);
        let (x, w) = (Twin::normal(be, 1, n * i, 1.0), Twin::normal(be, 2, o * i, 0.3));
        let (b, dy) = (Twin::normal(be, 3, o, 0.3), Twin::normal(be, 4, n * o, 1.0));
        let run = || {
            let (mut y, mut db) = (be.alloc(n * o).unwrap(), be.alloc_acc(o).unwrap());
            be.linear(&mut y, &x.cuda, &w.cuda, Some(&b.cuda), n, i, o);
            be.linear_dw(None, Some(&mut db), 1.0, &dy.cuda, &x.cuda, n, i, o);
            let (mut host_y, mut host_db) = (vec![0.0; n * o], vec![0.0; o]);
            be.download(&mut host_y, &y).unwrap();
            be.download_acc(&mut host_db, &db).unwrap();
            (host_y, host_db)
        };
        assert_eq!(run(), run());
    });
}

/// Every transposition, stride and type of result.
#[test]
fn plain() {
    each(|be, bars| {
        for (m, n, k) in [(1, 1, 1), (5, 33, 7), (32, 32, 32), (40, 70, 65), (3, 1, 100)] {
            for choice in 0..16 {
                let [a_transposed, b_transposed, accumulate, add] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
                // Rows lie further apart than they are long.
                let (a_rows, a_stride) = if a_transposed { (k, m + 3) } else { (m, k + 3) };
                let (b_rows, b_stride) = if b_transposed { (n, k + 2) } else { (k, n + 2) };
                let stride = n + 5;
                let (a, b) = (Twin::normal(be, 1, a_rows * a_stride, 1.0), Twin::normal(be, 2, b_rows * b_stride, 1.0));
                let before = normal(3, m * stride, 1.0);
                let (wide, narrow) = (AccTwin::of(be, &before), Twin::of(be, &before));
                let c = if accumulate { &wide.reference } else { &narrow.reference };
                // Where nothing is added, what `c` points to is not read.
                let poison = Twin::poison(be, 1);
                let y = if accumulate { wide.cuda.ptr() } else { narrow.cuda.ptr() };
                let product = Product {
                    m,
                    n,
                    k,
                    a: Matrix { ptr: a.cuda.ptr(), stride: a_stride, transposed: a_transposed },
                    b: Matrix { ptr: b.cuda.ptr(), stride: b_stride, transposed: b_transposed },
                    y,
                    c: if add { y } else { poison.cuda.ptr() },
                    stride,
                    alpha: -0.7,
                    beta: f32::from(u8::from(add)),
                    accumulate,
                    epilogue: Epilogue::None,
                };
                let (kernel, shape, args) = products::plain(&product);
                be.driver().launch(kernel, shape, &args);
                let at = |of: &[f64], i: usize, j: usize, stride: usize, transposed: bool| {
                    of[if transposed { j * stride + i } else { i * stride + j }]
                };
                let mut want = c.clone();
                for i in 0..m {
                    for j in 0..n {
                        let terms =
                            (0..k).map(|l| at(&a.reference, i, l, a_stride, a_transposed) * at(&b.reference, l, j, b_stride, b_transposed));
                        want[i * stride + j] = -0.7f32 as f64 * terms.sum::<f64>() + if add { c[i * stride + j] } else { 0.0 };
                    }
                }
                let name = format!("plain, M {m}, N {n}, K {k}, choice {choice}");
                let mut got = vec![0.0; m * stride];
                if accumulate {
                    be.download_acc(&mut got, &wide.cuda).unwrap();
                } else {
                    let mut host = vec![0f32; m * stride];
                    be.download(&mut host, &narrow.cuda).unwrap();
                    got = host.into_iter().map(f64::from).collect();
                }
                compare(&got, &want, &name, if accumulate { bars.acc } else { bars.buf });
            }
        }
    });
}
