//! A session gives what GPT-2's formula gives, however its tokens come.

#[path = "common/gguf_model.rs"]
mod gguf_model;
#[path = "common/gpt2_f64.rs"]
mod gpt2_f64;

use gguf_model::{Weights, tiny_model};
use tinyllm::infer::{CacheType, Model, Session, SessionError, log_softmax, pool};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;

/// A model in a file of its own; the folder lives as long as the model is used.
struct Tiny {
    _dir: tempfile::TempDir,
    model: Model,
    config: Config,
    weights: Weights,
}

fn tiny(ty: GgmlType) -> Tiny {
    tiny_for(ty, Isa::detect())
}

fn tiny_for(ty: GgmlType, isa: Isa) -> Tiny {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (config, weights) = tiny_model(&path, ty, 7);
    Tiny { model: Model::open_for(&path, isa).unwrap(), _dir: dir, config, weights }
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 97 + i * i * 13) % 261).collect()
}

fn log_probs(session: &mut Session) -> Vec<f32> {
    let mut l = session.logits().to_vec();
    log_softmax(&mut l);
    l
}

/// Largest distance, and whether the likeliest token is the same.
fn distance(got: &[f32], want: &[f64]) -> (f64, bool) {
    let far = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    let top = |x: &mut dyn Iterator<Item = f64>| x.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|m| m.0);
    (far, top(&mut got.iter().map(|&g| g.into())) == top(&mut want.iter().copied()))
}

/// Against f64, f32 errs by some 2^-24 sqrt(terms) an operation over two blocks: 1e-5 in a log-probability of
/// size 10 would be usual; the bar asked for is 1e-4.
const TOLERANCE: f64 = 1e-4;

/// With inputs rounded to 8 bits on both sides results are as near, unless a number lies between two steps and goes the other way in f32:
/// a step of 1/127 of its block's largest value, of which every later sum hears.
const OTHER_WAY: f64 = 0.3;

/// What the formula says of a model in which matrices are of type `ty`.
fn truth(t: &Tiny, ty: GgmlType, tokens: &[u32]) -> Vec<Vec<f64>> {
    gpt2_f64::log_probs_of(&t.config, &t.weights, tokens, |name| gguf_model::stored_as(name, &t.weights[name].0, ty).block_len())
}

#[test]
fn every_position_agrees_with_the_formula_in_f64() {
    for ty in GgmlType::ALL {
        let t = tiny(ty);
        let texts: Vec<Vec<u32>> = if ty.is_quantized() { tokens(90).chunks(10).map(Into::into).collect() } else { vec![tokens(90)] };
        let want: Vec<_> = texts.iter().map(|text| truth(&t, ty, text)).collect();
        let spread = want[0][5].iter().copied().fold(f64::NEG_INFINITY, f64::max) + (261f64).ln();
        assert!(spread > 0.5, "the test model says something: {spread}");
        for isa in Isa::available() {
            let t = tiny_for(ty, isa);
            let mut session = Session::new(&t.model);
            let mut worst = vec![];
            for (text, want) in texts.iter().zip(&want) {
                session.truncate(0);
                let far = text.iter().zip(want).map(|(&token, want)| {
                    session.feed(&[token]).unwrap();
                    let (far, same) = distance(&log_probs(&mut session), want);
                    assert!(same || ty.is_quantized(), "{}, {}: another token is the likeliest", ty.name(), isa.name());
                    far
                });
                worst.push(far.fold(0.0, f64::max));
            }
            let near = worst.iter().filter(|&&far| far < TOLERANCE).count();
            let most = worst.iter().copied().fold(0.0, f64::max);
            println!("{} {}: {near} of {} texts near, the farthest {most:.1e}", ty.name(), isa.name(), texts.len());
            let bar = if ty.is_quantized() { OTHER_WAY } else { TOLERANCE };
            assert!(3 * near >= 2 * texts.len() && most < bar, "{}, {}: {worst:?}", ty.name(), isa.name());
        }
    }
}

#[test]
fn prompts_of_any_length_agree_with_single_tokens() {
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q5_1, GgmlType::Q4_0] {
        let t = tiny(ty);
        let tokens = tokens(96);
        let (want, bar) = (truth(&t, ty, &tokens), if ty.is_quantized() { OTHER_WAY } else { TOLERANCE });
        for n in [1, 2, 3, 5, 16, 63, 64, 65, 96] {
            let mut session = Session::new(&t.model);
            session.feed(&tokens[..n]).unwrap();
            let whole = log_probs(&mut session);
            let (far, _) = distance(&whole, &want[n - 1]);
            assert!(far < bar, "{}, prompt of {n}: {far:e}", ty.name());
            let mut singly = Session::new(&t.model);
            tokens[..n].iter().for_each(|&token| singly.feed(&[token]).unwrap());
            assert_eq!(whole, log_probs(&mut singly), "{}, prompt of {n}: the same bits", ty.name());
        }
    }
}

/// More layers than one job of the team has phases for.
#[test]
fn a_deep_model_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep.gguf");
    let config = Config { n_embd: 16, n_head: 2, n_layer: 120, n_ff: None, n_ctx: 8, n_vocab: Some(261) };
    let weights = gguf_model::tiny_model_with(&path, &config, GgmlType::F32, 3, &[]);
    let (model, tokens) = (Model::open(&path).unwrap(), tokens(8));
    let want = gpt2_f64::log_probs(&config, &weights, &tokens);
    for threads in [1, 2] {
        pool(threads).unwrap().install(|| {
            let mut session = Session::new(&model);
            session.feed(&tokens[..7]).unwrap();
            assert!(distance(&log_probs(&mut session), &want[6]).0 < TOLERANCE);
            session.feed(&tokens[7..]).unwrap();
            assert!(distance(&log_probs(&mut session), &want[7]).0 < TOLERANCE);
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let t = tiny(GgmlType::Q8_0);
    let run = |threads| {
        pool(threads).unwrap().install(|| {
            let mut session = Session::new(&t.model);
            session.feed(&tokens(70)).unwrap();
            session.feed(&[3]).unwrap();
            session.logits().to_vec()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_smaller_cache_is_nearly_as_good() {
    let t = tiny(GgmlType::F32);
    let tokens = tokens(60);
    let want = gpt2_f64::log_probs(&t.config, &t.weights, &tokens);
    // Keys and values of size 1 err by 2^-12 each, or in 8 bits by up to 3 / 254; averaged over 60 positions and two blocks.
    for (ty, room) in [(CacheType::F16, 5e-3), (CacheType::Q8, 0.05)] {
        let mut session = Session::with(&t.model, 60, ty);
        session.feed(&tokens).unwrap();
        let got = log_probs(&mut session);
        let (far, _) = distance(&got, &want[59]);
        assert!(far < room, "{ty:?}: {far:e}");
        let kl: f64 = got.iter().zip(&want[59]).map(|(&g, &w)| w.exp() * (w - f64::from(g))).sum();
        assert!(kl < 1e-3, "{ty:?}: {kl:e} nats");
    }
}

#[test]
fn going_back_and_on_is_as_if_nothing_happened() {
    let t = tiny(GgmlType::F32);
    let tokens = tokens(40);
    let mut straight = Session::new(&t.model);
    straight.feed(&tokens).unwrap();
    let mut other = Session::new(&t.model);
    other.feed(&tokens[..20]).unwrap();
    other.feed(&[1, 2, 3, 4, 5]).unwrap();
    other.truncate(20);
    other.feed(&tokens[20..]).unwrap();
    let (a, b) = (straight.logits().to_vec(), other.logits().to_vec());
    // Chunks are cut elsewhere, but every sum has the same order.
    assert_eq!(a, b);
    assert_eq!(other.feed_from(&tokens[..30]).unwrap(), 29, "all but the last is kept");
    assert_eq!(other.tokens(), &tokens[..30]);
}

#[test]
fn some_logits_are_those_of_all() {
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
        let t = tiny(ty);
        let mut session = Session::new(&t.model);
        session.feed(&tokens(9)).unwrap();
        let all = session.logits().to_vec();
        let ids = [260u32, 0, 17, 17, 99, 3, 4];
        let mut some = [0.0; 7];
        session.logits_of(&mut some, &ids);
        assert_eq!(some.to_vec(), ids.iter().map(|&i| all[i as usize]).collect::<Vec<_>>(), "{}", ty.name());
    }
}

/// Logits of all rows of a chunk at once, with every kind of matrix and cache, on one thread and two.
#[test]
fn logits_of_every_row_are_those_of_each() {
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q6_K, GgmlType::Q4_K] {
        let t = tiny(ty);
        let tokens = tokens(96);
        for (cache, threads) in [(CacheType::F32, 1), (CacheType::F16, 2), (CacheType::Q8, 2)] {
            let singly: Vec<Vec<f32>> = {
                let mut session = Session::with(&t.model, 96, cache);
                let one = |&token: &u32| {
                    session.feed(&[token]).unwrap();
                    session.logits().to_vec()
                };
                tokens.iter().map(one).collect()
            };
            let mut at = 0;
            pool(threads).unwrap().install(|| {
                let mut session = Session::with(&t.model, 96, cache);
                for (n, rows) in [(1, 1), (20, 20), (7, 1), (1, 0), (64, 63), (3, 2)] {
                    let got = session.feed_every(&tokens[at..at + n], rows).unwrap().to_vec();
                    at += n;
                    assert!(got == singly[at - rows..at].concat(), "{}, {cache:?}: the last {rows} of {n}", ty.name());
                    assert_eq!(session.logits(), singly[at - 1], "{}, {cache:?}: the last of {n}", ty.name());
                }
            });
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_and_nothing_is_lost() {
    let t = tiny(GgmlType::F32);
    let mut session = Session::new(&t.model);
    session.feed(&tokens(90)).unwrap();
    let before = session.logits().to_vec();
    assert_eq!(session.feed(&tokens(7)), Err(SessionError::ContextFull { more: 7, held: 90, room: 96 }));
    assert_eq!(session.feed_every(&tokens(7), 1).unwrap_err(), SessionError::ContextFull { more: 7, held: 90, room: 96 });
    assert_eq!(session.feed(&[261]), Err(SessionError::NoToken { id: 261, vocab: 261 }));
    assert_eq!(session.logits(), before);
    session.feed(&tokens(6)).unwrap();
    let full = session.feed(&[1]).unwrap_err().to_string();
    assert!(full.contains("context is full") && full.contains("96 positions"), "{full}");
}
