//! Where a case is run: inputs that are the same on every device, outputs that begin as NaN, and how far two devices' outputs are apart.

use super::Bars;
use crate::backend::{Backend, BackendError, Control, NO_ROW, Targets};
use crate::rng::{self, Rng};
use half::bf16;
use rayon::prelude::*;

/// What an output is, which decides how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rounded to the type of activations once or twice.
    Stored,
    /// The same with roundings within: probabilities, logits and their gradients are stored before they are multiplied.
    Chained,
    /// As [`Stored`](Self::Stored), and 0 in the very same places.
    Masked,
    /// An f32 sum over stored numbers.
    Sum,
    /// A few f32 operations on each number.
    Element,
    /// Weights made from masters.
    Weight,
    /// A loss of one kernel.
    Loss,
    /// Equal, every bit.
    Same,
    /// A gradient or logits of a whole model.
    Model,
    /// The same of an adapter: two thin matrices in a row, whose honest bf16 is off by 3.2e-2 and 5.1e-4 in 1 - cos
    /// (`tests/common/rounded.rs`, on the fixture "lora").
    Adapter,
    /// A whole model's loss; an absolute error.
    ModelLoss,
    /// The norm of a whole model's gradient.
    ModelNorm,
    /// Losses of steps that follow another; absolute errors.
    Losses,
}

/// Something a case computed.
pub struct Output {
    /// What it is.
    pub name: String,
    /// Its numbers.
    pub values: Vec<f32>,
    /// How it is judged.
    pub kind: Kind,
    /// Whether something was written behind its end.
    pub overrun: bool,
}

impl Output {
    /// Numbers that are already in host memory.
    pub fn of(name: impl Into<String>, values: Vec<f32>, kind: Kind) -> Self {
        Self { name: name.into(), values, kind, overrun: false }
    }

    /// How many of two runs' bits differ: 0 is what it should be.
    pub fn differing(name: impl Into<String>, one: &[u64], other: &[u64]) -> Self {
        let differing = one.iter().zip(other).filter(|(a, b)| a != b).count() + one.len().abs_diff(other.len());
        Self::of(name, vec![differing as f32], Kind::Same)
    }
}

/// What a negative control changes by 1 %: the check must see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// Nothing.
    None,
    /// One weight of a model.
    Weight,
    /// All of one input.
    Whole,
}

/// A device with a case on it.
pub struct Lab<'a, B: Backend> {
    /// The device.
    pub be: &'a B,
    /// What is wrong on purpose.
    pub tamper: Tamper,
    /// What came out so far.
    pub outputs: Vec<Output>,
}

/// Elements that every buffer has behind its end, and what they hold; the number is exact in bf16.
const BEHIND: usize = 37;
const SENTINEL: f32 = 12_288.0;

impl<'a, B: Backend> Lab<'a, B> {
    /// With nothing in it.
    pub const fn new(be: &'a B, tamper: Tamper) -> Self {
        Self { be, tamper, outputs: vec![] }
    }

    /// The input that a negative control changes.
    pub fn suspect(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.tamper != Tamper::None {
            values.iter_mut().for_each(|x| *x *= 1.01);
        }
        values
    }

    /// A buffer of these numbers, guarded behind its end.
    pub fn buf(&self, values: &[f32]) -> Result<B::Buf, BackendError> {
        let mut buf = self.be.alloc(values.len() + BEHIND)?;
        self.be.upload(&mut buf, &[values, &[SENTINEL; BEHIND]].concat())?;
        Ok(buf)
    }

    /// `len` draws.
    pub fn normal(&self, seed: u64, len: usize, scale: f32) -> Result<B::Buf, BackendError> {
        self.buf(&normal(seed, len, scale))
    }

    /// What a kernel is to overwrite whole.
    pub fn poison(&self, len: usize) -> Result<B::Buf, BackendError> {
        self.buf(&vec![f32::NAN; len])
    }

    /// A weight, padded as the device pads it.
    pub fn matrix(&self, rows: usize, cols: usize, values: &[f32]) -> Result<B::Buf, BackendError> {
        let mut buf = self.be.alloc_matrix(rows, cols)?;
        self.be.upload(&mut buf, values)?;
        Ok(buf)
    }

    /// f32 numbers, guarded behind their end.
    pub fn acc(&self, values: &[f32]) -> Result<B::Acc, BackendError> {
        self.whole_acc(&[values, &[SENTINEL; BEHIND]].concat())
    }

    /// f32 numbers and nothing behind, for kernels that take all there is.
    pub fn whole_acc(&self, values: &[f32]) -> Result<B::Acc, BackendError> {
        let mut acc = self.be.alloc_acc(values.len())?;
        self.be.upload_acc(&mut acc, &wide(values))?;
        Ok(acc)
    }

    /// f32 numbers that a kernel is to overwrite.
    pub fn acc_poison(&self, len: usize) -> Result<B::Acc, BackendError> {
        self.acc(&vec![f32::NAN; len])
    }

    /// The gradient of a weight, padded as the device pads it; it begins with numbers, because kernels add to it.
    pub fn acc_matrix(&self, rows: usize, cols: usize, values: &[f32]) -> Result<B::Acc, BackendError> {
        let mut acc = self.be.alloc_acc_matrix(rows, cols)?;
        self.be.upload_acc(&mut acc, &wide(values))?;
        Ok(acc)
    }

    /// Ids.
    pub fn ids(&self, values: &[u32]) -> Result<B::Ids, BackendError> {
        let mut ids = self.be.alloc_ids(values.len())?;
        self.be.upload_ids(&mut ids, values)?;
        Ok(ids)
    }

    /// A control block.
    pub fn control(&self, control: &Control) -> Result<B::Ctl, BackendError> {
        let mut ctl = self.be.alloc_ctl()?;
        self.be.upload_ctl(&mut ctl, control)?;
        Ok(ctl)
    }

    /// The rows of `n` that count, each by `weight`, filled up as the device wants it.
    pub fn targets(&self, rows: &[u32], ids: &[u32], weight: f32, n: usize) -> Result<Targets<B>, BackendError> {
        let count = self.be.bucket(rows.len(), n);
        let filled = |values: &[u32], filler| {
            let mut all = values.to_vec();
            all.resize(count, filler);
            all
        };
        let mut weights = vec![weight; rows.len()];
        weights.resize(count, 0.0);
        Ok(Targets::<B> {
            count,
            rows: self.ids(&filled(rows, NO_ROW))?,
            ids: self.ids(&filled(ids, 0))?,
            weights: self.whole_acc(&weights)?,
        })
    }

    /// Reads back a guarded output.
    pub fn keep(&mut self, name: &str, buf: &B::Buf, len: usize, kind: Kind) -> Result<(), BackendError> {
        self.be.sync()?;
        let mut values = vec![0.0; len + BEHIND];
        self.be.download(&mut values, buf)?;
        self.push(name, values, len, kind);
        Ok(())
    }

    /// Reads back a guarded output in f32.
    pub fn keep_acc(&mut self, name: &str, acc: &B::Acc, len: usize, kind: Kind) -> Result<(), BackendError> {
        self.be.sync()?;
        let values = self.read_acc(acc, len + BEHIND)?;
        self.push(name, values, len, kind);
        Ok(())
    }

    fn push(&mut self, name: &str, mut values: Vec<f32>, len: usize, kind: Kind) {
        let overrun = values.split_off(len).iter().any(|&x| x != SENTINEL);
        self.outputs.push(Output { overrun, ..Output::of(name, values, kind) });
    }

    /// Reads back an output in f32 that has nothing behind it.
    pub fn keep_whole(&mut self, name: &str, acc: &B::Acc, len: usize, kind: Kind) -> Result<(), BackendError> {
        self.be.sync()?;
        let values = self.read_acc(acc, len)?;
        self.outputs.push(Output::of(name, values, kind));
        Ok(())
    }

    fn read_acc(&self, acc: &B::Acc, len: usize) -> Result<Vec<f32>, BackendError> {
        let mut values = vec![0.0; len];
        self.be.download_acc(&mut values, acc)?;
        Ok(values.into_iter().map(|x| x as f32).collect())
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The nearest number that bf16 has, so that every device starts from the same ones.
pub fn exact(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Normal draws, each exact in bf16.
pub fn normal(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    drawn(rng::key(seed, &[len as u64]), len, |rng| exact(rng.normal() as f32 * scale))
}

/// `len` draws under a key, made on all threads.
pub fn drawn(key: u64, len: usize, draw: impl Fn(&mut Rng) -> f32 + Sync) -> Vec<f32> {
    /// Fixed, so that values do not depend on the number of threads.
    const CHUNK: usize = 1 << 14;
    let mut values = vec![0.0; len];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut rng = Rng::new(if i == 0 { key } else { rng::key(key, &[i as u64]) });
        chunk.iter_mut().for_each(|v| *v = draw(&mut rng));
    });
    values
}

/// How far an output is off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    /// Relative norm of the difference; where the truth is 0, the norm itself.
    pub norm: f64,
    /// The largest difference, relative to the largest number.
    pub worst: f64,
    /// One minus the cosine between the two.
    pub turned: f64,
}

/// How far `got` is from `want`.
///
/// # Errors
/// Where a number is not finite.
pub fn distance(got: &[f32], want: &[f32]) -> Result<Distance, String> {
    if got.len() != want.len() {
        return Err(format!("{} numbers instead of {}", got.len(), want.len()));
    }
    // Cut at fixed places and added up in order: figures do not depend on the number of threads.
    const CHUNK: usize = 1 << 16;
    let parts: Vec<Result<Sums, String>> = (got.par_chunks(CHUNK).zip(want.par_chunks(CHUNK)).enumerate())
        .map(|(i, (got, want))| Sums::of(got, want).map_err(|at| told(got[at], want[at], i * CHUNK + at)))
        .collect();
    let told = |why: String| format!("{why} of {}", got.len());
    let mut all = Sums::default();
    for part in parts {
        all.add(&part.map_err(told)?);
    }
    let Sums { off, ours, theirs, both, worst, most } = all;
    if theirs == 0.0 {
        return Ok(Distance { norm: off.sqrt(), worst, turned: 0.0 });
    }
    let turned = if off == 0.0 { 0.0 } else { (1.0 - both / (ours * theirs).sqrt()).max(0.0) };
    Ok(Distance { norm: (off / theirs).sqrt(), worst: worst / most, turned })
}

fn told(got: f32, want: f32, at: usize) -> String {
    format!("is {got}, and should be {want}, in number {at}")
}

/// What a distance is made of.
#[derive(Default)]
struct Sums {
    off: f64,
    ours: f64,
    theirs: f64,
    both: f64,
    worst: f64,
    most: f64,
}

impl Sums {
    /// Of a stretch; the first place at which a number is not finite.
    fn of(got: &[f32], want: &[f32]) -> Result<Self, usize> {
        let mut all = Self::default();
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            if !g.is_finite() || !w.is_finite() {
                return Err(i);
            }
            let (g, w) = (f64::from(g), f64::from(w));
            let d = g - w;
            all.add(&Self { off: d * d, ours: g * g, theirs: w * w, both: g * w, worst: d.abs(), most: w.abs() });
        }
        Ok(all)
    }

    fn add(&mut self, more: &Self) {
        self.off += more.off;
        self.ours += more.ours;
        self.theirs += more.theirs;
        self.both += more.both;
        self.worst = self.worst.max(more.worst);
        self.most = self.most.max(more.most);
    }
}

/// What became of one output.
pub struct Verdict {
    /// The output.
    pub name: String,
    /// How far it is off.
    pub error: f64,
    /// How far it may be.
    pub bar: f64,
    /// What is wrong with it.
    pub failure: Option<String>,
}

impl Verdict {
    /// The error in units of its bar: what the worst output of a case is chosen by.
    pub fn strain(&self) -> f64 {
        match (&self.failure, self.bar) {
            (Some(_), _) => f64::INFINITY,
            (None, 0.0) => self.error,
            (None, bar) => self.error / bar,
        }
    }
}

/// Holds an output to its truth.
pub fn judge(got: &Output, want: &Output, bars: &Bars) -> Verdict {
    let bar = bars.of(got.kind);
    let verdict = |error, failure| Verdict { name: got.name.clone(), error, bar, failure };
    let apart = match distance(&got.values, &want.values) {
        Ok(apart) => apart,
        Err(why) => return verdict(f64::NAN, Some(why)),
    };
    if got.overrun {
        return verdict(apart.norm, Some("written behind its end".into()));
    }
    let absolute = matches!(got.kind, Kind::ModelLoss | Kind::Losses);
    let error = if absolute { most(&got.values, &want.values) } else { apart.norm };
    let masked = || got.values.iter().zip(&want.values).filter(|(g, w)| (**g == 0.0) != (**w == 0.0)).count();
    let elsewhere = if got.kind == Kind::Masked { masked() } else { 0 };
    let failure = if elsewhere > 0 {
        Some(format!("{elsewhere} elements are dropped here and not there"))
    } else if error > bar {
        Some(format!("off by {error:.1e}, more than {bar:.0e}"))
    } else if !absolute && apart.worst > 5.0 * bar {
        // A norm over many numbers hides a few that are wrong.
        Some(format!("off by {:.1e} in its worst element, more than {:.0e}", apart.worst, 5.0 * bar))
    } else {
        let turned = bars.turned(got.kind).filter(|&bar| apart.turned > bar);
        turned.map(|bar| format!("1 - cos is {:.1e}, more than {bar:.0e}", apart.turned))
    };
    verdict(error, failure)
}

fn most(got: &[f32], want: &[f32]) -> f64 {
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(got: &[f32], want: &[f32], kind: Kind) -> Option<String> {
        let of = |values: &[f32]| Output::of("x", values.to_vec(), kind);
        judge(&of(got), &of(want), &Bars::F32).failure
    }

    #[test]
    fn what_is_wrong_is_told() {
        let want: Vec<f32> = normal(1, 5000, 1.0);
        let with = |i: usize, x: f32| {
            let mut got = want.clone();
            got[i] = x;
            got
        };
        assert!(judged(&want, &want, Kind::Stored).is_none());
        assert!(judged(&want, &want[1..], Kind::Stored).unwrap().contains("4999"));
        assert!(judged(&with(7, f32::NAN), &want, Kind::Same).unwrap().contains("number 7 of 5000"));
        assert!(judged(&with(7, 0.0), &want, Kind::Masked).unwrap().contains("1 elements are dropped"));
        // 1 % of the largest of 5,000: 7e-4 in the worst element, 5e-4 in the norm.
        assert!(judged(&with(7, want[7] + 0.04), &want, Kind::Stored).unwrap().contains("more than 5e-5"));
        assert!(judged(&with(7, want[7] + 1.5e-3), &want, Kind::Stored).unwrap().contains("worst element"));
        assert!(judged(&with(7, want[7] + 1e-4), &want, Kind::Stored).is_none());
        assert!(judged(&with(7, want[7] * (1.0 + f32::EPSILON)), &want, Kind::Same).is_some());
        assert!(judged(&[1e-30], &[0.0], Kind::Same).is_some());
        let overrun = Output { overrun: true, ..Output::of("x", want.clone(), Kind::Stored) };
        assert!(judge(&overrun, &Output::of("x", want, Kind::Stored), &Bars::F32).failure.unwrap().contains("behind"));
    }

    /// The cosine is a bar of its own: a gradient of the right length and another direction.
    #[test]
    fn a_turned_gradient_is_told() {
        let want = normal(1, 20_000, 1.0);
        let noise = normal(2, 20_000, 0.028);
        let got: Vec<f32> = want.iter().zip(&noise).map(|(w, n)| w + n).collect();
        let of = |values: &[f32]| Output::of("x", values.to_vec(), Kind::Model);
        assert!(judge(&of(&got), &of(&want), &Bars::BF16).failure.unwrap().contains("1 - cos"));
    }
}
