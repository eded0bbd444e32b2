//! Bytes tokenized a second on one thread, and how long a tokenizer takes to build.

use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::read::GzDecoder;
use tinyllm::data::tokenizer::Tokenizer;

/// A window of readings, in the form models are given them.
fn sensor_text() -> String {
    let line =
        |name: &str, step: u32| (0..64u32).fold(format!("{name}:"), |line, i| format!("{line} {}", (i * step + i * i / 7) % 101)) + "\n";
    ["Ax", "Ay", "Az", "Gx", "Gy", "Gz"].iter().zip(3..).map(|(name, step)| line(name, step)).collect::<String>().repeat(600)
}

/// 10.8 MB of English, from the shared data folder.
fn english() -> Option<String> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(1);
    let Some(file) = above.map(|dir| dir.join("shared/data/sotu.jsonl.gz")).find_map(|path| File::open(path).ok()) else {
        println!("skipped: ../shared/data/sotu.jsonl.gz is not here");
        return None;
    };
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).expect("sotu.jsonl.gz is damaged");
    Some(text)
}

fn encode(c: &mut Criterion) {
    let start = Instant::now();
    let tokenizer = Tokenizer::gpt2();
    println!("GPT-2's tokenizer built from the embedded file in {:?} (once)", start.elapsed());

    let mut group = c.benchmark_group("encode");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let texts = [("english", english()), ("readings", Some(sensor_text()))];
    for (name, text) in texts.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut tokens = Vec::new();
        group.bench_function(*name, |b| {
            b.iter(|| {
                tokens.clear();
                tokenizer.encode_into(black_box(text), &mut tokens);
            });
        });
        let mut encoder = tokenizer.encoder();
        group.bench_function(format!("{name}, warm"), |b| {
            b.iter(|| {
                tokens.clear();
                encoder.encode_into(black_box(text), &mut tokens);
            });
        });
        group.bench_function(format!("{name}, 4 KiB at a time, nothing remembered"), |b| {
            b.iter(|| {
                tokens.clear();
                text.as_bytes().chunks(4096).for_each(|part| tokenizer.encode_into(black_box(&String::from_utf8_lossy(part)), &mut tokens));
            });
        });
    }
    group.finish();

    let (tokens, merges) = (tokenizer.gguf_tokens(), tokenizer.gguf_merges());
    c.bench_function("build from a GGUF's lists", |b| {
        b.iter(|| Tokenizer::from_tokens_and_merges(black_box(&tokens), black_box(&merges), tokenizer.end_token()));
    });
}

criterion_group!(benches, encode);
criterion_main!(benches);
