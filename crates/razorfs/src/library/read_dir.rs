//! Listing a directory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Metadata;
use crate::{Entry, FileKind, Ino, Result, Volume};

/// Entries fetched at a time.
const CHUNK: usize = 256;

/// Iterates over the entries of a directory, without `.` and `..`.
///
/// An entry that is there all the time is handed out exactly once, whatever else changes meanwhile.
pub struct ReadDir {
    volume: Volume,
    dir: Ino,
    path: PathBuf,
    after: u64,
    chunk: VecDeque<Entry>,
    ended: bool,
}

impl ReadDir {
    pub(super) fn new(volume: Volume, dir: Ino, path: &Path) -> Self {
        volume.pin(dir, 1);
        Self {
            volume,
            dir,
            path: path.to_owned(),
            after: 0,
            chunk: VecDeque::new(),
            ended: false,
        }
    }

    fn fetch(&mut self) -> Result<()> {
        let chunk = &mut self.chunk;
        self.volume
            .collect_children(self.dir, self.after, &mut |entry| {
                chunk.push_back(entry);
                chunk.len() < CHUNK
            })?;
        match self.chunk.back() {
            Some(last) => self.after = last.cookie,
            None => self.ended = true,
        }
        Ok(())
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk.is_empty()
            && !self.ended
            && let Err(e) = self.fetch()
        {
            self.ended = true;
            return Some(Err(e));
        }
        let entry = self.chunk.pop_front()?;
        Some(Ok(DirEntry {
            volume: self.volume.clone(),
            ino: entry.ino,
            kind: entry.kind,
            name: OsString::from_vec(entry.name.into_vec()),
            dir: self.path.clone(),
        }))
    }
}

impl Drop for ReadDir {
    fn drop(&mut self) {
        self.volume.unpin(self.dir, 1);
    }
}

/// An entry of a directory.
pub struct DirEntry {
    volume: Volume,
    ino: Ino,
    kind: FileKind,
    name: OsString,
    dir: PathBuf,
}

impl DirEntry {
    /// Its name.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        &self.name
    }

    /// The path that was listed, with the name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// What it is; costs nothing.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        self.kind
    }

    /// Inode number.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    /// What is known of it; a symbolic link is not followed.
    pub fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata::new(self.volume.stat(self.ino)?))
    }
}
