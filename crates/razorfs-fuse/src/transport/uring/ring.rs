//! An io_uring of one thread: the system calls, and the memory shared with the kernel.
//!
//! Every kernel that speaks FUSE over io_uring (since Linux 6.14) has all that is used here, so
//! there is one way to set a ring up and no other. Entries have 128 bytes, as FUSE wants them.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IoringEnterFlags, IoringSetupFlags, io_uring_enter, io_uring_params,
    io_uring_setup,
};
use rustix::mm::{MapFlags, ProtFlags};

/// Where the kernel has the entries for mmap(2).
const OFF_SQES: u64 = 0x1000_0000;
/// The kernel does not count the thread's waiting as waiting for a disk (since Linux 6.15).
const FEATURE_NO_IOWAIT: u32 = 1 << 17;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// What the kernel is asked for; see `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Sqe {
    pub(super) opcode: u8,
    pub(super) flags: u8,
    pub(super) ioprio: u16,
    pub(super) fd: i32,
    /// Of a command: which one.
    pub(super) command: u32,
    pub(super) zero: u32,
    pub(super) addr: u64,
    pub(super) len: u32,
    /// Of a poll: for what.
    pub(super) op_flags: u32,
    pub(super) user_data: u64,
    pub(super) unused: [u8; 8],
    /// What the command says.
    pub(super) data: [u64; 10],
}

const _: () = {
    assert!(size_of::<Sqe>() == 128);
    assert!(std::mem::offset_of!(Sqe, command) == 8);
    assert!(std::mem::offset_of!(Sqe, addr) == 16);
    assert!(std::mem::offset_of!(Sqe, op_flags) == 28);
    assert!(std::mem::offset_of!(Sqe, user_data) == 32);
    assert!(std::mem::offset_of!(Sqe, data) == 48);
};

impl Sqe {
    pub(super) const fn new(opcode: u8, fd: i32, user_data: u64) -> Self {
        Self {
            opcode,
            flags: 0,
            ioprio: 0,
            fd,
            command: 0,
            zero: 0,
            addr: 0,
            len: 0,
            op_flags: 0,
            user_data,
            unused: [0; 8],
            data: [0; 10],
        }
    }
}

/// What the kernel says; see `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    pub(super) user_data: u64,
    pub(super) result: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Cqe>() == 16);

/// Memory of the kernel, or for it.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is memory and nothing else; whoever reads or writes it sees to who else does.
#[expect(unsafe_code, reason = "a pointer is not Send by itself")]
unsafe impl Send for Mapping {}
// SAFETY: as above; it has no methods that read or write.
#[expect(unsafe_code, reason = "a pointer is not Sync by itself")]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory of our own, zero and untouched: the host gives a page when it is used first.
    #[expect(unsafe_code, reason = "nothing safe maps memory")]
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel likes it.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE)
        };
        Self::over(start?, len)
    }

    #[expect(unsafe_code, reason = "nothing safe maps memory")]
    fn shared(fd: &OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping where the kernel likes it.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection, flags, fd, offset) };
        Self::over(start?, len)
    }

    fn over(start: *mut std::ffi::c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A place in it; the end if it is beyond that.
    #[expect(unsafe_code, reason = "an offset into the mapping")]
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: within the mapping, or just behind it.
        unsafe { self.start.as_ptr().add(offset.min(self.len)) }
    }

    /// Has the host take back the pages from `offset` on; they read as zeros.
    #[expect(unsafe_code, reason = "nothing safe gives memory back")]
    pub(super) fn give_back(&self, offset: usize) {
        let (start, len) = (self.at(offset), self.len.saturating_sub(offset));
        // SAFETY: the pages are of this mapping, which is private; nobody has a reference into it.
        // An error leaves the pages, which costs memory only.
        let _ =
            unsafe { rustix::mm::madvise(start.cast(), len, rustix::mm::Advice::LinuxDontNeed) };
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "nothing safe unmaps memory")]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this type, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The ring. Only the thread that made it may use it, which the kernel relies on.
#[derive(Debug)]
pub(super) struct Ring {
    fd: OwnedFd,
    queues: Mapping,
    entries: Mapping,
    params: Params,
    wait: IoringEnterFlags,
    /// Not for other threads.
    own: PhantomData<*mut ()>,
}

/// Where things are within the shared memory, in bytes; and masks.
#[derive(Clone, Copy, Debug)]
struct Params {
    sq_head: usize,
    sq_tail: usize,
    sq_entries: u32,
    cq_head: usize,
    cq_tail: usize,
    cq_entries: u32,
    cqes: usize,
}

impl Ring {
    /// A ring for so many entries at a time, and twice as many answers.
    #[expect(unsafe_code, reason = "nothing safe sets a ring up")]
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        let mut params = io_uring_params::default();
        params.flags = IoringSetupFlags::SQE128
            | IoringSetupFlags::SINGLE_ISSUER
            | IoringSetupFlags::DEFER_TASKRUN
            | IoringSetupFlags::NO_SQARRAY
            | IoringSetupFlags::SUBMIT_ALL;
        // SAFETY: the structure is filled in; no flag makes the kernel use memory of ours.
        let fd = unsafe { io_uring_setup(entries, &mut params) }?;
        let cqes = params.cq_off.cqes as usize;
        let len = cqes + params.cq_entries as usize * size_of::<Cqe>();
        let mut wait = IoringEnterFlags::GETEVENTS;
        if params.features.bits() & FEATURE_NO_IOWAIT != 0 {
            wait |= IoringEnterFlags::from_bits_retain(ENTER_NO_IOWAIT);
        }
        Ok(Self {
            queues: Mapping::shared(&fd, IORING_OFF_SQ_RING, len)?,
            entries: Mapping::shared(&fd, OFF_SQES, params.sq_entries as usize * size_of::<Sqe>())?,
            fd,
            params: Params {
                sq_head: params.sq_off.head as usize,
                sq_tail: params.sq_off.tail as usize,
                sq_entries: params.sq_entries,
                cq_head: params.cq_off.head as usize,
                cq_tail: params.cq_off.tail as usize,
                cq_entries: params.cq_entries,
                cqes,
            },
            wait,
            own: PhantomData,
        })
    }

    #[expect(
        unsafe_code,
        reason = "the counters are in memory shared with the kernel"
    )]
    fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel says that an aligned counter is there, and lives as long as the
        // mapping; both sides change it atomically only.
        unsafe { AtomicU32::from_ptr(self.queues.at(offset).cast()) }
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn pending(&self) -> u32 {
        let tail = self.counter(self.params.sq_tail).load(Ordering::Relaxed);
        tail.wrapping_sub(self.counter(self.params.sq_head).load(Ordering::Acquire))
    }

    /// Puts an entry where the kernel takes it at the next [`Ring::enter`]; false if there is no
    /// room.
    #[expect(
        unsafe_code,
        reason = "the entries are in memory shared with the kernel"
    )]
    pub(super) fn push(&mut self, entry: Sqe) -> bool {
        if self.pending() >= self.params.sq_entries {
            return false;
        }
        let tail = self.counter(self.params.sq_tail).load(Ordering::Relaxed);
        // A power of two, as the kernel makes it.
        let index = (tail & (self.params.sq_entries - 1)) as usize;
        let place = self.entries.at(index * size_of::<Sqe>()).cast::<Sqe>();
        // SAFETY: the place is within the mapping, aligned, and the kernel does not read it before
        // the tail is beyond it.
        unsafe { place.write(entry) };
        self.counter(self.params.sq_tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    /// Hands over what was put, and waits for so many answers.
    #[expect(unsafe_code, reason = "nothing safe enters a ring")]
    pub(super) fn enter(&mut self, answers: u32) -> io::Result<()> {
        loop {
            let pending = self.pending();
            // SAFETY: what the entries point to lives as long as the ring; see `Entry`.
            let entered = unsafe { io_uring_enter(self.fd.as_fd(), pending, answers, self.wait) };
            match entered {
                Ok(_) if self.pending() == 0 => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                // Short of memory for the moment, or answers wait to be read.
                Err(Errno::AGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Err(Errno::BUSY) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            if self.is_answered() {
                return Ok(());
            }
        }
    }

    fn is_answered(&self) -> bool {
        let head = self.counter(self.params.cq_head).load(Ordering::Relaxed);
        head != self.counter(self.params.cq_tail).load(Ordering::Acquire)
    }

    /// The next answer that is there.
    pub(super) fn answer(&mut self) -> Option<Cqe> {
        let answer = self.peek()?;
        let head = self.counter(self.params.cq_head).load(Ordering::Relaxed);
        self.counter(self.params.cq_head)
            .store(head.wrapping_add(1), Ordering::Release);
        Some(answer)
    }

    /// The same; it stays there.
    #[expect(
        unsafe_code,
        reason = "the answers are in memory shared with the kernel"
    )]
    pub(super) fn peek(&self) -> Option<Cqe> {
        if !self.is_answered() {
            return None;
        }
        let head = self.counter(self.params.cq_head).load(Ordering::Relaxed);
        let index = (head & (self.params.cq_entries - 1)) as usize;
        let place = self.queues.at(self.params.cqes + index * size_of::<Cqe>());
        // SAFETY: the place is within the mapping and aligned, and the kernel wrote it before it
        // moved the tail beyond it.
        Some(unsafe { place.cast::<Cqe>().read() })
    }
}
