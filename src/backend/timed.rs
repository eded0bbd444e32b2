//! A device under the stopwatch: each kernel's milliseconds beside what it takes at least.

use super::{AdamLeaf, Backend, BackendError, Control, Heads, Targets, Widths, Work};
use std::cell::RefCell;

/// One call of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// What it takes at least.
    pub work: Work,
    /// What it took.
    pub ms: f64,
}

/// A call, and the moments before and after it.
type Marked<M> = (Work, Result<[M; 2], BackendError>);

/// A backend that does what `B` does and remembers every call of a kernel.
///
/// A region runs its work plainly, since a recording has no moments inside it. Marks cost the device a little, and where it is
/// faster than the host can ask, the host's time counts with the kernel's: a step's own time is to be taken without it.
pub struct Timed<B: Backend> {
    inner: B,
    calls: RefCell<Vec<Marked<B::Mark>>>,
}

impl<B: Backend> Timed<B> {
    /// Around a device.
    #[must_use]
    pub const fn new(inner: B) -> Self {
        Self { inner, calls: RefCell::new(Vec::new()) }
    }

    /// The calls since the last `take_calls`, in their order; waits for them.
    pub fn take_calls(&self) -> Result<Vec<Call>, BackendError> {
        let told = |(work, marks): Marked<B::Mark>| {
            let [from, to] = marks?;
            Ok(Call { work, ms: self.inner.between(&from, &to)? })
        };
        self.calls.take().into_iter().map(told).collect()
    }

    fn call(&self, work: Work, kernel: impl FnOnce(&B)) {
        let from = self.inner.mark();
        kernel(&self.inner);
        let to = self.inner.mark();
        self.calls.borrow_mut().push((work, from.and_then(|from| Ok([from, to?]))));
    }

    fn leaves<'l>(&self, leaves: &'l [AdamLeaf<'_, Self>]) -> impl Iterator<Item = (usize, bool)> + use<'_, 'l, B> {
        leaves.iter().map(|leaf| (self.inner.acc_len(leaf.g), leaf.master.is_some()))
    }
}

/// The inner device's leaves: the same borrows under its name.
fn inner<'a, B: Backend>(leaves: &'a mut [AdamLeaf<'_, Timed<B>>]) -> Vec<AdamLeaf<'a, B>> {
    let one = |leaf: &'a mut AdamLeaf<'_, Timed<B>>| AdamLeaf {
        w: &mut *leaf.w,
        master: leaf.master.as_deref_mut(),
        m: &mut *leaf.m,
        v: &mut *leaf.v,
        g: leaf.g,
        decay: leaf.decay,
    };
    leaves.iter_mut().map(one).collect()
}

impl<B: Backend> Backend for Timed<B> {
    type Buf = B::Buf;
    type Acc = B::Acc;
    type Ids = B::Ids;
    type Ctl = B::Ctl;
    type Head = B::Head;
    type Late = B::Late;
    type Mark = B::Mark;

    const NAME: &'static str = B::NAME;
    const MASTERS: bool = B::MASTERS;
    const LATE: bool = B::LATE;

    fn alloc(&self, len: usize) -> Result<B::Buf, BackendError> {
        self.inner.alloc(len)
    }
    fn alloc_matrix(&self, rows: usize, cols: usize) -> Result<B::Buf, BackendError> {
        self.inner.alloc_matrix(rows, cols)
    }
    fn alloc_acc(&self, len: usize) -> Result<B::Acc, BackendError> {
        self.inner.alloc_acc(len)
    }
    fn alloc_acc_matrix(&self, rows: usize, cols: usize) -> Result<B::Acc, BackendError> {
        self.inner.alloc_acc_matrix(rows, cols)
    }
    fn alloc_ids(&self, len: usize) -> Result<B::Ids, BackendError> {
        self.inner.alloc_ids(len)
    }
    fn alloc_ctl(&self) -> Result<B::Ctl, BackendError> {
        self.inner.alloc_ctl()
    }
    fn alloc_head(&self, n: usize, c: usize, v: usize) -> Result<B::Head, BackendError> {
        self.inner.alloc_head(n, c, v)
    }
    fn upload(&self, dst: &mut B::Buf, src: &[f32]) -> Result<(), BackendError> {
        self.inner.upload(dst, src)
    }
    fn download(&self, dst: &mut [f32], src: &B::Buf) -> Result<(), BackendError> {
        self.inner.download(dst, src)
    }
    fn upload_acc(&self, dst: &mut B::Acc, src: &[f64]) -> Result<(), BackendError> {
        self.inner.upload_acc(dst, src)
    }
    fn download_acc(&self, dst: &mut [f64], src: &B::Acc) -> Result<(), BackendError> {
        self.inner.download_acc(dst, src)
    }
    fn upload_ids(&self, dst: &mut B::Ids, src: &[u32]) -> Result<(), BackendError> {
        self.inner.upload_ids(dst, src)
    }
    fn upload_ctl(&self, dst: &mut B::Ctl, src: &Control) -> Result<(), BackendError> {
        self.inner.upload_ctl(dst, src)
    }
    fn read_late(&self, values: &[&B::Acc]) -> Result<B::Late, BackendError> {
        self.inner.read_late(values)
    }
    fn take(&self, late: B::Late) -> Result<Vec<f64>, BackendError> {
        self.inner.take(late)
    }
    fn sync(&self) -> Result<(), BackendError> {
        self.inner.sync()
    }
    fn bucket(&self, count: usize, n: usize) -> usize {
        self.inner.bucket(count, n)
    }
    fn region(&self, _key: u64, work: &mut dyn FnMut()) {
        work();
    }
    fn plans(&self) -> Option<serde_json::Value> {
        self.inner.plans()
    }
    fn set_plans(&self, plans: &serde_json::Value) -> Result<(), BackendError> {
        self.inner.set_plans(plans)
    }

    fn mark(&self) -> Result<B::Mark, BackendError> {
        self.inner.mark()
    }
    fn between(&self, from: &B::Mark, to: &B::Mark) -> Result<f64, BackendError> {
        self.inner.between(from, to)
    }
    fn widths(&self) -> Widths {
        self.inner.widths()
    }
    fn acc_len(&self, acc: &B::Acc) -> usize {
        self.inner.acc_len(acc)
    }
    fn peak_bytes(&self) -> Option<usize> {
        self.inner.peak_bytes()
    }

    fn zero_acc(&self, dst: &mut B::Acc) {
        self.call(self.widths().accs("zero_acc", self.acc_len(dst)), |be| be.zero_acc(dst));
    }
    fn zero(&self, dst: &mut B::Buf, n: usize) {
        self.call(self.widths().elements("zero", 1, n), |be| be.zero(dst, n));
    }
    fn copy(&self, y: &mut B::Buf, x: &B::Buf, n: usize) {
        self.call(self.widths().elements("copy", 2, n), |be| be.copy(y, x, n));
    }
    fn axpy(&self, y: &mut B::Buf, alpha: f64, x: &B::Buf, n: usize) {
        self.call(self.widths().elements("axpy", 3, n), |be| be.axpy(y, alpha, x, n));
    }
    fn gelu(&self, y: &mut B::Buf, x: &B::Buf, n: usize) {
        self.call(self.widths().elements("gelu", 2, n), |be| be.gelu(y, x, n));
    }
    fn gelu_backward(&self, d: &mut B::Buf, x: &B::Buf, n: usize) {
        self.call(self.widths().elements("gelu_backward", 3, n), |be| be.gelu_backward(d, x, n));
    }
    fn dropout(&self, y: &mut B::Buf, x: &B::Buf, p: f32, site: u64, ctl: &B::Ctl, n: usize) {
        self.call(self.widths().elements("dropout", 2, n), |be| be.dropout(y, x, p, site, ctl, n));
    }

    fn embed(&self, x: &mut B::Buf, tokens: &B::Ids, positions: &B::Ids, wte: &B::Buf, wpe: &B::Buf, n: usize, c: usize) {
        self.call(self.widths().embed(n, c), |be| be.embed(x, tokens, positions, wte, wpe, n, c));
    }
    fn embed_backward(
        &self,
        dwte: Option<&mut B::Acc>,
        dwpe: Option<&mut B::Acc>,
        dx: &B::Buf,
        tokens: &B::Ids,
        positions: &B::Ids,
        n: usize,
        c: usize,
    ) {
        let len = |d: Option<&B::Acc>| d.map_or(0, |d| self.acc_len(d));
        let work = self.widths().embed_backward(len(dwte.as_deref()), len(dwpe.as_deref()), n, c);
        self.call(work, |be| be.embed_backward(dwte, dwpe, dx, tokens, positions, n, c));
    }

    fn norm(&self, y: &mut B::Buf, stats: &mut B::Acc, x: &B::Buf, w: &B::Buf, b: &B::Buf, n: usize, c: usize) {
        self.call(self.widths().norm(n, c), |be| be.norm(y, stats, x, w, b, n, c));
    }
    fn norm_backward(
        &self,
        dx: &mut B::Buf,
        dw: Option<&mut B::Acc>,
        db: Option<&mut B::Acc>,
        sums: Option<&mut B::Acc>,
        dy: &B::Buf,
        x: &B::Buf,
        w: &B::Buf,
        stats: &B::Acc,
        n: usize,
        c: usize,
    ) {
        let gradients = [dw.is_some(), db.is_some(), sums.is_some()].into_iter().map(usize::from).sum();
        self.call(self.widths().norm_backward(gradients, n, c), |be| be.norm_backward(dx, dw, db, sums, dy, x, w, stats, n, c));
    }

    fn linear(&self, y: &mut B::Buf, x: &B::Buf, w: &B::Buf, b: Option<&B::Buf>, n: usize, i: usize, o: usize) {
        self.call(self.widths().product("linear", bias(b, o), n, i, o), |be| be.linear(y, x, w, b, n, i, o));
    }
    fn linear_add(&self, y: &mut B::Buf, alpha: f64, x: &B::Buf, w: &B::Buf, n: usize, i: usize, o: usize) {
        self.call(self.widths().product("linear_add", n * o, n, i, o), |be| be.linear_add(y, alpha, x, w, n, i, o));
    }
    fn linear_gelu(&self, y: &mut B::Buf, pre: &mut B::Buf, x: &B::Buf, w: &B::Buf, b: Option<&B::Buf>, n: usize, i: usize, o: usize) {
        let work = self.widths().product("linear_gelu", n * o + bias(b, o), n, i, o);
        self.call(work, |be| be.linear_gelu(y, pre, x, w, b, n, i, o));
    }
    fn linear_residual(&self, y: &mut B::Buf, residual: &B::Buf, x: &B::Buf, w: &B::Buf, b: Option<&B::Buf>, n: usize, i: usize, o: usize) {
        let work = self.widths().product("linear_residual", n * o + bias(b, o), n, i, o);
        self.call(work, |be| be.linear_residual(y, residual, x, w, b, n, i, o));
    }
    fn linear_dx(&self, dx: &mut B::Buf, dy: &B::Buf, w: &B::Buf, n: usize, i: usize, o: usize) {
        self.call(self.widths().product("linear_dx", 0, n, i, o), |be| be.linear_dx(dx, dy, w, n, i, o));
    }
    fn linear_dx_add(&self, dx: &mut B::Buf, alpha: f64, dy: &B::Buf, w: &B::Buf, n: usize, i: usize, o: usize) {
        self.call(self.widths().product("linear_dx_add", n * i, n, i, o), |be| be.linear_dx_add(dx, alpha, dy, w, n, i, o));
    }
    fn linear_dx_gelu(&self, dpre: &mut B::Buf, dy: &B::Buf, w: &B::Buf, pre: &B::Buf, n: usize, i: usize, o: usize) {
        self.call(self.widths().product("linear_dx_gelu", n * i, n, i, o), |be| be.linear_dx_gelu(dpre, dy, w, pre, n, i, o));
    }
    fn linear_dw(
        &self,
        dw: Option<&mut B::Acc>,
        db: Option<&mut B::Acc>,
        alpha: f64,
        dy: &B::Buf,
        x: &B::Buf,
        n: usize,
        i: usize,
        o: usize,
    ) {
        let work = self.widths().linear_dw(dw.is_some(), db.is_some(), n, i, o);
        self.call(work, |be| be.linear_dw(dw, db, alpha, dy, x, n, i, o));
    }

    fn attention(&self, y: &mut B::Buf, lse: &mut B::Acc, qkv: &B::Buf, starts: &B::Ids, s: Heads) {
        self.call(self.widths().attention(s), |be| be.attention(y, lse, qkv, starts, s));
    }
    fn attention_backward(
        &self,
        dqkv: &mut B::Buf,
        delta: &mut B::Acc,
        dy: &B::Buf,
        y: &B::Buf,
        qkv: &B::Buf,
        lse: &B::Acc,
        starts: &B::Ids,
        s: Heads,
    ) {
        self.call(self.widths().attention_backward(s), |be| be.attention_backward(dqkv, delta, dy, y, qkv, lse, starts, s));
    }

    fn classify_loss(
        &self,
        loss: &mut B::Acc,
        dx: Option<&mut B::Buf>,
        dwte: Option<&mut B::Acc>,
        head: &mut B::Head,
        x: &B::Buf,
        wte: &B::Buf,
        targets: &Targets<Self>,
        n: usize,
        c: usize,
        v: usize,
    ) {
        let work = self.widths().classify_loss(dx.is_some(), dwte.is_some(), targets.count, n, c, v);
        self.call(work, |be| be.classify_loss(loss, dx, dwte, head, x, wte, targets, n, c, v));
    }
    fn logits(&self, logits: &mut B::Buf, x: &B::Buf, rows: &B::Ids, count: usize, wte: &B::Buf, c: usize, v: usize) {
        self.call(self.widths().logits(count, c, v), |be| be.logits(logits, x, rows, count, wte, c, v));
    }

    fn grad_norm(&self, norm: &mut B::Acc, grads: &[&B::Acc]) {
        let len = grads.iter().map(|g| self.acc_len(g)).sum();
        self.call(self.widths().accs("grad_norm", len), |be| be.grad_norm(norm, grads));
    }
    fn adamw(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &B::Acc, ctl: &B::Ctl) {
        let work = self.widths().adamw(self.leaves(leaves));
        let mut leaves = inner(leaves);
        self.call(work, |be| be.adamw(&mut leaves, norm, ctl));
    }
    fn round_masters(&self, leaves: &mut [AdamLeaf<'_, Self>], ctl: &B::Ctl) {
        let work = self.widths().round_masters(self.leaves(leaves));
        let mut leaves = inner(leaves);
        self.call(work, |be| be.round_masters(&mut leaves, ctl));
    }
}

const fn bias<T>(b: Option<&T>, o: usize) -> usize {
    if b.is_some() { o } else { 0 }
}
