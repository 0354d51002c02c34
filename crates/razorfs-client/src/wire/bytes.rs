//! Putting messages together, and taking them apart.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use razorfs::{Ino, Stat, Time};

use super::MAX_PATH;
use crate::others::Kind;

/// Bytes that are put together.
#[derive(Default)]
pub struct Put {
    /// Those so far.
    pub out: Vec<u8>,
    /// Something is longer than the other side takes it.
    pub is_too_long: bool,
}

impl Put {
    pub fn u8(&mut self, n: u8) {
        self.out.push(n);
    }

    pub fn u32(&mut self, n: u32) {
        self.out.extend_from_slice(&n.to_le_bytes());
    }

    pub fn u64(&mut self, n: u64) {
        self.out.extend_from_slice(&n.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn len(&mut self, len: usize) {
        let n = u32::try_from(len);
        self.is_too_long |= n.is_err();
        self.u32(n.unwrap_or(u32::MAX));
    }

    pub fn list<T>(&mut self, all: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.len(all.len());
        for one in all {
            each(self, one);
        }
    }

    pub fn path(&mut self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        self.is_too_long |= path.len() > MAX_PATH;
        self.bytes(path);
    }

    pub fn at(&mut self, word: u8, path: &Path) {
        self.u8(word);
        self.path(path);
    }

    pub fn kind(&mut self, kind: Kind) {
        self.u8(match kind {
            Kind::Snapshot => 0,
            Kind::Branch => 1,
        });
    }

    pub fn point(&mut self, word: u8, kind: Kind, name: &str) {
        self.u8(word);
        self.kind(kind);
        self.bytes(name.as_bytes());
    }

    pub fn handle(&mut self, word: u8, handle: u32) {
        self.u8(word);
        self.u32(handle);
    }

    pub fn time(&mut self, time: Time) {
        self.out.extend_from_slice(&time.secs.to_le_bytes());
        self.u32(time.nanos);
    }

    pub fn stat(&mut self, stat: &Stat) {
        self.u64(stat.ino.0);
        for n in [
            stat.mode, stat.nlink, stat.uid, stat.gid, stat.rdev, stat.flags,
        ] {
            self.u32(n);
        }
        self.u64(stat.size);
        self.u64(stat.blocks);
        for time in [stat.atime, stat.mtime, stat.ctime, stat.btime] {
            self.time(time);
        }
    }
}

/// Bytes that are taken apart.
pub struct Get<'a>(pub &'a [u8]);

impl<'a> Get<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[n]| n)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn vec(&mut self) -> Option<Vec<u8>> {
        self.bytes().map(<[u8]>::to_vec)
    }

    pub fn string(&mut self) -> Option<String> {
        String::from_utf8(self.vec()?).ok()
    }

    pub fn os_string(&mut self) -> Option<OsString> {
        self.vec().map(OsString::from_vec)
    }

    /// Takes memory for what is there, not for what the number claims.
    pub fn list<T>(&mut self, each: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        for _ in 0..self.u32()? {
            all.push(each(self)?);
        }
        Some(all)
    }

    pub fn path(&mut self) -> Option<PathBuf> {
        let path = self.bytes()?;
        let fits = path.len() <= MAX_PATH;
        fits.then(|| OsString::from_vec(path.to_vec()).into())
    }

    pub fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn kind(&mut self) -> Option<Kind> {
        match self.u8()? {
            0 => Some(Kind::Snapshot),
            1 => Some(Kind::Branch),
            _ => None,
        }
    }

    pub fn ino(&mut self) -> Option<Ino> {
        self.u64().map(Ino)
    }

    pub fn time(&mut self) -> Option<Time> {
        Some(Time {
            secs: self.array().map(i64::from_le_bytes)?,
            nanos: self.u32()?,
        })
    }

    pub fn stat(&mut self) -> Option<Stat> {
        Some(Stat {
            ino: self.ino()?,
            mode: self.u32()?,
            nlink: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            rdev: self.u32()?,
            flags: self.u32()?,
            size: self.u64()?,
            blocks: self.u64()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            btime: self.time()?,
        })
    }
}
