//! The command line: what can be typed, with examples that work as pasted.

use crate::{bench, eval, export, finetune, prepare, pretrain, quickstart, ranges};
use clap::{Parser, Subcommand};

/// Makes small language models that read sensors: prepares data, pre-trains, fine-tunes, evaluates, exports GGUF.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Start here:\n  tinyllm-train quickstart          the whole chain on real data in a few minutes\n\nExit codes: 0 done, 1 an error (told on standard error), 2 wrong usage, 130 stopped by Ctrl-C after saving."
)]
pub struct Cli {
    /// Threads to compute with; all cores where it is not given. Results do not depend on it.
    #[arg(short = 't', long, global = true, value_name = "N")]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Args),
    Prepare(prepare::Args),
    Pretrain(pretrain::Args),
    Finetune(finetune::Args),
    Eval(eval::Args),
    Export(export::Args),
    Bench(bench::Args),
}

/// The user stopped a run and its state was saved: no error, but not finished either.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

impl Cli {
    /// Runs the subcommand.
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(threads) = self.threads {
            ranges::check(&[("--threads", threads as f64, 1.0, 1024.0)])?;
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        }
        match self.command {
            Command::Quickstart(args) => args.run(),
            Command::Prepare(args) => args.run(),
            Command::Pretrain(args) => args.run(),
            Command::Finetune(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Bench(args) => args.run(),
        }
    }
}
