//! The classifier: `kernels/classify.cu`.

use super::{Acc, Buf, Cuda, Ids};
use crate::backend::{BackendError, Targets};

/// The classifier's workspace.
pub struct Head {}

impl Head {
    pub(super) fn new(_be: &Cuda, _n: usize, _c: usize, _v: usize) -> Result<Self, BackendError> {
        todo!()
    }
}

/// How many rows a batch is filled up to in which `count` of `n` count.
pub(super) fn bucket(_count: usize, _n: usize) -> usize {
    todo!()
}

impl Cuda {
    pub(super) fn classify_kernels(
        &self,
        _loss: &mut Acc,
        _dx: Option<&mut Buf>,
        _dwte: Option<&mut Acc>,
        _head: &mut Head,
        _x: &Buf,
        _wte: &Buf,
        _targets: &Targets<Self>,
        _n: usize,
        _c: usize,
        _v: usize,
    ) {
        todo!()
    }

    pub(super) fn logits_kernels(&self, _logits: &mut Buf, _x: &Buf, _rows: &Ids, _count: usize, _wte: &Buf, _c: usize, _v: usize) {
        todo!()
    }
}
