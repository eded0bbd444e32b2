//! One optimizer step, in full and by LoRA, and one evaluation, of the quickstart's model. For the larger models:
//! `tinyllm-train bench`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tinyllm::backend::cpu::Cpu;
use tinyllm::model::{Config, Decoder, HostBatch, Lora, Target, init};
use tinyllm::rng::Rng;
use tinyllm::train::{Adam, Learner};

const B: usize = 8;
const T: usize = 512;

fn train(c: &mut Criterion) {
    let config = Config { n_vocab: Some(512), ..Config::named("nano").expect("a preset") };
    let mut rng = Rng::new(1);
    let mut draw = || (0..B * T).map(|_| rng.below(512) as u32).collect::<Vec<_>>();
    let batch = HostBatch::unbroken(B, T, &draw(), &draw());
    let mut group = c.benchmark_group("nano, 8 x 512");
    group.sample_size(10);
    group.throughput(Throughput::Elements((B * T) as u64));
    let lora = Lora { rank: 16, alpha: 32.0, dropout: 0.1, targets: Target::ALL.to_vec() };
    for (name, lora) in [("step, all weights", None), ("step, LoRA of rank 16", Some(&lora))] {
        let spec = Decoder::spec(&config, lora);
        let weights = init::initial(&spec, 1);
        let mut learner = Learner::new(Cpu::new(), spec, &weights, |s| lora.is_none() || s.lora, B * T, false).expect("room");
        let mut step = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                step += 1;
                learner.step(std::slice::from_ref(&batch), step, 1e-4, &Adam::default(), 1).expect("a CPU does not fail")
            });
        });
        if lora.is_none() {
            group.bench_function("evaluation", |b| b.iter(|| learner.evaluate([&batch]).expect("a CPU does not fail")));
        }
    }
}

criterion_group!(benches, train);
criterion_main!(benches);
