//! Any floats, encoded in each type with and without importance: the same bytes on every instruction set, which decode to numbers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tinyllm::quant::GgmlType;
use tinyllm_fuzz::{Bytes, isas, seeds};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fuzz_target!(
    init: seeds(|| {
        let row = |ty: u8| [vec![ty, ty % 2], (0..256).flat_map(|i| (0.1 * (i * i % 37) as f32 - 1.7).to_le_bytes()).collect()].concat();
        (0..GgmlType::ALL.len() as u8).map(row).collect()
    }),
    |input: &[u8]| {
        let mut input = Bytes(input);
        let ty = GgmlType::ALL[input.within(0, 12)];
        let weighed = input.byte() % 2 == 1;
        let cols = ty.block_len().max(32);
        let importance = weighed.then(|| floats(&Bytes(input.some(64)).repeated(4 * cols)));
        // What imatrix::read lets through.
        let importance = importance.map(|all| all.into_iter().map(|x| if x.is_finite() { x.abs() } else { 0.0 }).collect::<Vec<_>>());
        let rows = floats(&input.repeated(4 * 2 * cols));
        let mut first: Option<Vec<u8>> = None;
        for isa in isas() {
            let mut bytes = vec![];
            ty.quantize_rows(isa, &mut bytes, &rows, importance.as_deref());
            assert_eq!(bytes.len(), ty.row_bytes(rows.len()));
            // The order of what is no number is not promised, and `requantize` refuses it.
            if rows.iter().all(|x| x.is_finite()) {
                let first = first.get_or_insert_with(|| bytes.clone());
                assert!(*first == bytes, "{} differs on {}", ty.name(), isa.name());
            }
            // Within the range of an f16 scale, no weight becomes endless.
            if rows.iter().all(|x| x.abs() < 1e4) {
                let mut back = vec![0.0; rows.len()];
                ty.dequantize_row(&mut back, &bytes);
                assert!(back.iter().all(|x| x.is_finite()), "{} on {}", ty.name(), isa.name());
            }
        }
    }
);
