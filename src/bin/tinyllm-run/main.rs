//! Runs a TinyLLM (or any GPT-2) model from a GGUF file. One file a subcommand; the library does the work.

mod bench;
mod classify;
mod common;
mod generate;
mod imatrix;
mod info;
mod logits;
mod pack;
mod perplexity;
mod quantize;
mod random;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tinyllm::progress::told;

/// Run a small GPT-2 model from a GGUF file: generate text, classify sensor readings, make the file smaller, see what that costs, time
/// it.
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
    Perplexity(perplexity::Args),
    Imatrix(imatrix::Args),
    Quantize(quantize::Args),
    Pack(pack::Args),
    Bench(bench::Args),
    Random(random::Args),
    #[command(hide = true)]
    BenchInstance(bench::instance::Args),
    #[command(hide = true)]
    BenchBusy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Info(args) => info::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Classify(args) => classify::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Random(args) => random::run(&args),
        Command::BenchInstance(args) => bench::instance::run(&args),
        Command::BenchBusy => bench::instance::busy(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if common::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", told(&*e));
            ExitCode::FAILURE
        }
    }
}
