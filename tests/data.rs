//! The quickstart's recipe from end to end: what is prepared, what is promised about it, and what training reads.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use tinyllm::data::manifest::Manifest;
use tinyllm::data::{DataError, Loader, Packer, Packing, Prepared, Split, pack, prepare};

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/quickstart/recipe.toml")
}

/// Prepared once for all tests of this file.
fn quickstart() -> &'static Prepared {
    use std::sync::OnceLock;
    static DATA: OnceLock<(tempfile::TempDir, Prepared)> = OnceLock::new();
    &DATA
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("data");
            let recipe = tinyllm::data::quickstart::unpack(&dir.path().join("source")).unwrap();
            let report = prepare(&recipe, &out).unwrap();
            println!("{report}");
            let data = Prepared::open(&out).unwrap();
            (dir, data)
        })
        .1
}

#[test]
fn the_report_says_what_there_is() {
    let data = quickstart();
    let facts = data.manifest.task.as_ref().unwrap();
    assert_eq!(data.labels().len(), 7);
    assert_eq!(
        facts.splits.iter().map(|s| s.subjects.clone()).collect::<Vec<_>>(),
        [
            ["1", "2", "3", "4", "5", "6"].map(String::from).to_vec(),
            ["7", "8"].map(String::from).to_vec(),
            ["10", "9"].map(String::from).to_vec()
        ]
    );
    assert!(facts.splits.iter().all(|s| s.per_label.iter().all(|&n| n > 20)));
    assert!(facts.positions[2] <= 512);
    assert!(facts.clipped < 0.005, "{}", facts.clipped);
    assert!(data.tokenizer.n_vocab() <= 512);
    assert_eq!(data.manifest.sources.len(), 2);
    let text = data.manifest.to_string();
    for words in ["pendulum", "25 readings (4 s at 6.25 Hz)", "train", "clipped", "documents"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn every_reading_is_one_token_and_every_example_fits() {
    let data = quickstart();
    let codec = data.task_codec().unwrap();
    for split in Split::ALL {
        for e in data.examples(split).unwrap() {
            let readings = e.readings.as_ref().unwrap();
            assert_eq!(readings.values.iter().map(Vec::len).collect::<Vec<_>>(), [25; 6]);
            // The text is made of the readings, and the channels' names are all that is added.
            assert_eq!(codec.text(&readings.values), e.input);
            let names: usize = ["Ax:", "\nAy:", "\nAz:", "\nGx:", "\nGy:", "\nGz:"].iter().map(|n| data.tokenizer.encode(n).len()).sum();
            assert_eq!(data.tokenizer.encode(&e.input).len(), names + 150, "{}", e.input);
            assert_eq!(data.tokenizer.decode(&data.tokenizer.encode(&e.input)), e.input);
        }
    }
}

/// What `classify` makes of the raw readings is what was tested, to the letter.
#[test]
fn running_makes_the_same_text_as_preparing() {
    let data = quickstart();
    let again = tinyllm::data::Codec::from_json(&data.task_codec().unwrap().to_json()).unwrap();
    let run = again.windows(&data.test_readings().unwrap()).unwrap();
    let tested = data.examples(Split::Test).unwrap();
    let key = |e: &tinyllm::data::Example| (e.series.clone(), e.input.clone(), e.output.clone());
    assert_eq!(run.iter().map(key).collect::<Vec<_>>(), tested.iter().map(key).collect::<Vec<_>>());
    assert_eq!(run[0].readings.as_ref().unwrap().values, tested[0].readings.as_ref().unwrap().values);
}

#[test]
fn splits_share_no_subject_no_recording_and_no_window() {
    let data = quickstart();
    let mut subjects: BTreeMap<String, Split> = BTreeMap::new();
    let mut inputs = HashSet::new();
    for split in Split::ALL {
        let examples = data.examples(split).unwrap();
        for e in &examples {
            assert_eq!(*subjects.entry(e.subject.clone()).or_insert(split), split);
            assert!(!inputs.contains(&e.input));
            let r = e.readings.as_ref().unwrap();
            assert!(split == Split::Train || r.before.is_empty() && r.after.is_empty());
        }
        inputs.extend(examples.into_iter().map(|e| e.input));
    }
    assert_eq!(subjects.len(), 10);
}

fn documents(data: &Prepared, shards: &[PathBuf]) -> Vec<Vec<u32>> {
    let mut loader = vec![];
    for path in shards {
        let shard = tinyllm::data::shard::Shard::open(path).unwrap();
        shard.read(0, shard.len(), data.tokenizer.n_vocab(), &mut loader).unwrap();
    }
    assert_eq!(loader[0], data.tokenizer.end_token());
    loader.split(|&t| t == data.tokenizer.end_token()).skip(1).map(<[u32]>::to_vec).collect()
}

#[test]
fn the_mix_keeps_its_ratio_and_validation_is_new() {
    let data = quickstart();
    let facts = data.manifest.pretrain.as_ref().unwrap();
    assert!((1_960_000..1_962_000).contains(&facts.train_tokens), "{}", facts.train_tokens);
    for d in facts.train.iter().chain(&facts.validation) {
        let total: u64 = if facts.train.contains(d) { facts.train_tokens } else { facts.validation_tokens };
        let off = (d.tokens as f64 - d.weight * total as f64).abs();
        let longest = facts.train.iter().map(|d| d.longest).max().unwrap() as f64;
        assert!(off <= (0.001 * total as f64).max(longest), "{d:?} of {total}");
    }
    let train: HashSet<Vec<u32>> = documents(data, &data.train_shards().unwrap()).into_iter().collect();
    let validation = documents(data, &data.validation_shards().unwrap());
    assert_eq!(validation.len() as u64, facts.validation.iter().map(|d| d.documents).sum::<u64>());
    assert!(validation.iter().all(|d| !train.contains(d)));
    // No window of a subject who is validated or tested is in either.
    let held: Vec<String> = [Split::Validation, Split::Test].iter().flat_map(|s| data.examples(*s).unwrap()).map(|e| e.input).collect();
    let texts: Vec<String> = train.iter().chain(&validation).map(|d| data.tokenizer.decode(d)).filter(|t| t.contains("Gz: ")).collect();
    let windows: HashSet<&str> = texts.iter().map(|t| &t[t.find("Ax:").unwrap()..]).filter_map(|t| t.split("\n\n").next()).collect();
    let windows: HashSet<String> = windows.iter().map(|w| w.lines().take(6).collect::<Vec<_>>().join("\n")).collect();
    assert!(windows.len() > 1000 && held.iter().all(|h| !windows.contains(h)));
}

#[test]
fn loader_and_packer_go_on_exactly_and_see_changed_windows() {
    let data = quickstart();
    let shards = data.train_shards().unwrap();
    let open = || Loader::open(&shards, data.tokenizer.n_vocab(), 512, 1).unwrap();
    let (mut a, mut b) = (open(), open());
    (0..5).for_each(|_| drop(a.next_batch(4).unwrap()));
    b.restore(a.state()).unwrap();
    assert_eq!(a.next_batch(4).unwrap(), b.next_batch(4).unwrap());

    let examples = data.examples(Split::Train).unwrap();
    let codec = data.task_codec().unwrap();
    let packing = Packing { t: 512, prompt_weight: 0.3, seed: 1, augment: data.augment() };
    let make = || Packer::new(&examples, codec, &data.tokenizer, packing).unwrap();
    let (mut a, mut b) = (make(), make());
    let rows = a.rows_per_epoch();
    let first = a.next_batch(rows);
    (0..3).for_each(|_| drop(a.next_batch(7)));
    b.restore(a.state()).unwrap();
    (0..40).for_each(|_| assert_eq!(a.next_batch(16), b.next_batch(16)));
    let plain = Packer::new(&examples, codec, &data.tokenizer, Packing { augment: None, ..packing }).unwrap().next_batch(rows);
    assert_eq!((first.starts.clone(), first.rows.clone()), (plain.starts.clone(), plain.rows.clone()));
    let changed = first.tokens.iter().zip(&plain.tokens).filter(|(a, b)| a != b).count() as f64 / first.tokens.len() as f64;
    assert!(changed > 0.3, "{changed}");

    let validation = data.examples(Split::Validation).unwrap();
    let fixed = pack::fixed(&validation, codec, &data.tokenizer, packing, 16).unwrap();
    let ends = fixed.iter().flat_map(|b| &b.targets).filter(|&&t| t == data.tokenizer.end_token()).count();
    assert_eq!(ends, validation.len());
}

#[test]
fn the_same_recipe_makes_the_same_bytes_and_a_folder_is_never_overwritten() {
    let data = quickstart();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("again");
    prepare(&recipe(), &out).unwrap();
    let manifest: Manifest = serde_json::from_str(&std::fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, data.manifest);
    assert!(matches!(prepare(&recipe(), &out), Err(DataError::Exists { finished: true, .. })));
    std::fs::remove_file(out.join("manifest.json")).unwrap();
    assert!(matches!(prepare(&recipe(), &out), Err(DataError::Exists { finished: false, .. })));
    assert!(Prepared::open(&out).err().unwrap().to_string().contains("tinyllm-train prepare"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
