//! What a parameter is called: here (GGUF's names), in Hugging Face's GPT-2 files, in PEFT's adapters.
//!
//! Hugging Face keeps the four matrices of a block in "Conv1D" modules, whose weight is `(in, out)`; ours is
//! `(out, in)`. PEFT keeps an adapter's A `(R, in)` and B `(out, R)` as we do.

/// A module within a block: ours, Hugging Face's, and whether its weight lies the other way round there.
const IN_BLOCK: [(&str, &str, bool); 6] = [
    ("attn_norm", "ln_1", false),
    ("attn_qkv", "attn.c_attn", true),
    ("attn_output", "attn.c_proj", true),
    ("ffn_norm", "ln_2", false),
    ("ffn_up", "mlp.c_fc", true),
    ("ffn_down", "mlp.c_proj", true),
];

/// A module outside the blocks: ours, Hugging Face's.
const OUTSIDE: [(&str, &str); 3] = [("token_embd", "wte"), ("position_embd", "wpe"), ("output_norm", "ln_f")];

/// The head of an untied model; in a tied one a copy of `wte`.
pub const HF_HEAD: &str = "lm_head.weight";

/// How Hugging Face names the weights of a language model; a bare `GPT2Model` leaves it out.
pub const HF_PREFIX: &str = "transformer.";

/// How PEFT prefixes the name of a module it adapts.
const PEFT_PREFIX: &str = "base_model.model.transformer.";

/// A parameter in somebody else's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its name there.
    pub name: String,
    /// Whether the matrix lies there as `(in, out)`.
    pub transposed: bool,
}

/// `blk.3.attn_qkv.weight` as (3, `attn_qkv`, `weight`).
fn parts(ours: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = ours.strip_prefix("blk.")?.split_once('.')?;
    let (module, kind) = rest.split_once('.')?;
    Some((layer.parse().ok()?, module, kind))
}

/// Hugging Face's name for one of our parameters, without [`HF_PREFIX`]: `blk.3.attn_qkv.weight` is
/// `h.3.attn.c_attn.weight`, transposed. `None` for an adapter's and for what we do not know.
#[must_use]
pub fn to_hf(ours: &str) -> Option<Foreign> {
    if let Some((layer, module, kind @ ("weight" | "bias"))) = parts(ours) {
        let (_, theirs, conv1d) = IN_BLOCK.iter().find(|m| m.0 == module)?;
        return Some(Foreign { name: format!("h.{layer}.{theirs}.{kind}"), transposed: *conv1d && kind == "weight" });
    }
    let (module, kind) = ours.split_once('.')?;
    let (_, theirs) = OUTSIDE.iter().find(|m| m.0 == module)?;
    matches!(kind, "weight" | "bias").then(|| Foreign { name: format!("{theirs}.{kind}"), transposed: false })
}

/// Our name for one of Hugging Face's parameters, with or without [`HF_PREFIX`].
#[must_use]
pub fn from_hf(theirs: &str) -> Option<String> {
    let theirs = theirs.strip_prefix(HF_PREFIX).unwrap_or(theirs);
    let (module, kind @ ("weight" | "bias")) = theirs.rsplit_once('.')? else { return None };
    if let Some((layer, module)) = module.strip_prefix("h.").and_then(|rest| rest.split_once('.')) {
        let layer: usize = layer.parse().ok()?;
        let (ours, ..) = IN_BLOCK.iter().find(|m| m.1 == module)?;
        return Some(format!("blk.{layer}.{ours}.{kind}"));
    }
    let (ours, _) = OUTSIDE.iter().find(|m| m.1 == module)?;
    Some(format!("{ours}.{kind}"))
}

/// Whether a tensor of a Hugging Face file is a constant of old versions' attention (its causal mask), and no parameter.
#[must_use]
pub fn is_hf_mask(theirs: &str) -> bool {
    let theirs = theirs.strip_prefix(HF_PREFIX).unwrap_or(theirs);
    theirs.starts_with("h.") && (theirs.ends_with(".attn.bias") || theirs.ends_with(".attn.masked_bias"))
}

/// PEFT's name for a parameter of one of our adapters: `blk.3.attn_qkv.weight.lora_a` is
/// `base_model.model.transformer.h.3.attn.c_attn.lora_A.weight`. `None` for every other parameter.
#[must_use]
pub fn to_peft(ours: &str) -> Option<String> {
    let (layer, module, kind) = parts(ours)?;
    let letter = match kind {
        "weight.lora_a" => 'A',
        "weight.lora_b" => 'B',
        _ => return None,
    };
    let (_, theirs, _) = IN_BLOCK.iter().find(|m| m.0 == module && m.2)?;
    Some(format!("{PEFT_PREFIX}h.{layer}.{theirs}.lora_{letter}.weight"))
}

/// Our name for a parameter of one of PEFT's adapters.
#[must_use]
pub fn from_peft(theirs: &str) -> Option<String> {
    let (layer, rest) = theirs.strip_prefix(PEFT_PREFIX)?.strip_prefix("h.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, part) = match rest.strip_suffix(".lora_A.weight") {
        Some(module) => (module, 'a'),
        None => (rest.strip_suffix(".lora_B.weight")?, 'b'),
    };
    let (ours, ..) = IN_BLOCK.iter().find(|m| m.1 == module && m.2)?;
    Some(format!("blk.{layer}.{ours}.weight.lora_{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Decoder, Lora, Target, Tree};

    fn spec() -> Vec<crate::model::Spec> {
        let config = Config { n_embd: 4, n_head: 2, n_layer: 11, n_ff: None, n_ctx: 3, n_vocab: Some(5) };
        let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: Target::ALL.to_vec() };
        Decoder::spec(&config, Some(&lora)).leaves().into_iter().cloned().collect()
    }

    #[test]
    fn every_parameter_has_a_name_elsewhere_and_comes_back() {
        for spec in spec() {
            if spec.lora {
                assert_eq!(to_hf(&spec.name), None, "{}", spec.name);
                assert_eq!(from_peft(&to_peft(&spec.name).unwrap()).as_deref(), Some(&*spec.name));
            } else {
                assert_eq!(to_peft(&spec.name), None, "{}", spec.name);
                let theirs = to_hf(&spec.name).unwrap();
                assert_eq!(from_hf(&theirs.name).as_deref(), Some(&*spec.name));
                assert_eq!(from_hf(&format!("{HF_PREFIX}{}", theirs.name)).as_deref(), Some(&*spec.name));
            }
        }
    }

    #[test]
    fn names_are_what_the_others_write() {
        let conv = |name: &str| Some(Foreign { name: name.into(), transposed: true });
        let plain = |name: &str| Some(Foreign { name: name.into(), transposed: false });
        assert_eq!(to_hf("blk.10.attn_qkv.weight"), conv("h.10.attn.c_attn.weight"));
        assert_eq!(to_hf("blk.0.ffn_down.weight"), conv("h.0.mlp.c_proj.weight"));
        assert_eq!(to_hf("blk.0.attn_output.bias"), plain("h.0.attn.c_proj.bias"));
        assert_eq!(to_hf("blk.0.ffn_norm.weight"), plain("h.0.ln_2.weight"));
        assert_eq!(to_hf("token_embd.weight"), plain("wte.weight"));
        assert_eq!(to_hf("output_norm.bias"), plain("ln_f.bias"));
        let peft = "base_model.model.transformer.h.2.mlp.c_fc.lora_B.weight";
        assert_eq!(to_peft("blk.2.ffn_up.weight.lora_b").as_deref(), Some(peft));
        for (ours, target) in ["attn_qkv", "attn_output", "ffn_up", "ffn_down"].into_iter().zip(Target::ALL) {
            assert_eq!(to_hf(&format!("blk.0.{ours}.weight")), conv(&format!("h.0.{}.weight", target.hf_name())));
        }
    }

    #[test]
    fn what_is_no_parameter_has_no_name() {
        for name in ["lm_head.weight", "h.0.attn.bias", "transformer.h.0.attn.masked_bias", "h.x.ln_1.weight", "wte", ""] {
            assert_eq!(from_hf(name), None, "{name}");
        }
        assert!(is_hf_mask("h.0.attn.bias") && is_hf_mask("transformer.h.11.attn.masked_bias"));
        assert!(!is_hf_mask("h.0.attn.c_attn.bias") && !is_hf_mask("ln_f.bias"));
        assert_eq!(from_peft("base_model.model.transformer.h.0.ln_1.lora_A.weight"), None);
        assert_eq!(to_hf("blk.0.attn_rot.weight"), None);
    }
}
