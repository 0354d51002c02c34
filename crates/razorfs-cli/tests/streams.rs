//! Streams of snapshots, by the commands: between volumes that are mounted and such that are not.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Mount, fails, ok, room, same_trees};

const RAZORFS: &str = env!("CARGO_BIN_EXE_razorfs");

/// Runs a command with files as its input and output.
fn piped(args: &[&str], input: Option<&Path>, output: Option<&Path>) -> Output {
    let mut command = Command::new(RAZORFS);
    command.args(args).stdin(Stdio::null());
    if let Some(input) = input {
        command.stdin(File::open(input).unwrap());
    }
    if let Some(output) = output {
        command.stdout(File::create(output).unwrap());
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn send(args: &[&str], to: &Path) {
    let out = piped(&[&["send", "-q"], args].concat(), None, Some(to));
    assert!(out.status.success(), "{}", text(&out.stderr));
}

fn receive(volume: &str, options: &[&str], from: &Path) -> Output {
    piped(
        &[&["receive", "-q", volume], options].concat(),
        Some(from),
        None,
    )
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("some/empty")).unwrap();
    for n in 0..300 {
        fs::write(dir.join(format!("some/{n}")), vec![n as u8; n * 40]).unwrap();
    }
    fs::hard_link(dir.join("some/7"), dir.join("seven")).unwrap();
    std::os::unix::fs::symlink("some/7", dir.join("link")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
}

#[test]
fn what_a_mount_sends_a_volume_has_and_a_mount_as_well() {
    let (from, room) = (Mount::with(&[]), room());
    let path = |name: &str| -> PathBuf { room.path().join(name) };
    let place = from.dir.to_str().unwrap();
    fill(&from.dir);
    ok(["snapshot", "create", place, "one"]);
    send(&[&format!("{place}@one")], &path("all"));
    // A volume that is missing is made.
    let volume = path("volume");
    let out = receive(volume.to_str().unwrap(), &["--json"], &path("all"));
    assert!(out.status.success(), "{}", text(&out.stderr));
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["snapshot"], "one");
    assert_eq!(document["bytes"], fs::metadata(path("all")).unwrap().len());
    let dir = path("dir");
    ok(["mount".as_ref(), volume.as_os_str(), dir.as_os_str()]);
    same_trees(&from.dir, &dir);
    // What the kernel knows of names and contents is not what comes.
    fs::write(from.dir.join("some/7"), "another").unwrap();
    fs::remove_file(from.dir.join("some/8")).unwrap();
    fs::rename(from.dir.join("some"), from.dir.join("other")).unwrap();
    ok(["snapshot", "create", place, "two"]);
    send(
        &[&format!("{place}@two"), "--from", "one"],
        &path("difference"),
    );
    // Most of it says that 300 files have been read; of what is in them it has nothing.
    let bytes = fs::metadata(path("difference")).unwrap().len();
    assert!(bytes < 300 * 100, "{bytes} bytes");
    let out = receive(dir.to_str().unwrap(), &[], &path("difference"));
    assert_eq!(text(&out.stdout), "received two\n", "{}", text(&out.stderr));
    same_trees(&from.dir, &dir);
    assert_eq!(fs::read_to_string(dir.join("seven")).unwrap(), "another");
    assert!(dir.join(".razorfs/snapshots/two/other").is_dir());
    // And the other way, with what was changed here going away.
    fs::write(dir.join("there"), "made there").unwrap();
    ok(["snapshot", "create", dir.to_str().unwrap(), "three"]);
    send(
        &[&format!("{}@three", dir.display()), "--from", "two"],
        &path("back"),
    );
    fs::write(from.dir.join("here"), "made here").unwrap();
    let out = receive(place, &[], &path("back"));
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(
        said.contains("--force") && said.lines().count() == 1,
        "{said}"
    );
    assert!(from.dir.join("here").exists());
    let out = receive(place, &["--force"], &path("back"));
    assert!(
        text(&out.stdout).contains("before-receive-"),
        "{}",
        text(&out.stderr)
    );
    assert!(!from.dir.join("here").exists());
    same_trees(&from.dir, &dir);
    ok(["umount".as_ref(), dir.as_os_str()]);
    ok(["verify".as_ref(), volume.as_os_str()]);
    from.umount();
    from.verify();
}

#[test]
fn a_stream_that_breaks_off_leaves_a_mount_as_it_was_and_goes_on() {
    let (from, to, room) = (Mount::with(&[]), Mount::with(&[]), room());
    let path = |name: &str| -> PathBuf { room.path().join(name) };
    let (place, target) = (from.dir.to_str().unwrap(), to.dir.to_str().unwrap());
    fill(&from.dir);
    ok(["snapshot", "create", place, "one"]);
    send(&[&format!("{place}@one")], &path("all"));
    let all = fs::read(path("all")).unwrap();
    fs::write(path("part"), &all[..all.len() * 2 / 3]).unwrap();
    let out = receive(target, &[], &path("part"));
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.contains("breaks off") && said.contains("--resume-token"),
        "{said}"
    );
    assert_eq!(fs::read_dir(&to.dir).unwrap().count(), 0);
    fs::write(to.dir.join("mine"), "for a while").unwrap();
    fs::remove_file(to.dir.join("mine")).unwrap();
    let token = ok(["receive", "--resume-token", target]);
    send(&[place, "--resume", token.trim()], &path("rest"));
    assert!(fs::metadata(path("rest")).unwrap().len() < all.len() as u64);
    let out = receive(target, &[], &path("rest"));
    assert_eq!(text(&out.stdout), "received one\n", "{}", text(&out.stderr));
    same_trees(&from.dir, &to.dir);
    let line = fails(1, ["receive", "--resume-token", target]);
    assert!(line.contains("no stream has broken off"), "{line}");
    to.umount();
    to.verify();
    from.umount();
}

#[test]
fn what_is_no_stream_makes_no_volume() {
    let room = room();
    let path = |name: &str| -> PathBuf { room.path().join(name) };
    fs::write(
        path("text"),
        "a text that is long enough to be the beginning of something",
    )
    .unwrap();
    let volume = path("volume");
    let out = receive(volume.to_str().unwrap(), &[], &path("text"));
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("razorfs send"),
        "{}",
        text(&out.stderr)
    );
    assert!(!volume.exists());
    ok(["create".as_ref(), volume.as_os_str()]);
    let name = volume.to_str().unwrap();
    let line = fails(1, ["send", name]);
    assert!(line.contains("names no snapshot"), "{line}");
    let line = fails(1, ["send", &format!("{name}@missing")]);
    assert!(line.contains("there is no such snapshot"), "{line}");
    let line = fails(1, ["send", name, "--resume", "rzt1-00"]);
    assert!(line.contains("no token"), "{line}");
}

/// The next daemon knew nothing of it, and the kernel went on to show what had been there.
#[test]
fn a_stream_at_the_end_of_which_the_daemon_dies_is_seen_by_programs() {
    let (from, to, room) = (Mount::with(&[]), Mount::with(&[]), room());
    let path = |name: &str| -> PathBuf { room.path().join(name) };
    let (place, target) = (from.dir.to_str().unwrap(), to.volume.to_str().unwrap());
    for name in ["one", "two"] {
        let _ = fs::remove_file(from.dir.join("two"));
        fs::write(from.dir.join(name), name).unwrap();
        fs::write(from.dir.join("both"), name.repeat(name.len())).unwrap();
        ok(["snapshot", "create", place, name]);
    }
    send(&[&format!("{place}@one")], &path("one"));
    send(&[&format!("{place}@two"), "--from", "one"], &path("two"));
    assert!(receive(target, &[], &path("one")).status.success());
    if !to.again_patiently() {
        return;
    }
    let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let mut happened = 0;
    for n in 0..24u64 {
        assert_eq!((names(&to.dir), to.dir.join("two").exists()), (2, false));
        let pid = to.pid();
        let mut come = Command::new(RAZORFS);
        come.args(["receive", "-q", target]).process_group(0);
        come.stdin(File::open(path("two")).unwrap());
        come.stdout(Stdio::null()).stderr(Stdio::null());
        let mut come = come.spawn().unwrap();
        // At any moment of it.
        std::thread::sleep(std::time::Duration::from_millis(5 + n * 7 % 80));
        to.kill_daemon(pid);
        come.wait().unwrap();
        // What is there as the daemon has it, and not the kernel.
        let is_two = ok(["snapshot", "list", target]).contains("two");
        let both = fs::read_to_string(to.dir.join("both")).unwrap();
        assert_eq!(both.starts_with("two"), is_two, "{both}");
        assert_eq!(to.dir.join("two").exists(), is_two);
        assert_eq!(names(&to.dir), if is_two { 3 } else { 2 });
        if is_two {
            ok(["rollback", target, "one"]);
            ok(["snapshot", "delete", target, "two"]);
            happened += 1;
        }
    }
    assert!(happened > 0, "nothing was received");
    to.umount();
    to.verify();
    from.umount();
}
