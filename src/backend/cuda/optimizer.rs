//! The optimizer: `kernels/optimizer.cu`.

use super::{Acc, Ctl, Cuda};
use crate::backend::AdamLeaf;

/// What the kernels know of the leaves, by their addresses.
#[derive(Default)]
pub(super) struct Tables {}

impl Cuda {
    pub(super) fn grad_norm_kernels(&self, _norm: &mut Acc, _grads: &[&Acc]) {
        todo!()
    }

    pub(super) fn adamw_kernel(&self, _leaves: &mut [AdamLeaf<'_, Self>], _norm: &Acc, _ctl: &Ctl) {
        todo!()
    }

    pub(super) fn round_masters_kernel(&self, _leaves: &mut [AdamLeaf<'_, Self>], _ctl: &Ctl) {
        todo!()
    }
}
