//! `kernels/norm.cu`.

use super::common::{AccTwin, Twin, each, normal};
use tinyllm::backend::Backend;
use tinyllm::backend::reference::Reference;

/// N and C: every width that is kept in registers, filled and not; what is not a multiple of 8, and what is too wide. Rows: fewer
/// than there are warps, and so many that a warp has several.
const SIZES: [(usize, usize); 14] = [
    (1, 8),
    (3, 5),
    (37, 72),
    (150, 104),
    (70, 256),
    (33, 384),
    (9, 640),
    (11, 704),
    (101, 768),
    (5, 1024),
    (300, 33),
    (4, 1032),
    (3, 1501),
    (2, 4096),
];

/// Rows with a mean that is not 0.
fn shifted(seed: u64, len: usize) -> Vec<f32> {
    normal(seed, len, 1.5).into_iter().map(|x| x + 3.0).collect()
}

#[test]
fn forward_and_backward() {
    each(|be, bars| {
        for (n, c) in SIZES {
            let name = |what: &str| format!("{what} {n} x {c}");
            let (x, w, b) = (Twin::of(be, &shifted(1, n * c)), Twin::normal(be, 2, c, 1.0), Twin::normal(be, 3, c, 1.0));
            let (mut y, mut stats) = (Twin::poison(be, n * c), AccTwin::poison(be, 2 * n));
            be.norm(&mut y.cuda, &mut stats.cuda, &x.cuda, &w.cuda, &b.cuda, n, c);
            Reference.norm(&mut y.reference, &mut stats.reference, &x.reference, &w.reference, &b.reference, n, c);
            y.compare(be, &name("y"), bars.buf);
            stats.compare(be, &name("stats"), bars.acc);

            let dy = Twin::normal(be, 4, n * c, 1.0);
            // Which of dw, db and the sums are asked for.
            for wanted in [[true, true, true], [true, false, false], [false, true, false], [false, false, true], [false; 3]] {
                let mut dx = Twin::normal(be, 5, n * c, 1.0);
                let mut along = [6, 7, 8].map(|seed| AccTwin::normal(be, seed, c, 1.0));
                let [dw, db, sums] = &mut along;
                let [a, b, s] = [(dw, wanted[0]), (db, wanted[1]), (sums, wanted[2])]
                    .map(|(twin, wanted)| if wanted { (Some(&mut twin.cuda), Some(&mut twin.reference)) } else { (None, None) });
                be.norm_backward(&mut dx.cuda, a.0, b.0, s.0, &dy.cuda, &x.cuda, &w.cuda, &stats.cuda, n, c);
                Reference.norm_backward(
                    &mut dx.reference,
                    a.1,
                    b.1,
                    s.1,
                    &dy.reference,
                    &x.reference,
                    &w.reference,
                    &stats.reference,
                    n,
                    c,
                );
                dx.compare(be, &name("dx"), bars.buf);
                // f32 sums of up to 300 terms: sqrt(300) 2^-25 = 5e-7 of the terms' norm, which may be more than the sum's.
                along[0].compare(be, &name("dw"), 3.0 * bars.acc);
                along[1].compare(be, &name("db"), bars.acc);
                // The sums are of dx as it is stored: a rounding each, that the reference does not have.
                along[2].compare(be, &name("sums"), bars.buf);
            }
        }
    });
}

/// The column sums are those of dx in memory, not of what it would be without rounding: what a pass over dx would have found.
#[test]
fn sums_are_of_what_is_stored() {
    each(|be, bars| {
        for (n, c) in [(40, 64), (40, 61), (101, 768)] {
            let (x, w, dy) = (Twin::of(be, &shifted(1, n * c)), Twin::normal(be, 2, c, 1.0), Twin::normal(be, 3, n * c, 1.0));
            let (mut y, mut stats) = (Twin::poison(be, n * c), AccTwin::poison(be, 2 * n));
            be.norm(&mut y.cuda, &mut stats.cuda, &x.cuda, &w.cuda, &w.cuda, n, c);
            let (mut dx, mut sums) = (Twin::normal(be, 4, n * c, 1.0), AccTwin::normal(be, 5, c, 1.0));
            be.norm_backward(&mut dx.cuda, None, None, Some(&mut sums.cuda), &dy.cuda, &x.cuda, &w.cuda, &stats.cuda, n, c);
            let mut stored = vec![0f32; n * c];
            be.download(&mut stored, &dx.cuda).unwrap();
            for (i, x) in stored.into_iter().enumerate() {
                sums.reference[i % c] += f64::from(x);
            }
            sums.compare(be, "sums", bars.acc);
        }
    });
}

/// Twice the same bits, whatever the order of threads.
#[test]
fn bits_repeat() {
    let (n, c) = (90, 200);
    let seen = std::cell::RefCell::new(Vec::new());
    each(|be, _| {
        let (x, w, dy) = (Twin::of(be, &shifted(1, n * c)), Twin::normal(be, 2, c, 1.0), Twin::normal(be, 3, n * c, 1.0));
        let (mut y, mut stats) = (Twin::poison(be, n * c), AccTwin::poison(be, 2 * n));
        be.norm(&mut y.cuda, &mut stats.cuda, &x.cuda, &w.cuda, &w.cuda, n, c);
        let (mut dx, mut dw) = (Twin::normal(be, 4, n * c, 1.0), AccTwin::normal(be, 5, c, 1.0));
        be.norm_backward(&mut dx.cuda, Some(&mut dw.cuda), None, None, &dy.cuda, &x.cuda, &w.cuda, &stats.cuda, n, c);
        let mut host = vec![0f64; c];
        be.download_acc(&mut host, &dw.cuda).unwrap();
        seen.borrow_mut().push((be.precision(), host));
    });
    let seen = seen.into_inner();
    assert!(seen.iter().all(|(precision, host)| seen.iter().all(|(p, h)| p != precision || h == host)));
}
