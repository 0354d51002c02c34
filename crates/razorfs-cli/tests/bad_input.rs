//! What is no volume that could be used: each gets one line, and stays as it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use razorfs_format::crc::crc32c;
use razorfs_format::superblock::{MAGIC, SLOT};
use serde_json::Value;

use crate::support::{Mount, RAZORFS, fails, ok, razorfs};

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

/// The line of a command, in which `V` stands for the volume, `D` for the mount point, and what else
/// is written large for something beside them.
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
