//! What a user names: a volume that is not mounted, one that is, or a mount point.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use razorfs::{Options, Volume};
use razorfs_disk::os::{OsDisk, OsEnv};
use razorfs_disk::{Disk, DiskError, DiskOp, Guard, LockMode};
use serde_json::Value;

use crate::branches;
use crate::failure::{Failure, Result, shown};
use crate::holders;
use crate::mountinfo::{self, Mount};
use crate::points::{self, word};
use crate::shows::Shows;
use crate::socket::{self, Request};
use crate::tree::{HostTree, Tree, VolumeTree, inner};

/// The file that every volume has.
const SUPER: &str = "SUPER";

/// Where the commands of a user go.
pub enum Place {
    /// A volume that nobody has mounted.
    Closed(PathBuf),
    /// A volume whose daemon answers.
    Live(Live),
}

/// A volume whose daemon answers.
pub struct Live {
    /// The volume.
    pub volume: PathBuf,
    /// The mount point that was named.
    pub named: Option<PathBuf>,
    /// All mounts of it, as far as this process can see them, the newest last.
    pub mounts: Vec<Mount>,
    /// `None` if the daemon lives, but takes no commands from us.
    stream: Option<UnixStream>,
}

impl Live {
    /// Where what is there now is to be seen, as far as this process can see it.
    pub fn head(&self) -> Option<&Path> {
        let mut head = self.mounts.iter().filter(|mount| mount.shows.is_none());
        head.next_back().map(|mount| &*mount.dir)
    }

    /// What the mount point that was named shows, if it is not what is there now.
    pub fn shows(&self) -> Option<&str> {
        let named = self.named.as_ref()?;
        let mut mounts = self.mounts.iter().rev();
        mounts.find(|mount| mount.dir == *named)?.shows.as_deref()
    }

    /// What is said where what is there now is to be seen nowhere.
    pub fn no_head(&self) -> Failure {
        let Some(mount) = self.mounts.last() else {
            return out_of_sight(&self.volume);
        };
        let cause = format!(
            "only {} of it is mounted, on {}",
            Shows::named(mount.shows.as_deref()).text(),
            shown(&mount.dir)
        );
        let remedy = format!(
            "`razorfs mount {} DIR` mounts it as well",
            word(&self.volume)
        );
        Failure::with("use", &self.volume, cause, remedy)
    }

    /// Whether the daemon takes commands from us.
    pub fn answers(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks the daemon.
    pub fn ask(&mut self, request: Request) -> Result<Value> {
        self.ask_with(request, &mut |_| {})
    }

    /// Asks the daemon, and looks at the progress of its work.
    pub fn ask_with(
        &mut self,
        request: Request,
        progress: &mut dyn FnMut(&Value),
    ) -> Result<Value> {
        self.ask_about(request, None, progress)
    }

    /// The same, of a request that works on a descriptor.
    pub fn ask_about(
        &mut self,
        request: Request,
        descriptor: Option<BorrowedFd<'_>>,
        progress: &mut dyn FnMut(&Value),
    ) -> Result<Value> {
        let Some(stream) = &mut self.stream else {
            let cause = "its daemon takes no commands from here: it belongs to another user, the \
                         volume was moved, or its directory is read-only";
            let remedy = "`razorfs umount` it and mount it again";
            return Err(Failure::with("use", &self.volume, cause, remedy));
        };
        socket::ask_about(stream, &self.volume, request, descriptor, progress)
    }

    /// Waits until the daemon's process has ended, and these too.
    pub fn wait_for_end(&mut self, processes: &[u32]) {
        if let Some(stream) = &mut self.stream {
            socket::wait_for_end(stream, processes);
        }
    }
}

impl Place {
    /// Finds out what `path` is.
    pub fn find(path: &Path) -> Result<Self> {
        let full = absolute(path)?;
        if let Some(mount) = mountinfo::at(&full) {
            if is_dead(&full) {
                return Err(dead(&full, &mount.volume));
            }
            let of_daemon = |live: &Live| live.mounts.iter().any(|m| m.dir == full);
            let live = connect(&mount.volume).filter(of_daemon);
            let live = live.unwrap_or_else(|| Live {
                volume: mount.volume.clone(),
                named: None,
                mounts: vec![mount],
                stream: None,
            });
            let named = Some(full);
            return Ok(Self::Live(Live { named, ..live }));
        }
        if is_volume(&full) {
            return Ok(match connect(&full) {
                Some(live) => Self::Live(live),
                None => Self::Closed(full),
            });
        }
        if let Some((place, _)) = at_snapshot(path) {
            let (cause, place) = ("this command is not for a single snapshot", shown(&place));
            return Err(Failure::with(
                "use",
                path,
                cause,
                format!("name {place} alone"),
            ));
        }
        if let Some(failure) = no_directory("use", path) {
            return Err(failure);
        }
        if is_part(&full) {
            return Err(incomplete("use", path));
        }
        let cause = if full.exists() {
            "it is neither a volume nor the mount point of one"
        } else {
            "no such file or directory"
        };
        let remedy = "check the path, or make a volume with `razorfs create`";
        Err(Failure::with("use", path, cause, remedy))
    }
}

/// What is said of what is there and is no directory, as each volume is one.
pub fn no_directory(what: &str, path: &Path) -> Option<Failure> {
    let meta = std::fs::metadata(path).ok().filter(|meta| !meta.is_dir())?;
    let kind = if meta.is_file() {
        "a file"
    } else {
        "no directory"
    };
    let cause = format!("it is {kind}, and a volume is a directory");
    let remedy = "name another path; `razorfs import` brings what is in a tar, or in a file of the \
                  C++ prototype, into a volume";
    Some(Failure::with(what, path, cause, remedy))
}

/// Whether a directory has files of a volume, and not the one that says that it is one.
pub fn is_part(path: &Path) -> bool {
    let has = |dir: &str, start: &str| {
        let entries = std::fs::read_dir(path.join(dir)).into_iter().flatten();
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| name.as_bytes().starts_with(start.as_bytes()))
    };
    let files = [
        ("journal", "J-"),
        ("meta", "M-"),
        ("meta", "S-"),
        ("pack", "P-"),
    ];
    !is_volume(path) && files.into_iter().any(|(dir, start)| has(dir, start))
}

/// What is said of it.
pub fn incomplete(what: &str, path: &Path) -> Failure {
    let cause = "it has files of a volume, but no SUPER: a copy that is not complete, or what is \
                 left of a volume";
    let remedy = "copy all of it again, or see what `razorfs repair` finds in it";
    Failure::with(what, path, cause, remedy)
}

/// What is said of a mount that is in another namespace.
pub fn out_of_sight(volume: &Path) -> Failure {
    let cause = "it is mounted where this process cannot see it";
    let remedy = "use it from the container or namespace that has mounted it";
    Failure::with("use", volume, cause, remedy)
}

/// What is said of a mount whose daemon is gone.
fn dead(dir: &Path, volume: &Path) -> Failure {
    let (dir, volume) = (crate::failure::shown(dir), crate::failure::shown(volume));
    Failure::new(format!(
        "cannot use {dir}: the daemon of this mount is gone; run `razorfs umount {dir}` and then \
         `razorfs mount {volume} {dir}`"
    ))
}

fn connect(volume: &Path) -> Option<Live> {
    let stream = socket::connect(volume)?;
    let daemon = rustix::net::sockopt::socket_peercred(&stream).ok()?.uid;
    // A mount of another user only claims to be that of this volume.
    let mut mounts = mountinfo::of(volume);
    mounts.retain(|m| m.owner == Some(daemon.as_raw()));
    Some(Live {
        volume: volume.to_path_buf(),
        named: None,
        mounts,
        stream: Some(stream),
    })
}

/// Whether the daemon of a mount has died. This is asked of the daemon through the kernel, as only
/// that is sure: its socket may be out of our reach while it lives.
pub fn is_dead(dir: &Path) -> bool {
    matches!(
        rustix::fs::statfs(dir),
        Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    )
}

/// Whether a directory looks like a volume.
pub fn is_volume(path: &Path) -> bool {
    path.join(SUPER).exists()
}

/// The path from the root of the host, without symbolic links as far as that can be told without
/// asking what is at its end: that may be a mount whose daemon is gone.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(path).map_err(|e| Failure::host("find", path, &e))?;
    if mountinfo::at(&full).is_some() {
        return Ok(full);
    }
    if let Ok(real) = full.canonicalize() {
        return Ok(real);
    }
    let real = |parent: &Path| parent.canonicalize().ok();
    Ok(match (full.parent().and_then(real), full.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => full,
    })
}

/// A place and a path in it: `PLACE:/path`, or as a snapshot shows it, `PLACE@NAME:/path`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spot {
    /// The place.
    pub place: PathBuf,
    /// The snapshot, if not what is there now is meant.
    pub snapshot: Option<String>,
    /// The path in it, relative to its root.
    pub path: PathBuf,
}

impl Spot {
    fn new(text: &Path, path: PathBuf) -> Self {
        match at_snapshot(text) {
            Some((place, name)) => Self {
                place,
                snapshot: Some(name),
                path,
            },
            None => Self {
                place: text.to_path_buf(),
                snapshot: None,
                path,
            },
        }
    }

    /// The place as it was named.
    pub fn named(&self) -> PathBuf {
        let mut named = self.place.clone().into_os_string();
        if let Some(name) = &self.snapshot {
            named.push("@");
            named.push(name);
        }
        named.into()
    }

    /// What is to be seen there: a mount may show a snapshot by itself.
    pub fn shows(&self) -> Result<Option<String>> {
        let by_mount = mountinfo::at(&absolute(&self.place)?).and_then(|mount| mount.shows);
        Ok(self.snapshot.clone().or(by_mount))
    }

    /// What is said where a snapshot would have to be written to.
    pub fn is_fixed(&self) -> Failure {
        let place = shown(&self.place);
        let cause = "a snapshot stays as it is";
        let remedy = format!("write to {place}, or take all of it back with `razorfs rollback`");
        Failure::with("write to", self.named(), cause, remedy)
    }
}

/// Splits `PLACE@NAME`. It is one if nothing is there of that whole name, and what precedes the
/// last `@` is a place.
pub fn at_snapshot(text: &Path) -> Option<(PathBuf, String)> {
    let bytes = text.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|b| *b == b'@')?;
    let (place, name) = (bytes.get(..at)?, bytes.get(at + 1..)?);
    let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
    let place = PathBuf::from(OsString::from_vec(place.to_vec()));
    let whole = absolute(text).ok()?;
    let full = absolute(&place).ok()?;
    let is_place = mountinfo::at(&full).is_some() || is_volume(&full);
    (is_place && !is_there(&whole)).then(|| (place, name.to_owned()))
}

/// Whether something is at a path, be it a mount whose daemon is gone.
fn is_there(path: &Path) -> bool {
    mountinfo::at(path).is_some() || path.symlink_metadata().is_ok()
}

/// Splits `PLACE:/path`. `None` if it has no `:/`. Where there are several, the first before
/// which there is something counts.
pub fn split(text: &Path) -> Result<Option<Spot>> {
    let bytes = text.as_os_str().as_bytes();
    let at = |n: usize| {
        let (place, path) = bytes.split_at_checked(n)?;
        let (place, path) = (place.to_vec(), path.get(1..)?.to_vec());
        let to_path = |bytes| PathBuf::from(OsString::from_vec(bytes));
        Some((to_path(place), to_path(path)))
    };
    let mut found = bytes
        .windows(2)
        .enumerate()
        .filter(|(n, pair)| *n > 0 && *pair == b":/")
        .filter_map(|(n, _)| at(n));
    let Some(first) = found.next() else {
        return Ok(None);
    };
    let exists = |place: &Path| {
        mountinfo::at(place).is_some() || place.exists() || at_snapshot(place).is_some()
    };
    let (place, path) = if exists(&first.0) {
        first
    } else {
        found.find(|(place, _)| exists(place)).unwrap_or(first)
    };
    Ok(Some(Spot::new(&place, inner(&path)?)))
}

/// `PLACE:/path`, or a place alone, which means its root.
pub fn spot(text: &Path) -> Result<Spot> {
    Ok(split(text)?.unwrap_or_else(|| Spot::new(text, PathBuf::new())))
}

/// The tree of a place, however it is reached.
pub enum Opened {
    /// Through its mount point.
    Mounted(HostTree),
    /// As a library, boxed because it is large.
    Inside(Box<Inside>),
}

/// A volume that is opened as a library.
pub struct Inside {
    /// The volume, or what a snapshot of it shows.
    tree: VolumeTree,
    volume: Volume,
    path: PathBuf,
}

impl Inside {
    fn new(volume: Volume, path: &Path, spot: &Spot, write: bool) -> Result<Self> {
        let named = spot.named();
        let tree = match &spot.snapshot {
            None => VolumeTree::new(volume.clone(), named),
            Some(name) => {
                let seen = points::view(&volume, path, name)?;
                if write && seen.branch_name().is_none() {
                    return Err(spot.is_fixed());
                }
                VolumeTree::new(seen, named).at_home(path)
            }
        };
        let path = path.to_path_buf();
        Ok(Self { tree, volume, path })
    }
}

impl Opened {
    /// Opens the tree of a place.
    pub fn open(spot: &Spot, write: bool) -> Result<Self> {
        match Place::find(&spot.place)? {
            Place::Live(live) => Ok(Self::Mounted(mounted(live, spot, write)?)),
            Place::Closed(path) => {
                let options = Options {
                    read_only: !write,
                    ..Options::default()
                };
                let volume = open(&path, options)?;
                let inside = Inside::new(volume.clone(), &path, spot, write).inspect_err(|_| {
                    // The failure that is reported is the first one.
                    let _ = volume.close();
                })?;
                Ok(Self::Inside(Box::new(inside)))
            }
        }
    }

    /// The tree of the same place at another point, where a volume cannot be opened twice.
    pub fn at(&self, spot: &Spot, write: bool) -> Option<Result<Self>> {
        match self {
            Self::Mounted(_) => None,
            Self::Inside(inside) => {
                let other = Inside::new(inside.volume.clone(), &inside.path, spot, write);
                Some(other.map(|other| Self::Inside(Box::new(other))))
            }
        }
    }

    /// The tree.
    pub fn tree(&self) -> &dyn Tree {
        match self {
            Self::Mounted(tree) => tree,
            Self::Inside(inside) => &inside.tree,
        }
    }

    /// Closes it. What was written is on the disk if it was opened as a library.
    pub fn close(self) -> Result<()> {
        match self {
            Self::Mounted(_) => Ok(()),
            Self::Inside(inside) => {
                let place = inside.tree.shown(Path::new(""));
                let closed = inside.volume.close();
                closed.map_err(|e| Failure::engine("close", place, &e))
            }
        }
    }
}

/// The tree of a mounted volume, or what a snapshot of it shows.
fn mounted(mut live: Live, spot: &Spot, write: bool) -> Result<HostTree> {
    let seen = live.named.as_deref().or(live.head()).map(Path::to_owned);
    let Some(name) = &spot.snapshot else {
        let dir = seen.ok_or_else(|| live.no_head())?;
        return HostTree::of_mount(&dir, &live.volume);
    };
    // It may be mounted itself, as a branch has to be.
    let mut mounts = live.mounts.iter().rev();
    let itself = mounts.find(|mount| mount.shows.as_ref() == Some(name));
    if let Some(mount) = itself {
        return HostTree::of_mount(&mount.dir, &live.volume);
    }
    if branches::names(&mut live).contains(name) {
        let (volume, name) = (word(&live.volume), word(Path::new(name)));
        let cause = format!("the branch {name} is not mounted");
        let remedy = format!("`razorfs mount {volume}@{name} DIR` does that");
        return Err(Failure::with("use", &live.volume, cause, remedy));
    }
    if write {
        return Err(spot.is_fixed());
    }
    // Each mount has all snapshots.
    let any = || live.mounts.last().map(|mount| mount.dir.clone());
    let dir = seen
        .or_else(any)
        .ok_or_else(|| out_of_sight(&live.volume))?;
    let tree = HostTree::of_mount(&dir, &live.volume)?;
    let below = Path::new(points::DIRECTORY).join(name);
    let found = tree.below(&below);
    // A daemon answers one request on each connection.
    let names = || points::names(&mut connect(&live.volume)?);
    found.map_err(|e| match names() {
        // A path leads to it, so that it is told from one whose daemon shows none.
        Some(names) if !names.contains(name) => {
            points::missing(&live.volume, "read", name, names.iter().map(String::as_str))
        }
        _ => Failure::host("read", dir.join(&below), &e),
    })
}

/// Opens a volume as a library.
pub fn open(volume: &Path, options: Options) -> Result<Volume> {
    open_on(OsDisk::new(volume), options)
}

/// The same, on a disk of which somebody may have the lock already.
pub fn open_on(disk: OsDisk, options: Options) -> Result<Volume> {
    let volume = disk.path();
    let open = || Volume::open_on(Arc::new(disk.clone()), Arc::new(OsEnv), options.clone());
    patiently(
        open,
        |e| matches!(e, razorfs::Error::Disk(e) if is_dying(e)),
    )
    .map_err(|e| match &e {
        razorfs::Error::Disk(disk) if disk.source.raw_os_error() == Some(libc::EROFS) => {
            let (cause, remedy) = ("its directory is read-only", "mount it with --read-only");
            Failure::with("open", volume, cause, remedy)
        }
        _ => Failure::engine("open", volume, &e),
    })
}

/// Whether another process has a volume for writing, as its lock tells. It is not taken to find
/// out, which would keep somebody else from it.
pub fn is_held(volume: &Path) -> bool {
    let text = std::fs::read_to_string(volume.join("LOCK")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("pid "));
    let pid = lines.next().and_then(|pid| pid.parse().ok());
    pid.is_some_and(holders::is_running)
}

/// Takes the lock of a volume for reading its files.
pub fn lock(volume: &Path, disk: &dyn Disk) -> Result<Box<dyn Guard>> {
    lock_as(volume, disk, LockMode::Shared)
}

/// The lock for reading or for writing.
pub fn lock_as(volume: &Path, disk: &dyn Disk, mode: LockMode) -> Result<Box<dyn Guard>> {
    patiently(|| disk.lock(mode), is_dying).map_err(|e| match &e.holder {
        Some(holder) => {
            let cause = format!("it is in use by {holder}");
            Failure::with(
                "lock",
                volume,
                cause,
                "wait for it to end, or unmount it there",
            )
        }
        None => Failure::host("lock", volume, &e.source),
    })
}

/// Whether the lock is held by nobody that can be named, or by a process that is ending: a daemon
/// that was killed keeps it until the kernel has ended its last call to the disk.
fn is_dying(e: &DiskError) -> bool {
    e.op == DiskOp::Lock
        && e.source.kind() == std::io::ErrorKind::WouldBlock
        && e.holder.as_deref().is_none_or(is_ending)
}

/// Whether the process that `process N (...` names has been killed and is not yet gone.
fn is_ending(holder: &str) -> bool {
    let pid = holder.split(' ').nth(1).unwrap_or_default();
    if pid.is_empty() || !pid.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let killed = |name| {
        let pending = u64::from_str_radix(&field(name), 16).unwrap_or(0);
        pending & (1 << (libc::SIGKILL - 1)) != 0
    };
    field("State:").starts_with(['Z', 'X']) || killed("SigPnd:") || killed("ShdPnd:")
}

/// Tries for ten seconds to get past a process that is ending.
fn patiently<T, E>(
    mut attempt: impl FnMut() -> std::result::Result<T, E>,
    again: impl Fn(&E) -> bool,
) -> std::result::Result<T, E> {
    for _ in 0..200 {
        match attempt() {
            Err(e) if again(&e) => std::thread::sleep(std::time::Duration::from_millis(50)),
            other => return other,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_are_split_where_a_place_is() {
        let spot = |place: &str, path: &str| Spot {
            place: place.into(),
            snapshot: None,
            path: path.into(),
        };
        let of = |text: &str| split(Path::new(text)).unwrap();
        assert_eq!(of("v.rzfs:/a/b"), Some(spot("v.rzfs", "a/b")));
        assert_eq!(of("v.rzfs:/"), Some(spot("v.rzfs", "")));
        assert_eq!(of("v.rzfs:/a:/b"), Some(spot("v.rzfs", "a:/b")));
        assert_eq!(of("/plain/path"), None);
        assert_eq!(of(":/x"), None);
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:");
        std::fs::create_dir_all(odd.join("v")).unwrap();
        let text = format!("{}/v:/x", odd.display());
        assert_eq!(
            split(Path::new(&text)).unwrap().unwrap().path,
            Path::new("x")
        );
        assert!(split(Path::new("v:/../x")).is_err());
    }

    #[test]
    fn a_snapshot_is_named_behind_the_last_at_of_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let volume = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(SUPER), b"").unwrap();
            path
        };
        let (plain, odd) = (volume("v"), volume("v@w"));
        let of = |place: &Path, rest: &str| {
            let text = format!("{}{rest}", place.display());
            spot(Path::new(&text)).unwrap()
        };
        let expected = |place: &Path, name: Option<&str>, path: &str| Spot {
            place: place.into(),
            snapshot: name.map(str::to_owned),
            path: path.into(),
        };
        assert_eq!(of(&plain, "@a"), expected(&plain, Some("a"), ""));
        assert_eq!(
            of(&plain, "@a:/b@c:/d"),
            expected(&plain, Some("a"), "b@c:/d")
        );
        assert_eq!(of(&plain, ":/b@c"), expected(&plain, None, "b@c"));
        // What exists by the whole name is that.
        assert_eq!(of(&odd, ":/b"), expected(&odd, None, "b"));
        assert_eq!(of(&odd, "@a:/b"), expected(&odd, Some("a"), "b"));
        // Nothing is before it that could have snapshots, or no name behind it.
        let nowhere = dir.path().join("x@a");
        assert_eq!(of(&nowhere, ""), expected(&nowhere, None, ""));
        assert_eq!(of(&plain, "@").snapshot, None);
        let refused = of(&plain, "@a:/b").is_fixed();
        assert!(
            refused.message.contains("v@a: a snapshot stays as it is"),
            "{refused}"
        );
        let text = format!("{}@a", plain.display());
        let failure = Place::find(Path::new(&text)).err().unwrap();
        assert!(
            failure.message.contains("not for a single snapshot"),
            "{failure}"
        );
    }

    #[test]
    fn a_killed_process_is_ending_and_a_living_one_is_not() {
        let named = |pid: u32| format!("process {pid} (sleep) on host h");
        assert!(!is_ending(&named(std::process::id())));
        assert!(!is_ending("nobody"));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        child.kill().unwrap();
        // Until it is waited for, it is ending.
        assert!(is_ending(&named(child.id())));
        child.wait().unwrap();
        assert!(!is_ending(&named(child.id())));
    }

    #[test]
    fn what_is_no_volume_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Place::find(dir.path()).err().unwrap();
        assert!(failure.message.contains("neither a volume nor"));
        let failure = Place::find(&dir.path().join("x")).err().unwrap();
        assert!(failure.message.contains("razorfs create"));
    }
}
