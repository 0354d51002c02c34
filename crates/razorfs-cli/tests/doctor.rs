//! What the host is told to lack.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Mount, RAZORFS, fails, razorfs, room};
use crate::transport::has_rings;

/// The checks of a `razorfs doctor --json`, whose exit code says whether there is a problem.
fn checks(output: &Output) -> Vec<Value> {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], 2);
    let checks = document["checks"].as_array().unwrap().clone();
    let has = |state: &str| checks.iter().any(|check| check["state"] == state);
    for check in &checks {
        assert_eq!(check["state"] == "ok", check["remedy"].is_null(), "{check}");
        let known = ["ok", "warning", "problem"].iter();
        assert!(known.clone().any(|state| check["state"] == *state));
    }
    let worst = ["problem", "warning", "ok"].into_iter().find(|s| has(s));
    assert_eq!(document["state"], worst.unwrap());
    assert_eq!(output.status.code(), Some(i32::from(has("problem"))));
    checks
}

/// State, what was found, and the remedy of one check.
fn check(checks: &[Value], name: &str) -> [String; 3] {
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name}"));
    ["state", "found", "remedy"].map(|field| check[field].as_str().unwrap_or_default().to_owned())
}

#[test]
fn the_doctor_tells_what_there_is_and_leaves_nothing() {
    let room = room();
    let line = [
        "doctor".as_ref(),
        "--json".as_ref(),
        room.path().as_os_str(),
    ];
    let checks = checks(&razorfs(line));
    let state = |name: &str| check(&checks, name)[0].clone();
    assert_eq!(state("/dev/fuse"), "ok");
    assert_eq!(state("io_uring") == "ok", has_rings());
    for name in [
        "mounting",
        "fusermount3",
        "allow_other",
        "kernel",
        "read-ahead",
        "file size",
        "clock",
        "file system",
        "space",
        "O_TMPFILE",
        "fallocate",
        "holes",
        "O_DIRECT",
        "sync",
    ] {
        assert!(!state(name).is_empty());
    }
    assert_eq!(state("writing"), "ok");
    assert_eq!(state("flock"), "ok");
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
    fails(1, ["doctor".as_ref(), room.path().join("none").as_os_str()]);
    let file = room.path().join("file");
    fs::write(&file, b"x").unwrap();
    fails(1, ["doctor".as_ref(), file.as_os_str()]);
}

#[test]
fn the_doctor_looks_at_a_volume_that_is_mounted() {
    let mount = Mount::with(&[]);
    let said = razorfs(["doctor".as_ref(), mount.dir.as_os_str()]);
    let said = String::from_utf8(said.stdout).unwrap();
    let has = |start: &str| said.lines().any(|line| line.starts_with(start));
    assert!(has("ok       /dev/fuse"), "{said}");
    assert!(has("ok       writing"), "{said}");
    // And what is on one is a file system as well.
    let below = mount.dir.join("d");
    fs::create_dir(&below).unwrap();
    let line = ["doctor".as_ref(), "--json".as_ref(), below.as_os_str()];
    let checks = checks(&razorfs(line));
    assert_eq!(check(&checks, "file system")[..2], ["warning", "is FUSE"]);
    assert_eq!(fs::read_dir(&below).unwrap().count(), 0);
    mount.umount();
    mount.verify();
}

#[test]
fn a_limit_to_files_does_not_end_the_doctor() {
    let room = room();
    // Files end at 512 bytes, and a signal ends who writes more.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -f 1; exec \"$@\"",
        "sh",
        RAZORFS,
        "doctor",
        "--json",
    ]);
    let checks = checks(&command.arg(room.path()).output().unwrap());
    let [state, _, remedy] = check(&checks, "file size");
    assert!(
        state == "problem" && remedy.contains("ulimit -f"),
        "{remedy}"
    );
    assert_eq!(check(&checks, "writing")[0], "problem");
    assert!(!check(&checks, "space")[0].is_empty());
}

#[test]
fn where_nothing_can_be_written_the_rest_is_told_all_the_same() {
    // Nobody writes there.
    let checks = checks(&razorfs(["doctor", "--json", "/proc/self"]));
    let [state, _, remedy] = check(&checks, "writing");
    assert!(state == "problem" && !remedy.is_empty());
    assert!(!check(&checks, "file system")[0].is_empty());
}

/// Runs `razorfs doctor` under setpriv(1), which root can use; none where that is not so.
fn doctor_with(privileges: &[&str]) -> Option<Vec<Value>> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Path::new("/usr/bin/setpriv").exists() {
        eprintln!("SKIPPED: it needs root and setpriv");
        return None;
    }
    // Where everybody may run it.
    let room = tempfile::Builder::new()
        .prefix("razorfs")
        .tempdir_in("/tmp")
        .unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(room.path(), open).unwrap();
    let binary = room.path().join("razorfs");
    fs::copy(RAZORFS, &binary).unwrap();
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .args(privileges)
        .arg(&binary)
        .args(["doctor", "--json"]);
    Some(checks(&command.output().unwrap()))
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn root_without_the_capability_to_mount_is_told_so() {
    let Some(checks) = doctor_with(&["--bounding-set=-sys_admin"]) else {
        return;
    };
    let [state, _, remedy] = check(&checks, "mounting");
    assert_eq!(state, "problem");
    assert!(remedy.contains("--cap-add SYS_ADMIN"), "{remedy}");
}

#[test]
fn who_may_not_become_root_is_told_so() {
    let mut privileges = NOBODY.to_vec();
    let Some(checks_of_nobody) = doctor_with(&privileges) else {
        return;
    };
    assert_eq!(check(&checks_of_nobody, "mounting")[0], "ok");
    privileges.push("--no-new-privs");
    let checks = doctor_with(&privileges).unwrap();
    let [state, found, remedy] = check(&checks, "mounting");
    assert_eq!(state, "problem");
    assert!(found.contains("no_new_privs") && remedy.contains("NoNewPrivileges=no"));
}
