//! `prepare`: readings and text become what a model learns from.

use anyhow::Result;
use std::path::PathBuf;
use tinyllm::data::prepare::prepare;

/// Turns readings and text into token shards, fine-tuning examples and a manifest, as a recipe says.
#[derive(clap::Args)]
#[command(after_help = "Example (the recipe of the quickstart, which is a good start for your own):
  tinyllm-train prepare scripts/quickstart/recipe.toml --out data")]
pub struct Args {
    /// The recipe, a TOML file; paths in it are relative to it.
    recipe: PathBuf,
    /// The folder to make; it must not be there yet.
    #[arg(long)]
    out: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        println!("{}", prepare(&self.recipe, &self.out)?);
        Ok(())
    }
}
