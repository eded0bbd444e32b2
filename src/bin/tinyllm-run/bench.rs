//! `tinyllm-run bench`: how fast a model runs here, alone and beside others.

mod fleet;
pub mod instance;
mod report;

use super::common::{Cache, Threads, print_json};
use anyhow::{Context, Result, ensure};
use fleet::Fleet;
use instance::Order;
use report::{Figure, Report, median};
use serde_json::{Map, json};
use std::io::{self, Write};
use std::path::PathBuf;
use tinyllm::infer::Model;
use tinyllm::progress::Progress;
use tinyllm::quant::FileType;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::Dots;

/// Time a model on this machine: reading a prompt, making tokens, labelling readings, starting, and the memory it takes.
///
/// Each configuration (a number of threads, a number of instances) is measured in processes of its own, which start anew for every
/// trial of a start; figures are the median of all trials, beside the least and the most. With several instances rates are of all of
/// them together, and "each" is one's. A start is the time from starting a process until its model is ready; a first token and a first
/// label are timed from there, too.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-run bench model.gguf
  tinyllm-run bench model.gguf -t 1,2,4 --pp 128,512 --tg 128 --depth 0,512
  tinyllm-run bench model.gguf --classify readings.csv           time to a label, too
  tinyllm-run bench model.gguf -t 2 --instances 1,2,4             several processes at once
  tinyllm-run bench model.gguf -t 2 --background 1                beside a process that keeps a core busy
  tinyllm-run bench model.gguf -t 1,2 --json
    {\"model\":\"model.gguf\",\"type\":\"Q4_K_M\",\"threads\":1,...,\"pp512\":1520.1,\"tg128\":310.4,\"start_ms\":41.2,...}   a line a configuration")]
pub struct Args {
    /// The model: a GGUF file of a GPT-2
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,
    /// Threads, several separated by commas; auto: one for each fast core
    #[arg(short, long, value_name = "N", value_parser = Threads::parse, value_delimiter = ',', default_value = "auto")]
    threads: Vec<Threads>,
    /// Tokens of a prompt that is read from the start
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "128,512", value_parser = clap::value_parser!(u32).range(1..))]
    pp: Vec<u32>,
    /// Tokens that are made one after another
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    tg: Vec<u32>,
    /// Tokens that were read before those of --tg
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0")]
    depth: Vec<u32>,
    /// Readings to label, for a model that classifies
    #[arg(long, value_name = "READINGS.csv")]
    classify: Option<PathBuf>,
    /// Processes that run at the same time, each with its own threads
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    instances: Vec<u16>,
    /// Processes beside them that keep a core busy each
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=256))]
    background: u16,
    /// How a session keeps what it has read
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Cache::F16)]
    cache: Cache,
    /// Map packed weights from a file, as in the other commands [default FILE: MODEL.gguf.packed]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    packed: Option<Option<PathBuf>>,
    /// Trials of each figure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    trials: u16,
    /// Print a JSON object a configuration
    #[arg(long)]
    json: bool,
}

/// What is known of the model before anything is timed.
struct About {
    ty: String,
    line: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let about = about(args)?;
    let mut out = io::stdout().lock();
    if !args.json {
        writeln!(out, "{}", about.line)?;
    }
    let busy = Fleet::busy(args.background.into())?;
    let configurations = args.threads.len() * args.instances.len();
    let steps = (args.pp.len() + args.tg.len() * args.depth.len() + 2 + 2 * usize::from(args.classify.is_some())) * configurations;
    let mut progress = Progress::new("bench", "figures", steps as u64);
    for &threads in &args.threads {
        for &instances in &args.instances {
            let report = measure(args, &about, threads, instances.into(), &mut progress)?;
            if args.json {
                print_json(&mut out, &report.json())?;
            } else {
                write!(out, "{}", report.table())?;
                out.flush()?;
            }
        }
    }
    drop(busy);
    Ok(())
}

/// Opens the model once, so that what is wrong with it or with the sizes asked for is said before anything is timed.
fn about(args: &Args) -> Result<About> {
    let isa = Isa::from_env()?;
    let model = Model::open_for(&args.model, isa)?;
    let room = model.config.n_ctx;
    let longest = args.pp.iter().copied().max().unwrap_or(0) as usize;
    ensure!(longest <= room, "--pp {longest}: the model reads {room} tokens at most");
    // One token is read where the depth is 0.
    let deepest = args.depth.iter().map(|&d| d.max(1)).max().unwrap_or(1) as usize + args.tg.iter().copied().max().unwrap_or(0) as usize;
    ensure!(deepest <= room, "--depth and --tg come to {deepest} tokens, and the model reads {room} at most");
    if let Some(readings) = &args.classify {
        instance::windows(&model, readings)?;
    }
    let id = model.file.unsigned("general.file_type").ok();
    let ty = FileType::ALL.into_iter().find(|t| id == Some(t.id().into())).map_or("mixed", FileType::name).to_owned();
    let line = format!(
        "{}: {ty}, {:.1} MB, {:.1} M parameters; {}, products by {}; cache {}; median of {} trials (least .. most)",
        args.model.display(),
        model.file.file_len() as f64 / 1e6,
        model.config.parameters() as f64 / 1e6,
        isa.name(),
        Dots::under(isa).name(),
        args.cache.ty().name(),
        args.trials
    );
    Ok(About { ty, line })
}

fn measure(args: &Args, about: &About, threads: Threads, instances: usize, progress: &mut Progress) -> Result<Report> {
    let cache = args.cache.ty().name();
    let mut words = vec![args.model.to_str().context("the model's path is no text")?.to_owned(), "--cache".into(), cache.into()];
    if let Some(n) = threads.0 {
        words.extend(["-t".into(), n.to_string()]);
    }
    if let Some(packed) = &args.packed {
        let file = packed.as_deref().map(|p| p.to_str().context("the packed file's path is no text")).transpose()?;
        words.push(file.map_or_else(|| "--packed".into(), |file| format!("--packed={file}")));
    }
    if let Some(readings) = &args.classify {
        words.extend(["--classify".into(), readings.to_str().context("the readings' path is no text")?.to_owned()]);
    }
    let mut bench = Bench { words, instances, trials: args.trials.into(), figures: vec![] };

    let first = args.pp[0] as usize;
    bench.starts("start_ms", "start", None)?;
    progress.add(1);
    bench.starts("first_token_ms", &format!("first token, after {first}"), Some(Order::First(first)))?;
    progress.add(1);
    if args.classify.is_some() {
        bench.starts("first_label_ms", "first label", Some(Order::Label(0)))?;
        progress.add(1);
    }
    let (mut fleet, _) = Fleet::start(instances, &bench.words)?;
    for &n in &args.pp {
        bench.rate(&mut fleet, &format!("pp{n}"), &format!("prompt of {n}"), n, Order::Prompt(n as usize))?;
        progress.add(1);
    }
    for &depth in &args.depth {
        for &n in &args.tg {
            let (key, what) = match depth {
                0 => (format!("tg{n}"), format!("generation of {n}")),
                _ => (format!("tg{n}@{depth}"), format!("generation of {n}, {depth} read before")),
            };
            bench.rate(&mut fleet, &key, &what, n, Order::Generate(n as usize, depth as usize))?;
            progress.add(1);
        }
    }
    if args.classify.is_some() {
        bench.labels(&mut fleet)?;
        progress.add(1);
    }
    let peak_rss_bytes = fleet.end()?;

    let threads = threads.0.map_or_else(|| tinyllm::cores::fast().threads, usize::from);
    let model = args.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let head = json!({"model": model, "type": about.ty, "threads": threads, "instances": instances, "background": args.background, "cache": cache, "packed": args.packed.is_some(), "trials": args.trials});
    let mut title = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    if instances > 1 {
        title += &format!(", {instances} instances");
    }
    if args.background > 0 {
        title += &format!(", beside {} that keep{} a core busy", args.background, if args.background == 1 { "s" } else { "" });
    }
    let head: Map<_, _> = head.as_object().context("an object")?.clone();
    Ok(Report { head, title, figures: bench.figures, peak_rss_bytes })
}

/// One configuration at work.
struct Bench {
    /// The command line of an instance.
    words: Vec<String>,
    instances: usize,
    trials: usize,
    figures: Vec<Figure>,
}

impl Bench {
    /// Starts all instances anew for every trial, has them do something, and takes the time from before the start until each is done.
    fn starts(&mut self, key: &str, what: &str, then: Option<Order>) -> Result<()> {
        let mut samples = vec![];
        for trial in 0..=self.trials {
            let (mut fleet, mut took) = Fleet::start(self.instances, &self.words)?;
            if let Some(order) = then {
                // An instance begins when all are ready.
                let ready = took.iter().copied().fold(0.0, f64::max);
                took = fleet.all(order)?.into_iter().map(|seconds| ready + seconds).collect();
            }
            fleet.end()?;
            if trial > 0 {
                samples.push(1e3 * median(&took)); // the first one finds files that are not in memory yet
            }
        }
        self.figures.push(Figure { key: key.into(), what: what.into(), unit: "ms", samples, each: None });
        Ok(())
    }

    /// Tokens a second of all instances together.
    fn rate(&mut self, fleet: &mut Fleet, key: &str, what: &str, tokens: u32, order: Order) -> Result<()> {
        let (mut samples, mut each) = (vec![], vec![]);
        for trial in 0..=self.trials {
            let rates: Vec<f64> = fleet.all(order)?.into_iter().map(|seconds| f64::from(tokens) / seconds).collect();
            if trial > 0 {
                samples.push(rates.iter().sum());
                each.extend(rates); // the first one warms up
            }
        }
        let each = (self.instances > 1).then(|| median(&each));
        self.figures.push(Figure { key: key.into(), what: what.into(), unit: "tokens/s", samples, each });
        Ok(())
    }

    /// Milliseconds a window, in processes that have labelled one before.
    fn labels(&mut self, fleet: &mut Fleet) -> Result<()> {
        let mut samples = vec![];
        for trial in 0..=self.trials {
            let took = fleet.all(Order::Label(trial))?;
            if trial > 0 {
                samples.push(1e3 * median(&took));
            }
        }
        self.figures.push(Figure { key: "label_ms".into(), what: "a label".into(), unit: "ms", samples, each: None });
        Ok(())
    }
}
