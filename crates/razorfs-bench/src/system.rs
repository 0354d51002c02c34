//! What only the system can do: signals, idle-priority threads, dropping caches.
#![expect(
    unsafe_code,
    reason = "signals and scheduling classes are not in the standard library"
)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::failure::{At, Result};

static CHILD: AtomicI32 = AtomicI32::new(0);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
    let group = CHILD.load(Ordering::SeqCst);
    if group > 0 {
        // SAFETY: kill may be called from a signal handler, and the group is one that we made.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end the child that [`guard`] named, and are noted.
pub fn take_signals() {
    let handler: extern "C" fn(libc::c_int) = interrupt;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only touches atomics and calls kill.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether one of the signals came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Names the process group that a signal ends; 0 for none.
pub fn guard(group: u32) {
    CHILD.store(i32::try_from(group).unwrap_or(0), Ordering::SeqCst);
}

/// Ends a process of ours, or with a negative number a group.
pub fn kill(process: i32) {
    if process.unsigned_abs() > 1 {
        // SAFETY: a plain system call.
        unsafe { libc::kill(process, libc::SIGKILL) };
    }
}

/// Whether this process may mount and drop caches.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes back what is dirty and empties the page, dentry and inode caches; says whether it could.
pub fn drop_caches() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Flushes the file system that holds `path`.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).at("open", path)?;
    rustix::fs::syncfs(&file).at("sync", path)
}

/// Gives this thread idle priority and a core of its own; says whether it got the priority.
pub fn be_idle(core: usize) -> bool {
    // SAFETY: both structures are plain data, live for the calls, and of the sizes given; a core
    // number beyond the set is not added to it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) == 0
    }
}

/// Bytes that a directory takes on its file system, with all that is in it.
pub fn used(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        let meta = match std::fs::symlink_metadata(&path) {
            // What was removed since it was listed takes nothing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta.at("look at", &path)?,
        };
        sum += match meta.is_dir() {
            true => used(&path)?,
            false => meta.blocks() * 512,
        };
    }
    Ok(sum)
}
