//! `tinyllm-run info`: what is in a file.

use super::common::print_json;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use tinyllm::cores;
use tinyllm::gguf::{Array, Gguf, View};
use tinyllm::infer::{CacheType, Model, ModelError, Need, available};
use tinyllm::simd::Isa;
use tinyllm::simd::panel::Dots;

/// Show what a GGUF file holds: sizes, tensor types, vocabulary, labels, sensor codec, metadata.
///
/// A file that cannot be run (another architecture, a tensor type not known here) is shown all the same, with the reason.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run info model.gguf
  tinyllm-run info model.gguf --json | jq .types")]
pub struct Args {
    /// The GGUF file
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Elements of a metadata array that are shown.
const SHOWN: usize = 8;
/// Characters of a metadata string that are shown.
const SHOWN_CHARS: usize = 200;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let file = Gguf::open(&args.model)?;
    let all = describe(file, |file| {
        let model = Model::from_gguf(file, Isa::detect())?;
        model.tokenizer.full()?; // running looks up only what it needs
        Ok(model)
    })?;
    if args.json { print_json(&mut io::stdout().lock(), &all) } else { print(&all) }
}

/// The file as JSON; the plain output is made from it.
fn describe(file: Gguf, load: impl FnOnce(Gguf) -> Result<Model, ModelError>) -> Result<Value> {
    let mut types: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for t in file.tensors() {
        let entry = types.entry(t.ty.name).or_default();
        *entry = (entry.0 + 1, entry.1 + t.dims.iter().product::<u64>(), entry.2 + t.len as u64);
    }
    let parameters: u64 = types.values().map(|t| t.1).sum();
    let types: serde_json::Map<_, _> = types
        .into_iter()
        .map(|(name, (tensors, weights, bytes))| (name.into(), json!({"tensors": tensors, "weights": weights, "bytes": bytes})))
        .collect();
    let metadata: serde_json::Map<_, _> = file.entries().map(|(key, value)| (key.to_owned(), shown(value, 0))).collect();
    let mut all = json!({
        "file": file.path().display().to_string(),
        "file_bytes": file.file_len(),
        "parameters": parameters,
        "tensors": file.tensors().len(),
        "types": types,
    });
    let memory = memory(&file);
    match load(file) {
        Ok(model) => {
            let c = &model.config;
            all["model"] = json!({
                "n_layer": c.n_layer, "n_embd": c.n_embd, "n_head": c.n_head, "n_ff": c.ff(), "n_ctx": c.n_ctx, "n_vocab": c.vocab(),
                "tied_head": model.output.is_none(),
            });
            all["tokenizer"] = json!({"tokens": model.tokenizer.n_vocab(), "end_token": model.tokenizer.end_token()});
            all["labels"] = json!(model.labels());
            all["template"] = json!(model.text("tinyllm.template"));
            all["codec"] = model.text("tinyllm.codec").map_or(Value::Null, |s| serde_json::from_str(s).unwrap_or_else(|_| s.into()));
            all["version"] = json!(model.text("tinyllm.version"));
            all["memory"] = memory.unwrap_or(Value::Null);
        }
        Err(why) => all["not_runnable"] = json!(why.to_string()),
    }
    all["metadata"] = metadata.into();
    Ok(all)
}

/// What running it on this machine takes, by part; `None` for a file that cannot be run.
fn memory(file: &Gguf) -> Option<Value> {
    let layout = Dots::under(Isa::detect()).layout();
    let need = |cache| Need::of(file, layout, cache, cores::fast().threads, false).ok();
    let f16 = need(CacheType::F16)?;
    let cache = json!({"f32": need(CacheType::F32)?.cache, "f16": f16.cache, "q8": need(CacheType::Q8)?.cache});
    Some(json!({
        "weights": f16.weights, "mapped": f16.mapped, "cache": cache, "room": f16.room, "program": f16.program, "total": f16.total(),
        "available": available().map(|a| a.bytes),
    }))
}

/// A metadata value with what is long cut off.
fn shown(value: View<'_>, depth: usize) -> Value {
    match value {
        View::U8(x) => json!(x),
        View::I8(x) => json!(x),
        View::U16(x) => json!(x),
        View::I16(x) => json!(x),
        View::U32(x) => json!(x),
        View::I32(x) => json!(x),
        View::F32(x) => json!(x),
        View::Bool(x) => json!(x),
        View::U64(x) => json!(x),
        View::I64(x) => json!(x),
        View::F64(x) => json!(x),
        View::String(s) if depth > 0 || s.chars().nth(SHOWN_CHARS).is_none() => json!(s.chars().take(SHOWN_CHARS).collect::<String>()),
        View::String(s) => json!(format!("{}... ({} bytes)", s.chars().take(SHOWN_CHARS).collect::<String>(), s.len())),
        View::Array(a) if a.len() <= SHOWN => a.iter().map(|v| shown(v, depth + 1)).collect(),
        View::Array(a) => json!({"type": a.ty().name(), "len": a.len(), "first": first(a, depth)}),
    }
}

fn first(a: Array<'_>, depth: usize) -> Vec<Value> {
    a.iter().take(SHOWN).map(|v| shown(v, depth + 1)).collect()
}

fn print(all: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    let mb = |v: &Value| v.as_f64().unwrap_or(0.0) / 1e6;
    writeln!(
        out,
        "{}: {:.1} MB, {:.2} million parameters",
        all["file"].as_str().unwrap_or(""),
        mb(&all["file_bytes"]),
        mb(&all["parameters"])
    )?;
    if let Some(why) = all["not_runnable"].as_str() {
        writeln!(out, "cannot be run: {why}")?;
    } else {
        let m = &all["model"];
        writeln!(
            out,
            "GPT-2: {} blocks, {} channels, {} heads, {} hidden channels, context of {} tokens, head {}",
            m["n_layer"],
            m["n_embd"],
            m["n_head"],
            m["n_ff"],
            m["n_ctx"],
            if m["tied_head"] == true { "tied to the embedding" } else { "of its own" }
        )?;
        writeln!(out, "vocabulary: {} tokens, end token {}", all["tokenizer"]["tokens"], all["tokenizer"]["end_token"])?;
        match all["labels"].as_array().filter(|l| !l.is_empty()) {
            Some(labels) => {
                let names: Vec<_> = labels.iter().filter_map(Value::as_str).collect();
                writeln!(out, "labels: {} ({})", labels.len(), names.join(", "))?;
            }
            None => writeln!(out, "labels: none (no classifier)")?,
        }
        if !all["codec"].is_null() {
            writeln!(out, "sensor codec: {}", all["codec"])?;
        }
    }
    if let Some(m) = all["memory"].as_object() {
        let part = |name: &str| mb(&m[name]);
        writeln!(
            out,
            "memory to run it: {:.1} MB: packed weights {:.1}, f16 cache of {} tokens {:.1} (f32 {:.1}, q8 {:.1}), working room {:.1}, program {:.1}",
            part("total"),
            part("weights"),
            all["model"]["n_ctx"],
            mb(&m["cache"]["f16"]),
            mb(&m["cache"]["f32"]),
            mb(&m["cache"]["q8"]),
            part("room"),
            part("program")
        )?;
        writeln!(out, "... beside {:.1} MB of weights that stay in the file, mapped", part("mapped"))?;
    }
    for (name, t) in all["types"].as_object().into_iter().flatten() {
        writeln!(out, "{name:>8}: {} tensors, {:.2} million weights, {:.2} MB", t["tensors"], mb(&t["weights"]), mb(&t["bytes"]))?;
    }
    writeln!(out, "metadata:")?;
    for (key, value) in all["metadata"].as_object().into_iter().flatten() {
        if key != "tinyllm.codec" {
            writeln!(out, "  {key} = {value}")?;
        }
    }
    Ok(())
}
