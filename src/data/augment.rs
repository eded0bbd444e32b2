//! Random changes to training windows, so that few recordings teach more: what the changed readings show is the same.
//!
//! They are made on the readings in their units, before the codec turns them into text. All draws are a function of
//! (seed, epoch, example), so that a run that goes on draws the same.

use super::codec::SensorCodec;
use super::example::Readings;
use super::scale::{Channel, Scale};
use crate::rng::{Rng, key};
use serde::{Deserialize, Serialize};

/// How strongly each change is made; 0 is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Time runs faster or slower by up to this share: 0.2 is 1/1.2 to 1.2 times.
    pub stretch: f64,
    /// The window begins up to this share of its length earlier or later.
    pub shift: f64,
    /// Readings of a sensor are multiplied by up to 1 + this, or divided by it.
    pub scale: f64,
    /// Standard deviation of what is added to a whole channel, as a share of its range.
    pub offset: f64,
    /// Standard deviation of what is added to each reading, as a share of the channel's range.
    pub jitter: f64,
    /// Standard deviation of the angle, in degrees, by which sensors of three axes are turned together: how they are worn
    /// differs from one subject to the next.
    pub rotate: f64,
    /// Probability that a window is mirrored, as if worn on the other side of the body: the channels that the recipe
    /// calls `mirrored` change their sign.
    pub mirror: f64,
}

impl Augment {
    /// The name of the first setting that is out of bounds, with the bounds.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fields = [
            ("stretch", self.stretch, 1.0),
            ("shift", self.shift, 1.0),
            ("scale", self.scale, 10.0),
            ("offset", self.offset, 1.0),
            ("jitter", self.jitter, 1.0),
            ("rotate", self.rotate, 180.0),
            ("mirror", self.mirror, 1.0),
        ];
        let bad = fields.into_iter().find(|(_, value, most)| !(0.0..=*most).contains(value));
        bad.map(|(name, value, most)| format!("augment.{name} = {value}: it lies between 0 and {most}"))
    }

    /// How many readings on either side of a window of `n` it can make use of.
    #[must_use]
    pub fn margin(&self, n: usize) -> usize {
        ((self.stretch / 2.0 + self.shift) * n as f64).ceil() as usize
    }

    /// A changed window.
    #[must_use]
    pub fn apply(&self, codec: &SensorCodec, readings: &Readings, seed: u64, epoch: u64, example: u64) -> Vec<Vec<f32>> {
        let mut rng = Rng::new(key(seed, &[0xA06, epoch, example]));
        let mut symmetric = |most: f64| most * (2.0 * rng.uniform() - 1.0);
        let speed = symmetric((1.0 + self.stretch).ln()).exp();
        let shift = symmetric(self.shift);
        let mut window = if self.stretch == 0.0 && self.shift == 0.0 { readings.values.clone() } else { warp(readings, speed, shift) };
        if self.mirror > 0.0 && rng.uniform() < self.mirror {
            mirror(&codec.channels, &mut window);
        }
        if self.rotate > 0.0 {
            let turn = rotation(&mut rng, self.rotate.to_radians());
            for triple in triples(codec) {
                rotate(&mut window[triple..triple + 3], &turn);
            }
        }
        let mut gain = 1.0;
        for i in 0..window.len() {
            if i == 0 || codec.channels[i].sensor != codec.channels[i - 1].sensor {
                gain = ((1.0 + self.scale).ln() * (2.0 * rng.uniform() - 1.0)).exp();
            }
            let range = match codec.channels[i].scale {
                Scale::Range { lo, hi } => hi - lo,
                Scale::Window { .. } => {
                    let (lo, hi) = window[i].iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
                    f64::from((hi - lo).max(0.0))
                }
            };
            let offset = self.offset * range * rng.normal();
            for v in &mut window[i] {
                let jitter = if self.jitter > 0.0 { self.jitter * range * rng.normal() } else { 0.0 };
                *v = (f64::from(*v) * gain + offset + jitter) as f32;
            }
        }
        window
    }
}

/// The window as the other side of the body would have felt it.
fn mirror(channels: &[Channel], window: &mut [Vec<f32>]) {
    for (channel, readings) in channels.iter().zip(window) {
        if channel.mirrored {
            readings.iter_mut().for_each(|v| *v = -*v);
        }
    }
}

/// The window read `speed` times as fast, begun `shift` of its length later; where the recording ends, its last reading
/// goes on.
fn warp(readings: &Readings, speed: f64, shift: f64) -> Vec<Vec<f32>> {
    let empty = vec![];
    let channel = |i: usize| {
        let (before, after) = (readings.before.get(i).unwrap_or(&empty), readings.after.get(i).unwrap_or(&empty));
        let all: Vec<f32> = before.iter().chain(&readings.values[i]).chain(after).copied().collect();
        let n = readings.values[i].len();
        let middle = (n as f64 - 1.0) / 2.0;
        let at = |k: usize| before.len() as f64 + middle + shift * n as f64 + (k as f64 - middle) * speed;
        (0..n).map(|k| between(&all, at(k))).collect()
    };
    (0..readings.values.len()).map(channel).collect()
}

/// The value at a place between two readings.
fn between(x: &[f32], at: f64) -> f32 {
    let at = at.clamp(0.0, (x.len() - 1) as f64);
    let i = at.floor() as usize;
    let share = at - i as f64;
    if share == 0.0 { x[i] } else { (f64::from(x[i]) * (1.0 - share) + f64::from(x[i + 1]) * share) as f32 }
}

/// The first channel of each sensor that has exactly three.
fn triples(codec: &SensorCodec) -> Vec<usize> {
    let c = &codec.channels;
    (0..c.len())
        .filter(|&i| {
            let same = c[i..].iter().take_while(|d| d.sensor == c[i].sensor).count();
            same == 3 && (i == 0 || c[i - 1].sensor != c[i].sensor)
        })
        .collect()
}

/// A turn about a random axis (Rodrigues' formula).
fn rotation(rng: &mut Rng, deviation: f64) -> [[f64; 3]; 3] {
    let axis = [rng.normal(), rng.normal(), rng.normal()];
    let length = axis.iter().map(|a| a * a).sum::<f64>().sqrt().max(1e-12);
    let [x, y, z] = axis.map(|a| a / length);
    let (s, c) = (deviation * rng.normal()).sin_cos();
    let d = 1.0 - c;
    [
        [c + x * x * d, x * y * d - z * s, x * z * d + y * s],
        [y * x * d + z * s, c + y * y * d, y * z * d - x * s],
        [z * x * d - y * s, z * y * d + x * s, c + z * z * d],
    ]
}

fn rotate(axes: &mut [Vec<f32>], turn: &[[f64; 3]; 3]) {
    for k in 0..axes[0].len() {
        let v = [0, 1, 2].map(|i| f64::from(axes[i][k]));
        for i in 0..3 {
            axes[i][k] = (0..3).map(|j| turn[i][j] * v[j]).sum::<f64>() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warped_time() {
        let readings = Readings { values: vec![(4..9).map(|i| i as f32).collect()], before: vec![vec![2.0, 3.0]], after: vec![vec![9.0]] };
        assert_eq!(warp(&readings, 1.0, 0.0), readings.values);
        assert_eq!(warp(&readings, 0.5, 0.0)[0], [5.0, 5.5, 6.0, 6.5, 7.0]);
        assert_eq!(warp(&readings, 2.0, 0.0)[0], [2.0, 4.0, 6.0, 8.0, 9.0]);
        assert_eq!(warp(&readings, 1.0, -0.4)[0], [2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn a_mirror_turns_the_signs_of_its_channels_alone() {
        let channel = |mirrored| Channel {
            name: String::new(),
            sensor: String::new(),
            unit: String::new(),
            scale: Scale::Range { lo: -3.0, hi: 3.0 },
            log: false,
            mirrored,
        };
        let mut window = vec![vec![1.0, -2.0], vec![1.0, -2.0], vec![0.5, f32::NAN]];
        mirror(&[channel(true), channel(false), channel(true)], &mut window);
        assert_eq!((&window[0][..], &window[1][..], window[2][0]), (&[-1.0, 2.0][..], &[1.0, -2.0][..], -0.5));
        assert!(window[2][1].is_nan());
    }

    #[test]
    fn a_turn_keeps_lengths() {
        let mut axes = vec![vec![1.0, 0.0], vec![2.0, 0.5], vec![-2.0, f32::NAN]];
        rotate(&mut axes, &rotation(&mut Rng::new(3), 1.0));
        let length: f32 = axes.iter().map(|a| a[0] * a[0]).sum::<f32>().sqrt();
        assert!((length - 3.0).abs() < 1e-6 && (axes[0][0] - 1.0).abs() > 1e-3);
        assert!(axes[0][1].is_nan());
    }

    #[test]
    fn bounds() {
        assert!(Augment::default().fault().is_none());
        assert!(Augment { jitter: -0.1, ..Augment::default() }.fault().unwrap().contains("augment.jitter = -0.1"));
        assert!(Augment { scale: f64::NAN, ..Augment::default() }.fault().is_some());
        assert_eq!(Augment { stretch: 0.2, shift: 0.1, ..Augment::default() }.margin(25), 5);
    }
}
