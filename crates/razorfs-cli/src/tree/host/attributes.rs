//! What a commit does one by one in a directory of the host: attributes, and names.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use razorfs::Time;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{HELD, HostTree, at_descriptor};
use crate::failure::Result;
use crate::tree::{Tree, id};

/// Attributes to be set; what is not there stays as it is.
#[derive(Default, Debug)]
pub struct Attributes {
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Extended attributes; those without a value go.
    pub xattrs: Vec<(OsString, Option<Vec<u8>>)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the data.
    pub mtime: Option<Time>,
}

impl HostTree {
    /// Sets attributes, in an order in which none undoes another: a new owner costs the setuid bit
    /// and capabilities, and an access list changes the permissions.
    pub fn set(&self, path: &Path, attributes: &Attributes) -> Result<()> {
        let what = "set the attributes of";
        let failed = |e: Errno| self.failed(what, path, e);
        let full = self.locate(path).map_err(|e| self.failed(what, path, e))?;
        if let Some((user, group)) = attributes.owner {
            let owner = (id(user.into()), id(group.into()));
            let owner = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            let no_follow = AtFlags::SYMLINK_NOFOLLOW;
            match rustix::fs::chownat(CWD, &*full, Some(owner.0), Some(owner.1), no_follow) {
                // Only root gives files away; others keep what they create.
                Err(Errno::PERM | Errno::INVAL) if !rustix::process::geteuid().is_root() => {}
                other => other.map_err(failed)?,
            }
        }
        for (name, value) in &attributes.xattrs {
            match value {
                Some(value) => self.set_xattr(path, &(name.clone(), value.clone()))?,
                None => self.remove_xattr(path, name)?,
            }
        }
        if let Some(mode) = attributes.mode {
            // Linux has no chmod that leaves links alone, so the file is held meanwhile.
            let held = rustix::fs::open(&*full, HELD, Mode::empty()).map_err(failed)?;
            rustix::fs::chmod(at_descriptor(&held), Mode::from_raw_mode(mode)).map_err(failed)?;
        }
        if attributes.atime.is_none() && attributes.mtime.is_none() {
            return Ok(());
        }
        let times = Timestamps {
            last_access: timespec(attributes.atime),
            last_modification: timespec(attributes.mtime),
        };
        rustix::fs::utimensat(CWD, &*full, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    /// Removes an extended attribute; it is right if there is none.
    fn remove_xattr(&self, path: &Path, name: &OsStr) -> Result<()> {
        let what = "remove an extended attribute of";
        let full = self.locate(path).map_err(|e| self.failed(what, path, e))?;
        match rustix::fs::lremovexattr(&*full, name) {
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(()),
            other => other.map_err(|e| self.failed(what, path, e)),
        }
    }

    /// Makes a file or the names in a directory durable.
    pub fn sync_one(&self, path: &Path) -> Result<()> {
        let synced = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK);
        let synced = synced.and_then(|fd| Ok(rustix::fs::fsync(fd)?));
        synced.map_err(|e| self.failed("sync", path, e))
    }

    /// Renames to where nothing is. Answers whether that was so; else nothing was done.
    pub fn rename_new(&self, from: &Path, to: &Path, is_dir: bool) -> Result<bool> {
        let failed = |e: std::io::Error| self.failed("rename to", to, e);
        let located = (self.locate(from), self.locate(to));
        let (source, target) = match located {
            (Ok(from), Ok(to)) => (from, to),
            (Err(e), _) | (_, Err(e)) => return Err(failed(e)),
        };
        let flags = RenameFlags::NOREPLACE;
        let renamed = match rustix::fs::renameat_with(CWD, &*source, CWD, &*target, flags) {
            // Some file systems have no such rename. A link replaces nothing either, and a
            // directory takes the place of nothing but an empty one.
            Err(Errno::INVAL | Errno::NOSYS) if is_dir => rustix::fs::rename(&*source, &*target),
            Err(Errno::INVAL | Errno::NOSYS) => {
                let linked = rustix::fs::linkat(CWD, &*source, CWD, &*target, AtFlags::empty());
                linked.and_then(|()| rustix::fs::unlink(&*source))
            }
            other => other,
        };
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(failed(e.into())),
        }
    }
}

fn timespec(time: Option<Time>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        Some(time) => (time.secs, i64::from(time.nanos)),
        None => (0, rustix::fs::UTIME_OMIT),
    };
    Timespec { tv_sec, tv_nsec }
}
