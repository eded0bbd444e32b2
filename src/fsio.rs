//! Whole files or none: write beside, sync, rename. A reader never sees half of anything, and a
//! crash or a full disk leaves what was there before.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file operation that failed, with the path it failed on.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {what}: {source}{}", path.display(), way_out(source))]
pub struct IoError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was being done: "create", "write", "read".
    pub what: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => "; make room there, or write elsewhere",
        _ => "",
    }
}

/// Adds the path and the deed to an `io::Result`.
pub trait At<T> {
    /// `file.sync_all().at(path, "write")?`
    fn at(self, path: &Path, what: &'static str) -> Result<T, IoError>;
}
impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path, what: &'static str) -> Result<T, IoError> {
        self.map_err(|source| IoError { path: path.into(), what, source })
    }
}

/// Writes a file whole: `path` has either its old content or all of what `fill` wrote.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), IoError> {
    let tmp = beside(path, "tmp");
    let result = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&tmp).at(&tmp, "create")?);
        fill(&mut out).at(path, "write")?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error).at(path, "write")?;
        file.sync_all().at(path, "write")?;
        fs::rename(&tmp, path).at(path, "rename into place")?;
        sync_parent(path)
    })();
    if result.is_err() {
        fs::remove_file(&tmp).ok();
    }
    result
}

/// [`write_whole`] of bytes in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    write_whole(path, |w| w.write_all(bytes))
}

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String, IoError> {
    fs::read_to_string(path).at(path, "read")
}

/// A folder that is being filled and appears whole under its name on [`commit`](Self::commit), or not at all.
pub struct NewDir {
    tmp: PathBuf,
    path: PathBuf,
    done: bool,
}

impl NewDir {
    /// Starts a folder that will be `path`.
    pub fn new(path: &Path) -> Result<Self, IoError> {
        let tmp = beside(path, "tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).at(&tmp, "remove")?;
        }
        fs::create_dir_all(&tmp).at(&tmp, "create")?;
        Ok(Self { tmp, path: path.into(), done: false })
    }

    /// Where to write the folder's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.tmp
    }

    /// Syncs everything and puts the folder in place; a folder already there is exchanged in one step and removed.
    pub fn commit(mut self) -> Result<(), IoError> {
        sync_tree(&self.tmp)?;
        if self.path.exists() {
            exchange(&self.tmp, &self.path)?;
            sync_parent(&self.path)?;
            fs::remove_dir_all(&self.tmp).at(&self.tmp, "remove")?;
        } else {
            fs::rename(&self.tmp, &self.path).at(&self.path, "rename into place")?;
            sync_parent(&self.path)?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.done {
            fs::remove_dir_all(&self.tmp).ok();
        }
    }
}

/// Exchanges two folders' names. On a file system that cannot do it in one step (some network and FUSE ones), in two.
fn exchange(new: &Path, old: &Path) -> Result<(), IoError> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(io::Error::from(e)).at(old, "exchange"),
        }
    }
    let aside = beside(old, "old");
    fs::rename(old, &aside).at(old, "set aside")?;
    fs::rename(new, old).at(old, "rename into place")?;
    fs::rename(&aside, new).at(&aside, "set aside")
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    // Two threads that write one file at once must not write one temporary file.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    name.push(format!(".{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn sync_parent(path: &Path) -> Result<(), IoError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).at(parent, "sync")
}

fn sync_tree(dir: &Path) -> Result<(), IoError> {
    for entry in fs::read_dir(dir).at(dir, "read")? {
        let path = entry.at(dir, "read")?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).at(&path, "sync")?;
        }
    }
    File::open(dir).and_then(|d| d.sync_all()).at(dir, "sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_bytes(&path, b"old").unwrap();
        let err = write_whole(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(err.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last");
        for content in ["1", "2"] {
            let new = NewDir::new(&path).unwrap();
            fs::write(new.dir().join("f"), content).unwrap();
            new.commit().unwrap();
            assert_eq!(fs::read_to_string(path.join("f")).unwrap(), content);
        }
        let dropped = NewDir::new(&path).unwrap();
        fs::write(dropped.dir().join("f"), "3").unwrap();
        drop(dropped);
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
