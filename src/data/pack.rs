//! Fine-tuning batches: several examples in a row of T positions, each a document of its own that sees no other.
//!
//! What counts is the answer with its end token; the prompt's tokens count `prompt_weight`, and nothing at all at 0.

use super::augment::Augment;
use super::codec::Codec;
use super::error::DataError;
use super::example::Example;
use super::template::Tokens;
use super::tokenizer::Tokenizer;
use crate::model::HostBatch;
use crate::rng::{Rng, key_of};
use serde::{Deserialize, Serialize};

/// How far a packer has come; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackState {
    /// How often all examples have been gone through.
    pub epoch: u64,
    /// Rows of this epoch that were given out.
    pub next: u64,
    /// Number of examples: a state fits only the data it was made with.
    pub examples: u64,
}

/// How examples become rows.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Positions of a row.
    pub t: usize,
    /// What a token of the prompt counts where one of the answer counts 1.
    pub prompt_weight: f32,
    /// Decides order and augmentation.
    pub seed: u64,
    /// Random changes to windows.
    pub augment: Option<Augment>,
}

/// Rows that a new example looks for room in; more would fill them hardly better.
const OPEN_ROWS: usize = 64;

/// Gives batches of examples without end.
pub struct Packer<'a> {
    examples: &'a [Example],
    tokens: Vec<Tokens>,
    codec: &'a Codec,
    tokenizer: &'a Tokenizer,
    packing: Packing,
    state: PackState,
    /// The examples of each row of the epoch.
    rows: Vec<Vec<usize>>,
    planned: Option<u64>,
}

impl<'a> Packer<'a> {
    /// Batches of some examples; the first that does not fit into a row is an error that names it.
    pub fn new(examples: &'a [Example], codec: &'a Codec, tokenizer: &'a Tokenizer, packing: Packing) -> Result<Self, DataError> {
        let tokens = tokens_of(examples, codec, tokenizer, packing.t)?;
        let state = PackState { examples: examples.len() as u64, ..PackState::default() };
        Ok(Self { examples, tokens, codec, tokenizer, packing, state, rows: vec![], planned: None })
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> PackState {
        self.state.clone()
    }

    /// Goes on from a saved state.
    pub fn restore(&mut self, state: PackState) -> Result<(), DataError> {
        if state.examples != self.state.examples {
            return Err(DataError::recipe(format!(
                "the checkpoint was made with {} examples and these are {}; a run goes on with the data it began with alone",
                state.examples, self.state.examples
            )));
        }
        self.state = state;
        Ok(())
    }

    /// Rows of the epoch it is in.
    pub fn rows_per_epoch(&mut self) -> usize {
        self.plan();
        self.rows.len()
    }

    fn plan(&mut self) {
        if self.planned != Some(self.state.epoch) {
            let mut order: Vec<usize> = (0..self.examples.len()).collect();
            Rng::new(key_of(self.packing.seed, &format!("pack {}", self.state.epoch))).shuffle(&mut order);
            self.rows = first_fit(&order, &self.tokens, self.packing.t);
            self.planned = Some(self.state.epoch);
        }
    }

    /// The next `b` rows; an epoch's last batch takes rows of the next epoch.
    pub fn next_batch(&mut self, b: usize) -> HostBatch {
        let mut batch = BatchBuilder::new(self.packing.t, self.packing.prompt_weight, self.tokenizer.end_token());
        while batch.rows() < b {
            self.plan();
            let Some(row) = self.rows.get(self.state.next as usize) else {
                self.state.epoch += 1;
                self.state.next = 0;
                continue;
            };
            let tokens: Vec<Tokens> = row.iter().map(|&i| self.drawn(i)).collect();
            batch.row(tokens.iter());
            self.state.next += 1;
        }
        batch.finish()
    }

    /// The tokens of an example in this epoch, its window changed as the packing says.
    fn drawn(&self, i: usize) -> Tokens {
        let example = &self.examples[i];
        let (Some(augment), Some(sensor), Some(readings)) = (&self.packing.augment, &self.codec.sensor, &example.readings) else {
            return self.tokens[i].clone();
        };
        let window = augment.apply(sensor, readings, self.packing.seed, self.state.epoch, i as u64);
        let prompt = self.tokenizer.encode(&self.codec.template.prompt(&example.instruction, &sensor.text(&window)));
        // A reading is one token whatever its value, so the row's plan holds.
        assert_eq!(prompt.len(), self.tokens[i].prompt.len(), "a changed window has as many tokens");
        Tokens { prompt, answer: self.tokens[i].answer.clone() }
    }
}

/// Batches of at most `b` rows with all examples in their order, the same at every call: for validation. The last one may
/// have fewer rows.
pub fn fixed(examples: &[Example], codec: &Codec, tokenizer: &Tokenizer, packing: Packing, b: usize) -> Result<Vec<HostBatch>, DataError> {
    let tokens = tokens_of(examples, codec, tokenizer, packing.t)?;
    let order: Vec<usize> = (0..examples.len()).collect();
    let rows = first_fit(&order, &tokens, packing.t);
    let batch = |rows: &[Vec<usize>]| {
        let mut batch = BatchBuilder::new(packing.t, packing.prompt_weight, tokenizer.end_token());
        rows.iter().for_each(|row| batch.row(row.iter().map(|&i| &tokens[i])));
        batch.finish()
    };
    Ok(rows.chunks(b.max(1)).map(batch).collect())
}

fn tokens_of(examples: &[Example], codec: &Codec, tokenizer: &Tokenizer, t: usize) -> Result<Vec<Tokens>, DataError> {
    if examples.is_empty() {
        return Err(DataError::recipe("there are no examples; prepare data with [readings] or [examples]"));
    }
    let tokens = |e: &Example| {
        let tokens = codec.tokens(tokenizer, e);
        if tokens.positions() > t {
            return Err(DataError::recipe(format!(
                "the example {} takes {} positions and the model has {t}; shorten the window or the instruction, or take a longer context",
                if e.at.is_empty() { &e.input } else { &e.at },
                tokens.positions()
            )));
        }
        Ok(tokens)
    };
    examples.iter().map(tokens).collect()
}

/// Each example goes into the first of the open rows that has room.
fn first_fit(order: &[usize], tokens: &[Tokens], t: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = vec![];
    let mut left: Vec<usize> = vec![];
    for &i in order {
        let need = tokens[i].positions();
        let open = rows.len().saturating_sub(OPEN_ROWS);
        match (open..rows.len()).find(|&r| left[r] >= need) {
            Some(r) => {
                rows[r].push(i);
                left[r] -= need;
            }
            None => {
                rows.push(vec![i]);
                left.push(t - need);
            }
        }
    }
    rows
}

/// Fills rows with documents.
struct BatchBuilder {
    batch: HostBatch,
    prompt_weight: f32,
    pad: u32,
}

impl BatchBuilder {
    fn new(t: usize, prompt_weight: f32, pad: u32) -> Self {
        Self { batch: HostBatch { t, ..HostBatch::default() }, prompt_weight, pad }
    }

    const fn rows(&self) -> usize {
        self.batch.b
    }

    fn row<'t>(&mut self, documents: impl Iterator<Item = &'t Tokens>) {
        let (t, base) = (self.batch.t, self.batch.b * self.batch.t);
        for document in documents {
            let start = self.batch.tokens.len() - base;
            let all = document.prompt.iter().chain(&document.answer).copied();
            let targets = all.clone().skip(1);
            for (k, (token, target)) in all.zip(targets).enumerate() {
                let weight = if k + 1 < document.prompt.len() { self.prompt_weight } else { 1.0 };
                if weight > 0.0 {
                    self.batch.rows.push(self.batch.tokens.len() as u32);
                    self.batch.targets.push(target);
                    self.batch.weights.push(weight);
                }
                self.batch.tokens.push(token);
                self.batch.positions.push(k as u32);
                self.batch.starts.push(start as u32);
            }
        }
        // What is left is a document of its own at every position: nothing sees it, and it sees nothing.
        for at in self.batch.tokens.len() - base..t {
            self.batch.tokens.push(self.pad);
            self.batch.positions.push(0);
            self.batch.starts.push(at as u32);
        }
        self.batch.b += 1;
        assert_eq!(self.batch.tokens.len(), self.batch.b * t, "a row has t positions");
    }

    fn finish(self) -> HostBatch {
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(n: usize) -> Vec<Example> {
        (0..n)
            .map(|i| Example {
                instruction: "Add".into(),
                input: "1 ".repeat(1 + i % 7),
                output: ["a", "b c"][i % 2].into(),
                ..Example::default()
            })
            .collect()
    }

    fn codec() -> Codec {
        Codec::new("Add".into(), vec![], None)
    }

    const PACKING: Packing = Packing { t: 64, prompt_weight: 0.0, seed: 3, augment: None };

    #[test]
    fn rows_hold_whole_documents_and_count_only_answers() {
        let (examples, codec, tokenizer) = (examples(40), codec(), Tokenizer::gpt2());
        let mut packer = Packer::new(&examples, &codec, tokenizer, PACKING).unwrap();
        let n = packer.rows_per_epoch();
        let batch = packer.next_batch(n);
        assert_eq!((packer.state().epoch, packer.state().next), (0, n as u64));
        let answers: usize = examples.iter().map(|e| tokenizer.encode(&e.output).len() + 1).sum();
        assert_eq!((batch.targets.len(), batch.total_weight() as usize), (answers, answers));
        assert_eq!(batch.targets.iter().filter(|&&t| t == tokenizer.end_token()).count(), 40);
        for (i, (&start, &position)) in batch.starts.iter().zip(&batch.positions).enumerate() {
            let within = i % 64;
            assert_eq!(within as u32 - start, position);
            assert!(position == 0 || batch.starts[i - 1] == start);
        }
        // The last token of a prompt is the first row that counts, and each target is the document's next token.
        for (&row, &target) in batch.rows.iter().zip(&batch.targets) {
            let next = row as usize + 1;
            let same = !next.is_multiple_of(64) && batch.starts[next] == batch.starts[row as usize];
            assert!(target == tokenizer.end_token() || same && batch.tokens[next] == target);
        }
        assert!(n < 40 && batch.tokens.len() == n * 64);
    }

    #[test]
    fn the_prompt_can_count_too() {
        let (examples, codec, tokenizer) = (examples(3), codec(), Tokenizer::gpt2());
        let batch = &fixed(&examples, &codec, tokenizer, Packing { prompt_weight: 0.25, ..PACKING }, 8).unwrap()[0];
        let prompts: usize = examples.iter().map(|e| codec.tokens(tokenizer, e).prompt.len() - 1).sum();
        assert_eq!(batch.weights.iter().filter(|&&w| w == 0.25).count(), prompts);
    }

    #[test]
    fn it_goes_on_exactly_where_it_was_and_epochs_differ() {
        let (examples, codec, tokenizer) = (examples(30), codec(), Tokenizer::gpt2());
        let mut one = Packer::new(&examples, &codec, tokenizer, PACKING).unwrap();
        let first = one.next_batch(4);
        for steps in [1, 2, 13] {
            (0..steps).for_each(|_| drop(one.next_batch(4)));
            let mut two = Packer::new(&examples, &codec, tokenizer, PACKING).unwrap();
            two.restore(serde_json::from_str(&serde_json::to_string(&one.state()).unwrap()).unwrap()).unwrap();
            for _ in 0..9 {
                assert_eq!(one.next_batch(4), two.next_batch(4));
            }
        }
        assert!(one.state().epoch > 0);
        one.restore(PackState { epoch: 1, next: 0, examples: 30 }).unwrap();
        assert_ne!(one.next_batch(4), first);
        assert!(one.restore(PackState::default()).is_err());
    }

    #[test]
    fn too_long_an_example_is_named() {
        let mut examples = examples(3);
        examples[2].input = "1 ".repeat(200);
        examples[2].at = "a.csv:4".into();
        let error = Packer::new(&examples, &codec(), Tokenizer::gpt2(), PACKING).err().unwrap().to_string();
        assert!(error.contains("a.csv:4 takes") && error.contains("the model has 64"), "{error}");
    }
}
