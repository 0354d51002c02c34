//! Times of access.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use razorfs::{Atime, Options, Volume};
use razorfs_fuse::{SessionOptions, WithSnapshots};
use rustix::fs::{Advice, fadvise};

use crate::{Mount, available, volume};

fn atime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.atime(), meta.atime_nsec())
}

/// Reads from the volume, and not from the kernel's cache.
fn read(path: &Path, flags: i32) {
    let file = File::options().read(true).custom_flags(flags).open(path);
    let mut file = file.unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert!(!all.is_empty());
}

fn file(mount: &Mount, volume: &Volume, policy: Atime) -> std::path::PathBuf {
    volume.set_atime(policy);
    let path = mount.path("f");
    fs::write(&path, b"content").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    path
}

#[test]
fn relatime_sets_it_once_after_a_change() {
    volume(|mount, volume| {
        let path = file(mount, volume, Atime::Relative);
        let new = atime(&path);
        read(&path, 0);
        let first = atime(&path);
        assert!(first > new);
        read(&path, 0);
        assert_eq!(atime(&path), first);
        fs::write(&path, b"changed").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        read(&path, 0);
        assert!(atime(&path) > first);
    });
}

#[test]
fn noatime_and_strictatime_are_what_they_say() {
    volume(|mount, volume| {
        let path = file(mount, volume, Atime::Never);
        let new = atime(&path);
        read(&path, 0);
        assert_eq!(atime(&path), new);
        volume.set_atime(Atime::Strict);
        read(&path, 0);
        let first = atime(&path);
        assert!(first > new);
        std::thread::sleep(Duration::from_millis(20));
        read(&path, 0);
        let second = atime(&path);
        assert!(second > first);
        if rustix::process::geteuid().is_root() {
            read(&path, libc::O_NOATIME);
            assert_eq!(atime(&path), second);
        }
    });
}

#[test]
fn a_mount_with_strictatime_sees_every_opening() {
    if !available() {
        return;
    }
    let home = tempfile::TempDir::new().unwrap();
    let volume = Volume::open_or_create(home.path().join("v"), Options::default()).unwrap();
    volume.set_atime(Atime::Strict);
    let mut options = SessionOptions::default();
    options.limits = options.limits.seeing_opens();
    let mount = Mount::new(Arc::new(WithSnapshots::new(volume.clone())), true, &options);
    fs::write(mount.path("f"), b"content").unwrap();
    std::os::unix::fs::symlink("target", mount.path("l")).unwrap();
    for _ in 0..3 {
        let before = [".", "f", "l"].map(|name| atime(&mount.path(name)));
        std::thread::sleep(Duration::from_millis(20));
        // From the kernel's cache, were it not for the option.
        fs::read(mount.path("f")).unwrap();
        fs::read_link(mount.path("l")).unwrap();
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 2);
        let after = [".", "f", "l"].map(|name| atime(&mount.path(name)));
        assert!(
            after
                .iter()
                .zip(before)
                .all(|(after, before)| *after > before)
        );
    }
    mount.end();
    volume.close().unwrap();
}

#[test]
fn directories_and_links_are_accessed_too() {
    volume(|mount, volume| {
        volume.set_atime(Atime::Relative);
        let (dir, link) = (mount.path("d"), mount.path("l"));
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let before = (atime(&dir), atime(&link));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::read_link(&link).unwrap();
        assert!(atime(&dir) > before.0);
        assert!(atime(&link) > before.1);
    });
}
