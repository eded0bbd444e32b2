//! `tinyllm-run generate`: a prompt in, its continuation out.

use super::common::{ModelArgs, ensure_finite};
use anyhow::Result;
use std::io::{self, Write};
use std::time::Instant;
use tinyllm::data::tokenizer::StreamDecoder;
use tinyllm::infer::{Sampler, Sampling, peak};

/// Continue a prompt. The text goes to standard output as it is made, the speed to standard error.
///
/// It ends at the model's end token (unless --ignore-eos is given), after -n tokens, or when the context is full, whichever comes first.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run generate model.gguf -p \"The sensor\" -n 100
  tinyllm-run generate model.gguf -p \"Ax: 47 52 49\" --temp 0            the likeliest continuation
  tinyllm-run generate model.gguf -p \"The\" --temp 0.9 --top-k 0 --top-p 0.9 --seed 7 -t 2")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; an empty one starts a new text
    #[arg(short, long, default_value = "")]
    prompt: String,
    /// Tokens to generate at most
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 64)]
    n: usize,
    /// Temperature: 0 always takes the likeliest token, higher is more varied
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature, allow_negative_numbers = true, value_parser = temperature)]
    temp: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have probability P; 1: all
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, allow_negative_numbers = true, value_parser = share)]
    top_p: f32,
    /// Make tokens less likely that are among the last 64, the prompt's included; 1: no penalty
    #[arg(long, value_name = "R", default_value_t = Sampling::default().repeat_penalty, allow_negative_numbers = true, value_parser = penalty)]
    repeat_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Go on after the model's end token, as for measuring
    #[arg(long)]
    ignore_eos: bool,
}

fn number(text: &str, good: impl Fn(f32) -> bool, want: &str) -> Result<f32, String> {
    text.parse().ok().filter(|&x: &f32| x.is_finite() && good(x)).ok_or_else(|| format!("a number {want} is needed"))
}
fn temperature(text: &str) -> Result<f32, String> {
    number(text, |t| t >= 0.0, "from 0 up")
}
fn share(text: &str) -> Result<f32, String> {
    number(text, |p| p > 0.0 && p <= 1.0, "above 0 and up to 1")
}
fn penalty(text: &str) -> Result<f32, String> {
    number(text, |r| r > 0.0, "above 0")
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let sampling =
        Sampling { temperature: args.temp, top_k: args.top_k, top_p: args.top_p, repeat_penalty: args.repeat_penalty, seed: args.seed };
    let model = args.model.open()?;
    args.model.on_threads(|| {
        let mut session = args.model.session(&model);
        let mut sampler = Sampler::new(sampling, model.config.vocab());
        let prompt = model.prompt(&args.prompt)?;
        let start = Instant::now();
        sampler.accept(&prompt);
        session.feed(&prompt)?;
        let read = start.elapsed().as_secs_f64();

        let start = Instant::now();
        ensure_finite(&model, session.logits().iter().map(|&x| x.into()))?;
        let mut out = io::stdout().lock();
        let (mut text, mut decoder, mut made) = (String::new(), StreamDecoder::new(), 0);
        let mut end = "";
        while made < args.n {
            let token = sampler.next(session.logits());
            made += 1;
            if token == model.tokenizer.end_token() && !args.ignore_eos {
                end = "; the model ended the text";
                break;
            }
            decoder.push(&model.tokenizer.token_bytes(token), &mut text);
            out.write_all(text.as_bytes())?;
            out.flush()?;
            text.clear();
            if made < args.n {
                if session.tokens().len() == session.room() {
                    end = "; stopped because the model's context is full";
                    break;
                }
                session.feed(&[token])?;
            }
        }
        decoder.finish(&mut text);
        writeln!(out, "{text}")?;
        out.flush()?;
        let made_in = start.elapsed().as_secs_f64();
        let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
        let peak = peak().map_or_else(String::new, |bytes| format!("; peak memory {:.1} MB", bytes as f64 / 1e6));
        eprintln!(
            "prompt: {} tokens, {:.0} tokens/s; generated: {made} tokens, {:.1} tokens/s{peak}{end}",
            prompt.len(),
            rate(prompt.len(), read),
            rate(made, made_in)
        );
        Ok(())
    })
}
