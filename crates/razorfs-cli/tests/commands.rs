//! The commands, one by one, as users and scripts meet them.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{
    Mount, RAZORFS, Random, fails, info, is_alive, is_mounted, ok, razorfs, reap, run, signal,
    wait_until,
};

#[test]
fn mount_makes_what_is_missing_and_umount_leaves_nothing_running() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), b"kept").unwrap();
    let pid = mount.pid();
    mount.umount();
    assert!(!is_alive(pid), "the daemon has ended when umount returns");
    assert!(!is_mounted(&mount.dir));
    assert!(!mount.volume.join("razorfs.sock").exists());
    mount.verify();
    mount.mount(&[]);
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"kept");
    assert_eq!(mount.info()["recovery"]["clean"], Value::Bool(true));
    let log = fs::read_to_string(mount.volume.join("razorfs.log")).unwrap();
    assert!(log.contains("the volume is closed"), "{log}");
    mount.umount();
}

#[test]
fn a_second_mount_is_refused_and_told_who_has_the_volume() {
    let mount = Mount::with(&[]);
    let pid = mount.pid();
    let other = mount.room.path().join("other");
    let args = [
        "mount".as_ref(),
        mount.volume.as_os_str(),
        other.as_os_str(),
    ];
    let line = fails(1, args);
    assert!(line.contains(&format!("pid {pid}")), "{line}");
    assert!(line.contains("razorfs umount"), "{line}");
    assert!(!other.exists(), "what was made for it is left");
    let other = Mount::new();
    let args = [
        "mount".as_ref(),
        other.volume.as_os_str(),
        mount.dir.as_os_str(),
    ];
    let line = fails(1, args);
    assert!(line.contains("is mounted there"), "{line}");
}

#[test]
fn a_busy_mount_stays_and_names_who_uses_it() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("held"), b"x").unwrap();
    let mut sleeper = Command::new("sleep")
        .arg("600")
        .stdin(fs::File::open(mount.dir.join("held")).unwrap())
        .spawn()
        .unwrap();
    let line = fails(1, ["umount".as_ref(), mount.dir.as_os_str()]);
    assert!(
        line.contains(&format!("sleep (pid {})", sleeper.id())),
        "{line}"
    );
    assert!(is_mounted(&mount.dir));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    mount.umount();
}

#[test]
fn signals_and_foreign_unmounts_end_the_daemon_properly() {
    let mount = Mount::with(&[]);
    for (n, end) in ["TERM", "INT", "umount"].iter().enumerate() {
        fs::write(mount.dir.join(format!("f{n}")), b"not synced").unwrap();
        let pid = mount.pid();
        if *end == "umount" {
            run(Command::new("fusermount3").arg("-u").arg(&mount.dir));
        } else {
            signal(pid, end);
        }
        wait_until("the daemon has ended", || !is_alive(pid));
        assert!(!is_mounted(&mount.dir));
        mount.mount(&[]);
        assert_eq!(
            mount.info()["recovery"]["clean"],
            Value::Bool(true),
            "{end}"
        );
        assert_eq!(
            fs::read(mount.dir.join(format!("f{n}"))).unwrap(),
            b"not synced"
        );
    }
    mount.umount();
}

#[test]
fn ctrl_c_in_the_foreground_unmounts() {
    let mount = Mount::new();
    let child = Command::new(RAZORFS)
        .args(["mount", "--foreground"])
        .args([&mount.volume, &mount.dir])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || is_mounted(&mount.dir));
    wait_until("it answers", || !mount.info().is_null());
    fs::write(mount.dir.join("a"), b"x").unwrap();
    signal(child.id(), "INT");
    reap(child);
    assert!(!is_mounted(&mount.dir));
    mount.verify();
    assert_eq!(ok(["cat", &mount.at("a")]), "x");
}

#[test]
fn a_mount_whose_daemon_was_killed_is_mounted_over() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), b"x").unwrap();
    mount.sync();
    mount.kill(mount.pid());
    let line = fails(1, ["ls".as_ref(), mount.dir.as_os_str()]);
    assert!(line.contains("daemon of this mount is gone"), "{line}");
    // By the volume it is a volume that nobody has mounted.
    assert_eq!(ok(["cat", &mount.at("a")]), "x");
    mount.mount(&[]);
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"x");
    mount.umount();
}

#[test]
fn a_mount_point_that_cannot_be_used_is_refused_in_one_line() {
    let mount = Mount::new();
    let file = mount.room.path().join("file");
    fs::write(&file, b"").unwrap();
    let volume = mount.volume.as_os_str();
    let line = fails(1, ["mount".as_ref(), volume, file.as_os_str()]);
    assert!(line.contains("not a directory"), "{line}");
    let inside = mount.volume.join("mnt");
    let line = fails(1, ["mount".as_ref(), volume, inside.as_os_str()]);
    assert!(line.contains("inside of each other"), "{line}");
    let dir = mount.dir.as_os_str();
    let line = fails(
        1,
        [
            "mount".as_ref(),
            "-o".as_ref(),
            "frob".as_ref(),
            volume,
            dir,
        ],
    );
    assert!(
        line.contains("frob") && line.contains("durability="),
        "{line}"
    );
    fs::create_dir(&mount.volume).unwrap();
    fs::write(mount.volume.join("precious"), b"").unwrap();
    let line = fails(1, ["mount".as_ref(), volume, dir]);
    assert!(line.contains("not empty"), "{line}");
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let mount = Mount::with(&["-o", "durability=sync"]);
    fs::write(mount.dir.join("a"), b"x").unwrap();
    mount.umount();
    mount.mount(&["--read-only"]);
    assert_eq!(fs::read(mount.dir.join("a")).unwrap(), b"x");
    let error = fs::write(mount.dir.join("b"), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount.umount();
}

#[test]
fn files_are_handled_alike_with_and_without_a_mount() {
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    files(&mount);
    ok(["rm", "-r", &mount.at("dir")]);
    mount.mount(&[]);
    files(&mount);
    mount.umount();
    mount.verify();
    assert_eq!(ok(["cat", &mount.at("dir/sub/copy")]), "some bytes\n");
}

fn files(mount: &Mount) {
    let host = mount.room.path().join("host");
    let host = host.to_str().unwrap();
    fs::write(host, b"some bytes\n").unwrap();
    let at = |path| mount.at(path);
    ok(["mkdir", "-p", &at("dir/sub")]);
    fails(1, ["mkdir", &at("dir")]);
    ok(["cp", "-q", host, &at("dir")]);
    ok(["cp", "-q", &at("dir/host"), &at("dir/sub/copy")]);
    assert_eq!(ok(["cat", &at("dir/sub/copy")]), "some bytes\n");
    assert_eq!(ok(["ls", &at("dir")]), "host\nsub\n");
    fails(1, ["cp", "-q", &at("dir"), "/nowhere"]);
    ok(["cp", "-q", "-r", &at("dir/sub"), &at("twin")]);
    let stat: Value = serde_json::from_str(&ok(["stat", "--json", &at("twin/copy")])).unwrap();
    assert_eq!(stat["size"], 11);
    assert_eq!(stat["kind"], "file");
    let list: Value = serde_json::from_str(&ok(["ls", "--json", &at("")])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    fails(1, ["rm", &at("twin")]);
    ok(["rm", "-r", &at("twin")]);
    fails(1, ["rm", &at("twin")]);
    ok(["rm", "-f", &at("twin")]);
    let line = fails(1, ["cat", &at("twin")]);
    assert!(line.contains("no such file"), "{line}");
    fails(1, ["rm", "-r", &at("")]);
    fails(1, ["cat", &at("../../etc/passwd")]);
}

#[test]
fn info_and_stats_are_one_document_and_work_on_every_place() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), vec![7; 100_000]).unwrap();
    fs::create_dir(mount.dir.join("d")).unwrap();
    mount.sync();
    for place in [&mount.volume, &mount.dir] {
        let document = info(place);
        assert_eq!(document["schema"], 1);
        assert_eq!(document["mounted"], mount.dir.to_str().unwrap());
        assert_eq!(document["bytes"], 100_000);
        assert_eq!(document["health"], "ok");
        let stats = ok(["stats".as_ref(), place.as_os_str(), "--json".as_ref()]);
        let stats: Value = serde_json::from_str(&stats).unwrap();
        assert!(stats["ops"].as_u64().unwrap() > 0);
        assert_eq!(stats["requests"]["mkdir"], 1, "{stats}");
        assert_eq!(stats["requests_written_bytes"], 100_000, "{stats}");
        let text = ok(["stats".as_ref(), place.as_os_str(), "--prometheus".as_ref()]);
        assert!(text.contains("# TYPE razorfs_ops_total counter"));
        let volume = mount.volume.display();
        let series = format!("razorfs_requests_total{{volume=\"{volume}\",kind=\"mkdir\"}}");
        assert!(text.contains(&format!("{series} 1\n")), "{text}");
        let said = ok(["verify".as_ref(), place.as_os_str(), "--json".as_ref()]);
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["clean"], Value::Bool(true));
    }
    mount.umount();
    let document = info(&mount.volume);
    assert_eq!(document["mounted"], Value::Null);
    assert_eq!(document["bytes"], 100_000);
}

#[test]
fn damaged_data_is_found_and_has_exit_code_4() {
    let mount = Mount::with(&[]);
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(mount.dir.join("a"), bytes).unwrap();
    mount.umount();
    mount.verify();
    let packs = fs::read_dir(mount.volume.join("pack")).unwrap();
    for pack in packs.map(|pack| pack.unwrap().path()) {
        let mut bytes = fs::read(&pack).unwrap();
        // In the middle of the first frame, which is larger than that.
        bytes[20_000] ^= 1;
        fs::write(&pack, bytes).unwrap();
    }
    let volume = mount.volume.as_os_str();
    let output = razorfs(["verify".as_ref(), volume, "--level=3".as_ref()]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(!output.stdout.is_empty());
    let fsck = |args: &[&str]| {
        let mut command = Command::new(RAZORFS);
        command.arg0("fsck.razorfs").args(args).arg(&mount.volume);
        command.output().unwrap().status.code()
    };
    // Metadata is not damaged, and fsck does not read data.
    assert_eq!(fsck(&["-a"]), Some(0));
    fs::write(mount.volume.join("SUPER"), [0; 16384]).unwrap();
    let code = fsck(&["-n"]);
    assert!(code == Some(4) || code == Some(8), "{code:?}");
}

#[test]
fn a_damaged_volume_is_repaired_and_what_is_lost_is_told() {
    let mount = Mount::with(&[]);
    // Nothing that could be compressed, and no zeros.
    let mut random = Random(1);
    let bytes: Vec<u8> = (0..400_000).map(|_| random.between(1, 256) as u8).collect();
    fs::write(mount.dir.join("hurt"), &bytes).unwrap();
    fs::write(mount.dir.join("whole"), b"this stays").unwrap();
    let volume = mount.volume.as_os_str();
    let line = fails(1, ["repair".as_ref(), volume]);
    assert!(
        line.contains("is mounted at") && line.contains("umount"),
        "{line}"
    );
    mount.umount();
    let engine = razorfs::Volume::open(&mount.volume, razorfs::Options::default()).unwrap();
    engine.snapshot("kept until now").unwrap();
    engine.close().unwrap();
    assert_eq!(ok(["repair".as_ref(), volume]), "nothing to repair\n");
    let damage = || {
        let packs = fs::read_dir(mount.volume.join("pack")).unwrap();
        let pack = packs.map(|p| p.unwrap().path()).max().unwrap();
        let mut bytes = fs::read(&pack).unwrap();
        bytes[20_000] ^= 1;
        fs::write(&pack, bytes).unwrap();
    };
    damage();
    let list = || {
        let mut names = Vec::new();
        for dir in ["", "meta", "pack", "journal", "quarantine"] {
            let files = fs::read_dir(mount.volume.join(dir)).unwrap();
            for file in files.map(|f| f.unwrap()).filter(|f| f.path().is_file()) {
                names.push((file.path(), fs::read(file.path()).unwrap()));
            }
        }
        names.sort();
        names
    };
    let before = list();
    let dry = razorfs(["repair".as_ref(), volume]);
    assert_eq!(dry.status.code(), Some(4), "{dry:?}");
    let said = String::from_utf8(dry.stdout).unwrap();
    assert!(
        said.contains("/hurt") && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(
        said.contains("kept: the snapshot kept until now, but for one loss")
            && said.contains("lost in snapshots: /hurt (inode ")
            && said.contains("read as zeros (in kept until now)"),
        "{said}"
    );
    assert!(before == list(), "a dry run changes nothing");
    let said = ok([
        "repair".as_ref(),
        volume,
        "--commit".as_ref(),
        "--json".as_ref(),
    ]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["clean"], Value::Bool(true));
    let shown = &document["snapshots"][0];
    assert_eq!(
        (&shown["name"], &shown["kept"]),
        (&"kept until now".into(), &true.into())
    );
    assert_eq!(shown["losses"], document["losses"]);
    assert_eq!(document["lost_snapshots"].as_array().unwrap().len(), 0);
    let loss = &document["losses"][0];
    assert_eq!(loss["path"], "/hurt");
    let range = loss["from"].as_u64().unwrap() as usize..loss["to"].as_u64().unwrap() as usize;
    mount.verify();
    mount.mount(&[]);
    assert_eq!(fs::read(mount.dir.join("whole")).unwrap(), b"this stays");
    let mut expected = bytes;
    expected[range].fill(0);
    assert!(fs::read(mount.dir.join("hurt")).unwrap() == expected);
    mount.umount();
    let fsck = |args: &[&str]| {
        let mut command = Command::new(RAZORFS);
        command.arg0("fsck.razorfs").args(args).arg(&mount.volume);
        command.output().unwrap().status.code()
    };
    fs::remove_file(mount.volume.join("SUPER")).unwrap();
    assert_eq!(fsck(&["-y"]), Some(1));
    assert_eq!(fsck(&["-y"]), Some(0));
    mount.verify();
    let segments = fs::read_dir(mount.volume.join("meta")).unwrap();
    let segments = segments.map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = segments
        .filter(|path| path.extension() == Some("rs".as_ref()))
        .collect();
    segments.sort();
    let mut bytes = fs::read(segments.last().unwrap()).unwrap();
    // In the first block.
    bytes[100] ^= 1;
    fs::write(segments.last().unwrap(), bytes).unwrap();
    assert_eq!(fsck(&["-f", "-n"]), Some(4));
    assert_eq!(fsck(&["-n", "-y"]), Some(4));
    assert_eq!(fsck(&["-fy"]), Some(1));
    assert_eq!(fsck(&["-f", "-p", "-C0"]), Some(0));
    // Nobody can say how it is.
    assert_eq!(fsck(&["--frob"]), Some(8));
    mount.verify();
}

#[test]
fn helpers_of_mount_and_mkfs_work_by_name() {
    let mount = Mount::new();
    let by_name = |name: &str| {
        let mut command = Command::new(RAZORFS);
        command.arg0(name);
        command
    };
    run(by_name("mkfs.razorfs").arg(&mount.volume));
    let mut command = by_name("/sbin/mount.razorfs");
    run(command
        .args([&mount.volume, &mount.dir])
        .args(["-n", "-o", "rw,noatime"]));
    assert!(is_mounted(&mount.dir));
    mount.umount();
    // As mount.fuse calls the program.
    run(by_name("razorfs")
        .args([&mount.volume, &mount.dir])
        .args(["-o", "rw"]));
    assert!(is_mounted(&mount.dir));
    mount.umount();
}

#[test]
fn mount_8_mounts_and_unmounts_what_fstab_would_say() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root may say all of that to mount(8)");
    }
    if !std::path::Path::new("/sbin/mount.fuse").exists() {
        return eprintln!("SKIPPED: mount(8) finds us through mount.fuse, which is missing");
    }
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    fs::create_dir(&mount.dir).unwrap();
    let mut command = Command::new("mount");
    // Of a name without a path the program would have to be in a directory of the system.
    command.args(["-t", &format!("fuse.{RAZORFS}")]);
    command.args([&mount.volume, &mount.dir]);
    let options = "_netdev,x-systemd.automount,noauto,user,nofail,rw,exec,suid,dev,noatime,\
        durability=sync";
    run(command.args(["-o", options]));
    assert!(is_mounted(&mount.dir));
    assert_eq!(mount.info()["options"]["durability"], "sync");
    fs::write(mount.dir.join("a"), "a").unwrap();
    run(Command::new("umount").arg(&mount.dir));
    // The daemon goes on for a moment.
    wait_until("the volume is closed", || {
        razorfs(["repair".as_ref(), mount.volume.as_os_str()])
            .status
            .success()
    });
    mount.verify();
}

#[test]
fn many_commands_at_once_get_their_answers() {
    let mount = Mount::with(&[]);
    std::thread::scope(|scope| {
        for n in 0..12 {
            let mount = &mount;
            scope.spawn(move || {
                fs::write(mount.dir.join(format!("f{n}")), b"x").unwrap();
                mount.sync();
                assert_eq!(mount.info()["health"], "ok");
            });
        }
    });
    mount.umount();
}

#[test]
fn hostile_bytes_on_the_socket_change_nothing() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let mount = Mount::with(&[]);
    let connect = || UnixStream::connect(mount.volume.join("razorfs.sock")).unwrap();
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\x02\x00\x00\x00{}",
        b"\x04\x00\x00\x00[[[[",
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // The daemon hangs up on what it has not read, which may end the answer with an error.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("failed"), "{answer}");
    }
    assert_eq!(mount.info()["health"], "ok");
    mount.umount();
}

#[test]
fn errors_are_one_line_with_a_remedy() {
    let line = fails(1, ["info", "/nowhere/at/all"]);
    assert!(line.contains("razorfs create"), "{line}");
    fails(1, ["frob"]);
    fails(1, ["mount", "only-one"]);
    fails(1, ["verify", "x", "--level", "9"]);
    let line = fails(1, ["umount", "/"]);
    assert!(line.contains("no volume is mounted there"), "{line}");
    let line = fails(1, ["umount", "/nowhere/at/all"]);
    assert!(line.contains("no such file"), "{line}");
    let help = ok(["help", "mount"]);
    assert!(help.contains("Examples:"));
    assert!(ok(["completions", "bash"]).contains("razorfs"));
}

/// The helper of mount(8), as it calls us.
fn helper(mount: &Mount, options: &str) -> Command {
    let mut command = Command::new(RAZORFS);
    command.arg0("mount.razorfs");
    command.args([&mount.volume, &mount.dir]);
    command.args(["-o", options]);
    command
}

#[test]
fn a_mount_becomes_read_only_and_writable_again() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can change a mount");
    }
    let mount = Mount::with(&["-o", "cache=32M"]);
    let file = mount.dir.join("a");
    fs::write(&file, b"x").unwrap();
    let flags = || {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = mount.dir.to_str().unwrap();
        let mut lines = list.lines().map(|line| line.split(' '));
        lines.find_map(|mut fields| {
            (fields.nth(4) == Some(dir)).then(|| fields.next().unwrap().to_owned())
        })
    };
    let before = flags();
    // Not while somebody may still write.
    let open = fs::File::options().append(true).open(&file).unwrap();
    let refused = helper(&mount, "remount,ro").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("open for writing"),
        "{said}"
    );
    drop(open);
    run(&mut helper(&mount, "rw,cache=32M,remount,ro"));
    let refused = fs::write(&file, b"y").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(&file).unwrap(), b"x");
    run(&mut helper(&mount, "remount,rw"));
    assert_eq!(flags(), before);
    fs::write(&file, b"y").unwrap();
    run(&mut helper(&mount, "remount,noatime,nosuid"));
    assert!(flags().unwrap().contains("noatime"));
    // What is the daemon's cannot change.
    let refused = helper(&mount, "remount,cache=64M").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("cache=64M"),
        "{said}"
    );
    // Nor the way that requests come, which it would not follow.
    run(&mut helper(&mount, "remount,transport=dev"));
    let refused = helper(&mount, "remount,transport=uring").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("mount it again with `-o transport=uring`"),
        "{said}"
    );
    mount.umount();
    // Opened for reading only, it stays so.
    mount.mount(&["-o", "ro"]);
    let refused = helper(&mount, "remount,rw").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("opened read-only"),
        "{said}"
    );
    assert!(fs::write(&file, b"z").is_err());
    mount.umount();
    mount.verify();
}

/// The largest pack of a volume that has parity beside it.
fn pack_with_parity(volume: &std::path::Path) -> Option<std::path::PathBuf> {
    let packs = fs::read_dir(volume.join("pack")).unwrap();
    let packs = packs.map(|p| p.unwrap().path());
    let mut packs = packs.filter(|p| p.extension().is_some_and(|e| e == "rp"));
    packs.find(|p| p.with_extension("rq").exists())
}

#[test]
fn a_volume_with_parity_heals_while_it_is_read_and_by_a_scrub() {
    let mount = Mount::new();
    let volume = mount.volume.as_os_str();
    ok(["create".as_ref(), volume, "--parity".as_ref()]);
    mount.mount(&[]);
    let mut random = Random(9);
    let bytes: Vec<u8> = (0..4_000_000).map(|_| random.next() as u8).collect();
    for n in 0..36 {
        fs::write(mount.dir.join(format!("file {n}")), &bytes).unwrap();
    }
    ok(["sync".as_ref(), mount.dir.as_os_str()]);
    mount.umount();
    mount.mount(&[]);
    wait_until("a full pack has parity", || {
        pack_with_parity(&mount.volume).is_some()
    });
    mount.umount();
    let pack = pack_with_parity(&mount.volume).unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[70_000_000..70_065_536].fill(0x55);
    fs::write(&pack, damaged).unwrap();
    let found = razorfs(["verify".as_ref(), volume, "--level=4".as_ref()]);
    assert_eq!(found.status.code(), Some(4));
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(said.contains("razorfs scrub"), "{said}");
    // Not mounted, the command does it itself.
    let said = ok([
        "scrub".as_ref(),
        volume,
        "--rate=0".as_ref(),
        "--json".as_ref(),
    ]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["clean"], true, "{document}");
    assert_eq!(document["state"], "idle");
    assert!(
        document["last"]["healed"].as_u64().unwrap() >= 1,
        "{document}"
    );
    assert!(fs::read(&pack).unwrap() == whole);
    ok(["verify".as_ref(), volume, "--level=4".as_ref()]);
    // Mounted, the daemon does.
    mount.mount(&[]);
    let dir = mount.dir.as_os_str();
    ok([
        "scrub".as_ref(),
        dir,
        "start".as_ref(),
        "--rate=1M".as_ref(),
    ]);
    let status = || -> Value {
        let said = ok(["scrub".as_ref(), dir, "status".as_ref(), "--json".as_ref()]);
        serde_json::from_str(&said).unwrap()
    };
    assert_eq!(status()["state"], "running");
    ok(["scrub".as_ref(), dir, "pause".as_ref()]);
    assert_eq!(status()["state"], "paused");
    let info: Value = serde_json::from_str(&ok(["info".as_ref(), dir, "--json".as_ref()])).unwrap();
    assert_eq!(info["scrub"]["state"], "paused");
    assert!(
        info["parity"]["bytes"].as_u64().unwrap() > 6_000_000,
        "{info}"
    );
    ok([
        "scrub".as_ref(),
        dir,
        "resume".as_ref(),
        "--rate=0".as_ref(),
        "--wait".as_ref(),
    ]);
    assert_eq!(status()["state"], "idle");
    mount.umount();
}
