//! The processes of a bench, seen from who started them.

use super::instance::Order;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

/// A process that is ended when this is dropped.
struct Process {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &str, args: &[String]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(&program)
            .arg(command)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot start it once more", program.display()))?;
        let answers = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        Ok(Self { child, answers })
    }

    fn tell(&mut self, order: Order) -> Result<()> {
        let line = order.line() + "\n";
        // An instance that has ended says why on standard error; `answer` sees that it has.
        self.child.stdin.as_mut().context("a pipe was asked for")?.write_all(line.as_bytes()).ok();
        Ok(())
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("an instance of the bench ended early ({status}); what it said stands above");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Closing its input ends it; what does not read any more is killed.
        drop(self.child.stdin.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Processes that work at the same time, until dropped.
pub struct Fleet(Vec<Process>);

impl Fleet {
    /// Starts `n` processes with these arguments; gives them back ready, and the seconds that each took.
    pub fn start(n: usize, args: &[String]) -> Result<(Self, Vec<f64>)> {
        let start = Instant::now();
        let mut fleet = Self((0..n).map(|_| Process::start("bench-instance", args)).collect::<Result<_>>()?);
        let took = fleet.answers(|_| Ok(start.elapsed().as_secs_f64()))?;
        Ok((fleet, took))
    }

    /// Starts `n` processes that keep a core busy each.
    pub fn busy(n: usize) -> Result<Self> {
        Ok(Self((0..n).map(|_| Process::start("bench-busy", &[])).collect::<Result<_>>()?))
    }

    /// Has all of them do the same at the same time; the seconds that each took.
    pub fn all(&mut self, order: Order) -> Result<Vec<f64>> {
        self.0.iter_mut().try_for_each(|p| p.tell(order))?;
        self.answers(|answer| answer["seconds"].as_f64().context("seconds"))
    }

    /// Ends them; the most memory that one of them had, in bytes, where the system says it.
    pub fn end(mut self) -> Result<Option<u64>> {
        self.0.iter_mut().try_for_each(|p| p.tell(Order::End))?;
        Ok(self.answers(|answer| Ok(answer["peak_rss_bytes"].as_u64()))?.into_iter().flatten().max())
    }

    fn answers<T>(&mut self, read: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
        self.0.iter_mut().map(|p| read(&p.answer()?)).collect()
    }
}
