//! Block formats: the bytes are ggml's, errors keep to their bounds, and any bytes decode.

use tinyllm::quant::GgmlType;
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
            println!("{} {}: {:.1} million weights a second", ty.name(), isa.name(), rows.len() as f64 / 1e6 / start.elapsed().as_secs_f64());
            assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{}: {} has other bytes", ty.name(), isa.name());
        }
        std::fs::write(folder.join(ty.name()), first.unwrap()).unwrap();
        if ty.is_quantized() {
            let mut bytes = vec![];
            let start = std::time::Instant::now();
            ty.quantize_rows(Isa::detect(), &mut bytes, &rows[..importance.len() * 64], Some(&importance));
            println!("{} with importance: {:.1} million weights a second", ty.name(), 64.0 * importance.len() as f64 / 1e6 / start.elapsed().as_secs_f64());
            std::fs::write(folder.join(format!("{}.important", ty.name())), bytes).unwrap();
        }
        let n = noise.len() / ty.block_bytes() * ty.block_len();
        let mut decoded = vec![0.0; n];
        ty.dequantize_row(&mut decoded, &noise);
        std::fs::write(folder.join(format!("{}.decoded", ty.name())), decoded.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
}
