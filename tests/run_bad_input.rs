//! Bad input of `tinyllm-run`: damaged and foreign models, readings that cannot be used, numbers out of range, output that has nowhere
//! to go. Each case ends in an error that names what and where, with the right exit code, and changes no file.

#[path = "common/gguf_model.rs"]
mod gguf_model;
#[path = "common/small_run.rs"]
mod small_run;
#[path = "common/table.rs"]
mod table;
#[path = "common/watch.rs"]
mod watch;

use small_run::{Place, RUN, said};
use std::fs;
use std::process::Stdio;
use table::Table;
use tinyllm::data::Codec;
use tinyllm::gguf::{Gguf, Value, Writer};
use tinyllm::model::Config;
use tinyllm::quant::GgmlType;

fn config() -> Config {
    Config { n_ctx: 160, ..gguf_model::tiny_config() }
}

/// A place with `model.gguf`, a classifier of type F16, and readings for it.
fn place() -> Place {
    let place = Place::new();
    classifier(&place, "model.gguf", &watch::codec());
    place.write("readings.csv", "ax,ay,label\n0,0.5,0\n0.1,0.5,0\n0.2,0.5,0\n-1,1,1\n0,,1\n9,-9,1\n");
    place
}

fn classifier(place: &Place, name: &str, codec: &Codec) {
    let more = [("tinyllm.codec", Value::String(codec.to_json())), ("tinyllm.labels", Value::strings(codec.labels.clone()))];
    gguf_model::tiny_model_with(&place.path(name), &config(), GgmlType::F16, 3, &more);
}

/// Every command that reads a model, with `bad.gguf` as the model; `info` is not among them.
const COMMANDS: [&[&str]; 5] = [
    &["generate", "bad.gguf", "-p", "Ax", "-n", "3"],
    &["logits", "bad.gguf", "-p", "Ax"],
    &["classify", "bad.gguf", "readings.csv"],
    &["classify", "bad.gguf", "--prompt", "Ax"],
    &["quantize", "bad.gguf", "out.gguf", "--type", "q8_0"],
];

/// A file that every command refuses with these words; `info` too, or it shows the file with them as the reason.
fn model_refused(table: &mut Table, place: &Place, what: &str, bytes: &[u8], words: &[&str]) {
    fs::write(place.path("bad.gguf"), bytes).unwrap();
    let words = [&["bad.gguf: "], words].concat();
    for args in COMMANDS {
        table.refused(place, &format!("{what}, {}", args[0]), RUN, args, 1, &words);
    }
    let out = place.command(RUN, &["info", "bad.gguf"]).output().unwrap();
    let shown = out.status.success() && said(&out).contains("cannot be run: ");
    table.judge(&format!("{what}, info"), &out, if shown { 0 } else { 1 }, &words);
}

/// Where the value of a metadata key lies.
fn value_of(all: &[u8], key: &str) -> usize {
    let named = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    all.windows(named.len()).position(|w| w == named).unwrap() + named.len() + 4
}

fn with(all: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = all.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

#[test]
fn models_cut_and_flipped() {
    let place = place();
    let mut table = Table::default();
    let all = fs::read(place.path("model.gguf")).unwrap();
    let cuts = (0..40).chain((1..40).map(|i| i * all.len() / 40)).chain([all.len() - 33]);
    for cut in cuts {
        fs::write(place.path("bad.gguf"), &all[..cut]).unwrap();
        table.refused(&place, &format!("info, cut at {cut}"), RUN, &["info", "bad.gguf"], 1, &["bad.gguf: byte "]);
    }
    for cut in [0, 3, 30, 3000, all.len() / 2, all.len() - 33] {
        model_refused(&mut table, &place, &format!("cut at {cut}"), &all[..cut], &["byte "]);
    }
    // A flipped bit is found, or changes what is said; it never ends in a panic.
    let (head, step) = (Gguf::from_bytes("m", &all).unwrap().tensors()[0].start, 97);
    for at in (0..head).step_by(step).chain((head..all.len()).step_by(all.len() / 40)) {
        fs::write(place.path("bad.gguf"), with(&all, at, &[all[at] ^ 1 << (at % 8)])).unwrap();
        for args in [COMMANDS[0], COMMANDS[2]] {
            let out = place.command(RUN, args).output().unwrap();
            let code = i32::from(!out.status.success());
            table.judge(&format!("{}, byte {at} flipped", args[0]), &out, code, if code == 1 { &["error: "] } else { &[] });
        }
    }
    model_refused(&mut table, &place, "a CSV for a model", &fs::read(place.path("readings.csv")).unwrap(), &["byte 0", "GGUF"]);
    table.done(250);
}

#[test]
fn models_that_are_no_whole_gpt2() {
    let place = place();
    let mut table = Table::default();
    let all = fs::read(place.path("model.gguf")).unwrap();
    let key = |key: &str, value: &[u8]| with(&all, value_of(&all, key), value);
    let number = |name: &str, n: u32| key(name, &n.to_le_bytes());
    let file = Gguf::from_bytes("m", &all).unwrap();
    // Of a description: a length and the name, how many dimensions and each, the type, the place of the data.
    let tensor = |name: &str, skip: usize, value: &[u8]| with(&all, file.tensor(name).unwrap().at + 8 + name.len() + 4 + skip, value);
    const UP: &str = "blk.1.ffn_up.weight";
    let nan = f32::NAN.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("another architecture", key("general.architecture", b"\x04\0\0\0\0\0\0\0bert"), &["byte ", "'bert'", "only gpt2"]),
        ("no architecture", with(&all, value_of(&all, "general.architecture") - 5, b"x"), &["no key 'general.architecture'"]),
        ("a block too few", number("gpt2.block_count", 1), &["byte ", "blk.1.", "block too many", "gpt2.block_count is 1"]),
        ("a block too many", number("gpt2.block_count", 3), &["byte ", "no tensor blk.2."]),
        ("no blocks", number("gpt2.block_count", 0), &["n_layer = 0"]),
        ("endless blocks", number("gpt2.block_count", u32::MAX), &["n_layer = 4294967295"]),
        ("blocks in f32", with(&all, value_of(&all, "gpt2.block_count") - 4, &[6]), &["byte ", "gpt2.block_count", "of type f32"]),
        ("no heads", number("gpt2.attention.head_count", 0), &["n_head = 0"]),
        ("heads that do not divide", number("gpt2.attention.head_count", 5), &["n_embd = 96", "n_head = 5"]),
        ("another width", number("gpt2.embedding_length", 48), &["byte ", "[96]", "[48]"]),
        ("another hidden width", number("gpt2.feed_forward_length", 96), &["byte ", "ffn_up", "[96, 160]", "[96, 96]"]),
        ("a longer context", number("gpt2.context_length", 161), &["byte ", "position_embd.weight", "[96, 160]", "[96, 161]"]),
        ("an endless context", number("gpt2.context_length", u32::MAX), &["n_ctx = 4294967295"]),
        ("a norm that divides by 0", key("gpt2.attention.layer_norm_epsilon", &[0; 4]), &["byte ", "epsilon of 0"]),
        ("an epsilon that is none", key("gpt2.attention.layer_norm_epsilon", &nan), &["byte ", "epsilon of NaN"]),
        ("another tokenizer", key("tokenizer.ggml.model", b"\x04\0\0\0\0\0\0\0bert"), &["byte ", "'bert'", "byte-level BPE"]),
        ("no tokens", with(&all, value_of(&all, "tokenizer.ggml.tokens") - 5, b"x"), &["no key 'tokenizer.ggml.tokens'"]),
        ("no merges", with(&all, value_of(&all, "tokenizer.ggml.merges") - 5, b"x"), &["no key 'tokenizer.ggml.merges'"]),
        ("tokens that are numbers", with(&all, value_of(&all, "tokenizer.ggml.tokens") - 4, &[4]), &["bad.gguf: "]),
        ("an end token beyond the others", number("tokenizer.ggml.eos_token_id", 261), &["end token 261", "261 tokens"]),
        ("a byte for an end token", number("tokenizer.ggml.eos_token_id", 3), &["end token 3"]),
        ("a tensor under another name", with(&all, file.tensor(UP).unwrap().at + 8 + 4, b"x"), &["no tensor blk.1.ffn_up.weight"]),
        ("a matrix on its side", tensor(UP, 0, &[160u64.to_le_bytes(), 96u64.to_le_bytes()].concat()), &["byte ", UP, "[160, 96]"]),
        ("a type nobody knows", tensor(UP, 16, &99u32.to_le_bytes()), &["byte ", UP, "tensor type 99"]),
        ("a type that is not run", tensor(UP, 16, &20u32.to_le_bytes()), &["byte ", UP, "IQ4_NL"]),
        ("a larger type", tensor(UP, 16, &0u32.to_le_bytes()), &["byte ", UP, "overlap"]),
        ("data in the data of others", tensor(UP, 20, &64u64.to_le_bytes()), &["byte ", UP, "overlap"]),
        ("unaligned data", tensor(UP, 20, &33u64.to_le_bytes()), &["byte ", UP, "multiple of the alignment 32"]),
        ("data beyond the end", tensor(UP, 20, &(1u64 << 40).to_le_bytes()), &["byte ", UP, "beyond the end"]),
        ("a bias that is no number", with(&all, file.tensor("blk.0.ffn_up.bias").unwrap().start + 8, &nan), &["blk.0.ffn_up.bias", "NaN"]),
    ];
    for (what, bytes, words) in cases {
        model_refused(&mut table, &place, what, &bytes, words);
    }
    // A weight of the head: what is said of its token is no number. Only rounding looks at all of them.
    let bytes = with(&all, file.tensor("token_embd.weight").unwrap().start, &half::f16::NAN.to_le_bytes());
    fs::write(place.path("bad.gguf"), bytes).unwrap();
    for args in &COMMANDS[..2] {
        table.refused(&place, args[0], RUN, args, 1, &["bad.gguf: ", "no number", "damaged"]);
    }
    table.refused(&place, "quantize", RUN, COMMANDS[4], 1, &["bad.gguf: ", "token_embd.weight", "row 0"]);
    table.done(180);
}

/// What a model tells of its sensor is checked as its weights are.
#[test]
fn codecs_and_labels() {
    let place = place();
    let mut table = Table::default();
    let mut refused = |what: &str, change: &dyn Fn(&mut Codec), words: &[&str]| {
        let mut codec = watch::codec();
        change(&mut codec);
        classifier(&place, "bad.gguf", &codec);
        table.refused(&place, what, RUN, COMMANDS[2], 1, words);
    };
    fn sampling(codec: &mut Codec) -> &mut tinyllm::data::sampling::Sampling {
        &mut codec.sensor.as_mut().unwrap().sampling
    }
    let bad = "bad.gguf: ";
    refused("an endless stride", &|c| sampling(c).stride = usize::MAX, &[bad, "codec", "every 18446744073709551615"]);
    refused("an endless window", &|c| sampling(c).window = usize::MAX, &[bad, "codec", "a window of"]);
    refused("no window", &|c| sampling(c).window = 0, &[bad, "codec", "a window of 0"]);
    refused("a rate of 0", &|c| sampling(c).rate_hz = Some(0.0), &[bad, "codec", "rates of"]);
    refused("an endless rate", &|c| sampling(c).target_hz = Some(1e18), &["resampling from 10 Hz", "correct rate_hz or target_hz"]);
    refused("no labels", &|c| c.labels.clear(), &[bad, "knows no labels"]);
    refused("a label twice", &|c| c.labels[1] = "still".into(), &["'still' is there twice"]);
    refused("an empty label", &|c| c.labels[1].clear(), &["'' is there twice or empty"]);
    refused("a channel without a column", &|c| _ = c.sensor.as_mut().unwrap().columns.channels.pop(), &[bad, "2 channels for 1 columns"]);
    refused("levels nobody has", &|c| c.sensor.as_mut().unwrap().levels = 1000, &[bad, "levels up to 1000"]);
    gguf_model::tiny_model_with(&place.path("bad.gguf"), &config(), GgmlType::F16, 3, &[("tinyllm.codec", "{\"version\":1".into())]);
    table.refused(&place, "half a codec", RUN, COMMANDS[2], 1, &[bad, "codec", "line 1 column"]);
    gguf_model::tiny_model(&place.path("bad.gguf"), GgmlType::F16, 3);
    table.refused(&place, "no classifier", RUN, COMMANDS[2], 1, &[bad, "knows no labels"]);
    table.done(12);
}

#[test]
fn readings_that_cannot_be_used() {
    let place = place();
    let mut table = Table::default();
    let rows = "ax,ay\n1,2\n1,2\n";
    let args = ["classify", "model.gguf", "x.csv"];
    for (what, bytes, words) in [
        ("an endless reading", format!("{rows}inf,2\n").into_bytes(), &["x.csv:4: ", "column 'ax'", "'inf' is no number"][..]),
        ("a reading too large", format!("{rows}1,1e39\n").into_bytes(), &["x.csv:4: ", "column 'ay'", "too large"]),
        ("text for a reading", format!("{rows}1,much\n").into_bytes(), &["x.csv:4: ", "'much' is no number"]),
        ("a cell too few", format!("{rows}1\n").into_bytes(), &["x.csv:4: ", "1 cells"]),
        ("too few rows", rows.into(), &["x.csv: ", "no recording is as long as a window", "2 rows"]),
        ("a header alone", b"ax,ay\n".into(), &["x.csv: ", "no row below the header"]),
        ("nothing", vec![], &["x.csv:1: ", "empty"]),
        ("no header", b"1,2\n1,2\n1,2\n".into(), &["x.csv:1: ", "no column 'ax'", "1, 2"]),
        ("semicolons", rows.replace(',', ";").into_bytes(), &["x.csv:1: ", "no column 'ax'"]),
        ("another encoding", rows.encode_utf16().flat_map(u16::to_le_bytes).collect(), &["x.csv:1: "]),
        ("bytes that are no text", [rows.as_bytes(), b"\xff,2\n"].concat(), &["x.csv:4: ", "UTF-8"]),
        ("a cut gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0xac], &["x.csv:1: ", "cut short"]),
    ] {
        fs::write(place.path("x.csv"), bytes).unwrap();
        table.refused(&place, what, RUN, &args, 1, words);
    }
    // Every reading missing is no error: the model reads ' ?' as it was taught to.
    place.write("x.csv", "ax,ay\nnan,NaN\n,?\nNA,null\n");
    let out = place.command(RUN, &args).output().unwrap();
    table.judge("all missing", &out, 0, &["x.csv:2", " %  "]);
    table.refused(&place, "no file", RUN, &["classify", "model.gguf", "no.csv"], 1, &["no.csv: cannot open"]);
    table.refused(&place, "a folder", RUN, &["classify", "model.gguf", "."], 1, &[".: "]);
    // A window that fits no context is named by its line.
    let mut codec = watch::codec();
    codec.sensor.as_mut().unwrap().sampling.window = 60;
    codec.sensor.as_mut().unwrap().sampling.stride = 60;
    classifier(&place, "long.gguf", &codec);
    place.write("x.csv", &format!("ax,ay\n{}", "1,2\n".repeat(60)));
    table.refused(
        &place,
        "too long a window",
        RUN,
        &["classify", "long.gguf", "x.csv"],
        1,
        &["x.csv:2", "context is full", "160 positions"],
    );
    // By a time column in the wrong unit, ten readings would become a million.
    let mut codec = watch::codec();
    let sensor = codec.sensor.as_mut().unwrap();
    (sensor.columns.time, sensor.sampling.rate_hz, sensor.sampling.target_hz) = (Some("t".into()), None, Some(10.0));
    classifier(&place, "timed.gguf", &codec);
    for (what, step) in [("milliseconds for seconds", 1e2), ("times too far apart", 1e308), ("times too close", 1e-320)] {
        place.write("x.csv", &format!("t,ax,ay\n{}", (0..2).map(|i| format!("{:e},1,2\n", step * f64::from(i))).collect::<String>()));
        table.refused(&place, what, RUN, &["classify", "timed.gguf", "x.csv"], 1, &["x.csv:2: ", "s apart", "time_unit"]);
    }
    table.done(18);
}

#[test]
fn arguments_out_of_range() {
    let place = place();
    let mut table = Table::default();
    let long = "x".repeat(161);
    for (args, code, words) in [
        (&["generate", "model.gguf", "-p", &long][..], 1, &["context is full", "161 more", "160 positions"][..]),
        (&["logits", "model.gguf", "-p", &long], 1, &["context is full", "160 positions"]),
        (&["classify", "model.gguf", "--prompt", &long], 1, &["the prompt", "context is full", "160 positions"]),
        (&["classify", "model.gguf", "--input", &long], 1, &["the prompt", "context is full"]),
        (&["logits", "model.gguf", "--tokens", "1,261"], 1, &["261 is no token", "vocabulary of 261"]),
        (&["logits", "model.gguf", "--tokens", "4294967296"], 2, &["--tokens", "4294967296"]),
        (&["logits", "model.gguf", "--tokens", ""], 2, &["--tokens"]),
        (&["generate", "model.gguf", "-n", "-1"], 2, &["-1"]),
        (&["generate", "model.gguf", "--temp", "nan"], 2, &["--temp", "from 0 up"]),
        (&["generate", "model.gguf", "--temp", "1e39"], 2, &["--temp"]),
        (&["generate", "model.gguf", "--top-p", "1.5"], 2, &["--top-p", "up to 1"]),
        (&["generate", "model.gguf", "--top-k", "1.5"], 2, &["--top-k"]),
        (&["generate", "model.gguf", "--repeat-penalty", "0"], 2, &["--repeat-penalty", "above 0"]),
        (&["generate", "model.gguf", "--cache", "q4"], 2, &["--cache", "q8"]),
        (&["classify", "model.gguf"], 2, &["READINGS.csv"]),
        (&["classify", "model.gguf", "readings.csv", "--prompt", "x"], 2, &["cannot be used with"]),
        (&["generate", "."], 1, &[".: ", "folder"]),
        (&["generate", "no.gguf"], 1, &["no.gguf: cannot open"]),
        (&["quantize", "model.gguf", "out.gguf"], 2, &["--type"]),
        (&["quantize", "model.gguf", "out.gguf", "--type", "q9"], 2, &["q4_k_m"]),
        (&["quantize", "model.gguf", "model.gguf", "--type", "q8_0"], 1, &["model.gguf: it exists already"]),
        (&["quantize", "model.gguf", "./model.gguf", "--type", "q8_0"], 1, &["model.gguf: it exists already"]),
        (&["quantize", "model.gguf", "/dev/full", "--type", "q8_0"], 1, &["/dev/full: it exists already"]),
        (&["quantize", "model.gguf", "no/such/out.gguf", "--type", "q8_0"], 1, &["no/such/", "cannot create"]),
        (&["quantize", "model.gguf", "out.gguf", "--type", "q8_0", "--imatrix", "no.gguf"], 1, &["no.gguf: cannot open"]),
    ] {
        table.refused(&place, &args.join(" "), RUN, args, code, words);
    }
    for args in [&COMMANDS[0][..2], &COMMANDS[1][..2], COMMANDS[2], COMMANDS[4]] {
        let mut args: Vec<&str> = args.iter().map(|&a| if a == "bad.gguf" { "model.gguf" } else { a }).collect();
        for threads in ["0", "-1", "two", "99999"] {
            args.extend(["-t", threads]);
            table.refused(&place, &args.join(" "), RUN, &args, 2, &[threads]);
            args.truncate(args.len() - 2);
        }
    }
    let out = place.command(RUN, &["generate", "model.gguf"]).env("TINYLLM_ISA", "mmx").output().unwrap();
    table.judge("TINYLLM_ISA=mmx", &out, 1, &["TINYLLM_ISA=mmx", "plain"]);
    table.done(40);
}

/// A full disk under standard output, and under the file that is written.
#[test]
fn nowhere_to_write() {
    let place = place();
    let mut table = Table::default();
    for args in [
        &["info", "model.gguf"][..],
        &["info", "model.gguf", "--json"],
        &["generate", "model.gguf", "-n", "3"],
        &["logits", "model.gguf"],
        &["logits", "model.gguf", "--json"],
        &["classify", "model.gguf", "readings.csv"],
        &["classify", "model.gguf", "readings.csv", "--json"],
        &["quantize", "model.gguf", "out.gguf", "--type", "q8_0"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = place.command(RUN, args).stdout(Stdio::from(full)).output().unwrap();
        table.judge(&format!("{} > /dev/full", args.join(" ")), &out, 1, &["No space left"]);
    }
    fs::remove_file(place.path("out.gguf")).unwrap();
    // No file may grow beyond 50 kB, and the model takes more.
    let script = format!("trap '' XFSZ; ulimit -f 100; exec '{RUN}' quantize model.gguf out.gguf --type q8_0");
    table.refused(&place, "no room for a model", "sh", &["-c", &script], 1, &["out.gguf: cannot write", "make room there"]);
    table.done(9);
}

/// A file of importance that is damaged.
#[test]
fn importance_that_is_none() {
    let place = place();
    let mut table = Table::default();
    let mut refused = |what: &str, name: &str, sums: &[f32], counts: &[f32], words: &[&str]| {
        let mut w = Writer::new();
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let (sum_bytes, count_bytes) = (bytes(sums), bytes(counts));
        w.meta("general.type", "imatrix");
        w.tensor(&format!("{name}.in_sum2"), 0, &[sums.len() as u64, 1], Box::new(move |out| out.write_all(&sum_bytes)));
        if !counts.is_empty() {
            w.tensor(&format!("{name}.counts"), 0, &[counts.len() as u64, 1], Box::new(move |out| out.write_all(&count_bytes)));
        }
        w.write(&place.path("i.gguf")).unwrap();
        let args = ["quantize", "model.gguf", "out.gguf", "--type", "q8_0", "--imatrix", "i.gguf"];
        table.refused(&place, what, RUN, &args, 1, words);
    };
    let name = "blk.0.ffn_up.weight";
    refused("a number that is none", name, &[f32::NAN; 96], &[1.0], &["i.gguf: byte ", "holds NaN"]);
    refused("a negative one", name, &[-1.0; 96], &[1.0], &["i.gguf: byte ", "holds -1"]);
    refused("no counts", name, &[1.0; 96], &[], &["i.gguf: byte ", "counts is not in the file"]);
    refused("two counts", name, &[1.0; 96], &[1.0, 2.0], &["i.gguf: byte ", "2 counts"]);
    refused("another width", name, &[1.0; 64], &[1.0], &["model.gguf: byte ", "rows of 96", "64", "another model's"]);
    refused("another model", "blk.9.x.weight", &[1.0; 96], &[1.0], &["none of the model's tensors", "blk.9.x.weight"]);
    table.done(6);
}
