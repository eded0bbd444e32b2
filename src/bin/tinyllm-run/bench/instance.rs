//! One process of a bench: it opens the model as any command does, then does what it is told on standard input, a line an order, and
//! answers each with a line of JSON. A process that only keeps a core busy is here, too.

use super::super::common::{ModelArgs, print_json};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinyllm::data::labels::Trie;
use tinyllm::data::{Codec, Example};
use tinyllm::infer::{Model, Session, label_log_probs, most_likely, peak};

/// The command line of such a process.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[arg(long)]
    classify: Option<PathBuf>,
}

/// What a process can be told to do, as the words of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read so many tokens from the start.
    Prompt(usize),
    /// Make so many tokens after so many that are not timed.
    Generate(usize, usize),
    /// Read a text of so many tokens and choose the next.
    First(usize),
    /// Classify a window of the readings.
    Label(usize),
    /// Say how much memory was taken, and end.
    End,
}

impl Order {
    /// As it goes over the line.
    pub fn line(self) -> String {
        match self {
            Self::Prompt(n) => format!("prompt {n}"),
            Self::Generate(n, depth) => format!("generate {n} {depth}"),
            Self::First(n) => format!("first {n}"),
            Self::Label(i) => format!("label {i}"),
            Self::End => "end".into(),
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| -> Result<usize> { words[i].parse().with_context(|| format!("{line:?}: a number is needed")) };
        Ok(match words[..] {
            ["prompt", _] => Self::Prompt(number(1)?),
            ["generate", _, _] => Self::Generate(number(1)?, number(2)?),
            ["first", _] => Self::First(number(1)?),
            ["label", _] => Self::Label(number(1)?),
            ["end"] => Self::End,
            _ => bail!("{line:?} is no order of a bench"),
        })
    }
}

/// Runs the process.
pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    args.model.on_threads(|| {
        let mut instance = Instance { session: args.model.session(&model), model: &model, windows: None };
        answer(&json!({"ready": true}))?;
        for line in io::stdin().lock().lines() {
            let order = Order::parse(&line?)?;
            if order == Order::End {
                return answer(&json!({"peak_rss_bytes": peak()}));
            }
            let start = Instant::now();
            let skipped = instance.obey(order, args.classify.as_deref())?;
            answer(&json!({"seconds": start.elapsed().as_secs_f64() - skipped}))?;
        }
        Ok(())
    })
}

fn answer(value: &Value) -> Result<()> {
    print_json(&mut io::stdout().lock(), value)
}

struct Instance<'m> {
    model: &'m Model,
    session: Session<'m>,
    /// Labels and the prompts of all windows, read when first asked for.
    windows: Option<(Trie, Vec<String>)>,
}

impl Instance<'_> {
    /// Does it; says how many seconds of that are not to be counted.
    fn obey(&mut self, order: Order, readings: Option<&Path>) -> Result<f64> {
        let session = &mut self.session;
        match order {
            Order::Prompt(n) => {
                session.truncate(0);
                session.feed(&tokens(n, self.model.config.vocab()))?;
                std::hint::black_box(session.logits());
            }
            Order::Generate(n, depth) => {
                let start = Instant::now();
                session.truncate(0);
                // A token is made after another: at least one is there before.
                session.feed(&tokens(depth.max(1), self.model.config.vocab()))?;
                let mut token = most_likely(session.logits());
                let skipped = start.elapsed().as_secs_f64();
                for _ in 0..n {
                    session.feed(&[token])?;
                    token = most_likely(session.logits());
                }
                return Ok(skipped);
            }
            Order::First(n) => {
                session.truncate(0);
                let mut prompt = self.model.prompt(&text(n))?;
                prompt.truncate(n);
                session.feed(&prompt)?;
                std::hint::black_box(most_likely(session.logits()));
            }
            Order::Label(i) => {
                if self.windows.is_none() {
                    self.windows = Some(windows(self.model, readings.context("no readings were given")?)?);
                }
                let (trie, prompts) = self.windows.as_ref().context("read above")?;
                label_log_probs(session, trie, &self.model.prompt(&prompts[i % prompts.len()])?)?;
            }
            Order::End => {}
        }
        Ok(0.0)
    }
}

/// Labels of the model and the prompts of a file's windows.
pub fn windows(model: &Model, readings: &Path) -> Result<(Trie, Vec<String>)> {
    let at = || model.file.path().display().to_string();
    let codec = model.text("tinyllm.codec").with_context(|| {
        format!("{}: the model has no sensor codec, so that there is nothing to classify; export it from a fine-tuned run", at())
    })?;
    let codec = Codec::from_json(codec).with_context(at)?;
    let prompts: Vec<String> =
        codec.windows(readings)?.into_iter().map(|w: Example| codec.template.prompt(&w.instruction, &w.input)).collect();
    anyhow::ensure!(!prompts.is_empty(), "{}: there are no rows to classify", readings.display());
    Ok((model.trie(&codec.labels)?, prompts))
}

/// Tokens all over the vocabulary: which they are changes nothing about the time.
fn tokens(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 17) % vocab) as u32).collect()
}

/// Readings as text that is `n` tokens long at least.
fn text(n: usize) -> String {
    let mut text = String::from("Ax:");
    (0..n).for_each(|i| text.push_str(&format!(" {}", (i * 37 + 11) % 100)));
    text
}

/// Keeps a core busy until standard input ends, which it does with whoever started this.
pub fn busy() -> Result<()> {
    std::thread::spawn(|| {
        loop {
            std::hint::black_box(());
        }
    });
    io::stdin().lock().read_to_end(&mut vec![])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back() {
        for order in [Order::Prompt(3), Order::Generate(4, 5), Order::First(6), Order::Label(7), Order::End] {
            assert_eq!(Order::parse(&order.line()).unwrap(), order);
        }
        assert!(Order::parse("prompt").is_err() && Order::parse("prompt x").is_err() && Order::parse("stop 3").is_err());
    }
}
