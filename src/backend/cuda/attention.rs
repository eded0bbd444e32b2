//! Attention: `kernels/attention_*.cu`.

use super::{Acc, Buf, Cuda, Ids};
use crate::backend::Heads;

impl Cuda {
    pub(super) fn attention_kernel(&self, _y: &mut Buf, _lse: &mut Acc, _qkv: &Buf, _starts: &Ids, _s: Heads) {
        todo!()
    }

    pub(super) fn attention_backward_kernels(
        &self,
        _dqkv: &mut Buf,
        _delta: &mut Acc,
        _dy: &Buf,
        _y: &Buf,
        _qkv: &Buf,
        _lse: &Acc,
        _starts: &Ids,
        _s: Heads,
    ) {
        todo!()
    }
}
