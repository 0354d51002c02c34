//! Names: creating, removing, renaming, links.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Result;

use crate::{Mount, each, errno};

fn rename(mount: &Mount, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
    renameat_with(CWD, mount.path(from), CWD, mount.path(to), flags)
}

#[test]
fn what_is_made_can_be_seen_and_removed() {
    each(|mount| {
        fs::write(mount.path("file"), b"hello").unwrap();
        assert_eq!(fs::metadata(mount.path("file")).unwrap().len(), 5);
        fs::create_dir(mount.path("dir")).unwrap();
        assert_eq!(fs::metadata(mount.root()).unwrap().nlink(), 3);
        fs::write(mount.path("dir/below"), b"").unwrap();
        assert_eq!(errno_of(fs::remove_dir(mount.path("dir"))), libc::ENOTEMPTY);
        fs::remove_file(mount.path("dir/below")).unwrap();
        fs::remove_dir(mount.path("dir")).unwrap();
        fs::remove_file(mount.path("file")).unwrap();
        assert_eq!(errno_of(fs::metadata(mount.path("file"))), libc::ENOENT);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 0);
    });
}

#[track_caller]
fn errno_of<T>(result: std::io::Result<T>) -> i32 {
    result
        .err()
        .expect("it should have failed")
        .raw_os_error()
        .unwrap()
}

#[test]
fn names_may_be_any_bytes_and_up_to_255() {
    each(|mount| {
        let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe \n\x01");
        fs::write(mount.root().join(odd), b"").unwrap();
        fs::write(mount.path(&"n".repeat(255)), b"").unwrap();
        let long = fs::write(mount.path(&"n".repeat(256)), b"");
        assert_eq!(errno_of(long), libc::ENAMETOOLONG);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 2);
    });
}

#[test]
fn rename_obeys_its_flags() {
    each(|mount| {
        for name in ["a", "b"] {
            fs::write(mount.path(name), name.repeat(name.as_bytes()[0] as usize)).unwrap();
        }
        let ino = |name| fs::metadata(mount.path(name)).unwrap().ino();
        let (a, b) = (ino("a"), ino("b"));
        let none = RenameFlags::empty();
        let refused = rename(mount, "a", "b", RenameFlags::NOREPLACE);
        assert_eq!(errno(refused), libc::EEXIST);
        rename(mount, "a", "b", RenameFlags::EXCHANGE).unwrap();
        assert_eq!((ino("a"), ino("b")), (b, a));
        let missing = rename(mount, "a", "c", RenameFlags::EXCHANGE);
        assert_eq!(errno(missing), libc::ENOENT);
        let both = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
        assert_eq!(errno(rename(mount, "a", "c", both)), libc::EINVAL);
        rename(mount, "a", "c", RenameFlags::NOREPLACE).unwrap();
        rename(mount, "c", "b", none).unwrap();
        assert_eq!(ino("b"), b);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1);

        fs::create_dir_all(mount.path("d/e")).unwrap();
        assert_eq!(errno(rename(mount, "d", "d/e/f", none)), libc::EINVAL);
        rename(mount, "b", "d/e", RenameFlags::EXCHANGE).unwrap();
        assert!(fs::metadata(mount.path("b")).unwrap().is_dir());
        assert_eq!(ino("d/e"), b);
    });
}

#[test]
fn links_are_counted() {
    each(|mount| {
        fs::write(mount.path("a"), b"").unwrap();
        fs::hard_link(mount.path("a"), mount.path("b")).unwrap();
        let (a, b) = (
            fs::metadata(mount.path("a")).unwrap(),
            fs::metadata(mount.path("b")),
        );
        assert_eq!((a.nlink(), a.ino()), (2, b.unwrap().ino()));
        fs::remove_file(mount.path("a")).unwrap();
        assert_eq!(fs::metadata(mount.path("b")).unwrap().nlink(), 1);
    });
}

#[test]
fn symbolic_links_keep_their_target() {
    each(|mount| {
        let target = "t".repeat(4000);
        symlink(&target, mount.path("link")).unwrap();
        for _ in 0..2 {
            let read = fs::read_link(mount.path("link")).unwrap();
            assert_eq!(read.as_os_str().as_bytes(), target.as_bytes());
        }
        assert_eq!(
            fs::symlink_metadata(mount.path("link")).unwrap().len(),
            4000
        );
    });
}

#[test]
fn special_files_keep_their_type() {
    each(|mount| {
        let mode = Mode::from_raw_mode(0o640);
        let make = |name, kind, dev| mknodat(CWD, mount.path(name), kind, mode, dev);
        make("fifo", FileType::Fifo, 0).unwrap();
        make("socket", FileType::Socket, 0).unwrap();
        let kind = |name| fs::metadata(mount.path(name)).unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
        make("file", FileType::RegularFile, 0).unwrap();
        assert_eq!(
            fs::metadata(mount.path("file")).unwrap().mode() & 0o7777,
            0o640 & !umask()
        );
        if rustix::process::geteuid().is_root() {
            // Numbers that need all the bits.
            let dev = rustix::fs::makedev(0x345, 0x54321);
            make("block", FileType::BlockDevice, dev).unwrap();
            let stat = fs::metadata(mount.path("block")).unwrap();
            assert!(stat.file_type().is_block_device());
            assert_eq!(stat.rdev(), dev);
        }
    });
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Umask:"))
        .unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn a_new_node_takes_the_group_of_a_setgid_directory() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give files away");
    }
    each(|mount| {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        fs::create_dir(mount.path("d")).unwrap();
        chown(mount.path("d"), None, Some(4321)).unwrap();
        fs::set_permissions(mount.path("d"), fs::Permissions::from_mode(0o2755)).unwrap();
        fs::write(mount.path("d/f"), b"").unwrap();
        fs::create_dir(mount.path("d/e")).unwrap();
        assert_eq!(fs::metadata(mount.path("d/f")).unwrap().gid(), 4321);
        let below = fs::metadata(mount.path("d/e")).unwrap();
        assert_eq!((below.gid(), below.mode() & 0o2000), (4321, 0o2000));
    });
}
