//! Documents of several sources mixed at given shares of tokens, a document at a time.
//!
//! The source that is furthest behind its share comes next, so that at any moment the shares are right to within a
//! document; which of its documents comes is drawn with a seed, without repeating one before all have come.

use crate::rng::{Rng, key_of};
use serde::{Deserialize, Serialize};

/// Where the documents of one source can be had.
pub trait Pool {
    /// How many documents there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Appends the tokens of document `i` in its `epoch`th use.
    fn tokens(&self, i: usize, epoch: u64, out: &mut Vec<u32>);
}

/// What was drawn from one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// The source.
    pub source: String,
    /// The share that was asked for.
    pub weight: f64,
    /// Tokens drawn.
    pub tokens: u64,
    /// Documents drawn.
    pub documents: u64,
    /// Documents there are.
    pub available: u64,
    /// The longest document drawn, in tokens: the share is right to within it.
    pub longest: u64,
}

/// Draws documents until there are `budget` tokens, or, where none may come `again`, until a source has no more.
/// Each document begins with the end token and goes to `sink` with the tokens drawn so far.
pub fn draw<E>(
    sources: &[(&str, f64, &dyn Pool)],
    budget: u64,
    again: bool,
    seed: u64,
    end: u32,
    mut sink: impl FnMut(&[u32], u64) -> Result<(), E>,
) -> Result<Vec<Drawn>, E> {
    let mut drawn: Vec<Drawn> = sources
        .iter()
        .map(|(name, weight, pool)| Drawn { source: (*name).into(), weight: *weight, available: pool.len() as u64, ..Drawn::default() })
        .collect();
    let mut orders: Vec<(u64, Vec<u32>)> = vec![(u64::MAX, vec![]); sources.len()];
    let mut document = vec![];
    let mut total = 0;
    while total < budget {
        let behind = |d: &Drawn| d.weight * total as f64 - d.tokens as f64;
        let s = (0..drawn.len()).fold(0, |best, s| {
            let (a, b) = ((behind(&drawn[s]), drawn[s].weight), (behind(&drawn[best]), drawn[best].weight));
            if a > b { s } else { best }
        });
        let (name, _, pool) = sources[s];
        let n = pool.len() as u64;
        let (epoch, at) = (drawn[s].documents / n.max(1), drawn[s].documents % n.max(1));
        if n == 0 || epoch > 0 && !again {
            break;
        }
        if orders[s].0 != epoch {
            let mut order: Vec<u32> = (0..n as u32).collect();
            Rng::new(key_of(seed, &format!("mix {s} {name} {epoch}"))).shuffle(&mut order);
            orders[s] = (epoch, order);
        }
        document.clear();
        document.push(end);
        pool.tokens(orders[s].1[at as usize] as usize, epoch, &mut document);
        total += document.len() as u64;
        let d = &mut drawn[s];
        d.tokens += document.len() as u64;
        d.documents += 1;
        d.longest = d.longest.max(document.len() as u64);
        sink(&document, total)?;
    }
    Ok(drawn)
}

/// Which of some units validate: units in random order until their sizes are at least `share` of all, but never all of them.
#[must_use]
pub fn held_out(sizes: &[u64], share: f64, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    Rng::new(key_of(seed, "held out")).shuffle(&mut order);
    let wanted = share * sizes.iter().sum::<u64>() as f64;
    let (mut out, mut held) = (vec![false; sizes.len()], 0);
    for &i in order.iter().take(sizes.len().saturating_sub(1)) {
        if held as f64 >= wanted {
            break;
        }
        out[i] = true;
        held += sizes[i];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    struct Lengths(Vec<usize>, u32);
    impl Pool for Lengths {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn tokens(&self, i: usize, _epoch: u64, out: &mut Vec<u32>) {
            out.extend(std::iter::repeat_n(self.1 + i as u32, self.0[i]));
        }
    }

    proptest! {
        #[test]
        fn shares_are_right_to_within_a_document(
            a in prop::collection::vec(1usize..400, 1..50),
            b in prop::collection::vec(1usize..30, 1..50),
            weight in 0.05f64..0.95,
            seed in 0u64..50,
        ) {
            let (a, b) = (Lengths(a, 0), Lengths(b, 1000));
            let sources: [(&str, f64, &dyn Pool); 2] = [("a", weight, &a), ("b", 1.0 - weight, &b)];
            let mut all = vec![];
            let drawn = draw(&sources, 20_000, true, seed, 7777, |d, _| { all.extend_from_slice(d); Ok::<_, Infallible>(()) }).unwrap();
            let total: u64 = drawn.iter().map(|d| d.tokens).sum();
            prop_assert_eq!(total as usize, all.len());
            let longest = drawn.iter().map(|d| d.longest).max().unwrap();
            prop_assert!(total >= 20_000 && total < 20_000 + longest);
            for d in &drawn {
                prop_assert!((d.tokens as f64 - d.weight * total as f64).abs() <= longest as f64);
            }
            prop_assert_eq!(all[0], 7777);
            let mut again = vec![];
            draw(&sources, 20_000, true, seed, 7777, |d, _| { again.extend_from_slice(d); Ok::<_, Infallible>(()) }).unwrap();
            prop_assert_eq!(all, again);
        }

        #[test]
        fn a_share_is_held_out_and_never_all(sizes in prop::collection::vec(1u64..100, 2..80), seed in 0u64..20) {
            let held = held_out(&sizes, 0.1, seed);
            let sum: u64 = sizes.iter().zip(&held).filter(|(_, h)| **h).map(|(s, _)| s).sum();
            prop_assert!(held.iter().any(|h| *h) && held.iter().any(|h| !*h));
            prop_assert!(sum as f64 <= 0.1 * sizes.iter().sum::<u64>() as f64 + 100.0);
        }
    }

    #[test]
    fn documents_come_once_before_any_comes_again() {
        let a = Lengths(vec![3; 10], 0);
        let mut firsts = vec![];
        draw(&[("a", 1.0, &a)], 80, true, 1, 99, |d, _| {
            firsts.push(d[1]);
            Ok::<_, Infallible>(())
        })
        .unwrap();
        let mut first_epoch = firsts[..10].to_vec();
        assert_ne!(firsts[..10], firsts[10..20]);
        first_epoch.sort_unstable();
        assert_eq!(first_epoch, (0..10).collect::<Vec<_>>());
        let drawn = draw(&[("a", 1.0, &a)], 80, false, 1, 99, |_, _| Ok::<_, Infallible>(())).unwrap();
        assert_eq!((drawn[0].documents, drawn[0].tokens), (10, 40));
    }
}
