//! From a reading in a sensor's units to a level, and the ranges that are fitted for it.

use serde::{Deserialize, Serialize};

/// One channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// What stands before its readings.
    pub name: String,
    /// The sensor it belongs to.
    pub sensor: String,
    /// The unit of the raw readings; may be empty.
    pub unit: String,
    /// Which readings become the lowest and the highest level.
    pub scale: Scale,
    /// Whether levels are even in `sign(x) ln(1 + |x|)` instead of in x: light, sound, proximity.
    #[serde(default)]
    pub log: bool,
    /// Whether the readings change their sign when the sensor is worn on the other side of the body.
    #[serde(default)]
    pub mirrored: bool,
}

/// Which readings become the lowest and the highest level. What lies outside is clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scale {
    /// Always these two.
    Range {
        /// Level 0.
        lo: f64,
        /// The highest level.
        hi: f64,
    },
    /// The window's own smallest and largest, over all channels with the same number.
    Window {
        /// The group.
        group: usize,
    },
}

impl Channel {
    /// The level, 0 to `levels`, of a reading between `lo` and `hi`, and whether it had to be clipped.
    #[must_use]
    pub fn level(&self, levels: u32, (lo, hi): (f64, f64), reading: f32) -> (u32, bool) {
        let bend = |x: f64| if self.log { x.signum() * x.abs().ln_1p() } else { x };
        let (x, lo, hi) = (bend(f64::from(reading)), bend(lo), bend(hi));
        if lo == hi {
            return (levels / 2, x != lo);
        }
        let top = f64::from(levels);
        let level = ((x - lo) / (hi - lo) * top).round();
        (level.clamp(0.0, top) as u32, !(0.0..=top).contains(&level))
    }
}

/// The range of each channel in a window.
#[must_use]
pub fn ranges(channels: &[Channel], window: &[Vec<f32>]) -> Vec<(f64, f64)> {
    let own = |wanted: usize| {
        let members = channels.iter().zip(window).filter(|(c, _)| matches!(c.scale, Scale::Window { group } if group == wanted));
        let readings = members.flat_map(|(_, values)| values).filter(|v| !v.is_nan()).map(|&v| f64::from(v));
        readings.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
    };
    let range = |c: &Channel| match c.scale {
        Scale::Range { lo, hi } => (lo, hi),
        Scale::Window { group } => own(group),
    };
    channels.iter().map(range).collect()
}

/// The range from the 0.1th to the 99.9th percentile of some readings, widened to four digits; missing ones are left out.
/// `None` if there is none.
#[must_use]
pub fn robust_range(mut readings: Vec<f32>) -> Option<(f64, f64)> {
    readings.retain(|v| !v.is_nan());
    let n = readings.len();
    if n == 0 {
        return None;
    }
    readings.sort_unstable_by(f32::total_cmp);
    // The nearest rank inwards of each end.
    let cut = ((n - 1) as f64 * 0.001).round() as usize;
    let (lo, hi) = (f64::from(readings[cut]), f64::from(readings[n - 1 - cut]));
    let unit = 10f64.powi((hi - lo).abs().max(f64::MIN_POSITIVE).log10().floor() as i32 - 3);
    // In steps of a thousandth of the width; dividing by a whole power of ten keeps the decimals short.
    let round = |x: f64, f: fn(f64) -> f64| if unit < 1.0 { f(x / unit) / (1.0 / unit).round() } else { f(x / unit) * unit };
    // A hundredth of a step is forgiven: 0.009 in single precision lies just below 0.009.
    let wide = (round(lo, |x| (x + 0.01).floor()), round(hi, |x| (x - 0.01).ceil()));
    Some(if lo == hi || !wide.0.is_finite() || !wide.1.is_finite() { (lo, hi) } else { wide })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robust_ranges() {
        let readings: Vec<f32> = (0..10_000).map(|i| i as f32 / 1000.0).chain([f32::NAN, 1e9, -1e9]).collect();
        assert_eq!(robust_range(readings), Some((0.009, 9.99)));
        assert_eq!(robust_range(vec![2.5; 7]), Some((2.5, 2.5)));
        assert_eq!(robust_range(vec![1000.0, 101_325.0]), Some((1000.0, 101_400.0)));
        assert_eq!(robust_range(vec![f32::NAN]), None);
    }
}
