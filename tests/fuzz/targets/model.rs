//! Models of any small sizes with tensors of any types and bytes: each opens, reads and scores.
//!
//! A prompt in one piece and token by token gives the same bits, on every instruction set, whatever is in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tinyllm::gguf::Gguf;
use tinyllm::infer::{CacheType, Model, Session};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm_fuzz::{Bytes, gpt2, isas, seeds};

fuzz_target!(
    init: seeds(|| (0..12u8).map(|i| (0..200u8).map(|k| k.wrapping_mul(2 * i + 1) ^ i).collect()).collect()),
    |input: &[u8]| {
        let mut input = Bytes(input);
        // Rows of any length, of whole blocks of 32, or of 256.
        let (unit, most) = [(1, 9), (32, 3), (256, 1)][input.within(0, 2)];
        let n_head = [1, 2, 4, input.within(1, 3)][input.within(0, 3)];
        let n_head = if unit == 256 && n_head == 3 { 8 } else { n_head };
        let width = if unit % n_head == 0 { unit } else { unit * n_head };
        let n_embd = width * input.within(1, most);
        let n_ff = if unit == 1 { input.within(1, 40) } else { unit * input.within(1, most) };
        let (n_layer, n_ctx) = if unit == 256 { (1, input.within(1, 3)) } else { (input.within(1, 2), input.within(1, 9)) };
        let config = Config { n_embd, n_head, n_layer, n_ff: Some(n_ff), n_ctx, n_vocab: Some(261) };
        let file = gpt2(&config, |_, dims| {
            if dims.len() == 1 {
                // A vector that holds what is no number is refused.
                let bytes = Bytes(input.some(8)).repeated(dims[0]);
                return (GgmlType::F32, bytes.iter().flat_map(|&b| (0.05 * f32::from(b as i8)).to_le_bytes()).collect());
            }
            let fitting: Vec<GgmlType> = GgmlType::ALL.into_iter().filter(|ty| dims[0] % ty.block_len() == 0).collect();
            let ty = fitting[usize::from(input.byte()) % fitting.len()];
            let n = dims.iter().product::<usize>() / dims[0] * ty.row_bytes(dims[0]);
            let some = 1 + usize::from(input.byte());
            (ty, Bytes(input.some(some)).repeated(n))
        })
        .bytes();
        let prompt: Vec<u32> = (0..config.n_ctx).map(|_| u32::from(input.byte())).collect();
        let cache = [CacheType::F32, CacheType::F16, CacheType::Q8][input.within(0, 2)];
        for isa in isas() {
            let model = Model::from_gguf(Gguf::from_bytes("m", &file).expect("a sound file"), isa).expect("a sound model");
            let bits = |session: &mut Session<'_>| {
                // One number that is none is as good as another.
                session.logits().iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>()
            };
            let (mut whole, mut single) = (Session::with(&model, config.n_ctx, cache), Session::with(&model, config.n_ctx, cache));
            whole.feed(&prompt).expect("it fits");
            prompt.iter().for_each(|&token| single.feed(&[token]).expect("it fits"));
            assert_eq!(bits(&mut whole), bits(&mut single), "{} {config:?}", isa.name());
            assert!(whole.feed(&[1]).is_err());
        }
    }
);
