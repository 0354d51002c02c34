//! Snapshots of a mount: read through it while it lives, and gone back to under programs.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::snapshots::{by_name, names};
use crate::support::{Mount, fails, ok, wait_until};

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

/// It was empty, and nothing could be made in it: Linux lets nobody into a directory again that it
/// has seen removed, as long as somebody holds it.
#[test]
fn a_directory_that_was_removed_under_a_program_comes_back_with_what_is_in_it() {
    let mount = Mount::with(&[]);
    let place = mount.dir.to_str().unwrap();
    let dir = mount.dir.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "there").unwrap();
    ok(["snapshot", "create", place, "then"]);
    for round in 0..3 {
        let mut held = fs::File::open(dir.join("file")).unwrap();
        let stands_in = fs::File::open(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        ok(["rollback", place, "then"]);
        let names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "round {round}");
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "there");
        fs::write(dir.join("new"), "made").unwrap();
        let mut text = String::new();
        held.read_to_string(&mut text).unwrap();
        assert_eq!(text, "there");
        drop((held, stands_in));
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "made");
    }
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

#[test]
fn a_mount_takes_snapshots_by_itself_when_something_has_changed() {
    let mount = Mount::with(&["-o", "autosnap=1s,keep=1h:all"]);
    let file = mount.dir.join("file");
    let automatic = || {
        let mut names = names(&mount.volume);
        names.retain(|name| name.starts_with("auto-"));
        names
    };
    fs::write(&file, "one").unwrap();
    // It is in the kernel alone until somebody asks for it.
    let has = |text: &str| {
        let last = automatic().pop().unwrap_or_default();
        let path = mount.dir.join(".razorfs/snapshots").join(last).join("file");
        fs::read_to_string(path).is_ok_and(|found| found == text)
    };
    wait_until("a snapshot has the file", || has("one"));
    let before = automatic();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(automatic(), before, "nothing has changed");
    fs::write(&file, "two").unwrap();
    wait_until("a snapshot has what was changed", || has("two"));
    assert!(automatic().starts_with(&before), "all are kept");
    mount.umount();
    mount.verify();
}

#[test]
fn a_mount_gives_up_old_snapshots_of_its_own_and_no_others() {
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    let volume = mount.volume.to_str().unwrap();
    for name in ["auto-mine", "before", "auto-20200101T000000Z-2"] {
        ok(["snapshot", "create", volume, name]);
    }
    // Its name says so, and its age is that of any other.
    ok(["snapshot", "create", volume, "auto-20200101T000000Z"]);
    mount.mount(&["-o", "autosnap=1s,keep=1s:all"]);
    let mut n = 0;
    wait_until("the old one is gone", || {
        n += 1;
        fs::write(mount.dir.join("file"), n.to_string()).unwrap();
        let names = names(&mount.volume);
        !names.contains(&"auto-20200101T000000Z".to_owned()) && names.len() > 3
    });
    let left = names(&mount.volume);
    assert_eq!(
        left[..3],
        ["auto-mine", "before", "auto-20200101T000000Z-2"]
    );
    // An unmount is never in the way of one, nor the other way round.
    for _ in 0..5 {
        mount.umount();
        mount.mount(&["-o", "autosnap=1s,keep=1s:all"]);
        fs::write(mount.dir.join("file"), "again").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(950));
    }
    mount.umount();
    let line = fails(
        1,
        [
            "mount",
            "-o",
            "autosnap=1s,ro",
            volume,
            mount.dir.to_str().unwrap(),
        ],
    );
    assert!(
        line.contains("autosnap is for volumes that change"),
        "{line}"
    );
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
    mount.verify();
}

#[test]
fn a_mount_takes_a_snapshot_by_itself_after_so_many_operations() {
    let mount = Mount::with(&["-o", "autosnap=200ops"]);
    let automatic = || {
        let mut names = names(&mount.volume);
        names.retain(|name| name.starts_with("auto-"));
        names.len()
    };
    assert_eq!(mount.info()["options"]["autosnap"], "200ops");
    for n in 0..20 {
        fs::create_dir(mount.dir.join(format!("few{n}"))).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(automatic(), 0, "so few are not enough");
    for round in 1..=2 {
        for n in 0..250 {
            fs::create_dir(mount.dir.join(format!("r{round}-{n}"))).unwrap();
        }
        wait_until("a snapshot was taken", || automatic() == round);
    }
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(automatic(), 2, "nothing has changed since");
    mount.umount();
    mount.verify();
}

/// The next daemon knew nothing of it, and the kernel went on to show what had been there.
#[test]
fn a_rollback_in_the_middle_of_which_the_daemon_dies_is_seen_by_programs() {
    use std::os::unix::process::CommandExt;
    let mount = Mount::new();
    let (volume, dir) = (mount.volume.to_str().unwrap(), mount.dir.to_str().unwrap());
    // More often than a keeper has patience for.
    let mut first = std::process::Command::new(crate::support::RAZORFS);
    first
        .args(["mount", volume, dir])
        .env("RAZORFS_DEATHS", "1000");
    crate::support::run(&mut first);
    if mount.keeper().is_none() {
        eprintln!("skipped: the kernel cannot resend requests, so nobody keeps a mount");
        return;
    }
    for name in ["one", "two"] {
        // Names come and go, and files are others.
        let _ = fs::remove_file(mount.dir.join("two"));
        fs::write(mount.dir.join(name), name).unwrap();
        fs::write(mount.dir.join("both"), name.repeat(name.len())).unwrap();
        ok(["snapshot", "create", volume, name]);
    }
    let seen = || {
        let both = fs::read_to_string(mount.dir.join("both")).unwrap();
        let is_two = both.starts_with("two");
        assert_eq!(both.len(), 9);
        assert_eq!(mount.dir.join("two").exists(), is_two, "{both}");
        let listed = fs::read_dir(&mount.dir).unwrap().count();
        assert_eq!(listed, if is_two { 3 } else { 2 }, "{both}");
        is_two
    };
    let mut happened = 0;
    for n in 0..24u64 {
        let was_two = seen();
        let to = if was_two { "one" } else { "two" };
        let pid = mount.pid();
        let mut back = std::process::Command::new(crate::support::RAZORFS);
        back.args(["rollback", volume, to]).process_group(0);
        back.stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut back = back.spawn().unwrap();
        // At any moment of it.
        std::thread::sleep(std::time::Duration::from_millis(5 + n * 7 % 50));
        mount.kill_daemon(pid);
        back.wait().unwrap();
        // What is there as the daemon has it, and not the kernel.
        let changes = ok(["diff", "--json", &format!("{volume}@two")]);
        assert_eq!(seen(), changes.contains("\"changes\": []"), "{changes}");
        happened += u32::from(seen() != was_two);
    }
    assert!(happened > 0, "no rollback has happened");
    mount.umount();
    mount.verify();
}
