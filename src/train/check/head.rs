//! Each kernel by itself: the classifier and the optimizer.

use super::kernels::CONTROL;
use super::lab::{Kind, Lab, Output, drawn, normal};
use super::samples::{Sizes, ids};
use crate::backend::{AdamLeaf, Backend, BackendError, Control};

/// A kernel, or a few that belong together, at some sizes.
#[derive(Clone, Debug)]
pub enum Heads {
    /// Loss and its gradients: rows, channels, vocabulary, and whether all rows count or three of four.
    Classify(usize, usize, usize, bool),
    /// Logits of a third of some rows.
    Logits(usize, usize, usize),
    /// The norm of gradients of these lengths.
    GradNorm([usize; 4]),
    /// One step of AdamW on weights of these rows and columns, and making them from their masters again.
    AdamW([(usize, usize); 4]),
}

impl Heads {
    /// All of them at these sizes.
    pub fn all(s: &Sizes) -> Vec<Self> {
        let (n, c, v) = (s.n(), s.model.n_embd, s.model.vocab());
        vec![
            Self::Classify(s.t, c, v, true),
            Self::Classify(s.classified, c, v, false),
            Self::Logits(n.min(300), c, v),
            Self::GradNorm([v * c, 3 * c * c, c, 7]),
            Self::AdamW([(v, c), (3 * c, c), (1, c), (1, 7)]),
        ]
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classify(.., true) => "classifier, all rows",
            Self::Classify(.., false) => "classifier, some rows",
            Self::Logits(..) => "logits",
            Self::GradNorm(_) => "gradient norm",
            Self::AdamW(_) => "adamw",
        }
    }

    /// Its sizes in words.
    pub fn sizes(&self) -> String {
        match self {
            Self::Classify(n, c, v, _) | Self::Logits(n, c, v) => format!("N {n} C {c} V {v}"),
            Self::GradNorm(lengths) => format!("{}", lengths.iter().sum::<usize>()),
            Self::AdamW(shapes) => format!("{}", shapes.iter().map(|(rows, cols)| rows * cols).sum::<usize>()),
        }
    }

    /// Runs it on a device.
    pub fn run<B: Backend>(&self, lab: &mut Lab<B>) -> Result<(), BackendError> {
        match self {
            &Self::Classify(n, c, v, all) => classify(lab, n, c, v, all),
            &Self::Logits(n, c, v) => logits(lab, n, c, v),
            Self::GradNorm(lengths) => grad_norm(lab, lengths),
            Self::AdamW(shapes) => adamw(lab, shapes),
        }
    }
}

/// A head's matrix that makes logits of the order of 1.
fn head<B: Backend>(lab: &Lab<B>, c: usize, v: usize) -> Result<B::Buf, BackendError> {
    lab.matrix(v, c, &lab.suspect(normal(2, v * c, (c as f32).sqrt().recip())))
}

fn classify<B: Backend>(lab: &mut Lab<B>, n: usize, c: usize, v: usize, all: bool) -> Result<(), BackendError> {
    let be = lab.be;
    let (x, wte) = (lab.normal(1, n * c, 1.0)?, head(lab, c, v)?);
    let rows: Vec<u32> = (0..n as u32).filter(|row| all || row % 4 != 1).collect();
    let count = rows.len();
    let targets = lab.targets(&rows, &ids(3, count, v), 0.25 / count as f32, n)?;
    let mut workspace = be.alloc_head(n, c, v)?;
    let mut loss = lab.acc(&[1.0])?;
    be.classify_loss(&mut loss, None, None, &mut workspace, &x, &wte, &targets, n, c, v);
    lab.keep_acc("loss without gradients", &loss, 1, Kind::Loss)?;
    let mut loss = lab.acc(&[1.0])?;
    let mut dx = lab.poison(n * c)?;
    let mut dwte = lab.acc_matrix(v, c, &normal(5, v * c, 1e-4))?;
    be.classify_loss(&mut loss, Some(&mut dx), Some(&mut dwte), &mut workspace, &x, &wte, &targets, n, c, v);
    lab.keep_acc("loss", &loss, 1, Kind::Loss)?;
    lab.keep("classify_loss dx", &dx, n * c, Kind::Chained)?;
    lab.keep_whole("classify_loss dwte", &dwte, v * c, Kind::Chained)?;
    // A frozen head.
    let mut dx = lab.poison(n * c)?;
    be.classify_loss(&mut loss, Some(&mut dx), None, &mut workspace, &x, &wte, &targets, n, c, v);
    lab.keep("classify_loss, dx alone", &dx, n * c, Kind::Chained)
}

fn logits<B: Backend>(lab: &mut Lab<B>, n: usize, c: usize, v: usize) -> Result<(), BackendError> {
    let (x, wte) = (lab.normal(1, n * c, 1.0)?, head(lab, c, v)?);
    let rows: Vec<u32> = (0..n as u32).step_by(3).collect();
    let targets = lab.targets(&rows, &vec![0; rows.len()], 1.0, n)?;
    // The rows that the device filled up with have logits of their own, which nobody reads.
    let mut logits = lab.poison(targets.count * v)?;
    lab.be.logits(&mut logits, &x, &targets.rows, targets.count, &wte, c, v);
    let (count, filled) = (rows.len() * v, targets.count * v);
    lab.keep("logits", &logits, filled, Kind::Stored)?;
    lab.outputs.last_mut().expect("just kept").values.truncate(count);
    Ok(())
}

fn grad_norm<B: Backend>(lab: &mut Lab<B>, lengths: &[usize; 4]) -> Result<(), BackendError> {
    let scales = [1e-3, 0.1, 1.0, 1e-3];
    let mut grads = Vec::new();
    for (i, (&len, scale)) in lengths.iter().zip(scales).enumerate() {
        grads.push(lab.whole_acc(&lab.suspect(normal(i as u64, len, scale)))?);
    }
    let mut norm = lab.acc_poison(1)?;
    lab.be.grad_norm(&mut norm, &grads.iter().collect::<Vec<_>>());
    lab.keep_acc("grad_norm", &norm, 1, Kind::Sum)
}

/// A parameter in training.
struct Leaf<B: Backend> {
    w: B::Buf,
    master: Option<B::Acc>,
    m: B::Acc,
    v: B::Acc,
    g: B::Acc,
    decay: bool,
    len: usize,
}

impl<B: Backend> Leaf<B> {
    fn new(lab: &Lab<B>, i: u64, (rows, cols): (usize, usize)) -> Result<Self, BackendError> {
        let len = rows * cols;
        // Not exact in bf16: these are masters.
        let values = lab.suspect(drawn(100 + i, len, |rng| rng.normal() as f32 * 0.1));
        let matrix = rows > 1;
        let w = if matrix { lab.be.alloc_matrix(rows, cols)? } else { lab.be.alloc(len)? };
        let acc = |values: &[f32]| if matrix { lab.acc_matrix(rows, cols, values) } else { lab.whole_acc(values) };
        let squares: Vec<f32> = normal(300 + i, len, 0.1).into_iter().map(f32::abs).collect();
        let mut leaf = Self {
            w,
            master: B::MASTERS.then(|| lab.whole_acc(&values)).transpose()?,
            m: lab.whole_acc(&normal(200 + i, len, 0.1))?,
            v: lab.whole_acc(&squares)?,
            g: acc(&normal(400 + i, len, 1.0))?,
            decay: matrix,
            len,
        };
        // With a master beside them the weights are but written.
        leaf.set(lab.be, if B::MASTERS { None } else { Some(&values) })?;
        Ok(leaf)
    }

    /// Sets the weights; `None` poisons them.
    fn set(&mut self, be: &B, values: Option<&[f32]>) -> Result<(), BackendError> {
        match values {
            Some(values) => be.upload(&mut self.w, values),
            None => be.upload(&mut self.w, &vec![f32::NAN; self.len]),
        }
    }

    fn weights(&self, be: &B) -> Result<Vec<f32>, BackendError> {
        let mut values = vec![0.0; self.len];
        be.download(&mut values, &self.w)?;
        Ok(values)
    }
}

fn walk<B: Backend>(leaves: &mut [Leaf<B>]) -> Vec<AdamLeaf<'_, B>> {
    let each = leaves.iter_mut();
    each.map(|Leaf { w, master, m, v, g, decay, .. }| AdamLeaf { w, master: master.as_mut(), m, v, g, decay: *decay }).collect()
}

fn adamw<B: Backend>(lab: &mut Lab<B>, shapes: &[(usize, usize); 4]) -> Result<(), BackendError> {
    let be = lab.be;
    // With a gradient longer than the bound, and with one that is not.
    for (clipped, clip) in [("", 1e6), (", clipped", 0.5)] {
        let ctl = lab.control(&Control { clip, ..CONTROL })?;
        let norm = lab.acc(&[2.0])?;
        let mut leaves = Vec::new();
        for (i, &shape) in shapes.iter().enumerate() {
            leaves.push(Leaf::new(lab, i as u64, shape)?);
        }
        be.adamw(&mut walk(&mut leaves), &norm, &ctl);
        be.sync()?;
        let mut weights = Vec::new();
        for (i, leaf) in leaves.iter().enumerate() {
            let w = leaf.weights(be)?;
            lab.outputs.push(Output::of(format!("weights {i}{clipped}"), w.clone(), Kind::Weight));
            match &leaf.master {
                Some(master) => lab.keep_whole(&format!("master {i}{clipped}"), master, leaf.len, Kind::Element)?,
                None => lab.outputs.push(Output::of(format!("master {i}{clipped}"), w.clone(), Kind::Element)),
            }
            lab.keep_whole(&format!("first moment {i}{clipped}"), &leaf.m, leaf.len, Kind::Element)?;
            lab.keep_whole(&format!("second moment {i}{clipped}"), &leaf.v, leaf.len, Kind::Element)?;
            weights.push(w);
        }
        if B::MASTERS {
            leaves.iter_mut().try_for_each(|leaf| leaf.set(be, None))?;
        }
        be.round_masters(&mut walk(&mut leaves), &ctl);
        be.sync()?;
        for (i, (leaf, before)) in leaves.iter().zip(&weights).enumerate() {
            let bits = |values: &[f32]| values.iter().map(|x| u64::from(x.to_bits())).collect::<Vec<_>>();
            lab.outputs.push(Output::differing(format!("round_masters {i}{clipped}"), &bits(&leaf.weights(be)?), &bits(before)));
        }
    }
    Ok(())
}
