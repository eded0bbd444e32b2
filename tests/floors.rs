//! Imports only go down: the house's floors, kept by reading every path that the library's files name.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, lowest first; `src/lib.rs` explains them.
const FLOORS: [&[&str]; 7] = [
    &["rng", "fsio", "mmap", "progress", "cores", "team"],
    &["simd"],
    &["quant", "gguf"],
    &["backend"],
    &["model", "data"],
    &["train", "infer"],
    &["eval"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|f| f.contains(&module))
}

/// Whether `from` may import `to`: downwards, within itself, among the single files of the ground, and `data` from `model`.
fn allowed(from: &str, to: &str) -> bool {
    let (Some(a), Some(b)) = (floor(from), floor(to)) else { return false };
    from == to || b < a || (a == 0 && b == 0) || (from, to) == ("data", "model") || (from, to) == ("gguf", "quant")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The module path of a file under `src/`: `src/model/io/hf.rs` is `[model, io, hf]`.
fn module_path(src: &Path, file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.strip_prefix(src).unwrap().with_extension("").iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|p| p == "mod") {
        parts.pop();
    }
    parts
}

/// The top-level modules a line of code names through `crate::` and `super::`.
fn named(line: &str, here: &[String]) -> Vec<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut all = Vec::new();
    for (i, _) in line.match_indices("crate::") {
        let rest = &line[i + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => all.extend(list.split('}').next().unwrap_or("").split(',').map(|p| word(p.trim()))),
            None => all.push(word(rest)),
        }
    }
    // `super::super::x` in a file: one `super` leads to its parent; inside `mod tests` one more is spent, so that a
    // path that seems to leave the library by one step stays within the file's own module.
    let mut rest = line;
    while let Some(i) = rest.find("super::") {
        let mut up = 0;
        rest = &rest[i..];
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, up) = (next, up + 1);
        }
        if up == here.len() {
            all.push(word(rest));
        }
    }
    all.retain(|m| !m.is_empty());
    all
}

#[test]
fn imports_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in all.iter().filter(|f| !f.starts_with(src.join("bin")) && !f.ends_with("lib.rs")) {
        let here = module_path(&src, file);
        assert!(floor(&here[0]).is_some(), "{} stands on no floor: add its module to FLOORS and to src/lib.rs", file.display());
        for (n, line) in fs::read_to_string(file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for module in named(code, &here).iter().filter(|m| floor(m).is_some()) {
                seen += 1;
                if !allowed(&here[0], module) {
                    wrong.push(format!("{}:{}: {} may not import {module}", file.display(), n + 1, here[0]));
                }
            }
        }
    }
    assert!(seen > 20, "the reader of imports found next to nothing: {seen}");
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_sees_what_it_should() {
    let here: Vec<String> = ["backend", "cpu", "gemm"].map(String::from).to_vec();
    assert_eq!(named("use crate::{model::Config, train};", &here), ["model", "train"]);
    assert_eq!(named("let x = crate::eval::score(super::super::super::infer::f());", &here), ["eval", "infer"]);
    assert_eq!(named("use super::super::Backend; use super::pack;", &here), Vec::<String>::new());
    assert!(!allowed("backend", "model") && !allowed("infer", "train") && allowed("data", "model") && !allowed("model", "data"));
}
