//! What is installed beside the program: units of systemd, completions, manual pages.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Mount, RAZORFS, is_mounted, ok, room, run};

/// A file of the directory `packaging`.
fn packaged(name: &str) -> String {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    fs::read_to_string(packaging.join(name)).unwrap()
}

/// The values of a key of a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.split_once('='));
    let values: Vec<&str> = values.filter(|(k, _)| *k == key).map(|(_, v)| v).collect();
    assert!(!values.is_empty(), "{key}");
    values
}

#[test]
fn the_unit_of_a_user_mounts_and_unmounts() {
    let mount = Mount::new();
    let home = mount.dir.parent().unwrap();
    // What it mounts there is what this test cleans up after a failure.
    let data = home.join(".local/share/razorfs");
    let unit = packaged("systemd/razorfs@.service");
    let options = values(&unit, "Environment")[0]
        .strip_prefix("RAZORFS_OPTIONS=")
        .unwrap();
    let start = |key: &str| {
        for line in values(&unit, key) {
            let line = line
                .replace("%h", home.to_str().unwrap())
                .replace("%i", "mnt");
            let line = line.replace("${RAZORFS_OPTIONS}", options);
            let mut words = line.split(' ');
            let program = match words.next().unwrap() {
                "razorfs" => RAZORFS,
                other => other,
            };
            run(Command::new(program).args(words));
        }
    };
    start("ExecStartPre");
    std::os::unix::fs::symlink(data.join("mnt.rzfs"), &mount.volume).unwrap();
    start("ExecStart");
    assert!(is_mounted(&mount.dir));
    fs::write(mount.dir.join("a"), "a").unwrap();
    start("ExecStop");
    assert!(!is_mounted(&mount.dir));
    mount.verify();
}

#[test]
fn the_unit_of_the_system_mounts() {
    let mount = Mount::new();
    let unit = packaged("systemd/srv-demo.mount");
    let one = |key: &str| values(&unit, key)[0].to_owned();
    assert_eq!(one("Where"), "/srv/demo", "as the unit's name says");
    let mut helper = Command::new(RAZORFS);
    helper.arg0(format!("mount.{}", one("Type")));
    helper.args([&mount.volume, &mount.dir]);
    if rustix::process::geteuid().is_root() {
        run(helper.args(["-o", &one("Options")]));
        assert!(is_mounted(&mount.dir));
        mount.umount();
    } else {
        run(helper.args(["-f", "-o", &one("Options")]));
    }
}

#[test]
fn systemd_understands_the_units() {
    let room = room();
    let analyze = |user: &[&str], name: &str, installed: &str| {
        // It looks whether the programs are there.
        let text = packaged(&format!("systemd/{name}")).replace("razorfs mount", "true mount");
        let text = text.replace("razorfs umount", "true umount");
        let path: PathBuf = room.path().join(installed);
        fs::write(&path, text).unwrap();
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(user).args(["--man=no", "verify"]).arg(&path);
        analyze.output()
    };
    for (user, name, installed) in [
        (
            &["--user"][..],
            "razorfs@.service",
            "razorfs@photos.service",
        ),
        (&[], "srv-demo.mount", "srv-demo.mount"),
    ] {
        let Ok(output) = analyze(user, name, installed) else {
            return eprintln!("SKIPPED: systemd-analyze is not installed");
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let of_it: Vec<&str> = said
            .lines()
            .filter(|line| line.contains(installed))
            .collect();
        assert!(of_it.is_empty(), "{of_it:?}");
    }
}

#[test]
fn manual_pages_are_written_where_they_are_asked_for() {
    let room = room();
    ok(["man".as_ref(), room.path().as_os_str()]);
    // A second time they are replaced.
    ok(["man".as_ref(), room.path().as_os_str()]);
    for page in [
        "man1/razorfs.1",
        "man1/razorfs-mount.1",
        "man8/fsck.razorfs.8",
    ] {
        let text = fs::read_to_string(room.path().join(page)).unwrap();
        assert!(text.contains(".TH "), "{page}");
    }
}
