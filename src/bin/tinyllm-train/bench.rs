//! `bench`: how fast this machine trains a model.

use crate::device::Device;
use crate::ranges;
use anyhow::Result;
use serde_json::json;
use std::time::Instant;
use tinyllm::backend::cpu::Cpu;
use tinyllm::model::{Config, Decoder, HostBatch, init};
use tinyllm::rng::Rng;
use tinyllm::train::{Adam, Learner};

/// Times training steps of a model with random weights on random tokens.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tinyllm-train bench --model 124m --micro-batch 8 --ctx 256 --json")]
pub struct Args {
    /// nano, 30m, 51m, 82m, 102m, 124m, or a TOML file.
    #[arg(long, default_value = "124m")]
    model: String,
    /// Device to measure.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Rows of a step.
    #[arg(long, default_value_t = 8)]
    micro_batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 256)]
    ctx: usize,
    /// Steps to time, after one that is not counted.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// One line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let mut model = Config::named(&self.model)?;
        model.n_vocab.get_or_insert(50_257);
        ranges::check(&[
            ("--ctx", self.ctx as f64, 1.0, model.n_ctx as f64),
            ("--micro-batch", self.micro_batch as f64, 1.0, 1e6),
            ("--steps", self.steps as f64, 1.0, 1e6),
        ])?;
        let (b, t, v) = (self.micro_batch, self.ctx, model.vocab() as u64);
        let spec = Decoder::spec(&model, None);
        let mut learner = Learner::new(Cpu::from_env()?, spec.clone(), &init::initial(&spec, 1), |_| true, b * t, false)?;
        let mut rng = Rng::new(1);
        let mut draw = || (0..b * t).map(|_| rng.below(v) as u32).collect::<Vec<_>>();
        let batch = HostBatch::unbroken(b, t, &draw(), &draw());
        let mut times = Vec::new();
        for step in 0..=self.steps {
            let start = Instant::now();
            learner.step(std::slice::from_ref(&batch), step as u64 + 1, 1e-4, &Adam::default(), 1)?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            if step > 0 {
                times.push(ms);
            }
            if !self.json {
                eprintln!("step {step}: {ms:.0} ms{}", if step == 0 { " (not counted)" } else { "" });
            }
        }
        times.sort_by(f64::total_cmp);
        let ms = times[times.len() / 2];
        let tokens_per_s = (b * t) as f64 / ms * 1e3;
        if self.json {
            let line =
                json!({"model": self.model, "device": "cpu", "micro_batch": b, "ctx": t, "tokens_per_s": tokens_per_s, "ms_per_step": ms});
            println!("{line}");
        } else {
            let millions = model.parameters() as f64 / 1e6;
            println!(
                "{} ({millions:.2} M parameters), {b} x {t} tokens a step: {ms:.0} ms a step, {tokens_per_s:.0} tokens/s (median of {})",
                self.model,
                times.len()
            );
        }
        Ok(())
    }
}
