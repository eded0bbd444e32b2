//! Launches, copies, recordings, late reads.

use crate::common::{self, Twin};
use crate::fakes::{cuda, over};
use std::cell::Cell;
use tinyllm::backend::cuda::driver::{Arg, Kernel, Precision, Shape};
use tinyllm::backend::cuda::{Acc, Cuda};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, Control};

#[test]
fn kernels_compute_what_they_should() {
    over("orders::kernels_compute_what_they_should", &[], || {
        for precision in [Precision::Bf16, Precision::F32] {
            let (be, bars) = (&cuda(precision), common::bars(precision));
            for n in [7, 5003] {
                let (x, mut y) = (Twin::normal(be, 1, n, 2.0), Twin::normal(be, 2, n, 1.0));
                be.axpy(&mut y.cuda, -0.3, &x.cuda, n);
                Reference.axpy(&mut y.reference, -0.3, &x.reference, n);
                y.compare(be, "axpy", bars.buf);
                let mut y = Twin::poison(be, n);
                be.gelu(&mut y.cuda, &x.cuda, n);
                Reference.gelu(&mut y.reference, &x.reference, n);
                y.compare(be, "gelu", bars.buf);
                let step = Control {
                    lr: 0.0,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    decay: 0.0,
                    clip: 1.0,
                    step: 1,
                    dropout_key: 1 << 40 | 9,
                    rounding_key: 0,
                };
                let (ctl, truth) = common::control(be, &step);
                let mut y = Twin::poison(be, n);
                be.dropout(&mut y.cuda, &x.cuda, 0.25, 17, &ctl, n);
                Reference.dropout(&mut y.reference, &x.reference, 0.25, 17, &truth, n);
                y.compare(be, "dropout", bars.buf);
            }
        }
    });
}

/// The driver must raise a kernel's limit where a block wants more than 48 KB.
#[test]
fn a_block_gets_much_shared_memory() {
    over("orders::a_block_gets_much_shared_memory", &[], || {
        let be = cuda(Precision::F32);
        let (x, mut y) = (Twin::normal(&be, 1, 100, 1.0), Twin::normal(&be, 2, 100, 1.0));
        for kilobytes in [0, 100, 50, 200] {
            let arguments: [Arg; 4] = [y.cuda.ptr().into(), x.cuda.ptr().into(), 1f32.into(), 100u32.into()];
            be.driver().launch(Kernel::new("elements", "axpy"), Shape::of(1, 256).with_shared(kilobytes << 10), &arguments);
            Reference.axpy(&mut y.reference, 1.0, &x.reference, 100);
            y.compare(&be, "axpy", 1e-6);
        }
    });
}

/// As `tests/shim/hopper.h` reads a map: place, rows, columns, stride, rows and columns of a box.
#[test]
fn the_copy_engine_is_told_of_matrices() {
    over("orders::the_copy_engine_is_told_of_matrices", &[], || {
        let be = cuda(Precision::Bf16);
        let x = be.alloc(100 * 192).unwrap();
        let map = be.driver().tensor_map(x.ptr(), 100, 128, 192, 50, 64);
        assert_eq!(map.0[..6], [x.ptr(), 100, 128, 192, 50, 64]);
        be.sync().unwrap();
        be.driver().tensor_map(x.ptr(), 100, 128, 190, 50, 64);
        let error = be.sync().unwrap_err().to_string();
        assert!(error.contains("takes no matrix (100, 128) of stride 190 in boxes of (50, 64)"), "{error}");
    });
}

#[test]
fn uploads_of_any_length_arrive() {
    over("orders::uploads_of_any_length_arrive", &[], || {
        let be = cuda(Precision::F32);
        // Below, at and above what is copied at once; more uploads than there are pieces, and one longer than all of them.
        let rooms = [1, 65_535, 65_536, 65_537, 5 << 20].into_iter().chain((2..200).map(|i| 3 * i));
        let buffers: Vec<_> = rooms
            .enumerate()
            .map(|(seed, n)| {
                let (mut buffer, values) = (be.alloc(n).unwrap(), common::normal(seed as u64, n, 1.0));
                be.upload(&mut buffer, &values).unwrap();
                (buffer, values)
            })
            .collect();
        for (buffer, values) in &buffers {
            let mut back = vec![0.0; values.len()];
            be.download(&mut back, buffer).unwrap();
            assert!(back == *values, "{} values", values.len());
        }
        let (now, most) = be.driver().allocated();
        drop(buffers);
        let (left, still) = be.driver().allocated();
        assert!(left < now && now <= most && still == most, "{left} {now} {most} {still}");
    });
}

fn scalar(be: &Cuda, value: f64) -> Acc {
    let mut acc = be.alloc_acc(1).unwrap();
    be.upload_acc(&mut acc, &[value]).unwrap();
    acc
}

#[test]
fn a_late_read_is_of_its_moment() {
    over("orders::a_late_read_is_of_its_moment", &[], || {
        let be = cuda(Precision::Bf16);
        let (mut a, b) = (scalar(&be, 1.5), scalar(&be, -2.25));
        let first = be.read_late(&[&a, &b]).unwrap();
        be.upload_acc(&mut a, &[7.0]).unwrap();
        let second = be.read_late(&[&a]).unwrap();
        assert_eq!(be.take(second).unwrap(), [7.0]);
        assert_eq!(be.take(first).unwrap(), [1.5, -2.25]);
        let (from, to) = (be.driver().mark().unwrap(), be.driver().mark().unwrap());
        assert!((0.0..1e4).contains(&be.driver().between(&from, &to).unwrap()));
    });
}

/// `y += x` as a region, `times` times; how often the work was asked for.
fn counted(be: &Cuda, key: u64, times: u32) -> (f64, u32) {
    let n = 64;
    let (x, mut y) = (Twin::of(be, &vec![1.0; n]), Twin::of(be, &vec![0.0; n]));
    let asked = Cell::new(0);
    for _ in 0..times {
        be.region(key, &mut || {
            asked.set(asked.get() + 1);
            be.axpy(&mut y.cuda, 1.0, &x.cuda, n);
        });
    }
    be.sync().unwrap();
    let mut back = vec![0.0; n];
    be.download(&mut back, &y.cuda).unwrap();
    assert!(back.iter().all(|&v| v == back[0]));
    (f64::from(back[0]), asked.get())
}

#[test]
fn a_region_runs_then_is_recorded_then_replayed() {
    over("orders::a_region_runs_then_is_recorded_then_replayed", &[], || {
        let be = cuda(Precision::Bf16);
        assert_eq!(counted(&be, 0, 1), (1.0, 1));
        for key in 1..200 {
            assert_eq!(counted(&be, key, 5), (5.0, 2), "{key}");
        }
        // The oldest were dropped: this one begins anew, over other memory.
        assert_eq!(counted(&be, 1, 3), (3.0, 2));
    });
}

#[test]
fn regions_run_plainly_where_recording_is_off() {
    let name = "orders::regions_run_plainly_where_recording_is_off";
    for off in [("TINYLLM_CUDA_GRAPHS", "0"), ("TINYLLM_CUDA_SYNC", "1")] {
        over(name, &[off], || assert_eq!(counted(&cuda(Precision::Bf16), 1, 5), (5.0, 5)));
    }
}

/// What cannot be recorded costs speed, not results.
#[test]
fn a_region_with_an_upload_runs_plainly_and_says_so() {
    let said = over("orders::a_region_with_an_upload_runs_plainly_and_says_so", &[], || {
        let be = cuda(Precision::Bf16);
        let (mut a, mut told) = (scalar(&be, 0.0), vec![]);
        for value in 1..5 {
            be.region(3, &mut || told.push(be.upload_acc(&mut a, &[f64::from(value)]).map_err(|e| e.to_string())));
            be.sync().unwrap();
            let mut back = [0.0];
            be.download_acc(&mut back, &a).unwrap();
            assert_eq!(back, [f64::from(value)]);
        }
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(told[1].as_ref().unwrap_err().contains("an upload inside a region"), "{told:?}");
        assert_eq!(counted(&be, 4, 3), (3.0, 3));
    });
    if let Some(said) = said {
        assert_eq!(said.matches("not recorded but launched kernel by kernel").count(), 1, "{said}");
    }
}
