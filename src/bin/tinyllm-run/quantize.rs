//! `tinyllm-run quantize`: a model file in fewer bits.

use super::common::{on_threads, print_json, tokens_of, window};
use super::imatrix::of_text;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinyllm::eval::Windows;
use tinyllm::eval::auto::{self, BOUND, Mix, Settings, Target};
use tinyllm::gguf::Gguf;
use tinyllm::infer::Model;
use tinyllm::model::io::imatrix;
use tinyllm::model::io::requantize::{self, Change, Options};
use tinyllm::progress::Progress;
use tinyllm::quant::Importance;
use tinyllm::simd::Isa;

/// Write a GPT-2's GGUF file in another type.
///
/// Tensors get the formats that llama.cpp gives them under the same name, and without --imatrix the same bytes. Shown are each
/// tensor's formats, its size and its error: the root mean square of what rounding took, as a part of the weights'.
///
/// The type auto is the smallest mix of formats whose answers on --text stay within --max-kl of the unquantized model's: each matrix
/// gets each format in turn, what that costs is measured, and what saves most bytes for the least is taken until the bound is
/// reached; the whole is measured, too. It takes some minutes for 124 million parameters, and the file runs wherever the others do.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m
  tinyllm-run quantize model-f16.gguf model-q2_k.gguf --type q2_k --imatrix training.txt
  tinyllm-run quantize model-f32.gguf model-auto.gguf --type auto --text held-out.txt --imatrix training.txt
  tinyllm-run quantize model-f16.gguf model-q4_0.gguf --type q4_0 --json | jq .bits_per_weight")]
pub struct Args {
    /// The model: a GGUF file of a GPT-2, best of F32 or F16
    #[arg(value_name = "IN.gguf")]
    input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// f32, f16, bf16, q8_0, q6_k, q5_1, q5_k_m, q5_k_s, q5_0, q4_1, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m, q3_k_s, q2_k or auto; q4_k is
    /// q4_k_m
    #[arg(long = "type", value_name = "TYPE")]
    ty: Target,
    /// How much each column matters: a text to tell it by (also .gz), or a file of `tinyllm-run imatrix` or llama-imatrix (in GGUF form)
    #[arg(long, value_name = "TEXT|FILE")]
    imatrix: Option<PathBuf>,
    /// For auto, the text to measure on (also .gz); best one that --imatrix has not seen
    #[arg(long, value_name = "TEXT", required_if_eq("ty", "auto"))]
    text: Option<PathBuf>,
    /// For auto, the most mean divergence from the unquantized model, in nats a token
    #[arg(long, value_name = "NATS", value_parser = bound, default_value_t = BOUND)]
    max_kl: f64,
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

fn bound(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&x: &f64| x > 0.0 && x.is_finite()).ok_or_else(|| "a number above 0".into())
}

/// Processors that this process may use: quantizing takes slow cores, too.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let file = Gguf::open(&args.input)?;
    ensure!(!args.output.exists(), "{}: it exists already; remove it, or give another name", args.output.display());
    ensure!(args.ty == Target::Auto || args.text.is_none(), "--text is what --type auto measures on; without it nothing is");
    // What cannot be run is not worth rounding: a file that is no whole GPT-2 is refused here.
    Model::from_gguf(Gguf::open(&args.input)?, Isa::detect())?;
    let start = Instant::now();
    let (ty, mix, changes) = on_threads(args.threads.map_or_else(processors, usize::from), || {
        let importance = args.imatrix.as_deref().map(|path| importance(path, &args.input)).transpose()?;
        let (ty, mix) = match args.ty {
            Target::Type(ty) => (ty, None),
            Target::Auto => {
                let text = args.text.as_deref().context("--type auto needs --text")?;
                let mix = find(&args.input, text, importance.as_ref(), args.max_kl)?;
                (mix.file_type(), Some(mix))
            }
        };
        let (formats, note) = (mix.as_ref().map(Mix::formats), mix.as_ref().map(Mix::note));
        let options = Options { importance: importance.as_ref(), allow_requantize: args.allow_requantize, formats: formats.as_ref(), note };
        let total = file.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum();
        let mut progress = Progress::new("quantizing", "weights", total);
        let mut told = |done: u64, change: Option<&Change>| progress.set(done, change.map_or("", |c| c.name.as_str()));
        let changes = requantize::quantize(&file, &args.output, ty, &options, &mut told)?;
        Ok((ty, mix, changes))
    })?;
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
        let mut all = json!({
            "file": args.output.display().to_string(), "type": ty.name(), "file_bytes": bytes, "file_bytes_before": file.file_len(),
            "parameters": weights, "bits_per_weight": bits, "seconds": seconds, "tensors": tensors,
        });
        if let Some(mix) = &mix {
            all["auto"] = mix.to_json();
        }
        return print_json(&mut out, &all);
    }
    if let Some(mix) = &mix {
        writeln!(out, "{mix}")?;
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
        if mix.is_some() { format!("auto (file type {})", ty.name()) } else { ty.name().into() }
    )?;
    Ok(out.flush()?)
}

/// Importance from a file, or by a text that the model reads.
fn importance(path: &Path, model: &Path) -> Result<Importance> {
    if path != Path::new("-") && imatrix::is_gguf(path)? {
        return Ok(imatrix::read(path)?);
    }
    of_text(&Model::open_for(model, Isa::from_env()?)?, path)
}

/// The mix for a model and a text.
fn find(model: &Path, text: &Path, importance: Option<&Importance>, bound: f64) -> Result<Mix> {
    let windows = {
        let model = Model::open(model)?;
        let (tokens, ctx) = (tokens_of(text, &model)?, window(None, &model)?);
        Windows::of_text(tokens, ctx).context("the text has no two tokens")?
    };
    let mut progress = Progress::new("searching", "tokens", 0);
    let mut told = |done, all, what: &str| progress.of(done, all, what);
    Ok(auto::search(model, &Settings { importance, text: &windows, bound }, &mut told)?)
}
