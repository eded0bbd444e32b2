//! `bench`: how fast a device trains a model, and what each kernel takes beside its floor.

mod peaks;
mod report;
mod table;

use crate::device::{Device, Found};
use crate::ranges;
use anyhow::{Context, Result};
use report::Report;
use serde_json::{Value, json};
use std::time::Instant;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::{Backend, Blank, Ceilings, ceilings};
use tinyllm::model::{Config, Lora, Target};
use tinyllm::train::bench::{Load, families, median};
use tinyllm::train::config::Batch;

/// Times training steps of a model with random weights on random tokens, and every kernel beside the least it could take.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-train bench --model 124m --device cuda --json
  tinyllm-train bench --model 30m --device cpu --micro-batch 4 --ctx 256
  tinyllm-train bench --model 124m --floors                what each kernel could take at best on an H200

A floor is what a kernel's products take at the rate of a large matrix product, or its bytes at that of a large copy or sum, whichever
is more; both rates are measured on the device. Times of kernels are taken in steps of their own, the step's time without marks.")]
pub struct Args {
    /// nano, 30m, 51m, 82m, 102m, 124m, or a TOML file.
    #[arg(long, default_value = "124m")]
    model: String,
    /// Device to measure.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Rows that go through the model together; 8 on a CPU, what fits, up to 65,536 tokens, on a GPU.
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Tokens of a row; 256 on a CPU, up to 1,024 on a GPU.
    #[arg(long)]
    ctx: Option<usize>,
    /// Micro-batches of a step.
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
    /// Steps to time, after some that are not counted; 5 on a CPU, 20 on a GPU.
    #[arg(long)]
    steps: Option<usize>,
    /// Train adapters of this rank on all matrices instead of the weights.
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,
    /// Compute activations again on the way back.
    #[arg(long)]
    recompute: bool,
    /// Share of the rows whose next token counts, as in fine-tuning on responses alone; one row at least.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    counted: f64,
    /// Time the step alone.
    #[arg(long, conflicts_with = "floors")]
    no_kernels: bool,
    /// Run nothing: print the floor of each kernel for a device that trains in bf16 at --rate and --bandwidth.
    #[arg(long, conflicts_with_all = ["device", "steps"])]
    floors: bool,
    /// With --floors: what a large matrix product reaches. The default was measured on an H200.
    #[arg(long, value_name = "TFLOP/S", default_value_t = 790.0, requires = "floors")]
    rate: f64,
    /// With --floors: what a large copy reaches, read and written. The default was measured on an H200.
    #[arg(long, value_name = "TB/S", default_value_t = 4.3, requires = "floors")]
    bandwidth: f64,
    /// One line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Sizes of the measurements that floors come from: several times what caches hold, and products large enough to be at their best.
struct Probe {
    /// Rows of the square matrices.
    side: usize,
    /// Bytes copied and summed.
    bytes: usize,
}
const CPU_PROBE: Probe = Probe { side: 1536, bytes: 256 << 20 };
#[cfg(not(target_arch = "aarch64"))]
const GPU_PROBE: Probe = Probe { side: 8192, bytes: 512 << 20 };
/// Steps in which kernels are timed one by one.
const PROFILED: usize = 3;
/// Tokens of a micro-batch whose floors are asked for without more: the paper's.
const FLOOR_ROWS: usize = 65_536;

impl Args {
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let mut model = Config::named(&self.model)?;
        model.n_vocab.get_or_insert(50_257);
        ranges::check(&[
            ("--ctx", self.ctx.unwrap_or(1) as f64, 1.0, model.n_ctx as f64),
            ("--micro-batch", self.micro_batch.unwrap_or(1) as f64, 1.0, 1e6),
            ("--accumulate", self.accumulate as f64, 1.0, 1e6),
            ("--steps", self.steps.unwrap_or(1) as f64, 1.0, 1e6),
            ("--lora-rank", self.lora_rank.unwrap_or(1) as f64, 1.0, model.n_embd as f64),
            ("--counted", self.counted, 0.0, 1.0),
        ])?;
        ranges::positive("--rate", self.rate)?;
        ranges::positive("--bandwidth", self.bandwidth)?;
        if self.floors {
            let ctx = self.ctx.unwrap_or(model.n_ctx.min(1024));
            let rows = self.micro_batch.unwrap_or((FLOOR_ROWS / ctx).max(1));
            self.print_floors(&self.load(model, rows, ctx));
            return Ok(());
        }
        let device = self.device.find(&model)?;
        let load = self.load_on(&device, model)?;
        device.check_batch(&load.model, load.trained(), &load.batch)?;
        match &device {
            Found::Cpu => self.measure(Cpu::from_env()?, &load, &processor(), &CPU_PROBE, 5, start),
            #[cfg(not(target_arch = "aarch64"))]
            Found::Cuda(gpu) => {
                let be = gpu.open(&load.model, tinyllm::backend::Rounding::default())?;
                let name = be.info().name.clone();
                self.measure(be, &load, &name, &GPU_PROBE, 20, start)
            }
        }
    }

    fn load(&self, model: Config, micro_batch: usize, ctx: usize) -> Load {
        let lora = self.lora_rank.map(|rank| Lora { rank, alpha: 2.0 * rank as f64, dropout: 0.1, targets: Target::ALL.to_vec() });
        let batch = Batch {
            ctx,
            micro_batch,
            accumulate: self.accumulate,
            prompt_loss_weight: 0.0,
            augment: None,
            within_documents: false,
            recompute: self.recompute,
        };
        Load { model, lora, batch, counted: self.counted }
    }

    /// The load, what was not said chosen for the device.
    fn load_on(&self, device: &Found, model: Config) -> Result<Load> {
        let on_cpu = matches!(device, Found::Cpu);
        let ctx = self.ctx.unwrap_or(model.n_ctx.min(if on_cpu { 256 } else { 1024 }));
        let mut load = self.load(model, 1, ctx);
        load.batch.micro_batch = match self.micro_batch {
            Some(rows) => rows,
            None if on_cpu => 8,
            None => device.micro_batch(&load.model, &load.batch)?,
        };
        Ok(load)
    }

    fn measure<B: Backend + Clone>(&self, be: B, load: &Load, name: &str, probe: &Probe, steps: usize, start: Instant) -> Result<()> {
        let steps = self.steps.unwrap_or(steps);
        let timing = load.time(be.clone(), steps, &mut |step, ms, counts| {
            eprintln!("step {step}: {ms:.1} ms{}", if counts { "" } else { " (not counted)" });
        })?;
        // Before anything else takes memory.
        let peak_bytes = be.peak_bytes().or_else(peak_of_program);
        let vendor = peaks::vendor(name);
        let wants_rate = vendor.is_none() || !self.no_kernels;
        let rate = wants_rate.then(|| ceilings::product(&be, probe.side)).transpose()?;
        let kernels = match rate {
            Some(flops_per_s) if !self.no_kernels => {
                let bytes_per_s = ceilings::memory(&be, probe.bytes)?;
                eprintln!("timing kernels one by one");
                let calls = load.profile(be.clone(), PROFILED)?;
                // Once more: on a machine that others use, too, a ceiling may have been taken in a bad moment.
                let ceilings = Ceilings {
                    flops_per_s: flops_per_s.max(ceilings::product(&be, probe.side)?),
                    bytes_per_s: bytes_per_s.max(ceilings::memory(&be, probe.bytes)?),
                };
                Some((families(&calls, &ceilings), ceilings))
            }
            _ => None,
        };
        let best = kernels.as_ref().map(|(_, ceilings)| ceilings.flops_per_s);
        let report = Report {
            setting: self.setting(load),
            load,
            device: B::NAME,
            name,
            precision: precision(be.widths().buf),
            first_step_ms: (timing.first_step - start).as_secs_f64() * 1e3,
            step_ms: median(timing.steps),
            peak_flops_per_s: vendor.or(best).or(rate).context("no peak to hold the speed against")?,
            vendor: vendor.is_some(),
            peak_bytes,
            kernels,
        };
        if self.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.text());
        }
        Ok(())
    }

    /// Floors alone: a device that nobody has at hand, in bf16 with f32 masters.
    fn print_floors(&self, load: &Load) {
        let ceilings = Ceilings { flops_per_s: self.rate * 1e12, bytes_per_s: self.bandwidth * 1e12 };
        let (setting, families) = (self.setting(load), families(&[load.count(Blank::default().widths)], &ceilings));
        if self.json {
            println!("{}", report::floors_json(&setting, load, &families, &ceilings));
        } else {
            print!("{}", report::floors_text(&setting, load, &families, &ceilings));
        }
    }

    /// What was asked for, as far as it decides the numbers.
    fn setting(&self, load: &Load) -> Value {
        json!({
            "model": self.model,
            "parameters": load.model.parameters(),
            "trained": load.trained(),
            "micro_batch": load.batch.micro_batch,
            "ctx": load.batch.ctx,
            "accumulate": load.batch.accumulate,
            "lora_rank": self.lora_rank,
            "recompute": self.recompute,
            "counted": self.counted,
        })
    }
}

const fn precision(bytes: usize) -> &'static str {
    match bytes {
        2 => "bf16",
        4 => "f32",
        _ => "f64",
    }
}

/// The processor's name, where the system tells it, and how many threads work.
fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    format!("{}, {} threads", name.as_deref().unwrap_or("this machine's processor"), rayon::current_num_threads())
}

/// The most memory that this program has held, where the system tells it.
fn peak_of_program() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: usize = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kib << 10)
}
