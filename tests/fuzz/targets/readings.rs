//! A codec's JSON and a CSV file of readings, as they meet in `tinyllm-run classify`: any bytes.
//!
//! The input is the JSON, a zero byte, and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use tinyllm::data::Codec;
use tinyllm::data::codec::SensorCodec;
use tinyllm::data::readings::{Columns, TimeUnit};
use tinyllm::data::sampling::Sampling;
use tinyllm::data::scale::{Channel, Scale};
use tinyllm_fuzz::counting_alloc::count;
use tinyllm_fuzz::seeds;

fn codec(time: Option<TimeUnit>, sampling: Sampling, scale: Scale) -> String {
    let channel =
        |name: &str| Channel { name: name.into(), sensor: "s".into(), unit: "g".into(), scale, log: name == "Ay", mirrored: false };
    let columns = Columns {
        channels: vec!["ax".into(), "ay".into()],
        label: Some("l".into()),
        subject: Some("who".into()),
        series: None,
        time: time.map(|_| "t".into()),
        time_unit: time.unwrap_or_default(),
    };
    let label_names = [("0".to_owned(), "still".to_owned())].into();
    let channels = vec![channel("Ax"), channel("Ay")];
    let sensor = SensorCodec { name: "w".into(), columns, label_names, sampling, channels, levels: 100 };
    Codec::new("Which?".into(), vec!["still".into(), "walk".into()], Some(sensor)).to_json()
}

fuzz_target!(
    init: seeds(|| {
        let sampling = |rate: Option<f64>, target| Sampling { rate_hz: rate, target_hz: target, window: 3, stride: 2, label_share: 1.0 };
        let range = Scale::Range { lo: -1.0, hi: 1.0 };
        let plain = "ax,ay,l,who\n0,0.5,0,a\n0.1,,0,a\n0.2,?,1,a\n-1,1,1,b\n0,nan,1,b\n9,-9e3,1,a\n0,0,0,a\n";
        let timed = |unit: &dyn Fn(usize) -> String| {
            let rows: Vec<String> = (0..9).map(|i| format!("{},{},{}\n", unit(i), i, i * i)).collect();
            format!("t,ax,ay\n{}", rows.concat())
        };
        [
            (codec(None, sampling(Some(10.0), None), range), plain.to_owned()),
            (codec(None, sampling(Some(10.0), Some(4.0)), Scale::Window { group: 0 }), plain.to_owned()),
            (codec(Some(TimeUnit::Ms), sampling(None, Some(5.0)), range), timed(&|i| (100 * i).to_string())),
            (codec(Some(TimeUnit::Iso), sampling(None, Some(0.5)), range), timed(&|i| format!("2013-01-31T06:00:0{i}.5Z"))),
            (Codec::new("Which?".into(), vec![], None).to_json(), "input,instruction,output\n\"a\nb\",c,d\n".to_owned()),
        ]
        .map(|(codec, csv)| [codec.as_bytes(), b"\0", csv.as_bytes()].concat())
        .into()
    }),
    |input: &[u8]| {
        let mut parts = input.splitn(2, |&b| b == 0);
        let (json, csv) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().to_vec());
        let Ok(json) = std::str::from_utf8(json) else { return };
        let codec = match Codec::from_json(json) {
            Ok(codec) => codec,
            Err(error) => return assert!(error.to_string().contains("codec"), "{error}"),
        };
        assert_eq!(Codec::from_json(&codec.to_json()).ok().as_ref(), Some(&codec));
        let bytes = csv.len();
        let (windows, _, peak) = count(|| codec.windows_from(Path::new("r.csv"), Box::new(std::io::Cursor::new(csv))));
        // Windows overlap: a row may be in as many of them as there are rows.
        assert!(peak <= (1 << 22) + 1024 * (bytes + json.len()), "{peak} bytes for {bytes} of readings");
        match windows {
            Err(error) => assert!(error.to_string().contains("r.csv") || error.to_string().contains("recipe"), "{error}"),
            Ok(windows) => {
                for w in windows {
                    assert!(codec.template.prompt(&w.instruction, &w.input).len() >= w.input.len() || !codec.template.prompt.contains("{input}"));
                    assert!(w.output.is_empty() || codec.sensor.is_none() || codec.labels.contains(&w.output));
                }
            }
        }
    }
);
