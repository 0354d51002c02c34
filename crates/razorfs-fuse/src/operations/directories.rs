//! Requests for the entries of directories.
//!
//! The position after an entry is its cookie; `.` has 1 and `..` has 2, entries of the volume begin
//! at 256.

use razorfs::{Entry, Error, FileKind, Ino, Stat};

use super::{Errno, Operations, Result};
use crate::protocol::{DirectoryBuffer, Operation};
use crate::transport::Reply;

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries that READDIRPLUS gathers at most before it looks at their inodes.
const GATHER: usize = 8192;

impl Operations {
    pub(super) fn read_dir(
        &self,
        dir: Ino,
        operation: &Operation<'_>,
        reply: Reply,
        out: &mut Vec<u8>,
    ) {
        let Operation::ReadDir {
            offset: after,
            size,
            flags,
            plus,
        } = *operation
        else {
            return self.fail(Errno(libc::ENOSYS), reply);
        };
        let size = size.min(self.limits.max_write) as usize;
        let mut pinned = Vec::new();
        let mut buffer = DirectoryBuffer::new(out, size, plus);
        let result = if plus {
            self.fill_plus(dir, after, size, &mut buffer, &mut pinned)
        } else {
            self.fill(dir, after, &mut buffer)
        };
        if result.is_ok() {
            self.accessed(dir, flags);
        }
        if let Err(e) = result {
            self.fail(e, reply);
        } else if !reply.bytes(out) {
            for ino in pinned {
                self.fs.unpin(ino, 1);
            }
        }
    }

    /// `.` and `..`; says whether there is room for more.
    fn fill_dots(&self, dir: Ino, after: u64, buffer: &mut DirectoryBuffer<'_>) -> Result<bool> {
        if after < DOT && !buffer.push(&dots(dir, DOT), None, self.validity) {
            return Ok(false);
        }
        if after < DOT_DOT {
            let parent = self.fs.parent_of(dir)?;
            return Ok(buffer.push(&dots(parent, DOT_DOT), None, self.validity));
        }
        Ok(true)
    }

    fn fill(&self, dir: Ino, after: u64, buffer: &mut DirectoryBuffer<'_>) -> Result {
        if self.fill_dots(dir, after, buffer)? {
            self.fs.collect_children(dir, start(after), &mut |entry| {
                buffer.push(&entry, None, self.validity)
            })?;
        }
        Ok(())
    }

    fn fill_plus(
        &self,
        dir: Ino,
        after: u64,
        size: usize,
        buffer: &mut DirectoryBuffer<'_>,
        pinned: &mut Vec<Ino>,
    ) -> Result {
        if !self.fill_dots(dir, after, buffer)? {
            return Ok(());
        }
        let mut after = start(after);
        loop {
            let entries = self.gather(dir, after, size)?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            after = last.cookie;
            // An answer without any entry would mean the end of the directory.
            if self.push_all(&entries, buffer, pinned) {
                return Ok(());
            }
        }
    }

    /// The next entries, as many as fit. Inodes are looked at afterwards, as the file system may
    /// hold locks while it calls back.
    fn gather(&self, dir: Ino, after: u64, size: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut room = size;
        self.fs.collect_children(dir, after, &mut |entry| {
            let len = DirectoryBuffer::entry_len(entry.name.len(), true);
            let fits = len <= room;
            room = room.saturating_sub(len);
            if fits {
                entries.push(entry);
            }
            fits && entries.len() < GATHER
        })?;
        Ok(entries)
    }

    /// Says whether the buffer has got any entry, or is full.
    fn push_all(
        &self,
        entries: &[Entry],
        buffer: &mut DirectoryBuffer<'_>,
        pinned: &mut Vec<Ino>,
    ) -> bool {
        let mut any = false;
        for (entry, stat) in entries.iter().zip(self.stat_all(entries)) {
            let stat = match stat {
                Ok(stat) => Some(stat),
                // Removed meanwhile.
                Err(Error::NotFound) => continue,
                // The name of a damaged inode is still a name.
                Err(_) => None,
            };
            any = true;
            let known = stat
                .as_ref()
                .map(|stat| (stat, self.underway.generation(stat.ino)));
            if !buffer.push(entry, known, self.validity) {
                break;
            }
            if stat.is_some() {
                self.fs.pin(entry.ino, 1);
                pinned.push(entry.ino);
            }
        }
        any
    }

    /// Attributes of all entries, asked for in the order of inodes, which is that of the disk.
    fn stat_all(&self, entries: &[Entry]) -> Vec<razorfs::Result<Stat>> {
        let mut order: Vec<_> = entries.iter().enumerate().collect();
        order.sort_unstable_by_key(|(_, entry)| entry.ino);
        let mut stats: Vec<_> = order
            .into_iter()
            .map(|(n, entry)| (n, self.fs.stat(entry.ino)))
            .collect();
        stats.sort_unstable_by_key(|&(n, _)| n);
        stats.into_iter().map(|(_, stat)| stat).collect()
    }
}

/// What the volume has to go on after.
const fn start(after: u64) -> u64 {
    if after <= DOT_DOT { 0 } else { after }
}

fn dots(ino: Ino, cookie: u64) -> Entry {
    let name: &[u8] = if cookie == DOT { b"." } else { b".." };
    Entry {
        cookie,
        ino,
        kind: FileKind::Directory,
        name: name.into(),
    }
}
