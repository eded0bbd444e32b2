//! `kernels`: the CUDA kernels compiled ahead, and what they take of a GPU.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use rayon::prelude::*;
use std::path::PathBuf;
use tinyllm::backend::cuda::driver;
use tinyllm::backend::cuda::nvidia::compile::{self, Target};
use tinyllm::backend::cuda::sources::{self, Unit};

/// Compiles the CUDA kernels for other machines; it needs NVRTC (libnvrtc) and no GPU.
#[derive(clap::Args)]
#[command(after_help = "Training compiles what it needs by itself. Where it finds no NVRTC it takes what this wrote: from the folder that
TINYLLM_CUBINS names, or from 'kernels' beside the program.

Example:
  tinyllm-train kernels --arch sm_80,sm_86,sm_89,sm_90a --out kernels")]
pub struct Args {
    /// What to compile for: sm_80 (A100), sm_86, sm_89 (RTX 30, 40), sm_90a (H100, H200), ...
    #[arg(long, value_delimiter = ',', required = true)]
    arch: Vec<String>,
    /// Folder for the results; nothing is written where it is not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Channels of a head to compile attention for.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32, 48, 64, 80, 96, 112, 128])]
    sizes: Vec<u32>,
    /// bf16 trains, f32 checks.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Precision::Bf16, Precision::F32])]
    precision: Vec<Precision>,
    /// Fail where a heavy kernel (attention, optimizer, norm, classifier) has more registers than there are.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    Bf16,
    F32,
}

impl From<Precision> for driver::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
        }
    }
}

/// Files whose kernels move or compute enough that a spilled register costs time.
const HEAVY: [&str; 4] = ["attention", "optimizer", "norm", "classify"];

impl Args {
    pub fn run(self) -> Result<()> {
        let wrong = self.sizes.iter().find(|d| !d.is_multiple_of(16) || !(16..=128).contains(*d));
        ensure!(wrong.is_none(), "--sizes {}: heads have 16, 32, ... 128 channels", wrong.unwrap_or(&0));
        let mut jobs: Vec<(Unit, Target)> = vec![];
        for arch in &self.arch {
            let Some(capability) = Target::capability(arch) else {
                bail!("--arch {arch}: an architecture is written sm_80, sm_90a, ... and 8.0 is the first that has what the kernels need");
            };
            for precision in self.precision.iter().map(|&p| p.into()) {
                let target = Target { arch: arch.clone(), precision };
                jobs.extend(sources::units(capability, precision, &self.sizes).into_iter().map(|unit| (unit, target.clone())));
            }
        }
        let done: Vec<_> = jobs.par_iter().map(|(unit, target)| compile::compile(*unit, target, true)).collect();
        let (mut spilled, mut failed, mut bytes) = (vec![], vec![], 0);
        println!(
            "{:<24} {:<4} {:<8} {:<36} {:>9} {:>7} {:>7} {:>7}",
            "file", "type", "arch", "kernel", "registers", "spilled", "stack", "shared"
        );
        for ((unit, target), compiled) in jobs.iter().zip(done) {
            let compiled = match compiled {
                Ok(compiled) => compiled,
                Err(error) => {
                    failed.push(error.to_string());
                    continue;
                }
            };
            let precision = format!("{:?}", target.precision).to_lowercase();
            for usage in compile::usages(&compiled.log) {
                let compile::Usage { kernel, registers, spilled: bytes, stack, shared } = &usage;
                println!(
                    "{:<24} {precision:<4} {:<8} {kernel:<36} {registers:>9} {bytes:>7} {stack:>7} {shared:>7}",
                    unit.to_string(),
                    target.arch
                );
                if *bytes > 0 && HEAVY.iter().any(|heavy| unit.file.starts_with(heavy)) {
                    spilled.push(format!("{kernel} of {unit} ({precision}, {}): {bytes} bytes", target.arch));
                }
            }
            bytes += compiled.cubin.len();
            if let Some(out) = &self.out {
                compile::keep(out, *unit, target, &compiled.cubin)?;
            }
        }
        failed.dedup();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        println!("{} files compiled, {} kB of code", jobs.len(), bytes / 1000);
        ensure!(!self.strict || spilled.is_empty(), "heavy kernels spill registers:\n{}", spilled.join("\n"));
        Ok(())
    }
}
