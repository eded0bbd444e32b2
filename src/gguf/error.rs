//! What can be wrong with a GGUF file.

use crate::fsio::IoError;
use std::path::PathBuf;

/// A GGUF file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The bytes are no GGUF file, or a damaged one.
    #[error("{}: byte {offset}: {what}; the file is damaged or no GGUF: copy or export it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What stands there.
        what: String,
    },
    /// A sound file that this program cannot use.
    #[error("{}: byte {offset}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What stands there, and the way out.
        what: String,
    },
    /// A key that the reader needs is not there.
    #[error("{}: the metadata has no key '{key}': this is no complete model; export it again", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// What was given to the writer makes no file.
    #[error("cannot write {}: {what}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Which key or tensor, and why.
        what: String,
    },
}
