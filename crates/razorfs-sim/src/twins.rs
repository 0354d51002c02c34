//! What becomes of one file of a journal that has two copies: it is destroyed, in any way, at any
//! moment. Nothing may be lost by that, and the next opening makes both copies whole.

use razorfs_disk::sim::{Image, SimDisk};
use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::layout::FileName;

use crate::rng::Rng;

/// The journal file that was destroyed and is not healed yet, and what the files were before.
#[derive(Default)]
pub struct Wound {
    name: Option<Name>,
    older: Option<Image>,
}

impl Wound {
    /// Remembers the files as they are: one of them may be put back to that.
    pub fn remember(&mut self, disk: &SimDisk) {
        self.older = Some(disk.image());
    }

    /// The volume was opened: all copies are whole.
    pub fn heal(&mut self) {
        self.name = None;
    }

    /// Destroys a file, or once more the one that was destroyed last. Nobody has the disk open.
    pub fn inflict(&mut self, disk: &SimDisk, rng: &mut Rng) {
        let mut image = disk.image();
        let of_journal = |name: &&Name| name.dir == Dir::Journal;
        let names: Vec<Name> = image
            .files()
            .map(|f| f.0)
            .filter(of_journal)
            .cloned()
            .collect();
        let Some(name) = self.name.take().or_else(|| rng.pick(&names).cloned()) else {
            return;
        };
        let len = image.bytes(&name).map_or(0, |bytes| bytes.len() as u64);
        match rng.range(0..8) {
            0 => drop(image.remove(&name)),
            1 => image.write(&name, 0, &vec![0; len as usize]),
            2 => image.write(&name, 0, &noise(rng, len)),
            3 => drop(image.set_len(&name, rng.range(0..len + 1))),
            4 => {
                let older = self.older.as_ref().and_then(|image| image.bytes(&name));
                image.remove(&name);
                if let Some(older) = older {
                    image.write(&name, 0, &older);
                }
            }
            5 => {
                // The bytes of another one.
                let other = rng.pick(&names).and_then(|name| image.bytes(name));
                image.remove(&name);
                image.write(&name, 0, &other.unwrap_or_default());
            }
            6 => {
                let at = rng.range(0..len.max(1)) / 512 * 512;
                let sectors = rng.range(1..40) * 512;
                image.write(&name, at, &noise(rng, sectors.min(len.saturating_sub(at))));
            }
            _ => {
                for _ in 0..rng.range(1..40) {
                    image.flip_bit(&name, rng.range(0..len.max(1)), rng.range(0..8) as u8);
                }
            }
        }
        disk.restore(&image);
        self.name = Some(name);
    }
}

fn noise(rng: &mut Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.next() as u8).collect()
}

/// Whether a copy begins with the header of the file of this number, by the look of it.
fn is_own(bytes: &Option<Vec<u8>>, slot: u32) -> bool {
    let bytes = bytes.as_deref().unwrap_or_default();
    let (magic, number) = (bytes.get(12..16), bytes.get(36..40));
    magic == Some(b"RZJF") && number == Some(&slot.to_le_bytes())
}

/// Where the copies of a volume that was just opened are not the same, if anywhere.
pub fn difference(disk: &SimDisk) -> Option<String> {
    let read = |file: FileName| {
        let file = disk
            .open(&Name::new(Dir::Journal, &file.leaf()), OpenHow::Read)
            .ok()?;
        let mut bytes = vec![0; file.len().ok()? as usize];
        file.read_at(&mut bytes, 0).ok()?;
        Some(bytes)
    };
    let names = disk.list(Dir::Journal).unwrap_or_default();
    let files = names
        .iter()
        .filter_map(|name| FileName::parse(Dir::Journal.path(), &name.leaf));
    for file in files {
        let (FileName::Journal(slot) | FileName::JournalTwin(slot)) = file else {
            continue;
        };
        let (one, other) = (
            read(FileName::Journal(slot)),
            read(FileName::JournalTwin(slot)),
        );
        // One that was being created is not used, and removed some time: until then it may be
        // destroyed in one copy after the other.
        if !is_own(&one, slot) && !is_own(&other, slot) {
            continue;
        }
        let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
        // One may be longer where the power went while it grew.
        let at = one.iter().zip(&other).position(|(a, b)| a != b);
        if let Some(at) = at {
            return Some(format!("{file}: its copies differ at byte {at}"));
        }
    }
    None
}
