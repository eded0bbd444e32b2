//! `tinyllm-run logits`: log-probabilities of the next token, for comparing engines.

use super::common::{ModelArgs, ensure_finite, print_json};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::io::{self, Write};
use tinyllm::infer::log_softmax;

/// Show the likeliest next tokens after a prompt with their log-probabilities (natural logarithm).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run logits model.gguf -p \"The sensor\"
  tinyllm-run logits model.gguf -p \"Ax: 47 52\" --top 3 --json
    {\"tokens\":[31554,25,6298,6740],\"top\":[{\"id\":...,\"text\":\" 49\",\"logprob\":-0.7}, ...]}
  tinyllm-run logits model.gguf --tokens 31554,25,6298 --every --json")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; an empty one is the end token, after which a text begins
    #[arg(short, long, default_value = "")]
    prompt: String,
    /// Token ids instead of a text
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "prompt")]
    tokens: Option<Vec<u32>>,
    /// How many tokens to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Also show what was likely after every earlier token ("every" in JSON, one list a token)
    #[arg(long)]
    every: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A token and its log-probability.
type Likely = (u32, f32);

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let tokens = match &args.tokens {
        Some(tokens) => tokens.clone(),
        None => model.prompt(&args.prompt)?,
    };
    ensure!(!tokens.is_empty(), "--tokens needs at least one token");
    let every = args.model.on_threads(|| {
        let mut session = args.model.session(&model);
        let pieces: Vec<&[u32]> = if args.every { tokens.chunks(1).collect() } else { vec![&tokens] };
        let after = |piece: &[u32]| -> Result<Vec<Likely>> {
            session.feed(piece)?;
            ensure_finite(&model, session.logits().iter().map(|&x| x.into()))?;
            Ok(likeliest(session.logits(), args.top))
        };
        pieces.into_iter().map(after).collect::<Result<Vec<_>>>()
    })?;
    let Some(last) = every.last() else { return Ok(()) };
    let text = |id: u32| model.tokenizer.decode(&[id]);
    let mut out = io::stdout().lock();
    if args.json {
        let list = |top: &[Likely]| -> Value { top.iter().map(|&(id, p)| json!({"id": id, "text": text(id), "logprob": p})).collect() };
        let mut all = json!({"tokens": tokens, "top": list(last)});
        if args.every {
            all["every"] = every.iter().map(|top| list(top)).collect();
        }
        return print_json(&mut out, &all);
    }
    for (i, top) in every.iter().enumerate() {
        if args.every {
            writeln!(out, "after {} {:?}:", tokens[i], text(tokens[i]))?;
        }
        for &(id, p) in top {
            writeln!(out, "{p:>10.5}  {id:>6}  {:?}", text(id))?;
        }
    }
    Ok(out.flush()?)
}

/// The `n` likeliest tokens, likeliest first, the lower number among equals.
fn likeliest(logits: &[f32], n: usize) -> Vec<Likely> {
    let mut logprobs = logits.to_vec();
    log_softmax(&mut logprobs);
    let mut all: Vec<Likely> = (0..).zip(logprobs).collect();
    let falling = |a: &Likely, b: &Likely| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n > 0 && n < all.len() {
        all.select_nth_unstable_by(n - 1, falling);
    }
    all.truncate(n);
    all.sort_unstable_by(falling);
    all
}
