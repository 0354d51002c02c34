//! Mounts of ordinary users, by fusermount3.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use razorfs_fuse::{NullFs, Session, SessionOptions, TransportChoice};
use tempfile::TempDir;

use crate::{Mount, available, find, transports};

const NOBODY: u32 = 65534;

/// Runs one test of this program as an ordinary user, in a directory of his own.
fn as_ordinary_user(test: &str, path: Option<&str>) {
    if !available() {
        return;
    }
    if find("fusermount3").is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no fusermount3");
        return eprintln!("SKIPPED: there is no fusermount3");
    }
    let everybody = fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o006 == 0o006;
    if !everybody && rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "/dev/fuse is not open to all users"
        );
        return eprintln!("SKIPPED: /dev/fuse is not open to all users");
    }
    let home = TempDir::new().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The program may stand where others may not go. Another process copies it: what another test
    // starts meanwhile would hold a file that we write open, and it could not be run.
    let program = home.path().join("program");
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copy.status().unwrap().success());
    let tmp = home.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let mut command = Command::new(&program);
    command
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("TMPDIR", &tmp);
    command.current_dir(&tmp);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    if rustix::process::geteuid().is_root() {
        chown(&tmp, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    // Another test may have started a program while this one was being copied, and have it open.
    let out = loop {
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            out => break out.unwrap(),
        }
    };
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    as_ordinary_user("users::mount_use_and_unmount", None);
}

#[test]
#[ignore = "run by an_ordinary_user_mounts_and_unmounts"]
fn mount_use_and_unmount() {
    for transport in transports() {
        mount_use_and_unmount_over(transport);
    }
}

fn mount_use_and_unmount_over(transport: TransportChoice) {
    let options = SessionOptions {
        transport,
        ..SessionOptions::default()
    };
    let mount = Mount::new(Arc::new(NullFs::default()), false, &options);
    // A request of each kind of transport; the root is not this user's.
    fs::symlink_metadata(mount.path("f")).unwrap_err();
    fs::write(mount.path("f"), b"x").unwrap_err();
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = list
        .lines()
        .find(|l| l.split(' ').nth(4) == mount.root().to_str())
        .unwrap();
    assert!(
        line.contains("fuse.razorfs") && line.contains("nosuid"),
        "{line}"
    );
    fs::set_permissions(mount.root(), fs::Permissions::from_mode(0o700)).unwrap_err();
    mount.end();
}

#[test]
fn allow_other_of_an_ordinary_user_needs_the_line_in_fuse_conf() {
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        return eprintln!("SKIPPED: it is there");
    }
    as_ordinary_user("users::ask_for_allow_other", None);
}

#[test]
#[ignore = "run by allow_other_of_an_ordinary_user_needs_the_line_in_fuse_conf"]
fn ask_for_allow_other() {
    let dir = TempDir::new().unwrap();
    let mut options = SessionOptions::default();
    assert!(options.mount.set("allow_other"));
    let refused = Session::new(Arc::new(NullFs::default()), dir.path(), &options);
    let said = refused.err().expect("it should be refused").to_string();
    assert!(said.contains("/etc/fuse.conf"), "{said}");
}

#[test]
fn without_fusermount3_the_package_is_named() {
    as_ordinary_user("users::mount_without_helper", Some("/nonexistent"));
}

#[test]
#[ignore = "run by without_fusermount3_the_package_is_named"]
fn mount_without_helper() {
    let dir = TempDir::new().unwrap();
    let options = SessionOptions::default();
    let refused = Session::new(Arc::new(NullFs::default()), dir.path(), &options);
    let said = refused.err().expect("it should be refused").to_string();
    assert!(said.contains("install the package fuse3"), "{said}");
}
