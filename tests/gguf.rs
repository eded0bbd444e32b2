//! GGUF files: what is written is read.

#[path = "common/gguf_model.rs"]
mod gguf_model;

use gguf_model::{random_weights, tiny_config, tiny_model};
use proptest::prelude::*;
use tinyllm::gguf::{Gguf, GgufError, Value, ValueType, Writer};
use tinyllm::infer::{Model, ModelError};
use tinyllm::quant::GgmlType;

fn scalar() -> BoxedStrategy<Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e9f32..1e9).prop_map(Value::F32),
        (-1e9f64..1e9).prop_map(Value::F64),
        ".{0,12}".prop_map(Value::String),
    ]
    .boxed()
}

/// Values of all types; arrays are of copies of one value, or of strings, nested up to three deep.
fn value() -> BoxedStrategy<Value> {
    let array = |item: BoxedStrategy<Value>| (item, 0usize..4).prop_map(|(v, n)| Value::Array(v.ty(), vec![v; n])).boxed();
    let strings = proptest::collection::vec(".{0,9}", 0..5).prop_map(Value::strings);
    prop_oneof![scalar(), array(scalar()), array(array(scalar())), array(array(array(scalar()))), strings].boxed()
}

proptest! {
    #[test]
    fn metadata_comes_back(values in proptest::collection::vec(value(), 0..9), sizes in proptest::collection::vec(1u64..40, 0..4)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut w = Writer::new();
        for (i, v) in values.iter().enumerate() {
            w.meta(&format!("key.{i}"), v.clone());
        }
        for (i, &n) in sizes.iter().enumerate() {
            let bytes = vec![i as u8 + 1; 2 * n as usize];
            w.tensor(&format!("t{i}"), 1, &[n], Box::new(move |out| out.write_all(&bytes)));
        }
        w.write(&path).unwrap();
        let file = Gguf::open(&path).unwrap();
        let read: Vec<_> = file.entries().map(|(k, v)| (k.to_owned(), v.to_value())).collect();
        let want: Vec<_> = values.into_iter().enumerate().map(|(i, v)| (format!("key.{i}"), v)).collect();
        prop_assert_eq!(read, want);
        for (i, &n) in sizes.iter().enumerate() {
            let t = file.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!(&t.dims, &vec![n]);
            prop_assert_eq!(t.start % 32, 0);
            prop_assert!(file.data(t).iter().all(|&b| b == i as u8 + 1) && file.data(t).len() == 2 * n as usize);
        }
        prop_assert_eq!(file.file_len() % 32, 0);
    }
}

#[test]
fn models_of_all_formats_are_opened_with_their_facts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for ty in GgmlType::ALL {
        let (config, _) = tiny_model(&path, ty, 1);
        let model = Model::open(&path).unwrap();
        assert_eq!(model.config, config);
        assert_eq!((model.token_embd.ty(), model.position_embd.ty()), (ty, GgmlType::F32));
        assert!(model.output.is_none() && model.labels().is_empty() && model.text("tinyllm.codec").is_none());
        assert_eq!(model.prompt(" the 4").unwrap(), [258, 259]);
        assert_eq!(model.prompt("").unwrap(), [260]);
        assert_eq!(model.file.tensors().len(), 12 * config.n_layer + 4);
    }
}

/// A tiny model with one thing changed.
fn changed(change: impl FnOnce(&mut Vec<(String, Value)>, &mut Vec<(String, Vec<u64>)>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    tiny_model(&path, GgmlType::F32, 1);
    let file = Gguf::open(&path).unwrap();
    let mut meta: Vec<_> = file.entries().map(|(k, v)| (k.to_owned(), v.to_value())).collect();
    let mut tensors: Vec<_> = file.tensors().iter().map(|t| (t.name.clone(), t.dims.clone())).collect();
    change(&mut meta, &mut tensors);
    let mut w = Writer::new();
    for (k, v) in meta {
        w.meta(&k, v);
    }
    for (name, dims) in &tensors {
        let n = 4 * dims.iter().product::<u64>() as usize;
        w.tensor(name, 0, dims, Box::new(move |out| out.write_all(&vec![0; n])));
    }
    let other = dir.path().join("other.gguf");
    w.write(&other).unwrap();
    let whole = |model: Model| model.tokenizer.full().map_err(ModelError::from);
    let error: ModelError = Model::open(&other).and_then(whole).expect_err("must be refused");
    assert!(error.to_string().contains("other.gguf"), "{error}");
    error.to_string()
}

#[test]
fn what_is_no_gpt2_is_refused_with_its_place() {
    let set = |key: &'static str, value: Value| changed(move |meta, _| meta.iter_mut().find(|m| m.0 == key).unwrap().1 = value);
    let without = |key: &'static str| changed(move |meta, _| meta.retain(|m| m.0 != key));
    for key in [
        "general.architecture",
        "gpt2.context_length",
        "gpt2.embedding_length",
        "gpt2.block_count",
        "gpt2.feed_forward_length",
        "gpt2.attention.head_count",
        "gpt2.attention.layer_norm_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        let error = without(key);
        assert!(error.contains(&format!("no key '{key}'")), "{error}");
        let error = set(key, Value::Bool(true));
        assert!(error.contains(key) && error.contains("byte ") && error.contains("type bool"), "{error}");
    }
    assert!(set("general.architecture", "llama".into()).contains("'llama', and only gpt2"));
    assert!(set("gpt2.attention.head_count", 5u32.into()).contains("no multiple of n_head"));
    assert!(set("gpt2.context_length", u32::MAX.into()).contains("n_ctx"));
    assert!(set("gpt2.context_length", 97u32.into()).contains("position_embd.weight is of [96, 96], but the metadata says [96, 97]"));
    assert!(set("gpt2.block_count", 3u32.into()).contains("no tensor blk.2.attn_norm.weight"));
    assert!(set("gpt2.block_count", Value::U64(1 << 60)).contains("n_layer"));
    assert!(set("tokenizer.ggml.merges", Value::strings(["q q"])).contains("not in the vocabulary"));
    assert!(set("tokenizer.ggml.eos_token_id", 9999u32.into()).contains("end token 9999"));
    assert!(changed(|_, tensors| drop(tensors.remove(3))).contains("no tensor blk.0.attn_norm.bias"));
    assert!(changed(|_, tensors| tensors[4].1.swap(0, 1)).contains("blk.0.attn_qkv.weight is of [288, 96]"));
}

#[test]
fn a_type_that_cannot_be_run_is_named() {
    const IQ4_NL: u32 = 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (c, (tokens, merges)) = (tiny_config(), gguf_model::tiny_vocabulary());
    let mut w = Writer::new();
    gguf_model::metadata(&mut w, &c, &tokens, &merges, 260, 2);
    for (name, (dims, weights)) in random_weights(&c, 1) {
        let odd = name == "blk.1.ffn_up.weight";
        let bytes = if odd { weights.len() / 32 * 18 } else { weights.len() * 4 };
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        w.tensor(&name, if odd { IQ4_NL } else { 0 }, &dims, Box::new(move |out| out.write_all(&vec![0; bytes])));
    }
    w.write(&path).unwrap();
    let error = Model::open(&path).err().unwrap().to_string();
    assert!(error.contains("blk.1.ffn_up.weight is of type IQ4_NL, and only F32, F16, BF16, Q8_0, Q6_K"), "{error}");
    assert!(Gguf::open(&path).is_ok(), "but the container can be listed");
}

#[test]
fn arrays_may_be_empty_and_end_tokens_unnamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut w = Writer::new();
    w.meta("a", Value::Array(ValueType::Array, vec![])).meta("b", Value::strings(Vec::<String>::new()));
    w.write(&path).unwrap();
    let file = Gguf::open(&path).unwrap();
    assert!(file.array("a").unwrap().is_empty());
    assert_eq!(file.strings("b").unwrap().count(), 0);
    assert!(matches!(file.strings("a"), Err(GgufError::Unsupported { .. })));
    let missing = file.unsigned("c").unwrap_err();
    assert!(missing.to_string().contains("no key 'c'"));
}

/// Random models with GPT-2's whole vocabulary for `scripts/check_llama_cpp.py`, where no trained one is at hand:
/// `TINYLLM_GGUF_OUT=/tmp/models cargo test --release --test gguf models_for_llama_cpp -- --ignored`
#[test]
#[ignore = "writes files for a script"]
fn models_for_llama_cpp() {
    let folder = std::env::var("TINYLLM_GGUF_OUT").expect("TINYLLM_GGUF_OUT names a folder");
    let tokenizer = tinyllm::data::Tokenizer::gpt2();
    let config = tinyllm::model::Config { n_embd: 128, n_head: 2, n_layer: 4, n_ff: None, n_ctx: 512, n_vocab: Some(tokenizer.n_vocab()) };
    let weights = random_weights(&config, 1);
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
        let mut w = Writer::new();
        let (tokens, merges) = (tokenizer.gguf_tokens(), tokenizer.gguf_merges());
        gguf_model::metadata(&mut w, &config, &tokens, &merges, tokenizer.end_token(), gguf_model::file_type(ty));
        gguf_model::tensors(&mut w, &config, &weights, ty);
        w.write(format!("{folder}/m-{}.gguf", ty.name().to_lowercase()).as_ref()).unwrap();
    }
}
