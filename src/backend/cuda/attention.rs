//! Attention: `kernels/attention_*.cu`.

use super::{Acc, Buf, Cuda, Ids};
use crate::backend::Heads;

impl Cuda {
    pub(super) fn attention_kernel(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        if self.attention_hopper_fits(s) {
            return self.attention_hopper(y, lse, qkv, starts, s);
        }
        todo!()
    }

    pub(super) fn attention_backward_kernels(
        &self,
        dqkv: &mut Buf,
        delta: &mut Acc,
        dy: &Buf,
        y: &Buf,
        qkv: &Buf,
        lse: &Acc,
        starts: &Ids,
        s: Heads,
    ) {
        if self.attention_hopper_fits(s) {
            return self.attention_backward_hopper(dqkv, delta, dy, y, qkv, lse, starts, s);
        }
        todo!()
    }
}
