//! Opening what belongs to the volume, and nothing else.
//!
//! A volume may come from somebody else. A symbolic link in it could lead a write to any file of
//! the host, and a pipe could make opening wait for ever; so only regular files are opened, and
//! links are not followed below the volume's own directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::Dir;

/// Opens a regular file with these options and flags.
pub(super) fn open(path: &Path, options: &OpenOptions, flags: OFlags) -> io::Result<File> {
    // Regular files do not know NONBLOCK; a pipe then does not wait for its other end.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    match options.clone().custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(foreign("not a regular file")),
        Err(e) => Err(match Errno::from_io_error(&e) {
            Some(Errno::LOOP) => foreign("a symbolic link"),
            // A pipe without a reader, or a socket.
            Some(Errno::NXIO) => foreign("not a regular file"),
            _ => e,
        }),
    }
}

/// Refuses a volume whose directories are links to others.
pub(super) fn check_dirs(root: &Path) -> io::Result<()> {
    for dir in Dir::ALL.into_iter().filter(|dir| *dir != Dir::Root) {
        let link = root.join(dir.path()).symlink_metadata();
        if link.is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(foreign(&format!("a symbolic link ({})", dir.path())));
        }
    }
    Ok(())
}

fn foreign(what: &str) -> io::Error {
    let text = format!("it is {what}, which no volume has; remove it if the volume is yours");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
