//! `tinyllm-run random`: a model of random weights, to see what a size and a type need before one is trained.

use anyhow::{Context, Result};
use std::path::PathBuf;
use tinyllm::data::Tokenizer;
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::model::{Config, Decoder, init};
use tinyllm::quant::FileType;

/// Write a GGUF file of random weights with GPT-2's vocabulary: it says nothing, as fast as a trained model of its size and type.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run random 30m --type q8_0 --out random.gguf && tinyllm-run bench random.gguf      will this board do?")]
pub struct Args {
    /// 30m, 51m, 82m, 102m, 124m, nano, or a TOML file of sizes
    #[arg(value_name = "SIZE", value_parser = Config::named)]
    size: Config,
    /// How matrices are stored: q8_0, q4_k_m, q2_k, f16, ...
    #[arg(long = "type", value_name = "TYPE")]
    ty: FileType,
    /// The file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    anyhow::ensure!(!args.out.exists(), "{}: it exists already; remove it, or give another --out", args.out.display());
    let tokenizer = Tokenizer::gpt2();
    let config = Config { n_vocab: Some(tokenizer.n_vocab()), ..args.size.clone() };
    eprintln!("drawing {:.1} million weights", config.parameters() as f64 / 1e6);
    let weights = init::initial(&Decoder::spec(&config, None), 1);
    let card = Card {
        name: format!("random {:.1}M", config.parameters() as f64 / 1e6),
        tokens: tokenizer.gguf_tokens(),
        merges: tokenizer.gguf_merges(),
        end_token: tokenizer.end_token(),
        ..Card::default()
    };
    gguf::write(&args.out, &config, &weights, &card, args.ty)?;
    let bytes = std::fs::metadata(&args.out).with_context(|| args.out.display().to_string())?.len();
    eprintln!("{}: {}, {:.2} MB", args.out.display(), args.ty.name(), bytes as f64 / 1e6);
    Ok(())
}
