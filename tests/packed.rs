//! Packed weights in a file beside the model: the same bits as without, and never those of another model.

#[path = "common/gguf_model.rs"]
mod gguf_model;

use assert_cmd::Command;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tinyllm::gguf::Gguf;
use tinyllm::infer::{Model, Session, Told, pack, packed_path};
use tinyllm::quant::GgmlType;
use tinyllm::simd::Isa;
use tinyllm::simd::panel::{Dots, Layout};

/// A folder with a model of this type, and its path.
fn model(ty: GgmlType) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    gguf_model::tiny_model(&path, ty, 3);
    (dir, path)
}

fn logits(model: &Model) -> Vec<u32> {
    let mut session = Session::new(model);
    session.feed(&(0..40).collect::<Vec<_>>()).unwrap();
    session.feed(&[7]).unwrap();
    session.logits().iter().map(|x| x.to_bits()).collect()
}

fn plain(path: &Path) -> Vec<u32> {
    logits(&Model::open(path).unwrap())
}

/// Logits by way of the packed file, and the notes about it.
fn packed(path: &Path, at: &Path) -> (Vec<u32>, Vec<String>) {
    let mut notes = vec![];
    let model = Model::with_packed(Gguf::open(path).unwrap(), Isa::detect(), at, &mut |told| match told {
        Told::Note(text) => notes.push(text),
        Told::Packing { done, total } => assert!(done <= total),
    });
    (logits(&model.unwrap()), notes)
}

/// The packed file is made anew, with a note of this reason, gives the same bits as without it, and is good from then on.
fn remade(path: &Path, why: &str) {
    let (at, want) = (packed_path(path), plain(path));
    let (got, notes) = packed(path, &at);
    assert!(notes.len() == 1 && notes[0].contains("m.gguf.packed: made") && notes[0].contains(why), "{why}: {notes:?}");
    assert!(got == want, "{why}");
    assert_eq!(packed(path, &at), (want, vec![]), "{why}");
}

/// The packed file is left alone, with a note of this reason; the bits are the same.
fn without(path: &Path, at: &Path, why: &str) {
    let (got, notes) = packed(path, at);
    assert!(notes.len() == 1 && notes[0].contains(why) && notes[0].contains("into memory instead"), "{why}: {notes:?}");
    assert!(got == plain(path), "{why}");
}

#[test]
fn the_same_bits_on_every_type() {
    for ty in GgmlType::ALL {
        let (_dir, path) = model(ty);
        if ty.block_len() > 1 {
            remade(&path, "not there yet");
            let model = Model::with_packed(Gguf::open(&path).unwrap(), Isa::detect(), &packed_path(&path), &mut |_| {}).unwrap();
            assert_eq!(model.head().bytes(), 0, "{}: no memory of its own", ty.name());
        } else {
            let (got, notes) = packed(&path, &packed_path(&path));
            assert!(notes.len() == 1 && notes[0].contains("floats") && !packed_path(&path).exists(), "{notes:?}");
            assert_eq!(got, plain(&path), "{}", ty.name());
        }
    }
}

#[test]
fn another_model_is_never_used() {
    let (_dir, path) = model(GgmlType::Q4_0);
    remade(&path, "not there yet");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let set = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    // The same sizes, even at the same time.
    gguf_model::tiny_model(&path, GgmlType::Q4_0, 4);
    set(time);
    remade(&path, "of another model");
    // Another type.
    gguf_model::tiny_model(&path, GgmlType::Q8_0, 4);
    remade(&path, "of another model");
    // A few bits, at a place that is in no sample.
    let mut bytes = fs::read(&path).unwrap();
    let tensor = Gguf::open(&path).unwrap().tensor("blk.1.ffn_up.weight").unwrap().clone();
    bytes[tensor.start + tensor.len / 4] ^= 1;
    fs::write(&path, &bytes).unwrap();
    set(time + Duration::from_secs(5));
    remade(&path, "the model has changed since");
    // The same bytes at another time: as a copy or an image has it.
    for other in [SystemTime::UNIX_EPOCH + Duration::from_secs(1), time + Duration::from_secs(9)] {
        set(other);
        assert_eq!(packed(&path, &packed_path(&path)), (plain(&path), vec![]));
    }
}

#[test]
fn a_damaged_file_is_made_anew() {
    let (_dir, path) = model(GgmlType::Q5_0);
    let at = packed_path(&path);
    remade(&path, "not there yet");
    let whole = fs::read(&at).unwrap();
    let text = whole.iter().position(|&b| b == 0).unwrap();
    for len in [0, 10, text / 2, text - 20, text + 5, whole.len() / 2, whole.len() - 1] {
        fs::write(&at, &whole[..len]).unwrap();
        remade(&path, "cut off");
    }
    fs::write(&at, [&whole[..], b"more"].concat()).unwrap();
    remade(&path, "cut off");
    let line = |name: &str| whole.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len();
    for (name, why) in [
        ("packed weights, versio", "another version"),
        ("\nlayout rows=", "another instruction set"),
        ("\nmodel bytes=", "of another model, or damaged"),
        ("\nmatrix blk.0.ffn_up.weight Q5_", "of another model, or damaged"),
        ("\nsamples ", "of another model, or damaged"),
        ("\nmodifie", "damaged"),
    ] {
        let mut bytes = whole.clone();
        bytes[line(name)] ^= 1;
        fs::write(&at, &bytes).unwrap();
        remade(&path, why);
    }
    // Panels are not read when a model is opened: what they do is wrong numbers, until `pack` compares them.
    let file = Gguf::open(&path).unwrap();
    let layout = Dots::under(Isa::detect()).layout();
    let make = || pack(&file, layout, &at, &mut |_, _| {}).unwrap().1;
    assert_eq!(make(), None);
    let mut bytes = whole.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 64;
    fs::write(&at, &bytes).unwrap();
    assert_eq!(packed(&path, &at).1, Vec::<String>::new());
    assert_eq!(make().as_deref(), Some("it is damaged"));
    assert_eq!((packed(&path, &at), make()), ((plain(&path), vec![]), None));
}

#[test]
fn another_instruction_sets_file_is_made_anew() {
    let (_dir, path) = model(GgmlType::Q6_K);
    let own = Dots::under(Isa::detect()).layout();
    for (name, layout) in Layout::NAMED {
        let why = pack(&Gguf::open(&path).unwrap(), layout, &packed_path(&path), &mut |_, _| {}).unwrap().1;
        if layout == own {
            assert_eq!(packed(&path, &packed_path(&path)), (plain(&path), vec![]), "{name}");
        } else {
            assert!(why.is_some(), "{name}");
            remade(&path, "another instruction set");
        }
    }
}

#[test]
fn what_cannot_be_written_is_done_without() {
    let (dir, path) = model(GgmlType::Q8_0);
    without(&path, &dir.path().join("no/such/folder"), "cannot create");
    without(&path, dir.path(), "cannot"); // a folder
    let notes = dir.path().join("notes.txt");
    fs::write(&notes, "do not lose this\n").unwrap();
    without(&path, &notes, "left as it is");
    without(&path, &path, "left as it is");
    assert_eq!(fs::read_to_string(&notes).unwrap(), "do not lose this\n");
    let error = pack(&Gguf::open(&path).unwrap(), Layout::NAMED[0].1, &notes, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("notes.txt: it holds something else"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_only_read_is_done_without() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = model(GgmlType::Q8_0);
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    // Root may write everywhere.
    if File::create(dir.path().join("probe")).is_err() {
        without(&path, &packed_path(&path), "cannot create");
    }
    mode(0o755);
}

#[test]
fn threads_and_processes_that_make_it_at_once_end_well() {
    let (_dir, path) = model(GgmlType::Q4_1);
    let want = plain(&path);
    std::thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|_| s.spawn(|| packed(&path, &packed_path(&path)).0)).collect();
        all.into_iter().for_each(|t| assert!(t.join().unwrap() == want));
    });
    assert_eq!(packed(&path, &packed_path(&path)), (want, vec![]));
    fs::remove_file(packed_path(&path)).unwrap();
    let run = || {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("tinyllm-run"));
        command.args(["generate", path.to_str().unwrap(), "-p", "Ax", "-n", "8", "--temp", "0", "--packed"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..3).map(|_| run()).collect();
    let texts: Vec<_> = children.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
    for out in &texts {
        assert!(out.status.success() && out.stdout == texts[0].stdout, "{}", String::from_utf8_lossy(&out.stderr));
    }
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing is left over: {left:?}");
}

#[test]
fn the_program_says_what_it_does() {
    let (dir, path) = model(GgmlType::Q8_0);
    let run = |args: &[&str]| {
        let out = Command::cargo_bin("tinyllm-run").unwrap().args(args).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let name = path.to_str().unwrap();
    let (code, out, _) = run(&["pack", name]);
    assert!(code == 0 && out.contains("m.gguf.packed: made") && out.contains("not there yet"), "{out}");
    assert!(run(&["pack", name]).1.contains("whole and up to date"));
    let greedy = |more: &[&str]| run(&[&["generate", name, "-p", "Ax: 4", "-n", "9", "--temp", "0"], more].concat());
    let (code, text, err) = greedy(&["--packed"]);
    assert!(code == 0 && !err.contains("packed"), "{err}");
    assert_eq!(text, greedy(&[]).1);
    let other = dir.path().join("other");
    let (_, same, err) = greedy(&[&format!("--packed={}", other.display())]);
    assert!(same == text && err.contains("other: made") && other.exists(), "{err}");
    let (code, _, err) = run(&["pack", name, "--for", "sse9"]);
    assert!(code == 2 && err.contains("neon"), "{err}");
    let (code, _, err) = run(&["pack", name, "--out", name]);
    assert!(code == 1 && err.contains("something else"), "{err}");
}
