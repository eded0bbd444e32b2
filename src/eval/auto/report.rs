//! A mix as a table and as JSON.

use super::Mix;
use serde_json::{Value, json};
use std::fmt;

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: f64 = self.groups.iter().map(|g| g.cost).sum();
        writeln!(f, "{:<26} {:>6} {:>12} {:>14} {:>7}", "matrix", "format", "bytes", "divergence", "share")?;
        for g in &self.groups {
            let share = if sum > 0.0 { 100.0 * g.cost / sum } else { 0.0 };
            writeln!(f, "{:<26} {:>6} {:>12} {:>14.3e} {share:>5.1} %", g.name, g.format.name(), g.bytes, g.cost)?;
        }
        writeln!(f, "{:<26} {:>6} {:>12} {:>14.3e}", "all, each by itself", "", self.bytes(), sum)?;
        let d = self.measured.divergence;
        writeln!(
            f,
            "measured as a whole: {:.3e} +- {:.1e} nats a token of at most {:.3e}; all of the finest format: {:.3e}",
            d.mean, d.error, self.bound, self.finest
        )?;
        let ((singles, part), (mixes, whole)) = (self.singles, self.mixes);
        write!(f, "by {singles} single formats on {part} tokens each, {mixes} whole mixes on {whole}")
    }
}

impl Mix {
    /// The same as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let group = |g: &super::Group| json!({"name": g.name, "format": g.format.name(), "bytes": g.bytes, "kl": g.cost});
        let d = self.measured.divergence;
        json!({
            "kl": d.mean, "kl_error": d.error, "max_kl": self.bound, "kl_finest": self.finest,
            "ratio": self.measured.ratio.mean, "same_top": self.measured.same_top.mean, "bytes": self.bytes(),
            "single_formats": self.singles.0, "tokens_each": self.singles.1, "mixes": self.mixes.0, "tokens_of_a_mix": self.mixes.1,
            "groups": self.groups.iter().map(group).collect::<Value>(),
        })
    }
}
