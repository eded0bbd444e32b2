//! `kernels/attention_sm90.cu`.

use super::common::{AccTwin, Twin, ids, normal};
use super::shim::{self, Options};
use tinyllm::backend::cuda::Cuda;
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, Heads};

/// Bound on relative norms. P is rounded to bf16 before it weighs values or dy, dS before it weighs keys or queries, and each output
/// when it is stored: two independent errors of 2^-9 / sqrt(3) = 1.1e-3 to 2^-8 / sqrt(3) = 2.3e-3, by the mantissa: together 1.6e-3 to
/// 3.2e-3. Seen: 2.4e-3 at most.
const BAR: f64 = 3.2e-3;
/// lse is f32 throughout: 64 products summed for a score, its exponential, a sum of up to 390: roundings of 2^-24, a dozen at random.
const LSE: f64 = 1e-6;

/// How a sequence's rows fall into documents.
#[derive(Clone, Copy, Debug)]
enum Documents {
    One,
    /// Each row its own.
    Single,
    /// Beginnings at odd places, other ones in each sequence.
    Several,
}

fn starts(documents: Documents, s: Heads) -> Vec<u32> {
    let mut starts = vec![];
    for sequence in 0..s.b {
        let mut start = 0;
        for row in 0..s.t {
            let begins = match documents {
                Documents::One => false,
                Documents::Single => true,
                Documents::Several => [3, 74, 77, 148, 151].contains(&(row + 5 * sequence)),
            };
            if begins {
                start = row as u32;
            }
            starts.push(start);
        }
    }
    starts
}

/// The outputs' bits, after they were held to the reference.
fn run(be: &Cuda, s: Heads, documents: Documents, scale: f32) -> Vec<Vec<f64>> {
    let name = |what: &str| format!("{what} of {s:?} {documents:?} scale {scale}");
    let (n, c) = (s.n(), s.c());
    // Some rows more than count, and they hold what must not be read.
    let mut values = normal(1, n * 3 * c, scale);
    values.extend(vec![f32::NAN; 3 * c]);
    let qkv = Twin::of(be, &values);
    let (starts, truth_starts) = ids(be, &starts(documents, s));
    let mut y = Twin::poison(be, n * c);
    let mut lse = AccTwin::poison(be, n * s.h);
    be.attention(&mut y.cuda, &mut lse.cuda, &qkv.cuda, &starts, s);
    Reference.attention(&mut y.reference, &mut lse.reference, &qkv.reference, &truth_starts, s);
    y.compare(be, &name("y"), BAR);
    lse.compare(be, &name("lse"), LSE);

    // The backward pass starts from the same y and lse on both, so that its own error is seen.
    let y = Twin::of(be, &y.reference.iter().map(|&x| x as f32).collect::<Vec<_>>());
    let lse = AccTwin::of(be, &lse.reference.iter().map(|&x| x as f32).collect::<Vec<_>>());
    let dy = Twin::normal(be, 2, n * c, 1.0);
    let mut delta = AccTwin::poison(be, n * s.h);
    let mut dqkv = Twin::poison(be, n * 3 * c);
    be.attention_backward(&mut dqkv.cuda, &mut delta.cuda, &dy.cuda, &y.cuda, &qkv.cuda, &lse.cuda, &starts, s);
    Reference.attention_backward(
        &mut dqkv.reference,
        &mut delta.reference,
        &dy.reference,
        &y.reference,
        &qkv.reference,
        &lse.reference,
        &truth_starts,
        s,
    );
    let mut host = vec![0f32; n * 3 * c];
    be.download(&mut host, &dqkv.cuda).unwrap();
    let part = |of: &[f64], part: usize| -> Vec<f64> { of.chunks(3 * c).flat_map(|row| row[part * c..][..c].to_vec()).collect() };
    let host: Vec<f64> = host.into_iter().map(f64::from).collect();
    for (i, what) in ["dq", "dk", "dv"].into_iter().enumerate() {
        let (got, want) = (part(&host, i), part(&dqkv.reference, i));
        if want.iter().any(|x| x.abs() > 1e-9) {
            super::common::compare(&got, &want, &name(what), BAR);
        } else {
            // A row that sees itself alone moves no score: dy . v - delta is 0 up to the order of two sums of 64, times values of q or k.
            assert!(got.iter().all(|x| x.abs() < 1e-4 * f64::from(scale)), "{}: should be 0", name(what));
        }
    }
    let mut forward = vec![0f32; n * c];
    be.download(&mut forward, &y.cuda).unwrap();
    vec![forward.into_iter().map(f64::from).collect(), host]
}

fn in_three_orders(s: Heads, documents: Documents, scale: f32) {
    let mut first = None;
    for order in 0..3 {
        let Some(be) = shim::cuda(Options { arch: 90, order, ..Options::default() }) else { return };
        let got = run(&be, s, documents, scale);
        assert!(first.get_or_insert_with(|| got.clone()) == &got, "{s:?} {documents:?}: other bits in order {order}");
    }
}

const fn heads(b: usize, t: usize, h: usize) -> Heads {
    Heads { b, t, h, d: 64 }
}

#[test]
fn within_a_tile() {
    for s in [heads(1, 1, 1), heads(2, 7, 2), heads(3, 64, 1)] {
        for documents in [Documents::One, Documents::Several, Documents::Single] {
            in_three_orders(s, documents, 1.0);
        }
    }
}

/// A sequence's last tile reaches into the next sequence, or behind the last.
#[test]
fn ragged_tiles() {
    for (s, documents) in [
        (heads(2, 65, 1), Documents::One),
        (heads(1, 130, 3), Documents::Several),
        (heads(3, 130, 1), Documents::One),
        (heads(2, 200, 2), Documents::Several),
        (heads(1, 200, 1), Documents::Single),
        (heads(2, 257, 3), Documents::Several),
        (heads(1, 390, 1), Documents::One),
    ] {
        in_three_orders(s, documents, 1.0);
    }
}

/// Scores with a standard deviation of 16, of +-60 and more: exponentials that under- and overflow where nobody subtracts the largest.
#[test]
fn large_scores() {
    for documents in [Documents::One, Documents::Several] {
        in_three_orders(heads(1, 200, 1), documents, 4.0);
    }
}

/// More heads of sequences than a section has.
#[test]
fn sections() {
    in_three_orders(heads(35, 3, 2), Documents::One, 1.0);
}
