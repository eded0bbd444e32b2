//! Checkpoints: everything comes back, nothing half, and every damage is named.

use super::*;
use crate::model::Target;
use crate::model::init::{initial, initial_leaf};
use serde_json::json;

fn config() -> Config {
    Config { n_embd: 6, n_head: 2, n_layer: 2, n_ff: None, n_ctx: 5, n_vocab: Some(7) }
}

fn lora() -> Lora {
    Lora { rank: 2, alpha: 6.0, dropout: 0.05, targets: vec![Target::Qkv, Target::Up] }
}

fn tokenizer() -> TokenizerFiles {
    let vocab_json = r#"{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"<|endoftext|>":6}"#.into();
    TokenizerFiles { vocab_json, merges_txt: "#version: 0.2\n".into() }
}

fn state(base: Option<Base>) -> State {
    State {
        program: "0.1.0".into(),
        step: 12,
        tokens: u64::MAX,
        seed: 0xffff_ffff_ffff_fff1,
        config_hash: "ab".into(),
        data_hash: "cd".into(),
        validation: Some(0.1 + 0.2),
        best: Some(Best { step: 10, loss: 2.000_000_000_000_000_4 }),
        loader: json!({"shard": 3, "offset": 512, "key": u64::MAX}),
        base,
        plans: None,
    }
}

/// Moments that say which parameter and which part they are.
fn moment(spec: &Spec, i: usize, part: Moment) -> Vec<f32> {
    (0..spec.numel()).map(|k| (10 * i + part as usize) as f32 + k as f32 / 1e3).collect()
}

fn save_all(path: &Path, lora: Option<&Lora>, weights: &Decoder<Vec<f32>>, state: &State) -> Result<(), CheckpointError> {
    let (config, tokenizer) = (config(), tokenizer());
    let spec = Decoder::spec(&config, lora);
    let specs = spec.leaves();
    let trained: Vec<bool> = specs.iter().map(|s| lora.is_none() || s.lora).collect();
    let mut get = |i: usize, part| Ok(moment(specs[i], i, part));
    let moments = Moments { trained: &trained, get: &mut get };
    save(path, &CheckpointParts { config: &config, lora, weights, tokenizer: &tokenizer, state }, Some(moments))
}

fn base_weights() -> Decoder<Vec<f32>> {
    initial(&Decoder::spec(&config(), None), 4)
}

fn adapted() -> Decoder<Vec<f32>> {
    peft::attach(&Decoder::spec(&config(), Some(&lora())), base_weights(), |s| {
        Ok::<_, ()>(initial_leaf(&Spec { init: crate::model::Init::Normal(0.5), ..s.clone() }, 9))
    })
    .unwrap()
}

#[test]
fn a_run_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last");
    save_all(&path, None, &base_weights(), &state(None)).unwrap();
    let back = load_training_state(&path, None).unwrap();
    assert_eq!(back.state, state(None));
    assert_eq!((back.config.clone(), back.lora, back.tokenizer), (config(), None, tokenizer()));
    assert_eq!(back.weights.leaves(), base_weights().leaves());
    for (i, s) in Decoder::spec(&config(), None).leaves().into_iter().enumerate() {
        assert!(back.optimizer.trains(s));
        assert_eq!(back.optimizer.read(s, Moment::Second).unwrap(), moment(s, i, Moment::Second));
    }
    // Saved again it is the same file, byte for byte: what was read is what was written.
    let before = fs::read(path.join(STATE)).unwrap();
    let back = load_training_state(&path, None).unwrap();
    save_all(&path, None, &back.weights, &back.state).unwrap();
    assert_eq!(fs::read(path.join(STATE)).unwrap(), before);
}

#[test]
fn a_lora_run_keeps_its_adapter_and_the_merged_model() {
    let dir = tempfile::tempdir().unwrap();
    let (base, last) = (dir.path().join("base"), dir.path().join("last"));
    save_all(&base, None, &base_weights(), &state(None)).unwrap();
    let state = state(Some(Base::of(&base).unwrap()));
    save_all(&last, Some(&lora()), &adapted(), &state).unwrap();

    let back = load_training_state(&last, None).unwrap();
    assert_eq!((back.state, back.lora.as_ref()), (state, Some(&lora())));
    assert_eq!(back.weights.leaves(), adapted().leaves());
    let spec = Decoder::spec(&config(), Some(&lora()));
    assert!(spec.leaves().iter().all(|s| back.optimizer.trains(s) == s.lora));
    let model = load_model(&last).unwrap();
    assert_eq!(model.weights.leaves(), merge(adapted()).leaves());
    // Beside the merged model, transformers would put the adapter on once more.
    assert!(!last.join(peft::CONFIG).exists() && last.join(ADAPTER).join(peft::CONFIG).exists());

    // The base moved: told, and found again where --base points.
    let moved = dir.path().join("moved");
    fs::rename(&base, &moved).unwrap();
    let says = load_training_state(&last, None).err().unwrap().to_string();
    assert!(says.contains("base") && says.contains("is not there"), "{says}");
    assert!(load_training_state(&last, Some(&moved)).is_ok());
    // The base changed: told.
    save_all(&moved, None, &initial(&Decoder::spec(&config(), None), 5), &self::state(None)).unwrap();
    let says = load_training_state(&last, Some(&moved)).err().unwrap().to_string();
    assert!(says.contains("not the base that the LoRA run was started from"), "{says}");
    assert!(load_model(&last).is_ok());
}

#[test]
fn weights_that_are_no_numbers_are_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last");
    save_all(&path, None, &base_weights(), &state(None)).unwrap();
    let mut bad = base_weights();
    bad.blocks[1].mlp.up.b.0[2] = f32::NAN;
    let says = save_all(&path, None, &bad, &state(None)).unwrap_err().to_string();
    assert!(says.contains("'blk.1.ffn_up.bias'") && says.contains("diverged"), "{says}");
    assert_eq!(load_training_state(&path, None).unwrap().weights.leaves(), base_weights().leaves());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_device_that_fails_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last");
    save_all(&path, None, &base_weights(), &state(None)).unwrap();
    let (config, tokenizer, state) = (config(), tokenizer(), state(None));
    let trained = vec![true; base_weights().leaves().len()];
    let mut get = |_, _| Err(BackendError::Device { device: "GPU", message: "gone".into() });
    let parts = CheckpointParts { config: &config, lora: None, weights: &base_weights(), tokenizer: &tokenizer, state: &state };
    let says = save(&path, &parts, Some(Moments { trained: &trained, get: &mut get })).unwrap_err().to_string();
    assert!(says.contains("GPU: gone"), "{says}");
    assert!(load_training_state(&path, None).is_ok());
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last");
    let fresh = || save_all(&path, None, &base_weights(), &state(None)).unwrap();
    let says = || load_training_state(&path, None).err().unwrap().to_string();
    fresh();
    fs::write(path.join(STATE), "{\"step\": 1}").unwrap();
    assert!(says().contains("state.json: missing field"), "{}", says());
    fs::remove_file(path.join(STATE)).unwrap();
    assert!(says().contains("no state.json"), "{}", says());
    for file in [OPTIMIZER, hf::WEIGHTS] {
        fresh();
        let bytes = fs::read(path.join(file)).unwrap();
        fs::write(path.join(file), &bytes[..bytes.len() - 1]).unwrap();
        assert!(says().contains(file) && says().contains("cut short"), "{}", says());
    }
    fresh();
    fs::remove_file(path.join(OPTIMIZER)).unwrap();
    assert!(says().contains("use the run's last/"), "{}", says());
    fresh();
    fs::remove_file(path.join(hf::VOCAB)).unwrap();
    assert!(says().contains("vocab.json: cannot read"), "{}", says());
}
