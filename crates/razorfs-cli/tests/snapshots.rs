//! Snapshots and rollback by the commands, on volumes that are mounted and that are not.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Mount, Random, fails, is_mounted, ok, run};

fn snapshot(action: &str, place: &Path, rest: &[&str]) -> String {
    let mut args = vec!["snapshot", action, place.to_str().unwrap()];
    args.extend(rest);
    ok(args)
}

fn no_snapshot(action: &str, place: &Path, rest: &[&str]) -> String {
    let mut args = vec!["snapshot", action, place.to_str().unwrap()];
    args.extend(rest);
    fails(1, args)
}

fn list(place: &Path) -> Vec<Value> {
    let document: Value = serde_json::from_str(&snapshot("list", place, &["--json"])).unwrap();
    assert_eq!(document["schema"], 1, "{document}");
    document["snapshots"].as_array().unwrap().clone()
}

/// The names of the snapshots, oldest first.
pub fn names(place: &Path) -> Vec<String> {
    let of = |snapshot: &Value| snapshot["name"].as_str().unwrap().to_owned();
    list(place).iter().map(of).collect()
}

/// Goes back to a snapshot; answers with the name of the one of what was until then.
fn rollback(place: &Path, to: &str) -> String {
    let said = ok(["rollback", place.to_str().unwrap(), to]);
    let mut lines = said.lines();
    let first = lines.next().unwrap();
    let safety = first.rsplit(' ').next().unwrap().to_owned();
    let undo = format!(
        "undo it with: razorfs rollback {} {safety}",
        place.display()
    );
    assert_eq!(lines.next().unwrap(), undo);
    assert!(safety.starts_with("before-rollback-"), "{said}");
    safety
}

#[test]
fn snapshots_are_taken_listed_deleted_and_gone_back_to_without_a_mount() {
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    // The words and their order are the same whether it is mounted or not.
    let write = |text: &str| {
        let host = mount.room.path().join("host");
        fs::write(&host, text).unwrap();
        ok(["cp", "-q", host.to_str().unwrap(), &mount.at("file")]);
    };
    let read = || ok(["cat", &mount.at("file")]);
    lives(&mount.volume, &write, &read);
    mount.verify();
}

#[test]
fn snapshots_are_taken_listed_and_deleted_by_volume_and_mount_point_of_a_mount() {
    let mount = Mount::with(&[]);
    for place in [&mount.volume, &mount.dir] {
        let file = mount.dir.join("file");
        fs::write(&file, "one").unwrap();
        assert_eq!(snapshot("create", place, &["a"]), "a\n");
        fs::write(&file, "one, two").unwrap();
        assert_eq!(snapshot("create", place, &["b"]), "b\n");
        assert_eq!(names(place), ["a", "b"]);
        assert_eq!(mount.info()["snapshots"], 2);
        snapshot("delete", place, &["a", "b"]);
        assert_eq!(names(place), [""; 0]);
    }
    mount.umount();
    mount.verify();
}

/// A volume in which there is nothing, and `write` and `read` of one file of it.
fn lives(place: &Path, write: &dyn Fn(&str), read: &dyn Fn() -> String) {
    assert!(snapshot("list", place, &[]).starts_with("no snapshots"));
    write("one");
    assert_eq!(
        snapshot("create", place, &["first of all"]),
        "first of all\n"
    );
    write("one, two");
    let given = snapshot("create", place, &[]);
    let given = given.trim_end();
    let shape: String = given
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "00000000T000000Z");
    // Within the same second, perhaps.
    let other = snapshot("create", place, &[]);
    assert_ne!(other.trim_end(), given);
    write("three");
    assert_eq!(names(place), ["first of all", given, other.trim_end()]);
    let found = list(place);
    assert_eq!(found[0]["files"], 2, "{found:?}");
    assert_eq!(
        (&found[0]["bytes"], &found[1]["bytes"]),
        (&3.into(), &8.into())
    );
    assert!(found[0]["held"].is_u64() && found[0]["id"].as_u64() < found[1]["id"].as_u64());
    let time = found[0]["time"].as_str().unwrap();
    assert!(
        time.len() == 30 && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    let table = snapshot("list", place, &[]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.contains("first of all") && table.contains("HOLDS ALONE"),
        "{table}"
    );

    let safety = rollback(place, "first of all");
    assert_eq!(read(), "one");
    assert_eq!(names(place).last(), Some(&safety));
    let again = rollback(place, &safety);
    assert_eq!(read(), "three");
    snapshot("delete", place, &["first of all", given, &again]);
    assert_eq!(names(place), [other.trim_end(), &safety]);
    rollback(place, other.trim_end());
    assert_eq!(read(), "one, two");
}

#[test]
fn what_cannot_be_done_with_a_snapshot_is_said_in_one_line_with_the_remedy() {
    let mount = Mount::with(&[]);
    snapshot("create", &mount.dir, &["before-import"]);
    let refusals = |place: &Path| {
        let line = no_snapshot("create", place, &["before-import"]);
        assert!(
            line.contains("it exists already; use another name"),
            "{line}"
        );
        assert!(
            line.contains("volume.rzfs") && line.contains("\"before-import\""),
            "{line}"
        );
        for bad in [
            "a/b",
            "a@b",
            "..",
            "",
            "a\nb",
            &"x".repeat(256),
            &"x".repeat(9000),
        ] {
            let line = no_snapshot("create", place, &[bad]);
            assert!(line.contains("the name of a snapshot"), "{bad}: {line}");
        }
        let line = no_snapshot("delete", place, &["before-import", "befor-import"]);
        assert!(
            line.contains("perhaps \"before-import\" is meant"),
            "{line}"
        );
        assert_eq!(names(place), ["before-import"], "none is deleted");
        let line = fails(1, ["rollback", place.to_str().unwrap(), "yesterday"]);
        assert!(
            line.contains("there is no such snapshot; `razorfs snapshot list"),
            "{line}"
        );
        let at = format!("{}@before-import", place.display());
        for words in [
            vec!["info", &at],
            vec!["sync", &at],
            vec!["verify", &at],
            vec!["snapshot", "list", &at],
        ] {
            let line = fails(1, words);
            assert!(line.contains("not for a single snapshot; name"), "{line}");
        }
        for words in [
            vec!["snapshot", "create", &at, "x"],
            vec!["rollback", &at, "before-import"],
        ] {
            let line = fails(1, words);
            assert!(line.contains("stays as it is; name"), "{line}");
        }
        let (file, host) = (format!("{at}:/x"), mount.room.path().join("host"));
        fs::write(&host, "x").unwrap();
        let host = host.to_str().unwrap();
        for words in [
            vec!["rm", &file],
            vec!["mkdir", &file],
            vec!["cp", host, &file],
            vec!["import", mount.room.path().to_str().unwrap(), &at],
        ] {
            let line = fails(1, words);
            assert!(line.contains("a snapshot stays as it is"), "{line}");
        }
        assert!(!Path::new(&at).exists(), "nothing was made of that name");
    };
    refusals(&mount.dir);
    refusals(&mount.volume);
    mount.umount();
    refusals(&mount.volume);
    mount.mount(&["--read-only"]);
    let line = no_snapshot("create", &mount.dir, &["x"]);
    assert!(line.contains("read-only"), "{line}");
    assert_eq!(names(&mount.dir), ["before-import"]);
    mount.umount();
}

/// What is in the file, of which the kernel has not told the daemon yet.
#[test]
fn a_snapshot_of_a_mount_has_what_the_kernel_had_not_written_yet() {
    let mount = Mount::with(&[]);
    let mut random = Random(crate::support::seed());
    let mut bytes = Vec::new();
    bytes.resize_with(30_000_000, || random.next() as u8);
    fs::write(mount.dir.join("large"), &bytes).unwrap();
    for n in 0..300 {
        fs::write(mount.dir.join(format!("small {n}")), &bytes[n * 7..n * 50]).unwrap();
    }
    snapshot("create", &mount.dir, &["all"]);
    fs::write(mount.dir.join("large"), b"gone").unwrap();
    for n in 0..300 {
        fs::remove_file(mount.dir.join(format!("small {n}"))).unwrap();
    }
    mount.umount();
    let out = mount.room.path().join("out");
    let at = format!("{}@all", mount.volume.display());
    ok(["export", "-q", &at, out.to_str().unwrap()]);
    assert!(fs::read(out.join("large")).unwrap() == bytes);
    for n in 0..300 {
        let small = fs::read(out.join(format!("small {n}"))).unwrap();
        assert!(small == bytes[n * 7..n * 50], "small {n}");
    }
    mount.verify();
}

#[test]
fn a_snapshot_of_a_volume_that_is_not_mounted_is_read_by_its_name() {
    let mount = Mount::with(&[]);
    let dir = mount.dir.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "old").unwrap();
    std::os::unix::fs::symlink("dir/a", mount.dir.join("link")).unwrap();
    snapshot("create", &mount.dir, &["then"]);
    fs::write(dir.join("a"), "newer").unwrap();
    fs::write(dir.join("b"), "b").unwrap();
    fs::remove_file(mount.dir.join("link")).unwrap();
    snapshot("create", &mount.dir, &["later"]);
    fs::remove_dir_all(&dir).unwrap();
    mount.umount();
    by_name(&mount);
    mount.verify();
}

/// What the commands that read say of the snapshots `then` and `later`, and a copy that brings
/// something back.
pub fn by_name(mount: &Mount) {
    let at = |name: &str, path: &str| format!("{}@{name}:/{path}", mount.volume.display());
    assert_eq!(ok(["ls", &mount.at("")]), "");
    let bare = format!("{}@then", mount.volume.display());
    assert_eq!(ok(["ls", "-R", &bare]), "./:\ndir\nlink\n\n./dir:\na\n");
    assert_eq!(ok(["ls", &at("later", "dir")]), "a\nb\n");
    let both = ok(["cat", &at("then", "link"), &at("later", "dir/a")]);
    assert_eq!(both, "oldnewer");
    let stat = ok(["stat", "--json", &at("then", "dir/a")]);
    let stat: Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["size"], 3, "{stat}");
    let line = fails(1, ["cat", &at("than", "link")]);
    assert!(line.contains("perhaps \"then\" is meant"), "{line}");
    let line = fails(1, ["cat", &at("then", "dir/b")]);
    assert!(line.contains("no such file"), "{line}");
    // A volume that is inside of itself is still told, by whatever name.
    let inside = mount.volume.join("out");
    let line = fails(1, ["export", "-q", &bare, inside.to_str().unwrap()]);
    assert!(line.contains("keeps its own files there"), "{line}");
    let tar = mount.room.path().join("out.tar");
    ok(["export", "-q", &bare, tar.to_str().unwrap()]);
    let listed = run(std::process::Command::new("tar").arg("tf").arg(&tar));
    assert!(
        listed.contains("dir/a") && !listed.contains("dir/b"),
        "{listed}"
    );
    // Out of two snapshots into the volume itself.
    ok(["cp", "-qr", &at("then", "dir"), &mount.at("dir")]);
    ok([
        "cp",
        "-q",
        &at("later", "dir/b"),
        &at("then", "dir/a"),
        &mount.at(""),
    ]);
    assert_eq!(
        ok(["cat", &mount.at("dir/a"), &mount.at("b"), &mount.at("a")]),
        "oldbold"
    );
}

#[test]
fn a_snapshot_is_mounted_and_nothing_in_it_changes() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "old").unwrap();
    snapshot("create", &mount.dir, &["then"]);
    fs::write(mount.dir.join("a"), "newer").unwrap();
    fs::write(mount.dir.join("b"), "b").unwrap();
    mount.umount();
    let other = mount.room.path().join("other");
    let (volume, there) = (mount.volume.to_str().unwrap(), other.to_str().unwrap());
    let named = format!("{volume}@then");
    let line = fails(1, ["mount", "--snapshot", "than", &named, there]);
    assert!(line.contains("two snapshots are named"), "{line}");
    let line = fails(1, ["mount", "--snapshot", "than", volume, there]);
    assert!(line.contains("perhaps \"then\" is meant"), "{line}");
    assert!(!is_mounted(&other) && !Path::new(&named).exists());
    for more in ["rw", "rw,nokeeper", "rw,transport=dev"] {
        mount.mount(&["--snapshot", "then", "-o", more]);
        assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"old");
        assert!(!mount.dir.join("b").exists());
        let error = fs::write(mount.dir.join("a"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let info = mount.info();
        assert_eq!(
            (&info["snapshot"], &info["snapshots"]),
            (&"then".into(), &1.into())
        );
        assert_eq!(names(&mount.dir), ["then"]);
        let line = fails(1, ["rollback", mount.dir.to_str().unwrap(), "then"]);
        assert!(line.contains("name the volume"), "{line}");
        mount.umount();
    }
    // Nothing at all is written where that is asked for.
    mount.mount(&["--snapshot", "then", "-o", "ro"]);
    let line = fails(1, ["rollback", volume, "then"]);
    assert!(line.contains("read-only"), "{line}");
    mount.umount();
    mount.mount(&[]);
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"newer");
    mount.umount();
    mount.verify();
}

#[test]
fn a_daemon_that_goes_on_for_one_that_died_shows_the_same_snapshot() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "old").unwrap();
    snapshot("create", &mount.dir, &["then"]);
    fs::write(mount.dir.join("a"), "newer").unwrap();
    mount.umount();
    mount.mount(&["--snapshot", "then"]);
    if mount.keeper().is_none() {
        eprintln!("skipped: the kernel cannot resend requests, so nobody keeps a mount");
        return;
    }
    mount.kill_daemon(mount.pid());
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"old");
    assert_eq!(mount.info()["snapshot"], "then");
    mount.umount();
    mount.verify();
}
