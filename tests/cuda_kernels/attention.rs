//! `kernels/attention_plain.cu` and `attention_sm80.cu`.
//!
//! Bars. f32: those of a single kernel; a score of size s is off by some 2^-24 s, which makes its exponential relatively wrong
//! by as much, hence a wider bar where scores reach 60. bf16: probabilities and the slopes of scores are rounded before the
//! product that sums them, and the sum when it is stored. A rounding to 8 bits is 2^-7 / sqrt(12) of a value's power of two, some
//! 1.6e-3 of the value in the root mean square; two, independent, are 2.3e-3, under the bar of a single kernel (3e-3). That delta
//! is taken of a rounded `y` is no error: the reference is given the same one.

use super::common::{AccTwin, Bars, Twin, compare, each, ids, normal};
use super::shim::{self, Options};
use tinyllm::backend::cuda::Cuda;
use tinyllm::backend::cuda::driver::{Arg, Kernel, Precision, Shape};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, Heads};

/// Where documents begin.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Documents {
    One,
    /// At odd places, others in each sequence.
    Several,
    /// At every row.
    Own,
}
use Documents::{One, Own, Several};

/// Each row's first row, ascending in a sequence.
fn starts(s: Heads, documents: Documents) -> Vec<u32> {
    let of = |sequence: usize, row: usize| match documents {
        One => 0,
        Own => row,
        Several => [5 + sequence, 37, 63 + sequence, 66 + 3 * sequence, 129, 200].into_iter().rfind(|&begin| begin <= row).unwrap_or(0),
    };
    (0..s.n()).map(|i| of(i / s.t, i % s.t) as u32).collect()
}

/// Rows behind those at hand: NaN before and after, in what is read and what is written.
const BEHIND: usize = 3;

fn with_behind(mut values: Vec<f32>, row: usize) -> Vec<f32> {
    values.extend(vec![f32::NAN; BEHIND * row]);
    values
}

/// Numbers that a kernel wrote: `n` rows of `row`, and behind them still NaN.
fn written(values: Vec<f64>, n: usize, row: usize, name: &str) -> Vec<f64> {
    assert!(values[n * row..].iter().all(|x| x.is_nan()), "{name}: rows behind the last were touched");
    values[..n * row].to_vec()
}

fn buf(be: &Cuda, of: &Twin, n: usize, row: usize, name: &str) -> Vec<f64> {
    let mut host = vec![0f32; (n + BEHIND) * row];
    be.download(&mut host, &of.cuda).unwrap();
    written(host.into_iter().map(f64::from).collect(), n, row, name)
}

fn acc(be: &Cuda, of: &AccTwin, n: usize, row: usize, name: &str) -> Vec<f64> {
    let mut host = vec![0f64; (n + BEHIND) * row];
    be.download_acc(&mut host, &of.cuda).unwrap();
    written(host, n, row, name)
}

/// One of q, k, v of `(N, 3C)`.
fn part(of: &[f64], c: usize, part: usize) -> Vec<f64> {
    of.chunks(3 * c).flat_map(|row| &row[part * c..][..c]).copied().collect()
}

/// Everything that both directions write: y, lse, dqkv.
struct Outputs {
    y: Vec<f64>,
    lse: Vec<f64>,
    dqkv: Vec<f64>,
}

/// Runs both directions on both backends, `q`, `k`, `v` of this `size`; held to the reference within `bar`.
fn check(be: &Cuda, s: Heads, documents: Documents, size: f32, bar: f64, acc_bar: f64) -> Outputs {
    let (n, c, h) = (s.n(), s.c(), s.h);
    let name = |what: &str| format!("{what} of {s:?}, {documents:?}");
    let (starts, starts_of) = ids(be, &starts(s, documents));
    let qkv = Twin::of(be, &with_behind(normal(1, n * 3 * c, size), 3 * c));
    let (mut y, mut lse) = (Twin::poison(be, (n + BEHIND) * c), AccTwin::poison(be, (n + BEHIND) * h));
    be.attention(&mut y.cuda, &mut lse.cuda, &qkv.cuda, &starts, s);
    Reference.attention(&mut y.reference, &mut lse.reference, &qkv.reference, &starts_of, s);
    be.sync().unwrap();
    let out = (buf(be, &y, n, c, &name("y")), acc(be, &lse, n, h, &name("lse")));
    compare(&out.0, &y.reference[..n * c], &name("y"), bar);
    compare(&out.1, &lse.reference[..n * h], &name("lse"), acc_bar);

    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let (y, lse) = (Twin::of(be, &narrow(&y.reference)), AccTwin::of(be, &narrow(&lse.reference)));
    let dy = Twin::of(be, &with_behind(normal(2, n * c, 1.0), c));
    let (mut dqkv, mut delta) = (Twin::poison(be, (n + BEHIND) * 3 * c), AccTwin::poison(be, (n + BEHIND) * h));
    be.attention_backward(&mut dqkv.cuda, &mut delta.cuda, &dy.cuda, &y.cuda, &qkv.cuda, &lse.cuda, &starts, s);
    let (truth, delta_of) = (&mut dqkv.reference, &mut delta.reference);
    Reference.attention_backward(truth, delta_of, &dy.reference, &y.reference, &qkv.reference, &lse.reference, &starts_of, s);
    be.sync().unwrap();
    let got = buf(be, &dqkv, n, 3 * c, &name("dqkv"));
    let want = &dqkv.reference[..n * 3 * c];
    compare(&got, want, &name("dqkv"), bar);
    // Rows that see themselves alone have no dq and dk but what rounding leaves: nothing to be relative to.
    if documents != Own && s.t > 1 {
        for (i, what) in ["dq", "dk", "dv"].into_iter().enumerate() {
            compare(&part(&got, c, i), &part(want, c, i), &name(what), bar);
        }
    }
    Outputs { y: out.0, lse: out.1, dqkv: got }
}

/// Scores of a few units, so that the softmax is neither flat nor a single spike.
fn usual(be: &Cuda, bars: Bars, s: Heads, documents: Documents) -> Outputs {
    check(be, s, documents, 1.3, bars.buf, bars.acc)
}

#[test]
fn attention() {
    each(|be, bars| {
        let narrow = be.precision() == Precision::Bf16;
        // Every length and every kind of documents; the fewest heads that tell sequences and heads apart.
        for d in if narrow { vec![16, 64] } else { vec![5, 64] } {
            for (b, t, h) in [(3, 1, 2), (2, 7, 3), (1, 64, 2), (2, 65, 1), (1, 130, 1)] {
                for documents in [One, Several, Own] {
                    usual(be, bars, Heads { b, t, h, d }, documents);
                }
            }
        }
        // Every size of a head that has a kernel of its own.
        for d in if narrow { vec![32, 48, 80, 96, 112, 128] } else { vec![] } {
            usual(be, bars, Heads { b: 2, t: 67, h: 1, d }, Several);
        }
        // Sizes that have none, up to more than a warp's lanes have in four rounds.
        for d in [5, 24, 137] {
            usual(be, bars, Heads { b: 1, t: 41, h: 2, d }, Several);
        }
    });
}

/// Several blocks a head, tiles that nobody sees before and behind those that count, 16 and 32 rows a warp.
#[test]
fn long() {
    let Some(be) = shim::cuda(Options::default()) else { return };
    let bars = super::common::bars(Precision::Bf16);
    for (d, documents) in [(64, One), (64, Several), (128, Several)] {
        usual(&be, bars, Heads { b: 1, t: 300, h: 1, d }, documents);
    }
}

/// Scores of 60: exponentials of them overflow f32, and a row has all its weight on one key.
#[test]
fn large_scores() {
    each(|be, _| {
        let bar = match be.precision() {
            Precision::F32 => 5e-6, // 60 * 2^-24 = 3.6e-6
            Precision::Bf16 => 3e-3,
        };
        for d in [16, 64] {
            let out = check(be, Heads { b: 1, t: 130, h: 1, d }, One, 4.2, bar, 1e-6);
            let most = out.lse.iter().copied().fold(f64::MIN, f64::max);
            assert!(most > 60.0, "the largest log-sum-exp is {most}: scores are not large");
        }
    });
}

/// Sums have one order, whichever thread comes first.
#[test]
fn bits_do_not_depend_on_the_order_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        let run = |order| {
            let be = shim::cuda(Options { precision, order, ..Options::default() })?;
            let out = usual(&be, super::common::bars(precision), Heads { b: 1, t: 140, h: 2, d: 64 }, Several);
            Some([out.y, out.lse, out.dqkv].concat().into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        let Some(first) = run(0) else { return };
        assert_eq!(Some(&first), run(1).as_ref(), "{precision:?}");
        assert_eq!(Some(&first), run(2).as_ref(), "{precision:?}");
    }
}

/// However many heads are worked on at a time, a last round of fewer included, each block finds its own.
#[test]
fn rounds_of_heads() {
    let Some(be) = shim::cuda(Options::default()) else { return };
    let s = Heads { b: 1, t: 70, h: 5, d: 80 }; // two blocks a head
    let (n, c) = (s.n(), s.c());
    let qkv = Twin::normal(&be, 1, n * 3 * c, 1.3);
    let (starts, _) = ids(&be, &starts(s, Several));
    let run = |group: u32| {
        let (y, lse) = (Twin::poison(&be, n * c), AccTwin::poison(&be, n * s.h));
        let sizes = [s.t, s.h, s.b * s.h].map(Arg::from);
        let buffers = [Arg::from(&y.cuda), Arg::from(&lse.cuda), Arg::from(&qkv.cuda), Arg::from(&starts), Arg::from(s.scale() as f32)];
        let shape = Shape::of(2 * s.h, 128).with_shared(2 * 2 * 64 * (s.d + 8) * 2);
        let args = [&buffers[..], &sizes, &[Arg::from(group)]].concat();
        be.driver().launch(Kernel::sized("attention_sm80", "attention_forward", s.d), shape, &args);
        be.sync().unwrap();
        let mut host = vec![0f32; n * c];
        be.download(&mut host, &y.cuda).unwrap();
        assert!(host.iter().all(|x| x.is_finite()), "{group} heads at a time");
        host
    };
    let all = run(5);
    for group in [1, 2, 3] {
        assert_eq!(run(group), all, "{group} heads at a time");
    }
}
