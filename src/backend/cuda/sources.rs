//! The text of `kernels/`, embedded in the program.

use super::driver::Precision;
use std::fmt;

/// What is compiled by itself: a kernel file, for one size where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit {
    /// The file, without its ending.
    pub file: &'static str,
    /// `TINYLLM_SIZE`; 0 for a file that has none.
    pub size: u32,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            0 => f.write_str(self.file),
            size => write!(f, "{}-{size}", self.file),
        }
    }
}

/// What runs on a device of this compute capability (10 major + minor) in this precision, with heads of these channels.
///
/// Files whose name ends in an architecture use its tensor cores: they are of bf16 alone, and `sm90`'s instructions are of 9.0
/// alone.
#[must_use]
pub fn units(arch: u32, precision: Precision, sizes: &[u32]) -> Vec<Unit> {
    let runs = |file: &str| match (file.ends_with("_sm90"), file.ends_with("_sm80")) {
        (true, _) => precision == Precision::Bf16 && arch == 90,
        (_, true) => precision == Precision::Bf16,
        _ => true,
    };
    let sized = |text: &str| text.contains("TINYLLM_SIZE");
    let each = |&(file, text): &(&'static str, &str)| {
        let sizes = if sized(text) { sizes.to_vec() } else { vec![0] };
        sizes.into_iter().map(move |size| Unit { file, size })
    };
    FILES.iter().filter(|(file, _)| runs(file)).flat_map(each).collect()
}

/// Of [`units`], what a model with heads of `size` channels will most likely run: the best of a family (`attention_plain`,
/// `attention_sm80`, `attention_sm90`), and all that have no family. What else it launches is compiled then.
#[must_use]
pub fn needed(arch: u32, precision: Precision, size: usize) -> Vec<Unit> {
    let tensor_cores = size.is_multiple_of(16) && (16..=128).contains(&size);
    let mut units = units(arch, precision, &[size as u32]);
    units.retain(|u| tensor_cores || u.size == 0);
    let all = units.clone();
    let there = |family: &str, kind: &str| all.iter().any(|u| u.file.strip_prefix(family) == Some(kind));
    units.retain(|u| match (u.file.strip_suffix("_plain"), u.file.strip_suffix("_sm80")) {
        (Some(family), _) => !there(family, "_sm80") && !there(family, "_sm90"),
        (_, Some(family)) => !there(family, "_sm90"),
        _ => true,
    });
    units
}

/// Files that kernels include.
pub const HEADERS: [(&str, &str); 3] = [
    ("ptx.cuh", include_str!("../../../kernels/ptx.cuh")),
    ("base.cuh", include_str!("../../../kernels/base.cuh")),
    ("hopper.cuh", include_str!("../../../kernels/hopper.cuh")),
];

/// Kernel files: name without ending, text.
pub const FILES: [(&str, &str); 10] = [
    ("attention_plain", include_str!("../../../kernels/attention_plain.cu")),
    ("attention_sm80", include_str!("../../../kernels/attention_sm80.cu")),
    ("attention_sm90", include_str!("../../../kernels/attention_sm90.cu")),
    ("classify", include_str!("../../../kernels/classify.cu")),
    ("elements", include_str!("../../../kernels/elements.cu")),
    ("embed", include_str!("../../../kernels/embed.cu")),
    ("norm", include_str!("../../../kernels/norm.cu")),
    ("optimizer", include_str!("../../../kernels/optimizer.cu")),
    ("products", include_str!("../../../kernels/products.cu")),
    ("products_sm90", include_str!("../../../kernels/products_sm90.cu")),
];

/// The text of a kernel file.
///
/// # Panics
/// If there is none of this name.
#[must_use]
pub fn text(file: &str) -> &'static str {
    FILES.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("kernels/{file}.cu is not embedded")).1
}
