//! The kernels of a decoder, behind one trait, and the devices that run them.
//!
//! - [`mod@reference`]: `f64`, the plainest possible; every other backend is held to it.
//! - [`cpu`]: `f32`, SIMD, rayon.
//! - `cuda`: NVIDIA GPUs, bf16 and f32; not on aarch64.
//!
//! What a step takes is told by [`Timed`], around any of them; around [`Blank`], which computes nothing, it only counts.
//!
//! Letters and the `+=` rule are those of the crate's front page. `N` is the number of *active* rows, `B T` of
//! the batch at hand; buffers are sized for the largest batch, and a kernel touches the first `N` rows alone.

use serde::{Deserialize, Serialize};

pub mod blank;
pub mod ceilings;
pub mod cpu;
#[cfg(not(target_arch = "aarch64"))]
pub mod cuda;
pub mod reference;
pub mod timed;
pub mod work;

pub use blank::Blank;
pub use ceilings::Ceilings;
pub use timed::{Call, Timed};
pub use work::{Widths, Work};

/// What a device can run into. Allocations and copies tell it at once; what befalls a kernel is told by [`Backend::sync`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// An allocation that the device has no room for.
    #[error("the {device} has no room for {bytes} more bytes: lower the micro-batch or the context, or turn recompute on")]
    OutOfMemory {
        /// "CPU", "GPU".
        device: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// Anything else, in the device's own words.
    #[error("{device}: {message}")]
    Device {
        /// "CPU", "GPU".
        device: &'static str,
        /// What the device said, and which kernel was in flight.
        message: String,
    },
}

/// Sizes of one attention over `b` sequences of `t` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Sequences.
    pub b: usize,
    /// Positions of each.
    pub t: usize,
    /// Heads.
    pub h: usize,
    /// Channels of a head.
    pub d: usize,
}

impl Heads {
    /// Channels of a query row: `H D`.
    #[must_use]
    pub const fn c(self) -> usize {
        self.h * self.d
    }
    /// Rows: `B T`.
    #[must_use]
    pub const fn n(self) -> usize {
        self.b * self.t
    }
    /// Scores are scaled by this: `1 / sqrt(D)`.
    #[must_use]
    pub fn scale(self) -> f64 {
        1.0 / (self.d as f64).sqrt()
    }
}

/// How `f32` masters become the narrower weights that passes compute with, on a device that has masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Up or down by chance, so that the mean is right; keyed by seed, step and parameter.
    #[default]
    Stochastic,
    /// To the nearest.
    Nearest,
}

/// The numbers of one optimizer step or micro-step, as the host says them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Control {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices, a step at rate 1.
    pub decay: f64,
    /// The gradient is scaled down to this norm where it is longer.
    pub clip: f64,
    /// Optimizer steps including this one, from 1: for the bias corrections.
    pub step: u64,
    /// `rng::key(seed, [step, micro-step])`; a dropout mixes its site in.
    pub dropout_key: u64,
    /// Says how masters are rounded to narrower weights after this step; a function of seed and step, so that a resumed run
    /// has the same weights.
    pub rounding_key: u64,
}

/// Stands in [`Targets::rows`] for a row that is not there: see [`Backend::bucket`].
pub const NO_ROW: u32 = u32::MAX;

/// The rows of a batch whose next token counts, gathered by the host; [`Targets`] on a device.
pub struct TargetRows<I, A> {
    /// How many rows count; the three buffers are valid up to here.
    pub count: usize,
    /// Which rows, ascending; behind them [`NO_ROW`], with id and weight 0, where the device asked for a rounder count.
    pub rows: I,
    /// The token that should come next, for each of `rows`.
    pub ids: I,
    /// What a row's cross entropy counts, the division by the step's total included.
    pub weights: A,
}

/// The rows that count, in a device's memory: of a device and of what wraps it they are the same.
pub type Targets<B> = TargetRows<<B as Backend>::Ids, <B as Backend>::Acc>;

/// One leaf of the optimizer's walk.
pub struct AdamLeaf<'a, B: Backend + ?Sized> {
    /// The weights that passes compute with.
    pub w: &'a mut B::Buf,
    /// Their `f32` masters, on a device whose `Buf` is narrower ([`Backend::MASTERS`]).
    pub master: Option<&'a mut B::Acc>,
    /// First moment.
    pub m: &'a mut B::Acc,
    /// Second moment.
    pub v: &'a mut B::Acc,
    /// Gradient, not yet clipped.
    pub g: &'a B::Acc,
    /// Whether weight decay applies (matrices: yes; biases and norms: no).
    pub decay: bool,
}

/// A device.
///
/// Allocation is apart from work. `alloc_*`, uploads, downloads and `sync` return `Result`; kernels return
/// nothing, allocate nothing a user would see, and neither copy to the host nor read back, so that a device may
/// record a whole step and replay it. What changes from step to step is read from device memory: tokens,
/// targets and [`Control`]; only sizes come as plain arguments ([`Heads`], [`Targets::count`] and the letters).
///
/// A fused kernel has a default made of the smaller ones; a device overrides it where it can do it in one pass.
pub trait Backend {
    /// Activations and weights, in the type the device computes in: f64, f32, bf16.
    type Buf;
    /// Parameter gradients, masters, moments, norm statistics, log-sum-exp, losses: f64, f32, f32.
    type Acc;
    /// Token ids, positions, row numbers: u32.
    type Ids;
    /// A [`Control`] in device memory.
    type Ctl;
    /// Workspace of the classifier: logits of one chunk of rows.
    type Head;
    /// Numbers on their way to the host.
    type Late;
    /// A moment in the device's order of work.
    type Mark;

    /// Name for logs: "reference", "cpu".
    const NAME: &'static str;
    /// Whether leaves in training need a master copy beside `Buf`.
    const MASTERS: bool = false;
    /// Whether the device works on while the host does something else, so that figures are better read late.
    const LATE: bool = false;

    // ---- memory

    /// A zeroed buffer of `len` elements.
    fn alloc(&self, len: usize) -> Result<Self::Buf, BackendError>;
    /// A zeroed `(rows, cols)` weight. The device may pad rows; pad rows stay zero and no download shows them.
    fn alloc_matrix(&self, rows: usize, cols: usize) -> Result<Self::Buf, BackendError> {
        self.alloc(rows * cols)
    }
    /// A zeroed accumulator of `len` elements.
    fn alloc_acc(&self, len: usize) -> Result<Self::Acc, BackendError>;
    /// The gradient of a `(rows, cols)` weight, padded as [`alloc_matrix`](Self::alloc_matrix) pads the weight.
    fn alloc_acc_matrix(&self, rows: usize, cols: usize) -> Result<Self::Acc, BackendError> {
        self.alloc_acc(rows * cols)
    }
    /// `len` ids, all 0.
    fn alloc_ids(&self, len: usize) -> Result<Self::Ids, BackendError>;
    /// A control block.
    fn alloc_ctl(&self) -> Result<Self::Ctl, BackendError>;
    /// The classifier's workspace for up to `n` rows of `c` channels and `v` tokens.
    fn alloc_head(&self, n: usize, c: usize, v: usize) -> Result<Self::Head, BackendError>;

    /// Copies `src` to the front of `dst`.
    fn upload(&self, dst: &mut Self::Buf, src: &[f32]) -> Result<(), BackendError>;
    /// Fills `dst` from the front of `src`.
    fn download(&self, dst: &mut [f32], src: &Self::Buf) -> Result<(), BackendError>;
    /// Copies `src` to the front of `dst`; `f64` so that `Reference` loses nothing, exact for `f32` values.
    fn upload_acc(&self, dst: &mut Self::Acc, src: &[f64]) -> Result<(), BackendError>;
    /// Fills `dst` from the front of `src`.
    fn download_acc(&self, dst: &mut [f64], src: &Self::Acc) -> Result<(), BackendError>;
    /// Copies `src` to the front of `dst`.
    fn upload_ids(&self, dst: &mut Self::Ids, src: &[u32]) -> Result<(), BackendError>;
    /// Sets the control block.
    fn upload_ctl(&self, dst: &mut Self::Ctl, src: &Control) -> Result<(), BackendError>;
    /// Begins to copy the first number of each of `values` to the host, as it is when all that was asked for so far is done,
    /// and does not wait for it.
    fn read_late(&self, values: &[&Self::Acc]) -> Result<Self::Late, BackendError>;
    /// Waits for numbers that [`read_late`](Self::read_late) sent; tells an error of anything asked for before them.
    fn take(&self, late: Self::Late) -> Result<Vec<f64>, BackendError>;
    /// Waits for the device and tells the first error since the last call.
    fn sync(&self) -> Result<(), BackendError>;
    /// The number of rows, `count` or some more, that a batch in which `count` of `n` rows count is filled up to: a device that
    /// records steps keeps few recordings. `n` only where all count, so that a batch that needs no gathering is known by its size.
    fn bucket(&self, count: usize, _n: usize) -> usize {
        count
    }
    /// Runs `work`; a device that can records it under `key` the first time and replays it from then on. A recording is
    /// of the sizes it was made with: a device that keeps one must find other sizes under the same `key` by itself.
    fn region(&self, _key: u64, work: &mut dyn FnMut()) {
        work();
    }

    /// What the device chose by measuring (algorithms of its matrix products), where it does: its bits hang on that, so that
    /// a checkpoint carries it.
    fn plans(&self) -> Option<serde_json::Value> {
        None
    }
    /// Takes up what [`plans`](Self::plans) gave, before the first kernel; what is of another device is left aside.
    fn set_plans(&self, _plans: &serde_json::Value) -> Result<(), BackendError> {
        Ok(())
    }

    // ---- measuring

    /// Remembers the moment at which all that was asked for so far is done.
    fn mark(&self) -> Result<Self::Mark, BackendError>;
    /// Milliseconds between two moments; waits for the later one.
    fn between(&self, from: &Self::Mark, to: &Self::Mark) -> Result<f64, BackendError>;
    /// Bytes of the elements of its buffers.
    fn widths(&self) -> Widths;
    /// Elements of an accumulator, pad rows aside.
    fn acc_len(&self, acc: &Self::Acc) -> usize;
    /// The most bytes of memory it has held so far, where it keeps account of that.
    fn peak_bytes(&self) -> Option<usize> {
        None
    }

    // ---- kernels: elements

    /// `dst = 0`.
    fn zero_acc(&self, dst: &mut Self::Acc);
    /// `dst[..n] = 0`.
    fn zero(&self, dst: &mut Self::Buf, n: usize);
    /// `y[..n] = x[..n]`.
    fn copy(&self, y: &mut Self::Buf, x: &Self::Buf, n: usize);
    /// `y[..n] += alpha x[..n]`.
    fn axpy(&self, y: &mut Self::Buf, alpha: f64, x: &Self::Buf, n: usize);
    /// `y[..n] = gelu(x[..n])`, the tanh form of GPT-2.
    fn gelu(&self, y: &mut Self::Buf, x: &Self::Buf, n: usize);
    /// `d[..n] *= gelu'(x[..n])`.
    fn gelu_backward(&self, d: &mut Self::Buf, x: &Self::Buf, n: usize);
    /// `y[i] = x[i] / (1 - p)` where element `i` is kept, else 0.
    ///
    /// Kept if `word >= (p 2^32) as u32`, `word` being word `i % 4` of `rng::block(key, i / 4)` and
    /// `key = rng::key(ctl.dropout_key, [site])`: the same mask on every backend.
    fn dropout(&self, y: &mut Self::Buf, x: &Self::Buf, p: f32, site: u64, ctl: &Self::Ctl, n: usize);

    // ---- kernels: embedding

    /// `x (N, C) = wte[tokens] + wpe[positions]`; `wte (V, C)`, `wpe (T, C)`.
    fn embed(&self, x: &mut Self::Buf, tokens: &Self::Ids, positions: &Self::Ids, wte: &Self::Buf, wpe: &Self::Buf, n: usize, c: usize);
    /// `dwte[tokens] += dx`, `dwpe[positions] += dx`, in a fixed order where rows repeat.
    fn embed_backward(
        &self,
        dwte: Option<&mut Self::Acc>,
        dwpe: Option<&mut Self::Acc>,
        dx: &Self::Buf,
        tokens: &Self::Ids,
        positions: &Self::Ids,
        n: usize,
        c: usize,
    );

    // ---- kernels: LayerNorm, epsilon [`NORM_EPS`]

    /// `y (N, C) = (x - mean) rstd w + b` row by row; `stats (N, 2)` = mean, rstd.
    fn norm(&self, y: &mut Self::Buf, stats: &mut Self::Acc, x: &Self::Buf, w: &Self::Buf, b: &Self::Buf, n: usize, c: usize);
    /// `dx += ...` (the residual stream), `dw += ...`, `db += ...`; and `sums (C) += column sums of dx` as it then is: what a
    /// linear layer that writes into the stream has as its bias's gradient, taken along while `dx` is at hand.
    fn norm_backward(
        &self,
        dx: &mut Self::Buf,
        dw: Option<&mut Self::Acc>,
        db: Option<&mut Self::Acc>,
        sums: Option<&mut Self::Acc>,
        dy: &Self::Buf,
        x: &Self::Buf,
        w: &Self::Buf,
        stats: &Self::Acc,
        n: usize,
        c: usize,
    );

    // ---- kernels: matrix products; x (N, I), w (O, I), y (N, O)

    /// `y = x w^T + b`.
    fn linear(&self, y: &mut Self::Buf, x: &Self::Buf, w: &Self::Buf, b: Option<&Self::Buf>, n: usize, i: usize, o: usize);
    /// `y += alpha x w^T`.
    fn linear_add(&self, y: &mut Self::Buf, alpha: f64, x: &Self::Buf, w: &Self::Buf, n: usize, i: usize, o: usize);
    /// `pre = x w^T + b`, `y = gelu(pre)`.
    fn linear_gelu(
        &self,
        y: &mut Self::Buf,
        pre: &mut Self::Buf,
        x: &Self::Buf,
        w: &Self::Buf,
        b: Option<&Self::Buf>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        self.linear(pre, x, w, b, n, i, o);
        self.gelu(y, pre, n * o);
    }
    /// `y = residual + x w^T + b`.
    fn linear_residual(
        &self,
        y: &mut Self::Buf,
        residual: &Self::Buf,
        x: &Self::Buf,
        w: &Self::Buf,
        b: Option<&Self::Buf>,
        n: usize,
        i: usize,
        o: usize,
    ) {
        self.linear(y, x, w, b, n, i, o);
        self.axpy(y, 1.0, residual, n * o);
    }
    /// `dx = dy w`.
    fn linear_dx(&self, dx: &mut Self::Buf, dy: &Self::Buf, w: &Self::Buf, n: usize, i: usize, o: usize);
    /// `dx += alpha dy w`.
    fn linear_dx_add(&self, dx: &mut Self::Buf, alpha: f64, dy: &Self::Buf, w: &Self::Buf, n: usize, i: usize, o: usize);
    /// `dpre = (dy w) gelu'(pre)`; `pre` and `dpre` are `(N, I)`.
    fn linear_dx_gelu(&self, dpre: &mut Self::Buf, dy: &Self::Buf, w: &Self::Buf, pre: &Self::Buf, n: usize, i: usize, o: usize) {
        self.linear_dx(dpre, dy, w, n, i, o);
        self.gelu_backward(dpre, pre, n * i);
    }
    /// `dw += alpha dy^T x`, `db += column sums of dy`.
    fn linear_dw(
        &self,
        dw: Option<&mut Self::Acc>,
        db: Option<&mut Self::Acc>,
        alpha: f64,
        dy: &Self::Buf,
        x: &Self::Buf,
        n: usize,
        i: usize,
        o: usize,
    );

    // ---- kernels: attention; a row of qkv is q (C) | k (C) | v (C), a head's channels side by side

    /// Causal attention: row `t` of a sequence sees rows `starts[t] ..= t` of it. `y (N, C)`; `lse (N, H)` is the
    /// log of the sum of the exponentials of the scaled scores; `starts (N)` counts from the sequence's own row 0.
    fn attention(&self, y: &mut Self::Buf, lse: &mut Self::Acc, qkv: &Self::Buf, starts: &Self::Ids, s: Heads);
    /// `dqkv (N, 3C)` from `dy`, recomputing probabilities from `lse`; `delta (N, H)` is scratch.
    fn attention_backward(
        &self,
        dqkv: &mut Self::Buf,
        delta: &mut Self::Acc,
        dy: &Self::Buf,
        y: &Self::Buf,
        qkv: &Self::Buf,
        lse: &Self::Acc,
        starts: &Self::Ids,
        s: Heads,
    );

    // ---- kernels: classifier

    /// `loss[0] += sum of weight * cross entropy` over the rows of `targets`, and if wanted the gradients of that
    /// sum: `dx (N, C)` is overwritten (0 in rows that do not count), `dwte (V, C)` is added to. Logits
    /// `x wte^T` exist for a chunk of rows at a time.
    fn classify_loss(
        &self,
        loss: &mut Self::Acc,
        dx: Option<&mut Self::Buf>,
        dwte: Option<&mut Self::Acc>,
        head: &mut Self::Head,
        x: &Self::Buf,
        wte: &Self::Buf,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    );
    /// `logits (count, V) = x[rows] wte^T`.
    fn logits(&self, logits: &mut Self::Buf, x: &Self::Buf, rows: &Self::Ids, count: usize, wte: &Self::Buf, c: usize, v: usize);

    // ---- kernels: optimizer

    /// `norm[0]` = the Euclidean norm of all gradients together, summed in a fixed order.
    fn grad_norm(&self, norm: &mut Self::Acc, grads: &[&Self::Acc]);
    /// AdamW with bias correction and decoupled decay, on gradients scaled by `min(1, clip / norm[0])`:
    /// `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`,
    /// `w -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay w)`.
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Self::Acc, ctl: &Self::Ctl);
    /// Makes the weights from their masters again, rounded as [`adamw`](Self::adamw) rounded them after the step that `ctl` is of.
    /// On a device without masters the weights are all there is.
    fn round_masters(&self, _leaves: &mut [AdamLeaf<'_, Self>], _ctl: &Self::Ctl) {}
}

/// LayerNorm's epsilon, GPT-2's.
pub const NORM_EPS: f64 = 1e-5;
