//! Measures of quality: perplexity and divergence are their formulas, importance is the mean square of what it says.

#[path = "common/gguf_model.rs"]
mod gguf_model;
#[path = "common/gpt2_f64.rs"]
mod gpt2_f64;

use gguf_model::{config_for, tiny_model};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tinyllm::eval::Windows;
use tinyllm::eval::auto::{AutoError, Settings, search};
use tinyllm::eval::perplexity::{Estimate, compare, perplexity};
use tinyllm::gguf::Gguf;
use tinyllm::infer::{CacheType, ImportanceError, Model, importance, pool};
use tinyllm::model::io::imatrix::{self, Source};
use tinyllm::model::io::requantize::{self, Options};
use tinyllm::quant::{FileType, GgmlType, Importance};

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 97 + i * i * 13) % 261).collect()
}

fn model_of(ty: GgmlType) -> (tempfile::TempDir, Model, gguf_model::Weights) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (_, weights) = tiny_model(&path, ty, 7);
    let model = Model::open(&path).unwrap();
    (dir, model, weights)
}

/// Log-probabilities at the scored places of windows of 40 tokens: those after tokens 20 to 38 of each.
fn scored(ty: GgmlType, weights: &gguf_model::Weights, text: &[u32]) -> Vec<Scored> {
    let mut all = vec![];
    for window in text.chunks_exact(40) {
        let rows =
            gpt2_f64::log_probs_of(&config_for(ty), weights, window, |name| gguf_model::stored_as(name, &weights[name].0, ty).block_len());
        all.extend((20..39).map(|i| (rows[i].clone(), window[i + 1] as usize)));
    }
    all
}

/// Log-probabilities after a token, and the token that came.
type Scored = (Vec<f64>, usize);

#[test]
fn perplexity_and_divergence_are_their_formulas() {
    let text = tokens(130);
    let windows = Windows::of_text(text.clone(), 40).unwrap();
    let (_a, exact, weights) = model_of(GgmlType::F32);
    let (_b, coarse, coarse_weights) = model_of(GgmlType::Q4_0);
    let (p, q) = (scored(GgmlType::F32, &weights, &text), scored(GgmlType::Q4_0, &coarse_weights, &text));
    let losses = |rows: &[Scored]| -> Vec<f64> { rows.iter().map(|(row, target)| -row[*target]).collect() };
    let (want_p, want_q) = (Estimate::of(&losses(&p)).exp(), Estimate::of(&losses(&q)).exp());
    let kl = |(p, q): (&Scored, &Scored)| p.0.iter().zip(&q.0).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let mut kls: Vec<f64> = p.iter().zip(&q).map(kl).collect();
    let top = |row: &[f64]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let same = p.iter().zip(&q).filter(|(p, q)| top(&p.0) == top(&q.0)).count() as f64 / p.len() as f64;
    let near = |got: Estimate, want: Estimate, room: f64| {
        assert!((got.mean / want.mean - 1.0).abs() < room && (got.error / want.error - 1.0).abs() < 10.0 * room, "{got:?} {want:?}");
    };
    for (cache, room) in [(CacheType::F32, 1e-5), (CacheType::F16, 2e-3), (CacheType::Q8, 2e-2)] {
        for threads in [1, 2] {
            pool(threads).unwrap().install(|| {
                let mut read = 0;
                near(perplexity(&exact, &windows, cache, &mut |n| read += n).unwrap(), want_p, room);
                assert_eq!(read, 3 * 39, "each window's last token is only a target");
                let c = compare(&coarse, &exact, &windows, cache, &mut |_| {}).unwrap();
                near(c.other, want_p, room);
                // A rounding to 8 bits may go the other way than in the formula: see tests/session.rs.
                near(c.perplexity, want_q, room.max(5e-3));
                near(c.divergence, Estimate::of(&kls), 0.05);
                near(c.ratio, Estimate { mean: want_q.mean / want_p.mean, error: c.ratio.error }, room.max(5e-3));
                assert!((c.difference.mean + c.ratio.mean.ln()).abs() < 1e-12);
                assert!((c.same_top.mean - same).abs() < 0.06, "{} {same}", c.same_top.mean);
                kls_are(&c.quantiles, &mut kls.clone());
            });
        }
    }
    kls.sort_by(f64::total_cmp);
    let of_cache = compare(&exact, &exact, &windows, CacheType::Q8, &mut |_| {}).unwrap();
    assert!((1e-9..1e-2).contains(&of_cache.divergence.mean), "{of_cache:?}");
    let itself = compare(&exact, &exact, &windows, CacheType::F32, &mut |_| {}).unwrap();
    assert!(itself.divergence.mean < 1e-9 && itself.quantiles[2] < 1e-8, "{itself:?}");
    assert_eq!((itself.ratio.mean, itself.same_top.mean, itself.difference.mean), (1.0, 1.0, 0.0));
}

fn kls_are(quantiles: &[f64; 3], sorted: &mut [f64]) {
    sorted.sort_by(f64::total_cmp);
    let (median, most) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    assert!((quantiles[0] / median - 1.0).abs() < 0.2 && (quantiles[2] / most - 1.0).abs() < 0.1, "{quantiles:?} {median} {most}");
    assert!(quantiles[0] <= quantiles[1] && quantiles[1] <= quantiles[2]);
}

/// On every kind of matrix, with pieces of one token and of many; the same bits on any number of threads.
#[test]
fn importance_is_the_mean_square_of_inputs() {
    for ty in [GgmlType::F32, GgmlType::Q8_0] {
        let (_dir, model, weights) = model_of(ty);
        let texts = [tokens(70), vec![5], tokens(66)];
        let sums: RefCell<BTreeMap<String, Vec<f64>>> = RefCell::default();
        let see = |name: &str, x: &[f64]| {
            let (mut all, len) = (sums.borrow_mut(), x.len());
            let sums = all.entry(name.into()).or_insert_with(|| vec![0.0; len]);
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
        };
        for text in &texts {
            let block = |name: &str| gguf_model::stored_as(name, &weights[name].0, ty).block_len();
            gpt2_f64::log_probs_seen(&config_for(ty), &weights, text, block, &see);
        }
        let run = |threads| {
            let mut read = 0;
            let found = pool(threads).unwrap().install(|| importance(&model, texts.iter().map(Vec::as_slice), &mut |n| read = n));
            assert_eq!(read, 137);
            found.unwrap()
        };
        let got = run(1);
        assert_eq!(got, run(2), "the same bits");
        let sums = sums.into_inner();
        assert!(got.0.keys().eq(sums.keys()), "{:?}", got.0.keys());
        for (name, sums) in &sums {
            assert_eq!(got.0[name].len(), sums.len());
            let whole = sums.iter().sum::<f64>() / 137.0;
            for (got, sum) in got.0[name].iter().zip(sums) {
                let (got, want) = (f64::from(*got), sum / 137.0);
                // Of 8 bits, single roundings go the other way than in the formula.
                let room = if ty == GgmlType::F32 { 1e-5 } else { 2e-2 };
                assert!((got - want).abs() < room * (want + whole / sums.len() as f64), "{name}: {got} {want}");
            }
        }
    }
}

#[test]
fn importance_comes_back_from_its_file_and_needs_text() {
    let (dir, model, _) = model_of(GgmlType::F32);
    let text = tokens(90);
    let found = importance(&model, [&text[..]], &mut |_| {}).unwrap();
    let path = dir.path().join("i.gguf");
    imatrix::write(&path, &found, &Source { text: "a text".into(), tokens: 90, window: 40 }).unwrap();
    let back = imatrix::read(&path).unwrap();
    assert!(back.0.keys().eq(found.0.keys()));
    for (a, b) in back.0.values().flatten().zip(found.0.values().flatten()) {
        assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    }
    let file = Gguf::open(&path).unwrap();
    assert_eq!((file.unsigned("imatrix.chunk_count").unwrap(), file.unsigned("imatrix.chunk_size").unwrap()), (3, 40));
    assert!(imatrix::is_gguf(&path).unwrap());
    assert!(matches!(importance(&model, [], &mut |_| {}), Err(ImportanceError::Nothing)));
    assert!(matches!(importance(&model, [&[999u32][..]], &mut |_| {}), Err(ImportanceError::Session(_))));
}

/// The error of a matrix's products, as importance predicts it, falls.
#[test]
fn collected_importance_lowers_the_weighed_error() {
    let (dir, model, _) = model_of(GgmlType::F32);
    let text = tokens(90);
    let found = importance(&model, [&text[..]], &mut |_| {}).unwrap();
    let file = Gguf::open(&dir.path().join("m.gguf")).unwrap();
    let error = |given: Option<&Importance>| -> f64 {
        let path = dir.path().join(format!("{}.gguf", given.is_some()));
        let options = Options { importance: given, ..Options::default() };
        requantize::quantize(&file, &path, FileType::Q4_0, &options, &mut |_, _| {}).unwrap();
        let small = Gguf::open(&path).unwrap();
        let decoded = |file: &Gguf, name: &str| {
            let t = file.tensor(name).unwrap();
            let mut out = vec![0.0; t.dims.iter().product::<u64>() as usize];
            GgmlType::from_id(t.ty.id).unwrap().dequantize_row(&mut out, file.data(t));
            out
        };
        let of = |name: &str| {
            let (w, back, i) = (decoded(&file, name), decoded(&small, name), &found.0[name]);
            let part = |power: &dyn Fn(usize) -> f32| (0..w.len()).map(|k| f64::from(i[k % i.len()] * power(k).powi(2))).sum::<f64>();
            part(&|k| w[k] - back[k]) / part(&|k| w[k])
        };
        found.0.keys().filter(|n| n.starts_with("blk.")).map(|n| of(n)).sum()
    };
    let (without, with) = (error(None), error(Some(&found)));
    assert!(with < 0.9 * without, "{with} {without}");
}

#[test]
fn a_mix_keeps_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    // Rows of 256 and 512 in the one, of 96 and 160 in the other.
    for ty in [GgmlType::Q4_K, GgmlType::Q4_0] {
        let config = config_for(ty);
        gguf_model::tiny_model_with(&path, &config, GgmlType::F32, 7, &[]);
        let windows = Windows::of_text(tokens(400), 96).unwrap();
        let mut sizes = vec![];
        for bound in [0.003, 0.05] {
            let mut told = (0, 0);
            let mix = search(&path, &Settings { importance: None, text: &windows, bound }, &mut |done, all, _| told = (done, all)).unwrap();
            assert!(told.0 <= told.1 && told.0 > 0);
            assert!(mix.measured.divergence.mean <= bound, "{} of {bound}", mix.measured.divergence.mean);
            assert_eq!(mix.groups.len(), 9, "the head and four matrices of two blocks");
            assert!(mix.groups.iter().all(|g| g.format.is_quantized() && g.cost >= 0.0));
            // What was measured in memory is what the file says.
            let (file, out) = (Gguf::open(&path).unwrap(), dir.path().join("out.gguf"));
            let (formats, note) = (mix.formats(), mix.note());
            let options = Options { formats: Some(&formats), note: Some(note), ..Options::default() };
            requantize::quantize(&file, &out, mix.file_type(), &options, &mut |_, _| {}).unwrap();
            let (model, base) = (Model::open(&out).unwrap(), Model::open(&path).unwrap());
            let again = compare(&model, &base, &windows, CacheType::F16, &mut |_| {}).unwrap();
            assert_eq!(again, mix.measured);
            let small = Gguf::open(&out).unwrap();
            assert!(mix.groups.iter().all(|g| small.tensor(&g.name).unwrap().ty.name == g.format.name()));
            assert_eq!(mix.bytes(), mix.groups.iter().map(|g| small.data(small.tensor(&g.name).unwrap()).len() as u64).sum::<u64>());
            assert!(small.string("tinyllm.mix").unwrap().starts_with("auto: "));
            sizes.push(mix.bytes());
            println!("{mix}");
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}: a wider bound makes a smaller file");
        let strict = Settings { importance: None, text: &windows, bound: 1e-9 };
        assert!(matches!(search(&path, &strict, &mut |_, _, _| {}), Err(AutoError::TooStrict { .. })));
    }
    gguf_model::tiny_model(&path, GgmlType::Q8_0, 7);
    let windows = Windows::of_text(tokens(100), 50).unwrap();
    let again = search(&path, &Settings { importance: None, text: &windows, bound: 0.1 }, &mut |_, _, _| {});
    assert!(matches!(again, Err(AutoError::Quantized { .. })));
}
