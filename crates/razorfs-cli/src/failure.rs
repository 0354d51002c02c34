//! What a command says when it fails: one line, and an exit code.

use std::fmt;
use std::path::Path;

/// Exit code of usage errors and ordinary errors.
pub const ORDINARY: u8 = 1;
/// Exit code where the command could not run at all.
pub const COULD_NOT_RUN: u8 = 2;
/// Exit code of `verify` where damage was found.
pub const DAMAGE: u8 = 4;

/// Result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure: what, which file, the cause and the remedy, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The line, without the name of the program.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// An ordinary failure with a complete line.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: one_line(&message.into()),
            code: ORDINARY,
        }
    }

    /// `cannot WHAT PATH: CAUSE`, where the cause names the remedy itself or is its own.
    pub fn at(what: &str, path: impl AsRef<Path>, cause: impl fmt::Display) -> Self {
        Self::new(format!("cannot {what} {}: {cause}", shown(path.as_ref())))
    }

    /// The same with a remedy.
    pub fn with(
        what: &str,
        path: impl AsRef<Path>,
        cause: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::at(what, path, format!("{cause}; {remedy}"))
    }

    /// An error of the host at a path, with the remedy that goes with its number.
    pub fn host(what: &str, path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let cause = plain(error);
        match remedy_of(error) {
            Some(remedy) => Self::with(what, path, cause, remedy),
            None => Self::at(what, path, cause),
        }
    }

    /// An error of the engine at a path.
    pub fn engine(what: &str, path: impl AsRef<Path>, error: &razorfs::Error) -> Self {
        match error {
            razorfs::Error::Disk(e) if e.source.raw_os_error() == Some(libc::EROFS) => {
                Self::host(what, path, &e.source)
            }
            _ => Self::at(what, path, error),
        }
    }

    /// The same failure with another exit code.
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A path as it is shown: control bytes and bytes that are no text are escaped, so that a name
/// can neither break the line nor play with the terminal.
pub fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    shown_bytes(path.as_os_str().as_bytes())
}

/// Like [`shown`], of bytes.
pub fn shown_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The text of a host error without Rust's " (os error N)".
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let text: String = text.chars().take(end).collect();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => text,
    }
}

fn remedy_of(error: &std::io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EACCES | libc::EPERM => "ask its owner for access, or use a path of your own",
        libc::ENOSPC => "free space on that file system, or use another one",
        libc::EDQUOT => "delete files, or ask for a larger quota",
        libc::EROFS => "that file system is read-only; use another one",
        libc::ENOENT => "check the path",
        libc::ENOTDIR => "a part of the path is not a directory; check it",
        libc::EISDIR => "it is a directory; name a file",
        libc::EEXIST => "use another name, or remove what is there",
        libc::ENOTEMPTY => "use `rm -r` to remove what is inside too",
        libc::ENOTCONN | libc::ECONNABORTED => {
            "its daemon is gone; `razorfs umount` it and mount it again"
        }
        libc::EIO => "run `razorfs verify` on the volume, and look at razorfs.log in it",
        _ => return None,
    })
}

fn one_line(text: &str) -> String {
    let lines = text.split('\n').map(str::trim);
    let line = lines.filter(|line| !line.is_empty());
    // Also what comes from a daemon, which may be that of somebody else.
    shown_bytes(line.collect::<Vec<_>>().join(" ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_the_name() {
        let failure = Failure::at("read", "a\nb\x1b[2J", "c\nd");
        assert_eq!(failure.message, "cannot read a\\nb\\u{1b}[2J: c d");
        assert_eq!(shown_bytes(b"a\xffb"), "a\\xffb");
        let said = Failure::new("by a daemon\n\x1b]0;title\x07");
        assert_eq!(said.message, "by a daemon \\u{1b}]0;title\\u{7}");
    }

    #[test]
    fn host_errors_lose_their_number_and_gain_a_remedy() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::host("open", "x", &error);
        assert_eq!(
            failure.message,
            "cannot open x: no such file or directory; check the path"
        );
        assert_eq!(failure.code, ORDINARY);
    }
}
