//! What the subcommands share.

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tinyllm::cores;
use tinyllm::data::corpus;
use tinyllm::eval::windows::WINDOW;
use tinyllm::gguf::Gguf;
use tinyllm::infer::{self, CacheType, Model, Need, Session, Told};
use tinyllm::progress::Progress;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::Dots;

/// The model and how to run it.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model: a GGUF file of a GPT-2, as `tinyllm-train export` writes it
    #[arg(value_name = "MODEL.gguf")]
    pub model: PathBuf,
    /// Threads; auto: one for each fast core of the machine, and no slow ones
    #[arg(short, long, value_name = "N", value_parser = Threads::parse, default_value = "auto")]
    threads: Threads,
    /// How the session keeps what it has read: f32 is exact, f16 takes half the memory and time, q8 a quarter
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Cache::F16)]
    cache: Cache,
    /// Map packed weights from a file, which is made if it is not there or does not fit: starts are quicker, and processes share the
    /// memory [default FILE: MODEL.gguf.packed]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    packed: Option<Option<PathBuf>>,
}

/// The types of a cache, as the command line names them.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Cache {
    F32,
    F16,
    Q8,
}

impl Cache {
    /// As the library has it.
    pub const fn ty(self) -> CacheType {
        match self {
            Self::F32 => CacheType::F32,
            Self::F16 => CacheType::F16,
            Self::Q8 => CacheType::Q8,
        }
    }
}

/// How many threads are to run a model; `None`: as many as there are fast cores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Threads(pub Option<u16>);

impl Threads {
    /// Most threads that can be asked for.
    const MOST: u16 = 1024;

    /// Reads "auto" or a number.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let number = text.parse().ok().filter(|n| (1..=Self::MOST).contains(n));
        number.map(|n| Self(Some(n))).ok_or_else(|| format!("auto or a number from 1 to {} is needed", Self::MOST))
    }

    /// The number. If so many fit onto the fast cores, this thread and those that it starts from here on keep to them.
    pub fn settle(self) -> usize {
        let fast = cores::fast();
        let threads = self.0.map_or(fast.threads, usize::from);
        if threads <= fast.processors.len() {
            cores::keep_to(&fast);
        }
        threads
    }
}

impl ModelArgs {
    /// Opens the model, if there is memory for it.
    pub fn open(&self) -> Result<Model> {
        let isa = Isa::from_env()?;
        let file = Gguf::open(&self.model)?;
        let layout = Dots::under(isa).layout();
        // A file that is no model is refused by what reads it.
        if let Ok(need) = Need::of(&file, layout, self.cache(), self.count(), self.packed.is_some()) {
            need.check(&self.model)?;
        }
        let Some(packed) = &self.packed else { return Ok(Model::from_gguf(file, isa)?) };
        let path = packed.clone().unwrap_or_else(|| infer::packed_path(&self.model));
        let mut progress = None;
        let model = Model::with_packed(file, isa, &path, &mut |told| match told {
            Told::Packing { done, total } => progress.get_or_insert_with(|| Progress::new("packing", "bytes", total)).set(done, ""),
            Told::Note(text) => {
                progress = None;
                eprintln!("{text}");
            }
        });
        Ok(model?)
    }

    fn count(&self) -> usize {
        self.threads.0.map_or_else(|| cores::fast().threads, usize::from)
    }

    /// How sessions keep what they have read.
    pub const fn cache(&self) -> CacheType {
        self.cache.ty()
    }

    /// A session over all of the model's positions.
    pub fn session<'m>(&self, model: &'m Model) -> Session<'m> {
        Session::with(model, model.config.n_ctx, self.cache())
    }

    /// Runs `work` on the threads asked for.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_threads(self.threads.settle(), work)
    }
}

/// Refuses results that are no numbers: weights that are none have gone into them.
pub fn ensure_finite(model: &Model, results: impl IntoIterator<Item = f64>) -> Result<()> {
    let what = "what the model says is no number: weights in the file are damaged; copy or export it again";
    ensure!(results.into_iter().all(f64::is_finite), "{}: {what}", model.file.path().display());
    Ok(())
}

/// Runs `work` on so many threads.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    tinyllm::infer::pool(threads).with_context(|| format!("cannot start {threads} threads"))?.install(work)
}

/// The tokens of a text file, at least two; `-` is standard input.
pub fn tokens_of(path: &Path, model: &Model) -> Result<Vec<u32>> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin()).context("standard input: cannot read it as UTF-8 text")?
    } else {
        corpus::text(path)?
    };
    let tokens = model.tokenizer.encode(&text)?;
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
