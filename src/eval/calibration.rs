//! Windows of prepared data, to tell importance by and to measure divergence on.

use super::windows::Windows;
use crate::data::Split;
use crate::data::error::DataError;
use crate::data::prepared::Prepared;
use crate::data::shard::Shard;
use std::path::PathBuf;

/// Tokens by which the importance of columns is told: more change it by less than what counts.
pub const ENOUGH: usize = 1 << 16;

/// Windows of a split of prepared data, of up to `ctx` tokens each and about `tokens` in all, spread evenly: with `examples` the
/// questions with their answers that fine-tuning learns from, else pieces of the shards that pre-training reads.
///
/// # Errors
/// If there are no such data, or what there is has no two tokens.
pub fn windows(data: &Prepared, split: Split, examples: bool, ctx: usize, tokens: usize) -> Result<Windows, DataError> {
    let found = if examples {
        let template = &data.task_codec()?.template;
        let documents: Vec<Vec<u32>> = data
            .examples(split)?
            .iter()
            .map(|e| {
                let t = e.tokens(template, &data.tokenizer);
                [t.prompt, t.answer].concat()
            })
            .collect();
        Windows::of_documents(documents.iter().map(Vec::as_slice), ctx).map(|w| w.thinned(tokens))
    } else {
        let shards = if split == Split::Train { data.train_shards()? } else { data.validation_shards()? };
        Windows::of_text(pieces(&shards, data.tokenizer.n_vocab(), ctx, tokens)?, ctx)
    };
    found.ok_or_else(|| DataError::file(&data.path, format!("there are no two tokens of the {} split in these data", split.name())))
}

/// Tokens of pieces of `ctx` each, spread evenly over shards; what there is if it is less than one.
fn pieces(shards: &[PathBuf], n_vocab: usize, ctx: usize, tokens: usize) -> Result<Vec<u32>, DataError> {
    let shards = shards.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut places: Vec<(usize, usize)> = vec![];
    for (s, shard) in shards.iter().enumerate() {
        places.extend((0..shard.len() / ctx).map(|i| (s, i * ctx)));
    }
    let (keep, mut out) = ((tokens / ctx).clamp(1, places.len().max(1)), vec![]);
    if places.is_empty() {
        if let Some(shard) = shards.first() {
            shard.read(0, shard.len(), n_vocab, &mut out)?;
        }
        return Ok(out);
    }
    for i in 0..keep {
        let (shard, start) = places[i * places.len() / keep];
        shards[shard].read(start, ctx, n_vocab, &mut out)?;
    }
    Ok(out)
}
