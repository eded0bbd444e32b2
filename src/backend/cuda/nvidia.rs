//! A GPU, through cudarc.

use super::driver::{DeviceInfo, Driver, Precision};
use crate::backend::BackendError;
use std::rc::Rc;

/// Whether this machine has a driver for NVIDIA's GPUs.
#[must_use]
pub fn driver_is_there() -> bool {
    false
}

/// What the first GPU is, and the bytes of its memory that are free.
pub fn find() -> Result<(DeviceInfo, usize), BackendError> {
    Err(BackendError::Device { device: "GPU", message: "no NVIDIA driver answers on this machine (there is no libcuda)".into() })
}

/// The first GPU, ready to run kernels of this precision.
pub fn open(_precision: Precision) -> Result<Rc<dyn Driver>, BackendError> {
    Err(find().expect_err("there is none"))
}
