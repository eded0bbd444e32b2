//! `kernels/elements.cu`.

use super::common::{Twin, control, each};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, Control};

const LENGTHS: [usize; 6] = [1, 7, 8, 100, 2048, 5003];

#[test]
fn elements() {
    each(|be, bars| {
        for n in LENGTHS {
            let x = Twin::normal(be, 1, n, 2.0);
            let mut y = Twin::poison(be, n);
            be.copy(&mut y.cuda, &x.cuda, n);
            Reference.copy(&mut y.reference, &x.reference, n);
            y.compare(be, "copy", 0.0);
            be.axpy(&mut y.cuda, -0.3, &x.cuda, n);
            Reference.axpy(&mut y.reference, -0.3, &x.reference, n);
            y.compare(be, "axpy", bars.buf);
            let mut y = Twin::poison(be, n);
            be.gelu(&mut y.cuda, &x.cuda, n);
            Reference.gelu(&mut y.reference, &x.reference, n);
            y.compare(be, "gelu", bars.buf);
            let mut d = Twin::normal(be, 2, n, 1.0);
            be.gelu_backward(&mut d.cuda, &x.cuda, n);
            Reference.gelu_backward(&mut d.reference, &x.reference, n);
            d.compare(be, "gelu_backward", bars.buf);
        }
    });
}

/// The same elements are dropped: a single one elsewhere would be seen.
#[test]
fn dropout() {
    let step = Control {
        lr: 0.0,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        decay: 0.0,
        clip: 1.0,
        step: 1,
        dropout_key: 0x1234_5678_9ABC_DEF0,
        rounding_key: 0,
    };
    each(|be, bars| {
        let (ctl, truth) = control(be, &step);
        for n in LENGTHS {
            let x = Twin::normal(be, 1, n, 2.0);
            let mut y = Twin::poison(be, n);
            be.dropout(&mut y.cuda, &x.cuda, 0.25, 17, &ctl, n);
            Reference.dropout(&mut y.reference, &x.reference, 0.25, 17, &truth, n);
            y.compare(be, "dropout", bars.buf);
        }
    });
}
