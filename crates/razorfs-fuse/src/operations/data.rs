//! Requests about file data.

use razorfs::{AllocateMode, Ino, SeekFor};

use super::{Errno, Operations, Result};
use razorfs::redo::as_request;
use razorfs_format::record::FILE_MAX;

use crate::protocol::{self, Operation, Request, flag};
use crate::transport::{Reply, Scratch};

/// Bytes copied by one COPY_FILE_RANGE; callers go on from where it ended.
const COPY_MAX: u64 = 64 << 20;

impl Operations {
    pub(super) fn read(
        &self,
        ino: Ino,
        operation: &Operation<'_>,
        reply: Reply,
        scratch: &mut Scratch,
    ) {
        let Operation::Read {
            offset,
            size,
            flags,
        } = *operation
        else {
            return self.fail(Errno(libc::ENOSYS), reply);
        };
        let size = size.min(self.limits.max_write) as usize;
        let sent = reply.fill(size, &mut scratch.data, &mut |buf| {
            let n = self.fs.read(ino, offset, buf);
            let n = n.map_err(|e| Errno::from(e).0)?;
            self.statistics.count_read(n);
            // Before the answer, after which the kernel may ask for the time.
            self.accessed(ino, flags);
            Ok(n)
        });
        if let Err(errno) = sent {
            self.count(errno);
        }
    }

    /// The inode has been read by whoever opened it with these flags.
    pub(super) fn accessed(&self, ino: Ino, flags: u32) {
        if flags & libc::O_NOATIME as u32 == 0 {
            self.fs.accessed(ino);
        }
    }

    pub(super) fn write(
        &self,
        request: &Request<'_>,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        out: &mut Vec<u8>,
    ) -> Result {
        let ino = Ino(request.header.node);
        if write_flags & flag::WRITE_KILL_SUIDGID != 0 {
            self.clear_privileges(ino)?;
        }
        // Done again it would undo what others have written since.
        let n = match self.applied(request) {
            // Only whole ones are, but for what a file cannot have.
            Some(_) => FILE_MAX.saturating_sub(offset).min(data.len() as u64) as usize,
            None => {
                let write = || self.fs.write(ino, offset, data);
                as_request(self.number(request), write)?
            }
        };
        self.statistics.count_written(n);
        // No more than came, so it fits.
        protocol::put_write(out, n as u32);
        Ok(())
    }

    /// Answers with `body` when everything done before is durable. Any descriptor will do, and the
    /// thread goes on meanwhile.
    pub(super) fn sync(&self, reply: Reply, body: &[u8]) {
        let body: Box<[u8]> = body.into();
        self.fs.sync_then(Box::new(move |result| match result {
            Ok(()) => {
                reply.bytes(&body);
            }
            Err(e) => {
                tracing::error!("fsync failed: {e}");
                reply.error(e.errno());
            }
        }));
    }

    pub(super) fn allocate(
        &self,
        request: &Request<'_>,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result {
        let ino = Ino(request.header.node);
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let mode = match mode as i32 {
            0 => AllocateMode::Extend,
            KEEP => AllocateMode::KeepSize,
            PUNCH => AllocateMode::PunchHole,
            ZERO => AllocateMode::ZeroExtend,
            ZERO_KEEP => AllocateMode::ZeroKeepSize,
            _ => return Err(Errno(libc::EOPNOTSUPP)),
        };
        if self.applied(request).is_none() {
            let allocate = || self.fs.allocate(ino, mode, offset, length);
            as_request(self.number(request), allocate)?;
        }
        Ok(())
    }

    pub(super) fn seek(&self, ino: Ino, offset: u64, whence: u32, out: &mut Vec<u8>) -> Result {
        let what = match whence as i32 {
            libc::SEEK_DATA => SeekFor::Data,
            libc::SEEK_HOLE => SeekFor::Hole,
            _ => return Err(Errno(libc::EINVAL)),
        };
        protocol::put_u64(out, self.fs.seek(ino, offset, what)?);
        Ok(())
    }

    pub(super) fn copy(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Result {
        let Operation::CopyFileRange {
            off_in,
            to,
            off_out,
            len,
            wide,
        } = request.operation
        else {
            return Err(Errno(libc::ENOSYS));
        };
        let (from, len) = (Ino(request.header.node), len.min(COPY_MAX));
        let n = match self.applied(request) {
            Some(copied) => copied,
            None => {
                let copy = || self.fs.copy_range(from, off_in, Ino(to), off_out, len);
                as_request(self.number(request), copy)?
            }
        };
        if wide {
            protocol::put_u64(out, n);
        } else {
            protocol::put_write(out, n as u32);
        }
        Ok(())
    }
}
