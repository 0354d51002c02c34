//! The ballast: space of the host that the volume really takes and does not need, in the file
//! `RESERVE`. When the host is full it is given back, so that what was promised before can still
//! be written, and what is deleted comes free: both need some space first.

use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::layout::FileName;

use crate::Result;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes by which it grows at a time, at most.
const STEP: u64 = 1 << 20;
/// No volume needs more.
const MOST: u64 = 1 << 30;

/// The ballast of a volume.
#[derive(Debug)]
pub(crate) struct Ballast {
    /// Bytes that a grown volume has, at least; 0: none.
    least: u64,
    held: AtomicU64,
}

fn name() -> Name {
    Name::new(Dir::Root, &FileName::Reserve.leaf())
}

impl Ballast {
    /// What the volume on this disk has.
    pub fn open(disk: &dyn Disk, least: u64) -> Self {
        // What cannot be read is not counted on.
        let held = disk.open(&name(), OpenHow::Read).and_then(|f| f.len());
        Self {
            least,
            held: AtomicU64::new(held.unwrap_or(0)),
        }
    }

    /// How much a volume that stores so many bytes should have: small volumes little.
    fn target(&self, stored: u64) -> u64 {
        if self.least == 0 {
            return 0;
        }
        let grown = self.least.max((stored / 64).min(MOST));
        let step = STEP.min(self.least);
        grown.min(stored / 4) / step * step
    }

    /// By how much it should grow now.
    pub fn wanted(&self, stored: u64) -> u64 {
        let held = self.held.load(Ordering::Relaxed);
        self.target(stored).saturating_sub(held).min(STEP)
    }

    /// Takes `more` bytes. The caller knows that the host can do without.
    pub fn grow(&self, disk: &dyn Disk, more: u64) -> Result<()> {
        let file = match disk.open(&name(), OpenHow::ReadWrite) {
            Err(e) if e.is_not_found() => disk.open(&name(), OpenHow::CreateNew),
            file => file,
        }?;
        let len = file.len()?;
        let grown = file
            .allocate(len..len + more, true)
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.sync_dir(Dir::Root));
        if let Err(e) = grown {
            // What is there by now would be missed nowhere.
            let _ = file.set_len(len);
            return Err(e.into());
        }
        self.held.store(len + more, Ordering::Relaxed);
        Ok(())
    }

    /// Gives all of it back. Answers whether there was any.
    pub fn release(&self, disk: &dyn Disk) -> bool {
        let held = self.held.swap(0, Ordering::Relaxed);
        if held == 0 {
            return false;
        }
        tracing::warn!(bytes = held, "the host is full: the ballast is given back");
        let released = disk
            .open(&name(), OpenHow::ReadWrite)
            .and_then(|file| file.set_len(0));
        released.is_ok()
    }
}
