//! Ready examples: rows of `instruction`, `input` and `output` from CSV, JSON or JSONL.

use super::codec::Codec;
use super::csv::{Table, open};
use super::error::DataError;
use super::example::Example;
use super::manifest::TaskFacts;
use super::plan::{Examples, Plan};
use super::split::Split;
use super::task::{TaskData, list};
use crate::fsio::At;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::path::Path;

/// With more different answers than this, answers are free text unless the recipe lists labels.
const MOST_LABELS: usize = 64;

/// Builds the task of some ready examples.
pub fn build(plan: &Plan, spec: &Examples) -> Result<TaskData, DataError> {
    let given = plan.instruction.as_deref();
    let mut examples: [Vec<Example>; 3] = Default::default();
    for (examples, files) in examples.iter_mut().zip(&spec.files) {
        for file in files {
            read(file, given, examples)?;
        }
    }
    if spec.divide {
        let all = std::mem::take(&mut examples[0]);
        let answers: Vec<&String> = all.iter().map(|e| &e.output).collect::<BTreeSet<_>>().into_iter().collect();
        let classes: Vec<u32> = all.iter().map(|e| answers.binary_search(&&e.output).unwrap_or(0) as u32).collect();
        // Rare answers cannot each be dealt in shares.
        let dealt = plan.splitter.deal(if answers.len() <= MOST_LABELS { &classes } else { &[] });
        let dealt = if dealt.is_empty() { plan.splitter.deal(&vec![0; all.len()]) } else { dealt };
        all.into_iter().zip(dealt).for_each(|(e, split)| examples[split as usize].push(e));
    }
    let labels = match &spec.labels {
        Some(labels) => labels.clone(),
        None => {
            let found: BTreeSet<&String> = examples[Split::Train as usize].iter().map(|e| &e.output).collect();
            if found.len() <= MOST_LABELS { found.into_iter().cloned().collect() } else { vec![] }
        }
    };
    for e in examples.iter_mut().flatten() {
        e.instruction = e.instruction.replace("{labels}", &list(&labels));
        if !labels.is_empty() && !labels.contains(&e.output) {
            let message = format!(
                "{}: the answer '{}' is none of the labels: {}. Correct it, or add it to examples.labels",
                e.at,
                e.output,
                labels.join(", ")
            );
            return Err(DataError::recipe(message));
        }
    }
    let instruction = given.map(str::to_owned).or_else(|| examples[0].first().map(|e| e.instruction.clone())).unwrap_or_default();
    let codec = Codec::new(instruction.replace("{labels}", &list(&labels)), labels, None);
    let facts = TaskFacts::empty(&codec, String::new());
    let mut data = TaskData { codec, examples, documents: vec![], test: vec![], raw_labels: vec![], facts };
    data.finish()?;
    Ok(data)
}

/// Reads one file; the recipe's instruction takes the place of the file's.
fn read(path: &Path, instruction: Option<&str>, out: &mut Vec<Example>) -> Result<(), DataError> {
    let name = path.to_string_lossy();
    let name = name.trim_end_matches(".gz");
    let before = out.len();
    let mut add = |line: u64, own: Option<String>, input: String, output: String| {
        let fail = |what: &str| Err(DataError::line(path, line, what));
        let Some(instruction) = instruction.map(str::to_owned).or(own) else {
            return fail("there is no instruction; add the column, or give the recipe an instruction");
        };
        if output.trim().is_empty() {
            return fail("the output is empty; every example needs its answer");
        }
        let file = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        out.push(Example { instruction, input, output, at: format!("{file}:{line}"), ..Example::default() });
        Ok(())
    };
    if name.ends_with(".csv") {
        let mut table = Table::open(path)?;
        let (input, output) = (table.column("input")?, table.column("output")?);
        let own = table.find("instruction");
        while table.advance()? {
            add(table.line(), own.map(|c| table.text(c).to_owned()), table.text(input).to_owned(), table.text(output).to_owned())?;
        }
    } else if name.ends_with(".jsonl") {
        for (i, line) in open(path)?.lines().enumerate() {
            let line = line.at(path, "read")?;
            if !line.trim().is_empty() {
                let at = i as u64 + 1;
                let value = serde_json::from_str(&line).map_err(|e| DataError::line(path, at, format!("no JSON: {e}")))?;
                let (own, input, output) = fields(&value).map_err(|e| DataError::line(path, at, e))?;
                add(at, own, input, output)?;
            }
        }
    } else {
        let mut text = String::new();
        open(path)?.read_to_string(&mut text).at(path, "read as UTF-8 text")?;
        let all: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| DataError::line(path, e.line() as u64, format!("no JSON array of examples: {e}")))?;
        for (i, value) in all.iter().enumerate() {
            let (own, input, output) = fields(value).map_err(|e| DataError::file(path, format!("example {}: {e}", i + 1)))?;
            add(i as u64 + 1, own, input, output)?;
        }
    }
    if out.len() == before {
        return Err(DataError::file(path, "there is no example in the file"));
    }
    Ok(())
}

fn fields(value: &Value) -> Result<(Option<String>, String, String), String> {
    let text = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        None | Some(Value::Null) => Ok(None),
        Some(other) => Err(format!("'{name}' is {other} and not text")),
    };
    let output = text("output")?.ok_or("there is no 'output'; every example needs its answer")?;
    Ok((text("instruction")?, text("input")?.unwrap_or_default(), output))
}
