//! What is reached without a model: the first question a sensor engineer asks.

use crate::data::Example;
use rayon::prelude::*;

/// The answers of a baseline, as indexes of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// "majority", "nearest_neighbour"
    pub name: &'static str,
    /// Its answer to each test example.
    pub answers: Vec<usize>,
}

/// The baselines that the data allow, trained on `train` and answering `test`; classes are indexes below `classes`.
#[must_use]
pub fn baselines(train: &[Example], classes_of_train: &[usize], test: &[Example], classes: usize) -> Vec<Baseline> {
    let mut all = vec![Baseline { name: "majority", answers: vec![majority(classes_of_train, classes); test.len()] }];
    all.extend(nearest_neighbour(train, classes_of_train, test));
    all
}

/// The most frequent class; the first of equals.
fn majority(answers: &[usize], classes: usize) -> usize {
    let count = |c: usize| answers.iter().filter(|&&a| a == c).count();
    (0..classes).rev().max_by_key(|&c| count(c)).unwrap_or(0)
}

/// 1-nearest-neighbour by Euclidean distance over all readings of a window, each channel brought to mean 0 and
/// deviation 1 by the training windows, so that no unit outweighs another; a missing reading counts as the mean. None
/// where examples hold different numbers of readings.
fn nearest_neighbour(train: &[Example], answers: &[usize], test: &[Example]) -> Option<Baseline> {
    let channels = train.first()?.readings.as_ref().map(|r| r.values.len());
    let mut known: Vec<Vec<f32>> = train.iter().map(Example::numbers).collect();
    let mut asked: Vec<Vec<f32>> = test.iter().map(Example::numbers).collect();
    let width = known.first()?.len();
    if width == 0 || known.iter().chain(&asked).any(|x| x.len() != width) {
        return None;
    }
    // Numbers that stand in a text may each be a sensor of its own.
    let step = channels.filter(|&c| c > 0 && width.is_multiple_of(c)).map_or(1, |c| width / c);
    for from in (0..width).step_by(step) {
        let values: Vec<f64> = known.iter().flat_map(|x| &x[from..from + step]).filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt().max(1e-12);
        for x in known.iter_mut().chain(&mut asked) {
            x[from..from + step]
                .iter_mut()
                .for_each(|v| *v = if v.is_finite() { ((f64::from(*v) - mean) / deviation) as f32 } else { 0.0 });
        }
    }
    let nearest = |x: &Vec<f32>| {
        let distance = |k: &Vec<f32>| k.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        (0..known.len()).min_by(|&a, &b| distance(&known[a]).total_cmp(&distance(&known[b]))).map_or(0, |i| answers[i])
    };
    Some(Baseline { name: "nearest_neighbour", answers: asked.par_iter().map(nearest).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Readings;

    fn window(a: f32, b: f32) -> Example {
        let values = vec![vec![a, a], vec![b, b]];
        Example { readings: Some(Readings { values, ..Readings::default() }), ..Example::default() }
    }

    #[test]
    fn a_neighbour_is_near_in_units_of_spread() {
        // The second channel is a thousand times larger and says nothing.
        let train = [window(0.0, 1000.0), window(0.1, -1000.0), window(1.0, 1000.0), window(1.1, -1000.0)];
        let all = baselines(&train, &[0, 0, 1, 1], &[window(0.95, 900.0), window(0.2, f32::NAN)], 2);
        assert_eq!(all[0], Baseline { name: "majority", answers: vec![0, 0] });
        assert_eq!(all[1], Baseline { name: "nearest_neighbour", answers: vec![1, 0] });
    }

    #[test]
    fn texts_are_read_as_numbers_and_uneven_ones_are_left_alone() {
        let text = |input: &str| Example { input: input.into(), ..Example::default() };
        let all = baselines(&[text("A: 1 2"), text("A: 9 9")], &[0, 1], &[text("A: 8 9")], 2);
        assert_eq!(all[1].answers, [1]);
        assert_eq!(baselines(&[text("A: 1 2"), text("A: 9")], &[0, 1], &[text("A: 8 9")], 2).len(), 1);
    }
}
