//! What goes with every pass: the device and the facts of the batch at hand.

use crate::backend::{Backend, Heads};

/// A gradient, or `None` where the parameter is frozen.
pub type Grad<B> = Option<<B as Backend>::Acc>;

/// The device, and how much of each buffer this batch fills.
pub struct Pass<'a, B: Backend> {
    /// The device.
    pub be: &'a B,
    /// Sequences.
    pub b: usize,
    /// Positions of each.
    pub t: usize,
    /// Where each row's document starts: `(B, T)`.
    pub starts: &'a B::Ids,
    /// The step's control block in training; `None` in evaluation, where nothing is dropped.
    pub ctl: Option<&'a B::Ctl>,
}

impl<B: Backend> Pass<'_, B> {
    /// Rows: `B T`.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.b * self.t
    }

    /// The sizes of an attention of `h` heads of `d` channels.
    #[must_use]
    pub const fn heads(&self, h: usize, d: usize) -> Heads {
        Heads { b: self.b, t: self.t, h, d }
    }
}
