//! Branches of a volume: mounted next to it, written to, compared and committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use crate::support::{Mount, fails, info, ok, razorfs, same_trees};

/// A directory beside the mount point.
fn beside(mount: &Mount, name: &str) -> PathBuf {
    mount.dir.with_file_name(name)
}

fn at(mount: &Mount, branch: &str) -> String {
    format!("{}@{branch}", mount.volume.display())
}

fn mount_branch(mount: &Mount, branch: &str) -> PathBuf {
    let dir = beside(mount, branch);
    ok(["mount", &at(mount, branch), dir.to_str().unwrap()]);
    dir
}

fn umount(dir: &Path) {
    ok(["umount".as_ref(), dir.as_os_str()]);
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn ten_forks_of_a_tree_are_worked_in_at_once_and_the_best_is_committed() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    for n in 0..50 {
        let dir = mount.dir.join(format!("d{}", n % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), vec![n; 3000]).unwrap();
    }
    let before = beside(&mount, "before");
    ok(["cp", "-r", &format!("{place}:/"), before.to_str().unwrap()]);
    let names: Vec<String> = (0..10).map(|n| format!("try-{n}")).collect();
    for name in &names {
        ok(["clone", place, "--branch", name]);
    }
    let dirs: Vec<PathBuf> = names.iter().map(|n| mount_branch(&mount, n)).collect();
    thread::scope(|scope| {
        for (n, dir) in dirs.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..40 {
                    fs::write(dir.join("d1/f1"), format!("{n} {round}")).unwrap();
                    fs::write(dir.join(format!("new-{round}")), vec![n as u8; 9000]).unwrap();
                }
                fs::remove_file(dir.join("d2/f2")).unwrap();
                fs::rename(dir.join("d3"), dir.join("d0/d3")).unwrap();
            });
        }
    });
    same_trees(&mount.dir, &before);
    for (n, dir) in dirs.iter().enumerate() {
        assert_eq!(text(dir.join("d1/f1")), format!("{n} 39"));
        assert_eq!(fs::read(dir.join("new-7")).unwrap(), vec![n as u8; 9000]);
        assert!(dir.join("d0/d3/f3").exists() && !dir.join("d2/f2").exists());
    }
    // What was done here meanwhile stays.
    fs::write(mount.dir.join("mine"), "mine").unwrap();
    let said = ok(["commit", dirs[4].to_str().unwrap()]);
    assert_eq!(text(mount.dir.join("d1/f1")), "4 39");
    assert_eq!(text(mount.dir.join("mine")), "mine");
    assert!(mount.dir.join("d0/d3/f3").exists() && !mount.dir.join("d2/f2").exists());
    assert!(!dirs[4].join("mine").exists());
    // As the command says, so that it can be undone.
    let undo = said
        .lines()
        .last()
        .unwrap()
        .rsplit_once("razorfs ")
        .unwrap();
    ok(undo.1.split(' '));
    fs::remove_file(mount.dir.join("mine")).unwrap();
    same_trees(&mount.dir, &before);
    ok(["commit", &format!("{place}@try-5")]);
    assert_eq!(text(mount.dir.join("d1/f1")), "5 39");
    for dir in &dirs {
        umount(dir);
    }
    let mut delete = vec!["branch", "delete", place];
    delete.extend(names.iter().map(String::as_str));
    ok(delete);
    assert!(ok(["branch", "list", place]).starts_with("no branches"));
    mount.umount();
    mount.verify();
}

#[test]
fn of_branches_that_are_not_all_there_none_is_deleted() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    ok(["branch", "create", place, "attempt"]);
    let line = fails(1, ["branch", "delete", place, "attempt", "attempd"]);
    assert!(line.contains("perhaps \"attempt\" is meant"), "{line}");
    assert!(ok(["branch", "list", place]).contains("attempt"));
    ok(["branch", "delete", place, "attempt", "attempt"]);
    assert!(ok(["branch", "list", place]).starts_with("no branches"));
    mount.umount();
    mount.verify();
}

#[test]
fn what_both_have_changed_is_listed_and_nothing_is_done() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    fs::write(mount.dir.join("a"), "a").unwrap();
    ok(["branch", "create", place, "b"]);
    let dir = mount_branch(&mount, "b");
    fs::write(dir.join("a"), "theirs").unwrap();
    fs::write(dir.join("other"), "other").unwrap();
    fs::write(mount.dir.join("a"), "mine").unwrap();
    let refused = razorfs(["commit", &format!("{place}@b")]);
    assert_eq!(refused.status.code(), Some(1));
    let listed = String::from_utf8(refused.stdout).unwrap();
    assert_eq!(listed, "C /a  (both have changed it)\n");
    let line = String::from_utf8(refused.stderr).unwrap();
    assert!(line.contains("1 conflicts, and nothing was done"), "{line}");
    let refused = razorfs(["commit", "--json", &format!("{place}@b")]);
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(document["conflicts"][0]["path"], "a");
    assert_eq!(document["done"], false);
    assert!(!mount.dir.join("other").exists());
    ok(["commit", &format!("{place}@b"), "--on-conflict", "branch"]);
    assert_eq!(text(mount.dir.join("a")), "theirs");
    assert_eq!(text(mount.dir.join("other")), "other");
    let said = ok(["commit", &format!("{place}@b")]);
    assert_eq!(said, "b has changed nothing that is not there\n");
    umount(&dir);
    mount.umount();
    mount.verify();
}

#[test]
fn a_branch_has_snapshots_and_rollbacks_of_its_own() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    fs::write(mount.dir.join("a"), "a").unwrap();
    ok(["branch", "create", place, "b"]);
    let dir = mount_branch(&mount, "b");
    let branch = dir.to_str().unwrap();
    ok(["snapshot", "create", branch, "then"]);
    fs::write(dir.join("a"), "in b").unwrap();
    fs::write(mount.dir.join("a"), "here").unwrap();
    assert_eq!(text(dir.join(".razorfs/snapshots/then/a")), "a");
    ok(["rollback", branch, "then"]);
    assert_eq!(text(dir.join("a")), "a");
    assert_eq!(text(mount.dir.join("a")), "here");
    ok(["rollback", place, "then"]);
    assert_eq!(text(mount.dir.join("a")), "a");
    let line = fails(1, ["branch", "create", place, "then"]);
    assert!(line.contains("has that name"), "{line}");
    let line = fails(1, ["snapshot", "create", place, "b"]);
    assert!(line.contains("exists"), "{line}");
    let line = fails(1, ["branch", "delete", place, "b"]);
    let mounted = format!("it is mounted on {}", dir.display());
    assert!(line.contains(&mounted), "{line}");
    let line = fails(1, ["branch", "delete", place, "c"]);
    assert!(line.contains("there is no such branch"), "{line}");
    let line = fails(1, ["snapshot", "create", &format!("{place}@then"), "x"]);
    assert!(line.contains("stays as it is"), "{line}");
    let shown = info(&dir);
    assert_eq!(
        (&shown["branch"], &shown["branches"]),
        (&"b".into(), &1.into())
    );
    umount(&dir);
    mount.umount();
    mount.verify();
}

#[test]
fn a_branch_of_a_volume_that_is_not_mounted_is_worked_in_by_commands() {
    let mount = Mount::new();
    let volume = mount.volume.to_str().unwrap();
    ok(["create", volume]);
    let (file, other) = (beside(&mount, "file"), beside(&mount, "other"));
    fs::write(&file, "one").unwrap();
    fs::write(&other, "two").unwrap();
    ok(["cp", file.to_str().unwrap(), &format!("{volume}:/a")]);
    ok(["branch", "create", volume, "b"]);
    ok(["cp", other.to_str().unwrap(), &format!("{volume}@b:/a")]);
    ok(["mkdir", &format!("{volume}@b:/dir")]);
    assert_eq!(ok(["cat", &format!("{volume}:/a")]), "one");
    assert_eq!(ok(["cat", &format!("{volume}@b:/a")]), "two");
    let diff = ok(["diff", volume, &format!("{volume}@b")]);
    assert_eq!(diff.lines().count(), 2, "{diff}");
    ok(["branch", "create", &format!("{volume}@b"), "c"]);
    ok(["rm", &format!("{volume}@c:/a")]);
    ok(["commit", &format!("{volume}@c"), "--onto", "b"]);
    assert_eq!(ok(["ls", &format!("{volume}@b:/")]), "dir\n");
    ok(["commit", &format!("{volume}@b")]);
    assert_eq!(ok(["ls", &format!("{volume}:/")]), "dir\n");
    mount.verify();
}

/// Appends to a log and moves files about.
fn work(dir: &Path, n: usize) {
    use std::io::Write;
    let mut log = fs::File::options()
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    for round in 0..400 {
        writeln!(log, "{n} {round}").unwrap();
        let path = dir.join(format!("f{}", round % 20));
        fs::write(&path, format!("{n} {round}")).unwrap();
        if round % 3 == 0 {
            fs::rename(&path, dir.join("moved")).unwrap();
        }
    }
}

/// Each goes on with its files, and with what it was told was done.
#[test]
fn a_daemon_that_dies_is_followed_by_one_that_serves_the_branches_too() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    fs::write(mount.dir.join("log"), "").unwrap();
    ok(["branch", "create", place, "b1"]);
    ok(["branch", "create", place, "b2"]);
    if !mount.again_patiently() {
        return;
    }
    let mut dirs = vec![mount.dir.clone()];
    dirs.extend(["b1", "b2"].map(|name| mount_branch(&mount, name)));
    thread::scope(|scope| {
        for (n, dir) in dirs.iter().enumerate() {
            scope.spawn(move || work(dir, n));
        }
        for _ in 0..4 {
            thread::sleep(std::time::Duration::from_millis(150));
            mount.kill_daemon(mount.pid());
        }
    });
    for (n, dir) in dirs.iter().enumerate() {
        let expected: String = (0..400).map(|round| format!("{n} {round}\n")).collect();
        assert_eq!(text(dir.join("log")), expected);
        assert_eq!(text(dir.join("moved")), format!("{n} 399"));
        assert_eq!(text(dir.join("f18")), format!("{n} 398"));
    }
    mount.kill(mount.pid());
    for dir in &dirs {
        umount(dir);
    }
    mount.mount(&[]);
    mount.umount();
    mount.verify();
}
