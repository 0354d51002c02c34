//! The file `SUPER`: four slots, two for each of the last two generations.

use std::io::IoSlice;

use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::superblock::version::newer;
use razorfs_format::superblock::{SLOT, SLOTS, Superblock, pick, slots_of, twin_of};
use razorfs_format::{FormatError, Place};

use crate::error::{Error, Result};
use crate::marks::{self, Mark};

fn name() -> Name {
    Name::new(Dir::Root, &FileName::Super.leaf())
}

/// What `SUPER` holds.
pub struct SuperRead {
    /// The newest generation.
    pub newest: Superblock,
    /// The slots, in order.
    pub slots: Vec<std::result::Result<Superblock, FormatError>>,
    /// The slot that was written again from its twin.
    pub healed: Option<usize>,
}

/// The file `SUPER` of a volume.
pub struct SuperFile;

impl SuperFile {
    /// Makes the file, with its first generation; it and its name are durable on return.
    pub fn create(disk: &dyn Disk, first: &Superblock) -> Result<()> {
        let file = disk.open(&name(), OpenHow::CreateNew)?;
        file.allocate(0..(SLOTS * SLOT) as u64, true)?;
        Self::write(disk, first)?;
        disk.sync_dir(Dir::Root)?;
        Ok(())
    }

    /// Reads all slots, and writes nothing. Where one is of a newer major version the volume is not
    /// ours to look at, whatever the others say.
    pub fn read(disk: &dyn Disk) -> Result<SuperRead> {
        let file = match disk.open(&name(), OpenHow::ReadUncached) {
            Ok(file) => file,
            Err(e) if e.is_not_found() => {
                let why = format!("not a volume: {e}; `razorfs create` makes one");
                return Err(Error::NotAVolume(why.into()));
            }
            Err(e) => return Err(e.into()),
        };
        let mut slots = Vec::with_capacity(SLOTS);
        for slot in 0..SLOTS {
            // Slots are read one by one: one that the disk cannot read does not take its twin
            // with it.
            let mut bytes = vec![0; SLOT];
            let at = (slot * SLOT) as u64;
            slots.push(match file.read_at(&mut bytes, at) {
                Ok(n) => {
                    let bytes = bytes.get(..n).unwrap_or(&[]);
                    if let Some(version) = newer(slot, bytes) {
                        return Err(Error::NewerVersion(version));
                    }
                    Superblock::decode(slot, bytes)
                }
                Err(e) => Err(Place::new(FileName::Super, at).error("superblock", "a slot", e)),
            });
        }
        let Some((_, newest)) = pick(&slots) else {
            let each: Vec<String> = slots
                .iter()
                .filter_map(|s| Some(s.as_ref().err()?.to_string()))
                .collect();
            let why = format!(
                "no valid superblock: {}; if this is a copy, copy all of it again, else run \
                 `razorfs repair`",
                each.join(", ")
            );
            return Err(Error::NotAVolume(why.into()));
        };
        let newest = newest.clone();
        Ok(SuperRead {
            newest,
            slots,
            healed: None,
        })
    }

    /// Reads all slots; if one of the newest twins is not as it should be, it is written again.
    pub fn read_and_heal(disk: &dyn Disk) -> Result<SuperRead> {
        let mut read = Self::read(disk)?;
        let good = |slot: usize| matches!(read.slots.get(slot), Some(Ok(s)) if *s == read.newest);
        let [a, b] = slots_of(read.newest.generation);
        let bad = match (good(a), good(b)) {
            (true, true) => None,
            (true, false) => Some(b),
            _ => Some(a),
        };
        if let Some(slot) = bad {
            let file = disk.open(&name(), OpenHow::ReadWrite)?;
            let bytes = read.newest.encode(slot);
            file.write_at(&[IoSlice::new(&bytes)], (slot * SLOT) as u64)?;
            file.sync_data()?;
            debug_assert!(good(twin_of(slot)));
            read.healed = Some(slot);
            marks::hit(Mark::RecoverySlotHealed);
        }
        Ok(read)
    }

    /// Writes a generation to both of its slots; it is durable on return. The generation before
    /// it stays. After an error this generation may or may not be there.
    pub fn write(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
        let [a, b] = slots_of(superblock.generation);
        let twins = [superblock.encode(a), superblock.encode(b)];
        let slices = twins.each_ref().map(|t| IoSlice::new(t));
        let file = disk.open(&name(), OpenHow::ReadWrite)?;
        file.write_at(&slices, (a * SLOT) as u64)?;
        file.sync_data()?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "superfile_tests.rs"]
mod tests;
