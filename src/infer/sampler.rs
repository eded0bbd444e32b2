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
        self.logits.copy_from_slice(logits);
        self.logits.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = f32::NEG_INFINITY);
        self.penalize();
        let token = if self.settings.temperature <= 0.0 { most_likely(&self.logits) } else { self.draw() };
        self.accept(&[token]);
        token
    }

    fn penalize(&mut self) {
        let p = self.settings.repeat_penalty;
        for (i, &token) in self.recent.iter().enumerate() {
            if !self.recent[..i].contains(&token)
                && let Some(x) = self.logits.get_mut(token as usize)
            {
                *x = if *x > 0.0 { *x / p } else { *x * p };
            }
        }
    }

    fn draw(&mut self) -> u32 {
        let Self { settings, rng, logits, candidates, .. } = self;
        let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        candidates.clear();
        candidates.extend(0..logits.len() as u32);
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

/// The token with the highest logit, the lowest number among equals.
///
/// # Panics
/// If there are no logits.
#[must_use]
pub fn most_likely(logits: &[f32]) -> u32 {
    assert!(!logits.is_empty(), "a vocabulary has tokens");
    let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] || logits[best].is_nan() { i } else { best });
    best as u32
}

/// Natural logarithms of the probabilities that logits stand for, in place; summed in `f64`.
pub fn log_softmax(logits: &mut [f32]) {
    let highest = logits.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
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

    #[test]
    fn log_probabilities_sum_to_one() {
        let mut x = [1000.0f32, 999.0, -1000.0];
        log_softmax(&mut x);
        let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && (x[0] - x[1] - 1.0).abs() < 1e-6, "{x:?}");
    }
}
