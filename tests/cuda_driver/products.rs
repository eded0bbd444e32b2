//! Matrix products, and the algorithms chosen for them.

use crate::common::{self, AccTwin, Twin};
use crate::fakes::{again, cuda, folder, inside, over};
use serde_json::Value;
use tinyllm::backend::Backend;
use tinyllm::backend::cuda::Cuda;
use tinyllm::backend::cuda::driver::{Epilogue, Matrix, NULL, Precision, Product, Unsupported};

/// Where a product's numbers lie, on both sides.
struct Case {
    a: Twin,
    b: Twin,
    bias: Twin,
    pre: Twin,
    y: Twin,
    wide: AccTwin,
    sums: AccTwin,
}

/// The reference's own product, in f64: all of `Product`, from its definition.
fn multiply(case: &mut Case, p: &Product) {
    let at = |m: &Matrix, i: usize, j: usize| if m.transposed { j * m.stride + i } else { i * m.stride + j };
    let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    for i in 0..p.m {
        for j in 0..p.n {
            let k = 0..p.k;
            let sum: f64 = k.map(|k| case.a.reference[at(&p.a, i, k)] * case.b.reference[at(&p.b, k, j)]).sum();
            let place = i * p.stride + j;
            let to = if p.accumulate { &mut case.wide.reference[place] } else { &mut case.y.reference[place] };
            let mut y = f64::from(p.alpha) * sum + if p.beta == 0.0 { 0.0 } else { *to };
            match p.epilogue {
                Epilogue::Bias(_) => y += case.bias.reference[j],
                Epilogue::BiasGelu { bias, .. } => {
                    y += if bias == NULL { 0.0 } else { case.bias.reference[j] };
                    case.pre.reference[place] = y;
                    y *= 0.5 * (1.0 + inner(y).tanh());
                }
                Epilogue::GeluBackward { .. } => {
                    let x = case.pre.reference[place];
                    let (t, slope) = (inner(x).tanh(), (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x));
                    y *= 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope;
                }
                Epilogue::LeftSums(_) | Epilogue::None => {}
            }
            *to = y;
        }
        if matches!(p.epilogue, Epilogue::LeftSums(_)) {
            case.sums.reference[i] = (0..p.k).map(|k| case.a.reference[at(&p.a, i, k)]).sum();
        }
    }
}

/// All products of these sizes: what each came to is held to the definition, or `check` sees that it was refused.
fn all(be: &Cuda, [m, n, k]: [usize; 3], check: impl Fn(Epilogue, Result<(), Unsupported>) -> bool) {
    let bars = common::bars(be.precision());
    for (transposed, variant) in
        [(false, false), (false, true), (true, false), (true, true)].into_iter().flat_map(|t| (0..7).map(move |v| (t, v)))
    {
        // Rows of factors and result are longer than what is multiplied.
        let stride = n.next_multiple_of(8) + 8;
        let mut case = Case {
            a: Twin::normal(be, 1, (m + 8) * (k + 8), 1.0),
            b: Twin::normal(be, 2, (k + 8) * (n + 8), 0.2),
            bias: Twin::normal(be, 3, n, 1.0),
            pre: Twin::normal(be, 4, m * stride, 1.0),
            y: Twin::normal(be, 5, m * stride, 1.0),
            wide: AccTwin::normal(be, 6, m * stride, 1.0),
            sums: AccTwin::poison(be, m),
        };
        let matrix = |ptr, transposed, rows, columns| match transposed {
            true => Matrix::transposed(ptr, rows + 8),
            false => Matrix::plain(ptr, columns + 8),
        };
        let (bias, pre) = (case.bias.cuda.ptr(), case.pre.cuda.ptr());
        let (accumulate, beta, epilogue) = match variant {
            0 => (false, 0.0, Epilogue::None),
            1 => (false, 1.0, Epilogue::Bias(bias)),
            2 => (false, 0.0, Epilogue::BiasGelu { bias, pre }),
            3 => (false, 0.0, Epilogue::BiasGelu { bias: NULL, pre }),
            4 => (false, 0.0, Epilogue::GeluBackward { pre }),
            5 => (true, 1.0, Epilogue::LeftSums(case.sums.cuda.ptr())),
            _ => (true, 1.0, Epilogue::None),
        };
        let y = if accumulate { case.wide.cuda.ptr() } else { case.y.cuda.ptr() };
        let product = Product {
            m,
            n,
            k,
            a: matrix(case.a.cuda.ptr(), transposed.0, m, k),
            b: matrix(case.b.cuda.ptr(), transposed.1, k, n),
            y,
            c: y,
            stride,
            alpha: 0.75,
            beta,
            accumulate,
            epilogue,
        };
        // Twice: first with the search for an algorithm, whose runs must not show, then with what it found.
        for _ in 0..2 {
            if !check(epilogue, be.driver().product(&product)) {
                continue;
            }
            multiply(&mut case, &product);
        }
        let name = format!("{m} x {n} x {k} {transposed:?} {epilogue:?}");
        // Two roundings where the result is added to.
        case.y.compare(be, &name, 2.0 * bars.buf);
        case.pre.compare(be, &name, bars.buf);
        case.wide.compare(be, &name, 1e-6);
        if matches!(epilogue, Epilogue::LeftSums(_)) && check(epilogue, Ok(())) {
            case.sums.compare(be, &name, 1e-6);
        }
    }
}

#[test]
fn products_are_their_definition() {
    over("products::products_are_their_definition", &[], || {
        for precision in [Precision::Bf16, Precision::F32] {
            let be = cuda(precision);
            for sizes in [[1, 8, 3], [24, 40, 16], [33, 7, 65]] {
                all(&be, sizes, |_, done| done == Ok(()));
            }
            be.sync().unwrap();
        }
    });
}

#[test]
fn refused_epilogues_are_told() {
    over("products::refused_epilogues_are_told", &[("FAKE_CUBLASLT_PLAIN", "1")], || {
        let be = cuda(Precision::Bf16);
        all(&be, [24, 40, 16], |epilogue, done| {
            assert!(epilogue == Epilogue::None || done != Ok(()) || matches!(epilogue, Epilogue::LeftSums(_)));
            epilogue == Epilogue::None
        });
        be.sync().unwrap();
    });
}

fn plans(be: &Cuda) -> Value {
    all(be, [24, 40, 16], |_, done| done == Ok(()));
    be.driver().plans().unwrap()
}

#[test]
fn algorithms_are_chosen_once_and_carried() {
    let name = "products::algorithms_are_chosen_once_and_carried";
    if inside() {
        // What a checkpoint carries is taken up; what it says is what is used.
        let be = cuda(Precision::Bf16);
        let mut first = plans(&be);
        let products = first["products"].as_object_mut().unwrap();
        assert_eq!(products.len(), 28);
        let other = "000000000000a162".to_owned() + &"0".repeat(112);
        for (form, kept) in products.iter_mut() {
            assert!(form.starts_with("24x40x16 "), "{form}");
            assert!(kept["ms"].as_f64().is_some() && kept["what"].as_str().unwrap().contains("split"), "{kept}");
            kept["algorithm"] = other.clone().into();
        }
        be.driver().set_plans(&first).unwrap();
        assert_eq!(plans(&be), first);
        // A new driver finds on disk what was measured, and a checkpoint's word is above it.
        let be = cuda(Precision::Bf16);
        be.driver().set_plans(&first).unwrap();
        assert_eq!(plans(&be), first);
        // An algorithm that the library refuses is replaced, and so is nonsense.
        let mut broken = first.clone();
        for (i, kept) in broken["products"].as_object_mut().unwrap().values_mut().enumerate() {
            kept["algorithm"] = if i == 0 { "xyz".into() } else { "f".repeat(128).into() };
        }
        be.driver().set_plans(&broken).unwrap();
        let mended = plans(&be);
        assert!(
            mended["products"].as_object().unwrap().values().all(|kept| kept["algorithm"].as_str().unwrap().starts_with("000000000000a16"))
        );
        // What was chosen on another device is left aside.
        let mut elsewhere = first.clone();
        elsewhere["setting"]["device"] = "NVIDIA H200".into();
        be.driver().set_plans(&elsewhere).unwrap();
        be.driver().set_plans(&Value::from(3)).unwrap();
        assert_eq!(plans(&be), mended);
        return;
    }
    let Some(fakes) = folder() else { return };
    let cache = tempfile::tempdir().unwrap();
    for first in [true, false] {
        let out = again(name, fakes, cache.path(), &[]);
        let said = crate::small_run::said(&out);
        assert!(out.status.success() && said.contains("1 passed"), "{first}: {said}");
        assert_eq!(said.matches("refuses the algorithm kept for 24x40x16").count(), 28, "{said}");
        assert!(said.contains("in bf16 on NVIDIA H200") && said.contains("cannot be read"), "{said}");
        let kept: Vec<_> = std::fs::read_dir(cache.path().join("tinyllm")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(kept.iter().filter(|n| n.to_str().unwrap().starts_with("plans-")).count(), 1, "{kept:?}");
    }
}
