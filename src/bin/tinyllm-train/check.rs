//! `check`: whether a device computes what it should, on this very machine.

use crate::device::{Device, Found};
use crate::ranges;
use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::json;
use std::time::Instant;
use tinyllm::backend::Backend;
use tinyllm::backend::cpu::Cpu;
#[cfg(not(target_arch = "aarch64"))]
use tinyllm::backend::cuda::{Cuda, driver::Precision, nvidia};
use tinyllm::backend::reference::Reference;
use tinyllm::model::Config;
use tinyllm::train::check::{self, Bars, Checked, Line, Sizes};

/// Holds a device to another one: every kernel, the gradients of whole steps, the same bits twice and after a resume, and ten steps
/// on one batch. A GPU, in f32 and in bf16, is held to this machine's processor; the processor to plain loops in f64.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-train check --device cuda               is this GPU, with this driver, to be trusted?
  tinyllm-train check --device cuda --only attention
  tinyllm-train check --device cpu --json

A line a case: the output that came closest to its bar, how far it was off, the bar, and how many times over its bar an input
that is 1 % off came out, which must be seen. Exit code 1 where a case failed.")]
pub struct Args {
    /// Device to check.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// How large the cases are; real for a GPU, small for a processor, where it is not given.
    #[arg(long, value_enum)]
    sizes: Option<Scale>,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// One JSON object on standard output, the lines on standard error.
    #[arg(long)]
    json: bool,
}

/// What `--sizes` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scale {
    /// Those of the 124m model at 1,024 tokens.
    Real,
    /// Small and ragged.
    Small,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let model = Config { n_vocab: Some(50_257), ..Config::named("124m")? };
        let device = self.device.find(&model)?;
        let scale = self.sizes.unwrap_or(match device {
            Found::Cpu => Scale::Small,
            #[cfg(not(target_arch = "aarch64"))]
            Found::Cuda(_) => Scale::Real,
        });
        let sizes = match scale {
            Scale::Real => Sizes::real(),
            Scale::Small => Sizes::small(),
        };
        if let Some(only) = &self.only {
            let mut names = check::names(&sizes);
            names.sort();
            names.dedup();
            ranges::ensure(names.iter().any(|name| name.contains(only)), || {
                format!("--only {only}: no case is called that; there are: {}", names.join("; "))
            })?;
        }
        let cpu = Cpu::from_env()?;
        match &device {
            Found::Cpu => self.check(&device, &[Checked { precision: "f32", be: cpu, bars: Bars::F32 }], &Reference, &sizes),
            #[cfg(not(target_arch = "aarch64"))]
            Found::Cuda(_) => {
                // Kernels are compiled as they are met: of sizes that no model has, too.
                let open = |precision| nvidia::open(precision, &[]).map(Cuda::new);
                let devices = [
                    Checked { precision: "f32", be: open(Precision::F32)?, bars: Bars::F32 },
                    Checked { precision: "bf16", be: open(Precision::Bf16)?, bars: Bars::BF16 },
                ];
                self.check(&device, &devices, &cpu, &sizes)
            }
        }
    }

    fn check<B, O>(&self, device: &Found, devices: &[Checked<B>], truth: &O, sizes: &Sizes) -> Result<()>
    where
        B: Backend + Clone,
        O: Backend + Clone,
    {
        let start = Instant::now();
        let say = |text: &str| if self.json { eprintln!("{text}") } else { println!("{text}") };
        say(&format!("{} against {}, {} sizes", device.told(), O::NAME, sizes.name));
        say(&format!(
            "{:7} {:24} {:34} {:4} {:42} {:>8} {:>6} {:>8} {:>8}",
            "", "case", "sizes", "", "worst", "off by", "bar", "control", "ms"
        ));
        let lines = check::run(devices, truth, sizes, self.only.as_deref(), &mut |line| say(&told(line)));
        let failed: Vec<&Line> = lines.iter().filter(|line| !line.held()).collect();
        let seconds = start.elapsed().as_secs_f64();
        let verdict = match failed.len() {
            0 => format!("check: {} cases, all held, {seconds:.1} s", lines.len()),
            n => {
                let names: Vec<String> = failed.iter().map(|line| format!("{} ({}, {})", line.case, line.precision, line.sizes)).collect();
                format!("check: {} cases, {n} failed, {seconds:.1} s: {}", lines.len(), names.join("; "))
            }
        };
        say(&verdict);
        if self.json {
            let report = json!({
                "device": device.told(),
                "against": O::NAME,
                "sizes": sizes.name,
                "held": failed.is_empty(),
                "failed": failed.len(),
                "seconds": seconds,
                "cases": lines,
            });
            println!("{report}");
        }
        if !failed.is_empty() {
            bail!("{} of {} cases failed: what this device trains cannot be trusted", failed.len(), lines.len());
        }
        Ok(())
    }
}

/// A line of the table.
fn told(line: &Line) -> String {
    let Line { case, sizes, precision, worst, error, bar, control, seconds, failure } = line;
    let control = control.map_or_else(String::new, |control| format!("{control:.1} x"));
    let mark = if failure.is_some() { "FAILED" } else { "ok" };
    let ms = 1e3 * seconds;
    let row = format!("{mark:7} {case:24} {sizes:34} {precision:4} {worst:42} {error:>8.1e} {bar:>6.0e} {control:>8} {ms:>8.0}");
    failure.as_ref().map_or(row.clone(), |why| format!("{row}\n        {case}, {precision}: {why}"))
}
