//! Block formats: the bytes are ggml's, errors keep to their bounds, and any bytes decode.

use proptest::prelude::*;
use tinyllm::data::Tokenizer;
use tinyllm::gguf::TensorType;
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::model::{Config, Decoder, init};
use tinyllm::quant::{FileType, GgmlType};
use tinyllm::rng::Rng;
use tinyllm::simd::Isa;

fn normals(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn encoded(ty: GgmlType, rows: &[f32]) -> Vec<u8> {
    let mut bytes = vec![];
    ty.quantize_row(&mut bytes, rows);
    bytes
}

fn decoded(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    ty.dequantize_row(&mut out, bytes);
    out
}

/// Rows of fifty kinds and what libggml made of them, written by `scripts/check_quant.py --fixture`: a count, that many
/// `f32`, then each type's blocks from the largest type down.
#[test]
fn bytes_are_ggmls() {
    let all = include_bytes!("fixtures/quant.bin");
    let n = u32::from_le_bytes(*all.first_chunk().unwrap()) as usize;
    let (rows, mut blocks) = all[4..].split_at(4 * n);
    let rows: Vec<f32> = rows.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for ty in &GgmlType::ALL[1..] {
        let (want, rest) = blocks.split_at(ty.row_bytes(n));
        blocks = rest;
        for isa in Isa::available() {
            let mut got = vec![];
            ty.quantize_rows(isa, &mut got, &rows, None);
            let size = ty.block_bytes();
            let differ: Vec<usize> = (0..n / ty.block_len()).filter(|b| got[b * size..][..size] != want[b * size..][..size]).collect();
            assert!(differ.is_empty() && got.len() == want.len(), "{} on {}: blocks {differ:?} differ", ty.name(), isa.name());
        }
    }
    assert!(blocks.is_empty() && n >= 40 * 256);
}

/// What rounding takes from normal weights, as a part of their root mean square: at most these bounds, set some 3 % above what
/// was measured (ggml's encoders, whose bytes these are, take the same), and at least nine tenths of them.
#[test]
fn errors_keep_to_their_bounds() {
    let rows = normals(1, 1 << 16);
    let whole: f64 = rows.iter().map(|x| f64::from(*x).powi(2)).sum();
    let mut wrong = vec![];
    for (ty, bound) in [
        (GgmlType::F32, 0.0),
        (GgmlType::F16, 0.00022),
        (GgmlType::BF16, 0.0018),
        (GgmlType::Q8_0, 0.0056),
        (GgmlType::Q6_K, 0.0185),
        (GgmlType::Q5_1, 0.039),
        (GgmlType::Q5_K, 0.0375),
        (GgmlType::Q5_0, 0.044),
        (GgmlType::Q4_1, 0.08),
        (GgmlType::Q4_K, 0.074),
        (GgmlType::Q4_0, 0.0885),
        (GgmlType::Q3_K, 0.156),
        (GgmlType::Q2_K, 0.305),
    ] {
        let back = decoded(ty, &encoded(ty, &rows));
        let lost: f64 = rows.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let error = (lost / whole).sqrt();
        println!("{}: {error:.5}", ty.name());
        if error > bound || error < 0.9 * bound {
            wrong.push(format!("{}: {error:.5}, bound {bound}", ty.name()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Weight `i` of a block, straight from the table in its file's documentation.
fn weight(ty: GgmlType, b: &[u8], i: usize) -> f32 {
    let f16 = |at: usize| half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let bits = |at: usize, from: usize, n: u32| f32::from(b[at] >> from & ((1u16 << n) - 1) as u8);
    let nibble = |at: usize| bits(at + i % 16, i / 16 * 4, 4);
    let fifth = |at: usize| bits(at + i / 8, i % 8, 1) * 16.0;
    // Of 256: half, quarter of a half, place; group of 32 and of 16.
    let (h, k, j, g, s) = (i / 128, i % 128 / 32, i % 32, i / 32, i / 16);
    let six = |g: usize, first: usize| match g {
        0..4 => bits(first + g, 0, 6),
        _ => bits(12 + g - 4, if first == 4 { 0 } else { 4 }, 4) + 16.0 * bits(first + g - 4, 6, 2),
    };
    match ty {
        GgmlType::F32 => f32::from_le_bytes(b.try_into().unwrap()),
        GgmlType::F16 => f16(0),
        GgmlType::BF16 => f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16),
        GgmlType::Q8_0 => f16(0) * f32::from(b[2 + i] as i8),
        GgmlType::Q4_0 => f16(0) * (nibble(2) - 8.0),
        GgmlType::Q4_1 => f16(0) * nibble(4) + f16(2),
        GgmlType::Q5_0 => f16(0) * (nibble(6) + fifth(2) - 16.0),
        GgmlType::Q5_1 => f16(0) * (nibble(8) + fifth(4)) + f16(2),
        GgmlType::Q2_K => f16(80) * bits(s, 0, 4) * bits(16 + 32 * h + j, 2 * k, 2) - f16(82) * bits(s, 4, 4),
        GgmlType::Q3_K => {
            let scale = bits(96 + s % 8, s / 8 * 4, 4) + 16.0 * bits(104 + s % 4, s / 4 * 2, 2) - 32.0;
            f16(108) * scale * (bits(32 + 32 * h + j, 2 * k, 2) + 4.0 * bits(j, g, 1) - 4.0)
        }
        GgmlType::Q4_K => f16(0) * six(g, 4) * bits(16 + 32 * (g / 2) + j, g % 2 * 4, 4) - f16(2) * six(g, 8),
        GgmlType::Q5_K => {
            let level = bits(48 + 32 * (g / 2) + j, g % 2 * 4, 4) + 16.0 * bits(16 + j, g, 1);
            f16(0) * six(g, 4) * level - f16(2) * six(g, 8)
        }
        GgmlType::Q6_K => {
            let level = bits(64 * h + k % 2 * 32 + j, k / 2 * 4, 4) + 16.0 * bits(128 + 32 * h + j, 2 * k, 2);
            f16(208) * f32::from(b[192 + s] as i8) * (level - 32.0)
        }
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (*a == 0.0 && *b == 0.0))
}

proptest! {
    /// Also where scales are no numbers.
    #[test]
    fn any_bytes_decode_as_the_layout_says(which in 0usize..13, bytes in proptest::collection::vec(any::<u8>(), 3 * 210)) {
        let ty = GgmlType::ALL[which];
        let size = ty.block_bytes();
        let blocks = &bytes[..bytes.len() / size * size];
        let want: Vec<f32> = blocks.chunks(size).flat_map(|b| (0..ty.block_len()).map(|i| weight(ty, b, i))).collect();
        prop_assert!(same(&decoded(ty, blocks), &want), "{}", ty.name());
    }

    /// Whatever the weights and their importance, even what is no number: blocks come out, the same on every instruction set.
    #[test]
    fn any_weights_encode(which in 0usize..13, bits in proptest::collection::vec(any::<u32>(), 512), important: bool, odd in 0u32..4) {
        let ty = GgmlType::ALL[which];
        let rows: Vec<f32> = bits.iter().map(|&b| f32::from_bits(if odd == 0 { b } else { b & 0xbfff_ffff })).collect();
        let importance: Vec<f32> = bits[..256].iter().map(|&b| f32::from_bits(b.rotate_left(7) & 0x7fff_ffff)).collect();
        let encode = |isa| {
            let mut bytes = vec![];
            ty.quantize_rows(isa, &mut bytes, &rows, important.then_some(&importance));
            bytes
        };
        let bytes = encode(Isa::detect());
        prop_assert_eq!(bytes.len(), ty.row_bytes(512));
        if rows.iter().all(|x| x.is_finite()) && !important {
            for isa in Isa::available() {
                prop_assert_eq!(&encode(isa), &bytes, "{} on {}", ty.name(), isa.name());
            }
        }
        decoded(ty, &bytes);
    }
}

#[test]
fn rows_encode_alike_alone_and_together() {
    let rows = normals(2, 3 * 768);
    let importance: Vec<f32> = normals(3, 768).iter().map(|x| x * x).collect();
    for ty in GgmlType::ALL {
        for importance in [None, Some(&importance[..])] {
            let (mut together, mut alone) = (vec![], vec![]);
            ty.quantize_rows(Isa::detect(), &mut together, &rows, importance);
            rows.chunks(768).for_each(|row| ty.quantize_rows(Isa::detect(), &mut alone, row, importance));
            assert!(together == alone, "{}", ty.name());
        }
    }
}

/// The sum of `importance (w - decoded)^2` against that of the reference. 8 bits leave nothing to choose; the others gain most
/// where levels are fewest. ggml's own weighted encoders are held to ours by `scripts/check_quant.py`.
#[test]
fn importance_lowers_the_weighted_error() {
    let rows = normals(4, 64 * 512);
    let importance: Vec<f32> = normals(5, 512).iter().map(|x| (2.0 * x).exp()).collect();
    for ty in GgmlType::ALL.into_iter().filter(|t| t.is_quantized()) {
        let error = |bytes: &[u8]| -> f64 {
            let back = decoded(ty, bytes);
            (0..rows.len()).map(|i| f64::from(importance[i % 512]) * f64::from(rows[i] - back[i]).powi(2)).sum()
        };
        let mut bytes = vec![];
        ty.quantize_rows(Isa::detect(), &mut bytes, &rows, Some(&importance));
        let part = error(&bytes) / error(&encoded(ty, &rows));
        println!("{}: {part:.3}", ty.name());
        assert!(if ty == GgmlType::Q8_0 { part == 1.0 } else { part < 0.8 }, "{}: {part}", ty.name());
    }
}

/// The container's sizes and the formats' agree, so that neither need know the other; what is no whole block is none of theirs.
#[test]
fn the_container_and_the_formats_speak_of_the_same_sizes() {
    for ty in GgmlType::ALL {
        let t = TensorType::from_id(ty.id()).unwrap();
        assert_eq!((t.name, t.block_len, t.block_bytes), (ty.name(), ty.block_len(), ty.block_bytes()));
        if ty.is_quantized() {
            assert_eq!(t.bytes(&[ty.block_len() as u64 + 1, 2]), None);
            assert!(std::panic::catch_unwind(|| ty.row_bytes(ty.block_len() + 1)).is_err());
        }
    }
}

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
        presets.split(',').for_each(|name| write(name, Config::named(name).expect("a preset"), Tokenizer::gpt2()));
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
