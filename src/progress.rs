//! What a user sees while something takes longer than two seconds.
//!
//! On a terminal: a bar that redraws itself. In a log or a pipe: a line every few seconds. Always on
//! standard error, so that standard output holds results alone.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Seconds between two lines where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Progress over a known amount of work.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    unit: &'static str,
    total: u64,
    start: Instant,
    logged: Instant,
    terminal: bool,
}

impl Progress {
    /// `total` units of work called `name`: `Progress::new("tokenizing", "bytes", 1_000_000)`.
    #[must_use]
    pub fn new(name: &str, unit: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("{prefix} {bar:24} {human_pos}/{human_len} {msg} (about {eta} left)");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        let now = Instant::now();
        Self { bar, name: name.into(), unit, total, start: now, logged: now, terminal }
    }

    /// Says how far the work is, with a few words beside it.
    pub fn set(&mut self, done: u64, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.set_position(done);
        if !self.terminal && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let left = self.start.elapsed().as_secs_f64() * (self.total.saturating_sub(done)) as f64 / done.max(1) as f64;
            eprintln!("{}: {done} of {} {} {message} (about {} left)", self.name, self.total, self.unit, duration(left));
        }
    }

    /// [`set`](Self::set), of work whose amount is known better by now.
    pub fn of(&mut self, done: u64, total: u64, message: &str) {
        self.total = total;
        self.bar.set_length(total);
        self.set(done, message);
    }

    /// Adds to how far the work is.
    pub fn add(&mut self, more: u64) {
        self.set(self.bar.position() + more, "");
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        if self.terminal {
            self.bar.suspend(|| eprintln!("{text}"));
        } else {
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds as a person says them: `42 s`, `3 min 20 s`, `5 h 02 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// An error with its causes, but for those that it tells itself.
#[must_use]
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
