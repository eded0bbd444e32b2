//! What the subcommands share.

use anyhow::{Context, Result};
use std::io::{self, Write};
use std::path::PathBuf;
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
    /// Threads [default: as many as the machine has processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How the session keeps what it has read: f32 is exact, f16 takes half the memory and time, q8 a quarter
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Cache::F16)]
    cache: Cache,
    /// Map packed weights from a file, which is made if it is not there or does not fit: starts are quicker, and processes share the
    /// memory [default FILE: MODEL.gguf.packed]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    packed: Option<Option<PathBuf>>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Cache {
    F32,
    F16,
    Q8,
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

    const fn cache(&self) -> CacheType {
        match self.cache {
            Cache::F32 => CacheType::F32,
            Cache::F16 => CacheType::F16,
            Cache::Q8 => CacheType::Q8,
        }
    }

    fn count(&self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// A session over all of the model's positions.
    pub fn session<'m>(&self, model: &'m Model) -> Session<'m> {
        Session::with(model, model.config.n_ctx, self.cache())
    }

    /// Runs `work` on the threads asked for.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let threads = self.count();
        tinyllm::infer::pool(threads).with_context(|| format!("cannot start {threads} threads"))?.install(work)
    }
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
