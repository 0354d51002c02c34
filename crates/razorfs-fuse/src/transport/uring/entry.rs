//! The memory of one request at a time, as the kernel lays it out, and its answer.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 128 | header of the request, 40 bytes; of the answer, 16 |
//! | 128 | 128 | the first part of the request, of the length that the others leave |
//! | 256 | 32 | `flags u64, commit id u64, payload bytes u32, padding u32, reserved u64` |
//! | 4096 | the largest payload | the other parts of the request; all of the answer |
//!
//! The page before the payload is ours but for its first 288 bytes: what a request has in its other
//! two places is copied to just before the payload, so that it is whole, as over /dev/fuse, and a
//! large write is not copied again.

#[cfg(test)]
mod entry_tests;

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::ring::{Mapping, Sqe};
use crate::protocol::{IN_HEADER, REPLY_HEADER, header_of, reply_header};
use crate::transport::{Fill, ReplySink, ReplyTo};

const OP_URING_CMD: u8 = 46;
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// `struct fuse_uring_ent_in_out`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct InOut {
    flags: u64,
    commit_id: u64,
    payload: u32,
    padding: u32,
    reserved: u64,
}

/// `struct fuse_uring_req_header`.
#[repr(C)]
struct Headers {
    header: [u8; 128],
    first: [u8; 128],
    in_out: InOut,
}

/// `struct fuse_uring_cmd_req`: `flags u64, commit id u64, queue u16, padding`.
const fn command(commit_id: u64, queue: u16) -> [u64; 10] {
    let [q0, q1] = queue.to_ne_bytes();
    let queue = u64::from_ne_bytes([q0, q1, 0, 0, 0, 0, 0, 0]);
    [0, commit_id, queue, 0, 0, 0, 0, 0, 0, 0]
}

const FIRST: usize = std::mem::offset_of!(Headers, first);
const IN_OUT: usize = std::mem::offset_of!(Headers, in_out);
/// Where the payload begins.
const PAYLOAD: usize = 4096;

const _: () = {
    assert!(size_of::<InOut>() == 32);
    assert!(size_of::<Headers>() == 288);
    assert!(FIRST == 128);
    assert!(IN_OUT == 256);
    // What is copied to before the payload leaves the kernel's places alone.
    assert!(size_of::<Headers>() + IN_HEADER + 128 <= PAYLOAD);
};

/// A request up to so many bytes is copied: then the answer can be written to its place at once.
const SMALL: usize = 1024;
/// A payload of which more than this was used is worth giving back.
const LARGE: usize = 64 << 10;

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Part {
    start: *mut u8,
    len: usize,
}

/// What the threads that may answer share with the one that waits for the answer.
pub(super) struct Slot {
    memory: Mapping,
    owner: Thread,
    answer: Mutex<Answer>,
}

#[derive(Default)]
struct Answer {
    given: bool,
    /// Whether the owner sleeps until there is one.
    awaited: bool,
    /// Whether nobody reads the request in the payload any more.
    payload_is_free: bool,
    header: [u8; REPLY_HEADER],
    len: usize,
    /// What could not be written to the payload yet.
    body: Vec<u8>,
}

impl Slot {
    fn capacity(&self) -> usize {
        self.memory.len() - PAYLOAD
    }

    /// Writes to the payload; what is beyond its end is not.
    #[expect(unsafe_code, reason = "the memory is shared with the kernel")]
    fn fill(&self, offset: usize, bytes: &[u8]) {
        let len = bytes.len().min(self.capacity().saturating_sub(offset));
        let place = self.memory.at(PAYLOAD + offset);
        // SAFETY: within the mapping; the kernel looks at it only while the request is with it, and
        // no reference is into it while an answer is written; see `Answer::payload_is_free`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, len) };
    }

    /// The next request is here.
    fn begin(&self, payload_is_free: bool) {
        let mut answer = self.answer.lock();
        answer.given = false;
        answer.awaited = false;
        answer.payload_is_free = payload_is_free;
    }

    /// The same, of what `fill` writes to the payload; none if the request is still there.
    #[expect(unsafe_code, reason = "the memory is shared with the kernel")]
    fn give_filled(&self, unique: u64, len: usize, fill: Fill<'_>) -> Option<Result<(), i32>> {
        let mut answer = self.answer.lock();
        if !answer.payload_is_free || len > self.capacity() {
            return None;
        }
        // SAFETY: within the mapping, which began as zeros. The lock is held, so nobody else has a
        // reference; the kernel looks at it only while the request is with it.
        let place = unsafe { std::slice::from_raw_parts_mut(self.memory.at(PAYLOAD), len) };
        match fill(place) {
            Ok(n) => {
                answer.len = n.min(len);
                answer.header = reply_header(unique, 0, answer.len);
                answer.given = true;
                if answer.awaited {
                    self.owner.unpark();
                }
                Some(Ok(()))
            }
            Err(errno) => Some(Err(errno)),
        }
    }

    fn give(&self, header: &[u8], body: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = body.iter().map(|part| part.len()).sum();
        if len > self.capacity() || header.len() != REPLY_HEADER {
            return Err(Errno::INVAL.into());
        }
        let mut answer = self.answer.lock();
        answer.header.copy_from_slice(header);
        answer.len = len;
        answer.body.clear();
        let mut at = 0;
        for part in body {
            if answer.payload_is_free {
                self.fill(at, part);
            } else {
                answer.body.extend_from_slice(part);
            }
            at += part.len();
        }
        answer.given = true;
        if answer.awaited {
            self.owner.unpark();
        }
        Ok(())
    }
}

/// The answer to one request, owed by whoever holds this. The kernel takes one to every request
/// that it sends this way; without another it is EIO.
struct Owed {
    slot: Arc<Slot>,
    unique: u64,
    /// The slot may be at the next request before this is dropped.
    given: AtomicBool,
}

impl ReplySink for Owed {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let (header, body) = parts.split_first().ok_or(Errno::INVAL)?;
        self.given.store(true, Ordering::Relaxed);
        let sent = self.slot.give(header, body);
        if sent.is_err() {
            self.given.store(false, Ordering::Relaxed);
        }
        sent
    }

    fn fill(&self, unique: u64, len: usize, fill: Fill<'_>) -> Option<Result<(), i32>> {
        let filled = self.slot.give_filled(unique, len, fill);
        self.given
            .store(matches!(filled, Some(Ok(()))), Ordering::Relaxed);
        filled
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !*self.given.get_mut() {
            // Without a body it fits.
            let _ = self
                .slot
                .give(&reply_header(self.unique, libc::EIO, 0), &[]);
        }
    }
}

/// A place for one request at a time. The kernel writes one to it, and takes the answer from it.
pub(super) struct Entry {
    slot: Arc<Slot>,
    /// What the kernel is told the memory by, at registration.
    parts: Box<[Part; 2]>,
    /// The queue whose requests it takes.
    pub(super) queue: u16,
    commit_id: u64,
    small: [u8; SMALL],
    /// Whether it was used for something large since memory was given back.
    is_large: bool,
}

impl Entry {
    /// For the calling thread, with a payload of so many bytes.
    pub(super) fn new(queue: u16, payload: usize) -> io::Result<Self> {
        let memory = Mapping::anonymous(PAYLOAD + payload)?;
        let parts = Box::new([
            Part {
                start: memory.at(0),
                len: size_of::<Headers>(),
            },
            Part {
                start: memory.at(PAYLOAD),
                len: payload,
            },
        ]);
        let slot = Slot {
            memory,
            owner: std::thread::current(),
            answer: Mutex::default(),
        };
        Ok(Self {
            slot: Arc::new(slot),
            parts,
            queue,
            commit_id: 0,
            small: [0; SMALL],
            is_large: false,
        })
    }

    /// Tells the kernel of it, which sends a request when there is one.
    pub(super) fn register(&self, fuse: RawFd, user_data: u64) -> Sqe {
        Sqe {
            command: REGISTER,
            addr: self.parts.as_ptr() as u64,
            len: 2,
            data: command(0, self.queue),
            ..Sqe::new(OP_URING_CMD, fuse, user_data)
        }
    }

    /// Hands the answer over; the kernel sends the next request when there is one.
    pub(super) fn commit(&self, fuse: RawFd, user_data: u64) -> Sqe {
        Sqe {
            command: COMMIT_AND_FETCH,
            data: command(self.commit_id, self.queue),
            ..Sqe::new(OP_URING_CMD, fuse, user_data)
        }
    }

    /// What was asked for last, and was refused.
    pub(super) fn again(&self, fuse: RawFd, user_data: u64) -> Sqe {
        // No request has this number.
        if self.commit_id == 0 {
            self.register(fuse, user_data)
        } else {
            self.commit(fuse, user_data)
        }
    }

    /// Has the request that the kernel sent carried out, and waits for the answer, wherever that
    /// comes from.
    pub(super) fn serve(&mut self, carry_out: &mut dyn FnMut(&[u8], ReplyTo)) {
        let in_out = self.in_out();
        self.commit_id = in_out.commit_id;
        let message = self.message(in_out.payload as usize);
        let unique = message.map_or(in_out.commit_id, |message| {
            header_of(message).map_or(in_out.commit_id, |header| header.unique)
        });
        let small = message.and_then(|message| {
            let copy = self.small.get_mut(..message.len())?;
            copy.copy_from_slice(message);
            Some(&*copy)
        });
        self.slot.begin(small.is_some());
        let owed = Owed {
            slot: Arc::clone(&self.slot),
            unique,
            given: AtomicBool::new(false),
        };
        match small.or(message) {
            Some(message) => carry_out(message, ReplyTo(Arc::new(owed))),
            None => {
                tracing::error!("a request that is not what its header says");
                // Which answers it.
                drop(owed);
            }
        }
        self.finish(in_out.payload as usize);
    }

    #[expect(unsafe_code, reason = "the memory is shared with the kernel")]
    fn in_out(&self) -> InOut {
        // SAFETY: within the mapping and aligned; the kernel has written it.
        unsafe { self.slot.memory.at(IN_OUT).cast::<InOut>().read() }
    }

    /// The request as one message, in the memory; none if its lengths contradict each other.
    #[expect(unsafe_code, reason = "the memory is shared with the kernel")]
    fn message<'a>(&self, payload: usize) -> Option<&'a [u8]> {
        let (memory, mut header) = (&self.slot.memory, [0; IN_HEADER]);
        // SAFETY: within the mapping; the kernel has written it.
        unsafe { std::ptr::copy_nonoverlapping(memory.at(0), header.as_mut_ptr(), IN_HEADER) };
        let len = header_of(&header)?.len as usize;
        let first = first_part(len, payload, self.slot.capacity())?;
        let start = PAYLOAD - first - IN_HEADER;
        // SAFETY: all is within the mapping and does not overlap, as is asserted above. The kernel
        // does not write here before the answer is handed over, and we do not, see
        // `Answer::payload_is_free`, before `finish`, when the slice is gone.
        unsafe {
            std::ptr::copy_nonoverlapping(memory.at(0), memory.at(start), IN_HEADER);
            std::ptr::copy_nonoverlapping(memory.at(FIRST), memory.at(start + IN_HEADER), first);
            Some(std::slice::from_raw_parts(memory.at(start), len))
        }
    }

    /// Waits for the answer and puts it where the kernel takes it.
    #[expect(unsafe_code, reason = "the memory is shared with the kernel")]
    fn finish(&mut self, asked: usize) {
        let slot = &*self.slot;
        let mut answer = slot.answer.lock();
        while !answer.given {
            answer.awaited = true;
            drop(answer);
            std::thread::park();
            answer = slot.answer.lock();
        }
        if !answer.payload_is_free {
            slot.fill(0, &answer.body);
        }
        let in_out = InOut {
            commit_id: self.commit_id,
            // No more than the payload holds, which is far less than 4 GiB.
            payload: answer.len as u32,
            ..InOut::default()
        };
        self.is_large |= asked.max(answer.len) > LARGE;
        // SAFETY: within the mapping and aligned; the request is with us, and no reference is into
        // the memory any more.
        unsafe {
            slot.memory
                .at(0)
                .cast::<[u8; REPLY_HEADER]>()
                .write(answer.header);
            slot.memory.at(IN_OUT).cast::<InOut>().write(in_out);
        }
    }

    /// The answer is one to this request.
    #[cfg(test)]
    pub(super) fn commit_is(&mut self, id: u64) {
        self.commit_id = id;
    }

    /// The memory, to be kept longer than this.
    pub(super) fn memory(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// Whether something large went through since this was asked last.
    pub(super) fn was_large(&mut self) -> bool {
        std::mem::take(&mut self.is_large)
    }

    /// Gives the memory of the payload back to the host. For an entry that waits for a request.
    pub(super) fn give_back(&self) {
        self.slot.memory.give_back(PAYLOAD);
    }
}

/// Bytes of the first part of a request of `len` bytes with `payload` in its others.
fn first_part(len: usize, payload: usize, capacity: usize) -> Option<usize> {
    let first = len.checked_sub(IN_HEADER)?.checked_sub(payload)?;
    (first <= IN_OUT - FIRST && payload <= capacity).then_some(first)
}
