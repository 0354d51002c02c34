//! Access lists, obeyed by the kernel and kept by the volume.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use razorfs_fuse::SessionOptions;

use crate::{each_with, errno, volume};

const NOBODY: u32 = 65534;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Owner, nobody, group, mask, others.
fn list(permissions: [u16; 5]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    let none = u32::MAX;
    let tags = [(1u16, none), (2, NOBODY), (4, none), (16, none), (32, none)];
    for ((tag, id), permissions) in tags.iter().zip(permissions) {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn set(path: &Path, name: &str, permissions: [u16; 5]) {
    setxattr(path, name, &list(permissions), XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Vec<u8> {
    let mut buf = vec![0; 1000];
    let len = getxattr(path, name, &mut buf[..]).unwrap();
    buf.truncate(len);
    buf
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can be another user");
    }
    root
}

/// Whether an ordinary user can.
fn nobody_can(command: &str, path: &Path) -> bool {
    use std::os::unix::process::CommandExt as _;
    let mut process = Command::new("sh");
    process.args(["-c", command]).arg(path);
    process.uid(NOBODY).gid(NOBODY);
    process.stdout(std::process::Stdio::null());
    process.stderr(std::process::Stdio::null());
    process.status().unwrap().success()
}

#[test]
fn an_access_list_is_obeyed_and_the_mode_goes_with_it() {
    if !root() {
        return;
    }
    volume(|mount, _| {
        fs::set_permissions(mount.root(), Permissions::from_mode(0o755)).unwrap();
        let path = mount.path("f");
        fs::write(&path, b"x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(!nobody_can("cat \"$0\"", &path));
        set(&path, ACCESS, [6, 6, 0, 6, 0]);
        assert_eq!(mode(&path), 0o660);
        assert!(nobody_can("cat \"$0\" && echo y >> \"$0\"", &path));
        // The bits of the group are the mask.
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(get(&path, ACCESS), list([6, 6, 0, 4, 0]));
        assert!(nobody_can("cat \"$0\"", &path));
        assert!(!nobody_can("echo y >> \"$0\"", &path));
    });
}

#[test]
fn a_default_list_comes_before_the_umask() {
    volume(|mount, _| {
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        set(&dir, DEFAULT, [7, 7, 5, 7, 0]);
        let make = "cd \"$0\" && umask 027 && touch f && mkdir s && mkfifo p && touch ../f";
        let status = Command::new("sh").args(["-c", make]).arg(&dir).status();
        assert!(status.unwrap().success());
        assert_eq!(get(&dir.join("f"), ACCESS), list([6, 7, 5, 6, 0]));
        assert_eq!(mode(&dir.join("f")), 0o660);
        assert_eq!(get(&dir.join("s"), ACCESS), list([7, 7, 5, 7, 0]));
        assert_eq!(get(&dir.join("s"), DEFAULT), list([7, 7, 5, 7, 0]));
        assert_eq!(mode(&dir.join("p")), 0o660);
        // Elsewhere the umask counts.
        assert_eq!(mode(&mount.path("f")), 0o640);
    });
}

#[test]
fn setgid_goes_when_a_stranger_to_the_group_sets_a_list() {
    if !root() {
        return;
    }
    volume(|mount, _| {
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(mount.root(), Permissions::from_mode(0o755)).unwrap();
        chown(&dir, Some(NOBODY), Some(1)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o2755)).unwrap();
        // Root may keep it.
        set(&dir, ACCESS, [7, 6, 5, 7, 5]);
        assert_eq!(mode(&dir), 0o2775);
        let chmod = "exec setfacl -m u:1:rwx \"$0\"";
        if crate::find("setfacl").is_none() {
            return eprintln!("SKIPPED: setfacl is not installed");
        }
        assert!(nobody_can(chmod, &dir));
        assert_eq!(mode(&dir), 0o775);
    });
}

#[test]
fn without_access_lists_they_are_refused_and_the_umask_counts() {
    let mut options = SessionOptions::default();
    options.limits = options.limits.without_access_lists();
    each_with(&options, |mount| {
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        let list = list([7, 7, 5, 7, 0]);
        for name in [ACCESS, DEFAULT] {
            let refused = setxattr(&dir, name, &list, XattrFlags::empty());
            assert_eq!(errno(refused), libc::EOPNOTSUPP);
        }
        let make = "cd \"$0\" && umask 027 && touch f && mkdir s";
        let status = Command::new("sh").args(["-c", make]).arg(&dir).status();
        assert!(status.unwrap().success());
        assert_eq!((mode(&dir.join("f")), mode(&dir.join("s"))), (0o640, 0o750));
    });
}
