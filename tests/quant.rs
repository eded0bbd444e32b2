//! Block formats: the bytes are ggml's, errors keep to their bounds, and any bytes decode.

use tinyllm::data::Tokenizer;
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::model::{Config, Decoder, init};
use tinyllm::quant::{FileType, GgmlType};
use tinyllm::simd::Isa;

/// For `scripts/check_quant.py`: encodes and decodes what lies in the folder that TINYLLM_QUANT names.
#[test]
#[ignore = "works for a script"]
fn serve_the_script() {
    let folder = std::path::PathBuf::from(std::env::var("TINYLLM_QUANT").expect("TINYLLM_QUANT names a folder"));
    let floats = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (rows, importance) = (floats("rows.f32"), floats("importance.f32"));
    let noise = std::fs::read(folder.join("noise")).unwrap();
    for ty in GgmlType::ALL {
        let mut first = None;
        for isa in Isa::available() {
            let mut bytes = vec![];
            let start = std::time::Instant::now();
            ty.quantize_rows(isa, &mut bytes, &rows, None);
            println!(
                "{} {}: {:.1} million weights a second",
                ty.name(),
                isa.name(),
                rows.len() as f64 / 1e6 / start.elapsed().as_secs_f64()
            );
            assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{}: {} has other bytes", ty.name(), isa.name());
        }
        std::fs::write(folder.join(ty.name()), first.unwrap()).unwrap();
        if ty.is_quantized() {
            let mut bytes = vec![];
            let start = std::time::Instant::now();
            ty.quantize_rows(Isa::detect(), &mut bytes, &rows[..importance.len() * 64], Some(&importance));
            println!(
                "{} with importance: {:.1} million weights a second",
                ty.name(),
                64.0 * importance.len() as f64 / 1e6 / start.elapsed().as_secs_f64()
            );
            std::fs::write(folder.join(format!("{}.important", ty.name())), bytes).unwrap();
        }
        let n = noise.len() / ty.block_bytes() * ty.block_len();
        let mut decoded = vec![0.0; n];
        ty.dequantize_row(&mut decoded, &noise);
        std::fs::write(folder.join(format!("{}.decoded", ty.name())), decoded.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .unwrap();
    }
}

/// Models with random weights for `scripts/check_filetypes.py`, into the folder that TINYLLM_MODELS names: small ones with the
/// depths and the divisibility of the five sizes (30m, 51m, 82m, 102m, 124m) and one whose rows are no multiple of 32; with
/// TINYLLM_PRESETS=30m,124m those sizes themselves, with GPT-2's vocabulary.
#[test]
#[ignore = "writes files for a script"]
fn models_for_llama_cpp() {
    let folder = std::path::PathBuf::from(std::env::var("TINYLLM_MODELS").expect("TINYLLM_MODELS names a folder"));
    let write = |name: &str, config: Config, tokenizer: &Tokenizer| {
        let config = Config { n_vocab: Some(tokenizer.n_vocab()), ..config };
        let card = Card {
            name: name.into(),
            tokens: tokenizer.gguf_tokens(),
            merges: tokenizer.gguf_merges(),
            end_token: tokenizer.end_token(),
            ..Card::default()
        };
        let weights = init::initial(&Decoder::spec(&config, None), 4);
        gguf::write(&folder.join(format!("{name}.gguf")), &config, &weights, &card, FileType::F16).unwrap();
    };
    if let Ok(presets) = std::env::var("TINYLLM_PRESETS") {
        presets.split(',').for_each(|name| write(name, Config::named(name).expect("a preset"), &Tokenizer::gpt2()));
        return;
    }
    let small = Tokenizer::gpt2().subset(0..1000);
    for (name, n_layer, n_embd) in [
        ("like-30m", 6, 64),
        ("like-51m", 8, 256),
        ("like-82m", 10, 64),
        ("like-102m", 11, 64),
        ("like-124m", 12, 256),
        ("deep", 16, 64),
        ("odd", 12, 48),
    ] {
        write(name, Config { n_embd, n_head: n_embd / 16, n_layer, n_ff: None, n_ctx: 64, n_vocab: None }, &small);
    }
}
