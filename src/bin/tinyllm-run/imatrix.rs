//! `tinyllm-run imatrix`: how much each column of a model's matrices matters, on a text.

use super::common::{ModelArgs, ctx, tokens_of, window};
use anyhow::{Result, ensure};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tinyllm::eval::calibration::ENOUGH;
use tinyllm::infer::{self, Model};
use tinyllm::model::io::imatrix::{self, Source};
use tinyllm::progress::Progress;
use tinyllm::quant::Importance;

/// Tell how much each column of a model's matrices matters on a text, for quantizing by it.
///
/// For every matrix that is multiplied, the head too, the mean square of what each of its columns is multiplied with. The file is
/// that of llama.cpp's llama-imatrix: `tinyllm-run quantize --imatrix` and llama-quantize read it. A head that is the embedding of
/// tokens stands under token_embd.weight, where both look for it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run imatrix model-f32.gguf training.txt --out model.imatrix.gguf
  tinyllm-run quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m --imatrix model.imatrix.gguf")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text: a file in UTF-8 (also .gz); - reads standard input
    #[arg(value_name = "TEXT")]
    text: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens that are read in one piece [default: 512, or the model's positions if it has less]
    #[arg(long, value_name = "N", value_parser = ctx)]
    ctx: Option<usize>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    ensure!(!args.out.exists(), "{}: it exists already; remove it, or give another --out", args.out.display());
    let ctx = window(args.ctx, &model)?;
    let tokens = tokens_of(&args.text, &model)?;
    let importance = args.model.on_threads(|| collect(&model, tokens.chunks(ctx), tokens.len()))?;
    let source = Source { text: args.text.display().to_string(), tokens: tokens.len() as u64, window: ctx as u32 };
    imatrix::write(&args.out, &importance, &source)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {} matrices, by {} tokens of {}", args.out.display(), importance.0.len(), tokens.len(), source.text)?;
    Ok(out.flush()?)
}

/// Importance by a text, as many pieces of it, spread evenly, as are enough; on rayon's current pool.
pub fn of_text(model: &Model, text: &Path) -> Result<Importance> {
    let (tokens, ctx) = (tokens_of(text, model)?, window(None, model)?);
    let pieces: Vec<&[u32]> = tokens.chunks(ctx).collect();
    let keep = pieces.len().min(ENOUGH / ctx);
    let chosen: Vec<&[u32]> = (0..keep).map(|i| pieces[i * pieces.len() / keep]).collect();
    let total = chosen.iter().map(|p| p.len()).sum();
    collect(model, chosen, total)
}

fn collect<'t>(model: &Model, pieces: impl IntoIterator<Item = &'t [u32]>, total: usize) -> Result<Importance> {
    let mut progress = Progress::new("importance", "tokens", total as u64);
    Ok(infer::importance(model, pieces, &mut |n| progress.set(n, ""))?)
}
