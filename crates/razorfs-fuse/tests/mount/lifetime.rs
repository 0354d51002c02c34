//! Lives of inodes and of mounts.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use razorfs_fuse::protocol::opcode;
use razorfs_fuse::{MountError, NullFs, Session, SessionOptions};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use tempfile::TempDir;

use crate::{Mount, available, each, each_with, forget_inodes};

#[test]
fn a_file_without_a_name_lives_while_it_is_open() {
    each(|mount| {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .open(mount.path("f"))
            .unwrap();
        file.write_all_at(b"alive", 0).unwrap();
        fs::remove_file(mount.path("f")).unwrap();
        file.write_all_at(b"still", 5).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!((stat.nlink(), stat.len()), (0, 10));
        drop(forget_inodes());
        let mut read = [0; 10];
        file.read_exact_at(&mut read, 0).unwrap();
        if mount.keeps_data {
            assert_eq!(read, *b"alivestill");
        }
        // One that replaces it by rename is another file.
        fs::write(mount.path("g"), b"new").unwrap();
        let old = File::open(mount.path("g")).unwrap();
        fs::write(mount.path("h"), b"newer!").unwrap();
        fs::rename(mount.path("h"), mount.path("g")).unwrap();
        assert_eq!(old.metadata().unwrap().len(), 3);
        assert_eq!(fs::metadata(mount.path("g")).unwrap().len(), 6);
    });
}

#[test]
fn a_temporary_file_can_get_a_name() {
    each(|mount| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = open(mount.root(), flags, Mode::from_raw_mode(0o600)).unwrap();
        let mut file = File::from(fd);
        file.write_all(b"hidden").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 0);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(
            CWD,
            &*path,
            CWD,
            mount.path("named"),
            AtFlags::SYMLINK_FOLLOW,
        )
        .unwrap();
        let stat = fs::metadata(mount.path("named")).unwrap();
        assert_eq!((stat.nlink(), stat.len()), (1, 6));
    });
}

#[test]
fn what_the_kernel_forgets_is_let_go() {
    each(|mount| {
        for n in 0..50 {
            fs::write(mount.path(&format!("{n}")), b"x").unwrap();
        }
        for n in 0..50 {
            fs::remove_file(mount.path(&format!("{n}"))).unwrap();
        }
        let asked = || {
            let kinds = [opcode::FORGET, opcode::BATCH_FORGET];
            kinds
                .iter()
                .map(|&kind| mount.statistics.of_kind(kind))
                .sum::<u64>()
        };
        for _ in 0..1000 {
            if asked() > 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing was forgotten");
    });
}

#[test]
fn unmounting_ends_the_server_and_a_mount_in_use_says_so() {
    if !available() {
        return;
    }
    let mount = Mount::new(
        Arc::new(NullFs::default()),
        false,
        &SessionOptions::default(),
    );
    let dir = mount.root().to_owned();
    fs::write(dir.join("f"), b"").unwrap();
    let file = File::open(dir.join("f")).unwrap();
    let busy = razorfs_fuse::mount::unmount(&dir, false);
    assert!(matches!(busy, Err(MountError::Busy(_))), "{busy:?}");
    drop(file);
    mount.end();
    assert!(!is_mounted(&dir));
}

#[test]
fn a_session_that_is_never_run_leaves_no_mount() {
    if !available() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let fs = Arc::new(NullFs::default());
    let session = Session::new(fs, dir.path(), &SessionOptions::default()).unwrap();
    assert!(is_mounted(dir.path()));
    drop(session);
    assert!(!is_mounted(dir.path()));
}

fn is_mounted(dir: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    list.lines()
        .any(|line| line.split(' ').nth(4) == dir.to_str())
}

#[test]
fn the_mount_shows_its_type_and_source() {
    let mut options = SessionOptions::default();
    options.mount.source = "/srv/my volume,1".into();
    each_with(&options, |mount| {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = list
            .lines()
            .find(|l| l.split(' ').nth(4) == mount.root().to_str())
            .unwrap();
        assert!(
            line.contains(" - fuse.razorfs /srv/my\\040volume,1 "),
            "{line}"
        );
    });
}

#[test]
fn mount_points_that_will_not_do_are_refused_with_a_remedy() {
    if !available() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let try_on = |path: &Path| {
        let fs = Arc::new(NullFs::default());
        let refused = Session::new(fs, path, &SessionOptions::default());
        refused.err().expect("it should be refused").to_string()
    };
    let missing = try_on(&dir.path().join("missing"));
    assert!(missing.contains("make it first"), "{missing}");
    fs::write(dir.path().join("file"), b"").unwrap();
    let file = try_on(&dir.path().join("file"));
    assert!(file.contains("not a directory"), "{file}");
}

#[test]
fn many_programs_at_once_are_served() {
    for stay_near in [true, false] {
        let options = SessionOptions {
            stay_near,
            ..SessionOptions::default()
        };
        each_with(&options, |mount| {
            std::thread::scope(|scope| {
                for t in 0..8 {
                    scope.spawn(move || {
                        let dir = mount.path(&format!("{t}"));
                        fs::create_dir(&dir).unwrap();
                        for n in 0..100 {
                            let path = dir.join(format!("{n}"));
                            fs::write(&path, vec![n as u8; 5000]).unwrap();
                            fs::rename(&path, dir.join("x")).unwrap();
                            assert_eq!(fs::metadata(dir.join("x")).unwrap().len(), 5000);
                        }
                        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
                    });
                }
            });
        });
    }
}

#[test]
fn killed_callers_leave_the_mount_working() {
    each(|mount| {
        for _ in 0..5 {
            let script = "while :; do echo x > \"$0/f\"; cat \"$0/f\"; rm \"$0/f\"; done";
            let mut child = Command::new("sh")
                .args(["-c", script])
                .arg(mount.root())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(30));
            child.kill().unwrap();
            child.wait().unwrap();
            fs::write(mount.path("g"), b"fine").unwrap();
        }
    });
}
