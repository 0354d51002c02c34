//! Importing and exporting.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Mount, RAZORFS, fails, ok, reap, room, run, same_trees, signal, wait_until};
use crate::tree::Source;

#[test]
fn a_tree_survives_import_and_export_in_every_form() {
    let mount = Mount::new();
    let room = mount.room.path();
    let source = Source::make(room, 400);
    std::os::unix::fs::symlink("first/../second", source.dir.join("link")).unwrap();
    fs::write(source.dir.join("hard"), b"linked").unwrap();
    fs::hard_link(source.dir.join("hard"), source.dir.join("twin")).unwrap();
    ok([
        "import".as_ref(),
        source.dir.as_os_str(),
        mount.volume.as_os_str(),
    ]);
    mount.verify();
    let export = |name: &str| {
        let target = room.join(name);
        ok([
            "export".as_ref(),
            mount.volume.as_os_str(),
            target.as_os_str(),
        ]);
        target
    };
    same_trees(&source.dir, &export("plain"));
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        let tar = export(name);
        let from_tar = Mount::new();
        let volume = from_tar.volume.as_os_str();
        ok(["import".as_ref(), tar.as_os_str(), volume]);
        from_tar.mount(&[]);
        same_trees(&source.dir, &from_tar.dir);
        let stat = ok(["stat", "--json", &from_tar.at("hard")]);
        assert!(stat.contains("\"nlink\": 2"), "{stat}");
        from_tar.umount();
    }
    // The tar is one that tar understands.
    let unpacked = room.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("xf")
        .arg(room.join("a.tar.gz"))
        .arg("-C")
        .arg(&unpacked));
    same_trees(&source.dir, &unpacked);
}

#[test]
fn import_and_export_work_through_pipes_and_mounts() {
    let mount = Mount::with(&[]);
    let source = Source::make(mount.room.path(), 60);
    let import = |from: &Path, to: &str| {
        let status = Command::new(RAZORFS)
            .args(["import", "--quiet", "-", to])
            .stdin(fs::File::open(from).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
    };
    import(&source.tar("first"), &mount.at("deep/down"));
    same_trees(&source.half("first"), &mount.dir.join("deep/down"));
    // A second time replaces what is there.
    import(&source.tar("first"), &mount.at("deep/down"));
    same_trees(&source.half("first"), &mount.dir.join("deep/down"));
    // What an import has said is done is on the disk.
    mount.kill(mount.pid());
    mount.umount();
    mount.mount(&[]);
    same_trees(&source.half("first"), &mount.dir.join("deep/down"));
    let tar = mount.room.path().join("out.tar");
    let status = Command::new(RAZORFS)
        .args(["export", "--quiet", &mount.at("deep/down"), "-"])
        .stdout(fs::File::create(&tar).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let unpacked = mount.room.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("xf")
        .arg(&tar)
        .arg("-C")
        .arg(&unpacked));
    same_trees(&source.half("first"), &unpacked);
    mount.umount();
}

#[test]
fn a_failed_import_leaves_no_new_volume_and_no_half_file() {
    let mount = Mount::new();
    let source = Source::make(mount.room.path(), 60);
    let cut = mount.room.path().join("cut.tar");
    let mut bytes = fs::read(source.tar("first")).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&cut, bytes).unwrap();
    let volume = mount.volume.as_os_str();
    let line = fails(
        1,
        ["import".as_ref(), "-q".as_ref(), cut.as_os_str(), volume],
    );
    assert!(line.contains("tar"), "{line}");
    assert!(!mount.volume.exists());
    fails(
        1,
        [
            "import".as_ref(),
            "-q".as_ref(),
            "/nowhere".as_ref(),
            volume,
        ],
    );
    assert!(!mount.volume.exists());
    ok(["create".as_ref(), volume]);
    fails(
        1,
        ["import".as_ref(), "-q".as_ref(), cut.as_os_str(), volume],
    );
    mount.verify();
    let target = mount.room.path().join("out");
    ok(["export".as_ref(), "-q".as_ref(), volume, target.as_os_str()]);
    let whole = crate::work::check_prefixes(&target, &source.half("first"));
    assert_eq!(whole, crate::tree::files_below(&target).len());
}

#[test]
fn ctrl_c_removes_a_volume_that_the_import_has_made() {
    let mount = Mount::new();
    let mut child = Command::new(RAZORFS)
        .args(["import", "--quiet", "-"])
        .arg(&mount.volume)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        let mut header = tar::Header::new_gnu();
        header.set_path("endless").unwrap();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut sent = input.write_all(header.as_bytes());
        while sent.is_ok() {
            sent = input.write_all(&[7; 65536]);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    wait_until("the volume is there", || {
        mount.volume.join("SUPER").exists()
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it is still importing");
    signal(child.id(), "INT");
    let mut said = child.stderr.take().unwrap();
    reap(child);
    feeder.join().unwrap();
    let mut line = String::new();
    std::io::Read::read_to_string(&mut said, &mut line).unwrap();
    assert_eq!(line, "razorfs: interrupted\n");
    assert!(!mount.volume.exists());
}

#[test]
fn nothing_is_overwritten_by_an_export() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), b"x").unwrap();
    let target = room();
    fs::write(target.path().join("precious"), b"").unwrap();
    let volume = mount.volume.as_os_str();
    let line = fails(1, ["export".as_ref(), volume, target.path().as_os_str()]);
    assert!(line.contains("not empty"), "{line}");
    mount.umount();
}
