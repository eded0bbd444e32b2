//! `kernels/classify.cu`.

use super::common::{AccTwin, Bars, Twin, compare, each, ids, normal};
use tinyllm::backend::cuda::driver::Precision;
use tinyllm::backend::cuda::{Cuda, Head};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, NO_ROW, TargetRows, Targets};
use tinyllm::rng::Rng;

/// What a chain of two products and the kernel between them may miss.
struct ChainBars {
    /// Logits have a variance of about 1, so that their rounding to bf16 is off by 1e-3 of each probability's own size; the gradient
    /// and `dx` are rounded again, 1.1e-3 each.
    grad: f64,
    /// A row's loss is off by the rounding of one logit, 2^-9 of it at most, where log-sum-exp averages the others; below 1 % of rows
    /// that lose 3 or more.
    loss: f64,
}

fn chain(be: &Cuda, v: usize) -> ChainBars {
    match be.precision() {
        // `dx` sums V terms one after another in the stand-in's product: 2^-24 a step, a random walk.
        Precision::F32 => ChainBars { grad: 2e-6f64.max(6e-8 * (v as f64).sqrt()), loss: 1e-6 },
        Precision::Bf16 => ChainBars { grad: 5e-3, loss: 2e-3 },
    }
}

/// Rows that count, filled up to `filled` with rows that are not there, on both backends; targets and weights by `seed`.
fn targets(be: &Cuda, rows: &[u32], filled: usize, v: usize, weight: f32, seed: u64) -> (Targets<Cuda>, Targets<Reference>) {
    let mut rng = Rng::new(seed);
    // Ids at both ends of the vocabulary too.
    let mut aims: Vec<u32> = rows.iter().map(|_| rng.below(v as u64) as u32).collect();
    aims.iter_mut().zip([v as u32 - 1, 0]).for_each(|(aim, end)| *aim = end);
    let weights: Vec<f64> = (0..rows.len()).map(|i| f64::from(weight * (1 + i % 3) as f32)).collect();
    let truth = TargetRows { count: rows.len(), rows: rows.to_vec(), ids: aims.clone(), weights: weights.clone() };
    let fill = |values: &[u32], with: u32| [values, &vec![with; filled - rows.len()]].concat();
    let mut device = TargetRows {
        count: filled,
        rows: ids(be, &fill(rows, NO_ROW)).0,
        ids: ids(be, &fill(&aims, 0)).0,
        weights: be.alloc_acc(filled).unwrap(),
    };
    be.upload_acc(&mut device.weights, &[&weights[..], &vec![0.0; filled - rows.len()]].concat()).unwrap();
    (device, truth)
}

struct Case {
    n: usize,
    c: usize,
    v: usize,
    /// Every `step`th row counts, from `first`.
    first: usize,
    step: usize,
    /// Rows of a chunk, if not the backend's own choice.
    chunk: Option<usize>,
    dx: bool,
    dwte: bool,
}

impl Case {
    /// Two calls, since losses and weight gradients add up.
    fn run(&self, be: &Cuda) {
        let &Self { n, c, v, chunk, .. } = self;
        let bars = chain(be, v);
        let rows: Vec<u32> = (self.first..n).step_by(self.step).map(|row| row as u32).collect();
        let name = format!("N {n}, C {c}, V {v}, {} rows, chunk {chunk:?}", rows.len());
        let mut head = chunk.map_or_else(|| be.alloc_head(n, c, v), |chunk| Head::with_chunk(be, n, c, v, chunk)).unwrap();
        let mut truth_head = Reference.alloc_head(n, c, v).unwrap();
        let wte = Twin::matrix(be, v, c, &normal(1, v * c, (c as f32).powf(-0.5)));
        let mut loss = AccTwin::of(be, &[0.25]);
        let mut dwte = AccTwin::matrix(be, v, c, &normal(2, v * c, 0.01));
        for call in 0..2 {
            let x = Twin::normal(be, 3 + call, n * c, 1.0);
            let (device, truth) = targets(be, &rows, be.bucket(rows.len(), n), v, 0.1, 5 + call);
            let mut dx = Twin::poison(be, n * c);
            let (d, dw) = (self.dx.then_some(&mut dx.cuda), self.dwte.then_some(&mut dwte.cuda));
            be.classify_loss(&mut loss.cuda, d, dw, &mut head, &x.cuda, &wte.cuda, &device, n, c, v);
            let (d, dw) = (self.dx.then_some(&mut dx.reference), self.dwte.then_some(&mut dwte.reference));
            Reference.classify_loss(&mut loss.reference, d, dw, &mut truth_head, &x.reference, &wte.reference, &truth, n, c, v);
            if self.dx {
                dx.compare(be, &format!("dx, {name}"), bars.grad);
                // What no bar forgives: a row that does not count has no gradient at all.
                let mut host = vec![0f32; n * c];
                be.download(&mut host, &dx.cuda).unwrap();
                let none = |row: usize| host[row * c..][..c].iter().all(|&d| d == 0.0);
                assert!((0..n).all(|row| rows.contains(&(row as u32)) || none(row)), "{name}");
            }
        }
        // Pad rows of the weight's gradient stay 0: pad columns of the logits have none.
        let mut bytes = vec![1; v.next_multiple_of(64) * c * 4];
        be.driver().read(&mut bytes, dwte.cuda.ptr()).unwrap();
        assert!(bytes[v * c * 4..].iter().all(|&b| b == 0), "{name}");
        loss.compare(be, &format!("loss, {name}"), bars.loss);
        dwte.compare(be, &format!("dwte, {name}"), bars.grad);
    }
}

const ALL: Case = Case { n: 70, c: 24, v: 263, first: 0, step: 1, chunk: None, dx: true, dwte: true };

#[test]
fn rows_that_count() {
    each(|be, _| {
        for (first, step) in [(0, 1), (1, 1), (0, 2), (69, 1), (70, 1), (3, 17)] {
            for chunk in [None, Some(5), Some(64)] {
                Case { first, step, chunk, ..ALL }.run(be);
            }
        }
        for n in [1, 2] {
            Case { n, ..ALL }.run(be);
        }
    });
}

#[test]
fn ragged_vocabularies_and_channels() {
    each(|be, _| {
        for v in [1, 13, 64, 67, 300, 1000, 4100] {
            for c in [3, 16] {
                Case { n: 9, c, v, ..ALL }.run(be);
                Case { n: 9, c, v, step: 2, ..ALL }.run(be);
            }
        }
    });
}

/// Threads with several packs each, more of them than are under way at a time; and rows that shared memory has no room for.
#[test]
fn long_rows() {
    each(|be, _| {
        for v in [50_257, 120_001] {
            Case { n: 3, c: 8, v, chunk: Some(2), ..ALL }.run(be);
        }
    });
}

#[test]
fn without_gradients() {
    each(|be, _| {
        for (dx, dwte) in [(false, false), (true, false), (false, true)] {
            for step in [1, 3] {
                Case { dx, dwte, step, chunk: Some(32), ..ALL }.run(be);
            }
        }
    });
}

/// A weight that is the identity makes each logit an element of x, without rounding: what the kernel alone does.
#[test]
fn one_kernel() {
    each(|be, Bars { buf, acc }| {
        let (n, v) = (6, 200);
        let rows: Vec<u32> = (0..n as u32).collect();
        let identity: Vec<f32> = (0..v * v).map(|i| f32::from(u8::from(i / v == i % v))).collect();
        let wte = Twin::matrix(be, v, v, &identity);
        let mut head = be.alloc_head(n, v, v).unwrap();
        // Of all sizes: so flat that each probability is 1 / V, and so steep that a single one is left.
        for scale in [0.01, 1.0, 8.0, 100.0] {
            let x = Twin::normal(be, 11, n * v, scale);
            let (device, truth) = targets(be, &rows, n, v, 0.125, 12);
            let (mut loss, mut dx) = (AccTwin::of(be, &[0.0]), Twin::poison(be, n * v));
            be.classify_loss(&mut loss.cuda, Some(&mut dx.cuda), None, &mut head, &x.cuda, &wte.cuda, &device, n, v, v);
            let mut truth_head = Reference.alloc_head(n, v, v).unwrap();
            let (loss_truth, dx_truth) = (&mut loss.reference, &mut dx.reference);
            Reference.classify_loss(loss_truth, Some(dx_truth), None, &mut truth_head, &x.reference, &wte.reference, &truth, n, v, v);
            loss.compare(be, &format!("loss at {scale}"), acc);
            dx.compare(be, &format!("dx at {scale}"), buf);
        }
    });
}

/// The same bits whatever the chunk; of the gradient of the weight, whose sums it cuts, nothing is said.
#[test]
fn a_loss_does_not_hang_on_the_chunk() {
    each(|be, _| {
        let (n, c, v) = (40, 16, 100);
        let (x, wte) = (Twin::normal(be, 1, n * c, 1.0), Twin::matrix(be, v, c, &normal(2, v * c, 0.3)));
        let rows: Vec<u32> = (0..n as u32).collect();
        let (device, _) = targets(be, &rows, n, v, 0.1, 3);
        let result = |chunk: usize| {
            let mut head = Head::with_chunk(be, n, c, v, chunk).unwrap();
            let (mut loss, mut dx) = (be.alloc_acc(1).unwrap(), be.alloc(n * c).unwrap());
            be.classify_loss(&mut loss, Some(&mut dx), None, &mut head, &x.cuda, &wte.cuda, &device, n, c, v);
            let (mut host_loss, mut host_dx) = ([0.0], vec![0.0; n * c]);
            be.download_acc(&mut host_loss, &loss).unwrap();
            be.download(&mut host_dx, &dx).unwrap();
            (host_loss[0].to_bits(), host_dx)
        };
        assert_eq!(result(40), result(7));
    });
}

#[test]
fn logits() {
    each(|be, bars| {
        let (n, c) = (70, 24);
        let x = Twin::normal(be, 1, n * c, 1.0);
        for v in [1, 13, 263, 320] {
            let wte = Twin::matrix(be, v, c, &normal(2, v * c, 0.2));
            for listed in [vec![], vec![0], vec![69, 3, 3], (0..70).collect::<Vec<u32>>()] {
                // Filled up with rows that are not there: whatever comes of them is within the buffer.
                let filled = listed.len() + 2;
                let (rows, _) = ids(be, &[&listed[..], &[NO_ROW; 2]].concat());
                let mut got = be.alloc(filled * v).unwrap();
                be.logits(&mut got, &x.cuda, &rows, filled, &wte.cuda, c, v);
                let mut want = vec![f64::NAN; listed.len() * v];
                Reference.logits(&mut want, &x.reference, &listed, listed.len(), &wte.reference, c, v);
                let mut host = vec![0f32; listed.len() * v];
                be.sync().unwrap();
                be.download(&mut host, &got).unwrap();
                compare(&host.into_iter().map(f64::from).collect::<Vec<_>>(), &want, &format!("logits, V {v}"), bars.buf);
            }
        }
        // More than are computed at a time.
        let (n, c, v) = (300, 3, 120_001);
        let (x, wte) = (Twin::normal(be, 3, 5 * c, 1.0), Twin::matrix(be, v, c, &normal(4, v * c, 0.2)));
        let rows: Vec<u32> = (0..n).map(|k| (k * k % 5) as u32).collect();
        let (device, _) = ids(be, &rows);
        let mut got = be.alloc(n * v).unwrap();
        be.logits(&mut got, &x.cuda, &device, n, &wte.cuda, c, v);
        let mut host = vec![0f32; n * v];
        be.download(&mut host, &got).unwrap();
        for k in [0, 63, 64, 127, 128, 255, 256, 299] {
            let row: Vec<f64> = host[k * v..][..v].iter().map(|&x| f64::from(x)).collect();
            let mut want = vec![0.0; v];
            Reference.logits(&mut want, &x.reference, &rows[k..][..1].to_vec(), 1, &wte.reference, c, v);
            compare(&row, &want, &format!("row {k}"), bars.buf);
        }
    });
}
