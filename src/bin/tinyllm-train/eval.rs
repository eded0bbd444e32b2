//! `eval`: how right a model is on a split, beside what needs no model.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use tinyllm::backend::cpu::Cpu;
use tinyllm::data::labels::{self, Trie};
use tinyllm::data::prepared::Prepared;
use tinyllm::data::{Example, Split, Tokenizer};
use tinyllm::eval::baselines::{self, Baseline};
use tinyllm::eval::{Confusion, Report, score};
use tinyllm::model::Decoder;
use tinyllm::progress::Progress;
use tinyllm::train::Learner;
use tinyllm::train::checkpoint::{self, Model};
use tinyllm::train::config::cpu_micro_batch;

/// Examples that are scored between two signs of progress.
const AT_ONCE: usize = 32;
/// How far the paper looks for the label.
const FIRST_TOKENS: usize = 4;

/// Judges a fine-tuned model on a split: accuracy, macro-F1, confusion, beside baselines on the same examples.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-train eval runs/task --data data --split test
  tinyllm-train eval runs/task/last --data data --split validation --json")]
pub struct Args {
    /// A run's folder (its best checkpoint is used) or a checkpoint in it.
    run: PathBuf,
    /// The folder that `prepare` made.
    #[arg(long)]
    data: PathBuf,
    /// Which examples.
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    split: SplitName,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// What `--split` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SplitName {
    Train,
    Validation,
    Test,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let data = Prepared::open(&self.data)?;
        let split = match self.split {
            SplitName::Train => Split::Train,
            SplitName::Validation => Split::Validation,
            SplitName::Test => Split::Test,
        };
        let (report, _) = judge(&checkpoint::load_model(&self.run)?, &data, split)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{report}");
        }
        Ok(())
    }
}

/// The report of a model on a split, and the log-probabilities of the labels for each example.
pub fn judge(model: &Model, data: &Prepared, split: Split) -> Result<(Report, Vec<Vec<f64>>)> {
    let (codec, labels) = (data.task_codec()?, data.labels());
    ensure!(!labels.is_empty(), "{}: these data have no labels to judge by; name them in the recipe", data.path.display());
    check_tokenizer(model, &data.tokenizer, &data.path)?;
    let (test, train) = (data.examples(split)?, data.examples(Split::Train)?);
    ensure!(!test.is_empty(), "{}: its {} split has no examples", data.path.display(), split.name());
    let class = |e: &Example| {
        labels.iter().position(|l| *l == e.output).with_context(|| format!("{}: '{}' is not among the labels", e.at, e.output))
    };
    let truths = test.iter().map(class).collect::<Result<Vec<_>>>()?;
    let train_truths = train.iter().map(class).collect::<Result<Vec<_>>>()?;

    let trie = Trie::new(labels, &data.tokenizer)?;
    let ctx = model.config.n_ctx;
    let rows = cpu_micro_batch(&model.config, ctx) * ctx;
    let mut learner = Learner::new(Cpu::from_env()?, Decoder::spec(&model.config, None), &model.weights, |_| false, rows, true)?;
    let prompts: Vec<Vec<u32>> = test.iter().map(|e| codec.tokens(&data.tokenizer, e).prompt).collect();
    let deepest = trie.branches().map(|(_, node)| node.prefix.len()).max().unwrap_or(0).max(FIRST_TOKENS);
    if let Some((p, e)) = prompts.iter().zip(&test).find(|(p, _)| p.len() + deepest > ctx) {
        anyhow::bail!(
            "{}: its prompt takes {} tokens, and with the answer it does not fit the model's {ctx}; prepare shorter windows",
            e.at,
            p.len()
        );
    }
    let mut progress = Progress::new("eval", "examples", test.len() as u64);
    let (mut scores, mut within) = (Vec::new(), 0);
    for (chunk, examples) in prompts.chunks(AT_ONCE).zip(test.chunks(AT_ONCE)) {
        scores.extend(score::label_log_probs(&mut learner, &trie, chunk, ctx, rows)?);
        let said = score::continue_greedily(&mut learner, chunk, FIRST_TOKENS, data.tokenizer.end_token(), ctx, rows)?;
        within += said.iter().zip(examples).filter(|(s, e)| starts_right(&data.tokenizer, s, e, labels)).count();
        progress.add(chunk.len() as u64);
    }
    let answers: Vec<usize> = scores.iter().map(|s| labels::likeliest(s)).collect();
    let all: Vec<Baseline> = baselines::baselines(&train, &train_truths, &test, labels.len());
    let mean = scores.iter().zip(&truths).map(|(s, &t)| s[t]).sum::<f64>() / test.len() as f64;
    Ok((Report::new(Confusion::new(labels, &truths, &answers), &truths, &all, within as f64 / test.len() as f64, mean), scores))
}

/// The paper's measure for one example: what is generated begins with the right label and with no longer one. A label of
/// more tokens than were generated is right as far as they go; an answer that ended by itself must be the whole label.
fn starts_right(tokenizer: &Tokenizer, said: &[u32], example: &Example, labels: &[String]) -> bool {
    let text = tokenizer.decode(said);
    let text = text.trim();
    let whole = labels.iter().filter(|l| text.starts_with(l.as_str())).max_by_key(|l| l.len());
    let begun = || (said.len() == FIRST_TOKENS && !text.is_empty()).then(|| labels.iter().find(|l| l.starts_with(text))).flatten();
    whole.or_else(begun).is_some_and(|l| *l == example.output)
}

/// A model and data of different vocabularies would give nonsense without an error.
pub fn check_tokenizer(model: &Model, tokenizer: &Tokenizer, data: &Path) -> Result<()> {
    ensure!(
        model.config.vocab() == tokenizer.n_vocab() && model.tokenizer.merges_txt == tokenizer.merges_txt(),
        "{}: its tokenizer is not the one that {} was trained with; give --data the folder of that training",
        data.display(),
        model.dir.display()
    );
    Ok(())
}
