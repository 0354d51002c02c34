//! What is no volume that could be used: each gets one line, and stays as it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use razorfs_format::crc::crc32c;
use razorfs_format::superblock::{MAGIC, SLOT};
use serde_json::Value;

use crate::support::{Mount, RAZORFS, fails, info, mounted_below, ok, razorfs, run, wait_until};

/// All files below a directory, with what is in them.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    // Its text is for people: who had the volume last.
    all.retain(|path, _| path.file_name() != Some("LOCK".as_ref()));
    all
}

/// The line of a command, in which `V` stands for the volume, `D` for the mount point, and what
/// else is written large for something beside them.
fn line(words: &str, mount: &Mount) -> Vec<OsString> {
    let place = |word: &str| match word.strip_prefix('V') {
        Some(rest) if rest.is_empty() || rest.starts_with(['@', ':']) => {
            format!("{}{rest}", mount.volume.display()).into()
        }
        _ if word == "D" => mount.dir.clone().into(),
        _ if word.bytes().all(|b| b.is_ascii_uppercase()) => mount.room.path().join(word).into(),
        _ => OsString::from(word),
    };
    words.split(' ').map(place).collect()
}

/// Has a slot of SUPER be of a newer major version, as far as that is fixed.
fn make_newer(volume: &Path, slot: usize) {
    let path = volume.join("SUPER");
    let mut all = fs::read(&path).unwrap();
    let bytes = &mut all[slot * SLOT..(slot + 1) * SLOT];
    bytes.fill(0xA7);
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&[2, 0, 3, 0]);
    let crc = crc32c(&[slot as u64], &bytes[..4092]);
    bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, all).unwrap();
}

#[test]
fn a_volume_of_a_newer_version_is_refused_by_every_command_and_stays_as_it_is() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "a").unwrap();
    ok(line("snapshot create V then", &mount));
    ok(line("export V TAR", &mount));
    mount.umount();
    let stream = mount.room.path().join("stream");
    let mut send = Command::new(RAZORFS);
    send.args(line("send V@then", &mount));
    let sent = send.stdout(fs::File::create(&stream).unwrap()).status();
    assert!(sent.unwrap().success());
    // One slot, as an upgrade leaves it that has just begun, then all of them.
    for slots in [&[3][..], &[0, 1, 2]] {
        for slot in slots {
            make_newer(&mount.volume, *slot);
        }
        let before = contents(&mount.volume);
        for (words, code) in [
            ("mount V D", 1),
            ("mount --read-only V D", 1),
            ("mount V@then D", 1),
            ("verify V", 2),
            ("verify --json V", 2),
            ("repair V", 1),
            ("repair --commit V", 1),
            ("migrate V", 1),
            ("migrate --dry-run V", 1),
            ("info V", 1),
            ("ls V:/", 1),
            ("cat V:/a", 1),
            ("rm V:/a", 1),
            ("export V OTHER", 1),
            ("import TAR V", 1),
            ("send V@then", 1),
            ("snapshot create V now", 1),
            ("snapshot list V", 1),
            ("rollback V then", 1),
            ("branch list V", 1),
            ("branch create V b", 1),
            ("scrub V", 1),
            ("log V", 1),
            ("diff V@then", 1),
            ("clone V OTHER", 1),
            ("restore --at 1m V", 1),
            ("stats V", 1),
        ] {
            let said = fails(code, line(words, &mount));
            let volume = mount.volume.display().to_string();
            assert!(said.contains(&volume), "{words}: {said}");
            assert!(said.contains("version 2.3"), "{words}: {said}");
            assert!(said.contains("knows is 1.0"), "{words}: {said}");
            assert!(
                said.to_lowercase().contains("use a newer razorfs"),
                "{words}: {said}"
            );
        }
        let mut receive = Command::new(RAZORFS);
        receive.arg("receive").arg(&mount.volume);
        let output = receive
            .stdin(fs::File::open(&stream).unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("version 2.3") && said.contains("knows is 1.0"),
            "{said}"
        );
        for flag in ["-n", "-a", "-y"] {
            let mut fsck = Command::new(RAZORFS);
            fsck.arg0("fsck.razorfs");
            let output = fsck.arg(flag).arg(&mount.volume).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(8), "{flag}: {said}");
            assert!(said.contains("version 2.3"), "{flag}: {said}");
        }
        let said = fails(1, line("create V", &mount));
        assert!(said.contains("a volume already"), "{said}");
        assert!(contents(&mount.volume) == before, "something was changed");
    }
    let found = razorfs(line("verify --json V", &mount));
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let numbers = found["findings"].as_array().unwrap().iter();
    let numbers: Vec<_> = numbers.map(|finding| &finding["number"]).collect();
    assert_eq!(numbers, [110, 110, 110, 110]);
}

#[test]
fn a_file_where_a_volume_should_be_is_told_to_be_one_and_stays_as_it_is() {
    let mount = Mount::new();
    fs::write(&mount.volume, "precious").unwrap();
    fs::write(mount.room.path().join("TAR"), "").unwrap();
    for words in [
        "create V",
        "mount V D",
        "mount --read-only V D",
        "mount --foreground V D",
        "verify V",
        "repair --commit V",
        "migrate V",
        "scrub V",
        "info V",
        "ls V:/",
        "cat V:/a",
        "export V TAR",
        "import TAR V",
        "receive V",
        "log V",
        "stats V",
        "sync V",
        "doctor V",
        "snapshot list V",
    ] {
        let said = fails(1, line(words, &mount));
        assert!(said.contains("volume.rzfs"), "{words}: {said}");
        assert!(
            said.contains("a file") || said.contains("not a directory"),
            "{words}: {said}"
        );
        assert!(said.contains("; "), "{words}: no remedy: {said}");
        assert!(!said.contains("a part of the path"), "{words}: {said}");
        assert_eq!(fs::read(&mount.volume).unwrap(), b"precious", "{words}");
        assert!(!mount.dir.exists(), "{words}");
    }
}

/// The files of a volume, in the order of their names.
fn listed(volume: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = contents(volume).into_keys().collect();
    all.retain(|path| path.file_name() != Some("razorfs.log".as_ref()));
    all
}

#[test]
fn a_copy_that_stopped_anywhere_is_refused_or_told_to_be_incomplete() {
    let mount = Mount::with(&[]);
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(mount.dir.join("a"), &bytes).unwrap();
    mount.umount();
    let whole = mount.room.path().join("whole");
    fs::rename(&mount.volume, &whole).unwrap();
    let files = listed(&whole);
    let (mut opened, mut refused) = (0, 0);
    for stop in 0..files.len() {
        let _ = fs::remove_dir_all(&mount.volume);
        for (n, file) in files.iter().take(stop + 1).enumerate() {
            let mut bytes = fs::read(file).unwrap();
            if n == stop {
                bytes.truncate(bytes.len() / 2);
            }
            let copy = mount.volume.join(file.strip_prefix(&whole).unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::write(copy, bytes).unwrap();
        }
        let what = files[stop].display();
        let before = contents(&mount.volume);
        let has_super = before.keys().any(|path| path.ends_with("SUPER"));
        let output = razorfs(line("verify --level 3 V", &mount));
        let verified = output.status.code().unwrap();
        assert!([0, 1, 4].contains(&verified), "{what}: {output:?}");
        if verified == 1 {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!has_super && said.contains("; "), "{what}: {said}");
        }
        if before.keys().any(|path| !path.ends_with("RESERVE")) {
            fails(1, line("create V", &mount));
        }
        let output = razorfs(line("cat V:/a", &mount));
        if output.status.success() {
            assert!(output.stdout == bytes, "{what}: wrong bytes");
        } else {
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(said.lines().count(), 1, "{what}: {said}");
            assert!(
                said.contains("; ") || said.contains("`razorfs"),
                "{what}: {said}"
            );
            assert_ne!(verified, 0, "{what}: {said}");
        }
        // What was copied is there still.
        let after = contents(&mount.volume);
        assert!(
            before
                .iter()
                .all(|(path, bytes)| after.get(path) == Some(bytes)),
            "{what}"
        );
        if !has_super && before.len() < 2 {
            continue;
        }
        let output = razorfs(line("mount V D", &mount));
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => {
                opened += 1;
                let health = info(&mount.volume)["health"].clone();
                let is_told = said.contains("a copy that is not complete");
                assert_eq!(health == "damaged", is_told, "{what}: {health}: {said}");
                if let Ok(found) = fs::read(mount.dir.join("a")) {
                    assert!(found == bytes, "{what}: wrong bytes");
                }
                mount.umount();
            }
            Some(1) => {
                refused += 1;
                assert_eq!(said.lines().count(), 1, "{what}: {said}");
                assert!(said.contains("volume.rzfs"), "{what}: {said}");
                assert!(
                    said.contains("; ") || said.contains("`razorfs"),
                    "{what}: {said}"
                );
            }
            code => panic!("{what}: {code:?}: {said}"),
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

/// A mount that root has made for a test, which goes with it.
struct OfRoot(PathBuf);

impl OfRoot {
    /// Runs mount(8). Nothing where that is not allowed, which is a failure where tests must not be
    /// skipped.
    fn new(dir: &Path, args: &[&str]) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let output = Command::new("mount").args(args).arg(dir).output().unwrap();
        if output.status.success() {
            return Some(Self(dir.to_owned()));
        }
        let is_root = rustix::process::geteuid().is_root();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!is_root || std::env::var_os("CI").is_none(), "{said}");
        eprintln!("SKIPPED: only root can mount for this: {said}");
        None
    }
}

impl Drop for OfRoot {
    fn drop(&mut self) {
        for dir in mounted_below(&self.0) {
            // A failed test may have left something in it.
            let _ = Command::new("umount").arg("--lazy").arg(dir).status();
        }
    }
}

#[test]
fn a_volume_on_a_read_only_host_is_mounted_read_only_and_refused_otherwise() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "a").unwrap();
    ok(line("snapshot create V then", &mount));
    mount.umount();
    let place = mount.volume.to_str().unwrap();
    let Some(_bind) = OfRoot::new(&mount.volume, &["--bind", place]) else {
        return;
    };
    run(Command::new("mount")
        .args(["-o", "remount,bind,ro"])
        .arg(&mount.volume));
    let before = contents(&mount.volume);
    for words in [
        "mount V D",
        "rm V:/a",
        "snapshot create V now",
        "repair --commit V",
    ] {
        let said = fails(1, line(words, &mount));
        assert!(
            said.contains("volume.rzfs") && said.contains("read-only"),
            "{words}: {said}"
        );
        assert!(said.contains("; "), "{words}: no remedy: {said}");
    }
    assert!(fails(1, line("mount V D", &mount)).contains("--read-only"));
    assert_eq!(ok(line("cat V:/a", &mount)), "a");
    assert_eq!(ok(line("cat V@then:/a", &mount)), "a");
    ok(line("verify V", &mount));
    ok(line("info V", &mount));
    mount.mount(&["--read-only"]);
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"a");
    let error = fs::write(mount.dir.join("b"), "b").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount.umount();
    // And where one would have to be made.
    let below = mount.volume.join("new").display().to_string();
    let said = fails(1, ["create", &below]);
    assert!(said.contains("read-only") && said.contains("; "), "{said}");
    assert!(contents(&mount.volume) == before, "something was changed");
}

#[test]
fn a_volume_on_a_full_disk_says_so_and_loses_nothing() {
    let mut mount = Mount::new();
    let disk = mount.room.path().canonicalize().unwrap().join("disk");
    let Some(_disk) = OfRoot::new(&disk, &["-t", "tmpfs", "-o", "size=96m", "none"]) else {
        return;
    };
    mount.volume = disk.join("volume.rzfs");
    mount.mount(&[]);
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(mount.dir.join("a"), &bytes).unwrap();
    mount.umount();
    // All that is left goes to somebody else.
    let mut other = fs::File::create(disk.join("other")).unwrap();
    let error = std::io::copy(&mut std::io::repeat(7), &mut other).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let second = disk.join("second").display().to_string();
    let said = fails(1, ["create", &second]);
    assert!(
        said.contains(&second) && said.contains("full; free space"),
        "{said}"
    );
    assert!(!Path::new(&second).exists(), "something is left of it");
    ok(line("info V", &mount));
    mount.mount(&[]);
    assert!(fs::read(mount.dir.join("a")).unwrap() == bytes);
    let written = fs::write(mount.dir.join("b"), vec![9; 64 << 20]);
    let full = rustix::io::Errno::NOSPC.raw_os_error();
    assert_eq!(written.unwrap_err().raw_os_error(), Some(full));
    assert!(fs::read(mount.dir.join("a")).unwrap() == bytes);
    drop(other);
    fs::remove_file(disk.join("other")).unwrap();
    // A batch that was held is written first.
    wait_until("there is room again", || {
        fs::write(mount.dir.join("c"), "there is room again").is_ok()
    });
    mount.umount();
    mount.verify();
    assert_eq!(ok(line("cat V:/c", &mount)), "there is room again");
}

#[test]
fn a_volume_that_another_program_has_open_is_refused_by_the_name_of_that() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "a").unwrap();
    mount.umount();
    // As any program that uses the library has it.
    let lock = fs::File::options()
        .read(true)
        .write(true)
        .open(mount.volume.join("LOCK"))
        .unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let (host, boot) = (
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/random/boot_id",
    );
    let read = |path| fs::read_to_string(path).unwrap().trim().to_owned();
    let pid = std::process::id();
    let (host, boot) = (read(host), read(boot));
    let text = format!("pid {pid}\nboot {boot}\nhost {host}\ncommand other\nsince today\n");
    fs::write(mount.volume.join("LOCK"), text).unwrap();
    let before = contents(&mount.volume);
    for words in [
        "mount V D",
        "mount --read-only V D",
        "verify V",
        "repair V",
        "repair --commit V",
        "migrate V",
        "info V",
        "cat V:/a",
        "rm V:/a",
        "snapshot create V now",
    ] {
        let said = fails(1, line(words, &mount));
        assert!(said.contains("volume.rzfs"), "{words}: {said}");
        assert!(said.contains(&format!("process {pid}")), "{words}: {said}");
        assert!(
            said.contains("; ") && said.contains("unmount"),
            "{words}: {said}"
        );
    }
    assert!(contents(&mount.volume) == before, "something was changed");
    drop(lock);
    assert_eq!(ok(line("cat V:/a", &mount)), "a");
}

#[test]
fn a_volume_on_what_another_program_serves_says_what_is_not_promised() {
    let below = Mount::with(&[]);
    let mut above = Mount::new();
    above.volume = below.dir.join("volume.rzfs");
    let output = Command::new(RAZORFS)
        .arg("mount")
        .args([&above.volume, &above.dir])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("razorfs: warning: "), "{said}");
    assert!(
        said.contains("volume.rzfs: what it lies on is FUSE"),
        "{said}"
    );
    fs::write(above.dir.join("a"), "a").unwrap();
    assert!(above.log().contains("what it lies on is FUSE"));
    above.umount();
    above.verify();
    // It takes away what is mounted where its volume lies.
    above.volume = above.room.path().join("none");
    drop(above);
    below.umount();
}
