//! A device that computes nothing and holds nothing: under [`Timed`](super::Timed) it counts what a step takes of a device
//! that nobody has, at sizes that this machine has no memory for.

use super::{AdamLeaf, Backend, BackendError, Control, Heads, Targets, Widths};

/// No device. Its buffers are their lengths.
#[derive(Clone, Copy, Debug)]
pub struct Blank {
    /// The widths of the device it stands for.
    pub widths: Widths,
}

/// A GPU's: bf16, with f32 masters and accumulators.
impl Default for Blank {
    fn default() -> Self {
        Self { widths: Widths { buf: 2, acc: 4 } }
    }
}

type Result<T> = std::result::Result<T, BackendError>;

impl Backend for Blank {
    type Buf = usize;
    type Acc = usize;
    type Ids = usize;
    type Ctl = ();
    type Head = ();
    /// How many numbers were asked for.
    type Late = usize;
    type Mark = ();

    const NAME: &'static str = "blank";
    const MASTERS: bool = true;

    fn alloc(&self, len: usize) -> Result<usize> {
        Ok(len)
    }
    fn alloc_acc(&self, len: usize) -> Result<usize> {
        Ok(len)
    }
    fn alloc_ids(&self, len: usize) -> Result<usize> {
        Ok(len)
    }
    fn alloc_ctl(&self) -> Result<()> {
        Ok(())
    }
    fn alloc_head(&self, _n: usize, _c: usize, _v: usize) -> Result<()> {
        Ok(())
    }
    fn upload(&self, _dst: &mut usize, _src: &[f32]) -> Result<()> {
        Ok(())
    }
    /// NaN: there is nothing to read.
    fn download(&self, dst: &mut [f32], _src: &usize) -> Result<()> {
        dst.fill(f32::NAN);
        Ok(())
    }
    fn upload_acc(&self, _dst: &mut usize, _src: &[f64]) -> Result<()> {
        Ok(())
    }
    /// NaN: there is nothing to read.
    fn download_acc(&self, dst: &mut [f64], _src: &usize) -> Result<()> {
        dst.fill(f64::NAN);
        Ok(())
    }
    fn upload_ids(&self, _dst: &mut usize, _src: &[u32]) -> Result<()> {
        Ok(())
    }
    fn upload_ctl(&self, _dst: &mut (), _src: &Control) -> Result<()> {
        Ok(())
    }
    fn read_late(&self, values: &[&usize]) -> Result<usize> {
        Ok(values.len())
    }
    /// NaN: there is nothing to read.
    fn take(&self, late: usize) -> Result<Vec<f64>> {
        Ok(vec![f64::NAN; late])
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn mark(&self) -> Result<()> {
        Ok(())
    }
    /// No time passes.
    fn between(&self, _from: &(), _to: &()) -> Result<f64> {
        Ok(0.0)
    }
    fn widths(&self) -> Widths {
        self.widths
    }
    fn acc_len(&self, acc: &usize) -> usize {
        *acc
    }

    fn zero_acc(&self, _dst: &mut usize) {}
    fn zero(&self, _dst: &mut usize, _n: usize) {}
    fn copy(&self, _y: &mut usize, _x: &usize, _n: usize) {}
    fn axpy(&self, _y: &mut usize, _alpha: f64, _x: &usize, _n: usize) {}
    fn gelu(&self, _y: &mut usize, _x: &usize, _n: usize) {}
    fn gelu_backward(&self, _d: &mut usize, _x: &usize, _n: usize) {}
    fn dropout(&self, _y: &mut usize, _x: &usize, _p: f32, _site: u64, _ctl: &(), _n: usize) {}
    fn embed(&self, _x: &mut usize, _tokens: &usize, _positions: &usize, _wte: &usize, _wpe: &usize, _n: usize, _c: usize) {}
    fn embed_backward(
        &self,
        _dwte: Option<&mut usize>,
        _dwpe: Option<&mut usize>,
        _dx: &usize,
        _tokens: &usize,
        _positions: &usize,
        _n: usize,
        _c: usize,
    ) {
    }
    fn norm(&self, _y: &mut usize, _stats: &mut usize, _x: &usize, _w: &usize, _b: &usize, _n: usize, _c: usize) {}
    fn norm_backward(
        &self,
        _dx: &mut usize,
        _dw: Option<&mut usize>,
        _db: Option<&mut usize>,
        _sums: Option<&mut usize>,
        _dy: &usize,
        _x: &usize,
        _w: &usize,
        _stats: &usize,
        _n: usize,
        _c: usize,
    ) {
    }
    fn linear(&self, _y: &mut usize, _x: &usize, _w: &usize, _b: Option<&usize>, _n: usize, _i: usize, _o: usize) {}
    fn linear_add(&self, _y: &mut usize, _alpha: f64, _x: &usize, _w: &usize, _n: usize, _i: usize, _o: usize) {}
    fn linear_dx(&self, _dx: &mut usize, _dy: &usize, _w: &usize, _n: usize, _i: usize, _o: usize) {}
    fn linear_dx_add(&self, _dx: &mut usize, _alpha: f64, _dy: &usize, _w: &usize, _n: usize, _i: usize, _o: usize) {}
    fn linear_dw(
        &self,
        _dw: Option<&mut usize>,
        _db: Option<&mut usize>,
        _alpha: f64,
        _dy: &usize,
        _x: &usize,
        _n: usize,
        _i: usize,
        _o: usize,
    ) {
    }
    fn attention(&self, _y: &mut usize, _lse: &mut usize, _qkv: &usize, _starts: &usize, _s: Heads) {}
    fn attention_backward(
        &self,
        _dqkv: &mut usize,
        _delta: &mut usize,
        _dy: &usize,
        _y: &usize,
        _qkv: &usize,
        _lse: &usize,
        _starts: &usize,
        _s: Heads,
    ) {
    }
    fn classify_loss(
        &self,
        _loss: &mut usize,
        _dx: Option<&mut usize>,
        _dwte: Option<&mut usize>,
        _head: &mut (),
        _x: &usize,
        _wte: &usize,
        _targets: &Targets<Self>,
        _n: usize,
        _c: usize,
        _v: usize,
    ) {
    }
    fn logits(&self, _logits: &mut usize, _x: &usize, _rows: &usize, _count: usize, _wte: &usize, _c: usize, _v: usize) {}
    fn grad_norm(&self, _norm: &mut usize, _grads: &[&usize]) {}
    fn adamw(&self, _leaves: &mut [AdamLeaf<'_, Self>], _norm: &usize, _ctl: &()) {}
}
