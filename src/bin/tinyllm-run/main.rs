//! Runs a TinyLLM (or any GPT-2) model from a GGUF file. One file a subcommand; the library does the work.

mod classify;
mod common;
mod generate;
mod info;
mod logits;
mod pack;
mod quantize;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run a small GPT-2 model from a GGUF file: generate text, classify sensor readings, make the file smaller.
///
/// Exit status: 0 done, 1 an error (said on standard error), 2 a command line that makes no sense. A reader that
/// closes the pipe early (`... | head`) is no error.
#[derive(Parser)]
#[command(name = "tinyllm-run", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Info(info::Args),
    Generate(generate::Args),
    Logits(logits::Args),
    Classify(classify::Args),
    Quantize(quantize::Args),
    Pack(pack::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Info(args) => info::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Classify(args) => classify::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Pack(args) => pack::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if common::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
