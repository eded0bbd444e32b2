//! What the fuzz targets share: where seeds go, numbers out of the input, models as bytes, bounds on memory.
//!
//! A target is a file in `targets/`. What it promises is asserted there; a panic is a finding. `scripts/fuzz.sh` builds and runs them.

#[path = "../../common/counting_alloc.rs"]
pub mod counting_alloc;
mod file;
#[path = "../../common/gguf_model.rs"]
#[allow(missing_docs)]
pub mod gguf_model;

pub use file::{File, gpt2};

use std::path::{Path, PathBuf};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;

/// The environment variable that names the folder for seeds.
pub const SEEDS: &str = "TINYLLM_FUZZ_SEEDS";

/// Writes what a target begins from into the folder that [`SEEDS`] names, before libFuzzer reads it.
///
/// # Panics
/// If the folder cannot be written into.
pub fn seeds(make: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os(SEEDS) else { return };
    for (i, bytes) in make().into_iter().enumerate() {
        std::fs::write(Path::new(&dir).join(format!("seed-{i}")), bytes).expect("seeds can be written");
    }
}

/// A path for what is read by name. `scripts/fuzz.sh` has it in memory, and removes it.
#[must_use]
pub fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("tinyllm-fuzz-{}", std::process::id()))
}

/// The input as numbers and bytes; zeros behind its end.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.some(1).first().copied().unwrap_or(0)
    }
    /// A number from `least` to `most`.
    pub fn within(&mut self, least: usize, most: usize) -> usize {
        least + usize::from(self.byte()) % (most - least + 1)
    }
    /// Up to `n` bytes.
    pub fn some(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }
    /// `n` bytes, over and over where there are too few left; all of what was left is used up then.
    pub fn repeated(&mut self, n: usize) -> Vec<u8> {
        let from = self.some(n);
        if from.is_empty() { vec![0; n] } else { from.iter().copied().cycle().take(n).collect() }
    }
}

/// The instruction sets to try.
pub fn isas() -> Vec<Isa> {
    Isa::available()
}

/// The sizes of a model that is as small as its formats allow: some tens of kilobytes.
pub fn small(ty: GgmlType) -> Config {
    let c = ty.block_len().max(4);
    Config { n_embd: c, n_head: 2, n_layer: 1, n_ff: Some(c), n_ctx: 4, n_vocab: Some(261) }
}
