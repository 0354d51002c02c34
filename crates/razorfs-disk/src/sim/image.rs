//! Snapshots of a simulated disk.

use std::collections::BTreeMap;
use std::io::IoSlice;

use super::content::{Content, Sum};
use crate::{Dir, Disk, Name, OpenHow, Result};

/// All files of a disk with their durable bytes: what a power cut would leave if nothing that
/// is pending reached the disk. Cheap to clone: pages are shared until one is changed.
#[derive(Clone, Default)]
pub struct Image {
    pub(super) dirs: Vec<Dir>,
    pub(super) files: BTreeMap<Name, Content>,
}

impl Image {
    /// The files and their lengths, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.files
            .iter()
            .map(|(name, content)| (name, content.len()))
    }

    /// Length of all files together.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.files.values().map(Content::len).sum()
    }

    /// Two images with the same sum have the same files with the same bytes, as far as chance goes:
    /// it has 128 bits.
    #[must_use]
    pub fn sum(&self) -> u128 {
        let mut sum = Sum::default();
        for (name, content) in &self.files {
            let name = name.to_string();
            name.bytes().for_each(|byte| sum.add(byte.into()));
            content.add_to(&mut sum);
        }
        sum.of()
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, name: &Name) -> Option<Vec<u8>> {
        self.files.get(name).map(Content::to_vec)
    }

    /// Flips one bit; false if there is no such byte.
    pub fn flip_bit(&mut self, name: &Name, byte: u64, bit: u8) -> bool {
        let Some(content) = self.files.get_mut(name) else {
            return false;
        };
        let mut old = [0];
        let there = content.read(byte, &mut old) == 1;
        if there {
            content.write(byte, &old.map(|b| b ^ (1 << (bit & 7))));
        }
        there
    }

    /// Writes over a file, which is made if it is missing and grown where needed.
    pub fn write(&mut self, name: &Name, offset: u64, bytes: &[u8]) {
        let content = self.files.entry(name.clone()).or_default();
        content.write(offset, bytes);
    }

    /// Sets the length of a file; false if it is missing.
    pub fn set_len(&mut self, name: &Name, len: u64) -> bool {
        let content = self.files.get_mut(name);
        content.map(|content| content.set_len(len)).is_some()
    }

    /// Removes a file; false if it is missing.
    pub fn remove(&mut self, name: &Name) -> bool {
        self.files.remove(name).is_some()
    }

    /// Reads all files of a disk.
    pub fn load(disk: &dyn Disk) -> Result<Self> {
        let mut image = Self::default();
        for dir in Dir::ALL {
            let names = match disk.list(dir) {
                Err(e) if e.is_not_found() => continue,
                names => names?,
            };
            image.dirs.push(dir);
            for name in names {
                let file = disk.open(&name, OpenHow::Read)?;
                let mut bytes = vec![0; file.len()? as usize];
                let n = file.read_at(&mut bytes, 0)?;
                bytes.truncate(n);
                image.write(&name, 0, &bytes);
            }
        }
        Ok(image)
    }

    /// Writes all files to a disk that has none of them, and syncs them and their names.
    pub fn store(&self, disk: &dyn Disk) -> Result<()> {
        disk.create_dirs()?;
        for (name, content) in &self.files {
            let file = disk.open(name, OpenHow::CreateNew)?;
            file.write_at(&[IoSlice::new(&content.to_vec())], 0)?;
            file.sync_data()?;
        }
        Dir::ALL.into_iter().try_for_each(|dir| disk.sync_dir(dir))
    }
}
