//! Snapshots of a mount: read through it while it lives, and gone back to under programs.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::snapshots::by_name;
use crate::support::{Mount, fails, ok};

/// A file that is gone since a rollback, as Linux numbers it.
const ESTALE: i32 = 116;

#[test]
fn a_snapshot_of_a_mount_is_read_by_its_name() {
    let mount = Mount::with(&[]);
    let dir = mount.dir.join("dir");
    let place = mount.dir.to_str().unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "old").unwrap();
    std::os::unix::fs::symlink("dir/a", mount.dir.join("link")).unwrap();
    ok(["snapshot", "create", place, "then"]);
    fs::write(dir.join("a"), "newer").unwrap();
    fs::write(dir.join("b"), "b").unwrap();
    fs::remove_file(mount.dir.join("link")).unwrap();
    ok(["snapshot", "create", place, "later"]);
    fs::remove_dir_all(&dir).unwrap();
    by_name(&mount);
    let named = format!("{place}@then:/dir/a");
    assert_eq!(ok(["cat", &named]), "old");
    // A link of the snapshot leads to nothing outside of it.
    std::os::unix::fs::symlink("/etc/passwd", mount.dir.join("out")).unwrap();
    ok(["snapshot", "create", place, "linked"]);
    let line = fails(1, ["cat", &format!("{place}@linked:/out")]);
    assert!(line.contains("no such file"), "{line}");
    ok(["snapshot", "delete", place, "then"]);
    let line = fails(1, ["cat", &named]);
    assert!(line.contains("there is no such snapshot"), "{line}");
    mount.umount();
    mount.verify();
}

#[test]
fn a_mount_goes_back_under_programs_and_forth_again() {
    let mount = Mount::with(&[]);
    fs::create_dir(mount.dir.join("below")).unwrap();
    goes_back(&mount, &mount.dir.join("below"));
    mount.umount();
    mount.verify();
}

/// The kernel had gone on to show them: it never asks for the root, which counted as not known.
#[test]
fn names_in_the_root_of_a_mount_go_back_like_all_others() {
    let mount = Mount::with(&[]);
    goes_back(&mount, &mount.dir);
    mount.umount();
    mount.verify();
}

fn goes_back(mount: &Mount, dir: &Path) {
    let place = mount.dir.to_str().unwrap();
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "old").unwrap();
    fs::create_dir(dir.join("was")).unwrap();
    ok(["snapshot", "create", place, "then"]);
    fs::write(&a, "newer").unwrap();
    fs::write(&b, "only now").unwrap();
    fs::rename(dir.join("was"), dir.join("is")).unwrap();
    let mut held = fs::File::options().read(true).write(true).open(&b).unwrap();
    // What is only in the kernel yet belongs to what was until now.
    held.write_all(b"ONLY").unwrap();
    let said = ok(["rollback", place, "then"]);
    let safety = said
        .lines()
        .next()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(fs::read(&a).unwrap(), b"old");
    assert!(!b.exists() && !dir.join("is").exists() && dir.join("was").is_dir());
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "was"]);
    // What was open can be read, and writing to it is told.
    let mut text = String::new();
    held.seek(SeekFrom::Start(0)).unwrap();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ONLY now");
    let written = held.write_all(b"x").and_then(|()| held.sync_all());
    assert_eq!(written.unwrap_err().raw_os_error(), Some(ESTALE));
    drop(held);
    fs::write(&a, "after").unwrap();
    ok(["rollback", place, &safety]);
    assert_eq!(fs::read(&a).unwrap(), b"newer");
    assert_eq!(fs::read(&b).unwrap(), b"ONLY now");
}
