//! Where a run's batches come from: shards for pre-training, packed examples for fine-tuning.

use super::config::Batch;
use super::run::{Feed, FeedError};
use crate::data::loader::Loader;
use crate::data::pack::{self, Packer, Packing};
use crate::data::prepared::Prepared;
use crate::data::{Codec, DataError, Example, Split};
use crate::model::HostBatch;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The most tokens of the validation shards that one evaluation reads. A token's loss deviates by some
/// 2 to 3 nats, so that their mean is good to about 0.01.
const VALIDATION_TOKENS: usize = 65_536;

impl From<DataError> for FeedError {
    fn from(error: DataError) -> Self {
        Self(Box::new(error))
    }
}

fn parsed<T: DeserializeOwned>(position: &Value) -> Result<T, FeedError> {
    serde_json::from_value(position.clone()).map_err(|e| FeedError(format!("the checkpoint's position in the data: {e}").into()))
}

/// Batches of token shards.
pub struct ShardFeed {
    loader: Loader,
    validation: Option<Loader>,
    batch: Batch,
    end: u32,
}

impl ShardFeed {
    /// The shards of a prepared folder, in an order that hangs on the seed.
    pub fn open(data: &Prepared, batch: &Batch, seed: u64) -> Result<Self, DataError> {
        let (v, t) = (data.tokenizer.n_vocab(), batch.ctx);
        // Validation tokens fewer than a row are no reason to stop: the run says so and keeps its last checkpoint alone.
        let enough = data.manifest.pretrain.as_ref().is_some_and(|p| p.validation_tokens > t as u64);
        let validation = enough.then(|| Loader::open(&data.validation_shards()?, v, t, seed)).transpose()?;
        Ok(Self {
            loader: Loader::open(&data.train_shards()?, v, t, seed)?,
            validation,
            batch: batch.clone(),
            end: data.tokenizer.end_token(),
        })
    }

    fn cut(&self, mut batch: HostBatch) -> HostBatch {
        if self.batch.within_documents {
            batch.cut_at(self.end);
        }
        batch
    }
}

impl Feed for ShardFeed {
    fn step(&mut self) -> Result<Vec<HostBatch>, FeedError> {
        (0..self.batch.accumulate)
            .map(|_| {
                let batch = self.loader.next_batch(self.batch.micro_batch)?;
                Ok(self.cut(batch))
            })
            .collect()
    }

    fn position(&self) -> Value {
        serde_json::json!(self.loader.state())
    }

    fn seek(&mut self, position: &Value) -> Result<(), FeedError> {
        Ok(self.loader.restore(parsed(position)?)?)
    }

    fn validation(&mut self) -> Result<Vec<HostBatch>, FeedError> {
        let Some(loader) = &self.validation else { return Ok(vec![]) };
        let rows = (VALIDATION_TOKENS / self.batch.ctx).max(1);
        Ok(loader.fixed(self.batch.micro_batch, rows)?.into_iter().map(|b| self.cut(b)).collect())
    }
}

/// The examples of a task, by split.
pub struct Examples {
    train: Vec<Example>,
    validation: Vec<Example>,
}

impl Examples {
    /// Those of a prepared folder.
    pub fn open(data: &Prepared) -> Result<Self, DataError> {
        Ok(Self { train: data.examples(Split::Train)?, validation: data.examples(Split::Validation)? })
    }
}

/// Batches of examples, packed.
pub struct ExampleFeed<'a> {
    packer: Packer<'a>,
    validation: Vec<HostBatch>,
    batch: Batch,
}

impl<'a> ExampleFeed<'a> {
    /// The examples of a prepared folder, in an order that hangs on the seed. Validation counts the answers alone.
    pub fn new(data: &'a Prepared, examples: &'a Examples, batch: &Batch, seed: u64) -> Result<Self, DataError> {
        let codec: &Codec = data.task_codec()?;
        let packing = Packing { t: batch.ctx, prompt_weight: batch.prompt_loss_weight as f32, seed, augment: batch.augment };
        let answers = Packing { prompt_weight: 0.0, augment: None, ..packing };
        let validation = match examples.validation.as_slice() {
            [] => vec![],
            some => pack::fixed(some, codec, &data.tokenizer, answers, batch.micro_batch)?,
        };
        Ok(Self { packer: Packer::new(&examples.train, codec, &data.tokenizer, packing)?, validation, batch: batch.clone() })
    }
}

impl Feed for ExampleFeed<'_> {
    fn step(&mut self) -> Result<Vec<HostBatch>, FeedError> {
        Ok((0..self.batch.accumulate).map(|_| self.packer.next_batch(self.batch.micro_batch)).collect())
    }

    fn position(&self) -> Value {
        serde_json::json!(self.packer.state())
    }

    fn seek(&mut self, position: &Value) -> Result<(), FeedError> {
        Ok(self.packer.restore(parsed(position)?)?)
    }

    fn validation(&mut self) -> Result<Vec<HostBatch>, FeedError> {
        Ok(self.validation.clone())
    }
}
