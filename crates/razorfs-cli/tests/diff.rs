//! What differs between states of a volume, and volumes that are copies of one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Mount, fails, ok, same_trees};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files, and a snapshot of them.
fn prepare(mount: &Mount) {
    let dir = &mount.dir;
    fs::create_dir_all(dir.join("a/deep")).unwrap();
    for name in ["kept", "mode", "moved", "gone", "written", "a/deep/file"] {
        fs::write(dir.join(name), format!("{name}\n")).unwrap();
    }
    fs::write(dir.join("lines"), "one\ntwo\nthree\n").unwrap();
    ok(["snapshot", "create", text(dir), "before"]);
}

fn change(mount: &Mount) {
    let dir = &mount.dir;
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.join("mode"), mode).unwrap();
    fs::rename(dir.join("moved"), dir.join("a/elsewhere")).unwrap();
    fs::rename(dir.join("a/deep"), dir.join("a/deeper")).unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::write(dir.join("written"), "more than there was\n").unwrap();
    fs::write(dir.join("new"), "new\n").unwrap();
    // As editors do.
    fs::write(dir.join("lines.tmp"), "one\n2\nthree\n").unwrap();
    fs::rename(dir.join("lines.tmp"), dir.join("lines")).unwrap();
}

const EXPECTED: &str = "\
R /a/deep/ -> /a/deeper/
R /moved -> /a/elsewhere
D /gone  (5 B)
M /lines  (content, 14 B -> 12 B)
M /mode  (mode)
A /new  (4 B)
M /written  (content, 8 B -> 20 B)
";

#[test]
fn a_diff_tells_what_came_between_of_a_mount_and_of_its_volume() {
    let mount = Mount::with(&[]);
    prepare(&mount);
    let before = format!("{}@before", text(&mount.dir));
    assert_eq!(ok(["diff", &before]), "");
    change(&mount);
    assert_eq!(ok(["diff", &before]), EXPECTED);
    ok(["snapshot", "create", text(&mount.dir), "after"]);
    fs::write(mount.dir.join("later"), "").unwrap();
    let after = format!("{}@after", text(&mount.dir));
    assert_eq!(ok(["diff", &before, &after]), EXPECTED);
    assert_eq!(ok(["diff", &after]), "A /later  (0 B)\n");
    let document: Value = serde_json::from_str(&ok(["diff", "--json", &after])).unwrap();
    let change = &document["changes"][0];
    assert_eq!(
        (&document["schema"], &document["from"], &document["to"]),
        (&json!(1), &json!("after"), &Value::Null)
    );
    assert_eq!(
        (&change["change"], &change["path"], &change["differs"]),
        (&json!("added"), &json!("/later"), &json!([]))
    );
    let patch = ok(["diff", "--patch", &before, &after]);
    assert!(
        patch.contains("--- a/lines\n+++ b/lines\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"),
        "{patch}"
    );
    assert!(patch.contains("--- /dev/null\n+++ b/new\n"), "{patch}");
    mount.umount();
    let volume = |name: &str| format!("{}@{name}", text(&mount.volume));
    assert_eq!(ok(["diff", &volume("before"), &volume("after")]), EXPECTED);
    assert_eq!(
        ok(["diff", "--patch", &volume("before"), &volume("after")]),
        patch
    );
    mount.verify();
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_remedy() {
    let mount = Mount::with(&[]);
    prepare(&mount);
    let dir = text(&mount.dir);
    let line = fails(1, ["diff", &format!("{dir}@none")]);
    assert!(line.contains("no such snapshot"), "{line}");
    let line = fails(1, ["diff", &format!("{dir}@before:/a")]);
    assert!(line.contains("whole states"), "{line}");
    let other = Mount::with(&[]);
    let line = fails(1, ["diff", &format!("{dir}@before"), text(&other.dir)]);
    assert!(line.contains("another place"), "{line}");
    other.umount();
    mount.umount();
}

#[test]
fn a_clone_is_a_volume_with_the_same_files() {
    let mount = Mount::with(&[]);
    prepare(&mount);
    fs::hard_link(mount.dir.join("kept"), mount.dir.join("linked")).unwrap();
    let of = |volume: &str| {
        let clone = Mount::new();
        let place = text(&clone.volume).to_owned();
        ok(["clone", "-q", volume, &place]);
        clone.mount(&[]);
        clone
    };
    let now = of(text(&mount.dir));
    same_trees(&mount.dir, &now.dir);
    // The snapshot that was taken for it is not left.
    let list = ok(["snapshot", "list", text(&mount.dir)]);
    assert_eq!(list.lines().count(), 2, "{list}");
    change(&mount);
    let then = of(&format!("{}@before", text(&mount.dir)));
    assert!(!then.dir.join("linked").exists());
    assert_eq!(fs::read_to_string(then.dir.join("gone")).unwrap(), "gone\n");
    let line = fails(1, ["clone", text(&mount.dir), text(&now.volume)]);
    assert!(line.contains("it is a volume already"), "{line}");
    for mount in [now, then, mount] {
        mount.umount();
        mount.verify();
    }
}
