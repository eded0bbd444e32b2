//! Compiled kernels on the device: found ready, on disk, or compiled, and loaded when first launched.

use super::compile::{self, Target, Version};
use super::queue::{Queue, device_error, told, words};
use super::{cache, probe};
use crate::backend::BackendError;
use crate::backend::cuda::driver::{Kernel, Precision};
use crate::backend::cuda::sources::Unit;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule, CUresult};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where machine code comes from.
pub(super) struct Codes {
    capability: u32,
    precision: Precision,
    driver: i32,
    nvrtc: Option<Version>,
    ready: Vec<PathBuf>,
    cache: Option<PathBuf>,
}

impl Codes {
    pub fn new(device: &probe::Device, precision: Precision) -> Self {
        let (ready, cache) = (cache::ready_folders(), cache::folder());
        Self { capability: device.info.arch, precision, driver: device.driver, nvrtc: compile::nvrtc(), ready, cache }
    }

    /// Whether code can be had at all: NVRTC that suits the driver, or ready code of one file at least.
    pub fn check(&self) -> Result<(), BackendError> {
        match self.compiler() {
            Ok(_) => Ok(()),
            Err(_) if self.ready(Unit { file: "elements", size: 0 }).is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The compiler, if its code runs on this driver: code runs on drivers of its own major version and later ones.
    fn compiler(&self) -> Result<Version, BackendError> {
        let found = self.nvrtc.ok_or_else(|| device_error(compile::how_to_get_nvrtc()))?;
        if found.0 > self.driver / 1000 {
            return Err(device_error(format!(
                "the driver speaks CUDA {}, and NVRTC {}.{} makes code for CUDA {} drivers: update the NVIDIA driver (580 or newer for CUDA 13), or put the folder of a libnvrtc.so.{1} of CUDA {} first in LD_LIBRARY_PATH ('pip install nvidia-cuda-nvrtc-cu12')",
                probe::version(self.driver),
                found.0,
                found.1,
                found.0,
                self.driver / 1000
            )));
        }
        Ok(found)
    }

    fn ready(&self, unit: Unit) -> Option<Vec<u8>> {
        compile::runnable_archs(self.capability).into_iter().find_map(|arch| {
            let stem = Target { arch, precision: self.precision }.stem(unit, None);
            self.ready.iter().find_map(|folder| cache::find(folder, &stem))
        })
    }

    /// The code of a unit. Any thread may ask.
    pub fn code(&self, unit: Unit) -> Result<Vec<u8>, BackendError> {
        if let Some(cubin) = self.ready(unit) {
            return Ok(cubin);
        }
        let version = self.compiler()?;
        let target = Target { arch: compile::arch_for(self.capability)?, precision: self.precision };
        let stem = target.stem(unit, Some(version));
        if let Some(cubin) = self.cache.as_ref().and_then(|folder| cache::find(folder, &stem)) {
            return Ok(cubin);
        }
        let cubin = compile::compile(unit, &target, false)?.cubin;
        if let Some(folder) = &self.cache
            && let Err(error) = cache::store(folder, &stem, &cubin)
        {
            static SAID: Once = Once::new();
            SAID.call_once(|| eprintln!("compiled kernels cannot be kept, so that each start compiles them: {error}"));
        }
        Ok(cubin)
    }
}

struct Function {
    raw: CUfunction,
    /// Bytes of dynamic shared memory that it may have.
    shared: Cell<u32>,
}

/// Code on the device.
pub(super) struct Modules {
    codes: Codes,
    modules: RefCell<HashMap<Unit, CUmodule>>,
    functions: RefCell<HashMap<Kernel, Function>>,
}

impl Modules {
    pub fn new(codes: Codes) -> Self {
        Self { codes, modules: RefCell::default(), functions: RefCell::default() }
    }

    /// Gets the code of several units at once, and loads it.
    pub fn prefetch(&self, units: &[Unit]) -> Result<(), BackendError> {
        let (next, codes) = (AtomicUsize::new(0), &self.codes);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(units.len());
        let worker = || {
            let mut done = vec![];
            while let Some(&unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((unit, codes.code(unit)));
            }
            done
        };
        let done: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            started.into_iter().flat_map(|t| t.join().expect("compiling does not panic")).collect()
        });
        for (unit, code) in done {
            self.load(unit, &code?)?;
        }
        Ok(())
    }

    fn load(&self, unit: Unit, code: &[u8]) -> Result<CUmodule, BackendError> {
        let mut module = std::ptr::null_mut();
        // SAFETY: a whole cubin, which carries its own length; the context is current. Modules live as long as the context.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, code.as_ptr().cast()) };
        if code != CUresult::CUDA_SUCCESS {
            return Err(device_error(format!("the code of kernels/{}.cu does not load on this GPU: {}", unit.file, words(code))));
        }
        self.modules.borrow_mut().insert(unit, module);
        Ok(module)
    }

    fn find(&self, queue: &Queue, kernel: Kernel) -> Result<Function, BackendError> {
        let unit = Unit { file: kernel.file, size: kernel.size };
        let loaded = self.modules.borrow().get(&unit).copied();
        let module = match loaded {
            Some(module) => module,
            None => {
                let code = self.codes.code(unit)?;
                queue.relaxed(|| self.load(unit, &code))?
            }
        };
        let (mut raw, name) = (std::ptr::null_mut(), CString::new(kernel.name).expect("a name without zero bytes"));
        // SAFETY: the module is loaded and the name ends with 0.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut raw, module, name.as_ptr()) };
        told(code, &format!("kernels/{}.cu has no {}", kernel.file, kernel.name))?;
        Ok(Function { raw, shared: Cell::new(48 << 10) })
    }

    /// A kernel that may have `shared` bytes of dynamic shared memory.
    pub fn function(&self, queue: &Queue, kernel: Kernel, shared: u32) -> Result<CUfunction, BackendError> {
        let mut functions = self.functions.borrow_mut();
        let function = match functions.entry(kernel) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => empty.insert(self.find(queue, kernel)?),
        };
        if shared > function.shared.get() {
            let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let code = unsafe { sys::cuFuncSetAttribute(function.raw, which, shared as i32) };
            told(code, &format!("{} bytes of shared memory for {} of kernels/{}.cu", shared, kernel.name, kernel.file))?;
            function.shared.set(shared);
        }
        Ok(function.raw)
    }
}
