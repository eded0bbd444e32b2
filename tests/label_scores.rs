//! P(label) from a session is the definition's, whatever the session held before.

#[path = "common/gguf_model.rs"]
mod gguf_model;
#[path = "common/gpt2_f64.rs"]
mod gpt2_f64;

use tinyllm::infer::{Model, Session, continue_greedily, label_log_probs};
use tinyllm::quant::GgmlType;

#[test]
fn labels_are_scored_by_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (config, weights) = gguf_model::tiny_model(&path, GgmlType::F32, 5);
    let model = Model::open(&path).unwrap();
    // One begins another, two share a beginning, one stands apart.
    let labels: Vec<String> = ["walk", "walk up", "wait", "the stairs"].map(String::from).to_vec();
    let trie = model.trie(&labels).unwrap();
    assert_eq!(trie.branches().count(), 3);
    let mut session = Session::new(&model);
    for prompt in ["Ax: 1 2 3", "Ax: 1 2 4", "Ax: 1 2 4", "B"] {
        let prompt = model.prompt(prompt).unwrap();
        let got = label_log_probs(&mut session, &trie, &prompt).unwrap();
        let want = trie
            .log_probs(|node| {
                let all = [&prompt[..], &node.prefix].concat();
                let next = gpt2_f64::log_probs(&config, &weights, &all).pop().unwrap();
                Ok::<_, ()>(node.children.iter().map(|c| next[c.0 as usize] as f32).collect())
            })
            .unwrap();
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
        let sum: f64 = got.iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
}

#[test]
fn a_prompt_that_leaves_no_room_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    gguf_model::tiny_model(&path, GgmlType::F32, 5);
    let model = Model::open(&path).unwrap();
    let trie = model.trie(&["ab".into(), "ac".into()]).unwrap();
    let mut session = Session::new(&model);
    assert!(label_log_probs(&mut session, &trie, &[1; 95]).is_ok());
    let error = label_log_probs(&mut session, &trie, &[1; 96]).unwrap_err().to_string();
    assert!(error.contains("context is full"), "{error}");
    assert_eq!(continue_greedily(&mut session, &[1; 94], 9).unwrap().len(), 3, "two are read, the third only chosen");
}
