//! Texts for pre-training: files, folders and JSONL, a document at a time, doubles left out.

use super::csv::open;
use super::error::DataError;
use crate::fsio::At;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// Documents seen so far, by the first half of their SHA-256: enough that no two of 2^40 are mixed up.
#[derive(Default)]
pub struct Seen(HashSet<u128>);

impl Seen {
    /// Whether a text is new; from then on it is not.
    pub fn add(&mut self, text: &str) -> bool {
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
        self.0.insert(u128::from_le_bytes(half))
    }
}

/// The texts of a source, and how many were left out because they are empty or were there before.
pub fn read(files: &[PathBuf], field: &str, separator: Option<&str>, seen: &mut Seen) -> Result<(Vec<String>, usize), DataError> {
    let (mut texts, mut dropped) = (vec![], 0);
    for path in files {
        let mut add = |text: &str| {
            let text = text.trim();
            if !text.is_empty() && seen.add(text) {
                texts.push(text.to_owned());
            } else {
                dropped += 1;
            }
        };
        let name = path.to_string_lossy();
        if name.trim_end_matches(".gz").ends_with(".jsonl") {
            jsonl(path, field, &mut add)?;
        } else {
            let text = text(path)?;
            match separator {
                Some(separator) => text.split(separator).for_each(&mut add),
                None => add(&text),
            }
        }
    }
    if texts.is_empty() {
        let path = files.first().cloned().unwrap_or_default();
        return Err(DataError::file(&path, "there is no text in this source that is not in another one already"));
    }
    Ok((texts, dropped))
}

/// A file's text, as a whole; unpacked if it is gzipped.
pub fn text(path: &Path) -> Result<String, DataError> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).at(path, "read as UTF-8 text")?;
    Ok(text)
}

fn jsonl(path: &Path, field: &str, add: &mut impl FnMut(&str)) -> Result<(), DataError> {
    for (i, line) in open(path)?.lines().enumerate() {
        let line = line.at(path, "read")?;
        if line.trim().is_empty() {
            continue;
        }
        let fail = |message: String| DataError::line(path, i as u64 + 1, message);
        let value: Value = serde_json::from_str(&line).map_err(|e| fail(format!("no JSON: {e}")))?;
        let Some(Value::String(text)) = value.get(field) else {
            let there = value.as_object().map_or_else(String::new, |o| o.keys().cloned().collect::<Vec<_>>().join(", "));
            return Err(fail(format!("there is no text field '{field}'; the fields are: {there}. Name one of them as field")));
        };
        add(text);
    }
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal, and its length.
pub fn hash(path: &Path) -> Result<(String, u64), DataError> {
    let mut file = std::fs::File::open(path).at(path, "open")?;
    let (mut sha, mut buffer, mut total) = (Sha256::new(), vec![0; 1 << 18], 0);
    loop {
        let n = file.read(&mut buffer).at(path, "read")?;
        if n == 0 {
            break;
        }
        sha.update(&buffer[..n]);
        total += n as u64;
    }
    Ok((sha.finalize().iter().map(|b| format!("{b:02x}")).collect(), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_doubles() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut seen = Seen::default();
        let files =
            [write("a.txt", "one\n--\ntwo\n--\none\n--\n"), write("b.jsonl", "{\"id\":1,\"text\":\"three\"}\n\n{\"text\":\"two\"}\n")];
        let (texts, dropped) = read(&files, "text", Some("--"), &mut seen).unwrap();
        assert_eq!((texts, dropped), (vec!["one".into(), "two".into(), "three".into()], 3));
        let error = read(&files[1..], "body", None, &mut seen).unwrap_err().to_string();
        assert!(error.contains("b.jsonl:1: there is no text field 'body'; the fields are: id, text"), "{error}");
        let bad = write("c.jsonl", "{\"text\":\"new\"}\n{\"text\":");
        assert!(read(&[bad], "text", None, &mut seen).unwrap_err().to_string().contains("c.jsonl:2: no JSON"));
        assert!(read(&files[..1], "text", Some("--"), &mut seen).unwrap_err().to_string().contains("no text"));
        assert_eq!(hash(&write("e", "abc")).unwrap(), ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(), 3));
    }
}
