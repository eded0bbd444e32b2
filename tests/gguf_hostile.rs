//! Damaged and hostile GGUF files: an error that names the byte, or a file that parses; never a panic, and never
//! memory that the file's own size does not justify.

#[path = "common/counting_alloc.rs"]
mod counting_alloc;
#[path = "common/gguf_model.rs"]
mod gguf_model;

use counting_alloc::count;
use proptest::prelude::*;
use std::sync::Mutex;
use tinyllm::gguf::{Gguf, GgufError, Value, ValueType, Writer};
use tinyllm::infer::{Model, Session};
use tinyllm::quant::GgmlType;

/// The tests of this file run one at a time, so that memory is counted for one alone.
static ONE: Mutex<()> = Mutex::new(());

/// A sound file of some 700 bytes with every kind of value and two tensors.
fn small() -> Vec<u8> {
    let mut w = Writer::new();
    w.meta("u8", Value::U8(1)).meta("i16", Value::I16(-2)).meta("u32", 3u32).meta("f32", 0.5f32).meta("bool", true);
    w.meta("u64", Value::U64(4)).meta("f64", Value::F64(0.25)).meta("string", "a reading");
    w.meta("strings", Value::strings(["Ġthe", "", "47"])).meta("numbers", Value::i32s([1, 2, 3]));
    let inner = Value::Array(ValueType::U16, vec![Value::U16(7)]);
    w.meta("nested", Value::Array(ValueType::Array, vec![Value::Array(ValueType::Array, vec![inner]), Value::strings(["x"])]));
    w.tensor("a.weight", 0, &[4, 3], Box::new(|out| out.write_all(&[1; 48])));
    w.tensor("b.weight", 8, &[32, 2], Box::new(|out| out.write_all(&[2; 68])));
    bytes(w)
}

fn bytes(w: Writer<'_>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    w.write(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// Opens bytes and looks at everything; holds errors to their form and memory to a bound.
fn open(all: &[u8]) -> Result<Gguf, GgufError> {
    let (result, _, peak) = count(|| {
        let file = Gguf::from_bytes("m.gguf", all)?;
        let seen = file.entries().count() + file.tensors().iter().map(|t| file.data(t).len()).sum::<usize>();
        assert!(seen < all.len() * 2);
        Ok(file)
    });
    // The bytes themselves; beside them at least 14 bytes of file stand for an entry, of which a key, a place and a
    // bucket of two tables take less than 40 times as much.
    assert!(peak <= 4096 + 40 * all.len(), "{peak} bytes for a file of {}", all.len());
    match result {
        Err(GgufError::Damaged { offset, .. } | GgufError::Unsupported { offset, .. }) => assert!(offset <= all.len() as u64),
        Err(ref other) => panic!("{other}"),
        Ok(_) => {}
    }
    result
}

#[test]
fn cut_anywhere_it_is_refused() {
    let _one = ONE.lock();
    let all = small();
    let last = open(&all).unwrap().tensors().iter().map(|t| t.start + t.len).max().unwrap();
    for n in 0..last {
        let Err(error) = open(&all[..n]) else { panic!("cut at {n} it was read") };
        assert!(error.to_string().contains("m.gguf: byte "), "{error}");
    }
    // Only padding is missing.
    assert!((last..all.len()).all(|n| open(&all[..n]).is_ok()));
}

#[test]
fn any_byte_may_be_anything() {
    let _one = ONE.lock();
    let all = small();
    let head = open(&all).unwrap().tensors()[0].start;
    let (mut read, mut refused) = (0, 0);
    for at in 0..head {
        for flip in (0..8).map(|bit| 1u8 << bit).chain([0xff, all[at], all[at] ^ 0x7f]) {
            let mut bad = all.clone();
            bad[at] ^= flip;
            if open(&bad).is_ok() { read += 1 } else { refused += 1 }
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn large_numbers_anywhere_are_refused_or_harmless() {
    let _one = ONE.lock();
    let all = small();
    let head = open(&all).unwrap().tensors()[0].start;
    for at in 0..head - 8 {
        for n in [u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 32, (1 << 32) - 1, 1 << 31, 65_536, 65_537, all.len() as u64, 0, 1] {
            let mut bad = all.clone();
            bad[at..at + 8].copy_from_slice(&n.to_le_bytes());
            open(&bad).ok();
        }
    }
}

fn head(tensors: u64, entries: u64) -> Vec<u8> {
    [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

/// What each lie is answered with.
#[test]
fn lies_are_named() {
    let _one = ONE.lock();
    let le32 = |n: u32| n.to_le_bytes().to_vec();
    let le64 = |n: u64| n.to_le_bytes().to_vec();
    let entry = |ty: u32, rest: Vec<u8>| [head(0, 1), string("k"), le32(ty), rest].concat();
    let tensor = |dims: &[u64], ty: u32, offset: u64, data: usize| {
        let mut all = [head(1, 0), string("t"), le32(dims.len() as u32)].concat();
        dims.iter().for_each(|&d| all.extend(le64(d)));
        all.extend([le32(ty), le64(offset)].concat());
        all.resize(all.len().next_multiple_of(32) + data, 0);
        all
    };
    let mut deep = entry(9, vec![]);
    (0..9).for_each(|_| deep.extend([le32(9), le64(1)].concat()));
    deep.extend([le32(0), le64(0)].concat());
    let twice = [head(0, 2), string("k"), le32(0), vec![1], string("k"), le32(0), vec![1]].concat();
    let overlap = {
        let one = |name: &str, offset: u64| [string(name), le32(1), le64(16), le32(0), le64(offset)].concat();
        let mut all = [head(2, 0), one("a", 0), one("b", 32)].concat();
        all.resize(all.len().next_multiple_of(32) + 128, 0);
        all
    };
    let aligned = |a: u32| [head(0, 1), string("general.alignment"), le32(4), le32(a)].concat();
    let cases: [(&str, Vec<u8>, u64, &str); 27] = [
        ("nothing", vec![], 0, "ends within the magic"),
        ("another format", b"PK\x03\x04 and so on and on and on".to_vec(), 0, "does not begin with 'GGUF'"),
        ("version 2", [b"GGUF".to_vec(), le32(2), vec![0; 16]].concat(), 4, "version 2"),
        ("big-endian", [b"GGUF".to_vec(), vec![0, 0, 0, 3], vec![0; 16]].concat(), 4, "big-endian"),
        ("many tensors", [head(1 << 40, 0), vec![0; 64]].concat(), 8, "1099511627776 tensors"),
        ("many entries", [head(0, 1 << 40), vec![0; 64]].concat(), 16, "metadata entries"),
        ("more entries than fit", [head(0, 9), vec![0; 64]].concat(), 16, "9 metadata entries, with 64 bytes left"),
        ("long key", [head(0, 1), le64(u64::MAX), vec![0; 64]].concat(), 24, "18446744073709551615 bytes"),
        ("empty key", [head(0, 1), le64(0), vec![0; 64]].concat(), 24, "key of 0 bytes"),
        ("key not UTF-8", [head(0, 1), le64(2), vec![b'a', 0xff], le32(0), vec![1]].concat(), 33, "not UTF-8"),
        ("key twice", twice, 38, "'k' stands there twice"),
        ("type 13", entry(13, vec![0; 64]), 33, "no value type 13"),
        ("bool of 2", entry(7, vec![2]), 37, "a bool of 2"),
        ("long string", entry(8, [le64(1 << 50), vec![0; 64]].concat()), 37, "1125899906842624 bytes, where 64 are left"),
        ("long array", entry(9, [le32(4), le64(1 << 61), vec![0; 64]].concat()), 41, "array elements"),
        ("array of nothing", entry(9, [le32(77), le64(1), vec![0; 64]].concat()), 37, "no value type 77"),
        ("deep array", deep, 85, "nest deeper than 4"),
        ("no dimensions", tensor(&[], 0, 0, 64), 33, "0 dimensions"),
        ("five dimensions", tensor(&[1; 5], 0, 0, 64), 33, "5 dimensions"),
        ("empty tensor", tensor(&[4, 0], 0, 0, 64), 33, "[4, 0] cannot be"),
        ("huge tensor", tensor(&[1 << 40, 1 << 40], 0, 0, 64), 33, "cannot be of type F32"),
        ("broken block", tensor(&[33], 8, 0, 64), 33, "multiples of 32"),
        ("type 5", tensor(&[4], 5, 0, 64), 45, "tensor type 5"),
        ("crooked offset", tensor(&[4], 0, 4, 64), 49, "no multiple of the alignment 32"),
        ("far offset", tensor(&[4], 0, u64::MAX - 31, 64), 24, "beyond the end"),
        ("overlap", overlap, 57, "data of a and b overlap"),
        ("alignment 3", aligned(3), 53, "power of two"),
    ];
    for (name, all, at, what) in cases {
        let Err(error) = open(&all) else { panic!("{name} was read") };
        let text = error.to_string();
        assert!(text.contains(&format!("byte {at}: ")) && text.contains(what), "{name}: {text}");
    }
    assert!(open(&aligned(1 << 17)).is_err() && open(&aligned(0)).is_err() && open(&aligned(64)).is_ok());
    assert!(open(&tensor(&[4], 0, 32, 64)).is_ok() && open(&tensor(&[4], 0, 64, 64)).is_err());
}

proptest! {
    #[test]
    fn noise_after_a_good_beginning(tensors in 0u64..4, entries in 0u64..4, noise in proptest::collection::vec(0u8..14, 0..200)) {
        let _one = ONE.lock();
        open(&[head(tensors, entries), noise].concat()).ok();
    }

    #[test]
    fn noise_altogether(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _one = ONE.lock();
        prop_assert!(open(&noise).is_err());
    }

    #[test]
    fn several_numbers_changed(places in proptest::collection::vec((0usize..600, any::<u64>(), 0u32..64), 1..4)) {
        let _one = ONE.lock();
        let mut bad = small();
        for (at, n, shift) in places {
            let at = at % (bad.len() - 8);
            bad[at..at + 8].copy_from_slice(&(n >> shift).to_le_bytes());
        }
        open(&bad).ok();
    }
}

/// A whole model, its head flipped everywhere: the loader and a session after it.
#[test]
fn a_damaged_model_is_refused_or_runs() {
    let _one = ONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    gguf_model::tiny_model(&path, GgmlType::Q8_0, 1);
    let all = std::fs::read(&path).unwrap();
    let head = Gguf::from_bytes("m", &all).unwrap().tensors()[0].start;
    let (mut ran, mut refused) = (0, 0);
    // Every third byte of the head, and of the data a few: those can only change what comes out.
    for at in (0..head).step_by(3).chain((head..all.len()).step_by(5003)) {
        let mut bad = all.clone();
        bad[at] ^= [0xff, 0x01, 0x10, 0x80][at % 4];
        match Gguf::from_bytes("m", &bad).map_err(Into::into).and_then(|file| Model::from_gguf(file, tinyllm::simd::Isa::detect())) {
            Err(_) => refused += 1,
            Ok(model) => {
                ran += 1;
                let mut session = Session::with(&model, 4, tinyllm::infer::CacheType::F32);
                session.feed(&[1, 2]).unwrap();
                session.logits();
            }
        }
    }
    assert!(ran > 10 && refused > 100, "{ran} ran, {refused} refused");
}

#[test]
fn a_model_cut_anywhere_is_refused() {
    let _one = ONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    gguf_model::tiny_model(&path, GgmlType::F16, 1);
    let all = std::fs::read(&path).unwrap();
    let last = Gguf::from_bytes("m", &all).unwrap().tensors().iter().map(|t| t.start + t.len).max().unwrap();
    for n in (0..last).step_by(101).chain([last - 1]) {
        assert!(Gguf::from_bytes("m", &all[..n]).is_err(), "cut at {n}");
    }
}
