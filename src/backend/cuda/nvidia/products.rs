//! Matrix products by cuBLASLt.
//!
//! Row-major `y (M, N) = a b` is, to a library of column-major matrices, `y^T (N, M) = b^T a^T`: the factors change places, the
//! bias runs along the library's rows, and sums over our left factor are sums over its right one.

use super::memory::Memory;
use super::plans::{Chosen, Plans};
use super::queue::{Order, Queue, device_error};
use crate::backend::BackendError;
use crate::backend::cuda::driver::{Arg, Epilogue, Kernel, NULL, Precision, Product, Ptr, Shape, Unsupported};
use crate::backend::cuda::products;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t as Desc, cudaDataType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::rc::Rc;

/// What the library may use beside the matrices: what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// All of a product that decides which algorithms can do it and which is fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    sizes: [usize; 3],
    /// Elements from row to row of a, b, y.
    strides: [usize; 3],
    /// Of a, b.
    transposed: [bool; 2],
    /// Whether `y` and `c` are f32 whatever the factors are.
    wide: bool,
    adds: bool,
    /// Whether what is added to is `y` itself.
    pub in_place: bool,
    epilogue: Extra,
    /// The largest power of two, up to 256, that divides the places of a, b, c, y.
    pub alignment: [u32; 4],
}

/// An [`Epilogue`] without its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Extra {
    None,
    Bias,
    Gelu,
    BiasGelu,
    GeluBackward,
    LeftSums,
}

impl Form {
    fn of(p: &Product) -> Self {
        let aligned = |ptr: Ptr| 1 << ptr.trailing_zeros().min(8);
        let c = if p.beta == 0.0 { p.y } else { p.c };
        Self {
            sizes: [p.m, p.n, p.k],
            strides: [p.a.stride, p.b.stride, p.stride],
            transposed: [p.a.transposed, p.b.transposed],
            wide: p.accumulate,
            adds: p.beta != 0.0,
            in_place: p.beta != 0.0 && c == p.y,
            epilogue: match p.epilogue {
                Epilogue::None => Extra::None,
                Epilogue::Bias(_) => Extra::Bias,
                Epilogue::BiasGelu { bias: NULL, .. } => Extra::Gelu,
                Epilogue::BiasGelu { .. } => Extra::BiasGelu,
                Epilogue::GeluBackward { .. } => Extra::GeluBackward,
                Epilogue::LeftSums(_) => Extra::LeftSums,
            },
            alignment: [p.a.ptr, p.b.ptr, c, p.y].map(aligned),
        }
    }

    /// Bytes of `y`.
    pub const fn bytes(&self, precision: Precision) -> usize {
        self.sizes[0] * self.strides[2] * if self.wide { 4 } else { precision.bytes() }
    }

    const fn order(&self) -> Order {
        Order::Product(self.sizes[0], self.sizes[1], self.sizes[2])
    }
}

/// The name of a form in files.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([m, n, k], [a, b, y]) = (self.sizes, self.strides);
        let [ta, tb] = self.transposed.map(|t| if t { "t" } else { "" });
        write!(f, "{m}x{n}x{k} a{a}{ta} b{b}{tb} y{y}{}", if self.wide { " f32" } else { "" })?;
        match (self.adds, self.in_place) {
            (false, _) => {}
            (true, true) => write!(f, " +y")?,
            (true, false) => write!(f, " +c")?,
        }
        if self.epilogue != Extra::None {
            write!(f, " {:?}", self.epilogue)?;
        }
        let [a, b, c, y] = self.alignment;
        write!(f, " aligned {a} {b} {c} {y}")
    }
}

/// What the library is told of a form: made once, and but for the places of bias and auxiliary matrix never changed.
pub(super) struct Descriptors {
    pub desc: sys::cublasLtMatmulDesc_t,
    /// The library's left factor (our right one), right factor, and result.
    pub layouts: [sys::cublasLtMatrixLayout_t; 3],
}

impl Descriptors {
    fn new(form: &Form, precision: Precision) -> Result<Self, CublasError> {
        let narrow = match precision {
            Precision::Bf16 => cudaDataType::CUDA_R_16BF,
            Precision::F32 => cudaDataType::CUDA_R_32F,
        };
        let result = if form.wide { cudaDataType::CUDA_R_32F } else { narrow };
        // Sums are f32; pedantic keeps TF32 and the like out of the mode for checking.
        let compute = match precision {
            Precision::Bf16 => cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Precision::F32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_PEDANTIC,
        };
        let desc = result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?;
        let mut made = Self { desc, layouts: [std::ptr::null_mut(); 3] };
        let ([m, n, k], [a, b, y], [ta, tb]) = (form.sizes, form.strides, form.transposed);
        // A row-major (rows, columns) matrix is a column-major (columns, rows) one.
        let layout = |of, rows: usize, columns: usize, stride| result::create_matrix_layout(of, columns as u64, rows as u64, stride as i64);
        made.layouts[0] = if tb { layout(narrow, n, k, b) } else { layout(narrow, k, n, b) }?;
        made.layouts[1] = if ta { layout(narrow, k, m, a) } else { layout(narrow, m, k, a) }?;
        made.layouts[2] = layout(result, m, n, y)?;
        made.set(Desc::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(tb))?;
        made.set(Desc::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(ta))?;
        let epilogue = match form.epilogue {
            Extra::None => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Extra::Bias => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Extra::Gelu => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX,
            Extra::BiasGelu => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Extra::GeluBackward => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DGELU,
            Extra::LeftSums => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
        };
        made.set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        // Types other than the result's must be said.
        let bias = if form.epilogue == Extra::LeftSums { cudaDataType::CUDA_R_32F } else { narrow };
        if bias != result && matches!(form.epilogue, Extra::Bias | Extra::BiasGelu | Extra::LeftSums) {
            made.set(Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(bias as u32))?;
        }
        if matches!(form.epilogue, Extra::Gelu | Extra::BiasGelu | Extra::GeluBackward) {
            made.set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(y as i64))?;
            if narrow != result {
                made.set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, &(narrow as u32))?;
            }
        }
        Ok(made)
    }

    fn set<T>(&self, which: Desc, value: &T) -> Result<(), CublasError> {
        // SAFETY: the descriptor is alive; the attribute's type is `T`, by the library's manual.
        unsafe { result::set_matmul_desc_attribute(self.desc, which, std::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    /// Where bias and auxiliary matrix lie in the product at hand.
    fn place(&self, epilogue: Epilogue) -> Result<(), CublasError> {
        let (bias, aux) = match epilogue {
            Epilogue::None => (NULL, NULL),
            Epilogue::Bias(bias) | Epilogue::LeftSums(bias) => (bias, NULL),
            Epilogue::BiasGelu { bias, pre } => (bias, pre),
            Epilogue::GeluBackward { pre } => (NULL, pre),
        };
        if bias != NULL {
            self.set(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        if aux != NULL {
            self.set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux)?;
        }
        Ok(())
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: nobody else has them; a product under way has taken what it needs.
        unsafe {
            for layout in self.layouts.into_iter().filter(|l| !l.is_null()) {
                result::destroy_matrix_layout(layout).ok();
            }
            result::destroy_matmul_desc(self.desc).ok();
        }
    }
}

/// The library, opened.
pub(super) struct Library {
    pub handle: sys::cublasLtHandle_t,
    pub precision: Precision,
    /// Where products keep partial sums, and how much room is there.
    pub workspace: (Ptr, usize),
    pub queue: Rc<Queue>,
    pub memory: Rc<Memory>,
}

impl Library {
    /// Orders a product with its result in `y`.
    pub fn multiply(&self, descriptors: &Descriptors, chosen: &Chosen, p: &Product, y: Ptr) -> Result<(), CublasError> {
        let [left, right, result] = descriptors.layouts;
        let c = if p.beta == 0.0 { y } else { p.c };
        // SAFETY: descriptors are of this product's form, the workspace has the room that the algorithm was chosen for, and the
        // backend keeps within its buffers. Both factors are read from the host before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                descriptors.desc,
                std::ptr::from_ref(&p.alpha).cast(),
                std::ptr::from_ref(&p.beta).cast(),
                p.b.ptr as *const c_void,
                left,
                p.a.ptr as *const c_void,
                right,
                c as *const c_void,
                result,
                y as *mut c_void,
                result,
                &raw const chosen.algorithm,
                self.workspace.0 as *mut c_void,
                self.workspace.1,
                self.queue.stream().cast(),
            )
        }
    }
}

/// A form's descriptors and algorithm.
struct Plan {
    descriptors: Descriptors,
    chosen: Chosen,
}

pub(super) struct Products {
    library: Library,
    /// By form; none where the library has no algorithm.
    ready: RefCell<HashMap<Form, Option<Plan>>>,
    pub plans: Plans,
}

impl Products {
    pub fn new(queue: Rc<Queue>, memory: Rc<Memory>, precision: Precision, plans: Plans) -> Result<Self, BackendError> {
        let handle = result::create_handle().map_err(|e| device_error(format!("cuBLASLt does not start: {e:?}")))?;
        let workspace = (memory.allocate(WORKSPACE)?, WORKSPACE);
        let library = Library { handle, precision, workspace, queue, memory };
        Ok(Self { library, ready: RefCell::default(), plans })
    }

    /// Orders a product. `own` runs one of our kernels.
    pub fn product(&self, p: &Product, own: &dyn Fn(Kernel, Shape, &[Arg])) -> Result<(), Unsupported> {
        let queue = &self.library.queue;
        if !queue.well() {
            return Ok(());
        }
        let form = Form::of(p);
        let mut ready = self.ready.borrow_mut();
        let plan = ready.entry(form).or_insert_with(|| self.plan(&form, p));
        let Some(plan) = plan else {
            return match p.epilogue {
                Epilogue::None => {
                    // The library has no algorithm for it: sizes or places that are odd.
                    let (kernel, shape, args) = products::plain(p);
                    own(kernel, shape, &args);
                    Ok(())
                }
                _ => Err(Unsupported),
            };
        };
        let done = plan.descriptors.place(p.epilogue).and_then(|()| self.library.multiply(&plan.descriptors, &plan.chosen, p, p.y));
        queue.ordered_as(done.map_err(|e| format!("{e:?}")), form.order());
        Ok(())
    }

    fn plan(&self, form: &Form, p: &Product) -> Option<Plan> {
        let descriptors = Descriptors::new(form, self.library.precision).ok()?;
        // Heuristics look at the places' alignment.
        descriptors.place(p.epilogue).ok()?;
        let chosen = self.plans.choose(&self.library, form, &descriptors, p)?;
        Some(Plan { descriptors, chosen })
    }

    /// Takes up plans that a checkpoint carries.
    pub fn set_plans(&self, plans: &serde_json::Value) {
        self.ready.borrow_mut().clear();
        self.plans.set(plans);
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.ready.borrow_mut().clear();
        self.library.memory.release(self.library.workspace.0);
        // SAFETY: nothing is ordered any more; what was is waited for.
        unsafe { result::destroy_handle(self.library.handle) }.ok();
    }
}
