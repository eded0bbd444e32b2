//! Any bytes as rows of each type: decoded by the scalar truth, repacked for every instruction set, multiplied.
//!
//! Panels decode to the truth's very numbers. Products of one input and of several have the same bits, and where scales are finite they
//! are the truth's in f64, but for float roundings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tinyllm::gguf::Gguf;
use tinyllm::infer::{Activations, Input, Kind, Model, Packed};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::Inputs;
use tinyllm_fuzz::{Bytes, gpt2, isas, seeds};

/// Rows of the matrix under test: more than a panel of any kind, and not whole ones.
const ROWS: usize = 19;
/// Inputs multiplied at once: odd, so that pairs have one left.
const N: usize = 3;

/// For each type the place of a block's scale and how large quants times scales of sub-blocks get; the same of its minimum.
fn largest(ty: GgmlType) -> [Option<(usize, f64)>; 2] {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => [None, None],
        GgmlType::Q8_0 => [Some((0, 128.0)), None],
        GgmlType::Q4_0 => [Some((0, 16.0)), None],
        GgmlType::Q4_1 => [Some((0, 15.0)), Some((2, 1.0))],
        GgmlType::Q5_0 => [Some((0, 32.0)), None],
        GgmlType::Q5_1 => [Some((0, 31.0)), Some((2, 1.0))],
        GgmlType::Q2_K => [Some((80, 15.0 * 3.0)), Some((82, 15.0))],
        GgmlType::Q3_K => [Some((108, 32.0 * 8.0)), None],
        GgmlType::Q4_K => [Some((0, 63.0 * 15.0)), Some((2, 63.0))],
        GgmlType::Q5_K => [Some((0, 63.0 * 31.0)), Some((2, 63.0))],
        GgmlType::Q6_K => [Some((208, 128.0 * 64.0)), None],
    }
}

/// A finite f16 or none; without a crate for it, by its three parts.
fn half(bytes: &[u8]) -> f64 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    match exponent {
        31 => f64::NAN,
        0 => fraction * 2f64.powi(-24),
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// The truth: what a product should be, and how large the terms are that it is the sum of; `None` where they are no numbers.
fn truth(ty: GgmlType, row: &[u8], weights: &[f32], x: &[f64]) -> Option<(f64, f64)> {
    let (mut sum, mut size) = (0.0, 0.0);
    for ((block, w), x) in row.chunks(ty.block_bytes()).zip(weights.chunks(ty.block_len())).zip(x.chunks(ty.block_len())) {
        let terms = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x);
        let size_of_x: f64 = x.iter().map(|x| x.abs()).sum();
        let weight: f64 = match largest(ty) {
            [None, None] => f64::from(w[0]).abs(),
            of => of.into_iter().flatten().map(|(at, most)| half(&block[at..]) * most).sum(),
        };
        (sum, size) = (sum + terms.sum::<f64>(), size + weight * size_of_x);
    }
    // Beyond that floats are at their end within a sum.
    (sum.is_finite() && size < 1e37).then_some((sum, size))
}

fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// `(N, cols)` inputs: as they are, and as the matrix takes them.
fn check(isa: Isa, ty: GgmlType, w: &Packed, rows: &[u8], x: &[f32], exact: bool) {
    let (cols, row_bytes) = (w.cols(), ty.row_bytes(w.cols()));
    let (kind, block, sub) = match w.kind() {
        Kind::Floats => (Kind::Floats, cols, cols),
        Kind::Small => (Kind::Small, 32, 32),
        Kind::Wide => (Kind::Wide, 256, 32),
        Kind::Fine => (Kind::Fine, 256, 16),
    };
    let ids: Vec<u32> = (0..ROWS as u32).collect();
    let (mut quants, mut scales, mut sums) = (vec![], vec![], vec![]);
    let mut alone = vec![];
    let mut acts = Activations::new(1, cols);
    for x in x.chunks(cols) {
        acts.set(kind, isa, x);
        let input = acts.input(kind, cols);
        let mut out = vec![0.0; ROWS];
        w.gather(isa, &mut out, &ids, &input);
        alone.push(out);
        if kind != Kind::Floats {
            quants.extend_from_slice(&input.quants.quants[..cols]);
            scales.extend_from_slice(&input.quants.scales[..cols / block]);
            sums.extend_from_slice(&input.quants.sums[..cols / sub]);
        }
    }
    let together = Input { kind, floats: x, quants: Inputs { n: N, cols, quants: &quants, scales: &scales, sums: &sums } };
    let (mut room, mut many) = (vec![0.0; Packed::room(N)], vec![vec![0.0; ROWS]; N]);
    w.product(isa, &together, 0..w.panels(), &mut room, |first, height, values| {
        for (i, values) in values.chunks(height).enumerate() {
            let there = (ROWS - first).min(height);
            many[i][first..][..there].copy_from_slice(&values[..there]);
        }
    });
    let mut weights = vec![0.0; cols];
    for (r, row) in rows.chunks(row_bytes).enumerate() {
        let mut got = vec![0.0; cols];
        ty.dequantize_row(&mut weights, row);
        w.row(&mut got, r);
        assert!(got.iter().zip(&weights).all(|(&a, &b)| same(a, b)), "{} {}: row {r} decodes otherwise", ty.name(), isa.name());
        for i in 0..N {
            assert!(same(many[i][r], alone[i][r]), "{} {}: {} and {}", ty.name(), isa.name(), many[i][r], alone[i][r]);
            if !exact {
                continue;
            }
            let x: Vec<f64> = if kind == Kind::Floats {
                x[i * cols..][..cols].iter().map(|&x| x.into()).collect()
            } else {
                (i * cols..(i + 1) * cols).map(|k| f64::from(quants[k]) * f64::from(scales[k / block])).collect()
            };
            if let Some((want, size)) = truth(ty, row, &weights, &x) {
                let error = (f64::from(alone[i][r]) - want).abs();
                assert!(
                    error <= 1e-6 * size + 1e-30,
                    "{} {}, row {r}: {} and not {want}, of terms of {size}",
                    ty.name(),
                    isa.name(),
                    alone[i][r]
                );
            }
        }
    }
}

fuzz_target!(
    init: seeds(|| {
        let seed = |ty: usize| (0..600usize).map(|k| if k == 0 { ty } else { k * k / 3 + 11 * k } as u8).collect();
        (0..GgmlType::ALL.len()).map(seed).collect()
    }),
    |input: &[u8]| {
        let mut input = Bytes(input);
        let ty = GgmlType::ALL[input.within(0, 12)];
        let unit = if ty.block_len() == 1 { 8 } else { ty.block_len() };
        let cols = unit * input.within(1, if unit == 256 { 2 } else { 9 });
        // Activations that are some float bits, or whole numbers of 8 bits and a scale of their own for each input.
        let raw = input.byte() % 4 == 0;
        let x: Vec<f32> = if raw {
            input.repeated(4 * N * cols).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        } else {
            let scales: [f32; N] = std::array::from_fn(|_| 0.001 * (1.0 + f32::from(input.byte())));
            let bytes = Bytes(input.some(96)).repeated(N * cols);
            bytes.iter().enumerate().map(|(i, &b)| scales[i / cols] * f32::from(b as i8)).collect()
        };
        let rows = input.repeated(ROWS * ty.row_bytes(cols));
        // The matrix is `ffn_down` of a model that is otherwise as small as it can be.
        let config = Config { n_embd: ROWS, n_head: 1, n_layer: 1, n_ff: Some(cols), n_ctx: 1, n_vocab: Some(261) };
        let file = gpt2(&config, |name, dims| match name {
            "blk.0.ffn_down.weight" => (ty, rows.clone()),
            _ => (GgmlType::BF16, vec![0; 2 * dims.iter().product::<usize>()]),
        })
        .bytes();
        for isa in isas() {
            let model = Model::from_gguf(Gguf::from_bytes("m", &file).expect("a sound file"), isa).expect("a sound model");
            check(isa, ty, &model.blocks[0].ffn_down.w, &rows, &x, !raw);
        }
    }
);
