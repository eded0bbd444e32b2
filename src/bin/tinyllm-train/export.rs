//! `export`: a model file for a board.

use crate::calibrate::{Calibration, write_calibrated};
use crate::eval::check_tokenizer;
use crate::ranges;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use tinyllm::data::Codec;
use tinyllm::data::Tokenizer;
use tinyllm::data::prepared::Prepared;
use tinyllm::eval::auto::{BOUND, Target};
use tinyllm::model::io::gguf::{self, Card};
use tinyllm::quant::FileType;
use tinyllm::train::checkpoint::{self, Model};
use tinyllm::train::config::{RunConfig, Task};

/// Writes a model as GGUF, with its tokenizer, codec and labels: all that `tinyllm-run` needs.
///
/// With --imatrix the columns of each matrix are weighed by how large their inputs are, which makes small types better. The type auto
/// is the smallest mix of formats whose answers stay within --max-kl of the unquantized model's on --text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tinyllm-train export runs/task --type q8_0 --out model.gguf
  tinyllm-train export runs/task --type f16,q8_0,q4_k_m --out models    a folder, a file a type
  tinyllm-train export runs/task --type q4_k_m --imatrix data --out model.gguf    weighed by the training data
  tinyllm-train export runs/task --type auto --imatrix data --out model.gguf      measured on the validation data")]
pub struct Args {
    /// A run's folder (its best checkpoint is used) or a checkpoint in it.
    run: PathBuf,
    /// How matrices are stored; several, comma-separated, make a folder. f32, f16, bf16, q8_0, q6_k, q5_1, q5_k_m, q5_k_s,
    /// q5_0, q4_1, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m, q3_k_s, q2_k, auto; q4_k is q4_k_m.
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', default_value = "q8_0")]
    types: Vec<Target>,
    /// The file, or with several types the folder.
    #[arg(long)]
    out: PathBuf,
    /// The prepared data whose codec and labels go into the file; found through the run's config.toml where it is not given.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How much each column matters: a folder of prepared data (its training split is taken), a text (also .gz), or a file of
    /// `tinyllm-run imatrix` or llama-imatrix (in GGUF form).
    #[arg(long, value_name = "DATA")]
    imatrix: Option<PathBuf>,
    /// For auto, what to measure on: a folder of prepared data (its validation split), or a text; the run's own data where it is not given.
    #[arg(long, value_name = "DATA")]
    text: Option<PathBuf>,
    /// For auto, the most mean divergence from the unquantized model, in nats a token.
    #[arg(long, value_name = "NATS", default_value_t = BOUND)]
    max_kl: f64,
}

impl Args {
    pub fn run(self) -> Result<()> {
        ranges::positive("--max-kl", self.max_kl)?;
        let auto = self.types.contains(&Target::Auto);
        ranges::ensure(auto || self.text.is_none(), || "--text is what --type auto measures on; without it nothing is".into())?;
        let model = checkpoint::load_model(&self.run)?;
        let data = match &self.data {
            Some(data) => Some(Prepared::open(data)?),
            None => data_of(&self.run, &model.dir)?,
        };
        if let Some(data) = &data {
            check_tokenizer(&model, &data.tokenizer, &data.path)?;
        }
        let codec = data.as_ref().and_then(|d| d.codec.as_ref());
        if codec.is_none() {
            eprintln!(
                "{}: no codec goes into the file, so `tinyllm-run classify` will not know how to read sensors; give --data if there is one",
                self.run.display()
            );
        }
        let named = |ty: &Target| match ty {
            Target::Type(ty) => format!("model-{}.gguf", ty.name().to_lowercase()),
            Target::Auto => "model-auto.gguf".into(),
        };
        let files: Vec<(Target, PathBuf)> = match self.types[..] {
            [ty] => vec![(ty, self.out)],
            _ => {
                ensure!(!self.out.is_file(), "{}: it is a file, and several types need a folder", self.out.display());
                self.types.iter().map(|ty| (*ty, self.out.join(named(ty)))).collect()
            }
        };
        if let Some((_, there)) = files.iter().find(|(_, file)| file.exists()) {
            anyhow::bail!("{}: it exists already; remove it, or give another --out", there.display());
        }
        for folder in files.iter().filter_map(|(_, file)| file.parent()) {
            std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create the folder", folder.display()))?;
        }
        if self.imatrix.is_some() || auto {
            let calibration = Calibration {
                run: &self.run,
                model: &model,
                imatrix: self.imatrix.as_deref(),
                text: self.text.as_deref(),
                bound: self.max_kl,
            };
            return write_calibrated(&calibration, codec, &files);
        }
        for (ty, file) in files {
            if let Target::Type(ty) = ty {
                export(&model, codec, ty, &file)?;
                told(&model, ty.name(), &file)?;
            }
        }
        Ok(())
    }
}

/// The data that the checkpoint's run was fine-tuned on, if it is a run of ours that was. A model that was only
/// pre-trained answers nothing yet, and gets no labels.
fn data_of(run: &Path, checkpoint: &Path) -> Result<Option<Prepared>> {
    let Some(config) = config_of(run, checkpoint)?.filter(|c| c.task == Task::Finetune) else { return Ok(None) };
    let found = Prepared::open(&config.data)
        .with_context(|| format!("{}: the run's data is needed for the codec; give --data if it was moved", config.data.display()))?;
    Ok(Some(found))
}

/// The settings of the checkpoint's run, if it is a run of ours.
pub fn config_of(run: &Path, checkpoint: &Path) -> Result<Option<RunConfig>> {
    let dirs = [run, checkpoint.parent().unwrap_or(run)];
    dirs.into_iter().find(|dir| dir.join("config.toml").is_file()).map(|dir| Ok(RunConfig::read(dir)?)).transpose()
}

/// Writes one file.
pub fn export(model: &Model, codec: Option<&Codec>, ty: FileType, out: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_hf_dir(&model.dir)?;
    let mut texts = Vec::new();
    if let Some(codec) = codec {
        texts.push(("tinyllm.codec".into(), codec.to_json()));
        texts.push(("tinyllm.template".into(), codec.template.prompt.clone()));
    }
    let card = Card {
        name: format!("TinyLLM {:.1}M", model.config.parameters() as f64 / 1e6),
        tokens: tokenizer.gguf_tokens(),
        merges: tokenizer.gguf_merges(),
        end_token: tokenizer.end_token(),
        texts,
        labels: codec.map_or_else(Vec::new, |c| c.labels.clone()),
    };
    Ok(gguf::write(out, &model.config, &model.weights, &card, ty)?)
}

/// Says what a file is.
pub fn told(model: &Model, ty: &str, out: &Path) -> Result<()> {
    let bytes = std::fs::metadata(out).with_context(|| out.display().to_string())?.len();
    eprintln!("{}: {ty} of {}, {:.2} MB", out.display(), model.dir.display(), bytes as f64 / 1e6);
    Ok(())
}
