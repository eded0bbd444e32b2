//! The GGUF reader, what is made of a file, and a token read with it: any bytes, or a sound file with some of its bytes changed.
//!
//! An error or a model; never a panic, and never memory that the file's size does not justify.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tinyllm::gguf::Gguf;
use tinyllm::infer::{CacheType, Model, Session};
use tinyllm::model::io::imatrix;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;
use tinyllm_fuzz::counting_alloc::count;
use tinyllm_fuzz::{Bytes, File, gpt2, scratch, seeds, small};

/// A model of each type that makes a small file, and a file of importance.
static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let model = |ty: GgmlType| {
        let data = |name: &str, dims: &[usize]| {
            let ty = tinyllm_fuzz::gguf_model::stored_as(name, dims, ty);
            let weights: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
            let mut bytes = vec![];
            weights.chunks(dims[0]).for_each(|row| ty.quantize_row(&mut bytes, row));
            (ty, bytes)
        };
        gpt2(&small(ty), data).bytes()
    };
    use GgmlType::{BF16, F16, F32, Q4_1, Q5_0, Q8_0};
    let mut all: Vec<_> = [F32, F16, BF16, Q8_0, Q4_1, Q5_0].map(model).into();
    let mut file = File::default();
    file.string("general.type", "imatrix");
    file.entry("numbers", 9, &[&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[1; 8]].concat());
    file.tensor("blk.0.attn_qkv.weight.in_sum2", GgmlType::F32, &[8, 1], &[0; 32]);
    file.tensor("blk.0.attn_qkv.weight.counts", GgmlType::F32, &[1, 1], &1f32.to_le_bytes());
    all.push(file.bytes());
    all
});

/// Where the data of a sound file begins.
static HEADS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let head = |bytes: &Vec<u8>| Gguf::from_bytes("m", bytes).expect("it is sound").tensors()[0].start;
    SOUND.iter().map(head).collect()
});

/// A sound file, some of whose numbers are others: the input is which file, then for each change where, how wide, and what.
fn changed(input: &[u8]) -> Vec<u8> {
    let mut input = Bytes(input);
    let which = input.within(0, SOUND.len() - 1);
    let mut file = SOUND[which].clone();
    while let Some((change, rest)) = input.0.split_first_chunk::<11>() {
        input.0 = rest;
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let width = 1 << (change[2] & 3);
        let room = if change[2] & 4 == 0 { HEADS[which] } else { file.len() } - width;
        file[place % room..][..width].copy_from_slice(&change[3..][..width]);
    }
    file
}

fn walk(bytes: &[u8]) -> Option<Gguf> {
    let (file, _, peak) = count(|| {
        let file = Gguf::from_bytes("m.gguf", bytes);
        if let Ok(file) = &file {
            let seen = file.entries().count() + file.tensors().iter().map(|t| file.data(t).len()).sum::<usize>();
            assert!(seen <= 2 * bytes.len());
        }
        file
    });
    // As tests/gguf_hostile.rs has it: of 14 bytes of an entry come a key, a place and buckets of two tables.
    assert!(peak <= 4096 + 40 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());
    match file {
        Ok(file) => Some(file),
        Err(error) => {
            assert!(error.to_string().starts_with("m.gguf: byte "), "{error}");
            None
        }
    }
}

fn run(bytes: &[u8]) {
    let Some(file) = walk(bytes) else { return };
    let (kind, values) = (file.string("general.type").is_ok_and(|kind| kind == "imatrix"), file.entries());
    values.for_each(|(_, value)| _ = value.to_value());
    if kind {
        let path = scratch();
        std::fs::write(&path, bytes).expect("there is room for a file");
        imatrix::read(&path).ok();
        std::fs::remove_file(&path).ok();
    }
    let (model, _, peak) = count(|| Model::from_gguf(file, Isa::detect()));
    // A row that stands alone becomes a panel of 16; strings of a byte become numbers of 24.
    assert!(peak <= (1 << 16) + 64 * bytes.len(), "{peak} bytes for a model of {}", bytes.len());
    match model {
        Err(error) => assert!(error.to_string().starts_with("m.gguf: "), "{error}"),
        Ok(model) => {
            assert!(model.labels().len() <= bytes.len());
            // What the lists of tokens and merges are worth is found when a text is met; then the text comes back, or a reason.
            let text = "Ax: the 47, \u{e9}\n";
            match (model.tokenizer.encode(text), model.tokenizer.full()) {
                (Ok(ids), Ok(full)) => {
                    assert_eq!(ids, full.encode(text));
                    assert_eq!(model.tokenizer.decode(&ids), text);
                }
                (Ok(ids), Err(_)) => drop(model.tokenizer.decode(&ids)),
                (Err(error), full) => assert!(full.is_err(), "{error}, and yet all is well"),
            }
            let mut session = Session::with(&model, 2, CacheType::F16);
            session.feed(&[model.tokenizer.end_token()]).expect("one token fits");
            assert_eq!(session.logits().len(), model.config.vocab());
        }
    }
}

fuzz_target!(
    init: seeds(|| {
        // The files as they are, and each with no change.
        SOUND.iter().cloned().chain((0..SOUND.len() as u8).map(|i| vec![i])).collect()
    }),
    |input: &[u8]| {
        if input.first() == Some(&b'G') { run(input) } else { run(&changed(input)) }
    }
);
