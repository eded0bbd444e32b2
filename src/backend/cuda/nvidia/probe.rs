//! What NVIDIA hardware and libraries this machine has.
//!
//! The libraries are opened at run time, and a call into one that is missing would end the program: each is looked for first.

use super::queue::{device_error, told, words};
use crate::backend::BackendError;
use crate::backend::cuda::driver::DeviceInfo;
use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute, CUresult};
use std::sync::OnceLock;

/// The oldest driver whose functions are all there that are called here: 12.8, as `cuDriverGetVersion` says it.
const OLDEST_DRIVER: i32 = 12_080;
/// bf16 products and asynchronous copies began with Ampere.
const OLDEST_ARCH: u32 = 80;

/// Whether this machine has a driver for NVIDIA's GPUs.
#[must_use]
pub fn driver_is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens and closes the library.
    *THERE.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// The first GPU; its context lives as long as the program.
pub(super) struct Device {
    pub info: DeviceInfo,
    /// The CUDA version that the driver speaks: 13000.
    pub driver: i32,
    /// A `CUcontext`, which any thread may use.
    context: usize,
}

/// 12080 as "12.8".
pub(super) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The first GPU, opened once.
pub(super) fn device() -> Result<&'static Device, BackendError> {
    static DEVICE: OnceLock<Result<Device, BackendError>> = OnceLock::new();
    DEVICE.get_or_init(Device::open).as_ref().map_err(Clone::clone)
}

impl Device {
    fn open() -> Result<Self, BackendError> {
        if !driver_is_there() {
            return Err(device_error("no NVIDIA driver answers on this machine (there is no libcuda); --device cpu trains without one"));
        }
        let mut driver = 0;
        // SAFETY: writes a number.
        told(unsafe { sys::cuDriverGetVersion(&raw mut driver) }, "the NVIDIA driver does not say its version")?;
        if driver < OLDEST_DRIVER {
            return Err(device_error(format!(
                "the NVIDIA driver on this machine speaks CUDA {}, and {} is the oldest that will do: update the driver (570 or newer), or train with --device cpu",
                version(driver),
                version(OLDEST_DRIVER)
            )));
        }
        // SAFETY: must come before all that follows.
        match unsafe { sys::cuInit(0) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(none()),
            code => return Err(device_error(format!("the NVIDIA driver does not start: {}", words(code)))),
        }
        let mut count = 0;
        // SAFETY: writes a number.
        told(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "the NVIDIA driver does not count its devices")?;
        if count == 0 {
            return Err(none());
        }
        let mut device = 0;
        // SAFETY: there is a device 0.
        told(unsafe { sys::cuDeviceGet(&raw mut device, 0) }, "the first GPU")?;
        let attribute = |which: CUdevice_attribute| {
            let mut value = 0;
            // SAFETY: the device is there.
            told(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) }, "a property of the GPU")?;
            Ok::<u32, BackendError>(value.max(0) as u32)
        };
        let mut name = [0u8; 128];
        // SAFETY: the buffer has this many bytes; the driver ends the name with 0.
        told(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 127, device) }, "the GPU's name")?;
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        let arch = 10 * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if arch < OLDEST_ARCH {
            return Err(device_error(format!(
                "the {name} is of compute capability {}.{}, and the kernels need 8.0 (Ampere) or newer; --device cpu trains without it",
                arch / 10,
                arch % 10
            )));
        }
        let mut memory = 0;
        // SAFETY: writes a number.
        told(unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) }, "the GPU's memory")?;
        let info = DeviceInfo {
            name,
            arch,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            memory,
            l2: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        };
        let mut context: CUcontext = std::ptr::null_mut();
        // SAFETY: the device is there. The context is never released: making it anew would take a tenth of a second and more.
        told(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) }, &format!("the {} cannot be used", info.name))?;
        Ok(Self { info, driver, context: context as usize })
    }

    /// Makes it the calling thread's device.
    pub fn enter(&self) -> Result<(), BackendError> {
        // SAFETY: the context is alive.
        told(unsafe { sys::cuCtxSetCurrent(self.context as CUcontext) }, &format!("the {} cannot be used", self.info.name))
    }

    /// Bytes of its memory that nobody has.
    pub fn free(&self) -> Result<usize, BackendError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        told(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }, "the GPU's free memory")?;
        Ok(free)
    }
}

fn none() -> BackendError {
    device_error(
        "there is an NVIDIA driver on this machine but no GPU that it shows to this program (is CUDA_VISIBLE_DEVICES set?); --device cpu trains without one",
    )
}

/// Whether NVRTC can be loaded.
pub(super) fn nvrtc_is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens and closes the library.
    *THERE.get_or_init(|| unsafe { cudarc::nvrtc::sys::is_culib_present() })
}

/// The version of cuBLASLt (130000 is 13.0), if its library is here and this driver can run it.
pub(super) fn cublaslt_version(driver: i32) -> Result<usize, BackendError> {
    static THERE: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens and closes the library.
    if !*THERE.get_or_init(|| unsafe { cudarc::cublaslt::sys::is_culib_present() }) {
        return Err(device_error(format!(
            "there is no libcublasLt: install NVIDIA's CUDA toolkit {0}, or 'pip install nvidia-cublas' and put the folder of libcublasLt.so.{0} into LD_LIBRARY_PATH",
            driver / 1000
        )));
    }
    // SAFETY: the library is there.
    let found = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() };
    let major = (found / 10_000) as i32;
    if major > driver / 1000 {
        return Err(device_error(format!(
            "the driver speaks CUDA {}, but the libcublasLt found is of CUDA {major}: update the NVIDIA driver, or put the folder of a libcublasLt.so.{} first in LD_LIBRARY_PATH",
            version(driver),
            driver / 1000
        )));
    }
    Ok(found)
}
