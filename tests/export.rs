//! What runs on the board is what was trained: an exported file, read by `infer`, against the trainer's own forward pass.

use std::path::Path;
use tinyllm::backend::cpu::Cpu;
use tinyllm::data::Tokenizer;
use tinyllm::infer::{Model, Session, log_softmax, most_likely};
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::model::{Config, Decoder, HostBatch, Tree, init};
use tinyllm::quant::FileType;
use tinyllm::rng::Rng;
use tinyllm::train::Learner;

const PROMPTS: usize = 50;
const LONGEST: usize = 60;

fn model() -> (Config, Decoder<Vec<f32>>, Tokenizer) {
    let tokenizer = Tokenizer::gpt2().subset(0..1000);
    // F is no multiple of 32 times anything convenient, and C no power of two.
    let config = Config { n_embd: 96, n_head: 3, n_layer: 3, n_ff: Some(224), n_ctx: 64, n_vocab: Some(tokenizer.n_vocab()) };
    let spec = Decoder::spec(&config, None);
    let mut weights = init::initial(&spec, 5);
    // Untrained logits are all alike; larger matrices give a model with opinions, and noise makes biases count.
    let mut rng = Rng::new(6);
    for (w, s) in weights.leaves_mut().into_iter().zip(spec.leaves()) {
        let gain = if s.shape.len() == 2 { 4.0 } else { 1.0 };
        w.iter_mut().for_each(|x| *x = *x * gain + 0.02 * rng.normal() as f32);
    }
    (config, weights, tokenizer)
}

fn export(path: &Path, ty: FileType) -> (Config, Decoder<Vec<f32>>) {
    let (config, weights, tokenizer) = model();
    let card = Card {
        name: "test".into(),
        tokens: tokenizer.gguf_tokens(),
        merges: tokenizer.gguf_merges(),
        end_token: tokenizer.end_token(),
        texts: vec![("tinyllm.template".into(), "{input}".into())],
        labels: vec!["a".into(), "b".into()],
    };
    gguf::write(path, &config, &weights, &card, ty).unwrap();
    (config, weights)
}

/// The largest difference of any log-probability at any position of the prompts, and how often the next token differs.
fn compare(ty: FileType) -> (f64, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let (config, weights) = export(&path, ty);
    let model = Model::open(&path).unwrap();
    assert_eq!((model.labels(), model.text("tinyllm.template")), (vec!["a", "b"], Some("{input}")));
    assert_eq!(model.config, Config { n_ff: Some(config.ff()), ..config.clone() });
    let mut learner = Learner::new(Cpu::new(), Decoder::spec(&config, None), &weights, |_| false, LONGEST, true).unwrap();
    let mut rng = Rng::new(7);
    let (mut worst, mut different, mut places) = (0.0f64, 0, 0);
    for _ in 0..PROMPTS {
        let tokens: Vec<u32> = (0..1 + rng.below(LONGEST as u64)).map(|_| rng.below(config.vocab() as u64) as u32).collect();
        let trained = learner.logits(&HostBatch::unbroken(1, tokens.len(), &tokens, &tokens)).unwrap();
        let mut session = Session::new(&model);
        for (&token, trained) in tokens.iter().zip(trained.chunks(config.vocab())) {
            session.feed(&[token]).unwrap();
            let (mut ours, mut theirs) = (session.logits().to_vec(), trained.to_vec());
            log_softmax(&mut ours);
            log_softmax(&mut theirs);
            worst = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs())).fold(worst, f64::max);
            different += usize::from(most_likely(&ours) != most_likely(&theirs));
            places += 1;
        }
    }
    (worst, different, places)
}

#[test]
fn exported_f32_is_the_trainers_model() {
    let (worst, different, places) = compare(FileType::F32);
    println!("F32: largest difference of a log-probability {worst:.1e}, {different} of {places} next tokens differ");
    // The bar of the project; f32 sums of 96 to 224 terms in another order differ by some 1e-6 of a logit.
    assert!(worst < 1e-3 && different == 0, "{worst} {different}");
}

#[test]
fn smaller_types_lose_what_their_bits_say() {
    // Rounding a weight: 2^-11 of it for F16, half of amax/127 for Q8_0. Logits here deviate by about 4, and through three
    // blocks the worst of 1.6 million places was seen at 2.9e-3 and 7.8e-2; the bars leave a factor of four.
    for (ty, bar) in [(FileType::F16, 1.2e-2), (FileType::Q8_0, 0.32)] {
        let (worst, different, places) = compare(ty);
        println!("{}: largest difference of a log-probability {worst:.1e}, {different} of {places} next tokens differ", ty.name());
        assert!(worst < bar && worst > 1e-5 && different * 10 < places, "{}: {worst} {different} of {places}", ty.name());
    }
}
