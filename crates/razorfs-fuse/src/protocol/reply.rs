//! Answers: `len u32 | error i32 (negated) | unique u64`, then what the request asked for.

use razorfs::{Entry, Stat, Time, VolumeSpace};

/// Bytes of the header of an answer.
pub const REPLY_HEADER: usize = 16;

/// For how long, in seconds, the kernel may use what we tell it without asking again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// That a name leads to an inode, or to nothing.
    pub entry: u64,
    /// Attributes.
    pub attributes: u64,
}

impl Default for Validity {
    fn default() -> Self {
        // Nobody changes the volume behind the kernel's back, except those who notify it.
        Self {
            entry: 3600,
            attributes: 3600,
        }
    }
}

/// Appends integers in the byte order of the machine.
pub trait Encode {
    /// Two bytes.
    fn u16(&mut self, v: u16);
    /// Four bytes.
    fn u32(&mut self, v: u32);
    /// Eight bytes.
    fn u64(&mut self, v: u64);
    /// `n` zero bytes.
    fn zeros(&mut self, n: usize);
}

impl Encode for Vec<u8> {
    fn u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
    fn u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_ne_bytes());
    }
    fn zeros(&mut self, n: usize) {
        self.resize(self.len() + n, 0);
    }
}

/// Block size that `stat` shows.
const BLOCK_SIZE: u32 = 4096;

/// The header of an answer with `body` bytes after it; `errno` is positive or 0.
#[must_use]
pub fn reply_header(unique: u64, errno: i32, body: usize) -> [u8; REPLY_HEADER] {
    let len = u32::try_from(REPLY_HEADER + body).unwrap_or(u32::MAX);
    let [l0, l1, l2, l3] = len.to_ne_bytes();
    let [e0, e1, e2, e3] = (-errno).to_ne_bytes();
    let [u0, u1, u2, u3, u4, u5, u6, u7] = unique.to_ne_bytes();
    [
        l0, l1, l2, l3, e0, e1, e2, e3, u0, u1, u2, u3, u4, u5, u6, u7,
    ]
}

fn put_attr(out: &mut Vec<u8>, stat: &Stat) {
    for v in [stat.ino.0, stat.size, stat.blocks] {
        out.u64(v);
    }
    for time in [stat.atime, stat.mtime, stat.ctime] {
        out.u64(time.secs as u64);
    }
    for time in [stat.atime, stat.mtime, stat.ctime] {
        out.u32(time.nanos);
    }
    for v in [
        stat.mode, stat.nlink, stat.uid, stat.gid, stat.rdev, BLOCK_SIZE, 0,
    ] {
        out.u32(v);
    }
}

/// The answer to LOOKUP and to whatever creates: inode, generation, validities, attributes.
pub fn put_entry(out: &mut Vec<u8>, stat: &Stat, generation: u64, validity: Validity) {
    out.u64(stat.ino.0);
    out.u64(generation);
    out.u64(validity.entry);
    out.u64(validity.attributes);
    out.u64(0);
    put_attr(out, stat);
}

/// The answer to LOOKUP of a name that is not there: the kernel remembers that.
pub fn put_negative_entry(out: &mut Vec<u8>, validity: Validity) {
    out.zeros(16);
    out.u64(validity.entry);
    out.zeros(104);
}

/// The answer to GETATTR and SETATTR.
pub fn put_attributes(out: &mut Vec<u8>, stat: &Stat, validity: Validity) {
    out.u64(validity.attributes);
    out.u64(0);
    put_attr(out, stat);
}

/// The answer to STATX: all that `stat` has and the time of creation.
pub fn put_statx(out: &mut Vec<u8>, stat: &Stat, validity: Validity) {
    const BASIC_AND_BIRTH: u32 = 0xfff;
    out.u64(validity.attributes);
    out.u32(0);
    out.u32(0);
    out.zeros(16);
    out.u32(BASIC_AND_BIRTH);
    out.u32(BLOCK_SIZE);
    out.u64(0);
    for v in [stat.nlink, stat.uid, stat.gid] {
        out.u32(v);
    }
    // Modes have 16 bits.
    out.u16(stat.mode as u16);
    out.u16(0);
    for v in [stat.ino.0, stat.size, stat.blocks, 0] {
        out.u64(v);
    }
    for time in [stat.atime, stat.btime, stat.ctime, stat.mtime] {
        put_time(out, time);
    }
    let (major, minor) = (
        stat.rdev >> 8 & 0xfff,
        stat.rdev & 0xff | stat.rdev >> 12 & !0xff,
    );
    for v in [major, minor, 0, 0] {
        out.u32(v);
    }
    out.zeros(14 * 8);
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.u64(time.secs as u64);
    out.u32(time.nanos);
    out.u32(0);
}

/// The answer to OPEN and OPENDIR, and the end of that to CREATE: no handle, and these flags.
pub fn put_open(out: &mut Vec<u8>, flags: u32) {
    out.u64(0);
    out.u32(flags);
    out.u32(0);
}

/// The answer to WRITE and COPY_FILE_RANGE: the number of bytes.
pub fn put_write(out: &mut Vec<u8>, bytes: u32) {
    out.u32(bytes);
    out.u32(0);
}

/// The answer to GETXATTR and LISTXATTR that ask for the size.
pub fn put_size(out: &mut Vec<u8>, bytes: u32) {
    out.u32(bytes);
    out.u32(0);
}

/// The answer to LSEEK and COPY_FILE_RANGE_64.
pub fn put_u64(out: &mut Vec<u8>, v: u64) {
    out.u64(v);
}

/// The answer to IOCTL, followed by what it hands out.
pub fn put_ioctl(out: &mut Vec<u8>, data: &[u8]) {
    out.zeros(16);
    out.extend_from_slice(data);
}

/// The answer to STATFS.
pub fn put_statfs(out: &mut Vec<u8>, space: &VolumeSpace) {
    let block = u64::from(BLOCK_SIZE);
    let free = space.free / block;
    out.u64(space.total / block);
    out.u64(free);
    out.u64(free);
    // An inode takes far less than a block, so the space is what limits their number.
    out.u64(space.inodes.saturating_add(free));
    out.u64(free);
    out.u32(BLOCK_SIZE);
    out.u32(255);
    out.u32(BLOCK_SIZE);
    out.zeros(28);
}

/// A message of ours to the kernel: `unique` is 0 and `error` the positive code.
#[must_use]
pub fn put_notification(code: i32, body: usize) -> [u8; REPLY_HEADER] {
    reply_header(0, -code, body)
}

/// The answer to READDIR and READDIRPLUS: entries until the size that was asked for is full.
#[derive(Debug)]
pub struct DirectoryBuffer<'a> {
    out: &'a mut Vec<u8>,
    size: usize,
    plus: bool,
}

impl<'a> DirectoryBuffer<'a> {
    /// Appends to `out`, which is emptied, up to `size` bytes.
    pub fn new(out: &'a mut Vec<u8>, size: usize, plus: bool) -> Self {
        out.clear();
        Self { out, size, plus }
    }

    /// Bytes that an entry with a name of this length takes.
    #[must_use]
    pub const fn entry_len(name: usize, plus: bool) -> usize {
        (if plus { 128 } else { 0 }) + (24 + name).next_multiple_of(8)
    }

    /// Appends an entry, with its attributes and generation if there are any and they were asked
    /// for; says whether it fitted. Without attributes the kernel takes the name only.
    pub fn push(&mut self, entry: &Entry, stat: Option<(&Stat, u64)>, validity: Validity) -> bool {
        let len = Self::entry_len(entry.name.len(), self.plus);
        if self.out.len() + len > self.size {
            return false;
        }
        let start = self.out.len();
        match (self.plus, stat) {
            (true, Some((stat, generation))) => put_entry(self.out, stat, generation, validity),
            (true, None) => self.out.zeros(128),
            (false, _) => {}
        }
        self.out.u64(entry.ino.0);
        self.out.u64(entry.cookie);
        // Names have at most 255 bytes.
        self.out.u32(entry.name.len() as u32);
        self.out.u32(u32::from(entry.kind as u8));
        self.out.extend_from_slice(&entry.name);
        self.out.resize(start + len, 0);
        true
    }
}
