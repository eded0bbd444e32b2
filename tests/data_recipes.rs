//! What a wrong recipe or a wrong file is answered with: the place and the way out, and no folder left behind.

use std::fs;
use std::path::{Path, PathBuf};
use tinyllm::data::{Example, Prepared, Split, prepare};

/// A folder with a recipe and its files.
struct Kitchen(tempfile::TempDir);

/// Two channels of 40 rows a recording, four recordings of two classes by two people.
fn readings() -> String {
    let mut csv = String::from("series,who,what,x,y\n");
    for series in 0..12 {
        for row in 0..40 {
            let wave = (f64::from(row) * 0.3 * f64::from(1 + series % 2) + f64::from(series)).sin();
            let noise = f64::from((row * 7919 + series * 104_729) % 1000) / 1000.0;
            csv += &format!(
                "{series},p{},{},{:.3},{:.3}\n",
                series / 4,
                ["slow", "fast"][series as usize % 2],
                wave + 0.1 * noise,
                10.0 * noise
            );
        }
    }
    csv
}

const RECIPE: &str = r#"
instruction = "Which is it: {labels}?"
context = 128
[readings]
files = ["a.csv"]
label = "what"
subject = "who"
series = "series"
rate_hz = 10.0
window = 10
[[readings.sensor]]
name = "accelerometer"
channels = ["x", "y"]
unit = "g"
[split]
by = "subject"
train = ["p0"]
validation = ["p1"]
test = ["p2"]
"#;

impl Kitchen {
    fn new(recipe: &str, csv: &str) -> Self {
        let kitchen = Self(tempfile::tempdir().unwrap());
        kitchen.put("a.csv", csv);
        kitchen.put("recipe.toml", recipe);
        kitchen
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn cook(&self) -> Result<Prepared, String> {
        prepare(&self.0.path().join("recipe.toml"), &self.out()).map_err(|e| e.to_string())?;
        Prepared::open(&self.out()).map_err(|e| e.to_string())
    }

    /// Prepared data, and what must live as long.
    fn served(recipe: &str, csv: &str) -> (Self, Prepared) {
        let kitchen = Self::new(recipe, csv);
        let data = kitchen.cook().unwrap_or_else(|e| panic!("{e}\n{recipe}"));
        (kitchen, data)
    }

    /// The error, after which nothing new may be there.
    fn error(&self) -> String {
        let before = fs::read_dir(self.0.path()).unwrap().count();
        let error = self.cook().err().expect("an error");
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), before, "{error}");
        error
    }
}

#[test]
fn the_plain_recipe_works() {
    let (_kitchen, data) = Kitchen::served(RECIPE, &readings());
    let train = data.examples(Split::Train).unwrap();
    assert_eq!(train.len(), 16);
    assert_eq!(train[0].instruction, "Which is it: fast or slow?");
    assert_eq!(data.tokenizer.n_vocab(), 50_257);
    assert!(data.train_shards().err().unwrap().to_string().contains("add [pretrain]"));
}

/// (what is replaced, by what, words of the error)
type Case = (&'static str, &'static str, &'static [&'static str]);

#[test]
fn faults_in_the_recipe_are_named() {
    let cases: &[Case] = &[
        ("label = \"what\"", "lable = \"what\"", &["recipe.toml", "line 6", "unknown field `lable`", "`label`"]),
        ("window = 10", "", &["readings.window is missing", "window_s"]),
        ("window = 10", "window = 0", &["window = 0", "at least 1"]),
        ("window = 10", "window = 10\nwindow_s = 1.0", &["take one of them"]),
        ("rate_hz = 10.0", "", &["rate_hz is missing"]),
        ("rate_hz = 10.0", "rate_hz = -1.0", &["positive"]),
        ("window = 10", "window = 10\nlevels = 500", &["levels = 500", "361"]),
        ("label = \"what\"", "", &["readings.label is missing"]),
        ("unit = \"g\"", "scale = [2, 1]", &["accelerometer", "no range"]),
        ("unit = \"g\"", "scale = \"best\"", &["robust", "window", "line"]),
        ("unit = \"g\"", "names = [\"X\"]", &["2 channels and 1 names"]),
        ("channels = [\"x\", \"y\"]", "channels = [\"x\", \"z\"]", &["a.csv:1", "no column 'z'", "series, who, what, x, y"]),
        ("[\"a.csv\"]", "[\"b.csv\"]", &["b.csv", "relative to the recipe"]),
        ("test = [\"p2\"]", "test = [\"p9\"]", &["'p9'", "p0, p1, p2"]),
        ("test = [\"p2\"]", "test = []", &["'p2' is in no list", "exclude"]),
        ("test = [\"p2\"]", "test = [\"p0\"]", &["'p0' is listed twice"]),
        ("test = [\"p2\"]", "", &["all of train, validation and test"]),
        ("[split]", "[readings.labels]\nslow = \"slow\"\n[split]", &["a.csv:42", "label 'fast'", "ignore"]),
        ("[split]", "[readings.labels]\nslow = \"s\"\nfast = \"f\"\nnone = \"n\"\n[split]", &["no row is labelled 'none'"]),
        ("window = 10", "window = 41", &["41 readings (4.1 s at 10 Hz)", "longer than any recording", "40 rows (4 s)"]),
        ("context = 128", "context = 48", &["positions and context = 48", "window", "instruction", "raise context"]),
        ("context = 128", "vocabulary.trimmed = 300", &["vocabulary.trimmed = 300", "need 3"]),
        ("context = 128", "vocabulary = \"gpt3\"", &["gpt3"]),
        ("[split]", "[augment]\nscale = -1.0\n[split]", &["augment.scale = -1"]),
        ("[split]", "[augment]\nmirror = 0.5\n[split]", &["augment.mirror", "mirrored = [...]"]),
        ("[split]", "[pretrain]\ntokens = 100\n[split]", &["no source"]),
        ("[split]", "[pretrain]\ntokens = 100\n[[pretrain.text]]\nfiles = [\"a.csv\"]\nweight = 0\n[split]", &["weight", "positive"]),
        (
            "[split]",
            "[pretrain]\ntokens = 100\n[[pretrain.text]]\nfiles = [\"a.csv\"]\nweight = 1\n[split]",
            &["single document", "separator"],
        ),
        (
            "[split]",
            "[pretrain]\ntokens = 100\n[[pretrain.sensor]]\nweight = 1\n[pretrain.sensor.readings]\nfiles = [\"./a.csv\"]\nwindow = 10\nrate_hz = \
             10\n[[pretrain.sensor.readings.sensor]]\nname = \"a\"\nchannels = [\"x\"]\n[split]",
            &["a.csv whole", "test subjects would be learned"],
        ),
        (
            "by = \"subject\"\ntrain = [\"p0\"]\nvalidation = [\"p1\"]\ntest = [\"p2\"]",
            "by = \"time\"\nfractions = [0.5, 0.2, 0.2]",
            &["sum to 1"],
        ),
    ];
    for (from, to, words) in cases {
        assert!(RECIPE.contains(from), "{from}");
        let error = Kitchen::new(&RECIPE.replacen(from, to, 1), &readings()).error();
        for word in *words {
            assert!(error.contains(word), "{to}: '{word}' is not in: {error}");
        }
    }
}

#[test]
fn faults_in_the_readings_are_named() {
    let good = readings();
    let line = |n: usize, with: &str| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[n - 1] = with;
        lines.join("\n")
    };
    let cases: &[(String, &[&str])] = &[
        (line(7, "0,p0,slow,1.0"), &["a.csv:7", "4 cells", "5"]),
        (line(9, "0,p0,slow,1.0,high"), &["a.csv:9", "column 'y'", "'high' is no number", "leave the cell empty"]),
        ("series,who,what,x,y\n".into(), &["a.csv", "no row"]),
        (String::new(), &["a.csv:1", "empty"]),
        (good.replace("p0,fast", "p0,slow"), &["class 'fast' has no training example"]),
        (good.replace("p2,", "p1,"), &["subject 'p2', whom the data do not hold"]),
    ];
    for (csv, words) in cases {
        let error = Kitchen::new(RECIPE, csv).error();
        for word in *words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
    }
}

#[test]
fn a_cut_or_missing_file_of_prepared_data_is_named() {
    let kitchen = Kitchen::new(RECIPE, &readings());
    kitchen.cook().unwrap();
    let open = || Prepared::open(&kitchen.out()).err().unwrap().to_string();
    let path = kitchen.out().join("finetune/train.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..100]).unwrap();
    assert!(open().contains("train.jsonl: the manifest promises"), "{}", open());
    fs::remove_file(&path).unwrap();
    assert!(open().contains("is not there"));
    fs::write(kitchen.out().join("manifest.json"), "{").unwrap();
    assert!(open().contains("manifest.json:1"));
}

#[test]
fn duplicates_across_splits_are_dropped_and_counted() {
    // Person 2 moves exactly as person 0 did in the first recording.
    let mut csv = readings();
    let copied: String =
        readings().lines().filter(|l| l.starts_with("0,p0")).map(|l| format!("{}\n", l.replacen("0,p0", "99,p2", 1))).collect();
    csv += &copied;
    let (_kitchen, data) = Kitchen::served(RECIPE, &csv);
    let facts = data.manifest.task.as_ref().unwrap();
    assert_eq!(facts.dropped_duplicates, 4);
    assert_eq!((data.examples(Split::Train).unwrap().len(), data.examples(Split::Test).unwrap().len()), (12, 20));
}

#[test]
fn every_way_to_split_runs_and_runs_the_same_in_classify() {
    // Eight rows of a recording of 40 are a fifth of it.
    let recipe = RECIPE.replace("window = 10", "window = 6");
    let shares = "[0.6, 0.2, 0.2]";
    let list = "by = \"subject\"\ntrain = [\"p0\"]\nvalidation = [\"p1\"]\ntest = [\"p2\"]";
    for (by, extra) in
        [("subject", ""), ("series", ""), ("time", ""), ("random", ""), ("random", "resample_hz = 7.0\n"), ("time", "stride = 3\n")]
    {
        let recipe = recipe
            .replace(list, &format!("by = \"{by}\"\nfractions = {shares}"))
            .replace("[[readings.sensor]]", &format!("{extra}[[readings.sensor]]"));
        let (_kitchen, data) = Kitchen::served(&recipe, &readings());
        same_in_classify(&data);
    }
}

fn same_in_classify(data: &Prepared) {
    let tested = data.examples(Split::Test).unwrap();
    let run = data.task_codec().unwrap().windows(&data.test_readings().unwrap()).unwrap();
    let key = |e: &Example| (e.input.clone(), e.output.clone(), e.subject.clone());
    assert_eq!(run.iter().map(key).collect::<Vec<_>>(), tested.iter().map(key).collect::<Vec<_>>());
}

#[test]
fn times_and_gaps_and_missing_readings() {
    let mut csv = String::from("t,what,x\n");
    let mut t = 0.0;
    for row in 0..600 {
        t += if row % 200 == 0 { 5000.0 } else { 20.0 + f64::from(row % 3) - 1.0 };
        let x = if row % 50 == 7 { String::new() } else { format!("{:.2}", (f64::from(row) * 0.05).sin() + f64::from(row)) };
        csv += &format!("{t},{},{x}\n", if row / 40 % 2 == 0 { "up" } else { "down" });
    }
    let recipe = "context = 200\n[readings]\nfiles = [\"a.csv\"]\nlabel = \"what\"\ntime = \"t\"\ntime_unit = \"ms\"\nresample_hz = 25.0\nwindow_s = 0.4\nlabel_share = 0.6\n\
                  [[readings.sensor]]\nname = \"lift\"\nchannels = [\"x\"]\nscale = \"window\"\n[split]\nby = \"time\"\nfractions = [0.6, 0.2, 0.2]\n";
    let kitchen = Kitchen::new(recipe, &csv);
    let data = kitchen.cook().unwrap();
    assert!(data.examples(Split::Train).unwrap().len() > 10);
    same_in_classify(&data);
}

#[test]
fn rows_of_their_own_and_ready_examples() {
    let mut csv = String::from("what,x,y\n");
    (0..200).for_each(|i| csv += &format!("{},{},{}\n", ["a", "b"][i % 2], i * 37 % 101, i));
    let recipe = "context = 64\n[readings]\nfiles = [\"a.csv\"]\nlabel = \"what\"\nwindow = 1\n[[readings.sensor]]\nname = \"box\"\nchannels = [\"x\", \"y\"]\napart = true\n\
                  [split]\nby = \"random\"\nfractions = [0.6, 0.2, 0.2]\n";
    let (_kitchen, data) = Kitchen::served(recipe, &csv);
    assert_eq!(data.manifest.task.as_ref().unwrap().splits.iter().map(|s| s.examples).sum::<usize>(), 200);
    same_in_classify(&data);

    let kitchen = Kitchen::new("instruction = \"Which?\"\n[examples]\nfiles = [\"e.jsonl\", \"e.json\", \"e.csv\"]\n", "");
    let objects: Vec<String> = (0..20).map(|i| format!("{{\"input\":\"{i}\",\"output\":\"{}\"}}", ["even", "odd"][i % 2])).collect();
    kitchen.put("e.jsonl", &objects[..10].join("\n"));
    kitchen.put("e.json", &format!("[{}]", objects[10..].join(",")));
    kitchen.put("e.csv", "input,output\n\"20,\n20\",even\n21,odd\n");
    let data = kitchen.cook().unwrap();
    assert_eq!(data.labels(), ["even", "odd"]);
    let all: Vec<Example> = Split::ALL.iter().flat_map(|s| data.examples(*s).unwrap()).collect();
    assert_eq!(all.len(), 22);
    assert!(all.iter().any(|e| e.input == "20,\n20" && e.at == "e.csv:2"));
    // A file of the same columns is classified as it stands.
    let run = data.task_codec().unwrap().windows(&kitchen.0.path().join("e.csv")).unwrap();
    assert_eq!((run.len(), run[1].input.as_str(), run[1].output.as_str(), run[1].instruction.as_str()), (2, "21", "odd", "Which?"));

    for (name, text, words) in [
        ("e.jsonl", "{\"input\":\"1\"}", "e.jsonl:1: there is no 'output'"),
        ("e.jsonl", "{\"input\":\"1\",\"output\":\"odd\"}\n{", "e.jsonl:2: no JSON"),
        ("e.csv", "input,output\n1,\n", "e.csv:2: the output is empty"),
        ("e.csv", "in,output\n1,odd\n", "no column 'input'"),
        ("recipe.toml", "[examples]\nfiles = [\"e.csv\"]\n", "there is no instruction"),
        (
            "recipe.toml",
            "instruction = \"?\"\n[examples]\nfiles = [\"e.csv\"]\nlabels = [\"even\"]\n",
            "the answer 'odd' is none of the labels",
        ),
        ("recipe.toml", "instruction = \"?\"\n[examples]\ntrain = [\"e.csv\"]\n", "needs all of train, validation and test"),
    ] {
        let again = Kitchen::new("instruction = \"Which?\"\n[examples]\nfiles = [\"e.jsonl\", \"e.json\", \"e.csv\"]\n", "");
        for file in ["e.jsonl", "e.json", "e.csv"] {
            again.put(file, &fs::read_to_string(kitchen.0.path().join(file)).unwrap());
        }
        again.put(name, text);
        let error = again.error();
        assert!(error.contains(words), "'{words}' is not in: {error}");
    }
}

/// The paper's own files, where they are at hand.
#[test]
fn the_papers_files() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let shared = if shared.is_dir() { shared } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data") };
    if !shared.join("gesture/train.csv").is_file() {
        eprintln!("skipped: ../shared/data is not here");
        return;
    }
    let shared = shared.canonicalize().unwrap();
    for (name, instruction, counts, labels) in [
        ("gesture", "", [408, 93, 129], vec!["Double", "Hold", "Tap"]),
        ("localisation", "instruction = \"Where is the robot?\"\n", [245, 35, 70], vec!["Charging Station", "Entrance", "Server Rack"]),
    ] {
        let dir = shared.join(name);
        let list = |s: &str| format!("{s} = [\"{}\"]\n", dir.join(format!("{s}.csv")).display());
        let recipe = format!("{instruction}[examples]\n{}{}{}", list("train"), list("validation"), list("test"));
        let (_kitchen, data) = Kitchen::served(&recipe, "");
        let facts = data.manifest.task.as_ref().unwrap();
        println!("{}", data.manifest);
        assert_eq!(data.labels(), labels);
        assert_eq!(facts.splits.iter().map(|s| s.examples).sum::<usize>() + facts.dropped_duplicates, counts.iter().sum::<usize>());
        assert_eq!(facts.splits[2].examples, counts[2]);
    }
    let weather = format!(
        "context = 256\n[readings]\nname = \"Weather\"\nfiles = [\"{}\"]\nlabel = \"origin\"\nseries = \"origin\"\ntime = \"time_hour\"\ntime_unit = \"iso\"\nresample_hz = \
         0.0002777777777777778\nwindow = 24\n[[readings.sensor]]\nname = \"thermometer\"\nchannels = [\"temp\", \"dewp\"]\nunit = \"F\"\n[[readings.sensor]]\nname = \"barometer\"\n\
         channels = [\"pressure\"]\nunit = \"hPa\"\n[split]\nby = \"time\"\nfractions = [0.7, 0.1, 0.2]\n[pretrain]\ntokens = 100000\n[[pretrain.sensor]]\nweight = 1\n",
        shared.join("nyc_weather.csv").display()
    );
    let (_kitchen, data) = Kitchen::served(&weather, "");
    println!("{}", data.manifest);
    same_in_classify(&data);
    assert!(data.manifest.task.as_ref().unwrap().splits[2].per_label.iter().all(|&n| n > 60));
}
