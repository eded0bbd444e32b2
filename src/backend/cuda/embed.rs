//! Embedding: `kernels/embed.cu`.

use super::{Acc, Buf, Cuda, Ids};

impl Cuda {
    pub(super) fn embed_kernel(&self, _x: &mut Buf, _tokens: &Ids, _positions: &Ids, _wte: &Buf, _wpe: &Buf, _n: usize, _c: usize) {
        todo!()
    }

    pub(super) fn embed_backward_kernels(
        &self,
        _dwte: Option<&mut Acc>,
        _dwpe: Option<&mut Acc>,
        _dx: &Buf,
        _tokens: &Ids,
        _positions: &Ids,
        _n: usize,
        _c: usize,
    ) {
        todo!()
    }
}
