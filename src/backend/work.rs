//! What a call of a kernel takes at least: products to multiply out and bytes to move, by the letters of its arguments.
//!
//! Bytes: each argument once if it is read and once if it is written; scratch and workspaces (attention's `delta`, the
//! classifier's logits) not at all, because a perfect kernel has none. FLOPs: two a multiplication and addition of matrix
//! products and attention; causal attention takes half of the square, its backward 2.5 times its forward, since probabilities are
//! made again; what is done element by element is free. So a floor is of the function, not of the kernel that computes it. A
//! device may still be faster where an argument is in a cache.

use super::{Ceilings, Heads};

/// Bytes of an element of a backend's two kinds of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Of activations and weights: [`super::Backend::Buf`].
    pub buf: usize,
    /// Of gradients, moments, statistics: [`super::Backend::Acc`].
    pub acc: usize,
}

/// What one call takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The method of [`super::Backend`].
    pub kernel: &'static str,
    /// Floating-point operations of products.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

impl Work {
    /// The least milliseconds it can take.
    #[must_use]
    pub fn floor_ms(&self, ceilings: &Ceilings) -> f64 {
        (self.flops / ceilings.flops_per_s).max(self.bytes / ceilings.bytes_per_s) * 1e3
    }

    /// Operations that the model asks for, as MFU counts them: without what attention's backward computes a second time.
    #[must_use]
    pub fn model_flops(&self) -> f64 {
        if self.kernel == "attention_backward" { self.flops * 2.0 / ATTENTION_BACKWARD } else { self.flops }
    }
}

/// What attention's backward takes of its forward's two products: q k again, and two each for what follows from dy v and q k.
const ATTENTION_BACKWARD: f64 = 2.5;
/// Bytes of an id.
const ID: usize = 4;

/// Elements of each kind that a call moves.
#[derive(Clone, Copy, Default)]
struct Moved {
    buf: usize,
    acc: usize,
    ids: usize,
}

impl Widths {
    fn work(self, kernel: &'static str, flops: f64, Moved { buf, acc, ids }: Moved) -> Work {
        Work { kernel, flops, bytes: (buf * self.buf + acc * self.acc + ids * ID) as f64 }
    }

    /// A kernel over elements that reads and writes `arrays` arrays of `n`.
    #[must_use]
    pub fn elements(self, kernel: &'static str, arrays: usize, n: usize) -> Work {
        self.work(kernel, 0.0, Moved { buf: arrays * n, ..Moved::default() })
    }

    /// A kernel over accumulators that moves `n` elements in all.
    #[must_use]
    pub fn accs(self, kernel: &'static str, n: usize) -> Work {
        self.work(kernel, 0.0, Moved { acc: n, ..Moved::default() })
    }

    /// `embed`: as if every row's token were another one.
    #[must_use]
    pub fn embed(self, n: usize, c: usize) -> Work {
        self.work("embed", 0.0, Moved { buf: 2 * n * c, ids: 2 * n, ..Moved::default() })
    }

    /// `embed_backward` into gradients of so many elements (0: none), as if tokens repeated no more than they must.
    #[must_use]
    pub fn embed_backward(self, dwte: usize, dwpe: usize, n: usize, c: usize) -> Work {
        let touched = dwte.min(n * c) + dwpe.min(n * c);
        self.work("embed_backward", 0.0, Moved { buf: n * c, acc: 2 * touched, ids: 2 * n })
    }

    /// `norm`.
    #[must_use]
    pub fn norm(self, n: usize, c: usize) -> Work {
        self.work("norm", 0.0, Moved { buf: 2 * n * c + 2 * c, acc: 2 * n, ids: 0 })
    }

    /// `norm_backward` with so many of its gradients and sums.
    #[must_use]
    pub fn norm_backward(self, gradients: usize, n: usize, c: usize) -> Work {
        self.work("norm_backward", 0.0, Moved { buf: 4 * n * c + c, acc: 2 * n + 2 * gradients * c, ids: 0 })
    }

    /// A product of `x (N, I)` and `w (O, I)` to `(N, O)`, in either direction, and `more` elements beside these three.
    #[must_use]
    pub fn product(self, kernel: &'static str, more: usize, n: usize, i: usize, o: usize) -> Work {
        self.work(kernel, 2.0 * n as f64 * i as f64 * o as f64, Moved { buf: n * i + o * i + n * o + more, ..Moved::default() })
    }

    /// `linear_dw` with those of its gradients that are wanted.
    #[must_use]
    pub fn linear_dw(self, dw: bool, db: bool, n: usize, i: usize, o: usize) -> Work {
        let (x, dw) = if dw { (n * i, o * i) } else { (0, 0) };
        let db = if db { o } else { 0 };
        self.work("linear_dw", 2.0 * n as f64 * dw as f64, Moved { buf: n * o + x, acc: 2 * (dw + db), ids: 0 })
    }

    /// `attention`, of whole sequences: where a row holds several documents it takes less.
    #[must_use]
    pub fn attention(self, s: Heads) -> Work {
        let (n, c) = (s.n(), s.c());
        self.work("attention", 2.0 * (n * s.t) as f64 * c as f64, Moved { buf: 4 * n * c, acc: n * s.h, ids: n })
    }

    /// `attention_backward`, as [`attention`](Self::attention).
    #[must_use]
    pub fn attention_backward(self, s: Heads) -> Work {
        let (n, c) = (s.n(), s.c());
        let flops = ATTENTION_BACKWARD * self.attention(s).flops;
        self.work("attention_backward", flops, Moved { buf: 8 * n * c, acc: n * s.h, ids: n })
    }

    /// `classify_loss` over `count` rows of `n`, with those of its gradients that are wanted.
    #[must_use]
    pub fn classify_loss(self, dx: bool, dwte: bool, count: usize, n: usize, c: usize, v: usize) -> Work {
        let products = 1 + usize::from(dx) + usize::from(dwte);
        let dx = if dx { n * c } else { 0 };
        let dwte = if dwte { 2 * v * c } else { 0 };
        let flops = (products * 2) as f64 * count as f64 * (c * v) as f64;
        self.work("classify_loss", flops, Moved { buf: count * c + v * c + dx, acc: count + dwte, ids: 2 * count })
    }

    /// `logits`.
    #[must_use]
    pub fn logits(self, count: usize, c: usize, v: usize) -> Work {
        self.work("logits", 2.0 * count as f64 * (c * v) as f64, Moved { buf: count * c + v * c + count * v, acc: 0, ids: count })
    }

    /// `adamw` over leaves that are told by their elements and whether they have masters: weights, both moments and the gradient.
    #[must_use]
    pub fn adamw(self, leaves: impl Iterator<Item = (usize, bool)>) -> Work {
        let moved = leaves.fold(Moved::default(), |m, (len, master)| {
            let (buf, acc) = if master { (len, 2 * len) } else { (2 * len, 0) };
            Moved { buf: m.buf + buf, acc: m.acc + acc + 5 * len, ids: 0 }
        });
        self.work("adamw", 0.0, moved)
    }

    /// `round_masters` over leaves as [`adamw`](Self::adamw) has them.
    #[must_use]
    pub fn round_masters(self, leaves: impl Iterator<Item = (usize, bool)>) -> Work {
        let len = leaves.filter_map(|(len, master)| master.then_some(len)).sum();
        self.work("round_masters", 0.0, Moved { buf: len, acc: len, ids: 0 })
    }
}
