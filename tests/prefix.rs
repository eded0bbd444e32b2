//! A prefix from a file gives the bits that reading it gives, and nothing else is taken for it.

#[path = "common/gguf_model.rs"]
mod gguf_model;

use gguf_model::{tiny_config, tiny_model, tiny_model_with};
use std::fs::{self, FileTimes};
use std::path::{Path, PathBuf};
use tinyllm::infer::{CacheType, Model, PrefixError, Session};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;

const TYPES: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Q8];

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 97 + i * i * 13) % 261).collect()
}

/// A folder with a model, and the places of the model and of a prefix.
fn place(ty: GgmlType) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (model, prefix) = (dir.path().join("m.gguf"), dir.path().join("m.prefix"));
    tiny_model(&model, ty, 7);
    (dir, model, prefix)
}

fn save(model: &Model, cache: CacheType, tokens: &[u32], to: &Path) {
    let mut session = Session::with(model, model.config.n_ctx, cache);
    session.feed(tokens).unwrap();
    session.save_prefix(to).unwrap();
}

#[test]
fn bits_are_those_of_a_prefix_that_was_read() {
    for ty in [GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_K] {
        let (_dir, path, file) = place(ty);
        for (cache, n) in TYPES.into_iter().flat_map(|cache| [1, 31, 64, 70].map(|n| (cache, n))) {
            let (prompt, prefix) = (tokens(90), tokens(n));
            save(&Model::open(&path).unwrap(), cache, &prefix, &file);
            // Another process: the file is opened anew. Its session has less room, and held something else.
            let model = Model::open(&path).unwrap();
            let mut straight = Session::with(&model, 96, cache);
            let mut other = Session::with(&model, 92, cache);
            straight.feed(&prompt).unwrap();
            other.feed(&tokens(80).into_iter().rev().collect::<Vec<_>>()).unwrap();
            let before = other.read();
            other.load_prefix(&file, &prefix).unwrap();
            assert_eq!(other.tokens(), prefix);
            assert_eq!(other.kept_of(&prompt), n);
            assert_eq!(other.feed_from(&prompt).unwrap(), n);
            assert_eq!(other.read() - before, 90 - n as u64, "the prefix is not read");
            assert_eq!(other.logits(), straight.logits(), "{}, {cache:?}, {n}", ty.name());
            other.feed(&[5]).unwrap();
            straight.feed(&[5]).unwrap();
            assert_eq!(other.logits(), straight.logits());
        }
    }
}

#[test]
fn what_shares_less_keeps_less() {
    let (_dir, path, file) = place(GgmlType::Q8_0);
    let model = Model::open(&path).unwrap();
    save(&model, CacheType::F16, &tokens(40), &file);
    let mut session = Session::with(&model, 96, CacheType::F16);
    session.load_prefix(&file, &tokens(40)).unwrap();
    // The prefix itself, asked for: its last token is read anew, since there are no logits.
    assert_eq!(session.feed_from(&tokens(40)).unwrap(), 39);
    session.load_prefix(&file, &tokens(40)).unwrap();
    let other = [&tokens(20)[..], &[1, 2, 3]].concat();
    assert_eq!(session.feed_from(&other).unwrap(), 20);
    let mut straight = Session::with(&model, 96, CacheType::F16);
    straight.feed(&other).unwrap();
    assert_eq!(session.logits(), straight.logits());
}

/// Loads for 40 tokens in 16 bits; the refusal as text.
fn refusal(model: &Model, cache: CacheType, tokens: &[u32], file: &Path) -> String {
    let mut session = Session::with(model, 96, cache);
    session.feed(&[1, 2, 3]).unwrap();
    let before = session.logits().to_vec();
    let error = session.load_prefix(file, tokens).unwrap_err();
    assert_eq!(session.tokens(), [1, 2, 3], "the session is as it was");
    assert_eq!(session.logits(), before);
    assert!(error.to_string().contains("m.prefix: "), "{error}");
    error.to_string()
}

#[test]
fn damage_anywhere_is_refused() {
    let (_dir, path, file) = place(GgmlType::Q8_0);
    let model = Model::open(&path).unwrap();
    save(&model, CacheType::F16, &tokens(40), &file);
    let all = fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let error = Session::with(&model, 96, CacheType::F16).load_prefix(&file, &tokens(40)).unwrap_err();
        let ours = bytes.is_empty() || bytes.starts_with(&all[..8]);
        assert!(matches!(error, PrefixError::Damaged { .. }) == ours && matches!(error, PrefixError::Foreign { .. }) != ours, "{error}");
        assert!(!error.is_missing());
    };
    for at in (0..64).chain((64..all.len()).step_by(397)) {
        let mut bad = all.clone();
        bad[at] ^= 1 << (at % 8);
        refused(&bad);
        refused(&all[..at]);
    }
    refused(&[&all[..], &[0]].concat());
    // A checksum can be made right: what the header then says is looked at all the same.
    let with_header = |change: &dyn Fn(String) -> String| {
        let len = u32::from_le_bytes(all[12..16].try_into().unwrap()) as usize;
        let header = change(String::from_utf8(all[16..][..len].to_vec()).unwrap());
        let rest = [&(header.len() as u32).to_le_bytes()[..], header.as_bytes(), &all[16 + len..]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&rest);
        [&all[..8], &crc.sum().to_le_bytes(), &rest].concat()
    };
    refused(&with_header(&|h| h.replace("{", "[")));
    refused(&with_header(&|h| h.replace("\"tokens\"", "\"tokns\"")));
    refused(&[&with_header(&|h| h)[..], b"more"].concat());
    fs::write(&file, with_header(&|h| h)).unwrap();
    Session::with(&model, 96, CacheType::F16).load_prefix(&file, &tokens(40)).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(Session::new(&model).load_prefix(&file, &tokens(40)).unwrap_err().is_missing());
}

#[test]
fn what_is_of_something_else_is_refused_with_what() {
    let (dir, path, file) = place(GgmlType::Q8_0);
    let model = Model::open(&path).unwrap();
    save(&model, CacheType::F16, &tokens(40), &file);
    let stale = |model: &Model, cache, tokens: &[u32], what: &str| {
        let error = refusal(model, cache, tokens, &file);
        assert!(error.contains(what) && error.contains("it is of "), "{error}");
    };
    stale(&model, CacheType::F32, &tokens(40), "\"f16\"");
    stale(&model, CacheType::Q8, &tokens(40), "\"f16\"");
    stale(&model, CacheType::F16, &tokens(39), "another");
    let changed = [&tokens(39)[..], &[260]].concat();
    stale(&model, CacheType::F16, &changed, "another");
    if Isa::available().len() > 1 {
        stale(&Model::open_for(&path, Isa::available().pop().unwrap()).unwrap(), CacheType::F16, &tokens(40), "instructions");
    }
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let put = |name: &str, bytes: &[u8], time| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        Model::open(&path).unwrap()
    };
    let all = fs::read(&path).unwrap();
    // The same bytes at another time, the same time and other weights: as after training anew, in one tensor alone, in one row of a token.
    stale(&put("later.gguf", &all, modified + std::time::Duration::from_secs(1)), CacheType::F16, &tokens(40), "another time");
    tiny_model(&dir.path().join("other.gguf"), GgmlType::Q8_0, 8);
    let other = fs::read(dir.path().join("other.gguf")).unwrap();
    assert_eq!(other.len(), all.len());
    stale(&put("trained.gguf", &other, modified), CacheType::F16, &tokens(40), "another model");
    for tensor in model.file.tensors().iter().filter(|t| t.name.starts_with("blk.")) {
        let mut one = all.clone();
        one[tensor.start..][..tensor.len].copy_from_slice(&other[tensor.start..][..tensor.len]);
        if one != all {
            stale(&put("part.gguf", &one, modified), CacheType::F16, &tokens(40), "another model");
        }
    }
    let embedding = model.file.tensor("token_embd.weight").unwrap();
    let row = embedding.len / 261;
    let mut one = all.clone();
    one[embedding.start + tokens(40)[17] as usize * row + 3] ^= 1;
    stale(&put("row.gguf", &one, modified), CacheType::F16, &tokens(40), "another model");
    // The same file under another name and with its time: it is the same model.
    let same = put("same.gguf", &all, modified);
    Session::with(&same, 96, CacheType::F16).load_prefix(&file, &tokens(40)).unwrap();
    tiny_model_with(&path, &Config { n_ctx: 160, ..tiny_config() }, GgmlType::Q8_0, 7, &[]);
    stale(&Model::open(&path).unwrap(), CacheType::F16, &tokens(40), "bytes");
}
