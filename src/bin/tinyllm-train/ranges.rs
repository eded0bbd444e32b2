//! Typed numbers are held to their ranges before anything runs.

use anyhow::{Result, ensure};
use tinyllm::train::Schedule;

/// Refuses the first number that does not lie between its two bounds (name, value, least, most); NaN never does.
pub fn check(numbers: &[(&str, f64, f64, f64)]) -> Result<()> {
    for &(name, value, least, most) in numbers {
        ensure!((least..=most).contains(&value), "{name} {value}: it must lie between {least} and {most}");
    }
    Ok(())
}

/// Refuses a number that is not above 0, or endless.
pub fn positive(name: &str, value: f64) -> Result<()> {
    ensure!(value > 0.0 && value.is_finite(), "{name} {value}: it must be a number above 0");
    Ok(())
}

/// A seed that TOML can hold.
pub fn seed(seed: u64) -> Result<u64> {
    ensure!(i64::try_from(seed).is_ok(), "--seed {seed}: it must lie between 0 and {}", i64::MAX);
    Ok(seed)
}

/// The learning rate of a run of `steps`.
pub fn schedule(lr: f64, warmup: Option<u64>, steps: u64, end_fraction: f64) -> Result<Schedule> {
    check(&[("--steps", steps as f64, 1.0, 1e12), ("--end-fraction", end_fraction, 0.0, 1.0)])?;
    positive("--lr", lr)?;
    let warmup = warmup.unwrap_or(Schedule::paper_warmup(steps));
    ensure!(warmup <= steps, "--warmup {warmup}: it must lie between 0 and the run's {steps} steps");
    Ok(Schedule { peak: lr, warmup, steps, end_fraction })
}
