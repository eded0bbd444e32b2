//! GPT-2's forward pass in `f64`, as plainly as it can be written: the twin a session is held to.
#![allow(dead_code)] // each test uses what it needs

use super::gguf_model::Weights;
use tinyllm::model::Config;

/// Log-probabilities (natural) of the next token at every position, `(T, V)`.
pub fn log_probs(c: &Config, w: &Weights, tokens: &[u32]) -> Vec<Vec<f64>> {
    log_probs_of(c, w, tokens, |_| 1)
}

/// The same with the inputs of the matrices rounded to 8 bits in blocks of `block(matrix)`, as a session rounds them; not where that is 1.
pub fn log_probs_of(c: &Config, w: &Weights, tokens: &[u32], block: impl Fn(&str) -> usize) -> Vec<Vec<f64>> {
    log_probs_seen(c, w, tokens, block, &|_, _| {})
}

/// The same; `see` is shown every input of every matrix, by its name, before it is rounded.
pub fn log_probs_seen(c: &Config, w: &Weights, tokens: &[u32], block: impl Fn(&str) -> usize, see: &dyn Fn(&str, &[f64])) -> Vec<Vec<f64>> {
    let (e, d) = (c.n_embd, c.head_dim());
    let get = |name: &str| -> Vec<f64> { w[name].1.iter().map(|&x| x.into()).collect() };
    let (wte, wpe) = (get("token_embd.weight"), get("position_embd.weight"));
    let mut x: Vec<Vec<f64>> =
        tokens.iter().enumerate().map(|(p, &id)| (0..e).map(|i| wte[id as usize * e + i] + wpe[p * e + i]).collect()).collect();
    for layer in 0..c.n_layer {
        let full = |name: &str| format!("blk.{layer}.{name}");
        let p = |name: &str| get(&full(name));
        let linear = |x: &[f64], matrix: &str| {
            let name = format!("{matrix}.weight");
            see(&full(&name), x);
            linear(&rounded(x, block(&full(&name))), &p(&name), &p(&format!("{matrix}.bias")))
        };
        let qkv: Vec<_> = x.iter().map(|x| linear(&norm(x, &p("attn_norm.weight"), &p("attn_norm.bias")), "attn_qkv")).collect();
        let mut seen = vec![vec![0.0; e]; tokens.len()];
        for t in 0..tokens.len() {
            for h in 0..c.n_head {
                let part = |t: usize, which: usize| &qkv[t][which * e + h * d..][..d];
                let scores: Vec<f64> = (0..=t).map(|s| dot(part(t, 0), part(s, 1)) / (d as f64).sqrt()).collect();
                for (s, weight) in log_softmax(&scores).iter().map(|x| x.exp()).enumerate() {
                    for i in 0..d {
                        seen[t][h * d + i] += weight * part(s, 2)[i];
                    }
                }
            }
        }
        for (x, seen) in x.iter_mut().zip(&seen) {
            add(x, &linear(seen, "attn_output"));
            let up = linear(&norm(x, &p("ffn_norm.weight"), &p("ffn_norm.bias")), "ffn_up");
            let up: Vec<f64> = up.iter().map(|&u| gelu(u)).collect();
            add(x, &linear(&up, "ffn_down"));
        }
    }
    let (nw, nb) = (get("output_norm.weight"), get("output_norm.bias"));
    let head = block("token_embd.weight");
    let last = |x: &Vec<f64>| {
        let hidden = norm(x, &nw, &nb);
        see("token_embd.weight", &hidden);
        log_softmax(&linear(&rounded(&hidden, head), &wte, &vec![0.0; c.vocab()]))
    };
    x.iter().map(last).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rounded(x: &[f64], block: usize) -> Vec<f64> {
    if block == 1 {
        return x.to_vec();
    }
    let one = |x: &[f64]| {
        let scale = x.iter().fold(0.0, |m: f64, v| m.max(v.abs())) / 127.0;
        x.iter().map(|v| if scale > 0.0 { (v / scale).round_ties_even() * scale } else { 0.0 }).collect::<Vec<_>>()
    };
    x.chunks(block).flat_map(one).collect()
}

fn linear(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).zip(b).map(|(row, b)| dot(row, x) + b).collect()
}

fn norm(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    // The file holds the epsilon as f32.
    x.iter().zip(w).zip(b).map(|((v, w), b)| (v - mean) / (variance + f64::from(1e-5f32)).sqrt() * w + b).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = x.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
    x.iter().map(|v| v - max - log_sum).collect()
}
