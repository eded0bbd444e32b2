//! `export` with an eye on what the model does: importance of columns, and the smallest mix under a bound.

use crate::eval::check_tokenizer;
use crate::export::{config_of, export, told};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tinyllm::data::prepared::Prepared;
use tinyllm::data::{Codec, Split, Tokenizer, corpus};
use tinyllm::eval::auto::{self, Mix, Settings, Target};
use tinyllm::eval::calibration::{self, ENOUGH};
use tinyllm::eval::windows::{WINDOW, Windows};
use tinyllm::fsio::NewDir;
use tinyllm::gguf::Gguf;
use tinyllm::infer;
use tinyllm::model::io::imatrix;
use tinyllm::model::io::requantize::{self, Options};
use tinyllm::progress::Progress;
use tinyllm::quant::{FileType, Importance};
use tinyllm::train::checkpoint::Model;
use tinyllm::train::config::Task;

/// What is exported, and by what it is weighed and measured.
pub struct Calibration<'a> {
    pub run: &'a Path,
    pub model: &'a Model,
    pub imatrix: Option<&'a Path>,
    pub text: Option<&'a Path>,
    pub bound: f64,
}

/// What tells importance.
enum Weigher {
    /// A text that the model reads.
    Text(Windows),
    /// Somebody before.
    File(Importance),
}

/// Writes the files; the unquantized model that they are made from lies beside the first for as long.
pub fn write_calibrated(c: &Calibration<'_>, codec: Option<&Codec>, files: &[(Target, PathBuf)]) -> Result<()> {
    let Some((_, first)) = files.first() else { return Ok(()) };
    // What cannot be used is said before anything is computed.
    let weigher = c.imatrix.map(|path| c.weigher(path)).transpose()?;
    let measure = if files.iter().any(|f| f.0 == Target::Auto) { Some(c.measure()?) } else { None };

    let beside = NewDir::new(&first.with_extension("unquantized"))?;
    let whole = beside.dir().join("model-f32.gguf");
    export(c.model, codec, FileType::F32, &whole)?;
    let importance = match weigher {
        None => None,
        Some(Weigher::File(importance)) => Some(importance),
        Some(Weigher::Text(windows)) => Some(collect(&whole, &windows)?),
    };
    let file = Gguf::open(&whole)?;
    for (target, out) in files {
        let (ty, mix) = match target {
            Target::Type(ty) => (*ty, None),
            Target::Auto => {
                let windows = measure.as_ref().context("a text to measure on")?;
                let mix = find(&whole, windows, importance.as_ref(), c.bound)?;
                (mix.file_type(), Some(mix))
            }
        };
        let (formats, note) = (mix.as_ref().map(Mix::formats), mix.as_ref().map(Mix::note));
        let options = Options { importance: importance.as_ref(), allow_requantize: false, formats: formats.as_ref(), note };
        let mut progress = Progress::new("quantizing", "weights", c.model.config.parameters() as u64);
        requantize::quantize(&file, out, ty, &options, &mut |done, change| progress.set(done, change.map_or("", |c| c.name.as_str())))?;
        drop(progress);
        match &mix {
            Some(mix) => {
                println!("{mix}");
                told(c.model, &format!("auto (file type {})", ty.name()), out)?;
            }
            None => told(c.model, ty.name(), out)?,
        }
    }
    Ok(())
}

impl Calibration<'_> {
    fn weigher(&self, path: &Path) -> Result<Weigher> {
        if path.is_file() && imatrix::is_gguf(path)? {
            return Ok(Weigher::File(imatrix::read(path)?));
        }
        Ok(Weigher::Text(self.windows(path, Split::Train)?))
    }

    /// Windows of a text or of a split of prepared data.
    fn windows(&self, path: &Path, split: Split) -> Result<Windows> {
        let ctx = WINDOW.min(self.model.config.n_ctx);
        if path.is_dir() {
            let data = Prepared::open(path)?;
            check_tokenizer(self.model, &data.tokenizer, &data.path)?;
            let pretrained = config_of(self.run, &self.model.dir)?.is_some_and(|c| c.task == Task::Pretrain);
            return Ok(calibration::windows(&data, split, data.codec.is_some() && !pretrained, ctx, ENOUGH)?);
        }
        let tokens = Tokenizer::from_hf_dir(&self.model.dir)?.encode(&corpus::text(path)?);
        let windows = Windows::of_text(tokens, ctx).with_context(|| format!("{}: the text has no two tokens", path.display()))?;
        Ok(windows.thinned(ENOUGH))
    }

    /// What divergence is measured on.
    fn measure(&self) -> Result<Windows> {
        match self.text {
            Some(path) => self.windows(path, Split::Validation),
            None => {
                let data = config_of(self.run, &self.model.dir)?.map(|c| c.data);
                let data =
                    data.with_context(|| format!("{}: this is no run of ours, so that --type auto needs --text", self.run.display()))?;
                self.windows(&data, Split::Validation)
            }
        }
    }
}

fn collect(model: &Path, windows: &Windows) -> Result<Importance> {
    let model = infer::Model::open(model)?;
    let mut progress = Progress::new("importance", "tokens", windows.read() as u64);
    Ok(infer::importance(&model, windows.texts(), &mut |n| progress.set(n, ""))?)
}

fn find(model: &Path, windows: &Windows, importance: Option<&Importance>, bound: f64) -> Result<Mix> {
    let mut progress = Progress::new("searching", "tokens", 0);
    let settings = Settings { importance, text: windows, bound };
    Ok(auto::search(model, &settings, &mut |done, all, what| progress.of(done, all, what))?)
}
