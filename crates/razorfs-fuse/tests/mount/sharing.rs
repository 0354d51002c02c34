//! Several descriptors, several programs: appending, synchronous writing, locks, watching.
#![expect(
    unsafe_code,
    reason = "system calls that no crate of ours has a safe function for"
)]

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::process::Command;

use razorfs_fuse::protocol::opcode;
use rustix::fs::inotify;
use rustix::fs::{FlockOperation, flock};

use crate::{each, errno, volume};

#[test]
fn a_synchronous_write_is_on_the_disk() {
    each(|mount| {
        let room = vec![b'x'; 3 * 4096];
        let skip = room.as_ptr().align_offset(4096);
        let block = &room[skip..skip + 4096];
        for flags in [libc::O_SYNC, libc::O_DSYNC] {
            for direct in [0, libc::O_DIRECT] {
                let mut options = File::options();
                options
                    .write(true)
                    .create(true)
                    .custom_flags(flags | direct);
                let file = options.open(mount.path("f")).unwrap();
                let before = mount.statistics.of_kind(opcode::FSYNC);
                file.write_all_at(block, 0).unwrap();
                let syncs = mount.statistics.of_kind(opcode::FSYNC) - before;
                assert_eq!(syncs, 1, "{flags:#o} {direct:#o}");
            }
        }
    });
}

#[test]
fn programs_that_append_do_not_overwrite_each_other() {
    volume(|mount, _| {
        let path = mount.path("log");
        let script = "for n in $(seq 200); do echo \"$1 $n of many lines\"; done >> \"$0\"";
        let start = |name: &str| {
            let mut program = Command::new("sh");
            program.args(["-c", script]).arg(&path).arg(name);
            program.spawn().unwrap()
        };
        let programs = ["a", "b", "c", "d"].map(start);
        for mut program in programs {
            assert!(program.wait().unwrap().success());
        }
        let log = fs::read_to_string(&path).unwrap();
        assert_eq!(log.lines().count(), 800);
        for name in ["a", "b", "c", "d"] {
            let lines = log.lines().filter(|line| line.starts_with(name));
            for (n, line) in lines.enumerate() {
                assert_eq!(line, format!("{name} {} of many lines", n + 1));
            }
        }
    });
}

#[test]
fn a_single_write_may_append_or_be_synchronous() {
    each(|mount| {
        let path = mount.path("f");
        fs::write(&path, b"0123456789").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let write = |bytes: &[u8], offset: i64, flags: i32| {
            let parts = [std::io::IoSlice::new(bytes)];
            // SAFETY: an `IoSlice` is an `iovec`, and the bytes live until the call returns.
            let n = unsafe {
                libc::pwritev2(file.as_raw_fd(), parts.as_ptr().cast(), 1, offset, flags)
            };
            assert_eq!(
                n,
                bytes.len() as isize,
                "{}",
                std::io::Error::last_os_error()
            );
        };
        write(b"ab", 0, libc::RWF_APPEND);
        assert_eq!(file.metadata().unwrap().len(), 12);
        if mount.keeps_data {
            assert_eq!(fs::read(&path).unwrap(), b"0123456789ab");
        }
        for flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
            let before = mount.statistics.of_kind(opcode::FSYNC);
            write(b"x", 3, flags);
            assert_eq!(mount.statistics.of_kind(opcode::FSYNC) - before, 1);
        }
    });
}

/// Asks for a lock on the first ten bytes, of the process or of the descriptor.
fn lock(file: &File, command: i32) -> bool {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 10,
        l_pid: 0,
    };
    // SAFETY: the command takes a pointer to such a lock, which lives until it returns.
    unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) == 0 }
}

/// Whether it holds within ten seconds.
fn soon(holds: impl Fn() -> bool) -> bool {
    (0..1000).any(|_| {
        let held = holds();
        if !held {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        held
    })
}

#[test]
fn locks_keep_others_out() {
    each(|mount| {
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(mount.path("f")).unwrap()
        };
        let (one, two) = (open(), open());
        flock(&one, FlockOperation::LockExclusive).unwrap();
        let held = flock(&two, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(errno(held), libc::EWOULDBLOCK);
        flock(&one, FlockOperation::Unlock).unwrap();
        flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
        // Those of descriptors keep out, those of a process do not keep out itself.
        assert!(lock(&one, libc::F_OFD_SETLK));
        assert!(!lock(&two, libc::F_OFD_SETLK));
        drop(one);
        // A program that another test starts has the descriptor, too, until it is what it is to be.
        assert!(soon(|| lock(&two, libc::F_OFD_SETLK)));
        drop(two);
        let (one, two) = (open(), open());
        assert!(soon(|| lock(&one, libc::F_SETLK)) && lock(&two, libc::F_SETLK));
        let script = "import fcntl,sys\n\
            f=open(sys.argv[1],'r+')\n\
            try: fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10)\n\
            except BlockingIOError: sys.exit(7)\n";
        let mut python = Command::new("python3");
        let python = python.args(["-c", script]).arg(mount.path("f")).status();
        match python {
            Ok(status) => assert_eq!(status.code(), Some(7)),
            Err(_) => eprintln!("SKIPPED: no python3"),
        }
    });
}

#[test]
fn changes_are_watched() {
    each(|mount| {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let all = inotify::WatchFlags::ALL_EVENTS;
        inotify::add_watch(&watch, mount.root(), all).unwrap();
        fs::write(mount.path("a"), b"x").unwrap();
        fs::rename(mount.path("a"), mount.path("b")).unwrap();
        fs::remove_file(mount.path("b")).unwrap();
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut room);
        let mut seen = inotify::ReadFlags::empty();
        while let Ok(event) = events.next() {
            seen |= event.events();
        }
        for wanted in [
            inotify::ReadFlags::CREATE,
            inotify::ReadFlags::MODIFY,
            inotify::ReadFlags::MOVED_FROM,
            inotify::ReadFlags::MOVED_TO,
            inotify::ReadFlags::DELETE,
        ] {
            assert!(seen.contains(wanted), "{wanted:?} in {seen:?}");
        }
    });
}

#[test]
fn an_attribute_has_up_to_64_kib_and_every_kind_of_file_has_some() {
    use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
    volume(|mount, _| {
        fs::write(mount.path("f"), b"").unwrap();
        fs::create_dir(mount.path("d")).unwrap();
        let none = XattrFlags::empty();
        let value = vec![7; 65536];
        let mut read = vec![0; 65536];
        for name in ["f", "d"] {
            let path = mount.path(name);
            lsetxattr(&path, "user.large", &value, none).unwrap();
            assert_eq!(
                lgetxattr(&path, "user.large", &mut read[..]).unwrap(),
                65536
            );
            assert!(read == value);
            let long = format!("user.{}", "n".repeat(250));
            lsetxattr(&path, &*long, b"", none).unwrap();
            let longer = lsetxattr(&path, format!("{long}n"), b"", none);
            assert_eq!(errno(longer), libc::ERANGE);
        }
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: other name spaces are root's");
        }
        std::os::unix::fs::symlink("x", mount.path("l")).unwrap();
        for name in ["trusted.a", "security.a"] {
            for file in ["f", "d", "l"] {
                lsetxattr(mount.path(file), name, b"v", none).unwrap();
            }
        }
        let on_link = lsetxattr(mount.path("l"), "user.a", b"v", none);
        assert_eq!(errno(on_link), libc::EPERM);
        assert_eq!(fs::symlink_metadata(mount.path("l")).unwrap().size(), 1);
    });
}
