//! Going back to any moment with `razorfs restore`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Mount, fails, ok, razorfs};

fn lsn(mount: &Mount, operation: &str, path: &str) -> String {
    let place = mount.dir.to_str().unwrap();
    let document: Value = serde_json::from_str(&ok(["log", place, "--json"])).unwrap();
    let entries = document["entries"].as_array().unwrap();
    let is_meant = |e: &&Value| e["operation"] == operation && e["path"] == path;
    let found = entries.iter().rfind(is_meant);
    found.unwrap_or_else(|| panic!("{entries:#?}"))["lsn"].to_string()
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// Some files, one of which was changed after a snapshot; then everything is removed. Answers the
/// last moment before that.
fn lost(mount: &Mount) -> String {
    let (dir, place) = (&mount.dir, mount.dir.to_str().unwrap());
    fs::create_dir_all(dir.join("src/deep")).unwrap();
    fs::write(dir.join("src/a"), "one").unwrap();
    fs::write(dir.join("src/deep/b"), "two").unwrap();
    ok(["snapshot", "create", place, "start"]);
    fs::write(dir.join("src/a"), "changed").unwrap();
    fs::write(dir.join("src/deep/c"), "three").unwrap();
    ok(["sync", place]);
    // With its data, which may come in another batch than its name.
    let then = lsn(mount, "write", "/src/deep/c");
    fs::remove_dir_all(dir.join("src")).unwrap();
    fs::write(dir.join("junk"), "junk").unwrap();
    ok(["sync", place]);
    then
}

#[test]
fn a_tree_that_was_removed_is_there_again_and_that_can_be_undone() {
    let mount = Mount::with(&[]);
    let (dir, place) = (&mount.dir, mount.dir.to_str().unwrap());
    let then = lost(&mount);
    let said = ok(["restore", place, "--at", &then]);
    assert_eq!(text(dir.join("src/a")), "changed");
    assert_eq!(text(dir.join("src/deep/b")), "two");
    assert_eq!(text(dir.join("src/deep/c")), "three");
    assert!(!dir.join("junk").exists());
    // It says how to undo it.
    let undo = said
        .lines()
        .find_map(|l| l.strip_prefix("undo it with: razorfs "));
    let undo: Vec<&str> = undo.unwrap().split(' ').collect();
    ok(undo);
    assert!(!dir.join("src").exists());
    assert_eq!(text(dir.join("junk")), "junk");
    mount.umount();
    let volume = mount.volume.to_str().unwrap();
    ok(["restore", volume, "--at", &then]);
    assert_eq!(ok(["cat", &format!("{volume}:/src/deep/c")]), "three");
    mount.verify();
}

#[test]
fn one_directory_or_file_is_brought_back_or_copied() {
    let mount = Mount::with(&[]);
    let (dir, place) = (&mount.dir, mount.dir.to_str().unwrap());
    let then = lost(&mount);
    ok(["restore", place, "src/deep", "--at", &then]);
    assert_eq!(text(dir.join("src/deep/c")), "three");
    assert!(!dir.join("src/a").exists());
    assert_eq!(text(dir.join("junk")), "junk");
    fs::write(dir.join("src/deep/c"), "ruined").unwrap();
    fs::write(dir.join("src/deep/d"), "more").unwrap();
    ok(["restore", place, "/src/deep/c", "--at", &then]);
    assert_eq!(text(dir.join("src/deep/c")), "three");
    assert_eq!(text(dir.join("src/deep/d")), "more");
    let beside = mount.volume.with_file_name("beside");
    let copy = beside.to_str().unwrap();
    ok([
        "restore", place, "src", "--at", &then, "--to", copy, "--quiet",
    ]);
    assert_eq!(text(beside.join("a")), "changed");
    let whole = mount.volume.with_file_name("whole");
    let copy = whole.to_str().unwrap();
    ok(["restore", place, "--at", &then, "--to", copy, "--quiet"]);
    assert_eq!(ok(["cat", &format!("{copy}:/src/a")]), "changed");
    // Nothing is left of it but the snapshots of what was.
    let list: Value = serde_json::from_str(&ok(["snapshot", "list", place, "--json"])).unwrap();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 3);
    ok(["snapshot", "create", place, "kept", "--at", &then]);
    assert_eq!(ok(["cat", &format!("{place}@kept:/src/a")]), "changed");
    mount.umount();
    mount.verify();
}

#[test]
fn what_cannot_be_gone_back_to_is_said_and_changes_nothing() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    let then = lost(&mount);
    for (words, cause) in [
        (&["restore", place, "--at", "tomorrow"][..], "is no moment"),
        (
            &["restore", place, "--at", "1"],
            "no snapshot stands before",
        ),
        (&["restore", place, "--at", "99999"], "was not done yet"),
        (
            &["restore", place, "--at", "9999d"],
            "does not go back so far",
        ),
        (
            &["restore", place, "none", "--at", &then],
            "was not there then",
        ),
        (&["restore", "/nowhere", "--at", "1"], "no such file"),
    ] {
        let said = fails(1, words.iter().copied());
        assert!(said.contains(cause), "{said}");
    }
    let unsaid = razorfs(["restore", place]);
    assert!(!unsaid.status.success(), "a moment has to be named");
    assert_eq!(text(mount.dir.join("junk")), "junk");
    let list = ok(["snapshot", "list", place]);
    assert_eq!(list.lines().count(), 2, "{list}");
    mount.umount();
    mount.verify();
}
