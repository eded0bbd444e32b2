//! `tinyllm-train`: from sensor readings and text to a model file for a board.

mod args;
mod bench;
mod calibrate;
mod check;
mod device;
mod eval;
mod export;
mod finetune;
#[cfg(not(target_arch = "aarch64"))]
mod kernels;
mod launch;
mod prepare;
mod pretrain;
mod quickstart;
mod ranges;

use clap::Parser;
use std::process::ExitCode;
use tinyllm::progress::told;

fn main() -> ExitCode {
    let args = args::Cli::parse();
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<args::Stopped>() => ExitCode::from(130),
        Err(error) if error.is::<ranges::Usage>() => {
            eprintln!("tinyllm-train: {error}");
            ExitCode::from(2)
        }
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tinyllm-train: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has enough (`| head`): no reason to complain.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
