//! `tinyllm-run logits`: log-probabilities of the next token, for comparing engines.

use super::common::{ModelArgs, print_json};
use anyhow::Result;
use serde_json::json;
use std::io::{self, Write};
use tinyllm::infer::log_softmax;

/// Show the likeliest next tokens after a prompt with their log-probabilities (natural logarithm).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run logits model.gguf -p \"The sensor\"
  tinyllm-run logits model.gguf -p \"Ax: 47 52\" --top 3 --json
    {\"tokens\":[31554,25,6298,6740],\"top\":[{\"id\":...,\"text\":\" 49\",\"logprob\":-0.7}, ...]}")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; an empty one is the end token, after which a text begins
    #[arg(short, long, default_value = "")]
    prompt: String,
    /// How many tokens to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let prompt = model.prompt(&args.prompt);
    let mut logprobs = args.model.on_threads(|| {
        let mut session = args.model.session(&model);
        session.feed(&prompt)?;
        Ok(session.logits().to_vec())
    })?;
    log_softmax(&mut logprobs);
    let mut ids: Vec<u32> = (0..logprobs.len() as u32).collect();
    ids.sort_by(|&a, &b| logprobs[b as usize].total_cmp(&logprobs[a as usize]));
    ids.truncate(args.top);
    if args.json {
        let top: Vec<_> =
            ids.iter().map(|&id| json!({"id": id, "text": model.tokenizer.decode(&[id]), "logprob": logprobs[id as usize]})).collect();
        return print_json(&mut io::stdout().lock(), &json!({"tokens": prompt, "top": top}));
    }
    let mut out = io::stdout().lock();
    for id in ids {
        writeln!(out, "{:>10.5}  {id:>6}  {:?}", logprobs[id as usize], model.tokenizer.decode(&[id]))?;
    }
    Ok(())
}
