//! Choosing the next token.
//!
//! In this order, which is llama.cpp's, so that settings mean the same there:
//!
//! 1. **repeat penalty** `p`: each token among the last 64, the prompt's included, has its logit divided by `p` if it
//!    is positive and multiplied by `p` if it is negative, once however often it stands there (Keskar et al. 2019);
//! 2. **temperature 0**: the likeliest token, the lowest number among equals, and nothing below applies;
//! 3. **top-k**: only the `k` likeliest tokens stay (0: all);
//! 4. **top-p**: of those, the fewest whose probabilities together reach `p` (Holtzman et al. 2019);
//! 5. **temperature** `t`: logits are divided by `t`, and one token is drawn from their softmax.
//!
//! Draws are a function of the seed and of how many tokens were chosen before.

use crate::rng::{self, Rng};
use crate::simd::Isa;
use crate::simd::choose::{BLOCK, Copied, Highest};

/// How many tokens back the repeat penalty looks.
pub const REPEAT_WINDOW: usize = 64;

/// A sampler's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the likeliest token; 1: as the model was trained; between: more careful.
    pub temperature: f32,
    /// Tokens to choose among; 0: all.
    pub top_k: usize,
    /// Share of probability to choose among, 1: all.
    pub top_p: f32,
    /// Above 1, tokens seen lately become less likely; 1: no penalty.
    pub repeat_penalty: f32,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// The paper's: temperature 0.7 and repeat penalty 1.1; llama.cpp's top-k 40 and top-p 0.95.
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 40, top_p: 0.95, repeat_penalty: 1.1, seed: 0 }
    }
}

impl Sampling {
    /// Always the likeliest token.
    #[must_use]
    pub const fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repeat_penalty: 1.0, seed: 0 }
    }
}

/// Chooses tokens and remembers the last ones. After [`new`](Self::new) nothing is allocated.
pub struct Sampler {
    settings: Sampling,
    rng: Rng,
    /// The last tokens, a ring.
    recent: Vec<u32>,
    oldest: usize,
    /// Logits as the penalty leaves them, `(V)`.
    logits: Vec<f32>,
    /// The highest of each block of them, `(V / 64)`.
    highest: Vec<f32>,
    /// Room for as many.
    blocks: Vec<f32>,
    /// Tokens still in the running, `(V)` at most.
    candidates: Vec<u32>,
}

impl Sampler {
    /// A sampler for a vocabulary of `n_vocab` tokens.
    #[must_use]
    pub fn new(settings: Sampling, n_vocab: usize) -> Self {
        Self {
            settings,
            rng: Rng::new(rng::key_of(settings.seed, "sampler")),
            recent: Vec::with_capacity(REPEAT_WINDOW),
            oldest: 0,
            logits: vec![0.0; n_vocab],
            highest: vec![0.0; n_vocab.div_ceil(BLOCK)],
            blocks: vec![0.0; n_vocab.div_ceil(BLOCK)],
            candidates: Vec::with_capacity(n_vocab),
        }
    }

    /// Takes note of tokens that were not chosen here: the prompt's.
    pub fn accept(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if self.recent.len() < REPEAT_WINDOW {
                self.recent.push(token);
            } else {
                self.recent[self.oldest] = token;
                self.oldest = (self.oldest + 1) % REPEAT_WINDOW;
            }
        }
    }

    /// Chooses the next token and takes note of it. A logit that is no number counts as impossible.
    ///
    /// # Panics
    /// If there are not as many logits as tokens in the vocabulary.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        assert_eq!(logits.len(), self.logits.len(), "logits of a vocabulary");
        Isa::detect().run(Copied { to: &mut self.logits, highest: &mut self.highest, from: logits });
        self.penalize();
        let token = if self.settings.temperature <= 0.0 { self.likeliest() } else { self.draw() };
        self.accept(&[token]);
        token
    }

    fn penalize(&mut self) {
        let p = self.settings.repeat_penalty;
        if p == 1.0 {
            return;
        }
        for (i, &token) in self.recent.iter().enumerate() {
            if !self.recent[..i].contains(&token)
                && let Some(x) = self.logits.get_mut(token as usize)
            {
                *x = if *x > 0.0 { *x / p } else { *x * p };
                let block = token as usize / BLOCK;
                let all = &self.logits[block * BLOCK..];
                self.highest[block] = Isa::detect().run(Highest(&all[..BLOCK.min(all.len())]));
            }
        }
    }

    /// As [`most_likely`] of the logits, none of which is NaN.
    fn likeliest(&self) -> u32 {
        let most = Isa::detect().run(Highest(&self.highest));
        let block = self.highest.iter().position(|&x| x == most).expect("a vocabulary has tokens") * BLOCK;
        let within = self.logits[block..].iter().position(|&x| x == most).expect("the highest of its block");
        (block + within) as u32
    }

    fn draw(&mut self) -> u32 {
        let Self { settings, rng, logits, highest, blocks, candidates, .. } = self;
        let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        candidates.clear();
        if settings.top_k > 0 && settings.top_k < blocks.len() {
            // As many blocks as tokens are wanted have one that is no less likely than `least`: so are all that are wanted, and few others.
            blocks.copy_from_slice(highest);
            let (_, &mut least, _) = blocks.select_nth_unstable_by(settings.top_k - 1, |a, b| b.total_cmp(a));
            for (block, _) in highest.iter().enumerate().filter(|(_, x)| **x >= least) {
                let from = block * BLOCK;
                let some = logits[from..].iter().take(BLOCK).enumerate().filter(|(_, x)| **x >= least);
                candidates.extend(some.map(|(i, _)| (from + i) as u32));
            }
        } else {
            candidates.extend(0..logits.len() as u32);
        }
        if settings.top_k > 0 && settings.top_k < candidates.len() {
            candidates.select_nth_unstable_by(settings.top_k - 1, falling);
            candidates.truncate(settings.top_k);
        }
        candidates.sort_unstable_by(falling);
        let highest = logits[candidates[0] as usize];
        let weight = |id: u32, t: f32| f64::from((logits[id as usize] - highest) / t).exp();
        if settings.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|&id| weight(id, 1.0)).sum();
            let (mut sum, mut keep) = (0.0, 0);
            while keep < candidates.len() && (keep == 0 || sum < f64::from(settings.top_p) * total) {
                sum += weight(candidates[keep], 1.0);
                keep += 1;
            }
            candidates.truncate(keep);
        }
        let t = settings.temperature;
        let total: f64 = candidates.iter().map(|&id| weight(id, t)).sum();
        let mut left = rng.uniform() * total;
        for &id in candidates.iter() {
            left -= weight(id, t);
            if left < 0.0 {
                return id;
            }
        }
        candidates[0] // all logits impossible, or the last rounding
    }
}

/// The token with the highest logit, the lowest number among equals. A logit that is no number counts as impossible.
///
/// # Panics
/// If there are no logits.
#[must_use]
pub fn most_likely(logits: &[f32]) -> u32 {
    assert!(!logits.is_empty(), "a vocabulary has tokens");
    let most = Isa::detect().run(Highest(logits));
    // All of them may be NaN.
    logits.iter().position(|&x| x == most).unwrap_or(0) as u32
}

/// Natural logarithms of the probabilities that logits stand for, in place; summed in `f64`.
pub fn log_softmax(logits: &mut [f32]) {
    let highest = Isa::detect().run(Highest(logits));
    let sum: f64 = logits.iter().map(|&x| f64::from(x - highest).exp()).sum();
    let shift = f64::from(highest) + sum.ln();
    logits.iter_mut().for_each(|x| *x = (f64::from(*x) - shift) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(settings: Sampling) -> Sampler {
        Sampler::new(settings, 4)
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let mut s = sampler(Sampling::greedy());
        assert_eq!(s.next(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(s.next(&[f32::NAN, -1.0, -2.0, f32::NAN]), 1);
        assert_eq!(s.next(&[f32::NAN; 4]), 0);
        assert_eq!(most_likely(&[f32::NAN, -1.0]), 1);
    }

    #[test]
    fn the_penalty_counts_a_token_once_and_forgets_it() {
        let mut s = sampler(Sampling { repeat_penalty: 2.0, ..Sampling::greedy() });
        s.accept(&[1, 1, 1]);
        assert_eq!(s.next(&[1.6, 3.0, 0.0, 0.0]), 0, "3.0 became 1.5, not 0.375");
        s.accept(&[2; REPEAT_WINDOW]);
        assert_eq!(s.next(&[1.6, 3.0, 0.0, 0.0]), 1, "64 tokens later both are forgotten");
        assert_eq!(s.next(&[-3.0, -1.0, -1.5, -9.0]), 1, "the newer 1 costs 2, and so does 2: -2 against -3");
        let mut ring = sampler(Sampling::greedy());
        ring.accept(&(0..100).collect::<Vec<u32>>());
        let mut held = ring.recent.clone();
        held.sort_unstable();
        assert_eq!(held, (36..100).collect::<Vec<u32>>());
    }

    /// Frequencies of 20,000 draws; four standard errors are at most 4 sqrt(0.25 / 20000) = 0.0142.
    fn frequencies(settings: Sampling, logits: &[f32; 4]) -> [f64; 4] {
        let mut s = sampler(settings);
        let mut counts = [0.0; 4];
        for _ in 0..20_000 {
            counts[s.next(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn draws_follow_the_settings() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let plain = Sampling { temperature: 1.0, ..Sampling::greedy() };
        let close = |got: [f64; 4], want: [f64; 4]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142 && (w > 0.0 || *g == 0.0)), "{got:?} {want:?}");
        };
        close(frequencies(plain, &logits), [0.4, 0.3, 0.2, 0.1]);
        close(frequencies(Sampling { top_k: 2, ..plain }, &logits), [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        // 0.4 + 0.3 = 0.7 >= 0.65: two tokens reach it.
        close(frequencies(Sampling { top_p: 0.65, ..plain }, &logits), [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        // Temperature 0.5 squares the odds.
        close(frequencies(Sampling { temperature: 0.5, ..plain }, &logits), [16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0, 1.0 / 30.0]);
        // top-p looks at probabilities before the temperature.
        close(frequencies(Sampling { temperature: 9.0, top_p: 0.3, ..plain }, &logits), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_seed_is_a_text() {
        let run = |seed| {
            let mut s = sampler(Sampling { temperature: 1.0, seed, ..Sampling::greedy() });
            (0..64).map(|_| s.next(&[0.0; 4])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    /// The choice as it reads in the module's text: sort everything.
    fn sorted(settings: Sampling, rng: &mut Rng, logits: &[f32]) -> u32 {
        let mut all: Vec<u32> = (0..logits.len() as u32).collect();
        all.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        if settings.top_k > 0 {
            all.truncate(settings.top_k);
        }
        let weight = |id: u32, t: f32| f64::from((logits[id as usize] - logits[all[0] as usize]) / t).exp();
        let total: f64 = all.iter().map(|&id| weight(id, 1.0)).sum();
        let (mut sum, mut keep) = (0.0, 0);
        while keep < all.len() && (keep == 0 || sum < f64::from(settings.top_p) * total) {
            sum += weight(all[keep], 1.0);
            keep += 1;
        }
        let kept = &all[..keep];
        let total: f64 = kept.iter().map(|&id| weight(id, settings.temperature)).sum();
        let mut left = rng.uniform() * total;
        for &id in kept {
            left -= weight(id, settings.temperature);
            if left < 0.0 {
                return id;
            }
        }
        all[0]
    }

    #[test]
    fn a_search_by_blocks_chooses_as_a_sort_does() {
        let n = 5003;
        let mut noise = Rng::new(8);
        for (top_k, levels) in [(1, 1e3), (40, 1e3), (40, 2.0), (40, 0.0), (78, 8.0), (79, 1e3), (0, 1e3)] {
            let settings = Sampling { temperature: 0.8, top_k, top_p: 0.97, repeat_penalty: 1.0, seed: 3 };
            let mut s = Sampler::new(settings, n);
            let mut rng = Rng::new(rng::key_of(3, "sampler"));
            for _ in 0..40 {
                // Few levels: many tokens are alike, and zeros have both signs.
                let logits: Vec<f32> = (0..n).map(|_| ((noise.normal() * levels).round() / levels.max(1.0)) as f32).collect();
                assert_eq!(s.next(&logits), sorted(settings, &mut rng, &logits), "top-k {top_k}, {levels} levels");
            }
        }
    }

    #[test]
    fn greedy_by_blocks_is_most_likely() {
        let mut noise = Rng::new(9);
        for n in [1, 63, 64, 65, 1000] {
            let mut s = Sampler::new(Sampling { repeat_penalty: 1.5, ..Sampling::greedy() }, n);
            for _ in 0..100 {
                let logits: Vec<f32> = (0..n).map(|_| noise.normal().round() as f32).collect();
                let mut punished = logits.clone();
                let recent: std::collections::BTreeSet<u32> = s.recent.iter().copied().collect();
                for id in recent {
                    let x = &mut punished[id as usize];
                    *x = if *x > 0.0 { *x / 1.5 } else { *x * 1.5 };
                }
                assert_eq!(s.next(&logits), most_likely(&punished), "{n}");
            }
        }
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let mut x = [1000.0f32, 999.0, -1000.0];
        log_softmax(&mut x);
        let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && (x[0] - x[1] - 1.0).abs() < 1e-6, "{x:?}");
    }
}
