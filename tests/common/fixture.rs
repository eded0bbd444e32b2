//! The golden fixtures of `scripts/fixtures.py`.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tinyllm::model::{Config, HostBatch, Lora, Target};

/// One model, one batch, and what PyTorch made of them in f64.
pub struct Fixture {
    pub name: &'static str,
    pub config: Config,
    pub lora: Option<Lora>,
    pub batch: HostBatch,
    pub weights: BTreeMap<String, Vec<f32>>,
    /// `act.*`, `grad.*`, `loss`, `norm`, `losses`.
    pub truth: BTreeMap<String, Vec<f64>>,
    /// What PyTorch misses of each of these in f32.
    pub honest: Value,
}

impl Fixture {
    pub fn load(name: &'static str) -> Self {
        let tensors = Tensors::load(name);
        let ids = |name: &str| tensors.get(name).into_iter().map(|x| x as u32).collect();
        let floats = |name: &str| tensors.get(name).into_iter().map(|x| x as f32).collect();
        let sizes = tensors.about("batch");
        let size = |name: &str| usize::try_from(sizes[name].as_u64().unwrap()).unwrap();
        let lora = tensors.about("lora").as_object().map(|lora| Lora {
            rank: usize::try_from(lora["rank"].as_u64().unwrap()).unwrap(),
            alpha: lora["alpha"].as_f64().unwrap(),
            dropout: 0.0,
            targets: Target::ALL.to_vec(),
        });
        Self {
            name,
            config: serde_json::from_value(tensors.about("config")).unwrap(),
            lora,
            batch: HostBatch {
                b: size("b"),
                t: size("t"),
                tokens: ids("batch.tokens"),
                positions: ids("batch.positions"),
                starts: ids("batch.starts"),
                rows: ids("batch.rows"),
                targets: ids("batch.targets"),
                weights: floats("batch.weights"),
            },
            weights: tensors.names().filter_map(|n| Some((n.strip_prefix("weight.")?.to_string(), floats(n)))).collect(),
            truth: tensors
                .names()
                .filter(|n| !n.starts_with("weight.") && !n.starts_with("batch."))
                .map(|n| (n.to_string(), tensors.get(n)))
                .collect(),
            honest: tensors.about("honest"),
        }
    }
}

/// The tensors of one file, all as f64.
pub struct Tensors {
    all: BTreeMap<String, Vec<f64>>,
    about: Value,
}

impl Tensors {
    pub fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; scripts/fixtures.py makes it", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = serde_json::from_str(&header.metadata().as_ref().unwrap()["about"]).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let wide = |data: &[u8], dtype| -> Vec<f64> {
            match dtype {
                Dtype::F64 => numbers(data, f64::from_le_bytes),
                Dtype::F32 => numbers(data, |b| f64::from(f32::from_le_bytes(b))),
                Dtype::I32 => numbers(data, |b| f64::from(i32::from_le_bytes(b))),
                Dtype::BF16 => numbers(data, |b| half::bf16::from_le_bytes(b).to_f64()),
                other => panic!("{name}: {other:?}"),
            }
        };
        Self { all: all.iter().map(|(n, t)| (n.to_string(), wide(t.data(), t.dtype()))).collect(), about }
    }
    pub fn get(&self, name: &str) -> Vec<f64> {
        self.all.get(name).unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }
    pub fn about(&self, what: &str) -> Value {
        self.about[what].clone()
    }
}

fn numbers<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&b| one(b)).collect()
}
