//! `tinyllm-run quantize`: a model file in fewer bits.

use super::common::print_json;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;
use tinyllm::gguf::Gguf;
use tinyllm::infer::Model;
use tinyllm::model::io::imatrix;
use tinyllm::model::io::requantize::{self, Change, Options};
use tinyllm::progress::Progress;
use tinyllm::quant::FileType;
use tinyllm::simd::Isa;

/// Write a GPT-2's GGUF file in another type.
///
/// Tensors get the formats that llama.cpp gives them under the same name, and without --imatrix the same bytes. Shown are each
/// tensor's formats, its size and its error: the root mean square of what rounding took, as a part of the weights'.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m
  tinyllm-run quantize model-f16.gguf model-q2_k.gguf --type q2_k --imatrix model.imatrix.gguf
  tinyllm-run quantize model-f16.gguf model-q4_0.gguf --type q4_0 --json | jq .bits_per_weight")]
pub struct Args {
    /// The model: a GGUF file of a GPT-2, best of F32 or F16
    #[arg(value_name = "IN.gguf")]
    input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// f32, f16, bf16, q8_0, q6_k, q5_1, q5_k_m, q5_k_s, q5_0, q4_1, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m, q3_k_s or q2_k; q4_k is q4_k_m
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    ty: FileType,
    /// How much each column matters: a file of llama.cpp's llama-imatrix (in GGUF form)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Round tensors that are quantized already once more, which costs quality
    #[arg(long)]
    allow_requantize: bool,
    /// Threads [default: as many as the machine has processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A type by name.
fn file_type(name: &str) -> Result<FileType, String> {
    FileType::named(name).ok_or_else(|| format!("there is no such type; the types are {}", FileType::names()))
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let file = Gguf::open(&args.input)?;
    ensure!(!args.output.exists(), "{}: it exists already; remove it, or give another name", args.output.display());
    // What cannot be run is not worth rounding: a file that is no whole GPT-2 is refused here.
    Model::from_gguf(Gguf::open(&args.input)?, Isa::detect())?;
    let importance = args.imatrix.as_deref().map(imatrix::read).transpose()?;
    let options = Options { importance: importance.as_ref(), allow_requantize: args.allow_requantize };
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().with_context(|| format!("cannot start {threads} threads"))?;
    let start = Instant::now();
    let total = file.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum();
    let mut progress = Progress::new("quantizing", "weights", total);
    let changes = pool.install(|| {
        let mut told = |done: u64, change: Option<&Change>| progress.set(done, change.map_or("", |c| c.name.as_str()));
        requantize::quantize(&file, &args.output, args.ty, &options, &mut told)
    })?;
    drop(progress);
    let seconds = start.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&args.output).with_context(|| args.output.display().to_string())?.len();
    let weights: u64 = changes.iter().map(|c| c.weights).sum();
    let bits = 8.0 * changes.iter().map(|c| c.bytes).sum::<u64>() as f64 / weights as f64;
    let mut out = io::stdout().lock();
    if args.json {
        let tensors: Vec<Value> = changes
            .iter()
            .map(|c| json!({"name": c.name, "from": c.from, "to": c.to, "weights": c.weights, "bytes": c.bytes, "error": c.error, "importance": c.weighed}))
            .collect();
        let all = json!({
            "file": args.output.display().to_string(), "type": args.ty.name(), "file_bytes": bytes, "file_bytes_before": file.file_len(),
            "parameters": weights, "bits_per_weight": bits, "seconds": seconds, "tensors": tensors,
        });
        return print_json(&mut out, &all);
    }
    for c in changes.iter().filter(|c| c.error.is_some()) {
        let weighed = if c.weighed { "  (weighed)" } else { "" };
        writeln!(
            out,
            "{:<26} {:>5} -> {:<5} {:>9.2} MB -> {:>8.2} MB  error {:.5}{weighed}",
            c.name,
            c.from,
            c.to,
            c.bytes_before as f64 / 1e6,
            c.bytes as f64 / 1e6,
            c.error.unwrap_or(0.0)
        )?;
    }
    let copied = changes.iter().filter(|c| c.error.is_none());
    let (n, copied) = copied.fold((0, 0), |(n, bytes), c| (n + 1, bytes + c.bytes));
    writeln!(out, "{n} tensors as they were: {:.2} MB", copied as f64 / 1e6)?;
    let (before, after) = (file.file_len() as f64 / 1e6, bytes as f64 / 1e6);
    writeln!(
        out,
        "{}: {}, {before:.2} MB -> {after:.2} MB, {bits:.3} bits a weight, {seconds:.1} s",
        args.output.display(),
        args.ty.name()
    )?;
    Ok(out.flush()?)
}
