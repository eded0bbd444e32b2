//! `tinyllm-run pack`: packed weights in a file beside the model.

use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Instant;
use tinyllm::gguf::Gguf;
use tinyllm::infer;
use tinyllm::progress::Progress;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::{Dots, Layout};

/// Make the file of packed weights that --packed maps, so that no start has to.
///
/// Weights are packed for the processor at hand, or for another one by its name. A file that is there already is read whole and made
/// anew if it is of another model or processor, or damaged. Copy it with the model; a changed time of modification does no harm.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run pack model.gguf                              makes model.gguf.packed, for this machine
  tinyllm-run pack model.gguf --for neon                   for a board with a Cortex-A53 (Raspberry Pi 3, Orange Pi Zero 2W)
  tinyllm-run pack model.gguf --for dotprod                for one with a Cortex-A76 (Raspberry Pi 5)
  tinyllm-run classify model.gguf readings.csv --packed    uses it")]
pub struct Args {
    /// The model: a GGUF file
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,
    /// The file to write [default: MODEL.gguf.packed]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The instructions to pack for: avx512-vnni, avx-vnni, avx2, i8mm, dotprod, neon or plain [default: this machine's]
    #[arg(long = "for", value_name = "SET", value_parser = layout)]
    layout: Option<Layout>,
}

/// A layout by the name of its instructions.
fn layout(name: &str) -> Result<Layout, String> {
    let names = || Layout::NAMED.map(|(name, _)| name).join(", ");
    Layout::named(name).ok_or_else(|| format!("there is no such set; the sets are {}", names()))
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let file = Gguf::open(&args.model)?;
    let layout = match args.layout {
        Some(layout) => layout,
        None => Dots::under(Isa::from_env()?).layout(),
    };
    let path = args.out.clone().unwrap_or_else(|| infer::packed_path(&args.model));
    let start = Instant::now();
    let mut progress = None;
    let (bytes, why) = infer::pack(&file, layout, &path, &mut |done, total| {
        progress.get_or_insert_with(|| Progress::new("packing", "bytes", total)).set(done, "");
    })
    .with_context(|| format!("{}", args.model.display()))?;
    drop(progress);
    let (name, mb, seconds) = (path.display(), bytes as f64 / 1e6, start.elapsed().as_secs_f64());
    match why {
        Some(why) => println!("{name}: made, {mb:.1} MB in {seconds:.1} s: {why}"),
        None => println!("{name}: whole and up to date, {mb:.1} MB"),
    }
    Ok(())
}
