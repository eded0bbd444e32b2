//! Device memory, and copies between it and the host.

use super::queue::{Event, Order, Pinned, Queue, device_error, words};
use crate::backend::BackendError;
use crate::backend::cuda::driver::Ptr;
use cudarc::driver::sys::{self, CUresult};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes that are copied together: a micro-batch of 65,536 tokens is one piece.
const PIECE: usize = 256 << 10;
/// Pieces on their way at a time: some nine micro-steps of uploads, so that the host runs ahead of the device.
const PIECES: usize = 64;

/// Pinned memory through which uploads go. A piece is used again only after the device has read it.
struct Ring {
    pinned: Pinned,
    /// When the device had read a piece; none for one never used.
    read: Vec<Option<Event>>,
    next: usize,
}

/// What is allocated, and the way to it.
pub(super) struct Memory {
    queue: Rc<Queue>,
    sizes: RefCell<HashMap<Ptr, usize>>,
    now: Cell<usize>,
    most: Cell<usize>,
    ring: RefCell<Ring>,
    /// Released while a region was recorded, when nothing may be waited for.
    pending: RefCell<Vec<Ptr>>,
}

impl Memory {
    pub fn new(queue: Rc<Queue>) -> Result<Self, BackendError> {
        let ring = Ring { pinned: Pinned::new(PIECE * PIECES)?, read: (0..PIECES).map(|_| None).collect(), next: 0 };
        let (now, most) = (Cell::new(0), Cell::new(0));
        Ok(Self { queue, sizes: RefCell::default(), now, most, ring: RefCell::new(ring), pending: RefCell::default() })
    }

    pub fn allocate(&self, bytes: usize) -> Result<Ptr, BackendError> {
        let mut ptr = 0;
        // SAFETY: the context is current. What is given is aligned to 256 bytes at least.
        match self.queue.relaxed(|| unsafe { sys::cuMemAlloc_v2(&raw mut ptr, bytes.max(1)) }) {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => return Err(BackendError::OutOfMemory { device: "GPU", bytes }),
            code => {
                self.queue.state()?;
                return Err(device_error(format!("{bytes} bytes of memory: {}", words(code))));
            }
        }
        self.sizes.borrow_mut().insert(ptr, bytes);
        self.now.set(self.now.get() + bytes);
        self.most.set(self.most.get().max(self.now.get()));
        Ok(ptr)
    }

    pub fn release(&self, ptr: Ptr) {
        if self.queue.recording() {
            self.pending.borrow_mut().push(ptr);
            return;
        }
        let bytes = self.sizes.borrow_mut().remove(&ptr).expect("memory that was allocated");
        self.now.set(self.now.get() - bytes);
        // A device that failed frees nothing more: the program is about to end.
        // SAFETY: what was ordered before is waited for, and the memory is known here no more.
        unsafe {
            sys::cuStreamSynchronize(self.queue.stream());
            sys::cuMemFree_v2(ptr);
        }
    }

    /// Releases what could not be while a region was recorded.
    pub fn release_pending(&self) {
        let pending = self.pending.take();
        pending.into_iter().for_each(|ptr| self.release(ptr));
    }

    pub const fn allocated(&self) -> (usize, usize) {
        (self.now.get(), self.most.get())
    }

    /// Copies from the host, in the order of the device's work and without waiting for it.
    pub fn write(&self, dst: Ptr, src: &[u8]) -> Result<(), BackendError> {
        self.queue.outside_recording("an upload")?;
        let mut ring = self.ring.borrow_mut();
        for (i, piece) in src.chunks(PIECE).enumerate() {
            let at = ring.next;
            ring.next = (at + 1) % PIECES;
            if let Some(read) = &ring.read[at] {
                self.queue.wait(read)?;
            }
            let staged = ring.pinned.at(at * PIECE);
            // SAFETY: the piece has this room, and the device is done with what was there. `dst` has room for `src`: the
            // backend keeps within its buffers.
            let code = unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), staged, piece.len());
                sys::cuMemcpyHtoDAsync_v2(dst + (i * PIECE) as Ptr, staged.cast(), piece.len(), self.queue.stream())
            };
            self.queue.ordered(code, Order::Copy);
            self.queue.state()?;
            if ring.read[at].is_none() {
                ring.read[at] = Some(Event::new()?);
            }
            ring.read[at].as_ref().expect("just made").record(&self.queue);
        }
        self.queue.state()
    }

    /// Copies to the host and waits for it.
    pub fn read(&self, dst: &mut [u8], src: Ptr) -> Result<(), BackendError> {
        self.queue.outside_recording("a download")?;
        // SAFETY: `dst` has this room and is waited for; the backend keeps within its buffers.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(dst.as_mut_ptr().cast(), src, dst.len(), self.queue.stream()) };
        self.queue.ordered(code, Order::Copy);
        self.queue.state()?;
        self.queue.sync()
    }

    pub fn zero(&self, dst: Ptr, bytes: usize) {
        if self.queue.well() && bytes > 0 {
            // SAFETY: the backend keeps within its buffers.
            let code = unsafe { sys::cuMemsetD8Async(dst, 0, bytes, self.queue.stream()) };
            self.queue.ordered(code, Order::Copy);
        }
    }

    pub fn copy(&self, dst: Ptr, src: Ptr, bytes: usize) {
        if self.queue.well() && bytes > 0 {
            // SAFETY: the backend keeps within its buffers.
            let code = unsafe { sys::cuMemcpyDtoDAsync_v2(dst, src, bytes, self.queue.stream()) };
            self.queue.ordered(code, Order::Copy);
        }
    }
}
