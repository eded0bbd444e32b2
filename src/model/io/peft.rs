//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! `fan_in_fan_out` is true there because the matrices that are adapted lie as Conv1D's `(in, out)`; A and B do not.

use super::ModelFileError;
use super::safetensors::{Entry, TensorFile, write as write_tensors};
use crate::fsio::{read_text, write_bytes};
use crate::model::{Config, Decoder, Lora, Spec, Target, Tree, names};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;

/// The settings' file in a folder.
pub const CONFIG: &str = "adapter_config.json";
/// The weights' file in a folder.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Fills a folder with the adapters of a model. `base` says where their base is: what PEFT calls `base_model_name_or_path`.
///
/// # Panics
/// If the weights are not of these sizes or have other adapters.
pub fn write(dir: &Path, config: &Config, lora: &Lora, weights: &Decoder<Vec<f32>>, base: &str) -> Result<(), ModelFileError> {
    write_bytes(&dir.join(CONFIG), format!("{:#}\n", config_json(lora, base)).as_bytes())?;
    let spec = Decoder::spec(config, Some(lora));
    let leaves = weights.leaves();
    assert_eq!(leaves.len(), spec.leaves().len(), "the model has the adapters that are to be written");
    let (entries, values): (Vec<Entry>, Vec<&Vec<f32>>) =
        spec.leaves().into_iter().zip(leaves).filter(|(s, _)| s.lora).map(|(s, w)| (entry(s), w)).unzip();
    write_tensors(&dir.join(WEIGHTS), &entries, |i| Ok(values[i]))
}

fn entry(spec: &Spec) -> Entry {
    Entry { name: peft_name(spec), shape: spec.shape.clone(), transposed: false }
}

fn peft_name(spec: &Spec) -> String {
    names::to_peft(&spec.name).expect("every parameter of an adapter has a name there")
}

fn config_json(lora: &Lora, base: &str) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets.iter().map(|t| t.hf_name()).collect::<Vec<_>>(),
        "fan_in_fan_out": true,
        "bias": "none",
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
    })
}

/// What an `adapter_config.json` says that matters here.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Value,
    #[serde(default)]
    fan_in_fan_out: bool,
    base_model_name_or_path: Option<String>,
    /// Everything else: variants of LoRA that must be off.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Reads a folder's `adapter_config.json`: the adapter's settings, and where its base is, if that is told. Variants of LoRA that
/// are not served (DoRA, other ranks for some layers, trained biases, ...) are refused, and the setting named.
pub fn read_config(dir: &Path) -> Result<(Lora, Option<String>), ModelFileError> {
    let path = dir.join(CONFIG);
    let peft: PeftConfig = serde_json::from_str(&read_text(&path)?).map_err(|e| ModelFileError::format(&path, e))?;
    let refuse = |field: &str, message: String| Err(ModelFileError::setting(&path, field, message));
    if peft.peft_type != "LORA" {
        return refuse("peft_type", format!("{}; served is LORA", peft.peft_type));
    }
    if peft.r == 0 || peft.r > 1 << 14 {
        return refuse("r", format!("{}; a rank lies between 1 and {}", peft.r, 1 << 14));
    }
    if !peft.lora_alpha.is_finite() {
        return refuse("lora_alpha", format!("{} is no number", peft.lora_alpha));
    }
    if !(0.0..1.0).contains(&peft.lora_dropout) {
        return refuse("lora_dropout", format!("{}; a probability from 0 to below 1", peft.lora_dropout));
    }
    if !peft.fan_in_fan_out {
        return refuse("fan_in_fan_out", "false; GPT-2's matrices are Conv1D, for which it is true".into());
    }
    for (field, value) in &peft.rest {
        let off = match field.as_str() {
            "bias" => value == "none",
            "lora_bias" => value == false,
            variant if variant.starts_with("use_") => value == false,
            "rank_pattern" | "alpha_pattern" => value.as_object().is_some_and(serde_json::Map::is_empty),
            "modules_to_save"
            | "layers_to_transform"
            | "exclude_modules"
            | "target_parameters"
            | "trainable_token_indices"
            | "layer_replication"
            | "alora_invocation_tokens"
            | "arrow_config"
            | "kasa_config"
            | "monteclora_config"
            | "velora_config" => false,
            _ => true,
        };
        if !(off || value.is_null()) {
            return refuse(field, format!("{value}; plain LoRA is served, without it"));
        }
    }
    let targets = targets(&peft.target_modules).map_err(|m| ModelFileError::setting(&path, "target_modules", m))?;
    Ok((Lora { rank: peft.r, alpha: peft.lora_alpha, dropout: peft.lora_dropout, targets }, peft.base_model_name_or_path))
}

/// The targets in the order of a block; PEFT takes a name for every module whose name ends in it.
fn targets(value: &Value) -> Result<Vec<Target>, String> {
    let all = Target::ALL.map(Target::hf_name).join(", ");
    let names: Option<Vec<&str>> = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let names = names.ok_or_else(|| format!("{value}; served is a list of {all}"))?;
    let matches = |target: Target, name: &str| target.hf_name() == name || target.hf_name().ends_with(&format!(".{name}"));
    if let Some(name) = names.iter().find(|name| !Target::ALL.iter().any(|&t| matches(t, name))) {
        return Err(format!("'{name}' is not served; {all} are"));
    }
    let targets: Vec<Target> = Target::ALL.into_iter().filter(|&t| names.iter().any(|name| matches(t, name))).collect();
    if targets.is_empty() { Err(format!("it is empty; served are {all}")) } else { Ok(targets) }
}

/// Puts the adapter of a folder on its base. Every parameter of the adapter must be there, in its shape, and no other.
///
/// # Panics
/// If `base` is not of these sizes, or has adapters already.
pub fn read(dir: &Path, config: &Config, base: Decoder<Vec<f32>>) -> Result<(Lora, Decoder<Vec<f32>>), ModelFileError> {
    let (lora, _) = read_config(dir)?;
    let path = dir.join(WEIGHTS);
    let file = TensorFile::open(&path)?;
    let spec = Decoder::spec(config, Some(&lora));
    let known: HashSet<String> = spec.leaves().into_iter().filter(|s| s.lora).map(peft_name).collect();
    if let Some(name) = file.names().into_iter().find(|name| !known.contains(name)) {
        return Err(ModelFileError::tensor(&path, &name, "the model has no such adapter: adapter and base are not of one model"));
    }
    let weights = attach(&spec, base, |s| file.read(&peft_name(s), &s.shape, false))?;
    Ok((lora, weights))
}

/// A model with adapters: its own parameters from `base`, those of the adapters from `adapter`. `spec` is that of the adapted model.
///
/// # Panics
/// If `base` is not of the same sizes, or has adapters already.
pub fn attach<E>(
    spec: &Decoder<Spec>,
    mut base: Decoder<Vec<f32>>,
    mut adapter: impl FnMut(&Spec) -> Result<Vec<f32>, E>,
) -> Result<Decoder<Vec<f32>>, E> {
    let mut own = base.leaves_mut().into_iter();
    let weights = spec.try_map(&mut |s| {
        if s.lora {
            return adapter(s);
        }
        let leaf = std::mem::take(own.next().expect("the base has every parameter of the adapted model"));
        assert_eq!(leaf.len(), s.numel(), "{}", s.name);
        Ok(leaf)
    })?;
    assert!(own.next().is_none(), "the base has no adapters of its own");
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::init::initial;
    use crate::model::io::hf::tests::small;
    use std::fs;

    fn lora() -> Lora {
        Lora { rank: 3, alpha: 12.0, dropout: 0.25, targets: vec![Target::Qkv, Target::Down] }
    }

    /// A base, and the same with an adapter whose B is not zero.
    fn adapted() -> (Decoder<Vec<f32>>, Decoder<Vec<f32>>) {
        let base = || initial(&Decoder::spec(&small(), None), 1);
        let spec = Decoder::spec(&small(), Some(&lora()));
        let weights = attach(&spec, base(), |s| Ok::<_, ()>((0..s.numel()).map(|i| i as f32 + s.shape[0] as f32 / 7.0).collect())).unwrap();
        (base(), weights)
    }

    #[test]
    fn an_adapter_comes_back_on_its_base() {
        let dir = tempfile::tempdir().unwrap();
        let (base, weights) = adapted();
        write(dir.path(), &small(), &lora(), &weights, "runs/base/best").unwrap();
        let (read_lora, read_weights) = read(dir.path(), &small(), base).unwrap();
        assert_eq!(read_lora, lora());
        assert_eq!(read_weights.leaves(), weights.leaves());
        assert_eq!(read_config(dir.path()).unwrap().1.as_deref(), Some("runs/base/best"));
        let names = TensorFile::open(&dir.path().join(WEIGHTS)).unwrap().names();
        assert_eq!(names.len(), 2 * 2 * 2);
        assert!(names.contains(&"base_model.model.transformer.h.1.mlp.c_proj.lora_B.weight".to_owned()));
    }

    #[test]
    fn names_match_as_in_peft() {
        assert_eq!(targets(&json!(["c_proj"])).unwrap(), [Target::AttnOut, Target::Down]);
        assert_eq!(targets(&json!(["mlp.c_proj", "attn.c_attn"])).unwrap(), [Target::Qkv, Target::Down]);
        assert!(targets(&json!(["wte"])).unwrap_err().contains("'wte' is not served"));
        assert!(targets(&json!("all-linear")).unwrap_err().contains("a list of attn.c_attn"));
        assert!(targets(&json!([])).is_err());
    }

    #[test]
    fn settings_that_mean_another_model_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_, weights) = adapted();
        write(dir.path(), &small(), &lora(), &weights, "").unwrap();
        let path = dir.path().join(CONFIG);
        let good: Value = serde_json::from_str(&read_text(&path).unwrap()).unwrap();
        for (field, value) in [
            ("peft_type", json!("IA3")),
            ("r", json!(0)),
            ("lora_dropout", json!(1.0)),
            ("fan_in_fan_out", json!(false)),
            ("bias", json!("all")),
            ("use_dora", json!(true)),
            ("use_rslora", json!(true)),
            ("rank_pattern", json!({"c_attn": 4})),
            ("modules_to_save", json!(["wte"])),
            ("target_modules", json!(["lm_head"])),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            fs::write(&path, bad.to_string()).unwrap();
            let says = read_config(dir.path()).unwrap_err().to_string();
            assert!(says.contains(&format!("{CONFIG}: {field}: ")), "{says}");
        }
        let mut wrong = good;
        wrong["r"] = json!(4);
        fs::write(&path, wrong.to_string()).unwrap();
        let says = read(dir.path(), &small(), adapted().0).unwrap_err().to_string();
        assert!(says.contains("h.0.attn.c_attn.lora_A.weight': its shape is [3, 6], but the model's sizes make it [4, 6]"), "{says}");
    }

    #[test]
    fn an_adapter_of_another_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_, weights) = adapted();
        write(dir.path(), &small(), &lora(), &weights, "").unwrap();
        let one = Config { n_layer: 1, ..small() };
        let base = initial(&Decoder::spec(&one, None), 1);
        assert!(read(dir.path(), &one, base).unwrap_err().to_string().contains("not of one model"));
    }
}
