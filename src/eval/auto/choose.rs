//! The cheapest mix under a bound, where what each choice costs is known and costs add up.

/// A format that a matrix could have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it takes.
    pub bytes: u64,
    /// What it costs, from 0 up.
    pub cost: f64,
}

/// A step of one group from a format to a smaller one.
struct Step {
    group: usize,
    to: usize,
    saved: u64,
    cost: f64,
}

impl Step {
    /// Bytes saved a cost.
    fn worth(&self) -> f64 {
        if self.cost > 0.0 { self.saved as f64 / self.cost } else { f64::INFINITY }
    }
}

/// For each group the number of its choice: all costs add up to `budget` at most, and the bytes are few. `groups[g]` begins with the
/// largest choice, which is taken for free.
///
/// A group's choices that lie above the line between two others are never taken; the steps along what remains are taken by bytes
/// saved a cost, those that do not fit any more passed over.
#[must_use]
pub fn choose(groups: &[Vec<Choice>], budget: f64) -> Vec<usize> {
    let mut steps: Vec<Step> = groups.iter().enumerate().flat_map(|(g, choices)| steps_of(g, choices)).collect();
    // Within a group worth falls from step to step, so that a stable sort keeps their order.
    steps.sort_by(|a, b| b.worth().total_cmp(&a.worth()));
    let mut chosen = vec![0; groups.len()];
    let (mut spent, mut closed) = (0.0, vec![false; groups.len()]);
    for step in steps {
        if closed[step.group] || spent + step.cost > budget {
            closed[step.group] = true;
            continue;
        }
        spent += step.cost;
        chosen[step.group] = step.to;
    }
    chosen
}

/// The steps from choice to choice along the lower hull of a group's costs over its savings.
fn steps_of(group: usize, choices: &[Choice]) -> Vec<Step> {
    let mut steps = vec![];
    let mut at = 0;
    // From each corner to the one that saves most a cost, the smaller among equals.
    loop {
        let here = choices[at];
        let smaller = choices.iter().enumerate().filter(|(_, c)| c.bytes < here.bytes);
        let step = |(to, c): (usize, &Choice)| Step { group, to, saved: here.bytes - c.bytes, cost: (c.cost - here.cost).max(0.0) };
        let best = smaller.map(step).max_by(|a, b| a.worth().total_cmp(&b.worth()).then(a.saved.cmp(&b.saved)));
        let Some(best) = best else { return steps };
        at = best.to;
        steps.push(best);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn group(all: &[(u64, f64)]) -> Vec<Choice> {
        all.iter().map(|&(bytes, cost)| Choice { bytes, cost }).collect()
    }

    #[test]
    fn what_saves_most_is_taken_first() {
        let groups = [group(&[(100, 0.0), (60, 1.0), (40, 5.0)]), group(&[(1000, 0.0), (900, 1.0), (500, 2.0)])];
        assert_eq!(choose(&groups, 0.0), [0, 0]);
        // The second group's middle choice lies above the line to its last.
        assert_eq!(choose(&groups, 1.5), [1, 0]);
        assert_eq!(choose(&groups, 2.0), [0, 2]);
        assert_eq!(choose(&groups, 3.0), [1, 2]);
        assert_eq!(choose(&groups, 6.9), [1, 2]);
        assert_eq!(choose(&groups, 7.0), [2, 2]);
        // What costs nothing is taken always, and less than nothing is rounding.
        assert_eq!(choose(&[group(&[(9, 0.0), (8, 0.0), (7, -1e-9), (6, 1.0)])], 0.5), [2]);
        assert_eq!(choose(&[group(&[(9, 0.0)])], 1.0), [0]);
    }

    /// All mixes tried: the bound holds, and what is lost against the best is less than the largest step.
    #[test]
    fn near_the_best_of_all_mixes() {
        let mut rng = Rng::new(4);
        for _ in 0..50 {
            let groups: Vec<Vec<Choice>> = (0..4)
                .map(|_| {
                    let (size, hurt) = (1000.0 * rng.uniform() + 100.0, rng.uniform());
                    group(&[1.0, 0.77, 0.65, 0.53, 0.4, 0.31].map(|part| ((size * part) as u64, hurt * (1.0 / part - 1.0f64).powi(3))))
                })
                .collect();
            let budget = 2.0 * rng.uniform();
            let total =
                |mix: &[usize]| mix.iter().zip(&groups).fold((0, 0.0), |(bytes, cost), (&i, g)| (bytes + g[i].bytes, cost + g[i].cost));
            let chosen = total(&choose(&groups, budget));
            assert!(chosen.1 <= budget + 1e-12);
            let mixes = (0..6usize.pow(4)).map(|n| total(&[n % 6, n / 6 % 6, n / 36 % 6, n / 216]));
            let best = mixes.filter(|m| m.1 <= budget).map(|m| m.0).min().unwrap();
            let largest = groups.iter().map(|g| g[0].bytes - g[5].bytes).max().unwrap();
            assert!(chosen.0 < best + largest, "{} {best} {largest}", chosen.0);
        }
    }
}
