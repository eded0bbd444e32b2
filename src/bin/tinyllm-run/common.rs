//! What the subcommands share.

use anyhow::{Context, Result, bail};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tinyllm::data::corpus;
use tinyllm::eval::windows::WINDOW;
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

    /// How sessions keep what they have read.
    pub const fn cache(&self) -> CacheType {
        match self.cache {
            Cache::F32 => CacheType::F32,
            Cache::F16 => CacheType::F16,
            Cache::Q8 => CacheType::Q8,
        }
    }

    /// A session over all of the model's positions.
    pub fn session<'m>(&self, model: &'m Model) -> Session<'m> {
        Session::with(model, model.config.n_ctx, self.cache())
    }

    /// Runs `work` on the threads asked for.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_threads(self.threads, work)
    }
}

/// Runs `work` on so many threads, or as many as the machine has processors.
pub fn on_threads<T: Send>(threads: Option<u16>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let threads = threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    tinyllm::infer::pool(threads).with_context(|| format!("cannot start {threads} threads"))?.install(work)
}

/// The tokens of a text file, at least two; `-` is standard input.
pub fn tokens_of(path: &Path, model: &Model) -> Result<Vec<u32>> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin()).context("standard input: cannot read it as UTF-8 text")?
    } else {
        corpus::text(path)?
    };
    let tokens = model.tokenizer.encode(&text);
    match tokens.len() {
        0 => bail!("{}: the text is empty", path.display()),
        1 => bail!("{}: the text is one token, and it takes two to tell one from what stands before it", path.display()),
        _ => Ok(tokens),
    }
}

/// Tokens of a window, where they are not given: llama.cpp's, or as many as the model has positions.
pub fn window(given: Option<usize>, model: &Model) -> Result<usize> {
    let most = model.config.n_ctx;
    match given {
        None => Ok(most.min(WINDOW)),
        Some(n) if n <= most => Ok(n),
        Some(n) => bail!("--ctx {n}: the model has {most} positions"),
    }
}

/// `--ctx`: at least two tokens.
pub fn ctx(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n >= 2).ok_or_else(|| "a window has 2 tokens or more".into())
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
