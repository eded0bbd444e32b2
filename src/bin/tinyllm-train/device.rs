//! Which device to train on, and what fits on it.

use crate::ranges;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tinyllm::backend;
#[cfg(not(target_arch = "aarch64"))]
use tinyllm::backend::cuda::{
    Cuda,
    driver::{DeviceInfo, Precision},
    nvidia, sources,
};
use tinyllm::model::Config;
use tinyllm::train::config::{self, Batch, RunConfig};

/// What `--device` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// An NVIDIA GPU where one answers, else the CPU.
    Auto,
    /// This machine's processor, in f32.
    Cpu,
    /// An NVIDIA GPU, in bf16 with f32 masters.
    Cuda,
}

/// What `--rounding` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rounding {
    /// By chance, right in the mean.
    Stochastic,
    /// To the nearest.
    Nearest,
}

impl From<Rounding> for backend::Rounding {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::Stochastic => Self::Stochastic,
            Rounding::Nearest => Self::Nearest,
        }
    }
}

/// A device that is there.
pub enum Found {
    /// The processor.
    Cpu,
    /// A GPU.
    #[cfg(not(target_arch = "aarch64"))]
    Cuda(Gpu),
}

impl Device {
    /// The device, if it is there; `auto` tells of a GPU that it takes or cannot use.
    pub fn find(self, model: &Config) -> Result<Found> {
        let gpu = || {
            let found = gpu()?;
            say_if_slow(model);
            Ok::<_, anyhow::Error>(found)
        };
        match self {
            Self::Cpu => Ok(Found::Cpu),
            Self::Cuda => gpu(),
            Self::Auto => match gpu() {
                Ok(found) => {
                    eprintln!("device: {}", found.told());
                    Ok(found)
                }
                Err(reason) => {
                    if driver_is_there() {
                        eprintln!("device: this machine's processor, because the GPU cannot be used: {reason:#}");
                    }
                    Ok(Found::Cpu)
                }
            },
        }
    }

    /// The device to go on with a run that began on `began`.
    pub fn for_run(self, began: &str, model: &Config) -> Result<Found> {
        match (self, began) {
            (Self::Auto, "cuda") => gpu().context("this run began on a GPU; --device cpu goes on with it on this machine's processor"),
            (Self::Auto, _) => Ok(Found::Cpu),
            _ => self.find(model),
        }
    }
}

impl Found {
    /// Its name in `config.toml`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(not(target_arch = "aarch64"))]
            Self::Cuda(_) => "cuda",
        }
    }

    /// The device in words.
    pub fn told(&self) -> String {
        match self {
            Self::Cpu => "this machine's processor".into(),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Cuda(gpu) => format!("{} ({:.0} GB of memory)", gpu.info.name, gigabytes(gpu.info.memory)),
        }
    }

    /// The micro-batch that suits it, of a model whose parameters all train.
    pub fn micro_batch(&self, model: &Config, batch: &Batch) -> Result<usize> {
        match self {
            Self::Cpu => Ok(config::cpu_micro_batch(model, batch.ctx)),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Cuda(gpu) => match config::cuda_micro_batch(model, model.parameters(), batch, gpu.usable()) {
                Some(rows) => Ok(rows),
                None => bail!(
                    "{}: not even one row of {} tokens of this model fits into it; take a smaller --model or --ctx, or --recompute",
                    self.told(),
                    batch.ctx
                ),
            },
        }
    }

    /// Refuses a run that the device has no memory for.
    pub fn check_memory(&self, config: &RunConfig) -> Result<()> {
        self.check_batch(&config.model, config.trained(), &config.batch)
    }

    /// Refuses a micro-batch that the device has no memory for, of a model of which `trained` parameters train.
    #[cfg_attr(target_arch = "aarch64", allow(unused_variables))] // `trained` counts on a GPU
    pub fn check_batch(&self, model: &Config, trained: usize, batch: &Batch) -> Result<()> {
        let (asked, free) = match self {
            Self::Cpu => {
                // Without memory the system would end the program without a word.
                let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
                let available =
                    meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok());
                let Some(available) = available else { return Ok(()) };
                (config::activation_bytes(model, batch), available << 10)
            }
            #[cfg(not(target_arch = "aarch64"))]
            Self::Cuda(gpu) => (config::cuda_bytes(model, trained, batch), gpu.free),
        };
        ranges::ensure(asked <= free, || {
            format!(
                "--micro-batch {} x {} tokens: it takes about {:.1} GB and {} has {:.1} GB free; take a smaller one (and more accumulation), or --recompute",
                batch.micro_batch,
                batch.ctx,
                gigabytes(asked),
                self.told(),
                gigabytes(free)
            )
        })?;
        Ok(())
    }
}

/// Kernels take every size, but move 16 bytes at a time where rows allow it.
fn say_if_slow(model: &Config) {
    let (c, f) = (model.n_embd, model.ff());
    if !(c.is_multiple_of(8) && f.is_multiple_of(8) && model.head_dim().is_multiple_of(16)) {
        eprintln!(
            "device: a GPU is far faster where n_embd and n_ff are multiples of 8 and heads have a multiple of 16 channels; these are {c}, {f} and {}",
            model.head_dim()
        );
    }
}

fn gigabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(target_arch = "aarch64")]
fn gpu() -> Result<Found> {
    bail!("this program was built without CUDA: on aarch64 it trains on the processor alone; leave --device out, or --device cpu")
}
#[cfg(target_arch = "aarch64")]
fn driver_is_there() -> bool {
    false
}

/// A GPU that answered.
#[cfg(not(target_arch = "aarch64"))]
pub struct Gpu {
    info: DeviceInfo,
    free: usize,
}

#[cfg(not(target_arch = "aarch64"))]
impl Gpu {
    /// Left to the driver's own needs and to what allocations round up: 5 %.
    const fn usable(&self) -> usize {
        self.free / 20 * 19
    }

    /// Ready to train such a model, the kernels compiled.
    pub fn open(&self, model: &Config, rounding: backend::Rounding) -> Result<Cuda> {
        let units = sources::needed(self.info.arch, Precision::Bf16, model.head_dim());
        let driver = nvidia::open(Precision::Bf16, &units).context("the GPU cannot be used; --device cpu trains without it")?;
        Ok(Cuda::new(driver).with_rounding(rounding))
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn gpu() -> Result<Found> {
    let (info, free) = nvidia::find()?;
    Ok(Found::Cuda(Gpu { info, free }))
}
#[cfg(not(target_arch = "aarch64"))]
fn driver_is_there() -> bool {
    nvidia::driver_is_there()
}
