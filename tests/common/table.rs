//! Cases of bad input, and what a program must say to each.
#![allow(dead_code)] // each test uses what it needs

use crate::small_run::{Place, differing, said};
use std::process::Output;

/// Collects the cases that went wrong, so that a test tells of all of them.
#[derive(Default)]
pub struct Table {
    wrong: Vec<String>,
    cases: usize,
}

impl Table {
    /// A program that must end with `code`, say all of `words`, and leave every file in the place as it was.
    pub fn refused(&mut self, place: &Place, what: &str, program: &str, args: &[&str], code: i32, words: &[&str]) {
        let before = place.files(".");
        let out = place.command(program, args).output().unwrap();
        self.judge(what, &out, code, words);
        let changed = differing(&before, &place.files("."));
        if !changed.is_empty() {
            self.wrong.push(format!("{what}: changed {changed:?}"));
        }
    }

    pub fn judge(&mut self, what: &str, out: &Output, code: i32, words: &[&str]) {
        self.cases += 1;
        let said = said(out);
        let missing: Vec<&&str> = words.iter().filter(|w| !said.contains(**w)).collect();
        if out.status.code() != Some(code) || !missing.is_empty() || said.contains("panicked") {
            self.wrong.push(format!("{what}: {:?} instead of {code}, without {missing:?}: {}", out.status, said.trim()));
        }
    }

    pub fn done(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{} of {} cases:\n{}", self.wrong.len(), self.cases, self.wrong.join("\n"));
        assert!(self.cases >= at_least, "{} cases", self.cases);
    }
}
