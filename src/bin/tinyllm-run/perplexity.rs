//! `tinyllm-run perplexity`: how well a model predicts a text, and how far it is from another.

use super::common::{ModelArgs, ctx, print_json, tokens_of, window};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;
use tinyllm::eval::Windows;
use tinyllm::eval::perplexity::{Comparison, Estimate, compare, perplexity};
use tinyllm::infer::Model;
use tinyllm::progress::Progress;
use tinyllm::simd::Isa;

/// Tell how well a model predicts a text, and what quantizing it cost.
///
/// Perplexity is e to the mean of -ln p(token | tokens before it), as llama.cpp's llama-perplexity measures it: the text is cut into
/// windows of --ctx tokens, each read from its beginning, and scored are the tokens behind the first half (and one) of each: 255 of 512.
/// What remains behind the last whole window is left out; a text shorter than a window is one window. Standard errors (+-) take the
/// scores for independent.
///
/// With --against, the same places of another model, usually the unquantized one, are compared: the Kullback-Leibler divergence
/// sum p ln (p / q) over the vocabulary, p being the other's probabilities and q the model's, in nats a token; where the likeliest
/// token is the same; and how the log-probability of the text's own token moved. The other model reads with an exact cache, whatever
/// --cache is, so that a model against itself tells what the cache costs.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run perplexity model-q4_k_m.gguf held-out.txt
  tinyllm-run perplexity model-q4_k_m.gguf held-out.txt.gz --against model-f32.gguf
  tinyllm-run perplexity model.gguf text --against model.gguf --cache q8     what a cache of 8 bits costs
  tinyllm-run perplexity model.gguf text --ctx 256 --json | jq .perplexity
  llama-perplexity -m model.gguf -f text -c 512              the same figure by llama.cpp")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text: a file in UTF-8 (also .gz); - reads standard input
    #[arg(value_name = "TEXT")]
    text: PathBuf,
    /// Another model of the same vocabulary, to compare with
    #[arg(long, value_name = "F32.gguf")]
    against: Option<PathBuf>,
    /// Tokens of a window [default: 512, or the model's positions if it has less]
    #[arg(long, value_name = "N", value_parser = ctx)]
    ctx: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let ctx = window(args.ctx, &model)?;
    let other = args.against.as_deref().map(|path| Model::open_for(path, Isa::from_env()?).map_err(anyhow::Error::from)).transpose()?;
    if let Some(other) = &other {
        same_vocabulary(&model, other)?;
        let (path, most) = (other.file.path().display(), other.config.n_ctx);
        ensure!(most >= ctx, "{path}: it has {most} positions, and the windows {ctx} tokens: give --ctx {most}");
    }
    let tokens = tokens_of(&args.text, &model)?;
    let all = tokens.len();
    let windows = Windows::of_text(tokens, ctx).context("the text has no two tokens")?;
    let start = Instant::now();
    let mut progress = Progress::new("perplexity", "tokens", windows.read() as u64);
    let mut told = |n: usize| progress.add(n as u64);
    let (own, compared) = args.model.on_threads(|| match &other {
        None => Ok((perplexity(&model, &windows, args.model.cache(), &mut told)?, None)),
        Some(other) => {
            let compared = compare(&model, other, &windows, args.model.cache(), &mut told)?;
            Ok((compared.perplexity, Some(compared)))
        }
    })?;
    drop(progress);
    let seconds = start.elapsed().as_secs_f64();
    let mut out = io::stdout().lock();
    if args.json {
        let mut told = json!({
            "model": args.model.model.display().to_string(), "text": args.text.display().to_string(), "tokens": all, "ctx": windows.longest(),
            "windows": windows.count(), "scored": windows.scored(), "perplexity": own.mean, "perplexity_error": own.error, "seconds": seconds,
        });
        if let (Some(path), Some(c)) = (&args.against, &compared) {
            told["against"] = in_json(&path.display().to_string(), c);
        }
        return print_json(&mut out, &told);
    }
    writeln!(out, "perplexity {}", show(own, 4))?;
    if let (Some(path), Some(c)) = (&args.against, &compared) {
        writeln!(out, "against {}, whose perplexity is {}", path.display(), show(c.other, 4))?;
        writeln!(out, "  ratio of perplexities       {}", show(c.ratio, 5))?;
        writeln!(out, "  log-probability moved by    {}", show(c.difference, 5))?;
        let [median, most, maximum] = c.quantiles;
        writeln!(out, "  divergence, nats a token    {}", show(c.divergence, 6))?;
        writeln!(out, "    median {median:.6}, 99 % below {most:.6}, maximum {maximum:.6}")?;
        let same = Estimate { mean: 100.0 * c.same_top.mean, error: 100.0 * c.same_top.error };
        writeln!(out, "  same likeliest token        {} %", show(same, 2))?;
    }
    writeln!(
        out,
        "{} tokens scored in {} windows of {}, of {all} in the text; {seconds:.1} s",
        windows.scored(),
        windows.count(),
        windows.longest()
    )?;
    Ok(out.flush()?)
}

fn show(e: Estimate, digits: usize) -> String {
    format!("{:.digits$} +- {:.digits$}", e.mean, e.error)
}

fn in_json(path: &str, c: &Comparison) -> Value {
    let [median, p99, maximum] = c.quantiles;
    json!({
        "model": path, "perplexity": c.other.mean, "perplexity_error": c.other.error,
        "ratio": c.ratio.mean, "ratio_error": c.ratio.error,
        "logprob_difference": c.difference.mean, "logprob_difference_error": c.difference.error,
        "kl": {"mean": c.divergence.mean, "error": c.divergence.error, "median": median, "p99": p99, "max": maximum},
        "same_top": c.same_top.mean, "same_top_error": c.same_top.error,
    })
}

/// Refuses to compare models whose tokens are not the same.
fn same_vocabulary(model: &Model, other: &Model) -> Result<()> {
    let (a, b) = (model.file.path().display(), other.file.path().display());
    let (v, w) = (model.config.vocab(), other.config.vocab());
    ensure!(v == w, "{a} has a vocabulary of {v} tokens and {b} one of {w}: they cannot be compared");
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let (mut x, mut y) = (model.file.strings(key)?, other.file.strings(key)?);
        ensure!(x.by_ref().eq(y.by_ref()), "{a} and {b} have different vocabularies ({key}): they cannot be compared");
    }
    Ok(())
}
