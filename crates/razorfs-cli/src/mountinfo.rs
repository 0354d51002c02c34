//! What is mounted where: `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::place::is_volume;

/// The type of our mounts.
pub const FS_TYPE: &str = "fuse.razorfs";

/// A mount of a RazorFS volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// What the daemon has named as the source.
    pub source: PathBuf,
    /// The volume of that.
    pub volume: PathBuf,
    /// What of it is shown, if not what is there now: `NAME` where the source is `VOLUME@NAME`.
    pub shows: Option<String>,
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
    let lines = bytes.split(|b| *b == b'\n');
    lines.filter_map(|line| parse(line, &is_volume)).collect()
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
fn parse(line: &[u8], is_volume: &dyn Fn(&Path) -> bool) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let dir = unescape(fields.nth(4)?);
    let flags = text(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    if fields.next()? != FS_TYPE.as_bytes() {
        return None;
    }
    let source = unescape(fields.next()?);
    let (volume, shows) = split(source.clone(), is_volume);
    let options = text(fields.next().unwrap_or_default());
    let mut owners = options
        .split(',')
        .filter_map(|option| option.strip_prefix("user_id="));
    let owner = owners.next().and_then(|id| id.parse().ok());
    Some(Mount {
        dir,
        source,
        volume,
        shows,
        flags,
        options,
        owner,
    })
}

/// The volume and what is shown of it. A volume may have such a name itself.
fn split(source: PathBuf, is_volume: &dyn Fn(&Path) -> bool) -> (PathBuf, Option<String>) {
    let bytes = source.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|b| *b == b'@');
    let parts = at.and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)));
    let Some((volume, name)) = parts.filter(|_| !is_volume(&source)) else {
        return (source, None);
    };
    let volume = PathBuf::from(OsString::from_vec(volume.to_vec()));
    match std::str::from_utf8(name) {
        Ok(name) if is_volume(&volume) => {
            let name = name.to_owned();
            (volume, Some(name))
        }
        _ => (source, None),
    }
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
            parse(ours, &|_| false),
            Some(Mount {
                dir: "/mnt/a b".into(),
                source: "/v\\x".into(),
                volume: "/v\\x".into(),
                shows: None,
                flags: "rw,nosuid".into(),
                options: "rw,user_id=0".into(),
                owner: Some(0)
            })
        );
        let other = b"25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw";
        for other in [&other[..], b"", b"1 2 3 4 5"] {
            assert_eq!(parse(other, &|_| true), None);
        }
    }

    #[test]
    fn what_a_mount_shows_is_told_from_the_name_of_a_volume() {
        let volumes = ["/v", "/a@b"].map(Path::new);
        let of = |source: &str| split(source.into(), &|path| volumes.contains(&path));
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(of("/v"), ("/v".into(), None));
        assert_eq!(of("/v@then"), ("/v".into(), some("then")));
        assert_eq!(of("/a@b"), ("/a@b".into(), None));
        assert_eq!(of("/a@b@c"), ("/a@b".into(), some("c")));
        // It was moved, or is out of sight.
        assert_eq!(of("/w@then"), ("/w@then".into(), None));
    }
}
