//! `metrics.jsonl`: a line a step, appended as the run goes, cut back to the checkpoint when it resumes.

use crate::fsio::{self, At, IoError};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Counted from 1.
    pub step: u64,
    /// Mean training loss in nats a token.
    pub loss: f64,
    /// Mean validation loss, on the steps that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens read since the run began.
    pub tokens: u64,
    /// Of this step; a time, so not the same twice.
    pub tokens_per_s: f64,
    /// Seconds since this program took the run up; a time.
    pub seconds: f64,
}

/// The open file.
pub struct Metrics {
    path: PathBuf,
    file: File,
    first_loss: Option<f64>,
}

impl Metrics {
    /// Opens the file of a run for appending, cut back to its first `steps` steps. A last line that a kill left
    /// half written goes too.
    pub fn open(path: &Path, steps: u64) -> Result<Self, IoError> {
        let file = OpenOptions::new().create(true).append(true).open(path).at(path, "open")?;
        let text = fsio::read_text(path)?;
        let lines = || text.split_inclusive('\n').map_while(|l| whole_line(l).filter(|line| line.step <= steps).map(|line| (l, line)));
        // Steps rise from line to line, so cutting is shortening: one system call, whole at any moment.
        let kept: usize = lines().map(|(l, _)| l.len()).sum();
        file.set_len(kept as u64).at(path, "shorten")?;
        let first_loss = lines().next().map(|(_, line)| line.loss);
        Ok(Self { path: path.into(), file, first_loss })
    }

    /// The loss of the run's first step, once there is one.
    #[must_use]
    pub const fn first_loss(&self) -> Option<f64> {
        self.first_loss
    }

    /// Puts the lines on the disk, so that a power cut leaves no checkpoint ahead of them.
    pub fn sync(&self) -> Result<(), IoError> {
        self.file.sync_data().at(&self.path, "write")
    }

    /// Adds a line, in one write.
    pub fn append(&mut self, line: &Line) -> Result<(), IoError> {
        self.first_loss.get_or_insert(line.loss);
        let mut text = serde_json::to_string(line).map_err(std::io::Error::other).at(&self.path, "write")?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).at(&self.path, "write")
    }
}

/// All lines of a run, for reports.
pub fn read(path: &Path) -> Result<Vec<Line>, IoError> {
    Ok(fsio::read_text(path)?.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

fn whole_line(line: &str) -> Option<Line> {
    line.ends_with('\n').then(|| serde_json::from_str(line).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_back_and_drops_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |step| Line {
            step,
            loss: 0.1 + 0.2,
            val_loss: None,
            lr: 1e-3,
            grad_norm: 1.0,
            tokens: step * 8,
            tokens_per_s: 5.0,
            seconds: 1.0,
        };
        let mut metrics = Metrics::open(&path, 0).unwrap();
        (1..=5).for_each(|s| metrics.append(&line(s)).unwrap());
        metrics.file.write_all(b"{\"step\":6,\"lo").unwrap();
        let mut metrics = Metrics::open(&path, 3).unwrap();
        assert_eq!(metrics.first_loss(), Some(0.1 + 0.2));
        metrics.append(&line(4)).unwrap();
        assert_eq!(read(&path).unwrap(), (1..=4).map(line).collect::<Vec<_>>());
    }
}
