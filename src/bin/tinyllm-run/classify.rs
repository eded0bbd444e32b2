//! `tinyllm-run classify`: raw readings in, a label and its probability out.

use super::common::{ModelArgs, ensure_finite, print_json};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinyllm::data::labels::likeliest;
use tinyllm::data::{Codec, Example};
use tinyllm::infer::{Model, PrefixError, Session, label_log_probs};

/// Classify sensor readings: a line a window, with the probability of every label.
///
/// The file has the columns that the model was made from, in the sensor's own units; the model knows its windows, its
/// scale and its labels. For a model of ready examples it has the column `input` (and `instruction`, if each row asks its own).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run classify model.gguf readings.csv
  tinyllm-run classify model.gguf readings.csv --json
    {\"label\":\"walk\",\"prob\":0.93,\"probs\":{\"walk\":0.93,\"sit\":0.07},\"at\":\"readings.csv:2\",\"tokens\":152,\"kept\":38}
  some-logger | tinyllm-run classify model.gguf -
  tinyllm-run classify model.gguf readings.csv --prefix-file model.prefix
    the instruction that all prompts begin with is read once: the first run writes what it made of it to the file, later ones take it from there
  tinyllm-run classify model.gguf --input \"Ax: 47 52 49\"        readings as text, in the model's template")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// CSV of readings (also .gz); - reads standard input
    #[arg(value_name = "READINGS.csv", required_unless_present_any = ["prompt", "input"])]
    readings: Option<PathBuf>,
    /// Classify this text, exactly as the model is to read it
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["readings", "input"])]
    prompt: Option<String>,
    /// Classify this input, put into the model's template under its instruction
    #[arg(long, value_name = "TEXT", conflicts_with = "readings")]
    input: Option<String>,
    /// Keep in this file what the model has read of the instruction, and take it from there; a file that is damaged, or of another model,
    /// cache or version, is made anew
    #[arg(long, value_name = "FILE")]
    prefix_file: Option<PathBuf>,
    /// Print a JSON object a line; "tokens" were read for it, "kept" were held from before
    #[arg(long)]
    json: bool,
}

/// Something to classify.
struct Question {
    prompt: String,
    /// Where it stands; empty for text from the command line.
    at: String,
    /// The right label, where the file tells it.
    truth: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let codec = codec(&model)?;
    let labels = codec.as_ref().map_or_else(|| model.labels().into_iter().map(String::from).collect(), |c| c.labels.clone());
    if labels.is_empty() {
        bail!(
            "{}: the model knows no labels, so it cannot classify; fine-tune it on labelled readings and export it again",
            model.file.path().display()
        );
    }
    let trie = model.trie(&labels)?;
    let questions = questions(args, codec.as_ref())?;
    args.model.on_threads(|| {
        let start = Instant::now();
        let mut session = args.model.session(&model);
        if let Some(path) = &args.prefix_file {
            hold_prefix(&mut session, &constant_prefix(&model, codec.as_ref())?, path)?;
        }
        let mut out = io::stdout().lock();
        let (mut told, mut right, mut kept_in_all) = (0, 0, 0);
        for q in &questions {
            let tokens = model.prompt(&q.prompt)?;
            let (kept, before) = (session.kept_of(&tokens), session.read());
            kept_in_all += kept;
            let probs: Vec<f64> = label_log_probs(&mut session, &trie, &tokens)
                .with_context(|| if q.at.is_empty() { "the prompt".into() } else { q.at.clone() })?
                .iter()
                .map(|p| p.exp())
                .collect();
            ensure_finite(&model, probs.iter().copied())?;
            let best = likeliest(&probs);
            if !q.truth.is_empty() {
                told += 1;
                right += usize::from(q.truth == labels[best]);
            }
            if args.json {
                let mut line = line(q, &labels, &probs, best);
                (line["tokens"], line["kept"]) = (json!(session.read() - before), json!(kept));
                print_json(&mut out, &line)?;
            } else {
                let truth = if q.truth.is_empty() { String::new() } else { format!("  (labelled {})", q.truth) };
                writeln!(out, "{}{}{:.1} %  {}{truth}", q.at, if q.at.is_empty() { "" } else { "  " }, 100.0 * probs[best], labels[best])?;
                out.flush()?;
            }
        }
        let (n, seconds) = (questions.len(), start.elapsed().as_secs_f64());
        let agreement = if told > 0 { format!("; {right} of {told} as the file labels them") } else { String::new() };
        let tokens = format!("{} tokens read, {kept_in_all} kept from before", session.read());
        eprintln!("{n} windows, {:.1} ms each; {tokens}{agreement}", 1e3 * seconds / n as f64);
        Ok(())
    })
}

/// What every prompt begins with under the model's own instruction.
fn constant_prefix(model: &Model, codec: Option<&Codec>) -> Result<Vec<u32>> {
    let codec = codec.context("the model has no codec, so that nothing is known to be the same in all prompts: leave out --prefix-file")?;
    let [one, other] = codec.unlike_prompts();
    let (tokens, others) = (model.prompt(&one)?, model.prompt(&other)?);
    Ok(tokens.into_iter().zip(others).take_while(|(a, b)| a == b).map(|(a, _)| a).collect())
}

/// Makes the session hold the prefix: from its file, or else by reading it, and then the file is written. A board without anybody beside it is
/// to go on classifying: what is wrong with the file is said, and costs no more than the time to read the prefix.
fn hold_prefix(session: &mut Session<'_>, prefix: &[u32], path: &Path) -> Result<()> {
    let Err(why) = session.load_prefix(path, prefix) else { return Ok(()) };
    session.feed(prefix)?;
    if let PrefixError::Foreign { .. } = why {
        eprintln!("{why}; it is left as it is");
        return Ok(());
    }
    if !why.is_missing() {
        eprintln!("{why}; it is made anew");
    }
    match session.save_prefix(path) {
        Ok(()) => eprintln!("{}: the prefix of {} tokens is kept", path.display(), prefix.len()),
        Err(why) => eprintln!("{why}; the prefix is not kept"),
    }
    Ok(())
}

fn line(q: &Question, labels: &[String], probs: &[f64], best: usize) -> Value {
    let all: Map<_, _> = labels.iter().cloned().zip(probs.iter().map(|&p| json!(p))).collect();
    let mut line = json!({"label": labels[best], "prob": probs[best], "probs": all});
    if !q.at.is_empty() {
        line["at"] = json!(q.at);
    }
    if !q.truth.is_empty() {
        line["truth"] = json!(q.truth);
    }
    line
}

fn codec(model: &Model) -> Result<Option<Codec>> {
    let read = |text| Codec::from_json(text).with_context(|| format!("{}", model.file.path().display()));
    model.text("tinyllm.codec").map(read).transpose()
}

fn questions(args: &Args, codec: Option<&Codec>) -> Result<Vec<Question>> {
    if let Some(text) = &args.prompt {
        return Ok(vec![Question { prompt: text.clone(), at: String::new(), truth: String::new() }]);
    }
    let codec =
        codec.context("the model has no sensor codec, so it cannot read readings: use --prompt, or export it from a fine-tuned run")?;
    if let Some(input) = &args.input {
        return Ok(vec![Question { prompt: codec.prompt(input), at: String::new(), truth: String::new() }]);
    }
    let path = args.readings.as_deref().unwrap_or(Path::new("-"));
    let windows =
        if path == Path::new("-") { codec.windows_from(Path::new("stdin"), Box::new(io::stdin()))? } else { codec.windows(path)? };
    ensure!(!windows.is_empty(), "{}: there are no rows to classify", path.display());
    let question = |w: Example| Question { prompt: codec.template.prompt(&w.instruction, &w.input), at: w.at, truth: w.output };
    Ok(windows.into_iter().map(question).collect())
}
