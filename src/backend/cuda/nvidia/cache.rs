//! Compiled kernels and chosen algorithms on disk.
//!
//! A cubin lies in `<stem>.<hash of its bytes>.cubin`: what is damaged is not taken for whole, and tools that read cubins read
//! it as it is. The stem says what it was made of (see [`super::compile`]).

use crate::fsio::{self, IoError};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The first 16 hexadecimal digits of a SHA-256.
pub(super) fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // Lengths too: "ab", "c" is not "a", "bc".
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// `$XDG_CACHE_HOME/tinyllm`, or `~/.cache/tinyllm`.
pub(super) fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    Some(named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?.join("tinyllm"))
}

/// Where cubins may lie that were made ahead: `TINYLLM_CUBINS`, and `kernels` beside the program.
pub(super) fn ready_folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("kernels")));
    std::env::var_os("TINYLLM_CUBINS").map(PathBuf::from).into_iter().chain(beside).collect()
}

/// The whole cubin of this stem in a folder.
pub(super) fn find(folder: &Path, stem: &str) -> Option<Vec<u8>> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let of_bytes = name.to_str()?.strip_prefix(stem)?.strip_prefix('.')?.strip_suffix(".cubin")?;
        let cubin = std::fs::read(entry.path()).ok()?;
        (hash(&[&cubin]) == of_bytes).then_some(cubin)
    })
}

/// Keeps a cubin; where it lies now.
pub(super) fn store(folder: &Path, stem: &str, cubin: &[u8]) -> Result<PathBuf, IoError> {
    let path = folder.join(format!("{stem}.{}.cubin", hash(&[cubin])));
    std::fs::create_dir_all(folder).map_err(|source| IoError { path: folder.into(), what: "create", source })?;
    fsio::write_bytes(&path, cubin)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_cubin_is_not_found_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        assert_eq!(find(&folder, "norm-bf16"), None);
        let path = store(&folder, "norm-bf16", b"code").unwrap();
        assert_eq!(find(&folder, "norm-bf16").unwrap(), b"code");
        assert_eq!(find(&folder, "norm"), None);
        std::fs::write(&path, b"cod").unwrap();
        assert_eq!(find(&folder, "norm-bf16"), None);
        assert_eq!(store(&folder, "norm-bf16", b"code").unwrap(), path);
        assert_eq!(find(&folder, "norm-bf16").unwrap(), b"code");
    }
}
