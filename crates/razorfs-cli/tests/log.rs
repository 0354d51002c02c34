//! What was done in a volume, as `razorfs log` tells it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Mount, RAZORFS, fails, ok};

fn entries(place: &Path, rest: &[&str]) -> Vec<Value> {
    let mut args = vec!["log", place.to_str().unwrap(), "--json"];
    args.extend(rest);
    let document: Value = serde_json::from_str(&ok(args)).unwrap();
    assert_eq!(document["schema"], 1, "{document}");
    document["entries"].as_array().unwrap().clone()
}

/// The operations of an entry that are about names, with paths.
fn names(entries: &[Value]) -> Vec<String> {
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("?").to_owned();
    let others = ["write", "touch", "reap"];
    let is_name = |entry: &&Value| !others.contains(&entry["operation"].as_str().unwrap());
    let line = |entry: &Value| {
        let to = entry["to"].as_str().map(|to| format!(" {to}"));
        let to = to.unwrap_or_default();
        format!("{} {}{to}", word(entry, "operation"), word(entry, "path"))
    };
    entries.iter().filter(is_name).map(line).collect()
}

#[test]
fn the_log_tells_what_programs_did_to_which_paths_and_who_they_were() {
    let mount = Mount::with(&[]);
    let dir = &mount.dir;
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/b/file"), "twelve bytes").unwrap();
    ok(["snapshot", "create", dir.to_str().unwrap(), "first"]);
    fs::rename(dir.join("a/b"), dir.join("c")).unwrap();
    fs::set_permissions(dir.join("c/file"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(dir.join("c/file")).unwrap();
    let expected = [
        "mkdir /",
        "mkdir /a",
        "mkdir /a/b",
        "create /a/b/file",
        "snapshot ?",
        "rename /a/b /c",
        "setattr /c/file",
        "unlink /c/file",
    ];
    let live = entries(dir, &[]);
    let told = names(&live);
    let of_names: Vec<_> = told.iter().filter(|l| !l.starts_with("truncate")).collect();
    assert_eq!(of_names, expected.iter().collect::<Vec<_>>(), "{live:#?}");
    // The kernel names the thread, which is that of a test here.
    let pid = rustix::thread::gettid().as_raw_nonzero().get() as u64;
    for entry in &live {
        let named = matches!(entry["operation"].as_str(), Some("unlink" | "rename"));
        if named {
            assert_eq!(entry["pid"], pid, "{entry}");
            assert_eq!(entry["uid"], u64::from(rustix::process::getuid().as_raw()));
        }
    }
    let snapshot = live.iter().find(|e| e["operation"] == "snapshot").unwrap();
    assert_eq!(snapshot["name"], "first");
    // One file, under all of its names.
    let of_file = names(&entries(dir, &["a/b/file"]));
    assert_eq!(of_file.first().unwrap(), "create /a/b/file");
    let below = names(&entries(dir, &["/c"]));
    assert!(below.contains(&"unlink /c/file".to_owned()), "{below:?}");
    assert!(!below.contains(&"mkdir /a".to_owned()), "{below:?}");
    let text = ok(["log", dir.to_str().unwrap(), "a/b/file"]);
    assert!(text.contains("versions that can be fetched:\n"), "{text}");
    assert!(text.contains("12 B  @first\n"), "{text}");
    mount.umount();
    let closed = entries(&mount.volume, &[]);
    assert_eq!(closed[..live.len()], live[..], "the same without a mount");
}

#[test]
fn a_follower_sees_what_is_done_and_ends_with_the_mount() {
    let mount = Mount::with(&[]);
    let mut follower = Command::new(RAZORFS)
        .args(["log", mount.dir.to_str().unwrap(), "--follow", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = |operation: &str| loop {
        let line = lines.next().unwrap().unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        if entry["operation"] == operation {
            break entry;
        }
    };
    // The root, which is as old as the volume.
    assert_eq!(next("mkdir")["path"], "/");
    fs::create_dir(mount.dir.join("made-later")).unwrap();
    assert_eq!(next("mkdir")["path"], "/made-later");
    mount.umount();
    assert!(follower.wait().unwrap().success());
    let volume = mount.volume.to_str().unwrap();
    let refused = fails(1, ["log", volume, "--follow"]);
    assert!(refused.contains("mount it first"), "{refused}");
}
