//! Changing the sampling rate: a low-pass with linear phase, evaluated at the new times.
//!
//! Each new reading is a weighted mean of the old ones around it, with a sinc of the lower of the two rates under a
//! Blackman window as the weight; any ratio of rates will do. Missing readings weigh nothing.

use std::f64::consts::PI;

/// Zero crossings of the sinc on either side. The Blackman window's transition band is then 0.55 of the cutoff wide.
const CROSSINGS: f64 = 10.0;

/// The middle of the transition band as a share of the lower Nyquist frequency: the stop band (-74 dB) begins at it.
const CUTOFF: f64 = 0.78;

/// A new reading is missing where less than this share of its weight fell on readings that are there.
const ENOUGH: f64 = 0.5;

/// Readings of `from` Hz as readings of `to` Hz, one `Vec` a channel; the first reading keeps its time.
///
/// # Panics
/// If a rate is not positive, or the channels are not equally long.
#[must_use]
pub fn resample(channels: &[Vec<f32>], from: f64, to: f64) -> Vec<Vec<f32>> {
    assert!(from > 0.0 && to > 0.0, "rates are positive");
    if from == to {
        return channels.to_vec();
    }
    let n = channels.first().map_or(0, Vec::len);
    assert!(channels.iter().all(|c| c.len() == n), "channels are equally long");
    let count = resampled_len(n, from, to);
    // Everything below is in units of the old interval.
    let step = from / to;
    let cutoff = CUTOFF * (to / from).min(1.0);
    let half = CROSSINGS / cutoff;
    let mut out = vec![Vec::with_capacity(count); channels.len()];
    let mut weights = vec![];
    for k in 0..count {
        let at = k as f64 * step;
        let first = (at - half).ceil().max(0.0) as usize;
        let last = ((at + half).floor() as usize).min(n - 1);
        weights.clear();
        weights.extend((first..=last).map(|i| kernel(at - i as f64, cutoff, half)));
        let whole: f64 = weights.iter().sum();
        for (out, channel) in out.iter_mut().zip(channels) {
            let (mut sum, mut present) = (0.0, 0.0);
            for (&w, &x) in weights.iter().zip(&channel[first..=last]) {
                if !x.is_nan() {
                    sum += w * f64::from(x);
                    present += w;
                }
            }
            out.push(if present >= ENOUGH * whole { (sum / present) as f32 } else { f32::NAN });
        }
    }
    out
}

/// How many readings [`resample`] makes of `n`.
#[must_use]
pub fn resampled_len(n: usize, from: f64, to: f64) -> usize {
    // The small share keeps a last reading that rounding would put just beyond the end.
    if n == 0 { 0 } else { ((n - 1) as f64 * to / from + 1e-9).floor() as usize + 1 }
}

/// The windowed sinc at distance `d`.
fn kernel(d: f64, cutoff: f64, half: f64) -> f64 {
    let x = PI * cutoff * d;
    let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
    let u = PI * d / half;
    sinc * (0.42 + 0.5 * u.cos() + 0.08 * (2.0 * u).cos())
}

/// Readings at uneven times put onto an even grid of `interval` that begins at the first time, by straight lines.
///
/// # Panics
/// If there are no times, or the channels are not as long as the times.
#[must_use]
pub fn even(channels: &[Vec<f32>], times: &[f64], interval: f64) -> Vec<Vec<f32>> {
    assert!(!times.is_empty() && channels.iter().all(|c| c.len() == times.len()), "a time for each reading");
    let count = ((times[times.len() - 1] - times[0]) / interval + 1e-6).floor() as usize + 1;
    let mut out = vec![Vec::with_capacity(count); channels.len()];
    let mut i = 0;
    for k in 0..count {
        let at = times[0] + k as f64 * interval;
        while i + 1 < times.len() - 1 && times[i + 1] <= at {
            i += 1;
        }
        let (a, b) = (i, (i + 1).min(times.len() - 1));
        let share = if a == b { 0.0 } else { ((at - times[a]) / (times[b] - times[a])).clamp(0.0, 1.0) };
        for (out, c) in out.iter_mut().zip(channels) {
            out.push(match share {
                0.0 => c[a],
                1.0 => c[b],
                s => (f64::from(c[a]) * (1.0 - s) + f64::from(c[b]) * s) as f32,
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(n: usize, cycles_per_reading: f64) -> Vec<f32> {
        (0..n).map(|i| (2.0 * PI * cycles_per_reading * i as f64).sin() as f32).collect()
    }

    #[test]
    fn slow_waves_pass_and_fast_ones_do_not() {
        for to in [12.5, 12.6, 6.25, 31.8] {
            let got = resample(&[sine(2000, 0.3 * to / 2.0 / 50.0), sine(2000, 1.02 * to / 2.0 / 50.0), vec![3.5; 2000]], 50.0, to);
            assert_eq!(got[0].len(), resampled_len(2000, 50.0, to));
            for k in 40..got[0].len() - 40 {
                let want = (2.0 * PI * 0.3 * to / 2.0 * (k as f64 / to)).sin();
                assert!((f64::from(got[0][k]) - want).abs() < 2e-3, "{to} Hz, {k}: {} not {want}", got[0][k]);
                assert!(got[1][k].abs() < 2e-3, "{to} Hz lets {} of a fast wave through", got[1][k]);
            }
            assert!(got[2].iter().all(|&x| (x - 3.5).abs() < 1e-6));
        }
    }

    #[test]
    fn raising_the_rate_keeps_slow_waves() {
        let got = resample(&[sine(400, 0.05)], 10.0, 25.0);
        for k in 80..got[0].len() - 80 {
            let want = (2.0 * PI * 0.5 * k as f64 / 25.0).sin();
            assert!((f64::from(got[0][k]) - want).abs() < 2e-3);
        }
    }

    #[test]
    fn gaps_stay_gaps_and_holes_are_bridged() {
        let mut x = vec![1.0; 400];
        x[100] = f32::NAN;
        x[200..300].fill(f32::NAN);
        let got = &resample(&[x], 40.0, 10.0)[0];
        assert_eq!(got.len(), 100);
        assert!((got[25] - 1.0).abs() < 1e-6);
        assert!(got[60].is_nan());
    }

    #[test]
    fn uneven_times_become_even() {
        let times = [0.0, 0.9, 2.1, 3.0, 4.0];
        let got = &even(&[times.iter().map(|&t| t as f32 * 2.0).collect()], &times, 1.0)[0];
        assert_eq!(got.len(), 5);
        for (k, v) in got.iter().enumerate() {
            assert!((v - 2.0 * k as f32).abs() < 1e-5);
        }
        assert_eq!(even(&[vec![7.0]], &[3.0], 1.0)[0], [7.0]);
    }
}
