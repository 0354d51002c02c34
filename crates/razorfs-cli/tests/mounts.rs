//! Several mounts of one volume, under one daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;

use crate::support::{
    Mount, fails, info, is_alive, is_mounted, mounted_below, ok, razorfs, run, same_trees, signal,
    wait_until,
};

/// A directory beside the mount point.
fn beside(mount: &Mount, name: &str) -> PathBuf {
    mount.dir.with_file_name(name)
}

/// Mounts what a snapshot shows.
fn show(mount: &Mount, name: &str, dir: &Path, options: &[&str]) {
    let mut args = vec!["mount", "--snapshot", name];
    args.extend(options);
    args.extend([mount.volume.to_str().unwrap(), dir.to_str().unwrap()]);
    ok(args);
}

fn umount(dir: &Path) {
    ok(["umount".as_ref(), dir.as_os_str()]);
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// A mount whose file `a` was `one` in the snapshot `one`, `two` in `two`, and is `three`.
fn with_past(options: &[&str]) -> Mount {
    let mount = Mount::with(options);
    for name in ["one", "two"] {
        fs::write(mount.dir.join("a"), name).unwrap();
        ok(["snapshot", "create", mount.dir.to_str().unwrap(), name]);
    }
    fs::write(mount.dir.join("a"), "three").unwrap();
    mount
}

/// The same, kept by somebody with more patience than usual; none where nobody keeps mounts.
fn that_dies_often() -> Option<Mount> {
    let mount = with_past(&[]);
    mount.again_patiently().then_some(mount)
}

#[test]
fn snapshots_are_mounted_beside_the_present_and_each_ends_by_itself() {
    let mount = with_past(&[]);
    let (one, two) = (beside(&mount, "one"), beside(&mount, "two"));
    let pid = mount.pid();
    show(&mount, "one", &one, &[]);
    let named = format!("{}@two", mount.volume.display());
    ok(["mount", &named, two.to_str().unwrap()]);
    let all = || [&one, &two, &mount.dir].map(|dir| text(dir.join("a")));
    assert_eq!(all(), ["one", "two", "three"]);
    fs::write(mount.dir.join("a"), "four").unwrap();
    assert_eq!(all(), ["one", "two", "four"]);
    for dir in [&one, &two] {
        let error = fs::write(dir.join("a"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(info(dir)["pid"], pid);
    }
    // Told by the mount that is named, and by all.
    let shown = |place: &Path| info(place)["snapshot"].clone();
    assert_eq!([shown(&one), shown(&two)], ["one", "two"]);
    assert_eq!(
        [shown(&mount.dir), shown(&mount.volume)],
        [Value::Null, Value::Null]
    );
    assert_eq!(info(&one)["mounted"], one.to_str().unwrap());
    assert_eq!(mount.info()["mounted"], mount.dir.to_str().unwrap());
    assert_eq!(mount.info()["mounts"].as_array().unwrap().len(), 3);
    let said = ok(["info".as_ref(), mount.volume.as_os_str()]);
    let line = format!("{}, shows the snapshot two", two.display());
    assert!(said.contains(&line), "{said}");

    umount(&one);
    assert!(!is_mounted(&one) && is_mounted(&two) && is_mounted(&mount.dir));
    assert_eq!(text(two.join("a")), "two");
    // That of the present need not be the last.
    mount.umount();
    assert!(!is_mounted(&mount.dir) && is_alive(pid));
    assert_eq!(text(two.join("a")), "two");
    mount.mount(&[]);
    assert_eq!(
        (mount.pid(), text(mount.dir.join("a"))),
        (pid, "four".into())
    );
    mount.umount();
    umount(&two);
    assert!(!is_alive(pid));
    mount.verify();
}

#[test]
fn the_first_mount_may_be_of_a_snapshot() {
    let mount = with_past(&[]);
    mount.umount();
    let (one, two) = (beside(&mount, "one"), beside(&mount, "two"));
    show(&mount, "one", &one, &[]);
    // Nothing shows what is there now, and nobody is told something else for it.
    let line = fails(1, ["cat", &mount.at("a")]);
    assert!(line.contains("only \"one\" of it is mounted"), "{line}");
    assert_eq!(
        ok(["cat", &format!("{}@two:/a", mount.volume.display())]),
        "two"
    );
    mount.mount(&[]);
    fs::write(mount.dir.join("a"), "four").unwrap();
    assert_eq!(ok(["cat", &mount.at("a")]), "four");
    show(&mount, "two", &two, &[]);
    ok(["umount".as_ref(), mount.volume.as_os_str()]);
    assert_eq!(mounted_below(mount.room.path()), [""; 0].map(PathBuf::from));
    mount.verify();
    // One that takes no writes shows its past, and nothing that changes.
    show(&mount, "one", &one, &["-o", "ro"]);
    let (volume, dir) = (mount.volume.to_str().unwrap(), mount.dir.to_str().unwrap());
    let line = fails(1, ["mount", volume, dir]);
    assert!(
        line.contains("takes no writes") && line.contains("-o ro"),
        "{line}"
    );
    mount.mount(&["-o", "ro"]);
    assert_eq!(text(mount.dir.join("a")), "four");
    ok(["umount", volume]);
    let line = fails(1, ["mount", "--snapshot", "one", "nothing.rzfs", dir]);
    assert!(
        line.contains("no such volume") && !Path::new("nothing.rzfs").exists(),
        "{line}"
    );
}

#[test]
fn a_further_mount_has_options_of_its_own_and_is_refused_those_of_the_volume() {
    let mount = with_past(&["-o", "cache=64M,durability=sync,nokeeper"]);
    let one = beside(&mount, "one");
    let (volume, there) = (mount.volume.to_str().unwrap(), one.to_str().unwrap());
    let ask = |options: &str| razorfs(["mount", "--snapshot", "one", "-o", options, volume, there]);
    for refused in [
        "cache=1G",
        "durability=async",
        "keeper",
        "autosnap=1m",
        "order=strict",
    ] {
        let output = ask(refused);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let cause = format!("`{refused}` is for the whole volume");
        assert!(said.contains(&cause) && !is_mounted(&one), "{said}");
    }
    // What it has already is no matter.
    let output = ask("noexec,noatime,transport=dev,cache=64M,sync");
    assert!(output.status.success(), "{output:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = |dir: &Path| {
        let dir = format!(" {} ", dir.display());
        mounts.lines().find(|line| line.contains(&dir)).unwrap()
    };
    assert!(line(&one).contains("noexec") && line(&one).contains("noatime"));
    assert!(line(&one).contains(&format!("{volume}@one")) && !line(&mount.dir).contains("@one"));
    assert!(!line(&mount.dir).contains("noexec"));
    // What changes has caches in the kernel, and is not mounted twice.
    let two = beside(&mount, "two");
    let line = fails(1, ["mount", volume, two.to_str().unwrap()]);
    let dir = mount.dir.to_str().unwrap();
    assert!(
        line.contains(&format!("has the present mounted on {dir} already")),
        "{line}"
    );
    show(&mount, "one", &two, &[]);
    let line = fails(
        1,
        ["mount", "--snapshot", "two", volume, two.to_str().unwrap()],
    );
    assert!(line.contains("\"one\" of"), "{line}");
    let line = fails(
        1,
        [
            "mount",
            "--snapshot",
            "twoo",
            volume,
            beside(&mount, "x").to_str().unwrap(),
        ],
    );
    assert!(line.contains("perhaps \"two\" is meant"), "{line}");
    let line = fails(
        1,
        ["mount", "--foreground", "--snapshot", "two", volume, there],
    );
    assert!(line.contains("is mounted there"), "{line}");
    umount(&two);
    let line = fails(
        1,
        [
            "mount",
            "--foreground",
            "--snapshot",
            "two",
            volume,
            two.to_str().unwrap(),
        ],
    );
    assert!(line.contains("leave out --foreground"), "{line}");
    ok(["umount", volume]);
}

#[test]
fn a_mount_point_of_a_snapshot_means_what_it_shows() {
    let mount = with_past(&[]);
    let one = beside(&mount, "one");
    show(&mount, "one", &one, &[]);
    let place = one.to_str().unwrap();
    assert_eq!(ok(["cat", &format!("{place}:/a")]), "one");
    assert_eq!(ok(["cat", &format!("{place}@two:/a")]), "two");
    assert_eq!(ok(["cat", &mount.at("a")]), "three");
    assert!(ok(["ls", place]).contains('a'));
    let room = mount.volume.parent().unwrap();
    let at = |name: &str| room.join(name).to_str().unwrap().to_owned();
    ok(["cp", &format!("{place}:/a"), &at("copied")]);
    assert_eq!(text(at("copied")), "one");
    ok(["export", place, &at("exported")]);
    same_trees(&one, Path::new(&at("exported")));
    ok(["clone", place, &at("clone.rzfs")]);
    assert_eq!(ok(["cat", &format!("{}:/a", at("clone.rzfs"))]), "one");
    // To what is there now, and to another mount.
    let names = |args: &[&str]| ok([&["diff", "--json"], args].concat());
    let (now, two) = (
        mount.dir.to_str().unwrap(),
        format!("{now}@two", now = mount.volume.display()),
    );
    for (args, from, to) in [
        (&[place][..], "\"one\"", "null"),
        (&[place, now], "\"one\"", "null"),
        (&[place, &two], "\"one\"", "\"two\""),
        (&[now, place], "null", "\"one\""),
    ] {
        let said: Value = serde_json::from_str(&names(args)).unwrap();
        assert_eq!(
            (said["from"].to_string(), said["to"].to_string()),
            (from.into(), to.into())
        );
        assert_eq!(said["changes"][0]["path"], "/a");
    }
    let patch = ok(["diff", "--patch", place]);
    assert!(
        patch.contains("-one") && patch.contains("+three"),
        "{patch}"
    );
    // It does not change, and what it shows is not taken from it.
    for args in [
        &["snapshot", "create", place, "new"][..],
        &["rollback", place, "two"],
    ] {
        let line = fails(1, args);
        assert!(line.contains("the snapshot one stays as it is"), "{line}");
    }
    let line = fails(1, ["snapshot", "delete", now, "one"]);
    assert!(
        line.contains(&format!("it is mounted on {place}")),
        "{line}"
    );
    assert!(ok(["snapshot", "list", place]).contains("two"));
    ok(["rollback", now, "two"]);
    assert_eq!(
        (text(one.join("a")), text(mount.dir.join("a"))),
        ("one".into(), "two".into())
    );
    umount(&one);
    ok(["snapshot", "delete", now, "one"]);
    mount.umount();
    mount.verify();
}

/// Writes and reads until it is told to end; how often it did.
fn under_load(mount: &Mount, shown: &[(&Path, &str)], work: impl FnOnce()) {
    let (ends, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !ends.load(Ordering::SeqCst) {
                let dir = mount.dir.join(format!("d{n}"));
                // Each of these fails if it is done a second time, or is lost.
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("new"), n.to_string()).unwrap();
                fs::rename(dir.join("new"), dir.join("old")).unwrap();
                assert_eq!(text(dir.join("old")), n.to_string());
                n += 1;
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        for (dir, expected) in shown {
            let (ends, done) = (&ends, &done);
            scope.spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    assert_eq!(text(dir.join("a")), *expected);
                    assert!(!dir.join("nothing").exists());
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        work();
        let before = done.load(Ordering::SeqCst);
        wait_until("all go on", || done.load(Ordering::SeqCst) > before + 50);
        ends.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_daemon_that_dies_under_load_is_followed_by_one_that_serves_all_its_mounts() {
    let Some(mount) = that_dies_often() else {
        return;
    };
    let (one, two) = (beside(&mount, "one"), beside(&mount, "two"));
    show(&mount, "one", &one, &["-o", "noexec"]);
    show(&mount, "two", &two, &[]);
    let shown = [(&*one, "one"), (&*two, "two")];
    under_load(&mount, &shown, || {
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(300));
            mount.kill_daemon(mount.pid());
        }
    });
    let shows: Vec<_> = mount.info()["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["snapshot"].as_str().unwrap_or("-").to_owned())
        .collect();
    assert_eq!(shows, ["-", "one", "two"]);
    // It knows what a snapshot is mounted for, and takes further ones.
    let line = fails(
        1,
        ["snapshot", "delete", mount.volume.to_str().unwrap(), "one"],
    );
    assert!(line.contains("it is mounted on"), "{line}");
    umount(&one);
    show(&mount, "two", &one, &[]);
    mount.kill_daemon(mount.pid());
    assert_eq!(text(one.join("a")), "two");
    // The one that the first daemon began with is not the last.
    mount.umount();
    mount.kill_daemon(mount.pid());
    assert_eq!([text(one.join("a")), text(two.join("a"))], ["two", "two"]);
    assert_eq!(mount.info()["mounts"].as_array().unwrap().len(), 2);
    umount(&one);
    umount(&two);
    mount.verify();
}

#[test]
fn mounts_that_come_and_go_while_daemons_die_are_neither_lost_nor_left() {
    let Some(mount) = that_dies_often() else {
        return;
    };
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let works = (0..4).map(|n| {
            let (mount, ends) = (&mount, &ends);
            scope.spawn(move || {
                let dir = beside(mount, &format!("dir{n}"));
                let mut rounds = 0;
                while !ends.load(Ordering::SeqCst) {
                    // The command goes on with the next daemon.
                    show(mount, "one", &dir, &[]);
                    assert_eq!(text(dir.join("a")), "one");
                    // This one may hear of a death; it is done or not then, and not half.
                    while is_mounted(&dir) {
                        let _ = razorfs(["umount".as_ref(), dir.as_os_str()]);
                    }
                    rounds += 1;
                }
                rounds
            })
        });
        let works: Vec<_> = works.collect();
        for n in 0..12 {
            thread::sleep(std::time::Duration::from_millis(60 + 37 * (n % 5)));
            let pid = mount.info()["pid"].as_u64();
            if let Some(pid) = pid {
                signal(u32::try_from(pid).unwrap(), "KILL");
            }
        }
        ends.store(true, Ordering::SeqCst);
        for work in works {
            assert!(work.join().unwrap() > 0);
        }
    });
    assert_eq!(text(mount.dir.join("a")), "three");
    assert_eq!(mounted_below(mount.volume.parent().unwrap()), [&*mount.dir]);
    // What ended while there was no daemon it has found out in a moment.
    wait_until("the others are forgotten", || {
        mount.info()["mounts"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    });
    mount.umount();
    mount.verify();
}

/// Threads of a process, and KiB of memory that are its own.
fn size_of(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (field("Threads:"), field("RssAnon:"))
}

#[test]
fn twenty_snapshots_are_mounted_at_once_and_what_they_took_comes_back() {
    let mount = with_past(&[]);
    let place = mount.dir.to_str().unwrap();
    for n in 0..20 {
        fs::write(mount.dir.join("n"), n.to_string()).unwrap();
        ok(["snapshot", "create", place, &format!("s{n}")]);
    }
    let dir = |n: u32| beside(&mount, &format!("m{n}"));
    let round = || {
        thread::scope(|scope| {
            for n in 0..20 {
                let (mount, dir) = (&mount, dir(n));
                scope.spawn(move || show(mount, &format!("s{n}"), &dir, &[]));
            }
        });
        for n in 0..20 {
            assert_eq!(text(dir(n).join("n")), n.to_string());
        }
        let with = size_of(mount.pid());
        thread::scope(|scope| {
            for n in 0..20 {
                let dir = dir(n);
                scope.spawn(move || umount(&dir));
            }
        });
        assert_eq!(mounted_below(mount.volume.parent().unwrap()), [&*mount.dir]);
        with
    };
    let before = size_of(mount.pid());
    let with = round();
    assert!(with.0 >= before.0 + 20, "{before:?} {with:?}");
    // Commands have a thread each for a moment.
    wait_until("the threads are gone", || {
        size_of(mount.pid()).0 <= before.0
    });
    // What an allocator keeps for each thread comes to its end; what is never given back does not.
    let rounds = |n: u32| {
        for _ in 0..n {
            round();
        }
        wait_until("the threads are gone", || {
            size_of(mount.pid()).0 <= before.0
        });
        size_of(mount.pid()).1
    };
    let (once, often) = (rounds(6), rounds(6));
    assert!(often < once + 8 * 1024, "{before:?} {once:?} {often:?}");
    mount.umount();
    mount.verify();
}

#[test]
fn who_mounts_at_the_same_time_has_one_daemon() {
    let mount = with_past(&[]);
    mount.umount();
    let dirs = ["one", "two"].map(|name| (name, beside(&mount, name)));
    thread::scope(|scope| {
        scope.spawn(|| mount.mount(&[]));
        for (name, dir) in &dirs {
            scope.spawn(|| show(&mount, name, dir, &[]));
        }
    });
    let pids = [&mount.dir, &dirs[0].1, &dirs[1].1].map(|dir| info(dir)["pid"].clone());
    assert!(
        pids[0].is_u64() && pids.iter().all(|pid| *pid == pids[0]),
        "{pids:?}"
    );
    for (name, dir) in &dirs {
        assert_eq!(text(dir.join("a")), *name);
    }
    ok(["umount".as_ref(), mount.volume.as_os_str()]);
    mount.verify();
}

#[test]
fn a_mount_in_use_stays_and_the_others_end() {
    let mount = with_past(&[]);
    let one = beside(&mount, "one");
    show(&mount, "one", &one, &[]);
    let open = fs::File::open(one.join("a")).unwrap();
    let line = fails(1, ["umount".as_ref(), one.as_os_str()]);
    assert!(
        line.contains("cannot unmount") && is_mounted(&one),
        "{line}"
    );
    mount.umount();
    drop(open);
    // Without any command.
    let pid = info(&one)["pid"].as_u64().unwrap();
    run(Command::new("umount").arg(&one));
    wait_until("the daemon is gone", || {
        !is_alive(u32::try_from(pid).unwrap())
    });
    mount.verify();
    // A signal ends all.
    mount.mount(&[]);
    show(&mount, "one", &one, &[]);
    let pid = mount.pid();
    signal(pid, "TERM");
    wait_until("the daemon is gone", || !is_alive(pid));
    assert!(mounted_below(mount.volume.parent().unwrap()).is_empty());
    mount.verify();
}
