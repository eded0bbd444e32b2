//! Pre-training batches from token shards: windows of T + 1 tokens in an order that only the seed and the epoch decide.

use super::error::DataError;
use super::shard::Shard;
use crate::model::HostBatch;
use crate::rng::{Rng, key_of};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How far a loader has come; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// How often all data have been gone through.
    pub epoch: u64,
    /// Windows of this epoch that were given out.
    pub next: u64,
    /// Tokens in the shards: a state fits only the data it was made with.
    pub tokens: u64,
}

/// Gives batches without end.
pub struct Loader {
    shards: Vec<Shard>,
    n_vocab: usize,
    t: usize,
    seed: u64,
    tokens: u64,
    state: LoaderState,
    /// First token of each window of the epoch, over all shards, in the order they are given out.
    order: Vec<u64>,
    ordered: Option<u64>,
}

impl Loader {
    /// Batches of rows of `t` tokens from some shards.
    pub fn open(paths: &[PathBuf], n_vocab: usize, t: usize, seed: u64) -> Result<Self, DataError> {
        let shards = paths.iter().map(|p| Shard::open(p)).collect::<Result<Vec<_>, _>>()?;
        let tokens = shards.iter().map(|s| s.len() as u64).sum();
        if shards.iter().all(|s| s.len() <= t) {
            let path = paths.first().cloned().unwrap_or_default();
            let message = format!(
                "no shard holds the {} tokens that a row of {t} needs; prepare more tokens, or train with a shorter context",
                t + 1
            );
            return Err(DataError::File { path, message });
        }
        let state = LoaderState { tokens, ..LoaderState::default() };
        Ok(Self { shards, n_vocab, t, seed, tokens, state, order: vec![], ordered: None })
    }

    /// Tokens in all shards.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> LoaderState {
        self.state.clone()
    }

    /// Goes on from a saved state.
    pub fn restore(&mut self, state: LoaderState) -> Result<(), DataError> {
        if state.tokens != self.tokens {
            return Err(DataError::recipe(format!(
                "the checkpoint was made with data of {} tokens and these have {}; a run goes on with the data it began with alone",
                state.tokens, self.tokens
            )));
        }
        self.state = state;
        Ok(())
    }

    /// The next `b` rows; an epoch's last batch takes rows of the next epoch.
    pub fn next_batch(&mut self, b: usize) -> Result<HostBatch, DataError> {
        let mut rows = Vec::with_capacity(b);
        while rows.len() < b {
            if self.ordered != Some(self.state.epoch) {
                self.order = self.windows(self.state.epoch);
                let mut rng = Rng::new(key_of(self.seed, &format!("loader {}", self.state.epoch)));
                rng.shuffle(&mut self.order);
                self.ordered = Some(self.state.epoch);
            }
            match self.order.get(self.state.next as usize) {
                Some(&start) => {
                    rows.push(start);
                    self.state.next += 1;
                }
                None => self.state = LoaderState { epoch: self.state.epoch + 1, next: 0, tokens: self.tokens },
            }
        }
        self.batch(&rows)
    }

    /// Batches of at most `b` rows over the data in their order: at most `rows` of them, spread evenly. The same at every call:
    /// for validation.
    pub fn fixed(&self, b: usize, rows: usize) -> Result<Vec<HostBatch>, DataError> {
        let all = self.windows(0);
        let n = rows.clamp(1, all.len());
        let chosen: Vec<u64> = (0..n).map(|i| all[i * all.len() / n]).collect();
        chosen.chunks(b).map(|c| self.batch(c)).collect()
    }

    /// Where the windows of an epoch begin. They lie end to end; from one epoch to the next they move by a part of a
    /// window, so that what was a row's beginning is not always one.
    fn windows(&self, epoch: u64) -> Vec<u64> {
        let shift = if epoch == 0 { 0 } else { Rng::new(key_of(self.seed, &format!("shift {epoch}"))).below(self.t as u64) as usize };
        let mut out = vec![];
        let mut base = 0;
        for shard in &self.shards {
            // A shard of hardly more than one window is read from its beginning.
            let shift = if shard.len() > self.t + shift { shift } else { 0 };
            let count = (shard.len().saturating_sub(shift + 1)) / self.t;
            out.extend((0..count).map(|i| base + (shift + i * self.t) as u64));
            base += shard.len() as u64;
        }
        out
    }

    fn batch(&self, starts: &[u64]) -> Result<HostBatch, DataError> {
        let (mut tokens, mut targets, mut row) = (vec![], vec![], vec![]);
        for &start in starts {
            let (mut start, mut shard) = (start as usize, 0);
            while start >= self.shards[shard].len() {
                start -= self.shards[shard].len();
                shard += 1;
            }
            row.clear();
            self.shards[shard].read(start, self.t + 1, self.n_vocab, &mut row)?;
            tokens.extend_from_slice(&row[..self.t]);
            targets.extend_from_slice(&row[1..]);
        }
        Ok(HostBatch::unbroken(starts.len(), self.t, &tokens, &targets))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shard::ShardWriter;
    use super::*;

    fn loader(dir: &std::path::Path, per_shard: usize) -> Loader {
        let mut writer = ShardWriter::new(dir, "train", per_shard);
        writer.push(&(0..1000).collect::<Vec<_>>()).unwrap();
        Loader::open(&writer.finish().unwrap().0, 1000, 16, 7).unwrap()
    }

    #[test]
    fn an_epoch_gives_every_window_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut loader = loader(dir.path(), 400);
        let per_epoch = 399 / 16 * 2 + 199 / 16;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..per_epoch {
            let batch = loader.next_batch(1).unwrap();
            assert!((0..16).all(|i| batch.targets[i] == batch.tokens[i] + 1));
            assert!(seen.insert(batch.tokens[0]));
        }
        assert_eq!(loader.state().epoch, 0);
        loader.next_batch(1).unwrap();
        assert_eq!((loader.state().epoch, loader.state().next), (1, 1));
    }

    #[test]
    fn it_goes_on_exactly_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = loader(dir.path(), 300);
        for steps in [0, 1, 10, 31, 64] {
            let mut two = Loader::open(
                &[
                    dir.path().join("train_000.bin"),
                    dir.path().join("train_001.bin"),
                    dir.path().join("train_002.bin"),
                    dir.path().join("train_003.bin"),
                ],
                1000,
                16,
                7,
            )
            .unwrap();
            (0..steps).for_each(|_| drop(one.next_batch(3).unwrap()));
            let saved = serde_json::to_string(&one.state()).unwrap();
            two.restore(serde_json::from_str(&saved).unwrap()).unwrap();
            for _ in 0..40 {
                assert_eq!(one.next_batch(3).unwrap(), two.next_batch(3).unwrap());
            }
        }
    }

    #[test]
    fn fixed_batches_and_errors() {
        let dir = tempfile::tempdir().unwrap();
        let loader = loader(dir.path(), 2000);
        let fixed = loader.fixed(4, 10).unwrap();
        assert_eq!(fixed.iter().map(|b| b.b).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(fixed, loader.fixed(4, 10).unwrap());
        assert_eq!(loader.fixed(100, 1000).unwrap()[0].b, 62);
        let path = dir.path().join("train_000.bin");
        assert!(Loader::open(std::slice::from_ref(&path), 1000, 1000, 7).err().unwrap().to_string().contains("1001 tokens"));
        let mut small = Loader::open(&[path], 500, 16, 7).unwrap();
        assert!((0..62).any(|_| small.next_batch(1).is_err()));
        assert!(small.restore(LoaderState { epoch: 0, next: 0, tokens: 3 }).is_err());
    }
}
