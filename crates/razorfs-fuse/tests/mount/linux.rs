//! What Linux has beside POSIX.
#![expect(
    unsafe_code,
    reason = "system calls that no crate of ours has a safe function for"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use razorfs::{Options, Volume};
use razorfs_fuse::{SessionOptions, WithSnapshots};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use tempfile::TempDir;

use crate::{Mount, available, errno, forget_inodes, volume};

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can");
    }
    root
}

#[test]
fn a_whiteout_stays_where_the_name_was() {
    volume(|mount, _| {
        let rename = |from: &str, to: &str, flags| {
            renameat_with(CWD, mount.path(from), CWD, mount.path(to), flags)
        };
        fs::write(mount.path("a"), b"moved").unwrap();
        fs::write(mount.path("b"), b"replaced").unwrap();
        let both = RenameFlags::WHITEOUT | RenameFlags::NOREPLACE;
        let made = rename("a", "c", both);
        if !root() {
            // Marks are devices.
            return assert_eq!(errno(made), libc::EPERM);
        }
        made.unwrap();
        let mark = fs::symlink_metadata(mount.path("a")).unwrap();
        assert!(mark.file_type().is_char_device());
        assert_eq!((mark.rdev(), mark.mode() & 0o7777, mark.nlink()), (0, 0, 1));
        assert_eq!(fs::read(mount.path("c")).unwrap(), b"moved");
        assert_eq!(errno(rename("c", "b", both)), libc::EEXIST);
        rename("c", "b", RenameFlags::WHITEOUT).unwrap();
        assert_eq!(fs::read(mount.path("b")).unwrap(), b"moved");
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 3);
        let bad = RenameFlags::WHITEOUT | RenameFlags::EXCHANGE;
        assert_eq!(errno(rename("b", "c", bad)), libc::EINVAL);
    });
}

#[test]
fn a_mount_is_the_upper_layer_of_an_overlay() {
    if !root() {
        return;
    }
    volume(|mount, _| {
        for name in ["lower", "upper", "work", "all"] {
            fs::create_dir(mount.path(name)).unwrap();
        }
        // The layers below are on another file system.
        let other = TempDir::new().unwrap();
        let (lower, all) = (other.path().join("lower"), other.path().join("all"));
        fs::create_dir_all(lower.join("dir")).unwrap();
        fs::create_dir(&all).unwrap();
        fs::write(lower.join("gone"), b"x").unwrap();
        fs::write(lower.join("dir/kept"), b"old").unwrap();
        let (upper, work) = (mount.path("upper"), mount.path("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let mut overlay = Command::new("mount");
        overlay.args(["-t", "overlay", "overlay", "-o", &options]);
        let said = overlay.arg(&all).output().unwrap();
        if !said.status.success() {
            let said = String::from_utf8_lossy(&said.stderr);
            return eprintln!("SKIPPED: no overlay can be mounted here: {said}");
        }
        let seen = std::panic::catch_unwind(|| use_overlay(&all, &upper));
        assert!(Command::new("umount").arg(&all).status().unwrap().success());
        seen.unwrap();
    });
}

fn use_overlay(all: &Path, upper: &Path) {
    fs::remove_file(all.join("gone")).unwrap();
    fs::write(all.join("dir/kept"), b"new").unwrap();
    fs::write(all.join("dir/more"), b"y").unwrap();
    let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!((names(all), names(&all.join("dir"))), (1, 2));
    assert_eq!(fs::read(upper.join("dir/kept")).unwrap(), b"new");
    let mark = fs::symlink_metadata(upper.join("gone")).unwrap();
    assert!(mark.file_type().is_char_device());
    fs::remove_dir_all(all.join("dir")).unwrap();
    fs::create_dir(all.join("dir")).unwrap();
    assert_eq!(names(&all.join("dir")), 0);
}

/// FS_IOC_SHUTDOWN with these flags.
fn shut_down(dir: &Path, flags: u32) -> io::Result<()> {
    let dir = File::open(dir)?;
    // SAFETY: the request takes a pointer to 32 bits, which live until it returns.
    match unsafe { libc::ioctl(dir.as_raw_fd(), 0x8004_587d, &flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn a_shutdown_loses_what_is_not_durable_and_nothing_else() {
    if !available() {
        return;
    }
    if !root() {
        return;
    }
    for (flags, is_kept) in [(0, true), (1, true), (2, false)] {
        let home = TempDir::new().unwrap();
        let path = home.path().join("v");
        let volume = Volume::open_or_create(&path, Options::default()).unwrap();
        let options = SessionOptions::default();
        let mount = Mount::new(Arc::new(WithSnapshots::new(volume.clone())), true, &options);
        fs::write(mount.path("early"), b"synced").unwrap();
        File::open(mount.root()).unwrap().sync_all().unwrap();
        fs::write(mount.path("late"), b"not synced").unwrap();
        let bad = shut_down(mount.root(), 7).unwrap_err();
        assert_eq!(bad.raw_os_error(), Some(libc::EINVAL));
        shut_down(mount.root(), flags).unwrap();
        let refused = fs::write(mount.path("later"), b"").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        mount.end();
        assert!(volume.close().is_err());
        let volume = Volume::open(&path, Options::default()).unwrap();
        assert_eq!(volume.root().read("early").unwrap(), b"synced");
        assert!(volume.root().read("later").is_err());
        // What was not synced may have become durable by itself.
        assert!(!is_kept || volume.root().read("late").is_ok());
        volume.close().unwrap();
    }
}

/// FS_IOC_FSGETXATTR or FS_IOC_FSSETXATTR.
fn extended_flags(file: &File, request: libc::c_ulong, form: &mut [u32; 7]) -> io::Result<()> {
    // SAFETY: both take a pointer to 28 bytes, which live until they return.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, form) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn flags_have_an_extended_form() {
    const GET: libc::c_ulong = 0x801c_581f;
    const SET: libc::c_ulong = 0x401c_5820;
    const APPEND: u32 = 0x10;
    volume(|mount, _| {
        let file = File::create(mount.path("f")).unwrap();
        let mut form = [7; 7];
        extended_flags(&file, GET, &mut form).unwrap();
        assert_eq!(form, [0; 7]);
        if !root() {
            return;
        }
        form[0] = APPEND;
        extended_flags(&file, SET, &mut form).unwrap();
        form = [7; 7];
        extended_flags(&file, GET, &mut form).unwrap();
        assert_eq!(form, [APPEND, 0, 0, 0, 0, 0, 0]);
        assert!(file.set_len(1).is_err());
        // A project is refused, and changes nothing.
        let project = extended_flags(&file, SET, &mut [0, 0, 0, 5, 0, 0, 0]);
        assert!(project.is_err());
        extended_flags(&file, SET, &mut [0; 7]).unwrap();
        file.set_len(1).unwrap();
    });
}

/// A file handle, as the kernel wants it.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

#[test]
fn file_handles_outlive_the_mount() {
    if !available() || !root() {
        return;
    }
    let home = TempDir::new().unwrap();
    let volume = || Volume::open_or_create(home.path().join("v"), Options::default()).unwrap();
    let options = SessionOptions::default();
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let first = volume();
    let mount = Mount::new(Arc::new(WithSnapshots::new(first.clone())), true, &options);
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), b"found again").unwrap();
    let file = File::open(mount.path("d/f")).unwrap();
    let mut id = 0;
    // SAFETY: the handle has room for as many bytes as it says, and the path is a string.
    let got = unsafe {
        let to = (&raw mut handle).cast();
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            to,
            &mut id,
            libc::AT_EMPTY_PATH,
        )
    };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    drop(file);
    mount.end();
    first.close().unwrap();
    let second = volume();
    let mount = Mount::new(Arc::new(WithSnapshots::new(second.clone())), true, &options);
    let dir = File::open(mount.root()).unwrap();
    let mut open = || {
        // SAFETY: the kernel filled the handle; the descriptor is new and nobody else's.
        unsafe {
            let from = (&raw mut handle).cast();
            let fd = libc::open_by_handle_at(dir.as_raw_fd(), from, libc::O_RDONLY);
            (fd >= 0).then(|| File::from_raw_fd(fd))
        }
    };
    let file = open().expect("the handle is good");
    let mut read = [0; 11];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, *b"found again");
    drop(file);
    fs::remove_file(mount.path("d/f")).unwrap();
    // As long as the kernel remembers the inode it does not ask.
    drop(forget_inodes());
    assert!(open().is_none());
    assert_eq!(
        io::Error::last_os_error().raw_os_error(),
        Some(libc::ESTALE)
    );
    drop(dir);
    mount.end();
    second.close().unwrap();
}

#[test]
fn what_the_kernel_does_not_pass_on_is_refused() {
    volume(|mount, _| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(mount.path("f")).unwrap();
        file.write_all_at(&[1; 100_000], 0).unwrap();
        for mode in [
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
            FallocateFlags::UNSHARE_RANGE,
        ] {
            let refused = fallocate(&file, mode, 4096, 4096);
            assert_eq!(errno(refused), libc::EOPNOTSUPP, "{mode:?}");
        }
        let copy = File::create(mount.path("g")).unwrap();
        let refused = rustix::fs::ioctl_ficlone(&copy, &file);
        assert_eq!(errno(refused), libc::EOPNOTSUPP);
        assert_eq!(file.metadata().unwrap().len(), 100_000);
    });
}

#[test]
fn files_are_as_large_as_offsets_and_no_larger() {
    volume(|mount, _| {
        let file = File::create_new(mount.path("f")).unwrap();
        file.set_len(16 << 40).unwrap();
        file.write_all_at(b"x", (16 << 40) - 1).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!(stat.len(), 16 << 40);
        assert!(stat.blocks() < 1000);
        let last = i64::MAX as u64;
        file.set_len(last).unwrap();
        file.write_all_at(b"x", last - 1).unwrap();
        let beyond = file.write_at(b"x", last).unwrap_err();
        assert!(matches!(
            beyond.raw_os_error(),
            Some(libc::EFBIG | libc::EINVAL)
        ));
        assert_eq!(file.metadata().unwrap().len(), last);
    });
}
