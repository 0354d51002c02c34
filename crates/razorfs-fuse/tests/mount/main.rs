//! Real mounts, of the null file system and of a volume.
//!
//! Without /dev/fuse every test says that it is skipped, except where `CI` is set: there it fails.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod acl;
mod attributes;
mod data;
mod directories;
mod lifetime;
mod linux;
mod names;
mod sharing;
mod times;
mod uring;
mod users;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use razorfs::{Options, Volume};
use razorfs_fuse::transport::rings_available;
use razorfs_fuse::{
    FileSystem, NullFs, Session, SessionOptions, Statistics, TransportChoice, Unmounter,
    WithSnapshots,
};
use tempfile::TempDir;

/// A file system mounted on a directory of its own, until dropped.
pub(crate) struct Mount {
    dir: TempDir,
    /// Whether it gives back the bytes that were written.
    pub(crate) keeps_data: bool,
    pub(crate) is_over_io_uring: bool,
    pub(crate) unmounter: Unmounter,
    pub(crate) statistics: Arc<Statistics>,
    pub(crate) served: Option<JoinHandle<std::io::Result<()>>>,
}

impl Mount {
    pub(crate) fn new(fs: Arc<dyn FileSystem>, keeps_data: bool, options: &SessionOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let session = Session::new(fs, dir.path(), options).unwrap();
        let (unmounter, statistics) = (session.unmounter(), session.statistics());
        let (ready, is_ready) = mpsc::channel();
        let served = std::thread::spawn(move || {
            session.run_kept(move |_, agreed| ready.send(agreed).unwrap())
        });
        let agreed = is_ready.recv_timeout(Duration::from_secs(10));
        let agreed = agreed.expect("the mount is not ready");
        Self {
            dir,
            keeps_data,
            is_over_io_uring: agreed.is_over_io_uring(),
            unmounter,
            statistics,
            served: Some(served),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unmounts and waits for the server to end.
    pub(crate) fn end(mut self) {
        self.unmounter.unmount(false).unwrap();
        self.served.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.unmounter.unmount(true);
        if let Some(served) = self.served.take() {
            let _ = served.join();
        }
    }
}

/// Whether mounts can be made here.
pub(crate) fn available() -> bool {
    let why = if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse"
    } else if !rustix::process::geteuid().is_root() && find("fusermount3").is_none() {
        "there is no fusermount3"
    } else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "cannot test mounts: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.exists())
}

/// The ways for requests to come that there are here.
pub(crate) fn transports() -> Vec<TransportChoice> {
    let mut all = vec![TransportChoice::Device];
    match rings_available() {
        Ok(()) => all.push(TransportChoice::Uring),
        Err(why) => eprintln!("SKIPPED over io_uring: {why}"),
    }
    all
}

/// Runs a test on a mount of each file system, over each transport.
pub(crate) fn each(test: impl Fn(&Mount)) {
    each_with(&SessionOptions::default(), test);
}

pub(crate) fn each_with(options: &SessionOptions, test: impl Fn(&Mount)) {
    if !available() {
        return;
    }
    for transport in transports() {
        let options = SessionOptions {
            transport,
            ..options.clone()
        };
        test(&Mount::new(Arc::new(NullFs::default()), false, &options));
        let home = TempDir::new().unwrap();
        let volume = Volume::open_or_create(home.path().join("v"), Options::default()).unwrap();
        test(&Mount::new(
            Arc::new(WithSnapshots::new(volume.clone())),
            true,
            &options,
        ));
        volume.close().unwrap();
    }
}

/// A mounted volume, and the volume itself.
pub(crate) fn volume(test: impl Fn(&Mount, &Volume)) {
    if !available() {
        return;
    }
    for transport in transports() {
        let home = TempDir::new().unwrap();
        let volume = Volume::open_or_create(home.path().join("v"), Options::default()).unwrap();
        let options = SessionOptions {
            transport,
            ..SessionOptions::default()
        };
        test(
            &Mount::new(Arc::new(WithSnapshots::new(volume.clone())), true, &options),
            &volume,
        );
        volume.close().unwrap();
    }
}

/// Makes the kernel forget all inodes that nobody holds; as long as what it answers lives, no other
/// test does. `None` where that is not allowed.
pub(crate) fn forget_inodes() -> Option<MutexGuard<'static, ()>> {
    static LAST: Mutex<()> = Mutex::new(());
    // A test that failed with it has not made it any worse.
    let guard = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let dropped = std::fs::write("/proc/sys/vm/drop_caches", "3");
    dropped.is_ok().then_some(guard)
}

/// The error number of what must fail.
#[track_caller]
pub(crate) fn errno<T>(result: rustix::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(e) => e.raw_os_error(),
    }
}
