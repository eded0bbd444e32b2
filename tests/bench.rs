//! The stopwatch and the accounts: a device under [`Timed`] computes the same bits, what a step takes is what arithmetic says,
//! and `tinyllm-train bench` tells it.

#[path = "common/rig.rs"]
#[allow(dead_code)]
mod rig;

use assert_cmd::Command;
use rig::{Rig, batch, config, lively, lora};
use serde_json::Value as Json;
use tinyllm::backend::cpu::Cpu;
use tinyllm::backend::{Backend, Blank, Call, Ceilings, Timed, Widths, Work};
use tinyllm::model::{Config, HostBatch, Lora, Target, Tree};
use tinyllm::train::Adam;
use tinyllm::train::bench::{Load, families};
use tinyllm::train::config::Batch;

const V: usize = 50_257;

fn load(name: &str, micro_batch: usize) -> Load {
    let model = Config { n_vocab: Some(V), ..Config::named(name).unwrap() };
    let batch = Batch {
        ctx: model.n_ctx,
        micro_batch,
        accumulate: 1,
        prompt_loss_weight: 0.0,
        within_documents: false,
        recompute: false,
        augment: None,
    };
    Load { model, lora: None, batch, counted: 1.0 }
}

/// Two steps of two micro-batches: losses, norms and all weights, as bits.
fn trained<B: Backend>(be: B, lora: Option<&Lora>, batches: &[HostBatch]) -> (Vec<u64>, Vec<u32>, Rig<B>) {
    let mut rig = Rig::new(be, &config(2, 2, 16, 64, 24, 67), lora, lively(3), 48, true);
    let steps = 1..=2;
    let reports = steps.map(|step| rig.learner.step(batches, step, 1e-2, &Adam::default(), 5).unwrap());
    let figures = reports.flat_map(|r| [r.loss.to_bits(), r.grad_norm.to_bits()]).collect();
    let weights = rig.learner.host_weights().unwrap();
    let bits = weights.leaves().into_iter().flatten().map(|x| x.to_bits()).collect();
    (figures, bits, rig)
}

#[test]
fn a_device_under_the_stopwatch_computes_the_same_bits() {
    let batches = [batch(2, 24, 67, 2, 1), batch(1, 19, 67, 1, 2)];
    for lora in [None, Some(lora(0.2))] {
        let (figures, weights, _) = trained(Cpu::new(), lora.as_ref(), &batches);
        let (timed_figures, timed_weights, timed) = trained(Timed::new(Cpu::new()), lora.as_ref(), &batches);
        assert_eq!(figures, timed_figures);
        assert!(weights == timed_weights, "weights differ");
        let calls = timed.learner.backend().take_calls().unwrap();
        assert!(timed.learner.backend().take_calls().unwrap().is_empty());
        // One embedding a micro-batch and step; on a CPU a call that did something took time.
        assert_eq!(calls.iter().filter(|c| c.work.kernel == "embed").count(), 4);
        assert!(calls.iter().all(|c| c.ms >= 0.0) && calls.iter().filter(|c| c.work.flops > 0.0).all(|c| c.ms > 0.0));

        // What counts without a device sees the same calls. AdamW's bytes differ by the masters, which a CPU has none of.
        let (_, _, blank) = trained(Timed::new(Blank { widths: Widths { buf: 4, acc: 4 } }), lora.as_ref(), &batches);
        let told = |calls: Vec<Call>| calls.into_iter().map(|c| c.work).filter(|w| w.kernel != "adamw").collect::<Vec<Work>>();
        assert_eq!(told(blank.learner.backend().take_calls().unwrap()), told(calls));
    }
}

const H200: Ceilings = Ceilings { flops_per_s: 790e12, bytes_per_s: 4.3e12 };

#[test]
fn a_step_takes_what_arithmetic_says() {
    let load = load("124m", 64);
    let (l, c, t, n) = (12.0, 768.0, 1024.0, 65_536.0);
    let (v, p) = (V as f64, load.model.parameters() as f64);
    let calls = load.count(Blank::default().widths);
    let families = families(&[calls], &H200);
    let of = |kernel: &str| families.iter().find(|f| f.kernel == kernel).unwrap_or_else(|| panic!("no {kernel}"));
    let near = |got: f64, truth: f64, bar: f64| assert!((got / truth - 1.0).abs() < bar, "{got:e} against {truth:e}");

    // Six a weight of a product, and causal attention: 509.6 M of blocks, 231.6 M of the head (231.8 M padded), 56.6 M of attention.
    let asked = load.model_flops_per_token();
    near(asked, 6.0 * (12.0 * l * c * c + v * c) + 6.0 * l * c * t, 1e-12);
    near(asked, 798.0e6, 1e-3);
    // What is executed: attention's backward makes its probabilities again, 66.1 M instead of 56.6 M.
    let executed = families.iter().map(|f| f.flops).sum::<f64>() / n;
    near(executed, 798.0e6, 0.02);
    near((of("attention").flops + of("attention_backward").flops) / n, 66.06e6, 1e-3);
    near(of("classify_loss").flops, 6.0 * n * c * v, 1e-12);

    // X is one (N, C) array in bf16.
    let x = 2.0 * n * c;
    near(of("norm").bytes, 25.0 * 2.0 * x, 0.01); // beside statistics, 0.5 %
    near(of("norm_backward").bytes, 25.0 * 4.0 * x, 0.01);
    near(of("linear_gelu").bytes, l * (x + 2.0 * 4.0 * x + 2.0 * (4.0 * c * c + 4.0 * c)), 1e-12);
    near(of("linear_residual").bytes, l * (3.0 * x + 6.0 * x + 2.0 * (5.0 * c * c + 2.0 * c)), 1e-12);
    near(of("attention_backward").bytes, l * (8.0 * x + 4.0 * n * l + 4.0 * n), 1e-12);
    assert_eq!(of("grad_norm").bytes, 4.0 * p);
    // The loss is zeroed with the gradients.
    assert_eq!(of("zero_acc").bytes, 4.0 * (p + 1.0));
    // bf16 weight written; gradient read; f32 master and two moments read and written.
    assert_eq!(of("adamw").bytes, (2.0 + 4.0 + 3.0 * 8.0) * p);

    // Overlapped or not, products alone take 67.0 ms at these rates.
    let products: f64 = families.iter().filter(|f| f.flops > 0.0).map(|f| f.floor_ms).sum();
    near(products, 67.0, 5e-3);
}

#[test]
fn what_need_not_be_done_is_not_counted() {
    let whole = load("30m", 2);
    let (l, c, t, v) = (6.0, 384.0, 1024.0, V as f64);
    let near = |got: f64, truth: f64| assert!((got / truth - 1.0).abs() < 1e-3, "{got:e} against {truth:e}");
    let blocks = 12.0 * l * c * c;
    // A tenth of the rows counts: a tenth of the head.
    let counted = Load { counted: 0.1, ..whole.clone() };
    near(counted.model_flops_per_token(), 6.0 * blocks + 0.6 * v * c + 6.0 * l * c * t);
    assert_eq!(counted.batches()[0].rows.len(), 205);
    assert_eq!(Load { counted: 0.0, ..whole.clone() }.batches()[0].rows.len(), 1);
    // Recomputing is not what the model asks for, but it takes time: all blocks' forward but the last one's.
    let again = Load { batch: Batch { recompute: true, ..whole.batch.clone() }, ..whole.clone() };
    assert_eq!(again.model_flops_per_token(), whole.model_flops_per_token());
    let flops = |load: &Load| load.count(Blank::default().widths).iter().map(|c| c.work.flops).sum::<f64>() / 2048.0;
    near(flops(&again) - flops(&whole), (2.0 * blocks + 2.0 * l * c * t) * 5.0 / 6.0);
    // Frozen weights have no gradient, and nothing lies below the first block: two thirds of the blocks, less its way into the
    // embedding; the adapters themselves have six a weight.
    let lora = Lora { rank: 16, alpha: 32.0, dropout: 0.1, targets: Target::ALL.to_vec() };
    let adapted = Load { lora: Some(lora), ..whole.clone() };
    let adapters = 16.0 * (4.0 * c + 2.0 * c + 5.0 * c + 5.0 * c) * l;
    let spared = 2.0 * 3.0 * c * c + 2.0 * 16.0 * c;
    near(adapted.model_flops_per_token(), 4.0 * blocks - spared + 4.0 * v * c + 6.0 * l * c * t + 6.0 * adapters);
    assert_eq!(adapted.trained() as f64, adapters);
}

#[test]
fn calls_become_families() {
    let call = |kernel, flops, bytes, ms| Call { work: Work { kernel, flops, bytes }, ms };
    // At 1 TFLOP/s and 1 TB/s, in ms: 3 of products; 2 of memory; 1 of memory.
    let step = |ms: f64| vec![call("b", 3e9, 1e9, ms), call("a", 1e9, 2e9, 2.0), call("b", 0.0, 1e9, 1.0)];
    let all = families(&[step(9.0), step(5.0), step(4.0)], &Ceilings { flops_per_s: 1e12, bytes_per_s: 1e12 });
    let told: Vec<_> = all.iter().map(|f| (f.kernel, f.calls, f.ms, f.floor_ms, f.flops, f.bytes)).collect();
    assert_eq!(told, [("b", 2, 6.0, 4.0, 3e9, 2e9), ("a", 1, 2.0, 2.0, 1e9, 2e9)]);
}

fn train(args: &[&str]) -> (i32, String, String) {
    let out = Command::cargo_bin("tinyllm-train").unwrap().args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn ok(args: &[&str]) -> String {
    let (code, out, err) = train(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

#[test]
fn bench_tells_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.toml");
    std::fs::write(&file, "n_embd = 32\nn_head = 2\nn_layer = 2\nn_ctx = 64\nn_vocab = 300\n").unwrap();
    let model = file.to_str().unwrap();
    let size = ["bench", "--model", model, "--micro-batch", "4", "--ctx", "32"];
    let on_cpu = [&size[..], &["--device", "cpu", "--steps", "3", "--json"]].concat();
    let out = ok(&on_cpu);
    assert_eq!(out.lines().count(), 1, "{out}");
    let json: Json = serde_json::from_str(&out).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("no {key}: {out}"));
    assert_eq!((json["model"].as_str(), json["device"].as_str(), json["precision"].as_str()), (Some(model), Some("cpu"), Some("f32")));
    assert_eq!((number("micro_batch"), number("ctx")), (4.0, 32.0));
    assert!((number("tokens_per_s") * number("ms_per_step") / 1e3 - 128.0).abs() < 1e-6, "{out}");
    let mfu = number("tokens_per_s") * number("model_flops_per_token") / number("peak_flops_per_s");
    assert!(mfu > 0.0 && (number("mfu") / mfu - 1.0).abs() < 1e-9, "{out}");
    assert!(number("start_to_first_step_ms") > 0.0 && number("peak_flops_per_s") == json["ceilings"]["flops_per_s"].as_f64().unwrap());
    if cfg!(target_os = "linux") {
        assert!(number("peak_bytes") > 1e6, "{out}");
    }
    let kernels = json["kernels"].as_array().unwrap();
    let sum = |key: &str| kernels.iter().map(|k| k[key].as_f64().unwrap()).sum::<f64>();
    assert!(kernels.iter().all(|k| k["ms"].as_f64().unwrap() > 0.0 && k["floor_ms"].as_f64().unwrap() > 0.0), "{out}");
    assert!((sum("floor_ms") / number("floor_ms_per_step") - 1.0).abs() < 1e-9);
    let names: Vec<&str> = kernels.iter().map(|k| k["name"].as_str().unwrap()).collect();
    for name in ["embed", "linear", "linear_dw", "attention", "attention_backward", "classify_loss", "norm_backward", "adamw"] {
        assert!(names.contains(&name), "no {name}: {names:?}");
    }

    let quick = [&size[..], &["--device", "cpu", "--steps", "1", "--no-kernels", "--lora-rank", "2", "--counted", "0.1", "--recompute"]];
    let text = ok(&[&quick.concat()[..], &["--accumulate", "2"]].concat());
    for said in ["2 x 4 x 32 tokens a step", "of adapters in training", "10 % of which count", "recomputed", "tokens/s", "MFU", "GB"] {
        assert!(text.contains(said), "no '{said}': {text}");
    }
    let whole: Json = serde_json::from_str(&ok(&[&quick.concat()[..], &["--json"]].concat())).unwrap();
    assert_eq!(whole["kernels"], serde_json::json!([]));

    let text = ok(&[&size[..], &["--floors"]].concat());
    assert!(text.contains("nothing was run") && text.contains("classify_loss") && !text.contains("ms/floor"), "{text}");
    let floors =
        |rate: &str| -> Json { serde_json::from_str(&ok(&["bench", "--floors", "--rate", rate, "--bandwidth", "4.3", "--json"])).unwrap() };
    let (fast, slow) = (floors("790"), floors("79"));
    assert_eq!((fast["micro_batch"].as_u64(), fast["ctx"].as_u64()), (Some(64), Some(1024)));
    let ms = |json: &Json| json["floor_ms_per_step"].as_f64().unwrap();
    assert!(ms(&slow) > 9.0 * ms(&fast) && ms(&slow) < 10.0 * ms(&fast), "{} {}", ms(&slow), ms(&fast));
}

#[test]
fn bench_refuses_what_cannot_be_meant() {
    for args in [
        &["--rate", "700"][..],
        &["--floors", "--rate", "0"],
        &["--floors", "--bandwidth", "inf"],
        &["--floors", "--device", "cpu"],
        &["--floors", "--no-kernels"],
        &["--counted", "1.1"],
        &["--counted", "nan"],
        &["--lora-rank", "0"],
        &["--accumulate", "0"],
    ] {
        let (code, out, err) = train(&[&["bench", "--model", "nano"], args].concat());
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(out.is_empty() && err.contains(args.iter().rfind(|a| a.starts_with("--")).unwrap()), "{args:?}: {err}");
    }
}
