//! Which readings train, which validate, which test. This comes before anything is cut into windows, so that windows of
//! different splits share no reading.

use super::error::DataError;
use super::readings::{Recordings, Series, UNLABELLED};
use super::recipe::{Name, SplitBy, SplitSpec};
use super::resample::resampled_len;
use super::sampling::Sampling;
use crate::rng::{Rng, key_of};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Seen in training.
    Train,
    /// Chooses among trained states.
    Validation,
    /// Seen once, at the end.
    Test,
}

impl Split {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// As files and options call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl std::str::FromStr for Split {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| format!("'{text}' is no split; there are train, validation and test"))
    }
}

/// How data are split.
#[derive(Clone, Debug)]
pub struct Splitter {
    /// What is kept together.
    pub by: SplitBy,
    /// Shares of training, validation and test.
    pub fractions: [f64; 3],
    /// The subjects of each, where they are listed.
    pub subjects: Option<[Vec<String>; 3]>,
    /// Subjects that are left out.
    pub exclude: Vec<String>,
    /// Decides what falls where.
    pub seed: u64,
}

/// Rows of one recording that belong to one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they belong.
    pub split: Split,
    /// Which of the recordings.
    pub series: usize,
    /// Which rows of it.
    pub rows: Range<usize>,
}

/// Shares of training, validation and test where a recipe gives none.
pub const DEFAULT_FRACTIONS: [f64; 3] = [0.7, 0.1, 0.2];

impl Splitter {
    /// What a recipe's `[split]` says, if it can be followed.
    pub fn check(spec: &SplitSpec, seed: u64) -> Result<Self, DataError> {
        let fault = |message: String| Err(DataError::Recipe(message));
        let names = |list: &[Name]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let subjects = match (&spec.train, &spec.validation, &spec.test) {
            (None, None, None) => None,
            (Some(a), Some(b), Some(c)) => {
                if spec.by != SplitBy::Subject || spec.fractions.is_some() {
                    return fault(
                        "split.train, validation and test list subjects: they go with by = \"subject\" and without fractions".into(),
                    );
                }
                Some([names(a), names(b), names(c)])
            }
            _ => return fault("split needs all of train, validation and test, or fractions".into()),
        };
        let exclude = names(&spec.exclude);
        let mut all: Vec<&String> = subjects.iter().flatten().flatten().chain(&exclude).collect();
        all.sort();
        if let Some(twice) = all.windows(2).find(|w| w[0] == w[1]) {
            return fault(format!("split: subject '{}' is listed twice; windows of one subject belong to one split", twice[0]));
        }
        let fractions = spec.fractions.unwrap_or(DEFAULT_FRACTIONS);
        if fractions.iter().any(|f| !(0.0..=1.0).contains(f)) || (fractions.iter().sum::<f64>() - 1.0).abs() > 1e-6 || fractions[0] == 0.0 {
            return fault(format!("split.fractions = {fractions:?}: training, validation and test shares that sum to 1"));
        }
        Ok(Self { by: spec.by, fractions, subjects, exclude, seed })
    }

    /// Where the rows of some recordings belong. Rows of excluded subjects belong nowhere.
    pub fn pieces(&self, recordings: &Recordings, sampling: &Sampling) -> Result<Vec<Piece>, DataError> {
        let series = &recordings.series;
        let whole = |i: usize, split: Split| Piece { split, series: i, rows: 0..series[i].len() };
        let kept: Vec<usize> = (0..series.len()).filter(|&i| !self.exclude.contains(&series[i].subject)).collect();
        let pieces: Vec<Piece> = match self.by {
            SplitBy::Subject => {
                let of = self.by_subject(&kept.iter().map(|&i| series[i].subject.as_str()).collect())?;
                kept.iter().map(|&i| whole(i, of[series[i].subject.as_str()])).collect()
            }
            SplitBy::Series => {
                let labels: Vec<u32> = kept.iter().map(|&i| majority(&series[i].labels)).collect();
                kept.iter().zip(self.deal(&labels)).map(|(&i, split)| whole(i, split)).collect()
            }
            SplitBy::Time => kept.iter().flat_map(|&i| self.by_time(i, series[i].len())).collect(),
            SplitBy::Random => self.by_stretch(&kept, series, sampling),
        };
        Ok(pieces.into_iter().filter(|p| !p.rows.is_empty()).collect())
    }

    fn by_subject<'a>(&self, present: &BTreeSet<&'a str>) -> Result<BTreeMap<&'a str, Split>, DataError> {
        if let Some(lists) = &self.subjects {
            let all: Vec<&str> = present.iter().copied().collect();
            if let Some(absent) = lists.iter().flatten().find(|s| !present.contains(s.as_str())) {
                return Err(DataError::recipe(format!(
                    "split lists subject '{absent}', whom the data do not hold; they hold: {}",
                    all.join(", ")
                )));
            }
            let find = |s: &'a str| {
                let split = Split::ALL.into_iter().zip(lists).find(|(_, l)| l.iter().any(|x| x == s)).map(|(split, _)| split);
                let message = || DataError::recipe(format!("subject '{s}' is in no list of [split]; add it to one, or to exclude"));
                Ok((s, split.ok_or_else(message)?))
            };
            return present.iter().copied().map(find).collect();
        }
        let dealt = self.deal(&vec![0; present.len()]);
        Ok(present.iter().copied().zip(dealt).collect())
    }

    fn by_time(&self, series: usize, n: usize) -> [Piece; 3] {
        let [a, b, _] = self.fractions;
        let (a, b) = ((n as f64 * a).round() as usize, (n as f64 * (a + b)).round() as usize);
        let b = b.clamp(a, n);
        [(Split::Train, 0..a), (Split::Validation, a..b), (Split::Test, b..n)].map(|(split, rows)| Piece { split, series, rows })
    }

    /// Stretches as long as a window; neighbours that fall to one split become one piece again.
    fn by_stretch(&self, kept: &[usize], series: &[Series], sampling: &Sampling) -> Vec<Piece> {
        let mut stretches = vec![];
        for &i in kept {
            let rows = sampling.rows(&series[i]);
            let n = series[i].len();
            // What is left at the end belongs to the last stretch.
            let count = (n / rows).max(1);
            stretches.extend((0..count).map(|k| (i, k * rows..if k + 1 == count { n } else { (k + 1) * rows })));
        }
        let labels: Vec<u32> = stretches.iter().map(|(i, rows)| majority(&series[*i].labels[rows.clone()])).collect();
        let mut out: Vec<Piece> = vec![];
        for ((series, rows), split) in stretches.into_iter().zip(self.deal(&labels)) {
            match out.last_mut() {
                Some(last) if last.series == series && last.split == split => last.rows.end = rows.end,
                _ => out.push(Piece { split, series, rows }),
            }
        }
        out
    }

    /// Deals units out at random in the given shares, the units of each label for themselves.
    pub fn deal(&self, labels: &[u32]) -> Vec<Split> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, &label) in labels.iter().enumerate() {
            groups.entry(label).or_default().push(i);
        }
        let mut out = vec![Split::Train; labels.len()];
        for (label, mut units) in groups {
            Rng::new(key_of(self.seed, &format!("split {label}"))).shuffle(&mut units);
            let n = units.len();
            let mut counts = self.fractions.map(|f| (f * n as f64).round() as usize);
            // Every part that is wanted gets a unit, as long as there are enough.
            let wanted = self.fractions.iter().filter(|f| **f > 0.0).count();
            for i in 1..3 {
                counts[i] = if self.fractions[i] > 0.0 && n >= wanted { counts[i].max(1) } else { counts[i].min(n.saturating_sub(1)) };
            }
            let test = counts[2].min(n.saturating_sub(1));
            let validation = counts[1].min(n.saturating_sub(1 + test));
            for (k, unit) in units.into_iter().enumerate() {
                out[unit] = if k < test {
                    Split::Test
                } else if k < test + validation {
                    Split::Validation
                } else {
                    Split::Train
                };
            }
        }
        out
    }
}

fn majority(labels: &[u32]) -> u32 {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for &label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts.into_iter().max_by_key(|&(_, n)| n).map_or(UNLABELLED, |(label, _)| label)
}

impl Sampling {
    /// The fewest rows of a recording that make a window.
    #[must_use]
    pub fn rows(&self, series: &Series) -> usize {
        let own = self.rate_hz.or_else(|| {
            let (first, last) = (series.times.first()?, series.times.last()?);
            Some((series.len() - 1) as f64 / (last - first)).filter(|r| r.is_finite())
        });
        match (own, self.target_hz) {
            (Some(from), Some(to)) => {
                let mut rows = ((self.window - 1) as f64 * from / to).ceil() as usize + 1;
                while resampled_len(rows, from, to) < self.window {
                    rows += 1;
                }
                rows
            }
            _ => self.window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recordings(lens: &[usize]) -> Recordings {
        let mut out = Recordings::default();
        for (i, &n) in lens.iter().enumerate() {
            out.series.push(Series {
                path: "a.csv".into(),
                id: i.to_string(),
                part: String::new(),
                subject: (i % 4).to_string(),
                channels: vec![vec![0.0; n]],
                labels: vec![(i % 3) as u32; n],
                times: vec![],
                lines: (0..n as u64).collect(),
            });
        }
        out
    }

    fn splitter(by: SplitBy, seed: u64) -> Splitter {
        Splitter { by, fractions: [0.6, 0.2, 0.2], subjects: None, exclude: vec!["3".into()], seed }
    }

    const SAMPLING: Sampling = Sampling { rate_hz: Some(10.0), target_hz: Some(3.0), window: 5, stride: 2, label_share: 1.0 };

    proptest! {
        #[test]
        fn no_row_is_in_two_splits_and_none_is_lost(lens in prop::collection::vec(0usize..60, 8..20), seed in 0u64..100) {
            let data = recordings(&lens);
            for by in [SplitBy::Subject, SplitBy::Series, SplitBy::Time, SplitBy::Random] {
                let pieces = splitter(by, seed).pieces(&data, &SAMPLING).unwrap();
                let mut seen: Vec<Vec<u8>> = lens.iter().map(|&n| vec![0; n]).collect();
                for p in &pieces {
                    seen[p.series][p.rows.clone()].iter_mut().for_each(|s| *s += 1);
                }
                for (i, rows) in seen.iter().enumerate() {
                    prop_assert!(rows.iter().all(|&n| n == u8::from(i % 4 != 3)), "{by:?} {i}: {rows:?}");
                }
            }
        }
    }

    #[test]
    fn subjects_stay_together_and_lists_are_followed() {
        let data = recordings(&[30; 12]);
        let listed = |lists: [&[&str]; 3]| Splitter {
            subjects: Some(lists.map(|l| l.iter().map(ToString::to_string).collect())),
            ..splitter(SplitBy::Subject, 1)
        };
        let pieces = listed([&["0"], &["1"], &["2"]]).pieces(&data, &SAMPLING).unwrap();
        assert!(pieces.iter().all(|p| data.series[p.series].subject == (p.split as usize).to_string()));
        let error = |s: Splitter| s.pieces(&data, &SAMPLING).unwrap_err().to_string();
        assert!(error(listed([&["0"], &["1"], &["9"]])).contains("subject '9', whom the data do not hold; they hold: 0, 1, 2"));
        assert!(error(listed([&["0"], &["1"], &[]])).contains("subject '2' is in no list"));
    }

    #[test]
    fn shares_are_kept_within_each_label() {
        let labels: Vec<u32> = (0..300).map(|i| u32::from(i % 10 == 0)).collect();
        let dealt = splitter(SplitBy::Random, 5).deal(&labels);
        for (label, n) in [(0, 270.0), (1, 30.0)] {
            let share = |s| dealt.iter().zip(&labels).filter(|(d, l)| **d == s && **l == label).count() as f64 / n;
            assert!((share(Split::Test) - 0.2).abs() < 0.01 && (share(Split::Train) - 0.6).abs() < 0.01);
        }
        assert_ne!(dealt, splitter(SplitBy::Random, 6).deal(&labels));
        assert_eq!(splitter(SplitBy::Random, 5).deal(&[0, 0, 0]).iter().collect::<std::collections::HashSet<_>>().len(), 3);
    }
}
