//! The codec of a watch with two channels, for models that classify.

use tinyllm::data::Codec;
use tinyllm::data::codec::SensorCodec;
use tinyllm::data::readings::{Columns, TimeUnit};
use tinyllm::data::sampling::Sampling;
use tinyllm::data::scale::{Channel, Scale};

/// Windows of three rows of `ax` and `ay`; the column `label` says 0 or 1.
pub fn codec() -> Codec {
    let channel = |name: &str| Channel {
        name: name.into(),
        sensor: "accelerometer".into(),
        unit: "g".into(),
        scale: Scale::Range { lo: -1.0, hi: 1.0 },
        log: false,
        mirrored: false,
    };
    let sensor = SensorCodec {
        name: "watch".into(),
        columns: Columns {
            channels: vec!["ax".into(), "ay".into()],
            label: Some("label".into()),
            subject: None,
            series: None,
            time: None,
            time_unit: TimeUnit::S,
        },
        label_names: [("0".to_owned(), "still".to_owned()), ("1".to_owned(), "walk".to_owned())].into(),
        sampling: Sampling { rate_hz: Some(10.0), target_hz: None, window: 3, stride: 3, label_share: 1.0 },
        channels: vec![channel("Ax"), channel("Ay")],
        levels: 100,
    };
    Codec::new("Which?".into(), vec!["still".into(), "walk".into(), "walk up".into()], Some(sensor))
}
