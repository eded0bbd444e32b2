//! Files as slices of bytes.
#![allow(unsafe_code)]

use crate::fsio::{At, IoError};
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::time::SystemTime;

/// A file mapped for reading.
pub struct Mapped {
    /// `None` of an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
    modified: Option<SystemTime>,
}

impl Mapped {
    /// Maps a whole file; an empty one is an empty slice.
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let file = File::open(path).at(path, "open")?;
        let facts = file.metadata().at(path, "read")?;
        if facts.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a folder")).at(path, "open");
        }
        let modified = facts.modified().ok();
        if facts.len() == 0 {
            return Ok(Self { map: None, modified });
        }
        // SAFETY: the map is private to this process and read-only. Another process that shortens the file
        // meanwhile would raise SIGBUS; every program that maps its model accepts that, and our own
        // writers never shorten a file in place (`fsio` renames whole ones).
        let map = unsafe { memmap2::Mmap::map(&file) }.at(path, "map")?;
        Ok(Self { map: Some(map), modified })
    }

    /// When the file was last written to before it was mapped, where the system knows.
    #[must_use]
    pub const fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Asks the system to read the pages ahead of use.
    pub fn prefault(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            map.advise(memmap2::Advice::WillNeed).ok();
        }
    }

    /// Gives the memory of `part`, a piece of this map, back to the system; it is read from the file again if it is looked at again.
    ///
    /// # Panics
    /// If it is no piece of this map.
    pub fn release(&self, part: &[u8]) {
        let Some(map) = &self.map else { return };
        let from = (part.as_ptr() as usize).checked_sub(map.as_ptr() as usize).filter(|from| from + part.len() <= map.len());
        let from = from.expect("a piece of this map");
        // SAFETY: the map is of a file and is not written to, so that what is dropped comes back the same.
        #[cfg(unix)]
        unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, part.len()).ok();
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
