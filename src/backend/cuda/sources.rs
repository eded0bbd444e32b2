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
/// Files that are named after an architecture use its tensor cores: they are of bf16 alone, and what `sm90` has is of 9.0 alone.
#[must_use]
pub fn units(arch: u32, precision: Precision, sizes: &[u32]) -> Vec<Unit> {
    let runs = |file: &str| match family(file).1 {
        Kind::Hopper => precision == Precision::Bf16 && arch == 90,
        Kind::Ampere => precision == Precision::Bf16,
        Kind::Plain | Kind::Only => true,
    };
    let each = |&(file, text): &(&'static str, &str)| {
        let sizes = if text.contains("TINYLLM_SIZE") { sizes.to_vec() } else { vec![0] };
        sizes.into_iter().map(move |size| Unit { file, size })
    };
    FILES.iter().filter(|(file, _)| runs(file)).flat_map(each).collect()
}

/// Of [`units`], what a model with heads of `size` channels will most likely run: the best of a family (`attention_plain`,
/// `attention_sm80`, `attention_sm90`), and all that have none. What else it launches is compiled then.
#[must_use]
pub fn needed(arch: u32, precision: Precision, size: usize) -> Vec<Unit> {
    let tensor_cores = size.is_multiple_of(16) && (16..=128).contains(&size);
    let mut units = units(arch, precision, &[size as u32]);
    units.retain(|u| tensor_cores || u.size == 0);
    let best = |of: &str| units.iter().map(|u| family(u.file)).filter(|(family, _)| *family == of).map(|(_, kind)| kind).max();
    let keep: Vec<bool> = units.iter().map(|u| family(u.file)).map(|(of, kind)| kind == Kind::Only || Some(kind) == best(of)).collect();
    units.into_iter().zip(keep).filter_map(|(unit, keep)| keep.then_some(unit)).collect()
}

/// What a file's name says it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `_plain`: any device and size, where nothing better is.
    Plain,
    /// `_sm80`
    Ampere,
    /// `_sm90`
    Hopper,
    /// No such word.
    Only,
}

fn family(file: &str) -> (&str, Kind) {
    let words = [("_plain", Kind::Plain), ("_sm80", Kind::Ampere), ("_sm90", Kind::Hopper)];
    words.iter().find_map(|(word, kind)| Some((&file[..file.find(word)?], *kind))).unwrap_or((file, Kind::Only))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_what_it_can_run() {
        assert_eq!(family("attention_sm90_backward"), ("attention", Kind::Hopper));
        assert_eq!(family("products"), ("products", Kind::Only));
        let files = |arch, precision, size| needed(arch, precision, size).into_iter().map(|u| u.file).collect::<Vec<_>>();
        let has = |files: &[&str], words: &str| files.iter().any(|f| f.contains(words));
        for (arch, precision, size, plain, sm80, sm90) in [
            (80, Precision::Bf16, 64, false, true, false),
            (90, Precision::Bf16, 64, false, false, true),
            (100, Precision::Bf16, 64, false, true, false),
            (90, Precision::F32, 64, true, false, false),
        ] {
            let files = files(arch, precision, size);
            assert_eq!(has(&files, "attention_sm80"), sm80, "{arch} {files:?}");
            assert_eq!((has(&files, "attention_sm90"), has(&files, "attention_plain")), (sm90, plain), "{arch} {files:?}");
            assert!(has(&files, "elements") && has(&files, "norm"));
        }
        assert!(units(90, Precision::Bf16, &[64]).iter().all(|u| u.size == 0 || u.size == 64));
    }
}
