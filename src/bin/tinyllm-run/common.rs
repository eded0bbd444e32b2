//! What the subcommands share.

use anyhow::{Context, Result, ensure};
use std::io::{self, Write};
use std::path::PathBuf;
use tinyllm::infer::{CacheType, Model, Session};
use tinyllm::simd::Isa;

/// The model and how to run it.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model: a GGUF file of a GPT-2, as `tinyllm-train export` writes it
    #[arg(value_name = "MODEL.gguf")]
    pub model: PathBuf,
    /// Threads [default: as many as the machine has processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How the session keeps what it has read: f32 is exact, f16 takes half the memory and time, q8 a quarter
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Cache::F16)]
    cache: Cache,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Cache {
    F32,
    F16,
    Q8,
}

impl ModelArgs {
    /// Opens the model.
    pub fn open(&self) -> Result<Model> {
        Ok(Model::open_for(&self.model, Isa::from_env()?)?)
    }

    /// A session over all of the model's positions.
    pub fn session<'m>(&self, model: &'m Model) -> Session<'m> {
        let ty = match self.cache {
            Cache::F32 => CacheType::F32,
            Cache::F16 => CacheType::F16,
            Cache::Q8 => CacheType::Q8,
        };
        Session::with(model, model.config.n_ctx, ty)
    }

    /// Runs `work` on the threads asked for.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let threads = self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        tinyllm::infer::pool(threads).with_context(|| format!("cannot start {threads} threads"))?.install(work)
    }
}

/// Refuses results that are no numbers: weights that are none have gone into them.
pub fn ensure_finite(model: &Model, results: impl IntoIterator<Item = f64>) -> Result<()> {
    let what = "what the model says is no number: weights in the file are damaged; copy or export it again";
    ensure!(results.into_iter().all(f64::is_finite), "{}: {what}", model.file.path().display());
    Ok(())
}

/// Prints a line of JSON and sees that it gets there.
pub fn print_json(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

/// Whether an error is that of a reader who has seen enough.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
