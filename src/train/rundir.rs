//! A run's folder: finding the checkpoint to use, making the folder, and keeping it whole.

use super::checkpoint::CheckpointError;
use super::config::FILE as RUN_CONFIG;
use crate::fsio::{At, IoError};
use crate::model::io::hf;
use std::fs;
use std::path::{Path, PathBuf};

/// A run's folder: `config.toml metrics.jsonl best/ last/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    /// The run, where a run was named; `None` where a checkpoint was.
    pub root: Option<PathBuf>,
    /// The checkpoint to use.
    pub checkpoint: PathBuf,
}

impl RunDir {
    /// Finds the checkpoint that a command is to use: `path` itself if it holds a model, else its `best/`, else its `last/`.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.join(hf::WEIGHTS).is_file() {
            return Ok(Self { root: None, checkpoint: path.into() });
        }
        let found = ["best", "last"].map(|name| path.join(name)).into_iter().find(|dir| dir.join(hf::WEIGHTS).is_file());
        if let Some(checkpoint) = found {
            return Ok(Self { root: Some(path.into()), checkpoint });
        }
        let message = match (path.exists(), path.is_dir()) {
            (false, _) => "there is no such folder; name a run or a checkpoint".into(),
            (_, false) => "it is a file; name the folder of a run or a checkpoint".into(),
            _ if path.join(RUN_CONFIG).is_file() => {
                "the run has no checkpoint yet (no best/ and no last/): it stopped before its first".into()
            }
            _ => format!("it is neither a run (no best/ or last/) nor a checkpoint (no {})", hf::WEIGHTS),
        };
        Err(CheckpointError::None { path: path.into(), message })
    }

    /// Makes the folder of a new run; one that is there already must be empty, but for what a kill at the very start left.
    pub fn create(path: &Path) -> Result<(), CheckpointError> {
        if path.is_dir() && !path.join(RUN_CONFIG).exists() {
            Self::sweep(path)?;
        }
        if path.exists() && (!path.is_dir() || fs::read_dir(path).at(path, "read")?.next().is_some()) {
            return Err(CheckpointError::Exists { path: path.into() });
        }
        Ok(fs::create_dir_all(path).at(path, "create")?)
    }

    /// Keeps other programs from working on a run at the same time, for as long as the file lives. A file system without locks
    /// lets everybody in.
    pub fn hold(root: &Path) -> Result<fs::File, CheckpointError> {
        let path = root.join(RUN_CONFIG);
        let file = fs::File::open(&path).at(&path, "open")?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(CheckpointError::Busy { path: root.into() }),
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Removes what a killed run left half written in its folder, and puts back a checkpoint that was being exchanged.
    /// For a run that goes on, before it writes anything.
    pub fn sweep(root: &Path) -> Result<(), IoError> {
        for entry in fs::read_dir(root).at(root, "read")? {
            let path = entry.at(root, "read")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&format!(".{RUN_CONFIG}.tmp-")) {
                fs::remove_file(&path).at(&path, "remove")?;
            }
            for kept in ["best", "last"] {
                if name.starts_with(&format!(".{kept}.old-")) && !root.join(kept).exists() {
                    fs::rename(&path, root.join(kept)).at(&path, "put back")?;
                } else if name.starts_with(&format!(".{kept}.old-")) || name.starts_with(&format!(".{kept}.tmp-")) {
                    fs::remove_dir_all(&path).at(&path, "remove")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that holds a model, as far as a run's folder looks.
    fn checkpoint(path: &Path) {
        fs::create_dir(path).unwrap();
        fs::write(path.join(hf::WEIGHTS), "").unwrap();
    }

    #[test]
    fn a_run_or_a_checkpoint_may_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        RunDir::create(&run).unwrap();
        RunDir::create(&run).unwrap();
        let says = |path: &Path| RunDir::open(path).unwrap_err().to_string();
        assert!(says(&run).contains("neither a run"));
        assert!(says(&run.join("x")).contains("no such folder"));
        fs::write(run.join(RUN_CONFIG), "").unwrap();
        assert!(says(&run).contains("stopped before its first"));
        assert!(says(&run.join(RUN_CONFIG)).contains("it is a file"));
        assert!(RunDir::create(&run).unwrap_err().to_string().contains("--resume"));

        checkpoint(&run.join("last"));
        assert_eq!(RunDir::open(&run).unwrap().checkpoint, run.join("last"));
        checkpoint(&run.join("best"));
        assert_eq!(RunDir::open(&run).unwrap(), RunDir { root: Some(run.clone()), checkpoint: run.join("best") });
        assert_eq!(RunDir::open(&run.join("last")).unwrap(), RunDir { root: None, checkpoint: run.join("last") });
    }

    #[test]
    fn what_a_killed_run_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        checkpoint(&run.join("best"));
        // Killed while writing best/, and between the two renames of an exchange of last/.
        fs::create_dir(run.join(".best.tmp-123")).unwrap();
        fs::create_dir(run.join(".last.old-123")).unwrap();
        fs::write(run.join(".last.old-123").join("f"), "old").unwrap();
        RunDir::sweep(run).unwrap();
        assert_eq!(fs::read_to_string(run.join("last").join("f")).unwrap(), "old");
        let mut names: Vec<_> = fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["best", "last"]);
    }
}
