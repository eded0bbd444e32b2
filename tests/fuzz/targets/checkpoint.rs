//! A checkpoint's `config.json` and its safetensors file: any bytes. The input is the JSON, a zero byte, and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;
use tinyllm::model::io::hf;
use tinyllm::model::io::safetensors::TensorFile;
use tinyllm_fuzz::counting_alloc::count;
use tinyllm_fuzz::{scratch, seeds};

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = scratch();
    std::fs::create_dir_all(&dir).expect("there is room for a folder");
    dir
});

fn sound() -> Vec<u8> {
    use tinyllm::model::{Config, Decoder, Spec, Tree};
    let config = Config { n_embd: 4, n_head: 2, n_layer: 1, n_ff: None, n_ctx: 3, n_vocab: Some(5) };
    let halves = |s: &Spec| Ok::<_, std::convert::Infallible>(vec![0.5f32; s.shape.iter().product()]);
    let Ok(weights) = Decoder::spec(&config, None).try_map(&mut { halves });
    hf::write(&DIR, &config, &weights, &hf::TokenizerFiles::default()).expect("a checkpoint is written");
    let read = |name: &str| std::fs::read(DIR.join(name)).expect("it was written");
    [read(hf::CONFIG), vec![0], read(hf::WEIGHTS)].concat()
}

fuzz_target!(
    init: seeds(|| {
        let small = br#"{"vocab_size":5,"n_embd":4,"n_layer":1,"n_head":2}"#;
        let header = br#"{"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[1,1],"data_offsets":[2,4]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        vec![sound(), [&small[..], &[0], &file].concat()]
    }),
    |input: &[u8]| {
        let mut parts = input.splitn(2, |&b| b == 0);
        let (json, weights) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let path = DIR.join(hf::WEIGHTS);
        std::fs::write(DIR.join(hf::CONFIG), json).expect("there is room");
        std::fs::write(&path, weights).expect("there is room");
        if let Ok(file) = TensorFile::open(&path) {
            for name in file.names() {
                let bytes = file.bytes(&name).expect("it lies in the file").len();
                file.read(&name, &[bytes / 4], false).ok();
            }
        }
        let (read, _, peak) = count(|| hf::read(&DIR));
        assert!(peak <= (1 << 20) + 64 * input.len(), "{peak} bytes for a checkpoint of {}", input.len());
        if let Err(error) = read {
            assert!(error.to_string().contains(".json") || error.to_string().contains(hf::WEIGHTS), "{error}");
        }
    }
);
