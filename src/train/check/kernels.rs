//! Each kernel by itself: elements, embedding, norms, products, attention.

use super::lab::{Kind, Lab, exact, normal};
use super::samples::{Sizes, ids};
use crate::backend::{Backend, BackendError, Control, Heads};
use crate::rng::Rng;

/// A kernel, or a few that belong together, at some sizes.
#[derive(Clone, Debug)]
pub enum Kernels {
    /// Copying, scaling, GELU and its slope on `n` numbers.
    Elements(usize),
    /// Dropout on `n` numbers.
    Dropout(usize),
    /// Embedding and its backward: rows, channels, vocabulary, positions.
    Embed(usize, usize, usize, usize),
    /// LayerNorm and its backward: rows, channels.
    Norm(usize, usize),
    /// Forward products of one shape: what it is of, rows, inputs, outputs.
    Forward(&'static str, usize, usize, usize),
    /// Backward products of one shape.
    Backward(&'static str, usize, usize, usize),
    /// Attention and its backward, and whether rows hold several documents.
    Attention(Heads, bool),
}

impl Kernels {
    /// All of them at these sizes.
    pub fn all(s: &Sizes) -> Vec<Self> {
        let (n, c, f, v, r) = (s.n(), s.model.n_embd, s.model.ff(), s.model.vocab(), s.rank);
        let mut all = vec![Self::Elements(n * f), Self::Dropout(n * c), Self::Embed(n, c, v, s.model.n_ctx), Self::Norm(n, c)];
        for (of, i, o) in [("qkv", c, 3 * c), ("out", c, c), ("up", c, f), ("down", f, c), ("lora a", c, r), ("lora b", r, 3 * c)] {
            all.extend([Self::Forward(of, n, i, o), Self::Backward(of, n, i, o)]);
        }
        let heads = Heads { b: s.b, t: s.t, h: s.model.n_head, d: s.model.head_dim() };
        // Other sizes of heads, and lengths that end within a tile.
        let (t, h) = (s.t - s.t / 3, 2);
        let others = [16, 64, 80, 128].map(|d| Heads { b: 1, t: t + d / 16, h, d });
        all.extend(std::iter::once(heads).chain(others).flat_map(|s| [Self::Attention(s, false), Self::Attention(s, true)]));
        all
    }

    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Self::Elements(_) => "elements".into(),
            Self::Dropout(_) => "dropout".into(),
            Self::Embed(..) => "embed".into(),
            Self::Norm(..) => "norm".into(),
            Self::Forward(of, ..) => format!("product {of}"),
            Self::Backward(of, ..) => format!("product {of} backward"),
            Self::Attention(_, false) => "attention".into(),
            Self::Attention(_, true) => "attention, documents".into(),
        }
    }

    /// Its sizes in words.
    pub fn sizes(&self) -> String {
        match *self {
            Self::Elements(n) | Self::Dropout(n) => format!("{n}"),
            Self::Embed(n, c, v, _) => format!("N {n} C {c} V {v}"),
            Self::Norm(n, c) => format!("N {n} C {c}"),
            Self::Forward(_, n, i, o) | Self::Backward(_, n, i, o) => format!("N {n} I {i} O {o}"),
            Self::Attention(Heads { b, t, h, d }, _) => format!("B {b} T {t} H {h} D {d}"),
        }
    }

    /// Runs it on a device.
    pub fn run<B: Backend>(&self, lab: &mut Lab<B>) -> Result<(), BackendError> {
        match *self {
            Self::Elements(n) => elements(lab, n),
            Self::Dropout(n) => dropout(lab, n),
            Self::Embed(n, c, v, t) => embed(lab, n, c, v, t),
            Self::Norm(n, c) => norm(lab, n, c),
            Self::Forward(_, n, i, o) => forward(lab, n, i, o),
            Self::Backward(_, n, i, o) => backward(lab, n, i, o),
            Self::Attention(s, packed) => attention(lab, s, packed),
        }
    }
}

fn elements<B: Backend>(lab: &mut Lab<B>, n: usize) -> Result<(), BackendError> {
    let be = lab.be;
    let x = lab.buf(&lab.suspect(normal(1, n, 2.0)))?;
    let mut y = lab.poison(n)?;
    be.gelu(&mut y, &x, n);
    lab.keep("gelu", &y, n, Kind::Stored)?;
    be.copy(&mut y, &x, n);
    lab.keep("copy", &y, n, Kind::Same)?;
    be.axpy(&mut y, -0.3, &x, n);
    lab.keep("axpy", &y, n, Kind::Stored)?;
    let mut d = lab.normal(2, n, 1.0)?;
    be.gelu_backward(&mut d, &x, n);
    lab.keep("gelu_backward", &d, n, Kind::Stored)?;
    be.zero(&mut y, n);
    lab.keep("zero", &y, n, Kind::Same)?;
    let mut acc = lab.whole_acc(&vec![f32::NAN; n])?;
    be.zero_acc(&mut acc);
    lab.keep_whole("zero_acc", &acc, n, Kind::Same)
}

/// The numbers of a step; what a case hangs on it says anew.
pub const CONTROL: Control = Control {
    lr: 3e-3,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    decay: 0.1,
    clip: 1.0,
    step: 3,
    dropout_key: 0x1234_5678_9ABC_DEF0,
    rounding_key: 0xFEDC_BA98_7654_3210,
};

fn dropout<B: Backend>(lab: &mut Lab<B>, n: usize) -> Result<(), BackendError> {
    let ctl = lab.control(&CONTROL)?;
    let x = lab.buf(&lab.suspect(normal(1, n, 2.0)))?;
    for (name, p, site) in [("dropout", 0.25, 17), ("dropout of little", 0.05, 3)] {
        let mut y = lab.poison(n)?;
        lab.be.dropout(&mut y, &x, p, site, &ctl, n);
        lab.keep(name, &y, n, Kind::Masked)?;
    }
    Ok(())
}

fn embed<B: Backend>(lab: &mut Lab<B>, n: usize, c: usize, v: usize, t: usize) -> Result<(), BackendError> {
    let be = lab.be;
    let wte = lab.matrix(v, c, &lab.suspect(normal(1, v * c, 1.0)))?;
    let wpe = lab.matrix(t, c, &normal(2, t * c, 1.0))?;
    // Two of five tokens are the same one, so that many rows add to one of the gradient.
    let mut tokens = ids(3, n, v);
    (0..n).filter(|i| i % 5 < 2).for_each(|i| tokens[i] = 1);
    let positions: Vec<u32> = (0..n).map(|i| (i % (t - t / 5)) as u32).collect();
    let (tokens, positions) = (lab.ids(&tokens)?, lab.ids(&positions)?);
    let mut x = lab.poison(n * c)?;
    be.embed(&mut x, &tokens, &positions, &wte, &wpe, n, c);
    lab.keep("embed", &x, n * c, Kind::Stored)?;
    let dx = lab.normal(4, n * c, 1.0)?;
    let mut dwte = lab.acc_matrix(v, c, &normal(5, v * c, 1.0))?;
    let mut dwpe = lab.acc_matrix(t, c, &normal(6, t * c, 1.0))?;
    be.embed_backward(Some(&mut dwte), Some(&mut dwpe), &dx, &tokens, &positions, n, c);
    lab.keep_whole("embed_backward dwte", &dwte, v * c, Kind::Sum)?;
    lab.keep_whole("embed_backward dwpe", &dwpe, t * c, Kind::Sum)?;
    be.embed_backward(None, Some(&mut dwpe), &dx, &tokens, &positions, n, c);
    lab.keep_whole("embed_backward, dwpe alone", &dwpe, t * c, Kind::Sum)
}

fn norm<B: Backend>(lab: &mut Lab<B>, n: usize, c: usize) -> Result<(), BackendError> {
    let be = lab.be;
    // A mean that is not 0.
    let x = lab.buf(&normal(1, n * c, 1.5).into_iter().map(|x| exact(x + 3.0)).collect::<Vec<_>>())?;
    let (w, b) = (lab.buf(&lab.suspect(normal(2, c, 1.0)))?, lab.normal(3, c, 1.0)?);
    let (mut y, mut stats) = (lab.poison(n * c)?, lab.acc_poison(2 * n)?);
    be.norm(&mut y, &mut stats, &x, &w, &b, n, c);
    lab.keep("norm", &y, n * c, Kind::Stored)?;
    lab.keep_acc("norm's statistics", &stats, 2 * n, Kind::Sum)?;
    let dy = lab.normal(4, n * c, 1.0)?;
    let (mut dx, mut dw, mut db) = (lab.normal(5, n * c, 1.0)?, lab.acc(&normal(6, c, 1.0))?, lab.acc(&normal(7, c, 1.0))?);
    let mut sums = lab.acc(&normal(8, c, 1.0))?;
    be.norm_backward(&mut dx, Some(&mut dw), Some(&mut db), Some(&mut sums), &dy, &x, &w, &stats, n, c);
    lab.keep("norm_backward dx", &dx, n * c, Kind::Stored)?;
    lab.keep_acc("norm_backward dw", &dw, c, Kind::Sum)?;
    lab.keep_acc("norm_backward db", &db, c, Kind::Sum)?;
    lab.keep_acc("norm_backward sums", &sums, c, Kind::Stored)?;
    let mut dx = lab.normal(5, n * c, 1.0)?;
    be.norm_backward(&mut dx, None, None, None, &dy, &x, &w, &stats, n, c);
    lab.keep("norm_backward, dx alone", &dx, n * c, Kind::Stored)?;
    let mut dx = lab.normal(5, n * c, 1.0)?;
    be.norm_backward(&mut dx, None, None, Some(&mut sums), &dy, &x, &w, &stats, n, c);
    lab.keep_acc("norm_backward, sums alone", &sums, c, Kind::Stored)
}

fn forward<B: Backend>(lab: &mut Lab<B>, n: usize, i: usize, o: usize) -> Result<(), BackendError> {
    let be = lab.be;
    let x = lab.normal(1, n * i, 1.0)?;
    // Results of the order of 1, where GELU is neither 0 nor its input.
    let w = lab.matrix(o, i, &lab.suspect(normal(2, o * i, (i as f32).sqrt().recip())))?;
    let (b, residual) = (lab.normal(3, o, 1.0)?, lab.normal(4, n * o, 1.0)?);
    let mut y = lab.poison(n * o)?;
    be.linear(&mut y, &x, &w, None, n, i, o);
    lab.keep("linear", &y, n * o, Kind::Stored)?;
    be.linear_add(&mut y, 0.7, &x, &w, n, i, o);
    lab.keep("linear_add", &y, n * o, Kind::Stored)?;
    let mut y = lab.poison(n * o)?;
    be.linear(&mut y, &x, &w, Some(&b), n, i, o);
    lab.keep("linear with a bias", &y, n * o, Kind::Stored)?;
    let (mut y, mut pre) = (lab.poison(n * o)?, lab.poison(n * o)?);
    be.linear_gelu(&mut y, &mut pre, &x, &w, Some(&b), n, i, o);
    lab.keep("linear_gelu", &y, n * o, Kind::Stored)?;
    lab.keep("linear_gelu's pre", &pre, n * o, Kind::Stored)?;
    for (name, bias) in [("linear_residual", Some(&b)), ("linear_residual without a bias", None)] {
        let mut y = lab.poison(n * o)?;
        be.linear_residual(&mut y, &residual, &x, &w, bias, n, i, o);
        lab.keep(name, &y, n * o, Kind::Stored)?;
    }
    Ok(())
}

fn backward<B: Backend>(lab: &mut Lab<B>, n: usize, i: usize, o: usize) -> Result<(), BackendError> {
    let be = lab.be;
    let (x, dy) = (lab.normal(1, n * i, 1.0)?, lab.normal(3, n * o, 1.0)?);
    let w = lab.matrix(o, i, &lab.suspect(normal(2, o * i, (o as f32).sqrt().recip())))?;
    let mut dx = lab.poison(n * i)?;
    be.linear_dx(&mut dx, &dy, &w, n, i, o);
    lab.keep("linear_dx", &dx, n * i, Kind::Stored)?;
    be.linear_dx_add(&mut dx, -1.5, &dy, &w, n, i, o);
    lab.keep("linear_dx_add", &dx, n * i, Kind::Chained)?;
    let mut dpre = lab.poison(n * i)?;
    be.linear_dx_gelu(&mut dpre, &dy, &w, &x, n, i, o);
    lab.keep("linear_dx_gelu", &dpre, n * i, Kind::Stored)?;
    let (mut dw, mut db) = (lab.acc_matrix(o, i, &normal(4, o * i, 1.0))?, lab.acc(&normal(5, o, 1.0))?);
    be.linear_dw(Some(&mut dw), Some(&mut db), 0.5, &dy, &x, n, i, o);
    lab.keep_whole("linear_dw", &dw, o * i, Kind::Sum)?;
    lab.keep_acc("linear_dw's db", &db, o, Kind::Sum)?;
    be.linear_dw(Some(&mut dw), None, -0.25, &dy, &x, n, i, o);
    lab.keep_whole("linear_dw, dw alone", &dw, o * i, Kind::Sum)?;
    be.linear_dw(None, Some(&mut db), 0.5, &dy, &x, n, i, o);
    lab.keep_acc("linear_dw, db alone", &db, o, Kind::Sum)
}

/// Where each row's document starts: one a row, or documents of uneven lengths.
fn starts(s: Heads, packed: bool) -> Vec<u32> {
    let mut rng = Rng::new(9);
    let mean = (s.t / 6).max(2) as u64;
    let mut all = Vec::new();
    for _ in 0..s.b {
        let mut from = 0;
        for t in 0..s.t {
            if packed && rng.below(mean) == 0 {
                from = t;
            }
            all.push(from as u32);
        }
    }
    all
}

fn attention<B: Backend>(lab: &mut Lab<B>, s: Heads, packed: bool) -> Result<(), BackendError> {
    let (be, n, c) = (lab.be, s.n(), s.c());
    // Scores of a few units, so that the softmax is neither flat nor a single spike.
    let qkv = lab.buf(&lab.suspect(normal(1, n * 3 * c, 1.3)))?;
    let starts = lab.ids(&starts(s, packed))?;
    let (mut y, mut lse) = (lab.poison(n * c)?, lab.acc_poison(n * s.h)?);
    be.attention(&mut y, &mut lse, &qkv, &starts, s);
    lab.keep("attention", &y, n * c, Kind::Chained)?;
    lab.keep_acc("log-sum-exp", &lse, n * s.h, Kind::Sum)?;
    let dy = lab.normal(2, n * c, 1.0)?;
    let (mut dqkv, mut delta) = (lab.poison(n * 3 * c)?, lab.acc_poison(n * s.h)?);
    be.attention_backward(&mut dqkv, &mut delta, &dy, &y, &qkv, &lse, &starts, s);
    lab.keep("attention_backward", &dqkv, n * 3 * c, Kind::Chained)
}
