//! What is mounted where: `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type of our mounts.
pub const FS_TYPE: &str = "fuse.razorfs";

/// A mount of a RazorFS volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// The volume, which the daemon gives as the name of the source.
    pub volume: PathBuf,
    /// Flags of the mount, separated by commas.
    pub flags: String,
    /// Options that the kernel has for it besides, likewise.
    pub options: String,
    /// Who has mounted it: anybody may give any name to the source of a mount of theirs.
    pub owner: Option<u32>,
}

/// All mounts of RazorFS volumes, the newest last. Empty where `/proc` cannot be read.
pub fn mounts() -> Vec<Mount> {
    let bytes = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    bytes.split(|b| *b == b'\n').filter_map(parse).collect()
}

/// The mount at this mount point; the topmost one if there are several.
pub fn at(dir: &Path) -> Option<Mount> {
    mounts().into_iter().rev().find(|m| m.dir == dir)
}

/// The mounts of this volume.
pub fn of(volume: &Path) -> Vec<Mount> {
    let mut mounts = mounts();
    mounts.retain(|m| m.volume == volume);
    mounts
}

/// One line: `id parent major:minor root DIR options [optional...] - TYPE SOURCE options`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let dir = unescape(fields.nth(4)?);
    let flags = text(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    if fields.next()? != FS_TYPE.as_bytes() {
        return None;
    }
    let volume = unescape(fields.next()?);
    let options = text(fields.next().unwrap_or_default());
    let mut owners = options
        .split(',')
        .filter_map(|option| option.strip_prefix("user_id="));
    let owner = owners.next().and_then(|id| id.parse().ok());
    Some(Mount {
        dir,
        volume,
        flags,
        options,
        owner,
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Undoes the kernel's escapes of blanks and backslashes: `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && digits.iter().all(|d| (b'0'..=b'7').contains(d))
        {
            let value = digits
                .iter()
                .fold(0u32, |n, d| n * 8 + u32::from(d.saturating_sub(b'0')));
            bytes.push(u8::try_from(value & 0xFF).unwrap_or_default());
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_mounts_among_others() {
        let ours =
            b"36 25 0:31 / /mnt/a\\040b rw,nosuid shared:7 - fuse.razorfs /v\\134x rw,user_id=0";
        assert_eq!(
            parse(ours),
            Some(Mount {
                dir: "/mnt/a b".into(),
                volume: "/v\\x".into(),
                flags: "rw,nosuid".into(),
                options: "rw,user_id=0".into(),
                owner: Some(0)
            })
        );
        let other = b"25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw";
        assert_eq!(parse(other), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3 4 5"), None);
    }
}
