//! What can be wrong with data, always with the place and the way out.

use crate::fsio::IoError;
use std::path::{Path, PathBuf};

/// An error of the data floor.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Something in a source file that cannot be used.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// A file that as a whole cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A recipe that cannot be carried out.
    #[error("recipe: {0}")]
    Recipe(String),
    /// A token shard that is damaged or belongs to another vocabulary.
    #[error("{} at byte {offset}: {message}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// The output folder is already there.
    #[error("{}: {}", path.display(), if *finished { "these data are already prepared; use them, or remove the folder to prepare them anew" }
        else { "the folder exists and holds no prepared data; give another --out, or remove it" })]
    Exists {
        /// The folder.
        path: PathBuf,
        /// Whether it holds a finished preparation of the same recipe.
        finished: bool,
    },
}

impl DataError {
    /// An error at a line of a source file.
    pub fn line(path: &Path, line: u64, message: impl Into<String>) -> Self {
        Self::Line { path: path.into(), line, message: message.into() }
    }

    /// An error of a whole file.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.into(), message: message.into() }
    }

    /// The same, with the recipe's path where it is the recipe that is at fault.
    #[must_use]
    pub fn in_recipe(self, path: &Path) -> Self {
        match self {
            Self::Recipe(message) => Self::file(path, message),
            other => other,
        }
    }

    /// An error of the recipe.
    pub fn recipe(message: impl Into<String>) -> Self {
        Self::Recipe(message.into())
    }
}
