//! From recordings to windows: one rate, one length, one stride, the same in training and in running.

use super::error::DataError;
use super::readings::{Series, UNLABELLED};
use super::resample::{even, resample};
use serde::{Deserialize, Serialize};

/// A pause in a recording longer than this many sampling intervals ends it and begins another.
const GAP: f64 = 5.0;

/// Readings that resampling may make of one, on average. What asks for more has a wrong rate or unit of time in it, and would fill
/// the memory.
const MOST: f64 = 100.0;

/// How windows are cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// The sensor's own rate; `None` where a time column tells it, or where the rows stand for themselves.
    pub rate_hz: Option<f64>,
    /// The rate of the windows; `None` takes the rows as they are.
    pub target_hz: Option<f64>,
    /// Readings of a channel in a window.
    pub window: usize,
    /// Readings from the beginning of a window to that of the next.
    pub stride: usize,
    /// The share of a window's readings that its label must have; a window in which none reaches it is left out of
    /// training.
    pub label_share: f64,
}

/// A stretch of readings at the windows' rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Readings in the sensor's units, a `Vec` of `window` values a channel; a missing one is NaN.
    pub values: Vec<Vec<f32>>,
    /// The readings just before it in the same recording, a `Vec` a channel; as many as were asked for and are there.
    pub before: Vec<Vec<f32>>,
    /// The readings just after it.
    pub after: Vec<Vec<f32>>,
    /// The label its readings agree on.
    pub label: WindowLabel,
    /// The line of the file near which it begins.
    pub line: u64,
}

/// What a window's rows say it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowLabel {
    /// Enough of them agree on this one.
    One(u32),
    /// They have none.
    None,
    /// They do not agree.
    Mixed,
}

impl Sampling {
    /// The windows of a recording's parts in order, each with up to `margin` readings on either side. `names` turns the labels
    /// of the rows into those of the windows.
    #[must_use]
    pub fn cut(&self, parts: &[Part], names: &[u32], margin: usize) -> Vec<Window> {
        let mut out = vec![];
        for part in parts {
            let labels: Vec<u32> = part.labels.iter().map(|&l| names.get(l as usize).copied().unwrap_or(UNLABELLED)).collect();
            let n = part.channels.first().map_or(0, Vec::len);
            let slice = |from: usize, to: usize| part.channels.iter().map(|c| c[from..to].to_vec()).collect();
            let mut start = 0;
            while start + self.window <= n {
                let end = start + self.window;
                let label = self.label(&labels[start..end]);
                // Neighbours serve augmentation; where the label changes they would show something else.
                let same = |i: &usize| labels[*i] == labels[if *i < start { start } else { end - 1 }];
                let left = (start.saturating_sub(margin)..start).rev().take_while(same).count();
                let right = (end..(end + margin).min(n)).take_while(same).count();
                out.push(Window {
                    values: slice(start, end),
                    before: slice(start - left, start),
                    after: slice(end, end + right),
                    label,
                    line: part.lines[start],
                });
                start += self.stride;
            }
        }
        out
    }

    fn label(&self, labels: &[u32]) -> WindowLabel {
        let mut counts: Vec<(u32, usize)> = vec![];
        for &label in labels {
            match counts.iter_mut().find(|c| c.0 == label) {
                Some(c) => c.1 += 1,
                None => counts.push((label, 1)),
            }
        }
        match counts.iter().min_by_key(|c| std::cmp::Reverse(c.1)) {
            Some(&(label, n)) if n as f64 >= self.label_share * labels.len() as f64 => {
                if label == UNLABELLED {
                    WindowLabel::None
                } else {
                    WindowLabel::One(label)
                }
            }
            _ => WindowLabel::Mixed,
        }
    }

    /// The recording at the windows' rate, cut where it pauses.
    pub fn parts(&self, series: &Series) -> Result<Vec<Part>, DataError> {
        if series.is_empty() {
            return Ok(vec![]);
        }
        let Some(target) = self.target_hz else {
            return Ok(vec![Part { channels: series.channels.clone(), labels: series.labels.clone(), lines: series.lines.clone() }]);
        };
        if series.times.is_empty() {
            let rate = self.rate_hz.ok_or_else(|| DataError::recipe("readings need rate_hz or a time column to be resampled"))?;
            if target / rate > MOST {
                let what =
                    format!("resampling from {rate} Hz to {target} makes more than {MOST} readings of each; correct rate_hz or target_hz");
                return Err(DataError::recipe(what));
            }
            return Ok(vec![Part::new(
                series,
                &(0..series.len()).map(|i| i as f64 / rate).collect::<Vec<_>>(),
                &series.channels,
                rate,
                target,
            )]);
        }
        let mut steps: Vec<f64> = series.times.windows(2).map(|t| t[1] - t[0]).collect();
        if steps.is_empty() {
            return Ok(vec![]);
        }
        steps.sort_by(f64::total_cmp);
        let interval = steps[steps.len() / 2];
        if !(interval * target <= MOST && (1.0 / interval).is_finite()) {
            let what = format!(
                "its rows are {interval} s apart, of which {target} Hz would make more than {MOST} each; correct the times, time_unit or target_hz"
            );
            return Err(DataError::line(&series.path, series.lines[0], what));
        }
        let mut parts = vec![];
        let mut first = 0;
        for i in 1..=series.len() {
            if i == series.len() || series.times[i] - series.times[i - 1] > GAP * interval {
                let piece = series.slice(first..i);
                let channels = even(&piece.channels, &piece.times, interval);
                let zero = piece.times[0];
                let times: Vec<f64> = piece.times.iter().map(|t| t - zero).collect();
                parts.push(Part::new(&piece, &times, &channels, 1.0 / interval, target));
                first = i;
            }
        }
        Ok(parts)
    }
}

/// Readings at the windows' rate without a pause.
pub struct Part {
    /// A `Vec` a channel.
    pub channels: Vec<Vec<f32>>,
    /// The label of the nearest row.
    pub labels: Vec<u32>,
    /// The line of the nearest row.
    pub lines: Vec<u64>,
}

impl Part {
    /// `times` are the rows' seconds from the first, `channels` lie on an even grid of `rate`.
    fn new(series: &Series, times: &[f64], channels: &[Vec<f32>], rate: f64, target: f64) -> Self {
        let channels = resample(channels, rate, target);
        let n = channels.first().map_or(0, Vec::len);
        let mut row = 0;
        let nearest: Vec<usize> = (0..n)
            .map(|k| {
                let at = k as f64 / target;
                while row + 1 < times.len() && (times[row + 1] - at).abs() <= (times[row] - at).abs() {
                    row += 1;
                }
                row
            })
            .collect();
        Self {
            channels,
            labels: nearest.iter().map(|&i| series.labels[i]).collect(),
            lines: nearest.iter().map(|&i| series.lines[i]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[u32], times: Vec<f64>) -> Series {
        let n = labels.len();
        Series {
            path: "a.csv".into(),
            id: "1".into(),
            part: String::new(),
            subject: String::new(),
            channels: vec![(0..n).map(|i| i as f32).collect()],
            labels: labels.to_vec(),
            times,
            lines: (2..n as u64 + 2).collect(),
        }
    }

    fn sampling(rate: Option<f64>, target: Option<f64>) -> Sampling {
        Sampling { rate_hz: rate, target_hz: target, window: 4, stride: 2, label_share: 1.0 }
    }

    #[test]
    fn windows_margins_and_labels() {
        let labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
        let cut = |s: Sampling, margin| s.cut(&s.parts(&series(&labels, vec![])).unwrap(), &[0, 1], margin);
        let got = cut(sampling(Some(10.0), None), 3);
        assert_eq!(got.iter().map(|w| w.values[0][0]).collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(got.iter().map(|w| w.line).collect::<Vec<_>>(), [2, 4, 6, 8]);
        use WindowLabel::{Mixed, One};
        assert_eq!(got.iter().map(|w| w.label).collect::<Vec<_>>(), [One(0), One(0), Mixed, One(1)]);
        assert_eq!((got[1].before[0].as_slice(), got[1].after[0].as_slice()), ([0.0, 1.0].as_slice(), [].as_slice()));
        assert_eq!((got[0].before[0].as_slice(), got[0].after[0].as_slice()), ([].as_slice(), [4.0, 5.0].as_slice()));
        assert!(got[3].before[0].is_empty());
        let majority = Sampling { label_share: 0.5, ..sampling(None, None) };
        assert_eq!(cut(majority, 0)[2].label, One(0));
    }

    #[test]
    fn a_pause_ends_a_recording() {
        let mut times: Vec<f64> = (0..20).map(|i| f64::from(i) * 0.1).collect();
        times[10..].iter_mut().for_each(|t| *t += 3.0);
        let got = sampling(None, Some(10.0)).parts(&series(&[UNLABELLED; 20], times)).unwrap();
        assert_eq!(got.iter().map(|p| p.lines.clone()).collect::<Vec<_>>(), [(2..12).collect::<Vec<_>>(), (12..22).collect()]);
    }

    #[test]
    fn rates_that_would_fill_the_memory_are_refused() {
        let parts = |s: Sampling, times: Vec<f64>| s.parts(&series(&[0; 4], times)).map(|p| p.len()).map_err(|e| e.to_string());
        let fast = parts(sampling(Some(1.0), Some(101.0)), vec![]).unwrap_err();
        assert!(fast.contains("from 1 Hz to 101") && fast.contains("rate_hz"), "{fast}");
        assert_eq!(parts(sampling(Some(1.0), Some(100.0)), vec![]), Ok(1));
        for step in [10.1, 1e300, f64::MAX / 3.0, 1e-310] {
            let slow = parts(sampling(None, Some(10.0)), (0..4).map(|i| f64::from(i) * step).collect()).unwrap_err();
            assert!(slow.starts_with("a.csv:2: ") && slow.contains("s apart") && slow.contains("time_unit"), "{slow}");
        }
        // Differences beyond all numbers.
        assert!(parts(sampling(None, Some(10.0)), vec![-1e308, -9e307, 9e307, 1e308]).is_err());
        assert_eq!(parts(sampling(None, Some(10.0)), vec![0.0, 10.0, 20.0, 30.0]), Ok(1));
    }
}
