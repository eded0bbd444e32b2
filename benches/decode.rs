//! Reading a prompt and writing a token with the 30m model, by type of file; on all threads (`RAYON_NUM_THREADS`).

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tinyllm::data::Tokenizer;
use tinyllm::infer::{Model, Session};
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::model::{Config, Decoder, init};
use tinyllm::quant::FileType;

const PROMPT: usize = 128;

/// The 30m model with random weights, whose speed is that of any others.
fn model(ty: FileType) -> Model {
    let tokenizer = Tokenizer::gpt2();
    let config = Config { n_vocab: Some(tokenizer.n_vocab()), ..Config::named("30m").expect("a preset") };
    let weights = init::initial(&Decoder::spec(&config, None), 1);
    let card =
        Card { tokens: tokenizer.gguf_tokens(), merges: tokenizer.gguf_merges(), end_token: tokenizer.end_token(), ..Card::default() };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.gguf");
    gguf::write(&path, &config, &weights, &card, ty).expect("room for the model");
    Model::open(&path).expect("what was just written") // the map outlives the folder
}

fn decode(c: &mut Criterion) {
    for ty in [FileType::F32, FileType::F16, FileType::Q8_0] {
        let model = model(ty);
        let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 97 % 50_000).collect();
        let mut group = c.benchmark_group(format!("30m {}", ty.name()));
        group.sample_size(20);
        group.throughput(Throughput::Elements(PROMPT as u64));
        let mut session = Session::new(&model);
        group.bench_function("prompt of 128", |b| {
            b.iter(|| {
                session.truncate(0);
                session.feed(&prompt).expect("room");
                black_box(session.logits()[0])
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("a token after 128", |b| {
            b.iter_batched(
                || (),
                |()| {
                    session.truncate(PROMPT);
                    session.feed(&[5]).expect("room");
                    black_box(session.logits()[0])
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
