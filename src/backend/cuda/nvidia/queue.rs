//! The order of work on a GPU: one stream, and what went wrong on it.
//!
//! An order that fails is kept and told later; after it nothing more is ordered. What fails inside a kernel shows at some later
//! call, so that the message names what was launched last; with `TINYLLM_CUDA_SYNC=1` each order is waited for and the name is
//! exact.

use crate::backend::BackendError;
use crate::backend::cuda::driver::Kernel;
use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::rc::Rc;

/// An error in the words of this file's callers.
pub(super) fn device_error(message: impl Into<String>) -> BackendError {
    BackendError::Device { device: "GPU", message: message.into() }
}

/// What the driver means by a code: "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)".
pub(super) fn words(code: CUresult) -> String {
    let ask = |question: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the driver answers with a string of its own, or with none.
        unsafe {
            let answered = question(code, &raw mut text) == CUresult::CUDA_SUCCESS && !text.is_null();
            answered.then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    match (ask(sys::cuGetErrorString), ask(sys::cuGetErrorName)) {
        (Some(text), Some(name)) => format!("{text} ({name})"),
        _ => format!("{code:?}"),
    }
}

/// A code as a result, saying what was asked for.
pub(super) fn told(code: CUresult, what: &str) -> Result<(), BackendError> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(device_error(format!("{what}: {}", words(code)))) }
}

/// Something that the device was asked to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Kernel(Kernel),
    /// M, N, K.
    Product(usize, usize, usize),
    Copy,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(kernel) => write!(f, "the kernel {} of kernels/{}.cu", kernel.name, kernel.file),
            Self::Product(m, n, k) => write!(f, "the matrix product ({m}, {k}) x ({k}, {n})"),
            Self::Copy => write!(f, "a copy"),
        }
    }
}

/// One stream of the device.
pub(super) struct Queue {
    stream: CUstream,
    failure: RefCell<Option<BackendError>>,
    last: Cell<Option<Order>>,
    /// Whether `last` ended a recording that was replayed.
    replayed: Cell<bool>,
    /// Whether each order is waited for.
    pub each: bool,
    recording: Cell<bool>,
    /// Why what is being recorded is of no use.
    spoilt: RefCell<Option<String>>,
}

impl Queue {
    pub fn open() -> Result<Rc<Self>, BackendError> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the context is current; the stream is this queue's alone. (The default stream could not be recorded.)
        let code = unsafe { sys::cuStreamCreate(&raw mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        told(code, "a stream could not be made")?;
        let each = std::env::var_os("TINYLLM_CUDA_SYNC").is_some_and(|v| v == "1");
        let (failure, spoilt) = (RefCell::default(), RefCell::default());
        Ok(Rc::new(Self { stream, failure, last: Cell::new(None), replayed: Cell::new(false), each, recording: Cell::new(false), spoilt }))
    }

    pub const fn stream(&self) -> CUstream {
        self.stream
    }

    /// Whether anything more may be ordered.
    pub fn well(&self) -> bool {
        self.failure.borrow().is_none()
    }

    /// The failure, if there was one.
    pub fn state(&self) -> Result<(), BackendError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Keeps a failure; the first counts.
    pub fn fail(&self, error: BackendError) {
        self.failure.borrow_mut().get_or_insert(error);
    }

    /// Takes note of what an order came to.
    pub fn ordered(&self, code: CUresult, what: Order) {
        self.ordered_as(if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(words(code)) }, what);
    }

    /// The same for an order whose refusal is already in words.
    pub fn ordered_as(&self, result: Result<(), String>, what: Order) {
        match result {
            Err(reason) if self.recording.get() => self.spoil(format!("{what}: {reason}")),
            Err(reason) => {
                // The device may have failed before, at something else.
                // SAFETY: asks the stream of this queue.
                let before = unsafe { sys::cuStreamQuery(self.stream) };
                if matches!(before, CUresult::CUDA_SUCCESS | CUresult::CUDA_ERROR_NOT_READY) {
                    self.fail(device_error(format!("{what} could not be launched: {reason}")));
                } else {
                    self.broke(before);
                }
            }
            Ok(()) => {
                self.last.set(Some(what));
                self.replayed.set(false);
                if self.each && !self.recording.get() {
                    // SAFETY: waits for the stream of this queue.
                    let code = unsafe { sys::cuStreamSynchronize(self.stream) };
                    if code != CUresult::CUDA_SUCCESS {
                        self.fail(device_error(format!("{what} failed: {}", words(code))));
                    }
                }
            }
        }
    }

    /// What was ordered last.
    pub fn last(&self) -> Option<Order> {
        self.last.get()
    }

    /// A recording that ends with `last` was launched.
    pub fn replayed(&self, code: CUresult, last: Option<Order>) {
        if code == CUresult::CUDA_SUCCESS {
            self.last.set(last.or(self.last.get()));
            self.replayed.set(true);
        } else {
            self.broke(code);
        }
    }

    /// Keeps a failure of something ordered before.
    fn broke(&self, code: CUresult) -> BackendError {
        let last = match self.last.get() {
            None => "nothing was launched before".into(),
            Some(last) if self.replayed.get() => format!("a recorded sequence was launched before that ends with {last}"),
            Some(last) => format!("{last} was launched last"),
        };
        let error = device_error(format!(
            "{}; {last}, and it or one before it is at fault: with TINYLLM_CUDA_SYNC=1 in the environment each is waited for, and the message names the one",
            words(code)
        ));
        self.fail(error.clone());
        error
    }

    /// Waits for everything, and tells the first error since the last call.
    pub fn sync(&self) -> Result<(), BackendError> {
        // SAFETY: waits for the stream of this queue.
        let code = unsafe { sys::cuStreamSynchronize(self.stream) };
        if code != CUresult::CUDA_SUCCESS {
            // A device that failed stays so: the failure is told again.
            self.broke(code);
            return self.state();
        }
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Waits for a moment.
    pub fn wait(&self, event: &Event) -> Result<(), BackendError> {
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventSynchronize(event.0) } {
            CUresult::CUDA_SUCCESS => Ok(()),
            code => {
                self.broke(code);
                self.state()
            }
        }
    }

    // ---- recording

    pub fn recording(&self) -> bool {
        self.recording.get()
    }
    pub fn set_recording(&self, recording: bool) {
        self.recording.set(recording);
    }
    /// What is being recorded is of no use.
    pub fn spoil(&self, reason: String) {
        self.spoilt.borrow_mut().get_or_insert(reason);
    }
    pub fn take_spoilt(&self) -> Option<String> {
        self.spoilt.borrow_mut().take()
    }
    /// Refuses what a recording cannot hold.
    pub fn outside_recording(&self, what: &str) -> Result<(), BackendError> {
        if self.recording.get() {
            self.spoil(format!("{what} inside a region"));
            return Err(device_error(format!("{what} inside a region that is being recorded: this is an error of the program")));
        }
        self.state()
    }
    /// Does what is otherwise not allowed while the thread records: asking for memory, loading code.
    pub fn relaxed<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.recording.get() {
            return work();
        }
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges the thread's mode with the one in `mode`, and back.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
        let done = work();
        // SAFETY: as above.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
        done
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nobody else has the stream; its work is waited for.
        unsafe {
            sys::cuStreamSynchronize(self.stream);
            sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

/// A moment in a stream.
pub(super) struct Event(CUevent);

impl Event {
    pub fn new() -> Result<Self, BackendError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the event is this value's alone.
        told(unsafe { sys::cuEventCreate(&raw mut event, sys::CUevent_flags::CU_EVENT_DEFAULT as u32) }, "an event could not be made")?;
        Ok(Self(event))
    }

    /// Sets it to what is ordered so far.
    pub fn record(&self, queue: &Queue) {
        // SAFETY: event and stream are alive.
        let code = unsafe { sys::cuEventRecord(self.0, queue.stream) };
        if code != CUresult::CUDA_SUCCESS {
            queue.ordered(code, Order::Copy);
        }
    }

    /// Milliseconds from one to the other, both passed.
    pub fn until(&self, later: &Self) -> Result<f64, BackendError> {
        let mut ms = 0f32;
        // SAFETY: both events are alive.
        told(unsafe { sys::cuEventElapsedTime_v2(&raw mut ms, self.0, later.0) }, "the time between two events")?;
        Ok(f64::from(ms))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

/// Host memory that the device copies from and to by itself.
pub(super) struct Pinned {
    place: *mut u8,
    bytes: usize,
}

impl Pinned {
    pub fn new(bytes: usize) -> Result<Self, BackendError> {
        let mut place: *mut c_void = std::ptr::null_mut();
        // SAFETY: the memory is this value's alone.
        told(unsafe { sys::cuMemHostAlloc(&raw mut place, bytes, 0) }, &format!("{bytes} bytes of pinned host memory"))?;
        Ok(Self { place: place.cast(), bytes })
    }
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
    pub const fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes);
        self.place.wrapping_add(offset)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: nobody else has it; the driver waits for copies under way.
        unsafe { sys::cuMemFreeHost(self.place.cast()) };
    }
}
