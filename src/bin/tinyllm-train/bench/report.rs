//! What `bench` found, as JSON and as text.

use super::table::{self, si, sums};
use serde_json::{Value, json};
use tinyllm::backend::Ceilings;
use tinyllm::train::bench::{Family, Load};

/// A device's speed on a load.
pub struct Report<'a> {
    /// What was asked for, as JSON.
    pub setting: Value,
    pub load: &'a Load,
    /// "cpu", "cuda".
    pub device: &'static str,
    /// "NVIDIA H200".
    pub name: &'a str,
    /// Of activations and weights: "bf16".
    pub precision: &'static str,
    /// From the program's start to the first step's figures.
    pub first_step_ms: f64,
    /// A step, its kernels not marked.
    pub step_ms: f64,
    /// What MFU is of.
    pub peak_flops_per_s: f64,
    /// Whether that is the vendor's figure; else it is the measured product's rate.
    pub vendor: bool,
    /// Memory.
    pub peak_bytes: Option<usize>,
    /// Where kernels were timed.
    pub kernels: Option<(Vec<Family>, Ceilings)>,
}

impl Report<'_> {
    fn tokens_per_s(&self) -> f64 {
        self.load.batch.tokens_per_step() as f64 / self.step_ms * 1e3
    }

    fn flops_per_s(&self) -> f64 {
        self.tokens_per_s() * self.load.model_flops_per_token()
    }

    pub fn json(&self) -> Value {
        let families = self.kernels.as_ref().map_or(&[][..], |(families, _)| families);
        let kernels: Vec<Value> = families
            .iter()
            .map(|f| json!({"name": f.kernel, "ms": f.ms, "floor_ms": f.floor_ms, "calls": f.calls, "flops": f.flops, "bytes": f.bytes}))
            .collect();
        let mut all = json!({
            "device": self.device,
            "device_name": self.name,
            "precision": self.precision,
            "tokens_per_s": self.tokens_per_s(),
            "ms_per_step": self.step_ms,
            "mfu": self.flops_per_s() / self.peak_flops_per_s,
            "peak_flops_per_s": self.peak_flops_per_s,
            "peak_is": if self.vendor { "the vendor's dense bf16" } else { "the measured product" },
            "model_flops_per_token": self.load.model_flops_per_token(),
            "flops_per_s": self.flops_per_s(),
            "peak_bytes": self.peak_bytes,
            "start_to_first_step_ms": self.first_step_ms,
            "ceilings": self.kernels.as_ref().map(|(_, c)| ceilings_json(c)),
            "floor_ms_per_step": self.kernels.as_ref().map(|(families, _)| sums(families).1),
            "kernels": kernels,
        });
        with_setting(&self.setting, &mut all);
        all
    }

    pub fn text(&self) -> String {
        let Self { load, name, precision, step_ms, .. } = self;
        let mut text = format!("{} on {name}, {precision}\n", head(&self.setting, load));
        if let Some((families, ceilings)) = &self.kernels {
            let (product, copy) = (si(ceilings.flops_per_s, "FLOP/s"), si(ceilings.bytes_per_s, "B/s"));
            text += &format!("measured ceilings: {product} in a large product, {copy} in a large copy or sum\n\n");
            text += &table::measured(families, ceilings, *step_ms);
            if families.iter().any(|f| f.ms < f.floor_ms) {
                text += "ms/floor under 1: what stays in a cache is not bound by memory, or the device was less busy than when its ceilings were measured\n";
            }
            text.push('\n');
        }
        let of = if self.vendor {
            "the vendor's dense bf16 peak of "
        } else {
            "what a large product reaches here (no vendor's figure is known), "
        };
        text += &format!(
            "{:.0} tokens/s, {step_ms:.1} ms a step; MFU {:.1} % of {of}{} ({} a token, {})\n",
            self.tokens_per_s(),
            100.0 * self.flops_per_s() / self.peak_flops_per_s,
            si(self.peak_flops_per_s, "FLOP/s"),
            si(load.model_flops_per_token(), "FLOP"),
            si(self.flops_per_s(), "FLOP/s"),
        );
        let memory = self.peak_bytes.map_or_else(|| "not known".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        text += &format!("most memory held: {memory}; from start to the first step's loss: {:.2} s\n", self.first_step_ms / 1e3);
        text
    }
}

/// Floors without a device, as JSON.
pub fn floors_json(setting: &Value, load: &Load, families: &[Family], ceilings: &Ceilings) -> Value {
    let kernels: Vec<Value> = families
        .iter()
        .map(|f| json!({"name": f.kernel, "floor_ms": f.floor_ms, "calls": f.calls, "flops": f.flops, "bytes": f.bytes}))
        .collect();
    let mut all = json!({
        "model_flops_per_token": load.model_flops_per_token(),
        "ceilings": ceilings_json(ceilings),
        "floor_ms_per_step": sums(families).1,
        "tokens_per_s_at_floors": load.batch.tokens_per_step() as f64 / sums(families).1 * 1e3,
        "kernels": kernels,
    });
    with_setting(setting, &mut all);
    all
}

/// Floors without a device, as text.
pub fn floors_text(setting: &Value, load: &Load, families: &[Family], ceilings: &Ceilings) -> String {
    let (product, copy) = (si(ceilings.flops_per_s, "FLOP/s"), si(ceilings.bytes_per_s, "B/s"));
    let floor = sums(families).1;
    format!(
        "{} in bf16; nothing was run\nceilings: {product}, {copy}\n\n{}\nat its floors, no kernel beside another: {floor:.1} ms a step, {:.0} tokens/s; {} a token\n",
        head(setting, load),
        table::floors(families, ceilings),
        load.batch.tokens_per_step() as f64 / floor * 1e3,
        si(load.model_flops_per_token(), "FLOP"),
    )
}

/// The model and the step in words.
fn head(setting: &Value, load: &Load) -> String {
    let millions = |n: usize| n as f64 / 1e6;
    let name = setting["model"].as_str().unwrap_or_default();
    let trained = load.trained();
    let mut text = format!("{name} ({:.2} M parameters", millions(load.model.parameters()));
    if load.lora.is_some() {
        text += &format!(", {:.2} M of adapters in training", millions(trained));
    }
    let batch = &load.batch;
    text += &format!("), {} x {} x {} tokens a step", batch.accumulate, batch.micro_batch, batch.ctx);
    if load.counted < 1.0 {
        text += &format!(", {:.0} % of which count", 100.0 * load.counted);
    }
    if batch.recompute {
        text += ", activations recomputed";
    }
    text
}

fn ceilings_json(ceilings: &Ceilings) -> Value {
    json!({"flops_per_s": ceilings.flops_per_s, "bytes_per_s": ceilings.bytes_per_s})
}

/// The setting's keys before the others.
fn with_setting(setting: &Value, all: &mut Value) {
    let (Value::Object(setting), Value::Object(found)) = (setting, &mut *all) else { return };
    let mut merged = setting.clone();
    merged.append(found);
    *all = Value::Object(merged);
}
