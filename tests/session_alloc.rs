//! Once made, a session and a sampler allocate nothing: a board that runs for weeks must not fragment its memory.

#[path = "common/counting_alloc.rs"]
mod counting_alloc;
#[path = "common/gguf_model.rs"]
mod gguf_model;

use counting_alloc::count;
use tinyllm::infer::{CacheType, Model, Sampler, Sampling, Session, pool};
use tinyllm::quant::GgmlType;

#[test]
fn reading_and_choosing_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for ty in GgmlType::ALL {
        let path = dir.path().join(ty.name());
        gguf_model::tiny_model(&path, ty, 7);
        let model = Model::open(&path).unwrap();
        for (threads, cache) in [(1, CacheType::F32), (3, CacheType::F16), (1, CacheType::Q8)] {
            let calls = pool(threads).unwrap().install(|| {
                let mut session = Session::with(&model, 96, cache);
                let mut sampler = Sampler::new(Sampling::default(), model.config.vocab());
                let prompt: Vec<u32> = (0..70).collect();
                let mut work = || {
                    session.truncate(0);
                    sampler.accept(&prompt);
                    session.feed(&prompt).unwrap();
                    for _ in 0..26 {
                        let token = sampler.next(session.logits());
                        session.feed(&[token]).unwrap();
                        let mut some = [0.0; 3];
                        session.logits_of(&mut some, &[1, 2, 3]);
                    }
                    session.truncate(10);
                    session.feed_from(&prompt).unwrap();
                };
                // A thread of the pool allocates when it takes work off another for the first time, whenever that is;
                // what a token costs would show in every round.

                (0..8).map(|_| count(&mut work).1).min().unwrap()
            });
            assert_eq!(calls, 0, "{} on {threads} threads", ty.name());
        }
    }
}
