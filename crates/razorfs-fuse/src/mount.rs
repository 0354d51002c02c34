//! Making and ending mounts: as root by mount(2), otherwise with the help of fusermount3.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use razorfs::Atime;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::obstacle::Obstacle;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// Why a mount could not be made or ended. The text says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("{}: {what}", .dir.display())]
    MountPoint {
        /// The mount point.
        dir: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// /dev/fuse cannot be used.
    #[error("{DEVICE}: {what}")]
    Device {
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// There is no fusermount3.
    #[error(
        "{HELPER} was not found, and only root can mount without it: install the package fuse3"
    )]
    NoHelper,
    /// Requests were to come over io_uring, and cannot.
    #[error("{0}; or mount with transport=auto")]
    NoRings(crate::transport::NoRings),
    /// fusermount3 refused.
    #[error("{0}")]
    Refused(String),
    /// Somebody is using the mount.
    #[error("{}: in use; close the files and leave the directories below it", .0.display())]
    Busy(PathBuf),
    /// Anything else.
    #[error("{what}: {error}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: Arc<io::Error>,
    },
}

fn other(what: &'static str) -> impl Fn(io::Error) -> MountError {
    move |error| MountError::Other {
        what,
        error: Arc::new(error),
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `mount` and `df` show as the device: the path of the volume.
    pub source: OsString,
    /// Whether other users may use the mount; by default as root only.
    pub allow_other: Option<bool>,
    /// No writing.
    pub read_only: bool,
    /// Honour setuid and setgid of programs (root only).
    pub suid: bool,
    /// Honour device files (root only).
    pub dev: bool,
    /// Allow running programs.
    pub exec: bool,
    /// What the mount shows of [`razorfs::Volume::set_atime`], which is what counts: the kernel
    /// leaves times of access to the server.
    pub atime: Atime,
    /// Bytes of the largest READ.
    pub max_read: u32,
    /// Bytes that the kernel reads ahead, where it lets us say (root only).
    pub read_ahead: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "razorfs".into(),
            allow_other: None,
            read_only: false,
            suid: false,
            dev: false,
            exec: true,
            atime: Atime::Relative,
            max_read: 1 << 20,
            read_ahead: 1 << 20,
        }
    }
}

impl MountOptions {
    /// Takes a word of `-o` if it is one about mounting; false if it is not.
    pub fn set(&mut self, word: &str) -> bool {
        match word {
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "noatime" => self.atime = Atime::Never,
            "relatime" | "atime" => self.atime = Atime::Relative,
            "strictatime" => self.atime = Atime::Strict,
            // Always so.
            "default_permissions" | "defaults" => {}
            _ => return false,
        }
        true
    }

    fn flags(&self) -> [(&'static str, MountFlags, bool); 5] {
        [
            ("ro", MountFlags::RDONLY, self.read_only),
            ("nosuid", MountFlags::NOSUID, !self.suid),
            ("nodev", MountFlags::NODEV, !self.dev),
            ("noexec", MountFlags::NOEXEC, !self.exec),
            ("noatime", MountFlags::NOATIME, self.atime == Atime::Never),
        ]
    }

    /// All flags for mount(2).
    fn kernel_flags(&self) -> MountFlags {
        let mut all = MountFlags::empty();
        for (_, flag, on) in self.flags() {
            all.set(flag, on);
        }
        // fusermount3 does not know this one.
        all.set(MountFlags::STRICTATIME, self.atime == Atime::Strict);
        all.set(MountFlags::RELATIME, self.atime == Atime::Relative);
        all
    }
}

/// A mount that has been made and must be served.
#[derive(Debug)]
pub struct Mounted {
    /// The connection to the kernel.
    pub fd: OwnedFd,
    /// The mount point, without symbolic links.
    pub dir: PathBuf,
}

/// Mounts on `dir`. Until the descriptor is served, whoever looks at `dir` waits.
pub fn mount(dir: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let dir = check_mount_point(dir)?;
    let fd = if rustix::process::geteuid().is_root() {
        mount_as_root(&dir, options)?
    } else {
        mount_with_helper(&dir, options)?
    };
    Ok(Mounted { fd, dir })
}

fn check_mount_point(dir: &Path) -> Result<PathBuf, MountError> {
    let refuse = |what: String| MountError::MountPoint {
        dir: dir.into(),
        what,
    };
    let stat = fs::metadata(dir).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => refuse("no such directory; make it first".into()),
        Some(libc::ENOTCONN) => refuse(format!(
            "a mount whose server has died is here; remove it with `{HELPER} -uz`, or as root \
             with `umount -l`"
        )),
        _ => refuse(e.to_string()),
    })?;
    if !stat.is_dir() {
        return Err(refuse("not a directory".into()));
    }
    let uid = rustix::process::geteuid();
    if !uid.is_root() && stat.uid() != uid.as_raw() && stat.mode() & 0o1000 != 0 {
        return Err(refuse(
            "the directory must be yours to mount on it; make one of your own".into(),
        ));
    }
    dir.canonicalize().map_err(|e| refuse(e.to_string()))
}

fn mount_as_root(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let fd = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(|e| MountError::Device {
        what: device_trouble(e),
    })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id={},default_permissions,max_read={}",
        fd.as_raw_fd(),
        rustix::process::getegid().as_raw(),
        options.max_read,
    );
    if options.allow_other.unwrap_or(true) {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|e| other("mount options")(e.into()))?;
    let flags = options.kernel_flags();
    let made = rustix::mount::mount(&*options.source, dir, "fuse.razorfs", flags, &*data);
    made.map_err(|e| match e {
        Errno::PERM | Errno::ACCESS => mount_trouble(e),
        Errno::NODEV => MountError::Device {
            what: "the kernel has no FUSE; run `modprobe fuse`".into(),
        },
        e => MountError::MountPoint {
            dir: dir.into(),
            what: e.to_string(),
        },
    })?;
    Ok(fd)
}

fn device_trouble(e: Errno) -> String {
    let known = Obstacle::of_device(e.raw_os_error());
    known.map_or_else(|| e.to_string(), |obstacle| obstacle.to_string())
}

/// Why mounting was refused.
fn mount_trouble(e: Errno) -> MountError {
    let why = match (Obstacle::of_this_process(), e) {
        (Some(obstacle), _) => obstacle.to_string(),
        (None, Errno::ACCESS) => "a security module of the host refuses to mount; start the \
                                  container with --security-opt apparmor=unconfined, or see the \
                                  host's log"
            .into(),
        (None, _) => "mounting is not permitted here; a container needs --cap-add SYS_ADMIN and \
                      --device /dev/fuse"
            .into(),
    };
    MountError::Refused(why)
}

/// fusermount3 is setuid root: it mounts and hands the descriptor over a socket, which it gets as
/// its standard input.
fn mount_with_helper(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(other("socketpair"))?;
    let mut helper = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(options))
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(helper_trouble)?;
    let fd = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = helper.wait().map_err(other(HELPER))?;
    match fd {
        Ok(Some(fd)) if status.success() => Ok(fd),
        Err(e) => Err(other("receiving the descriptor")(e.into())),
        Ok(_) => Err(refusal(&said, dir)),
    }
}

fn helper_options(options: &MountOptions) -> OsString {
    let mut bytes = b"fsname=".to_vec();
    for &byte in options.source.as_bytes() {
        // The helper takes a backslash as the escape of a comma.
        if matches!(byte, b'\\' | b',') {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    }
    let mut text = format!(
        ",subtype=razorfs,default_permissions,max_read={}",
        options.max_read
    );
    if options.allow_other == Some(true) {
        text.push_str(",allow_other");
    }
    for (name, flag, on) in options.flags() {
        // Without root these two are always so.
        let forced = flag == MountFlags::NOSUID || flag == MountFlags::NODEV;
        if on || forced {
            text.push(',');
            text.push_str(name);
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    OsString::from_vec(bytes)
}

fn helper_trouble(e: io::Error) -> MountError {
    if e.kind() == io::ErrorKind::NotFound {
        return MountError::NoHelper;
    }
    other(HELPER)(e)
}

fn refusal(said: &str, dir: &Path) -> MountError {
    let said = said.trim();
    if said.contains(DEVICE) {
        let errno = if said.contains("ermission") {
            Errno::ACCESS
        } else if said.contains("not permitted") {
            Errno::PERM
        } else {
            Errno::NOENT
        };
        let what = device_trouble(errno);
        return MountError::Device { what };
    }
    if said.contains("user_allow_other") {
        return MountError::Refused(
            "allow_other needs the line `user_allow_other` in /etc/fuse.conf, which root can add"
                .into(),
        );
    }
    if said.contains("not permitted") {
        return match Obstacle::of_this_process() {
            Some(obstacle) => MountError::Refused(obstacle.to_string()),
            None => MountError::Refused(format!(
                "{said}; {HELPER} must be setuid root (reinstall the package fuse3), and a \
                 container needs --cap-add SYS_ADMIN"
            )),
        };
    }
    MountError::MountPoint {
        dir: dir.into(),
        what: if said.is_empty() {
            format!("{HELPER} failed and did not say why")
        } else {
            said.into()
        },
    }
}

fn receive(socket: &UnixStream) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return Ok(fds.next());
        }
    }
    Ok(None)
}

/// Changes the flags of the mount on `dir` to those of `options`; only root can. Nothing else of a
/// mount can be changed while it lasts.
pub fn remount(dir: &Path, options: &MountOptions) -> Result<(), MountError> {
    let refuse = |what: &str| MountError::MountPoint {
        dir: dir.into(),
        what: what.into(),
    };
    let changed = rustix::mount::mount_remount(dir, options.kernel_flags(), c"");
    changed.map_err(|e| match e {
        Errno::PERM | Errno::ACCESS => MountError::Refused(
            "only root can change a mount; unmount it and mount it again with other options".into(),
        ),
        Errno::BUSY => refuse("files are open for writing; close them first"),
        Errno::INVAL => refuse("not mounted"),
        e => refuse(&e.to_string()),
    })
}

/// Ends the mount on `dir`. With `detach` also if it is in use: it goes when it is not any more.
pub fn unmount(dir: &Path, detach: bool) -> Result<(), MountError> {
    if rustix::process::geteuid().is_root() {
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, detach);
        return rustix::mount::unmount(dir, flags).map_err(|e| match e {
            Errno::BUSY => MountError::Busy(dir.into()),
            Errno::INVAL => MountError::MountPoint {
                dir: dir.into(),
                what: "not mounted".into(),
            },
            e => MountError::MountPoint {
                dir: dir.into(),
                what: e.to_string(),
            },
        });
    }
    let mut helper = Command::new(HELPER);
    helper.arg("-u");
    if detach {
        helper.arg("-z");
    }
    let out = helper.arg("--").arg(dir).output().map_err(helper_trouble)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("busy") {
        return Err(MountError::Busy(dir.into()));
    }
    Err(MountError::MountPoint {
        dir: dir.into(),
        what: said.trim().into(),
    })
}

/// Raises what the kernel reads ahead on the mount, which only root can. It is less than wanted,
/// and no error, where that is not possible.
pub(crate) fn raise_read_ahead(dir: &Path, bytes: u32) {
    let Ok(Some(device)) = device_of(dir) else {
        return;
    };
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(e) = fs::write(&path, (bytes / 1024).to_string()) {
        tracing::debug!("{path}: {e}");
    }
}

/// `major:minor` of the topmost mount on `dir`, if there is one, from the kernel's list: a look at
/// `dir` itself would need the answer of the very server that asks.
pub(crate) fn device_of(dir: &Path) -> io::Result<Option<String>> {
    let list = fs::read("/proc/self/mountinfo")?;
    Ok(device_in(&list, dir))
}

fn device_in(list: &[u8], dir: &Path) -> Option<String> {
    let dir = escaped(dir);
    let mounts = list.split(|byte| *byte == b'\n').rev();
    let mut ours = mounts.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = fields.next()?;
        (fields.nth(1)? == dir).then_some(device)
    });
    Some(String::from_utf8_lossy(ours.next()?).into_owned())
}

/// As the kernel writes paths into its list.
fn escaped(dir: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in dir.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend(format!("\\{byte:03o}").bytes()),
            byte => text.push(*byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_topmost_mount_on_a_directory_is_found_whatever_its_name() {
        let list = b"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            36 25 0:31 / /a\\040b\\134\\011\\012\xff rw,nosuid - fuse.razorfs /v rw\n\
            37 25 0:32 / /c rw shared:7 - fuse.razorfs /v rw\n\
            38 25 0:33 / /c rw - tmpfs tmpfs rw\n";
        let device = |dir: &[u8]| device_in(list, Path::new(OsStr::from_bytes(dir)));
        assert_eq!(device(b"/").as_deref(), Some("8:1"));
        assert_eq!(device(b"/a b\\\t\n\xff").as_deref(), Some("0:31"));
        assert_eq!(device(b"/c").as_deref(), Some("0:33"));
        assert_eq!(device(b"/d"), None);
        assert_eq!(device(b""), None);
    }
}
