//! Sessions whose rings break while programs use the mount.

use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{AtFlags, Mode, OFlags};
use tempfile::TempDir;

use super::*;
use crate::NullFs;
use crate::connection::is_alive;

const PATIENCE: Duration = Duration::from_secs(30);

/// A mount that is served, and its rings.
struct Served {
    rings: Arc<Rings>,
    fuse: OwnedFd,
    serving: JoinHandle<io::Result<()>>,
}

impl Served {
    /// None, and that is said, where it cannot be.
    fn over_io_uring(dir: &Path) -> Option<Self> {
        if let Err(why) = rings_available() {
            eprintln!("SKIPPED over io_uring: {why}");
            return None;
        }
        let options = SessionOptions {
            transport: TransportChoice::Uring,
            ..SessionOptions::default()
        };
        let session = match Session::new(Arc::new(NullFs::default()), dir, &options) {
            Ok(session) => session,
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "cannot test mounts: {e}");
                eprintln!("SKIPPED: {e}");
                return None;
            }
        };
        let rings = session.rings.clone().unwrap();
        let (ready, is_ready) = channel();
        let serving =
            std::thread::spawn(move || session.run_kept(move |fd, _| ready.send(fd).unwrap()));
        let fuse = is_ready.recv_timeout(PATIENCE).unwrap();
        Some(Self {
            rings,
            fuse,
            serving,
        })
    }

    /// From now on no answer can be handed over.
    fn break_rings(&self) {
        let no_connection = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        self.rings.put_instead(&no_connection);
    }

    /// Waits for the end, which says why.
    fn end(self) {
        // Who gets the connection does not keep it open for nothing.
        let Self { serving, fuse, .. } = self;
        drop(fuse);
        let (sender, result) = channel();
        std::thread::spawn(move || sender.send(serving.join().unwrap()));
        let result = result.recv_timeout(PATIENCE).expect("it is served on");
        let why = result.unwrap_err().to_string();
        assert!(why.contains("not supported"), "{why}");
    }
}

/// Asks for one name after the other below a directory until there is an error; tells it.
fn asks(dir: OwnedFd, names: &'static str) -> Receiver<i32> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for n in 0.. {
            let asked = rustix::fs::statat(&dir, format!("{names}{n}"), AtFlags::empty());
            match asked.unwrap_err() {
                rustix::io::Errno::NOENT => {}
                e => return sender.send(e.raw_os_error()).unwrap(),
            }
        }
    });
    receiver
}

fn open(dir: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).unwrap()
}

#[test]
fn programs_get_errors_when_rings_break_and_the_mount_is_gone() {
    let dir = TempDir::new().unwrap();
    let Some(served) = Served::over_io_uring(dir.path()) else {
        return;
    };
    let programs = ["a", "b", "c", "d"].map(|names| asks(open(dir.path()), names));
    std::thread::sleep(Duration::from_millis(50));
    served.break_rings();
    if rustix::process::geteuid().is_root() {
        // At once, and not only when all descriptors are closed.
        for program in &programs {
            program.recv_timeout(PATIENCE).expect("a program hangs");
        }
        assert!(!is_alive(&served.fuse));
    }
    served.end();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(Identity::of(dir.path()), Identity::Nowhere);
}

#[test]
fn a_mount_that_came_later_stays_when_rings_of_the_one_below_it_break() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root mounts on a mount");
        return;
    }
    let dir = TempDir::new().unwrap();
    let Some(below) = Served::over_io_uring(dir.path()) else {
        return;
    };
    let root_below = open(dir.path());
    let above = Served::over_io_uring(dir.path()).unwrap();
    let identity = Identity::of(dir.path());
    let program = asks(root_below, "x");
    below.break_rings();
    // It cannot be aborted by its mount point, and programs get errors all the same.
    below.end();
    program.recv_timeout(PATIENCE).expect("a program hangs");
    assert_eq!(Identity::of(dir.path()), identity);
    std::fs::write(dir.path().join("f"), b"x").unwrap();
    assert!(is_alive(&above.fuse));
    mount::unmount(dir.path(), true).unwrap();
    above.serving.join().unwrap().unwrap();
    mount::unmount(dir.path(), true).unwrap();
}
