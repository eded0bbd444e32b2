//! The learning rate over a run: linear warm-up, then a cosine down to a fraction of the peak.

use serde::{Deserialize, Serialize};

/// Warm-up steps of the paper.
pub const PAPER_WARMUP: u64 = 700;

/// A learning rate for every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// Steps over which the rate rises to it.
    pub warmup: u64,
    /// All steps of the run.
    pub steps: u64,
    /// The rate of the last step, as a fraction of the peak.
    pub end_fraction: f64,
}

impl Schedule {
    /// The paper's warm-up for a run of `steps`: 700, or a tenth of a run shorter than 7,000 steps.
    #[must_use]
    pub const fn paper_warmup(steps: u64) -> u64 {
        if steps >= 10 * PAPER_WARMUP { PAPER_WARMUP } else { steps / 10 }
    }

    /// The rate of step `step`, counted from 1.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let falling = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / falling).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.peak * (self.end_fraction + (1.0 - self.end_fraction) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn rises_falls_and_ends_where_it_was_told() {
        let s = Schedule { peak: 6e-4, warmup: 700, steps: 19_073, end_fraction: 0.1 };
        assert_relative_eq!(s.rate(1), 6e-4 / 700.0);
        assert_relative_eq!(s.rate(700), 6e-4);
        assert_relative_eq!(s.rate(19_073), 6e-5);
        assert_relative_eq!(s.rate((700 + 19_073) / 2), 0.55 * 6e-4, max_relative = 1e-3);
        assert!((700..19_073).all(|i| s.rate(i + 1) < s.rate(i)));
    }

    #[test]
    fn short_runs_warm_up_for_a_tenth() {
        assert_eq!((Schedule::paper_warmup(7_000), Schedule::paper_warmup(6_990), Schedule::paper_warmup(9)), (700, 699, 0));
        let s = Schedule { peak: 1.0, warmup: 0, steps: 1, end_fraction: 0.0 };
        assert_relative_eq!(s.rate(1), 0.0);
    }
}
