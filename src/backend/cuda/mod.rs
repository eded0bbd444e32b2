//! NVIDIA GPUs: bf16 with f32 beside it, the kernels of `kernels/` and matrix products by cuBLASLt.
//!
//! [`Cuda`] says what is computed and in which order; a [`Driver`] does it. Weights and activations are bf16 (or f32, for
//! checking), gradients, masters, moments, statistics and losses f32. Every sum has an order that does not hang on
//! timing: two runs on one device end in the same bits.
//!
//! Each file here launches the kernels of one file in `kernels/`.

mod attention;
mod attention_sm90;
mod classify;
pub mod driver;
mod elements;
mod embed;
mod norm;
pub mod nvidia;
mod optimizer;
pub mod products;
pub mod sources;

pub use classify::Head;

use super::{AdamLeaf, Backend, BackendError, Control, Heads, Rounding, Targets, Widths};
use bytemuck::{Pod, Zeroable};
use driver::{Arg, DeviceInfo, Driver, Kernel, NULL, Precision, Ptr, Shape};
use half::bf16;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A stretch of device memory; given back when it is dropped.
struct Memory {
    driver: Rc<dyn Driver>,
    ptr: Ptr,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.driver.release(self.ptr);
    }
}

/// Activations or weights, in the backend's [`Precision`].
pub struct Buf {
    memory: Memory,
    /// Elements, pad rows aside.
    len: usize,
}

/// f32 numbers.
pub struct Acc {
    memory: Memory,
    len: usize,
}

/// u32 numbers.
pub struct Ids {
    memory: Memory,
    len: usize,
}

/// A [`super::Control`] on the device.
pub struct Ctl {
    memory: Memory,
}

impl Buf {
    /// Where it lies.
    #[must_use]
    pub const fn ptr(&self) -> Ptr {
        self.memory.ptr
    }
}
impl Acc {
    /// Where it lies.
    #[must_use]
    pub const fn ptr(&self) -> Ptr {
        self.memory.ptr
    }
}
impl Ids {
    /// Where it lies.
    #[must_use]
    pub const fn ptr(&self) -> Ptr {
        self.memory.ptr
    }
}

macro_rules! arg_of {
    ($($ty:ty),*) => {$(
        impl From<&$ty> for Arg {
            fn from(x: &$ty) -> Self {
                Self::U64(x.memory.ptr)
            }
        }
        impl From<&mut $ty> for Arg {
            fn from(x: &mut $ty) -> Self {
                Self::U64(x.memory.ptr)
            }
        }
    )*};
}
arg_of!(Buf, Acc, Ids, Ctl);

/// The arguments of a launch: buffers, sizes (`usize` as 32 bits), factors (`f32`), addresses (`u64`).
macro_rules! args {
    ($($x:expr),* $(,)?) => { &[$($crate::backend::cuda::driver::Arg::from($x)),*] };
}
pub(crate) use args;

/// `struct Control` of `kernels/base.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DeviceControl {
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    clip: f32,
    correct1: f32,
    correct2: f32,
    gain1: f32,
    gain2: f32,
    dropout_key: u64,
    rounding_key: u64,
}

/// A GPU, or what stands in for one.
#[derive(Clone)]
pub struct Cuda {
    driver: Rc<dyn Driver>,
    scratch: Rc<RefCell<Scratch>>,
    refused: Rc<products::Refused>,
    rounding: Rounding,
}

/// Workspaces of kernels, by name. A recorded region knows their addresses, so that one that is outgrown is kept.
#[derive(Default)]
struct Scratch {
    current: HashMap<&'static str, (Ptr, usize)>,
    memory: Vec<Memory>,
    failure: Option<BackendError>,
}

impl Cuda {
    /// On a driver.
    #[must_use]
    pub fn new(driver: Rc<dyn Driver>) -> Self {
        Self { driver, scratch: Rc::default(), refused: Rc::default(), rounding: Rounding::default() }
    }

    /// The same, making bf16 weights from their masters this way.
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// What runs the kernels.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// What the device is.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.driver.info()
    }

    /// The type of activations and weights.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.driver.precision()
    }

    fn launch(&self, kernel: Kernel, shape: Shape, args: &[Arg]) {
        if shape.grid.iter().all(|&blocks| blocks > 0) {
            self.driver.launch(kernel, shape, args);
        }
    }

    /// Device memory of at least `bytes` for the kernels named, not set to anything; the same at every call until more is
    /// asked for. [`NULL`] where there is no room: the kernels after it are not to run, and `sync` tells.
    fn scratch(&self, name: &'static str, bytes: usize) -> Ptr {
        let mut scratch = self.scratch.borrow_mut();
        match scratch.current.get(name) {
            Some(&(ptr, room)) if room >= bytes => ptr,
            _ => match self.driver.allocate(bytes) {
                Ok(ptr) => {
                    scratch.memory.push(Memory { driver: self.driver.clone(), ptr });
                    scratch.current.insert(name, (ptr, bytes));
                    ptr
                }
                Err(error) => {
                    scratch.failure.get_or_insert(error);
                    NULL
                }
            },
        }
    }

    fn zeroed(&self, bytes: usize) -> Result<Memory, BackendError> {
        // An empty buffer still has a place of its own.
        let bytes = bytes.max(16);
        let ptr = self.driver.allocate(bytes)?;
        self.driver.zero(ptr, bytes);
        Ok(Memory { driver: self.driver.clone(), ptr })
    }

    /// Values in the backend's precision, rounded to nearest, as bytes.
    fn narrowed(&self, src: &[f32]) -> Vec<u8> {
        match self.precision() {
            Precision::F32 => bytemuck::cast_slice(src).to_vec(),
            Precision::Bf16 => bytemuck::cast_slice(&src.iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>()).to_vec(),
        }
    }
}

/// Rows that a matrix is padded to, so that every product finds whole tiles: 50,257 tokens become 50,304.
const ROW_TILE: usize = 64;

/// Rows of a matrix in memory.
const fn padded(rows: usize) -> usize {
    rows.next_multiple_of(ROW_TILE)
}

impl Backend for Cuda {
    type Buf = Buf;
    type Acc = Acc;
    type Ids = Ids;
    type Ctl = Ctl;
    type Head = Head;
    type Late = Vec<driver::Ticket>;
    type Mark = driver::Mark;

    const NAME: &'static str = "cuda";
    const MASTERS: bool = true;
    const LATE: bool = true;

    fn alloc(&self, len: usize) -> Result<Buf, BackendError> {
        Ok(Buf { memory: self.zeroed(len * self.precision().bytes())?, len })
    }
    fn alloc_matrix(&self, rows: usize, cols: usize) -> Result<Buf, BackendError> {
        Ok(Buf { memory: self.zeroed(padded(rows) * cols * self.precision().bytes())?, len: rows * cols })
    }
    fn alloc_acc(&self, len: usize) -> Result<Acc, BackendError> {
        Ok(Acc { memory: self.zeroed(len * 4)?, len })
    }
    fn alloc_acc_matrix(&self, rows: usize, cols: usize) -> Result<Acc, BackendError> {
        Ok(Acc { memory: self.zeroed(padded(rows) * cols * 4)?, len: rows * cols })
    }
    fn alloc_ids(&self, len: usize) -> Result<Ids, BackendError> {
        Ok(Ids { memory: self.zeroed(len * 4)?, len })
    }
    fn alloc_ctl(&self) -> Result<Ctl, BackendError> {
        Ok(Ctl { memory: self.zeroed(size_of::<DeviceControl>())? })
    }
    fn alloc_head(&self, n: usize, c: usize, v: usize) -> Result<Head, BackendError> {
        Head::new(self, n, c, v)
    }

    fn upload(&self, dst: &mut Buf, src: &[f32]) -> Result<(), BackendError> {
        assert!(src.len() <= dst.len);
        self.driver.write(dst.ptr(), &self.narrowed(src))
    }
    fn download(&self, dst: &mut [f32], src: &Buf) -> Result<(), BackendError> {
        assert!(dst.len() <= src.len);
        match self.precision() {
            Precision::F32 => self.driver.read(bytemuck::cast_slice_mut(dst), src.ptr()),
            Precision::Bf16 => {
                let mut narrow = vec![0u16; dst.len()];
                self.driver.read(bytemuck::cast_slice_mut(&mut narrow), src.ptr())?;
                dst.iter_mut().zip(narrow).for_each(|(dst, bits)| *dst = bf16::from_bits(bits).to_f32());
                Ok(())
            }
        }
    }
    fn upload_acc(&self, dst: &mut Acc, src: &[f64]) -> Result<(), BackendError> {
        assert!(src.len() <= dst.len);
        let narrow: Vec<f32> = src.iter().map(|&x| x as f32).collect();
        self.driver.write(dst.ptr(), bytemuck::cast_slice(&narrow))
    }
    fn download_acc(&self, dst: &mut [f64], src: &Acc) -> Result<(), BackendError> {
        assert!(dst.len() <= src.len);
        let mut narrow = vec![0f32; dst.len()];
        self.driver.read(bytemuck::cast_slice_mut(&mut narrow), src.ptr())?;
        dst.iter_mut().zip(narrow).for_each(|(dst, x)| *dst = f64::from(x));
        Ok(())
    }
    fn upload_ids(&self, dst: &mut Ids, src: &[u32]) -> Result<(), BackendError> {
        assert!(src.len() <= dst.len);
        self.driver.write(dst.ptr(), bytemuck::cast_slice(src))
    }
    fn upload_ctl(&self, dst: &mut Ctl, src: &Control) -> Result<(), BackendError> {
        let correct = |beta: f64| (1.0 - beta.powf(src.step as f64)) as f32;
        let control = DeviceControl {
            lr: src.lr as f32,
            beta1: src.beta1 as f32,
            beta2: src.beta2 as f32,
            eps: src.eps as f32,
            decay: src.decay as f32,
            clip: src.clip as f32,
            correct1: correct(src.beta1),
            correct2: correct(src.beta2),
            gain1: (1.0 - src.beta1) as f32,
            gain2: (1.0 - src.beta2) as f32,
            dropout_key: src.dropout_key,
            rounding_key: src.rounding_key,
        };
        self.driver.write(dst.memory.ptr, bytemuck::bytes_of(&control))
    }
    fn read_late(&self, values: &[&Acc]) -> Result<Vec<driver::Ticket>, BackendError> {
        values.iter().map(|v| self.driver.read_later(v.ptr(), 1)).collect()
    }
    fn take(&self, late: Vec<driver::Ticket>) -> Result<Vec<f64>, BackendError> {
        late.into_iter().map(|ticket| Ok(f64::from(self.driver.take(ticket)?[0]))).collect()
    }
    fn sync(&self) -> Result<(), BackendError> {
        let synced = self.driver.sync();
        match self.scratch.borrow_mut().failure.take() {
            Some(failure) => Err(failure),
            None => synced,
        }
    }
    fn bucket(&self, count: usize, n: usize) -> usize {
        classify::bucket(count, n)
    }
    fn plans(&self) -> Option<serde_json::Value> {
        self.driver.plans()
    }
    fn set_plans(&self, plans: &serde_json::Value) -> Result<(), BackendError> {
        self.driver.set_plans(plans)
    }
    fn region(&self, key: u64, work: &mut dyn FnMut()) {
        self.driver.region(key, work);
    }

    fn mark(&self) -> Result<driver::Mark, BackendError> {
        self.driver.mark()
    }
    fn between(&self, from: &driver::Mark, to: &driver::Mark) -> Result<f64, BackendError> {
        self.driver.between(from, to)
    }
    fn widths(&self) -> Widths {
        Widths { buf: self.precision().bytes(), acc: 4 }
    }
    fn acc_len(&self, acc: &Acc) -> usize {
        acc.len
    }
    fn peak_bytes(&self) -> Option<usize> {
        Some(self.driver.allocated().1)
    }

    fn zero_acc(&self, dst: &mut Acc) {
        self.driver.zero(dst.ptr(), dst.len * 4);
    }
    fn zero(&self, dst: &mut Buf, n: usize) {
        self.driver.zero(dst.ptr(), n * self.precision().bytes());
    }
    fn copy(&self, y: &mut Buf, x: &Buf, n: usize) {
        self.driver.copy(y.ptr(), x.ptr(), n * self.precision().bytes());
    }
    fn axpy(&self, y: &mut Buf, alpha: f64, x: &Buf, n: usize) {
        self.axpy_kernel(y, alpha, x, n);
    }
    fn gelu(&self, y: &mut Buf, x: &Buf, n: usize) {
        self.gelu_kernel(y, x, n);
    }
    fn gelu_backward(&self, d: &mut Buf, x: &Buf, n: usize) {
        self.gelu_backward_kernel(d, x, n);
    }
    fn dropout(&self, y: &mut Buf, x: &Buf, p: f32, site: u64, ctl: &Ctl, n: usize) {
        self.dropout_kernel(y, x, p, site, ctl, n);
    }

    fn embed(&self, x: &mut Buf, tokens: &Ids, positions: &Ids, wte: &Buf, wpe: &Buf, n: usize, c: usize) {
        self.embed_kernel(x, tokens, positions, wte, wpe, n, c);
    }
    fn embed_backward(&self, dwte: Option<&mut Acc>, dwpe: Option<&mut Acc>, dx: &Buf, tokens: &Ids, positions: &Ids, n: usize, c: usize) {
        self.embed_backward_kernels(dwte, dwpe, dx, tokens, positions, n, c);
    }

    fn norm(&self, y: &mut Buf, stats: &mut Acc, x: &Buf, w: &Buf, b: &Buf, n: usize, c: usize) {
        self.norm_kernel(y, stats, x, w, b, n, c);
    }
    fn norm_backward(
        &self,
        dx: &mut Buf,
        dw: Option<&mut Acc>,
        db: Option<&mut Acc>,
        sums: Option<&mut Acc>,
        dy: &Buf,
        x: &Buf,
        w: &Buf,
        stats: &Acc,
        n: usize,
        c: usize,
    ) {
        self.norm_backward_kernels(dx, [dw, db, sums], dy, x, w, stats, n, c);
    }

    fn linear(&self, y: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        self.product_forward(y, x, w, b, n, i, o);
    }
    fn linear_add(&self, y: &mut Buf, alpha: f64, x: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.product_forward_add(y, alpha, x, w, n, i, o);
    }
    fn linear_gelu(&self, y: &mut Buf, pre: &mut Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        self.product_gelu(y, pre, x, w, b, n, i, o);
    }
    fn linear_residual(&self, y: &mut Buf, residual: &Buf, x: &Buf, w: &Buf, b: Option<&Buf>, n: usize, i: usize, o: usize) {
        self.product_residual(y, residual, x, w, b, n, i, o);
    }
    fn linear_dx(&self, dx: &mut Buf, dy: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.product_dx(dx, dy, w, n, i, o);
    }
    fn linear_dx_add(&self, dx: &mut Buf, alpha: f64, dy: &Buf, w: &Buf, n: usize, i: usize, o: usize) {
        self.product_dx_add(dx, alpha, dy, w, n, i, o);
    }
    fn linear_dx_gelu(&self, dpre: &mut Buf, dy: &Buf, w: &Buf, pre: &Buf, n: usize, i: usize, o: usize) {
        self.product_dx_gelu(dpre, dy, w, pre, n, i, o);
    }
    fn linear_dw(&self, dw: Option<&mut Acc>, db: Option<&mut Acc>, alpha: f64, dy: &Buf, x: &Buf, n: usize, i: usize, o: usize) {
        self.product_dw(dw, db, alpha, dy, x, n, i, o);
    }

    fn attention(&self, y: &mut Buf, lse: &mut Acc, qkv: &Buf, starts: &Ids, s: Heads) {
        self.attention_kernel(y, lse, qkv, starts, s);
    }
    fn attention_backward(&self, dqkv: &mut Buf, delta: &mut Acc, dy: &Buf, y: &Buf, qkv: &Buf, lse: &Acc, starts: &Ids, s: Heads) {
        self.attention_backward_kernels(dqkv, delta, dy, y, qkv, lse, starts, s);
    }

    fn classify_loss(
        &self,
        loss: &mut Acc,
        dx: Option<&mut Buf>,
        dwte: Option<&mut Acc>,
        head: &mut Head,
        x: &Buf,
        wte: &Buf,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    ) {
        self.classify_kernels(loss, dx, dwte, head, x, wte, targets, n, c, v);
    }
    fn logits(&self, logits: &mut Buf, x: &Buf, rows: &Ids, count: usize, wte: &Buf, c: usize, v: usize) {
        self.logits_kernels(logits, x, rows, count, wte, c, v);
    }

    fn grad_norm(&self, norm: &mut Acc, grads: &[&Acc]) {
        self.grad_norm_kernels(norm, grads);
    }
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Acc, ctl: &Ctl) {
        self.adamw_kernel(leaves, norm, ctl);
    }
    fn round_masters(&self, leaves: &mut [AdamLeaf<'_, Self>], ctl: &Ctl) {
        self.round_masters_kernel(leaves, ctl);
    }
}
