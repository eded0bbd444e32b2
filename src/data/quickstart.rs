//! The data of `tinyllm-train quickstart`, carried in the program: a recipe, readings of a smart watch, some English.

use super::error::DataError;
use crate::fsio::At;
use crate::fsio::NewDir;
use std::path::{Path, PathBuf};

/// The files of `scripts/quickstart`; `LICENSE.md` says where they come from and who may use them how.
const FILES: [(&str, &[u8]); 4] = [
    ("recipe.toml", include_bytes!("../../scripts/quickstart/recipe.toml")),
    ("watch.csv.gz", include_bytes!("../../scripts/quickstart/watch.csv.gz")),
    ("sotu.jsonl.gz", include_bytes!("../../scripts/quickstart/sotu.jsonl.gz")),
    ("LICENSE.md", include_bytes!("../../scripts/quickstart/LICENSE.md")),
];

/// Writes the files into the folder `dir` (a folder of that name is replaced); the path of the recipe.
pub fn unpack(dir: &Path) -> Result<PathBuf, DataError> {
    let folder = NewDir::new(dir)?;
    for (name, bytes) in FILES {
        let path = folder.dir().join(name);
        std::fs::write(&path, bytes).at(&path, "write")?;
    }
    folder.commit()?;
    Ok(dir.join(FILES[0].0))
}
