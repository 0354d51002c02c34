//! Reading past the host's cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::{own, read_all, retry};

/// Positions, lengths and addresses of direct reads are multiples of this. It is a multiple of
/// the logical block size of any disk we know of.
const ALIGN: usize = 4096;
/// The most bytes of one direct read.
const CHUNK: usize = 1 << 20;

/// How a file is read past the host's cache.
pub(super) struct Uncached {
    /// With `O_DIRECT`; else the cache is dropped before each read, which leaves dirty pages.
    direct: AtomicBool,
}

impl Uncached {
    /// Opens with `O_DIRECT` where the file system knows it.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<(File, Self)> {
        let (file, direct) = match own::open(path, options, OFlags::DIRECT) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {
                (own::open(path, options, OFlags::empty())?, false)
            }
            file => (file?, true),
        };
        let direct = AtomicBool::new(direct);
        Ok((file, Self { direct }))
    }

    /// Without `O_DIRECT`, whatever the file system knows.
    #[cfg(test)]
    pub(super) fn dropping() -> Self {
        let direct = AtomicBool::new(false);
        Self { direct }
    }

    /// Reads until `buf` is full or the file ends.
    pub(super) fn read(
        &self,
        file: &File,
        buf: &mut [u8],
        offset: u64,
    ) -> rustix::io::Result<usize> {
        if self.direct.load(Ordering::Relaxed) {
            match read_direct(file, buf, offset) {
                // Known at open and refused at read: some stacked file systems do that.
                Err(Errno::INVAL) => {
                    fcntl_setfl(file, fcntl_getfl(file)? - OFlags::DIRECT)?;
                    self.direct.store(false, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        // Advice only: what the host does not drop it answers from its cache.
        let len = NonZeroU64::new(buf.len() as u64);
        let _dropped = rustix::fs::fadvise(file, offset, len, Advice::DontNeed);
        read_all(file, buf, offset)
    }
}

/// Reads whole aligned pieces into an aligned buffer and copies out what was asked for.
fn read_direct(file: &File, buf: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let span = buf.len().saturating_add(2 * ALIGN).min(CHUNK);
    let mut room = vec![0; span.next_multiple_of(ALIGN) + ALIGN];
    let skip = room.as_ptr().align_offset(ALIGN);
    let bounce = room.get_mut(skip..).unwrap_or_default();
    let whole = bounce.len() / ALIGN * ALIGN;
    let (bounce, _) = bounce.split_at_mut(whole);
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        let start = at - at % ALIGN as u64;
        let lead = (at - start) as usize;
        let want = (lead + buf.len() - done).next_multiple_of(ALIGN);
        let (piece, _) = bounce.split_at_mut(want.min(whole));
        let n = retry(|| rustix::io::pread(file, &mut *piece, start))?;
        let Some(fresh) = piece.get(lead..n).filter(|fresh| !fresh.is_empty()) else {
            break;
        };
        let Some(to) = buf.get_mut(done..) else { break };
        let take = fresh.len().min(to.len());
        to.iter_mut().zip(fresh).for_each(|(to, from)| *to = *from);
        done += take;
    }
    Ok(done)
}
