//! The text of `kernels/`, embedded in the program.

/// Files that kernels include.
pub const HEADERS: [(&str, &str); 4] = [
    ("ptx.cuh", include_str!("../../../kernels/ptx.cuh")),
    ("base.cuh", include_str!("../../../kernels/base.cuh")),
    ("hopper.cuh", include_str!("../../../kernels/hopper.cuh")),
    ("attention_sm90.cuh", include_str!("../../../kernels/attention_sm90.cuh")),
];

/// Kernel files: name without ending, text.
pub const FILES: [(&str, &str); 10] = [
    ("attention_plain", include_str!("../../../kernels/attention_plain.cu")),
    ("attention_sm80", include_str!("../../../kernels/attention_sm80.cu")),
    ("attention_sm90", include_str!("../../../kernels/attention_sm90.cu")),
    ("attention_sm90_backward", include_str!("../../../kernels/attention_sm90_backward.cu")),
    ("classify", include_str!("../../../kernels/classify.cu")),
    ("elements", include_str!("../../../kernels/elements.cu")),
    ("embed", include_str!("../../../kernels/embed.cu")),
    ("norm", include_str!("../../../kernels/norm.cu")),
    ("optimizer", include_str!("../../../kernels/optimizer.cu")),
    ("products", include_str!("../../../kernels/products.cu")),
];

/// The text of a kernel file.
///
/// # Panics
/// If there is none of this name.
#[must_use]
pub fn text(file: &str) -> &'static str {
    FILES.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("kernels/{file}.cu is not embedded")).1
}
