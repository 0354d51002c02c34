//! INIT: which version and which features are spoken.

use super::take::{Short, Take};

/// The version of the protocol that we speak; its minor number is the newest that we know.
pub const MAJOR: u32 = 7;
const MINOR: u32 = 45;
/// Linux 5.4: older ones have shorter structures.
const OLDEST_MINOR: u32 = 31;

/// Features, as bits of INIT.
#[expect(
    missing_docs,
    reason = "the names are those of the protocol, which explains them"
)]
pub mod flags {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// What we want if the kernel has it.
///
/// Not in it, with the reason: ATOMIC_O_TRUNC, as it would lose truncations where OPEN is never
/// sent (without it the kernel truncates by SETATTR, one request as well); WRITEBACK_CACHE, as the
/// kernel would hand data over later than what followed it; ASYNC_DIO, as a direct write must be
/// whole; POSIX_LOCKS and FLOCK_LOCKS, which the kernel does well alone.
///
/// With POSIX_ACL the kernel obeys access lists and leaves their inheritance to us, and so, with
/// DONT_MASK, the umask, which counts only where nothing is inherited.
///
/// With NO_OPENDIR_SUPPORT the kernel also caches what directories hold. It drops that with every
/// change, and asks us for a position that its copy does not have.
const WANTED: u64 = flags::ASYNC_READ
    | flags::EXPORT_SUPPORT
    | flags::BIG_WRITES
    | flags::DO_READDIRPLUS
    | flags::READDIRPLUS_AUTO
    | flags::NO_OPEN_SUPPORT
    | flags::NO_OPENDIR_SUPPORT
    | flags::PARALLEL_DIROPS
    | flags::POSIX_ACL
    | flags::DONT_MASK
    | flags::MAX_PAGES
    | flags::CACHE_SYMLINKS
    | flags::EXPLICIT_INVAL_DATA
    | flags::HANDLE_KILLPRIV_V2
    | flags::SETXATTR_EXT
    | flags::INIT_EXT
    | flags::HAS_RESEND
    | flags::OVER_IO_URING;

/// What the kernel offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitIn {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Bytes that the kernel would read ahead at most.
    pub max_readahead: u32,
    /// [`flags`].
    pub flags: u64,
}

impl InitIn {
    pub(super) fn read(t: &mut Take<'_>) -> Result<Self, Short> {
        let (major, minor) = (t.u32()?, t.u32()?);
        let (max_readahead, low) = (t.u32()?, t.u32()?);
        let mut flags = u64::from(low);
        if flags & flags::INIT_EXT != 0 {
            flags |= u64::from(t.u32()?) << 32;
        }
        Ok(Self {
            major,
            minor,
            max_readahead,
            flags,
        })
    }
}

/// Differences between kernels that matter for reading requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dialect {
    /// SETXATTR has two more fields.
    pub setxattr_ext: bool,
}

impl Dialect {
    const fn of(flags: u64) -> Self {
        Self {
            setxattr_ext: flags & flags::SETXATTR_EXT != 0,
        }
    }
}

/// Sizes that we offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of the largest READ or WRITE; a multiple of the page size.
    pub max_write: u32,
    /// Requests that the kernel keeps going without anybody waiting for them (read-ahead).
    pub max_background: u16,
    /// Features to leave out.
    pub without: u64,
    /// Whether what was read stays in the kernel's cache when a file is opened again.
    pub keep_cache: bool,
}

impl Limits {
    /// Without access lists. The kernel looks for one at the first use of each file that does not
    /// belong to the caller.
    #[must_use]
    pub fn without_access_lists(mut self) -> Self {
        self.without |= flags::POSIX_ACL | flags::DONT_MASK;
        self
    }

    /// So that the first read after each opening comes to the server, at the price of a request
    /// for each opening: what strictatime needs.
    #[must_use]
    pub fn seeing_opens(mut self) -> Self {
        self.without |= flags::NO_OPEN_SUPPORT | flags::NO_OPENDIR_SUPPORT | flags::CACHE_SYMLINKS;
        self.keep_cache = false;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_write: 1 << 20,
            max_background: 64,
            without: 0,
            keep_cache: true,
        }
    }
}

/// The outcome of INIT.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// Bytes of the answer.
    pub reply: Vec<u8>,
    /// Minor version spoken.
    pub minor: u32,
    /// [`flags`] that hold.
    pub flags: u64,
    /// How requests are to be read.
    pub dialect: Dialect,
}

/// What another server of the same mount has to know of INIT, which the kernel sends once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// Minor version spoken.
    pub minor: u32,
    /// [`flags`] that hold.
    pub flags: u64,
}

impl Agreed {
    /// Whether the kernel sends requests that were not answered to another server.
    #[must_use]
    pub const fn can_resend(&self) -> bool {
        // What was sent over io_uring it does not send again.
        self.flags & flags::HAS_RESEND != 0 && !self.is_over_io_uring()
    }

    /// Whether requests come over io_uring.
    #[must_use]
    pub const fn is_over_io_uring(&self) -> bool {
        self.flags & flags::OVER_IO_URING != 0
    }
}

impl From<Agreed> for Negotiated {
    fn from(agreed: Agreed) -> Self {
        Self {
            reply: Vec::new(),
            minor: agreed.minor,
            flags: agreed.flags,
            dialect: Dialect::of(agreed.flags),
        }
    }
}

impl Negotiated {
    /// What another server has to know of it.
    #[must_use]
    pub const fn agreed(&self) -> Agreed {
        Agreed {
            minor: self.minor,
            flags: self.flags,
        }
    }
}

/// A kernel that we cannot talk to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel speaks FUSE {major}.{minor}, but 7.31 (Linux 5.4) or newer is needed")]
pub struct Unusable {
    major: u32,
    minor: u32,
}

/// Answers INIT. `Ok(None)` is the answer to a newer major version: the kernel asks again.
pub fn negotiate(
    offer: &InitIn,
    limits: &Limits,
) -> Result<(Vec<u8>, Option<Negotiated>), Unusable> {
    if offer.major > MAJOR {
        return Ok((init_out(MINOR, 0, 0, limits), None));
    }
    if offer.major < MAJOR || offer.minor < OLDEST_MINOR {
        return Err(Unusable {
            major: offer.major,
            minor: offer.minor,
        });
    }
    let minor = offer.minor.min(MINOR);
    let flags = WANTED & offer.flags & !limits.without;
    let reply = init_out(minor, offer.max_readahead, flags, limits);
    let negotiated = Negotiated {
        reply: reply.clone(),
        minor,
        flags,
        dialect: Dialect::of(flags),
    };
    Ok((reply, Some(negotiated)))
}

/// `major u32 | minor u32 | max_readahead u32 | flags u32 | max_background u16 |
/// congestion_threshold u16 | max_write u32 | time_gran u32 | max_pages u16 | map_alignment u16 |
/// flags2 u32 | max_stack_depth u32 | request_timeout u16 | reserved`, 64 bytes in all.
fn init_out(minor: u32, max_readahead: u32, flags: u64, limits: &Limits) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for v in [MAJOR, minor, max_readahead, flags as u32] {
        out.extend_from_slice(&v.to_ne_bytes());
    }
    out.extend_from_slice(&limits.max_background.to_ne_bytes());
    out.extend_from_slice(&(limits.max_background / 4 * 3).to_ne_bytes());
    out.extend_from_slice(&limits.max_write.to_ne_bytes());
    // Times are kept to the nanosecond.
    out.extend_from_slice(&1u32.to_ne_bytes());
    let pages = u16::try_from(limits.max_write / 4096).unwrap_or(u16::MAX);
    out.extend_from_slice(&pages.to_ne_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&((flags >> 32) as u32).to_ne_bytes());
    out.resize(64, 0);
    out
}
