//! The same numbers on both backends, and how far apart they may come out.

use super::shim::{self, Options};
use tinyllm::backend::cuda::driver::Precision;
use tinyllm::backend::cuda::{Acc, Buf, Cuda, Ids};
use tinyllm::backend::reference::Reference;
use tinyllm::backend::{Backend, Control};
use tinyllm::rng::Rng;

/// Bounds on the relative norm of a whole output.
#[derive(Clone, Copy, Debug)]
pub struct Bars {
    /// Of outputs in the storage type: bf16 keeps 8 bits, so that one rounding is off by up to 2^-8 = 4e-3 of the number, and by 1.6e-3
    /// in the root of the mean square.
    pub buf: f64,
    /// Of f32 outputs that come from stored inputs without rounding between.
    pub acc: f64,
}

/// Runs `case` in each precision and in three orders of threads.
pub fn each(case: impl Fn(&Cuda, Bars)) {
    for precision in [Precision::F32, Precision::Bf16] {
        for order in 0..3 {
            let Some(cuda) = shim::cuda(Options { precision, order, ..Options::default() }) else { return };
            case(&cuda, bars(precision));
        }
    }
}

/// What a single kernel may miss.
pub fn bars(precision: Precision) -> Bars {
    match precision {
        Precision::F32 => Bars { buf: 1e-6, acc: 1e-6 },
        Precision::Bf16 => Bars { buf: 3e-3, acc: 1e-6 },
    }
}

/// A buffer on both backends. Values are exact in bf16, so that both start from the same numbers.
pub struct Twin {
    pub cuda: Buf,
    pub reference: Vec<f64>,
    len: usize,
}

impl Twin {
    pub fn of(be: &Cuda, values: &[f32]) -> Self {
        let exact: Vec<f32> = values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        let mut cuda = be.alloc(exact.len()).unwrap();
        be.upload(&mut cuda, &exact).unwrap();
        Self { cuda, reference: exact.iter().map(|&x| f64::from(x)).collect(), len: exact.len() }
    }
    /// A weight: padded as the backend pads it.
    pub fn matrix(be: &Cuda, rows: usize, cols: usize, values: &[f32]) -> Self {
        let mut twin = Self::of(be, values);
        twin.cuda = be.alloc_matrix(rows, cols).unwrap();
        be.upload(&mut twin.cuda, &values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect::<Vec<_>>()).unwrap();
        twin
    }
    pub fn normal(be: &Cuda, seed: u64, len: usize, scale: f32) -> Self {
        Self::of(be, &normal(seed, len, scale))
    }
    /// What a kernel is to overwrite whole.
    pub fn poison(be: &Cuda, len: usize) -> Self {
        Self::of(be, &vec![f32::NAN; len])
    }
    pub fn compare(&self, be: &Cuda, name: &str, bar: f64) {
        let mut host = vec![0f32; self.len];
        be.sync().unwrap();
        be.download(&mut host, &self.cuda).unwrap();
        let host: Vec<f64> = host.into_iter().map(f64::from).collect();
        compare(&host, &self.reference[..self.len], name, bar);
    }
}

/// The same for f32 numbers.
pub struct AccTwin {
    pub cuda: Acc,
    pub reference: Vec<f64>,
}

impl AccTwin {
    pub fn of(be: &Cuda, values: &[f32]) -> Self {
        let reference: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let mut cuda = be.alloc_acc(values.len()).unwrap();
        be.upload_acc(&mut cuda, &reference).unwrap();
        Self { cuda, reference }
    }
    /// A gradient of a matrix: padded as the backend pads it.
    pub fn matrix(be: &Cuda, rows: usize, cols: usize, values: &[f32]) -> Self {
        let mut twin = Self::of(be, values);
        twin.cuda = be.alloc_acc_matrix(rows, cols).unwrap();
        be.upload_acc(&mut twin.cuda, &twin.reference).unwrap();
        twin
    }
    pub fn normal(be: &Cuda, seed: u64, len: usize, scale: f32) -> Self {
        Self::of(be, &normal(seed, len, scale))
    }
    pub fn poison(be: &Cuda, len: usize) -> Self {
        Self::of(be, &vec![f32::NAN; len])
    }
    pub fn compare(&self, be: &Cuda, name: &str, bar: f64) {
        let mut host = vec![0f64; self.reference.len()];
        be.sync().unwrap();
        be.download_acc(&mut host, &self.cuda).unwrap();
        compare(&host, &self.reference, name, bar);
    }
}

pub fn ids(be: &Cuda, values: &[u32]) -> (Ids, Vec<u32>) {
    let mut cuda = be.alloc_ids(values.len()).unwrap();
    be.upload_ids(&mut cuda, values).unwrap();
    (cuda, values.to_vec())
}

pub fn normal(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.normal() as f32 * scale).collect()
}

/// A control block on both backends.
pub fn control(be: &Cuda, control: &Control) -> (<Cuda as Backend>::Ctl, Control) {
    let mut ctl = be.alloc_ctl().unwrap();
    be.upload_ctl(&mut ctl, control).unwrap();
    let mut truth = Reference.alloc_ctl().unwrap();
    Reference.upload_ctl(&mut truth, control).unwrap();
    (ctl, truth)
}

/// # Panics
/// If the relative norm of the difference is above `bar`, or that of the worst element above five times it.
pub fn compare(got: &[f64], want: &[f64], name: &str, bar: f64) {
    let (mut error, mut norm, mut worst, mut most) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got.is_finite() && want.is_finite(), "{name}[{i}] = {got}, should be {want}");
        let d = (got - want).abs();
        (error, norm, worst, most) = (error + d * d, norm + want * want, worst.max(d), most.max(want.abs()));
    }
    let (error, worst) = (error.sqrt() / norm.sqrt().max(1e-30), worst / most.max(1e-30));
    assert!(error <= bar && worst <= 5.0 * bar, "{name}: relative norm {error:.1e}, worst element {worst:.1e}, bar {bar:.0e}");
}
