//! A GPU, through cudarc: the driver's and the libraries' own functions, opened at run time.
//!
//! Environment: `TINYLLM_CUDA_SYNC=1` waits for each order and names the one that fails; `TINYLLM_CUDA_GRAPHS=0` records nothing;
//! `TINYLLM_CUBINS` names a folder of kernels compiled ahead.
#![allow(unsafe_code)]

mod cache;
pub mod compile;
mod late;
mod memory;
mod modules;
mod plans;
mod probe;
mod products;
mod queue;
mod regions;

pub use probe::driver_is_there;

use super::driver::{Arg, DeviceInfo, Driver, Kernel, Mark, Precision, Product, Ptr, Shape, TensorMap, Ticket, Unsupported};
use super::sources::Unit;
use crate::backend::BackendError;
use cudarc::driver::sys;
use late::Late;
use memory::Memory;
use modules::{Codes, Modules};
use plans::Plans;
use products::Products;
use queue::{Order, Queue, device_error};
use regions::Regions;
use std::rc::Rc;

/// What the first GPU is, and the bytes of its memory that are free; an error where it, or a library that it needs, is missing
/// or too old.
pub fn find() -> Result<(DeviceInfo, usize), BackendError> {
    let device = probe::device()?;
    Codes::new(device, Precision::Bf16).check()?;
    probe::cublaslt_version(device.driver)?;
    Ok((device.info.clone(), device.free()?))
}

/// The first GPU, ready to run kernels of this precision. The code of `units` is compiled at once, in parallel; other files
/// follow when they are first launched from.
pub fn open(precision: Precision, units: &[Unit]) -> Result<Rc<dyn Driver>, BackendError> {
    let device = probe::device()?;
    device.enter()?;
    let codes = Codes::new(device, precision);
    codes.check()?;
    let cublaslt = probe::cublaslt_version(device.driver)?;
    let queue = Queue::open()?;
    let modules = Modules::new(codes);
    modules.prefetch(units)?;
    let memory = Rc::new(Memory::new(queue.clone())?);
    let plans = Plans::open(device, cublaslt, precision);
    Ok(Rc::new(Nvidia {
        info: device.info.clone(),
        precision,
        regions: Regions::new(queue.clone()),
        late: Late::new(queue.clone()),
        products: Products::new(queue.clone(), memory.clone(), precision, plans)?,
        memory,
        modules,
        queue,
    }))
}

struct Nvidia {
    info: DeviceInfo,
    precision: Precision,
    // Dropped in this order: what waits for the stream before the stream.
    regions: Regions,
    late: Late,
    products: Products,
    memory: Rc<Memory>,
    modules: Modules,
    queue: Rc<Queue>,
}

impl Driver for Nvidia {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn precision(&self) -> Precision {
        self.precision
    }

    fn allocate(&self, bytes: usize) -> Result<Ptr, BackendError> {
        self.memory.allocate(bytes)
    }
    fn release(&self, ptr: Ptr) {
        self.memory.release(ptr);
    }
    fn allocated(&self) -> (usize, usize) {
        self.memory.allocated()
    }
    fn write(&self, dst: Ptr, src: &[u8]) -> Result<(), BackendError> {
        self.memory.write(dst, src)
    }
    fn read(&self, dst: &mut [u8], src: Ptr) -> Result<(), BackendError> {
        self.memory.read(dst, src)
    }
    fn zero(&self, dst: Ptr, bytes: usize) {
        self.memory.zero(dst, bytes);
    }
    fn copy(&self, dst: Ptr, src: Ptr, bytes: usize) {
        self.memory.copy(dst, src, bytes);
    }

    fn launch(&self, kernel: Kernel, shape: Shape, args: &[Arg]) {
        if !self.queue.well() {
            return;
        }
        let function = match self.modules.function(&self.queue, kernel, shape.shared) {
            Ok(function) => function,
            Err(error) => return self.queue.fail(error),
        };
        let mut places: Vec<_> = args.iter().map(|a| a.address().cast_mut().cast()).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        // SAFETY: the arguments are those of the kernel's signature and are copied before the call returns; the backend keeps
        // within its buffers.
        let code = unsafe {
            let (stream, places) = (self.queue.stream(), places.as_mut_ptr());
            sys::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shape.shared, stream, places, std::ptr::null_mut())
        };
        self.queue.ordered(code, Order::Kernel(kernel));
    }
    fn product(&self, product: &Product) -> Result<(), Unsupported> {
        self.products.product(product, &|kernel, shape, args| self.launch(kernel, shape, args))
    }
    fn tensor_map(&self, ptr: Ptr, rows: usize, columns: usize, stride: usize, box_rows: u32, box_columns: u32) -> TensorMap {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: writes the map; the arrays have as many numbers as a matrix has dimensions.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                ptr as *mut _,
                [columns as u64, rows as u64].as_ptr(),
                [2 * stride as u64].as_ptr(),
                [box_columns, box_rows].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        if code != sys::CUresult::CUDA_SUCCESS || self.precision != Precision::Bf16 {
            let what = format!("({rows}, {columns}) of stride {stride} in boxes of ({box_rows}, {box_columns})");
            self.queue.fail(device_error(format!("the tensor copy engine takes no matrix {what}: {}", queue::words(code))));
        }
        TensorMap(map.opaque)
    }

    fn region(&self, key: u64, work: &mut dyn FnMut()) {
        self.regions.region(&self.memory, key, work);
    }
    fn read_later(&self, src: Ptr, values: usize) -> Result<Ticket, BackendError> {
        self.late.read_later(src, values)
    }
    fn take(&self, ticket: Ticket) -> Result<Vec<f32>, BackendError> {
        self.late.take(ticket)
    }
    fn mark(&self) -> Result<Mark, BackendError> {
        self.late.mark()
    }
    fn between(&self, from: &Mark, to: &Mark) -> Result<f64, BackendError> {
        self.late.between(from, to)
    }
    fn plans(&self) -> Option<serde_json::Value> {
        self.products.plans.keep();
        Some(self.products.plans.used())
    }
    fn set_plans(&self, plans: &serde_json::Value) -> Result<(), BackendError> {
        self.products.set_plans(plans);
        Ok(())
    }
    fn sync(&self) -> Result<(), BackendError> {
        self.products.plans.keep();
        self.queue.sync()
    }
}
