//! What the CUDA backend asks of whatever runs its kernels.
//!
//! The backend decides what is computed: which kernels run, in which order, on how many blocks, over which memory. A
//! [`Driver`] does it: [`super::nvidia`] on a GPU, and in the tests a stand-in that runs the very same kernels on a CPU.
//!
//! Launches, products, copies and fills are ordered as they are called. They return nothing; what goes wrong with one is
//! kept and told by [`Driver::sync`], and after a first failure the others do nothing.

use crate::backend::BackendError;

/// The type of activations and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// bf16, with f32 masters: for training.
    Bf16,
    /// f32 throughout: for checking.
    F32,
}

impl Precision {
    /// Bytes of an element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// "NVIDIA H200".
    pub name: String,
    /// Compute capability, 10 major + minor: 80, 90.
    pub arch: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The most bytes of shared memory of a block.
    pub shared: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of second-level cache.
    pub l2: usize,
}

/// A kernel of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file, without its ending: "norm".
    pub file: &'static str,
    /// The function in it: `norm_forward`.
    pub name: &'static str,
    /// A number that the file is compiled for, as `-DTINYLLM_SIZE=n` (the channels of a head); 0 where it has none.
    pub size: u32,
}

impl Kernel {
    /// A kernel of a file that needs no number.
    #[must_use]
    pub const fn new(file: &'static str, name: &'static str) -> Self {
        Self { file, name, size: 0 }
    }
    /// A kernel of a file compiled for `size`.
    #[must_use]
    pub const fn sized(file: &'static str, name: &'static str, size: usize) -> Self {
        Self { file, name, size: size as u32 }
    }
}

/// How many blocks, of how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Shape {
    /// `blocks` blocks of `threads` threads.
    #[must_use]
    pub const fn of(blocks: usize, threads: u32) -> Self {
        Self { grid: [blocks as u32, 1, 1], block: [threads, 1, 1], shared: 0 }
    }
    /// The same with `bytes` of dynamic shared memory a block.
    #[must_use]
    pub const fn with_shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

/// A place in device memory.
pub type Ptr = u64;
/// No place: what a kernel that may leave an output out is given for it.
pub const NULL: Ptr = 0;

/// What the tensor copy engine is told of a matrix in memory (a `CUtensorMap`): 128 bytes, passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A place in device memory, or a 64-bit number.
    U64(u64),
    /// A size.
    U32(u32),
    /// A factor.
    F32(f32),
    /// A matrix for the tensor copy engine.
    Map(TensorMap),
    /// A struct by value: where it lies in the host's memory, until the launch returns.
    Struct(*const u8),
}

impl From<u64> for Arg {
    fn from(x: u64) -> Self {
        Self::U64(x)
    }
}
impl From<u32> for Arg {
    fn from(x: u32) -> Self {
        Self::U32(x)
    }
}
impl From<usize> for Arg {
    fn from(x: usize) -> Self {
        Self::U32(u32::try_from(x).expect("sizes of a batch are below 2^32"))
    }
}
impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}
impl From<TensorMap> for Arg {
    fn from(x: TensorMap) -> Self {
        Self::Map(x)
    }
}

impl Arg {
    /// A `#[repr(C)]` struct that the kernel takes by value; it stays where it is until the launch returns. At most 4 KB with
    /// all other arguments.
    #[must_use]
    pub const fn by_value<T: Copy>(x: &T) -> Self {
        Self::Struct(std::ptr::from_ref(x).cast())
    }
    /// Where the value lies: what `cuLaunchKernel` wants of each argument.
    #[must_use]
    pub const fn address(&self) -> *const u8 {
        match self {
            Self::U64(x) => std::ptr::from_ref(x).cast(),
            Self::U32(x) => std::ptr::from_ref(x).cast(),
            Self::F32(x) => std::ptr::from_ref(x).cast(),
            Self::Map(x) => std::ptr::from_ref(x).cast(),
            Self::Struct(x) => *x,
        }
    }
}

/// A row-major matrix in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Where it begins.
    pub ptr: Ptr,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl Matrix {
    /// As it lies in memory, with `stride` elements a row.
    #[must_use]
    pub const fn plain(ptr: Ptr, stride: usize) -> Self {
        Self { ptr, stride, transposed: false }
    }
    /// Its transpose.
    #[must_use]
    pub const fn transposed(ptr: Ptr, stride: usize) -> Self {
        Self { ptr, stride, transposed: true }
    }
}

/// What a product does beside multiplying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Adds a bias `(N)` of the activations' type to every row.
    Bias(Ptr),
    /// Adds a bias, keeps the result in `pre (M, N)`, with `y`'s stride, and puts GPT-2's GELU of it into `y`.
    BiasGelu {
        /// The bias, or [`NULL`].
        bias: Ptr,
        /// What stood before GELU.
        pre: Ptr,
    },
    /// Multiplies the result by the derivative of GELU at `pre (M, N)`, with `y`'s stride.
    GeluBackward {
        /// What stood before GELU.
        pre: Ptr,
    },
    /// Writes the column sums of the (not transposed) left factor's memory into `(M)` f32: in `dw = dy^T x`, the bias's gradient.
    LeftSums(Ptr),
}

/// A matrix product: `y (M, N) = alpha a (M, K) b (K, N) + beta c`, then its epilogue.
///
/// Factors have the activations' type; sums are kept in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows of `y`.
    pub m: usize,
    /// Columns of `y`.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// `(M, K)`, or in memory `(K, M)` where it is transposed.
    pub a: Matrix,
    /// `(K, N)`, or in memory `(N, K)` where it is transposed.
    pub b: Matrix,
    /// `(M, N)`
    pub y: Ptr,
    /// What `beta` scales; [`y`](Self::y) itself where the product is added to. Same stride and type as `y`.
    pub c: Ptr,
    /// Elements from one row of `y` (and `c`) to the next.
    pub stride: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`: 0 or 1. At 0, `c` is not read.
    pub beta: f32,
    /// Whether `y` and `c` are f32 even where activations are bf16: gradients of weights.
    pub accumulate: bool,
    /// What else it does.
    pub epilogue: Epilogue,
}

/// A product that the driver has no kernel for, with this epilogue at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported;

/// A value on its way to the host.
#[derive(Debug)]
pub struct Ticket(pub u64);

/// A moment in the device's order of work.
#[derive(Debug)]
pub struct Mark(pub u64);

/// Something that runs the kernels.
pub trait Driver {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;
    /// The type that kernels and products were made for.
    fn precision(&self) -> Precision;

    /// `bytes` of memory, whatever lies in it, aligned to 256.
    fn allocate(&self, bytes: usize) -> Result<Ptr, BackendError>;
    /// Gives memory back, once what was ordered before is done.
    fn release(&self, ptr: Ptr);
    /// Bytes allocated now, and at most so far.
    fn allocated(&self) -> (usize, usize);
    /// Copies from the host; `src` may be reused at once.
    fn write(&self, dst: Ptr, src: &[u8]) -> Result<(), BackendError>;
    /// Copies to the host, and waits for it.
    fn read(&self, dst: &mut [u8], src: Ptr) -> Result<(), BackendError>;
    /// Sets bytes to 0.
    fn zero(&self, dst: Ptr, bytes: usize);
    /// Copies within the device.
    fn copy(&self, dst: Ptr, src: Ptr, bytes: usize);

    /// Runs a kernel; `args` are those of its signature.
    fn launch(&self, kernel: Kernel, shape: Shape, args: &[Arg]);
    /// Runs a matrix product; the factors' and `y`'s memory does not overlap.
    fn product(&self, product: &Product) -> Result<(), Unsupported>;
    /// Describes a `(rows, columns)` row-major matrix of activations, `stride` elements a row, to the tensor copy engine, which
    /// will fetch boxes of `box_rows` by `box_columns` (128 bytes of columns, swizzled by 128 bytes; zeros beyond the edges).
    fn tensor_map(&self, ptr: Ptr, rows: usize, columns: usize, stride: usize, box_rows: u32, box_columns: u32) -> TensorMap;

    /// Runs `work`, which launches the same things in the same order over the same memory whenever `key` is the same: a driver
    /// may record it and replay the recording.
    fn region(&self, key: u64, work: &mut dyn FnMut());
    /// Begins to copy `values` f32 to the host, without waiting.
    fn read_later(&self, src: Ptr, values: usize) -> Result<Ticket, BackendError>;
    /// Waits for what [`read_later`](Self::read_later) began. An error of anything ordered before it is told here too.
    fn take(&self, ticket: Ticket) -> Result<Vec<f32>, BackendError>;
    /// Remembers a moment.
    fn mark(&self) -> Result<Mark, BackendError>;
    /// Milliseconds between two moments; waits for the later one.
    fn between(&self, from: &Mark, to: &Mark) -> Result<f64, BackendError>;
    /// The algorithms chosen for products, where they were chosen by measuring.
    fn plans(&self) -> Option<serde_json::Value> {
        None
    }
    /// Takes up what [`plans`](Self::plans) gave, if it is of this device.
    fn set_plans(&self, _plans: &serde_json::Value) -> Result<(), BackendError> {
        Ok(())
    }
    /// Waits for everything, and tells the first error since the last call.
    fn sync(&self) -> Result<(), BackendError>;
}
