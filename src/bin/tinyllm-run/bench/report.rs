//! What a bench found, as a table and as JSON.

use serde_json::{Map, Value, json};

/// Samples of one figure.
pub struct Figure {
    /// Its name in JSON: `pp512`, `start_ms`.
    pub key: String,
    /// What it is, for people: "prompt of 512".
    pub what: String,
    pub unit: &'static str,
    /// One a trial.
    pub samples: Vec<f64>,
    /// Of one instance, where `samples` are of all together.
    pub each: Option<f64>,
}

impl Figure {
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }
    fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }
    fn most(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

/// What one configuration gave.
pub struct Report {
    /// What the configuration is: `model`, `type`, `threads`, ...
    pub head: Map<String, Value>,
    pub title: String,
    pub figures: Vec<Figure>,
    pub peak_rss_bytes: Option<u64>,
}

impl Report {
    /// One JSON object: every figure's median under its name; under `min` and `max` the least and the most of the trials, under `each`
    /// the median of one instance.
    pub fn json(&self) -> Value {
        let mut all = self.head.clone();
        let of = |value: fn(&Figure) -> Option<f64>| -> Map<String, Value> {
            self.figures.iter().filter_map(|f| Some((f.key.clone(), json!(rounded(value(f)?))))).collect()
        };
        all.extend(of(|f| Some(f.median())));
        all.insert("peak_rss_bytes".into(), json!(self.peak_rss_bytes));
        all.insert("min".into(), of(|f| Some(f.least())).into());
        all.insert("max".into(), of(|f| Some(f.most())).into());
        let each = of(|f| f.each);
        if !each.is_empty() {
            all.insert("each".into(), each.into());
        }
        all.into()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for f in &self.figures {
            let each = f.each.map_or_else(String::new, |each| format!("  each {}", number(each)));
            let spread = format!("({} .. {})", number(f.least()), number(f.most()));
            text += &format!("  {:<34} {:>9} {:<9} {spread:<22}{each}\n", f.what, number(f.median()), f.unit);
        }
        if let Some(bytes) = self.peak_rss_bytes {
            text += &format!("  {:<34} {:>9.1} MB\n", "most memory of a process", bytes as f64 / 1e6);
        }
        text
    }
}

/// Four digits that mean something, or all before the point.
fn number(x: f64) -> String {
    let decimals = match x.abs() {
        x if x >= 1000.0 => 0,
        x if x >= 100.0 => 1,
        x if x >= 10.0 => 2,
        _ => 3,
    };
    format!("{x:.decimals$}")
}

/// Six digits: what lies behind is noise.
fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(5 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_digits() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
        assert_eq!(
            [number(12345.6), number(123.45), number(12.345), number(1.2345)],
            ["12346", "123.5", "12.35", "1.234"].map(String::from)
        );
        assert_eq!((rounded(1234.5678), rounded(0.000_123_456_78)), (1234.57, 0.000_123_457));
    }

    #[test]
    fn json_has_medians_and_spread() {
        let figure =
            Figure { key: "pp512".into(), what: "prompt of 512".into(), unit: "tokens/s", samples: vec![1.0, 3.0, 2.0], each: Some(1.0) };
        let head = Map::from_iter([("threads".to_owned(), json!(2))]);
        let report = Report { head, title: "2 threads".into(), figures: vec![figure], peak_rss_bytes: Some(7_000_000) };
        let want = json!({"threads": 2, "pp512": 2.0, "peak_rss_bytes": 7_000_000, "min": {"pp512": 1.0}, "max": {"pp512": 3.0}, "each": {"pp512": 1.0}});
        assert_eq!(report.json(), want);
        assert!(report.table().contains("prompt of 512") && report.table().contains("7.0 MB"));
    }
}
