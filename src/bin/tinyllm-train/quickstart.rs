//! `quickstart`: the whole chain on real data, each step the command that a user would type.

use crate::args::Cli;
use crate::eval::judge;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinyllm::data::labels::likeliest;
use tinyllm::data::prepared::Prepared;
use tinyllm::data::{Codec, Split, quickstart};
use tinyllm::infer::{self, Model, Session};
use tinyllm::progress::{Progress, duration};
use tinyllm::train::checkpoint;

/// The whole chain on real data: a smart watch on ten people doing seven exercises. Prepares, pre-trains, fine-tunes on
/// six people, tests on two it has never seen, exports, and classifies once more from the exported file.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tinyllm-train quickstart --out try\n\nTakes some minutes on two cores; writes about 20 MB.")]
pub struct Args {
    /// The folder to make; a new one called tinyllm-quickstart where it is not given.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Tokens generated to measure how fast the exported model writes.
const GENERATED: usize = 64;

impl Args {
    pub fn run(self) -> Result<()> {
        let out = match self.out {
            Some(out) => {
                ensure!(!out.exists(), "{}: it exists already; remove it or give another --out", out.display());
                out
            }
            None => unused("tinyllm-quickstart"),
        };
        let start = Instant::now();
        std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot create the folder", out.display()))?;
        let recipe = quickstart::unpack(&out.join("recipe"))?;
        let [data, base, task, file] = ["data", "base", "task", "model-q8_0.gguf"].map(|name| out.join(name));

        eprintln!("\n1/5  readings and text become tokens");
        typed(&[os("prepare"), recipe.as_ref(), os("--out"), data.as_ref()], "")?;
        eprintln!("\n2/5  a small model learns what readings and English look like");
        typed(&[os("pretrain"), os("--data"), data.as_ref(), os("--out"), base.as_ref()], PRETRAIN)?;
        eprintln!("\n3/5  it learns to name exercises, from people 1 to 6; people 7 and 8 decide which checkpoint is best");
        typed(&[os("finetune"), os("--base"), base.as_ref(), os("--data"), data.as_ref(), os("--out"), task.as_ref()], FINETUNE)?;
        eprintln!("\n4/5  people 9 and 10, whom it has never seen, test it");
        let prepared = Prepared::open(&data)?;
        let model = checkpoint::load_model(&task)?;
        let (report, scores) = judge(&model, &prepared, Split::Test)?;
        eprintln!("\n5/5  the file for a board, and the same readings once more from that file");
        typed(&[os("export"), task.as_ref(), os("--out"), file.as_ref()], "--type q8_0")?;
        let board = Board::run(&file, &prepared)?;
        ensure!(
            board.answers.len() == scores.len(),
            "the exported model cut {} windows from the readings, the trainer {}",
            board.answers.len(),
            scores.len()
        );
        let same = board.answers.iter().zip(&scores).filter(|&(a, s)| *a == likeliest(s)).count();
        let bytes = std::fs::metadata(&file)?.len();

        println!("\n{report}");
        println!("trainer and exported file agree on {same} of {} windows", scores.len());
        println!("{}: {:.2} MB, {:.2} M parameters at 8 bits", file.display(), bytes as f64 / 1e6, model.config.parameters() as f64 / 1e6);
        println!("{:.1} ms a window, {:.0} tokens/s read, {:.0} tokens/s written, on this machine", board.ms, board.read, board.written);
        println!("all of it took {}", duration(start.elapsed().as_secs_f64()));
        println!("\nnext:\n  tinyllm-run classify {} {}", file.display(), data.join("readings/test.csv").display());
        let english = out.join("base.gguf");
        println!("  tinyllm-train export {} --out {}   the model before it learned to answer", base.display(), english.display());
        println!("  tinyllm-run generate {} -p \"Fellow citizens\" -n 64   which knows a little English", english.display());
        println!("  then copy {} and put your own CSV into it", recipe.display());
        Ok(())
    }
}

/// How the base is trained: a minute or so on two cores.
const PRETRAIN: &str = "--model nano --steps 250 --batch-tokens 4096 --lr 3e-3 --eval-every 50";
/// How it is fine-tuned: all weights, because the model is so small that adapters would save nothing. A row holds two
/// examples of 194 tokens; its 376 tokens of prompt count as much as four of its six of answer.
const FINETUNE: &str =
    "--full --steps 400 --accumulate 1 --micro-batch 10 --ctx 388 --lr 2e-3 --prompt-loss-weight 0.01 --augment --eval-every 50";

fn os(word: &str) -> &OsStr {
    word.as_ref()
}

/// Shows a command and runs it as if it had been typed.
fn typed(words: &[&OsStr], more: &str) -> Result<()> {
    let words: Vec<&OsStr> =
        std::iter::once(os("tinyllm-train")).chain(words.iter().copied()).chain(more.split_whitespace().map(os)).collect();
    eprintln!("$ {}", words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" "));
    Cli::try_parse_from(words)?.run()
}

/// The first folder of this name that is not there yet.
fn unused(name: &str) -> PathBuf {
    let numbered = (2..).map(|i| PathBuf::from(format!("{name}-{i}")));
    std::iter::once(PathBuf::from(name)).chain(numbered).find(|p| !p.exists()).unwrap_or_else(|| name.into())
}

/// What the exported file answers, through `tinyllm-run`'s own code.
struct Board {
    /// A label's index for each window of the test readings.
    answers: Vec<usize>,
    /// Milliseconds a window.
    ms: f64,
    /// Prompt tokens a second.
    read: f64,
    /// Generated tokens a second.
    written: f64,
}

impl Board {
    fn run(file: &Path, data: &Prepared) -> Result<Self> {
        let model = Model::open(file)?;
        let codec = Codec::from_json(model.text("tinyllm.codec").context("the file has no codec")?)?;
        let trie = model.trie(&codec.labels)?;
        let readings = data.test_readings().context("the data has no test readings")?;
        let windows = codec.windows(&readings)?;
        let mut progress = Progress::new("classify", "windows", windows.len() as u64);
        let mut session = Session::new(&model);
        let (mut answers, mut tokens) = (Vec::new(), 0);
        let start = Instant::now();
        for window in &windows {
            let prompt = model.prompt(&codec.template.prompt(&window.instruction, &window.input))?;
            tokens += prompt.len();
            answers.push(likeliest(&infer::label_log_probs(&mut session, &trie, &prompt)?));
            progress.add(1);
        }
        let seconds = start.elapsed().as_secs_f64();
        session.truncate(0);
        session.feed(&[model.tokenizer.end_token()])?;
        let start = Instant::now();
        for _ in 0..GENERATED {
            let token = infer::most_likely(session.logits());
            session.feed(&[token])?;
        }
        let written = GENERATED as f64 / start.elapsed().as_secs_f64();
        Ok(Self { ms: 1e3 * seconds / answers.len() as f64, read: tokens as f64 / seconds, written, answers })
    }
}
