//! Typed numbers are held to their ranges before anything runs.

use tinyllm::train::Schedule;

/// Something typed that cannot be meant; the program ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help")]
pub struct Usage(pub String);

type Result<T> = std::result::Result<T, Usage>;

/// `ensure!` for what was typed.
pub fn ensure(good: bool, message: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(Usage(message())) }
}

/// Refuses the first number that does not lie between its two bounds (name, value, least, most); NaN never does.
pub fn check(numbers: &[(&str, f64, f64, f64)]) -> Result<()> {
    for &(name, value, least, most) in numbers {
        ensure((least..=most).contains(&value), || format!("{name} {value}: it must lie between {least} and {most}"))?;
    }
    Ok(())
}

/// Refuses a number that is not above 0, or endless.
pub fn positive(name: &str, value: f64) -> Result<()> {
    ensure(value > 0.0 && value.is_finite(), || format!("{name} {value}: it must be a number above 0"))
}

/// A seed that TOML can hold.
pub fn seed(seed: u64) -> Result<u64> {
    ensure(i64::try_from(seed).is_ok(), || format!("--seed {seed}: it must lie between 0 and {}", i64::MAX))?;
    Ok(seed)
}

/// Tokens of a row, of a model that has positions for `most`.
pub fn ctx(asked: Option<usize>, most: usize) -> Result<usize> {
    let ctx = asked.unwrap_or(most);
    ensure((1..=most).contains(&ctx), || format!("--ctx {ctx}: this model has positions for 1 to {most} tokens"))?;
    Ok(ctx)
}

/// The learning rate of a run of `steps`.
pub fn schedule(lr: f64, warmup: Option<u64>, steps: u64, end_fraction: f64) -> Result<Schedule> {
    check(&[("--steps", steps as f64, 1.0, 1e12), ("--end-fraction", end_fraction, 0.0, 1.0)])?;
    positive("--lr", lr)?;
    let warmup = warmup.unwrap_or(Schedule::paper_warmup(steps));
    ensure(warmup <= steps, || format!("--warmup {warmup}: it must lie between 0 and the run's {steps} steps"))?;
    Ok(Schedule { peak: lr, warmup, steps, end_fraction })
}
