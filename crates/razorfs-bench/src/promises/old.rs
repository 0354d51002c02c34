//! The prototype's ways of saving, written anew as a fair baseline: everything is kept in memory; a
//! save writes all of it to one file. The layouts are those that `razorfs import` reads
//! (docs/legacy.md). Beyond the prototype, a save here is durable when it returns, as the one that
//! it is compared with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::failure::{At, Result};

/// How it saves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The file is written over as a whole.
    Dump,
    /// Each operation is appended to a journal; a save writes another file, renames it over the
    /// old one, and empties the journal.
    Journaled,
}

/// What it holds.
pub struct Old {
    way: Way,
    path: PathBuf,
    journal: Option<File>,
    next: u64,
    names: BTreeMap<Vec<u8>, u64>,
    contents: BTreeMap<u64, Vec<u8>>,
}

/// Bytes before the data of an entry of the journal.
const ENTRY: usize = 36;

impl Old {
    /// Empty, in a directory.
    pub fn new(way: Way, dir: &Path) -> Result<Self> {
        let path = dir.join("old");
        let journal = dir.join("old.journal");
        let journal = match way {
            Way::Dump => None,
            Way::Journaled => Some(File::create(&journal).at("create", &journal)?),
        };
        Ok(Self {
            way,
            path,
            journal,
            next: 2,
            names: BTreeMap::new(),
            contents: BTreeMap::new(),
        })
    }

    /// Writes a file as a whole, which it makes if it is not there.
    pub fn write(&mut self, name: &[u8], bytes: &[u8]) -> Result<()> {
        let next = self.next;
        let ino = *self.names.entry(name.to_vec()).or_insert(next);
        self.next = next.max(ino + 1);
        self.contents.insert(ino, bytes.to_vec());
        self.note(name, bytes)
    }

    /// Removes a file.
    pub fn remove(&mut self, name: &[u8]) -> Result<()> {
        if let Some(ino) = self.names.remove(name) {
            self.contents.remove(&ino);
        }
        self.note(name, &[])
    }

    /// Gives a file another name.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        if let Some(ino) = self.names.remove(from) {
            self.names.insert(to.to_vec(), ino);
        }
        self.note(from, to)
    }

    fn note(&mut self, name: &[u8], data: &[u8]) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            let mut entry = vec![0; ENTRY];
            entry.extend_from_slice(name);
            entry.push(0);
            entry.extend_from_slice(data);
            journal.write_all(&entry).at("write to", &self.path)?;
        }
        Ok(())
    }

    /// Everything is on the disk when this returns.
    pub fn save(&mut self) -> Result<()> {
        let temporary = self.path.with_extension("tmp");
        let to = match self.way {
            Way::Dump => &self.path,
            Way::Journaled => &temporary,
        };
        let mut out = BufWriter::with_capacity(1 << 20, File::create(to).at("create", to)?);
        self.put(&mut out).at("write to", to)?;
        let file = out.into_inner().at("write to", to)?;
        file.sync_data().at("sync", to)?;
        if let Some(journal) = &self.journal {
            fs::rename(to, &self.path).at("rename", to)?;
            let dir = self.path.parent().unwrap_or(Path::new("."));
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.at("sync", dir)?;
            journal.set_len(0).at("empty the journal of", &self.path)?;
        }
        Ok(())
    }

    fn put(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        out.write_all(&self.next.to_le_bytes())?;
        out.write_all(&(self.names.len() as u64).to_le_bytes())?;
        for (name, ino) in &self.names {
            out.write_all(&ino.to_le_bytes())?;
            out.write_all(&(name.len() as u64).to_le_bytes())?;
            out.write_all(name)?;
        }
        out.write_all(&(self.contents.len() as u64).to_le_bytes())?;
        for (ino, bytes) in &self.contents {
            out.write_all(&ino.to_le_bytes())?;
            out.write_all(&(bytes.len() as u64).to_le_bytes())?;
            out.write_all(bytes)?;
        }
        Ok(())
    }
}
