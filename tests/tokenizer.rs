//! The tokenizer against tiktoken-rs (whose `r50k_base` is GPT-2), llama.cpp's test vectors, and its own promises.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use rayon::prelude::*;
use tinyllm::data::tokenizer::{
    FileTokenizer, StreamDecoder, Tokenizer, TokenizerDirError, TokenizerError, TokenizerFileError, VocabBuilder,
};
use tinyllm::gguf::{Gguf, Value, Writer};

static ORACLE: LazyLock<tiktoken_rs::CoreBPE> = LazyLock::new(|| tiktoken_rs::r50k_base().unwrap());

/// GPT-2's tokenizer, by way of the lists a GGUF file holds.
static LISTED: LazyLock<Tokenizer> = LazyLock::new(|| {
    let gpt2 = Tokenizer::gpt2();
    Tokenizer::from_tokens_and_merges(&gpt2.gguf_tokens(), &gpt2.gguf_merges(), gpt2.end_token()).unwrap()
});

/// GPT-2's tokenizer in a GGUF file.
static IN_FILE: LazyLock<FileTokenizer> = LazyLock::new(|| {
    let gpt2 = Tokenizer::gpt2();
    in_file(&gpt2.gguf_tokens(), &gpt2.gguf_merges(), Some(gpt2.end_token())).unwrap()
});

/// The tokenizer of a file that holds these lists and nothing else.
fn in_file(tokens: &[impl AsRef<str>], merges: &[impl AsRef<str>], end: Option<u32>) -> Result<FileTokenizer, TokenizerFileError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut w = Writer::new();
    w.meta("tokenizer.ggml.model", "gpt2")
        .meta("tokenizer.ggml.tokens", Value::strings(tokens.iter().map(AsRef::as_ref)))
        .meta("tokenizer.ggml.merges", Value::strings(merges.iter().map(AsRef::as_ref)));
    if let Some(end) = end {
        w.meta("tokenizer.ggml.eos_token_id", end);
    }
    w.write(&path).unwrap();
    FileTokenizer::open(Arc::new(Gguf::open(&path)?)) // the map outlives the folder
}

/// A file of the shared data folder beside the package (or beside a folder that holds it), unpacked; `None`, with a
/// printed line, where it is absent.
fn shared(name: &str) -> Option<String> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(1);
    let Some(bytes) = above.map(|dir| dir.join("shared/data").join(name)).find_map(|path| std::fs::read(path).ok()) else {
        println!("skipped: ../shared/data/{name} is not here");
        return None;
    };
    let mut text = String::new();
    match name.ends_with(".gz") {
        true => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
        false => (&bytes[..]).read_to_string(&mut text).unwrap(),
    };
    Some(text)
}

/// Compares line by line, so that a difference is shown where it is.
fn assert_like_tiktoken(name: &str, text: &str) {
    let gpt2 = Tokenizer::gpt2();
    let expected = ORACLE.encode_ordinary(text);
    if gpt2.encode(text) != expected {
        for (i, line) in text.split_inclusive('\n').enumerate() {
            assert_eq!(gpt2.encode(line), ORACLE.encode_ordinary(line), "{name}, line {}", i + 1);
        }
        panic!("{name}: the whole differs, no line does");
    }
    assert_eq!(gpt2.decode(&expected), text, "{name}");
}

#[test]
fn shared_texts_are_tiktoken_s() {
    let names = [
        "sotu.jsonl.gz",
        "nyc_weather.csv",
        "gesture/train.csv",
        "gesture/validation.csv",
        "gesture/test.csv",
        "localisation/train.csv",
        "localisation/validation.csv",
        "localisation/test.csv",
        "extrasensory_header.csv",
        "LICENSE-Apache-2.0.txt",
        "README.md",
    ];
    names.par_iter().for_each(|name| {
        if let Some(text) = shared(name) {
            assert_like_tiktoken(name, &text);
        }
    });
    if let Some(text) = shared("watch.csv.gz") {
        assert_like_tiktoken("watch.csv.gz", &text[..1 << 20]);
    }
}

#[test]
fn addresses_as_text_are_tiktoken_s() {
    let Some(lines) = shared("sotu.jsonl.gz") else { return };
    // The text itself, with its real newlines, not the escapes of JSON.
    let texts: Vec<String> = lines
        .lines()
        .step_by(5)
        .map(|line| match serde_json::from_str(line).unwrap() {
            serde_json::Value::Object(fields) => {
                fields.values().filter_map(|value| value.as_str()).max_by_key(|text| text.len()).unwrap().into()
            }
            other => panic!("not an object: {other}"),
        })
        .collect();
    texts.par_iter().enumerate().for_each(|(i, text)| assert_like_tiktoken(&format!("address {i}"), text));
}

#[test]
fn llama_cpp_s_vectors() {
    let file: serde_json::Value = serde_json::from_str(include_str!("fixtures/tokenizer_vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 47);
    for vector in vectors {
        let text = vector["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(vector["ids"].clone()).unwrap();
        assert_eq!(Tokenizer::gpt2().encode(text), ids, "{text:?}");
        assert_eq!(LISTED.encode(text), ids, "{text:?}");
        assert_eq!(IN_FILE.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(IN_FILE.decode(&ids), text);
        assert_eq!(Tokenizer::gpt2().decode(&ids), text);
    }
}

/// Text of the kinds on which pre-tokenizers differ.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,8}".prop_map(|word| word),
        2 => "[0-9]{1,5}",
        3 => "[ ]{1,4}",
        2 => "[\t\r\n\u{b}\u{c}\u{85}\u{a0}\u{2003}\u{2028}\u{3000}\u{200b}\u{feff}]{1,3}",
        2 => prop::sample::select(vec!["'s", "'S", "'ll", "'ve", "'re", "'t", "'d", "'m", "'", "''", "\u{2019}s", "'l", "don't", "it's"]).prop_map(String::from),
        2 => "[!-/:-@\\[-`{-~]{1,6}",
        2 => "[\u{4e00}-\u{4eff}\u{3041}-\u{30ff}\u{ac00}-\u{ac80}]{1,12}",
        2 => "[\u{0900}-\u{097f}\u{0600}-\u{06ff}\u{0e00}-\u{0e7f}]{1,8}",
        1 => "[a-zé]\\PC?[\u{300}-\u{36f}\u{20d0}-\u{20f0}]{1,3}",
        1 => "[\u{1f600}-\u{1f64f}\u{1f3fb}-\u{1f3ff}\u{200d}\u{fe0f}]{1,4}",
        1 => "[²³½Ⅷ①٣৪\u{10140}\u{1d7ce}]{1,3}",
        1 => "[\u{0}-\u{1f}\u{7f}-\u{9f}]{1,3}",
        1 => "[a =\\-]{30,80}",
        1 => any::<String>(),
        1 => any::<char>().prop_map(String::from),
        1 => Just("<|endoftext|>".to_owned()),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_tiktoken_s(text in any_text()) {
        let ids = Tokenizer::gpt2().encode(&text);
        prop_assert_eq!(&ids, &ORACLE.encode_ordinary(&text));
        prop_assert_eq!(Tokenizer::gpt2().encoder().encode(&text), &ids[..]);
        prop_assert_eq!(LISTED.encode(&text), &ids[..]);
        prop_assert_eq!(IN_FILE.encode(&text).unwrap(), &ids[..]);
        prop_assert_eq!(IN_FILE.decode(&ids), &text[..]);
        prop_assert_eq!(Tokenizer::gpt2().decode(&ids), &text[..]);
        prop_assert_eq!(Tokenizer::gpt2().is_single_token(&text), ids.len() == 1);
    }

    #[test]
    fn a_stream_is_the_whole(ids in prop::collection::vec(0u32..50_257, 0..30)) {
        let tokenizer = Tokenizer::gpt2();
        let (mut stream, mut out) = (StreamDecoder::new(), String::new());
        for &id in &ids {
            stream.push(tokenizer.token_bytes(id), &mut out);
        }
        stream.finish(&mut out);
        prop_assert_eq!(out, tokenizer.decode(&ids));
    }
}

/// Every character on its own and after a space: the tables decide, and what is no letter is split off.
#[test]
fn every_character_is_tiktoken_s() {
    let chars: Vec<char> = ('\0'..=char::MAX).filter(|&c| (c as u32) < 0x32_000 || (c as u32).is_multiple_of(97)).collect();
    let tokenizer = Tokenizer::gpt2();
    chars.par_chunks(4096).for_each(|chars| {
        let mut text = String::new();
        for c in chars {
            write!(text, "a{c} {c}1{c}").unwrap();
        }
        if tokenizer.encode(&text) != ORACLE.encode_ordinary(&text) {
            for c in chars {
                let text = format!("a{c} {c}1{c}");
                assert_eq!(tokenizer.encode(&text), ORACLE.encode_ordinary(&text), "U+{:04X}", *c as u32);
            }
        }
    });
}

#[test]
fn readings_are_one_token() {
    let tokenizer = Tokenizer::gpt2();
    assert!((0..=100).all(|reading| tokenizer.is_single_token(&format!(" {reading}"))));
    assert!(!tokenizer.is_single_token(""));
    assert!(!tokenizer.is_single_token(" 47 52"));
    assert!(!tokenizer.is_single_token("<|endoftext|>"));
}

#[test]
fn the_end_token_is_not_text() {
    let tokenizer = Tokenizer::gpt2();
    assert_eq!((tokenizer.n_vocab(), tokenizer.end_token()), (50_257, 50_256));
    assert_eq!(tokenizer.decode(&[50_256]), "<|endoftext|>");
    let ids = tokenizer.encode("a<|endoftext|>b");
    assert!(!ids.contains(&50_256));
    assert_eq!(tokenizer.decode(&ids), "a<|endoftext|>b");
    assert_eq!(tokenizer.id_of(b" the"), Some(262));
    assert_eq!(tokenizer.id_of(b" thexyz"), None);
}

#[test]
fn every_token_is_its_own_text() {
    let tokenizer = Tokenizer::gpt2();
    for id in 0..tokenizer.end_token() {
        let bytes = tokenizer.token_bytes(id);
        assert_eq!(tokenizer.id_of(bytes), Some(id));
        assert_eq!(bytes, ORACLE.decode_bytes(&[id]).unwrap());
        assert_eq!(bytes, IN_FILE.token_bytes(id));
    }
    assert_eq!((IN_FILE.n_vocab(), IN_FILE.end_token()), (tokenizer.n_vocab(), tokenizer.end_token()));
    assert_eq!(IN_FILE.token_bytes(tokenizer.end_token()), b"<|endoftext|>");
}

/// A word as long as a document: the cost must not grow with the square of the length.
#[test]
fn long_words_are_merged_in_reasonable_time() {
    for text in ["a".repeat(3_000_000), "=-".repeat(500_000), "अनुच्छेद".repeat(50_000), " ".repeat(1_000_000)] {
        let ids = Tokenizer::gpt2().encode(&text);
        assert_eq!(Tokenizer::gpt2().decode(&ids), text);
        assert_eq!(IN_FILE.encode(&text).unwrap(), ids);
    }
    let text = "abcdefgh".repeat(200);
    assert_eq!(IN_FILE.encode(&text).unwrap(), Tokenizer::gpt2().encode(&text));
    assert_like_tiktoken("a long word", &text);
}

#[test]
fn files_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let full = Tokenizer::gpt2();
    let small = full.subset(full.encode("Ax: 47 52 the weather station's log"));
    for tokenizer in [full, &small] {
        std::fs::write(dir.path().join("vocab.json"), tokenizer.vocab_json()).unwrap();
        std::fs::write(dir.path().join("merges.txt"), tokenizer.merges_txt()).unwrap();
        let back = Tokenizer::from_hf_dir(dir.path()).unwrap();
        assert_eq!(back.gguf_tokens(), tokenizer.gguf_tokens());
        assert_eq!(back.gguf_merges(), tokenizer.gguf_merges());
        assert_eq!(back.end_token(), tokenizer.end_token());
    }
}

#[test]
fn damaged_folders_are_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tokenizer::gpt2().subset([]);
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let error = || Tokenizer::from_hf_dir(dir.path()).unwrap_err();

    assert!(matches!(error(), TokenizerDirError::Io(_)));
    write("vocab.json", "{\"a\": 0,");
    assert!(matches!(error(), TokenizerDirError::Json { .. }));
    write("vocab.json", "{\"a\": 0}");
    assert!(matches!(error(), TokenizerDirError::NoEnd { .. }));
    write("vocab.json", "{\"a\": 0, \"<|endoftext|>\": 2}");
    assert!(matches!(error(), TokenizerDirError::Ids { id: 2, .. }));
    write("vocab.json", "{\"a\": 0, \"<|endoftext|>\": 4294967295}");
    assert!(matches!(error(), TokenizerDirError::Ids { .. }));
    write("vocab.json", &small.vocab_json());
    assert!(matches!(error(), TokenizerDirError::Io(_)));
    write("merges.txt", "#version: 0.2\na b\n");
    let error = error();
    assert!(matches!(error, TokenizerDirError::Tokenizer { source: TokenizerError::UnknownToken { index: 0, .. }, .. }), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn damaged_lists_are_refused_with_the_place() {
    let base = Tokenizer::gpt2().subset([]).gguf_tokens();
    let end = base.len() as u32 - 1;
    let build = |more: &[&str], merges: &[&str], end: u32| {
        let tokens: Vec<&str> = base.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Tokenizer::from_tokens_and_merges(&tokens, merges, end)
    };
    assert!(build(&["ab"], &["a b"], end).is_ok());

    use TokenizerError as E;
    assert!(matches!(build(&["a b"], &[], end), Err(E::NotByteLevel { id: 257, found: ' ' })));
    assert!(matches!(build(&[""], &[], end), Err(E::EmptyToken { id: 257 })));
    assert!(matches!(build(&["ab", "ab"], &[], end), Err(E::DuplicateToken { first: 257, second: 258 })));
    assert!(matches!(build(&[], &[], 257), Err(E::NoEndToken { .. })));
    assert!(matches!(build(&[], &[], 0), Err(E::EndIsByte { .. })));
    for merge in ["ab", "", " ", "a ", " b", "a b c", "a \u{e000}"] {
        let error = build(&["ab"], &[merge], end).unwrap_err();
        assert!(matches!(error, E::BadMerge { index: 0, .. }), "{merge:?}: {error}");
    }
    assert!(matches!(build(&["ab"], &["a b", "a c"], end), Err(E::UnknownToken { index: 1, part, .. }) if part == "ac"));
    assert!(matches!(build(&["ab"], &["ab c"], end), Err(E::UnknownToken { part, .. }) if part == "abc"));
    assert!(matches!(build(&["ab"], &["xy b"], end), Err(E::UnknownToken { part, .. }) if part == "xy"));
    assert!(matches!(build(&["ab"], &["a b", "a b"], end), Err(E::RepeatedMerge { index: 1, .. })));
    assert!(matches!(build(&["ab"], &["a b"], 257), Err(E::MergeMakesEnd { index: 0, .. })));
    let tokens: Vec<String> = base.iter().filter(|token| *token != "Ġ").cloned().collect();
    let nothing: [&str; 0] = [];
    assert!(matches!(Tokenizer::from_tokens_and_merges(&tokens, &nothing, end - 1), Err(E::MissingByte { byte: b' ' })));
    assert!(matches!(Tokenizer::from_tokens_and_merges(&nothing, &nothing, 0), Err(E::NoEndToken { .. })));
}

/// Of a file the same is refused: by opening it what each token tells, by the first text what each merge tells, by a text that comes upon it
/// the rest; and all of it by looking everything up.
#[test]
fn damaged_lists_in_a_file_are_refused_with_the_place() {
    use TokenizerError as E;
    use TokenizerFileError::Tokenizer as Lists;
    let base = Tokenizer::gpt2().subset([]).gguf_tokens();
    let end = base.len() as u32 - 1;
    let build = |more: &[&str], merges: &[&str], end: u32| {
        let tokens: Vec<&str> = base.iter().map(String::as_str).chain(more.iter().copied()).collect();
        in_file(&tokens, merges, Some(end))
    };
    let source = |result: Result<_, TokenizerFileError>| match result {
        Err(error @ TokenizerFileError::Tokenizer { .. }) => {
            assert!(error.to_string().contains("m.gguf: "), "{error}");
            let Lists { source, .. } = error else { unreachable!() };
            source
        }
        Err(other) => panic!("{other}"),
        Ok(()) => panic!("it was taken"),
    };
    let opened = |result: Result<FileTokenizer, _>| source(result.map(drop));
    assert!(matches!(opened(build(&["a b"], &[], end)), E::NotByteLevel { id: 257, found: ' ' }));
    assert!(matches!(opened(build(&["Ġthe\u{7f}station"], &[], end)), E::NotByteLevel { id: 257, found: '\u{7f}' }));
    assert!(matches!(opened(build(&["ab\u{4e00}"], &[], end)), E::NotByteLevel { id: 257, found: '\u{4e00}' }));
    assert!(matches!(opened(build(&[""], &[], end)), E::EmptyToken { id: 257 }));
    assert!(matches!(opened(build(&["Ġ"], &[], end)), E::DuplicateToken { second: 257, .. }));
    assert!(matches!(opened(build(&[], &[], 257)), E::NoEndToken { end_token: 257, n_vocab: 257 }));
    assert!(matches!(opened(build(&[], &[], 0)), E::EndIsByte { end_token: 0 }));
    let (tokens, nothing): (Vec<_>, [&str; 0]) = (base.iter().filter(|token| *token != "Ġ").collect(), []);
    assert!(matches!(opened(in_file(&tokens, &nothing, Some(end - 1))), E::MissingByte { byte: b' ' }));
    assert!(matches!(opened(in_file(&nothing, &nothing, None)), E::NoEndToken { .. }));
    assert!(matches!(opened(in_file(&base[..256], &nothing, None)), E::NoEndToken { .. }));

    let file = |more: &[&str], merges: &[&str]| build(more, merges, end).unwrap();
    let both = |file: &FileTokenizer, text: &str| (source(file.encode(text).map(drop)), source(file.full().map(drop)));
    for merge in ["ab", "", " ", "a ", " b", "a b c", "a long merge", "along bit-of-text with-spaces"] {
        let wrong = both(&file(&["ab"], &[merge]), "x");
        assert!(matches!(wrong, (E::BadMerge { index: 0, .. }, E::BadMerge { index: 0, .. })), "{merge:?}: {wrong:?}");
    }
    let wrong = both(&file(&["ab"], &["a b", "c d", "a b"]), "x");
    assert!(matches!(&wrong.0, E::RepeatedMerge { index: 2, text } if text == "a b"), "{wrong:?}");
    for (more, merges, text) in [(&["ab"][..], &["a b", "a c"][..], "xac"), (&["ab"], &["ab c", "a b"], "abc")] {
        let file = file(more, merges);
        assert!(matches!(both(&file, text), (E::UnknownToken { .. }, E::UnknownToken { .. })), "{text}");
        assert!(file.encode("ab").is_ok(), "what does not come upon it is not hindered");
    }
    let unknown = file(&[], &["a \u{e000}"]);
    assert!(matches!(source(unknown.full().map(drop)), E::BadMerge { index: 0, .. }));
    assert!(matches!(both(&build(&["ab"], &["a b"], 257).unwrap(), "ab"), (E::MergeMakesEnd { index: 0, .. }, E::MergeMakesEnd { .. })));
    let twice = both(&file(&["ab", "cd", "ab"], &["c d", "a b"]), "cd");
    assert!(matches!(twice, (E::DuplicateToken { second: 259, .. }, E::DuplicateToken { second: 259, .. })), "{twice:?}");
    let empty = file(&[], &[]);
    assert!(empty.encode("").unwrap().is_empty());
    assert_eq!(empty.encode("ab").unwrap().len(), 2);
}

/// Files of other makers need not number tokens in the order of their merges, and may hold tokens no text becomes.
#[test]
fn ids_need_not_follow_the_merges() {
    let text = "Below is an instruction. Ax: 47 52 49, the weather station's readings; the readings' mean";
    let full = Tokenizer::gpt2();
    let small = full.subset(full.encode(text));
    let mut tokens = small.gguf_tokens();
    tokens.reverse();
    tokens.insert(0, "<|pad|>".to_owned());
    let other = Tokenizer::from_tokens_and_merges(&tokens, &small.gguf_merges(), 1).unwrap();
    assert_eq!(cuts(&other, text), cuts(full, text));
    let filed = in_file(&tokens, &small.gguf_merges(), Some(1)).unwrap();
    assert_eq!(filed.encode(text).unwrap(), other.encode(text));
    assert_eq!((filed.full().unwrap().gguf_tokens(), filed.end_token()), (tokens, 1));
    assert!(!other.is_single_token("<|pad|>"));

    let without_pad = other.subset(other.encode(text).into_iter().chain([0]));
    assert_eq!(without_pad.n_vocab(), small.n_vocab());
    assert_eq!(without_pad.id_of(b"<|pad|>"), None);
    assert_eq!(without_pad.end_token() as usize, small.n_vocab() - 1);
    assert_eq!(cuts(&without_pad, text), cuts(full, text));
}

/// Bytes of each token, so that segmentations of two vocabularies can be compared.
fn cuts<'t>(tokenizer: &'t Tokenizer, text: &str) -> Vec<&'t [u8]> {
    tokenizer.encode(text).into_iter().map(|id| tokenizer.token_bytes(id)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_subset_cuts_what_it_knows_as_before(known in any_text(), other in any_text(), more in prop::collection::vec(0u32..50_257, 0..50)) {
        let full = Tokenizer::gpt2();
        let small = full.subset(full.encode(&known).into_iter().chain(more.iter().copied()));
        prop_assert_eq!(cuts(&small, &known), cuts(full, &known));
        prop_assert_eq!(small.decode(&small.encode(&other)), &other[..]);
        let filed = in_file(&small.gguf_tokens(), &small.gguf_merges(), None).unwrap();
        prop_assert_eq!(filed.encode(&other).unwrap(), small.encode(&other));
        prop_assert_eq!(filed.end_token(), small.end_token());
        // Closed: each token's own text is that token, if it is text at all and one piece.
        for id in 0..small.end_token() {
            if let Ok(text) = str::from_utf8(small.token_bytes(id)) {
                prop_assert_eq!(small.encode(text) == [id], full.is_single_token(text), "{:?}", text);
            }
        }
        // A subset of the subset loses nothing that is asked for, and the way back is right.
        let ids = small.ids_in(full);
        prop_assert_eq!(ids.len(), small.n_vocab());
        prop_assert_eq!(ids[small.end_token() as usize], Some(full.end_token()));
        for (id, parent) in (0..).zip(&ids) {
            prop_assert_eq!(small.token_bytes(id), full.token_bytes(parent.unwrap()));
        }
        prop_assert!(ids[..ids.len() - 1].is_sorted());
        let again = small.subset(0..small.n_vocab() as u32);
        prop_assert_eq!(again.gguf_tokens(), small.gguf_tokens());
        prop_assert_eq!(again.gguf_merges(), small.gguf_merges());
    }

    #[test]
    fn a_counted_vocabulary_is_what_was_asked(texts in prop::collection::vec(any_text(), 1..6), required in any_text(), n in 1u64..4, size in 257usize..600) {
        let full = Tokenizer::gpt2();
        let mut builder = VocabBuilder::new(full);
        let (mut first, mut second) = (VocabBuilder::new(full), VocabBuilder::new(full));
        for text in &texts {
            builder.add_text(text);
            first.add_text(text);
        }
        builder.require_text(&required);
        second.require_text(&required);
        first.merge(&second);

        let seen = builder.keep_seen(n);
        prop_assert_eq!(first.keep_seen(n).gguf_tokens(), seen.gguf_tokens());
        prop_assert_eq!(cuts(&seen, &required), cuts(full, &required));
        let all = builder.keep_seen(1);
        for text in &texts {
            prop_assert_eq!(cuts(&all, text), cuts(full, text));
        }
        for id in 0..full.end_token() {
            if builder.count(id) >= n {
                prop_assert!(seen.id_of(full.token_bytes(id)).is_some());
            }
        }
        let most = builder.keep_most(size);
        prop_assert_eq!(cuts(&most, &required), cuts(full, &required));
        let needed = full.subset(full.encode(&required)).n_vocab();
        prop_assert!(most.n_vocab() <= size.max(needed));
        prop_assert!(most.n_vocab() >= size.min(all.n_vocab()));
    }
}

/// Writes what `scripts/check_tokenizer_hf.py` compares with Hugging Face's own tokenizer: for the whole vocabulary and
/// for a subset, the two files and texts with the tokens we give them.
#[test]
#[ignore = "writes target/tokenizer-hf for scripts/check_tokenizer_hf.py"]
fn write_for_hugging_face() {
    let full = Tokenizer::gpt2();
    let file: serde_json::Value = serde_json::from_str(include_str!("fixtures/tokenizer_vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter().map(|vector| vector["text"].as_str().unwrap().to_owned());
    let names = ["LICENSE-Apache-2.0.txt", "localisation/train.csv", "gesture/test.csv", "sotu.jsonl.gz"];
    let shared = names.iter().filter_map(|name| shared(name)).map(|text| text.chars().take(200_000).collect());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let arbitrary: Vec<String> = (0..500).map(|_| any_text().new_tree(&mut runner).unwrap().current()).collect();
    let texts: Vec<String> = vectors.chain(shared).chain(arbitrary).collect();

    let mut builder = VocabBuilder::new(full);
    texts.iter().step_by(2).for_each(|text| builder.add_text(text));
    for (name, tokenizer) in [("full", full), ("small", &builder.keep_most(2000)), ("bytes", &full.subset([]))] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tokenizer-hf").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("vocab.json"), tokenizer.vocab_json()).unwrap();
        std::fs::write(dir.join("merges.txt"), tokenizer.merges_txt()).unwrap();
        let cases: Vec<_> = texts.iter().map(|text| serde_json::json!({"text": text, "ids": tokenizer.encode(text)})).collect();
        std::fs::write(dir.join("cases.json"), serde_json::to_string(&cases).unwrap()).unwrap();
    }
}
