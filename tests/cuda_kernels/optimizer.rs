//! `kernels/optimizer.cu`.

use super::common::{AccTwin, control, each, normal};
use super::shim::{self, Options};
use half::bf16;
use tinyllm::backend::cuda::driver::Precision;
use tinyllm::backend::cuda::{Acc, Buf, Cuda};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{AdamLeaf, Backend, Control, Rounding};
use tinyllm::rng;

const STEP: Control = Control {
    lr: 3e-3,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    decay: 0.1,
    clip: 1.0,
    step: 3,
    dropout_key: 0,
    rounding_key: 0x0123_4567_89AB_CDEF,
};

fn get(be: &Cuda, src: &Acc, n: usize) -> Vec<f32> {
    let mut host = vec![0f64; n];
    be.download_acc(&mut host, src).unwrap();
    host.into_iter().map(|x| x as f32).collect()
}

fn get_buf(be: &Cuda, src: &Buf, n: usize) -> Vec<f32> {
    let mut host = vec![0f32; n];
    be.download(&mut host, src).unwrap();
    host
}

/// A leaf and its state on both backends; w begins as NaN, for it is made from the master alone.
struct Twins {
    shape: (usize, usize),
    w: Buf,
    master: AccTwin,
    m: AccTwin,
    v: AccTwin,
    g: AccTwin,
    decay: bool,
}

impl Twins {
    fn new(be: &Cuda, seed: u64, (rows, cols): (usize, usize), scale: f32) -> Self {
        let n = rows * cols;
        let matrix = rows > 1;
        let mut w = if matrix { be.alloc_matrix(rows, cols) } else { be.alloc(n) }.unwrap();
        be.upload(&mut w, &vec![f32::NAN; n]).unwrap();
        let g = normal(seed + 3, n, scale);
        Self {
            shape: (rows, cols),
            w,
            master: AccTwin::normal(be, seed, n, 0.1),
            m: AccTwin::normal(be, seed + 1, n, 0.01),
            v: AccTwin::of(be, &normal(seed + 2, n, 0.01).into_iter().map(|x| x * x).collect::<Vec<_>>()),
            g: if matrix { AccTwin::matrix(be, rows, cols, &g) } else { AccTwin::of(be, &g) },
            decay: matrix,
        }
    }
    fn len(&self) -> usize {
        self.shape.0 * self.shape.1
    }
    fn leaf(&mut self) -> AdamLeaf<'_, Cuda> {
        let Self { w, master, m, v, g, decay, .. } = self;
        AdamLeaf { w, master: Some(&mut master.cuda), m: &mut m.cuda, v: &mut v.cuda, g: &g.cuda, decay: *decay }
    }
    fn truth(&mut self) -> AdamLeaf<'_, Reference> {
        let Self { master, m, v, g, decay, .. } = self;
        AdamLeaf { w: &mut master.reference, master: None, m: &mut m.reference, v: &mut v.reference, g: &g.reference, decay: *decay }
    }
}

fn leaves(all: &mut [Twins]) -> Vec<AdamLeaf<'_, Cuda>> {
    all.iter_mut().map(Twins::leaf).collect()
}

/// Vectors and matrices of odd sizes; whole blocks, parts of one and several; more than go into one launch.
fn many(be: &Cuda, scale: f32) -> Vec<Twins> {
    let shapes = [(1, 1), (1, 7), (3, 5), (1, 8), (65, 33), (1, 2048), (2, 2049), (70, 120), (1, 100)];
    let more = (0..80).map(|i| (1, 1 + i % 13));
    shapes.into_iter().chain(more).enumerate().map(|(i, shape)| Twins::new(be, 10 * i as u64, shape, scale)).collect()
}

/// What a master becomes, said once more: chance added below bf16's last bit, then cut off.
fn rounded(master: f32, rounding: Rounding, rounding_key: u64, leaf: usize, element: usize) -> f32 {
    match rounding {
        Rounding::Nearest => bf16::from_f32(master).to_f32(),
        Rounding::Stochastic => {
            let word = rng::block(rng::key(rounding_key, &[leaf as u64]), element as u64 / 8)[element % 8 / 2];
            let chance = if element % 2 == 0 { word & 0xFFFF } else { word >> 16 };
            f32::from_bits((master.to_bits() + chance) & 0xFFFF_0000)
        }
    }
}

fn weights_are_the_rounded_masters(be: &Cuda, all: &[Twins], rounding: Rounding, key: u64) {
    for (leaf, twins) in all.iter().enumerate() {
        let (w, master) = (get_buf(be, &twins.w, twins.len()), get(be, &twins.master.cuda, twins.len()));
        for (i, (&w, &master)) in w.iter().zip(&master).enumerate() {
            let want = if be.precision() == Precision::F32 { master } else { rounded(master, rounding, key, leaf, i) };
            assert_eq!(w.to_bits(), want.to_bits(), "leaf {leaf}, element {i}: {w} of {master}, should be {want}");
        }
    }
}

#[test]
fn a_step_on_many_leaves() {
    each(|be, bars| {
        // Longer than the clip, and shorter.
        for scale in [0.1, 1e-5] {
            for rounding in [Rounding::Stochastic, Rounding::Nearest] {
                let be = be.clone().with_rounding(rounding);
                let (ctl, truth) = control(&be, &STEP);
                let mut all = many(&be, scale);
                let mut norm = AccTwin::poison(&be, 1);
                let grads: Vec<&Acc> = all.iter().map(|t| &t.g.cuda).collect();
                be.grad_norm(&mut norm.cuda, &grads);
                Reference.grad_norm(&mut norm.reference, &all.iter().map(|t| &t.g.reference).collect::<Vec<_>>());
                norm.compare(&be, "norm", bars.acc);
                assert_eq!(norm.reference[0] > STEP.clip, scale == 0.1);

                be.adamw(&mut leaves(&mut all), &norm.cuda, &ctl);
                Reference.adamw(&mut all.iter_mut().map(Twins::truth).collect::<Vec<_>>(), &norm.reference, &truth);
                for (i, twins) in all.iter().enumerate() {
                    let name = |what: &str| format!("{what} of leaf {i}, {:?}", twins.shape);
                    twins.master.compare(&be, &name("master"), bars.acc);
                    twins.m.compare(&be, &name("m"), bars.acc);
                    twins.v.compare(&be, &name("v"), bars.acc);
                }
                weights_are_the_rounded_masters(&be, &all, rounding, STEP.rounding_key);

                // From the masters again: to the bit the same.
                let before: Vec<Vec<f32>> = all.iter().map(|t| get_buf(&be, &t.w, t.len())).collect();
                for twins in &mut all {
                    let n = twins.len();
                    be.upload(&mut twins.w, &vec![f32::NAN; n]).unwrap();
                }
                be.round_masters(&mut leaves(&mut all), &ctl);
                let after: Vec<Vec<f32>> = all.iter().map(|t| get_buf(&be, &t.w, t.len())).collect();
                assert!(before == after);
            }
        }
    });
}

/// Pad rows are neither counted nor written.
#[test]
fn pad_rows_stay_zero() {
    each(|be, _| {
        let mut twins = Twins::new(be, 1, (5, 24), 1.0);
        let (ctl, _) = control(be, &STEP);
        let mut norm = be.alloc_acc(1).unwrap();
        be.grad_norm(&mut norm, &[&twins.g.cuda]);
        be.adamw(&mut [twins.leaf()], &norm, &ctl);
        be.round_masters(&mut [twins.leaf()], &ctl);
        let width = be.precision().bytes();
        let mut bytes = vec![1u8; 64 * 24 * width];
        be.driver().read(&mut bytes, twins.w.ptr()).unwrap();
        assert!(bytes[5 * 24 * width..].iter().all(|&b| b == 0));
    });
}

/// A norm of more gradients than go into one launch, of one, and of none; of a gradient of zeros.
#[test]
fn norms() {
    each(|be, bars| {
        for (count, len) in [(0, 0), (1, 20_003), (260, 17), (3, 8192), (2, 8193)] {
            let grads: Vec<AccTwin> = (0..count).map(|i| AccTwin::normal(be, i, len, 0.3)).collect();
            let mut norm = AccTwin::poison(be, 1);
            be.grad_norm(&mut norm.cuda, &grads.iter().map(|g| &g.cuda).collect::<Vec<_>>());
            Reference.grad_norm(&mut norm.reference, &grads.iter().map(|g| &g.reference).collect::<Vec<_>>());
            norm.compare(be, &format!("norm of {count} x {len}"), bars.acc);
        }
        // No gradient at all: nothing is divided by 0.
        let mut twins = Twins::new(be, 1, (1, 9), 0.0);
        let (ctl, truth) = control(be, &STEP);
        let mut norm = AccTwin::poison(be, 1);
        be.grad_norm(&mut norm.cuda, &[&twins.g.cuda]);
        Reference.grad_norm(&mut norm.reference, &[&twins.g.reference]);
        be.adamw(&mut [twins.leaf()], &norm.cuda, &ctl);
        Reference.adamw(&mut [twins.truth()], &norm.reference, &truth);
        twins.master.compare(be, "master", bars.acc);
    });
}

/// Weights that `masters` become, under `key`.
fn weights_of(be: &Cuda, masters: &[f32], key: u64) -> Vec<f32> {
    let mut twins = Twins::new(be, 1, (1, masters.len()), 1.0);
    be.upload_acc(&mut twins.master.cuda, &masters.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()).unwrap();
    let (ctl, _) = control(be, &Control { rounding_key: key, ..STEP });
    be.round_masters(&mut [twins.leaf()], &ctl);
    get_buf(be, &twins.w, masters.len())
}

#[test]
fn rounding_by_chance_is_right_in_the_mean_and_keeps_what_is_exact() {
    let Some(be) = shim::cuda(Options { precision: Precision::Bf16, ..Options::default() }) else { return };
    // What bf16 holds stays, whatever the draw: of both signs, 0, the smallest, the largest, infinite; and a NaN stays one.
    let mut exact: Vec<f32> = (0..4000).map(|i| bf16::from_bits(i * 16 + 5).to_f32()).filter(|x| !x.is_nan()).collect();
    exact.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, bf16::MAX.to_f32(), bf16::MIN_POSITIVE_SUBNORMAL.to_f32()]);
    for key in 0..4 {
        let got = weights_of(&be, &exact, key);
        assert!(got.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    assert!(weights_of(&be, &[f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::from_bits(0xFFFF_FFFF)], 1).iter().all(|x| x.is_nan()));

    // Elsewhere: a neighbour above or below, and the mean is the master's. A draw is off by a step `u` of the grid with p (1 - p)
    // as its variance: n draws are right in the mean to 5 standard errors (one in 2 million), 5 u sqrt(p (1 - p) / n).
    let n = 40_000;
    for (share, base) in [(0.5, 1.0f32), (0.1, -3.0), (0.999, 1e-3), (1.0 / 65536.0, 7e5)] {
        let base = bf16::from_f32(base).to_f32();
        let next = f32::from_bits(base.to_bits() + 0x1_0000);
        let master = f32::from_bits(base.to_bits() + (share * 65536.0) as u32);
        let p = f64::from(master - base) / f64::from(next - base);
        let got = weights_of(&be, &vec![master; n], 99);
        assert!(got.iter().all(|&w| w == base || w == next), "{master} becomes one of its neighbours");
        let mean = got.iter().map(|&w| f64::from(w)).sum::<f64>() / n as f64;
        let bound = 5.0 * f64::from(next - base).abs() * (p * (1.0 - p) / n as f64).sqrt();
        assert!((mean - f64::from(master)).abs() <= bound, "the mean of {master} is {mean}, off by more than {bound}");
        // Another step, another leaf: other draws. (Where one in 65,536 goes up, they may be the same.)
        if share > 0.01 {
            assert!(got != weights_of(&be, &vec![master; n], 100));
        }
    }
}
