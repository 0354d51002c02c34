//! Memory in a file that has no name and lies on no disk (`memfd_create`): whoever has its
//! descriptor can map it, also after the process that wrote to it has died.
#![expect(unsafe_code, reason = "mapped memory comes as an address")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::Memory;

/// No more is mapped, whatever a descriptor says.
const MOST: u64 = 1 << 32;

/// Memory that lives as long as anybody has its descriptor.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is only reached through `&[AtomicU64]`, which any thread may have, and it is
// taken away by `drop`, which has it alone.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory of so many bytes. The host gives it page by page as it is written to.
    pub fn create(bytes: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("razorfs-redo", flags)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        // Whoever has the descriptor could else take away what is mapped.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        Self::adopt(fd)
    }

    /// The memory behind a descriptor that [`SharedMemory::create`] has made, here or elsewhere.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let refuse = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(refuse("the memory is not sealed: it might be taken away"));
        }
        let bytes = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        if bytes == 0 || bytes > MOST {
            return Err(refuse("the memory has no size that it may have"));
        }
        // It fits: it is not more than `MOST`, and all targets have 64 bits.
        let words = bytes as usize / 8;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses, takes nothing away.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| refuse("mapped at nothing"))?;
        Ok(Self { fd, start, words })
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Memory for SharedMemory {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is that of a mapping of so many words, aligned to a page; it is there
        // until `drop`, the file cannot become shorter, and words that others write meanwhile are
        // what atomics are for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    fn give_back(&self, first: usize, count: usize) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If it cannot be given back it stays ours.
        let _ = rustix::fs::fallocate(&self.fd, flags, first as u64 * 8, count as u64 * 8);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody can have a reference to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_wrote_another_finds() {
        let one = SharedMemory::create(1 << 20).unwrap();
        one.words()[77].store(5, Ordering::Release);
        let fd = one.as_fd().try_clone_to_owned().unwrap();
        drop(one);
        let other = SharedMemory::adopt(fd).unwrap();
        assert_eq!(other.words().len(), 1 << 17);
        assert_eq!(other.words()[77].load(Ordering::Acquire), 5);
        other.give_back(0, 512);
        assert_eq!(other.words()[77].load(Ordering::Acquire), 0);
    }

    #[test]
    fn what_can_be_taken_away_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(SharedMemory::adopt(file.into()).is_err());
        let loose = rustix::fs::memfd_create("loose", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&loose, 4096).unwrap();
        assert!(SharedMemory::adopt(loose).is_err());
    }
}
