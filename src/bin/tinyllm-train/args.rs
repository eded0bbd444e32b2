//! The command line: what can be typed, with examples that work as pasted.

#[cfg(not(target_arch = "aarch64"))]
use crate::kernels;
use crate::{bench, check, eval, export, finetune, prepare, pretrain, quickstart, ranges};
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
    Check(check::Args),
    #[cfg(not(target_arch = "aarch64"))]
    Kernels(kernels::Args),
}

/// The user stopped a run and its state was saved: no error, but not finished either.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

impl Cli {
    /// Runs the subcommand, inside the pool of threads it computes with: entering it anew for every loop costs tens of
    /// microseconds each, which a small model would feel.
    pub fn run(self) -> anyhow::Result<()> {
        let threads = self.threads.unwrap_or(0);
        if self.threads.is_some() {
            ranges::check(&[("--threads", threads as f64, 1.0, 1024.0)])?;
        }
        if rayon::current_thread_index().is_some() {
            return self.command.run();
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| self.command.run())
    }
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Quickstart(args) => args.run(),
            Self::Prepare(args) => args.run(),
            Self::Pretrain(args) => args.run(),
            Self::Finetune(args) => args.run(),
            Self::Eval(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Check(args) => args.run(),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Kernels(args) => args.run(),
        }
    }
}
