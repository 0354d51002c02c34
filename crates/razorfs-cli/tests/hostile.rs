//! Trees, volumes and paths that were made to do harm, or are merely odd.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{
    Mount, RAZORFS, fails, info, is_alive, is_mounted, ok, razorfs, room, run, signal, wait_until,
};

#[test]
fn a_symbolic_link_in_a_mounted_volume_leads_to_no_file_of_the_host() {
    let mount = Mount::with(&[]);
    let host = mount.room.path().canonicalize().unwrap().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("precious"), b"precious").unwrap();
    symlink(&host, mount.dir.join("out")).unwrap();
    symlink("../../../../../../../../etc", mount.dir.join("up")).unwrap();
    fs::create_dir(mount.dir.join("sub")).unwrap();
    fs::write(mount.dir.join("sub/file"), b"inside").unwrap();
    symlink("/sub", mount.dir.join("in")).unwrap();
    let check = |what: &str| {
        for args in [
            vec!["rm", "out/precious"],
            vec!["rm", "-r", "out/"],
            vec!["cat", "out/precious"],
            vec!["cat", "up/passwd"],
            vec!["mkdir", "out/new"],
            vec!["ls", "out"],
        ] {
            let (path, args) = args.split_last().unwrap();
            let mut args = args.to_vec();
            let at = mount.at(path);
            args.push(&at);
            // Removing a link removes the link.
            if args[0] != "rm" || path.ends_with("precious") {
                assert_eq!(razorfs(&args).status.code(), Some(1), "{what}: {args:?}");
            }
        }
        // What a link means does not depend on whether the volume is mounted.
        assert_eq!(ok(["cat", &mount.at("in/file")]), "inside", "{what}");
        assert_eq!(ok(["ls", &mount.at("in")]), "file\n", "{what}");
        let names: Vec<_> = fs::read_dir(&host).unwrap().collect();
        assert_eq!(names.len(), 1, "{what}");
        assert_eq!(fs::read(host.join("precious")).unwrap(), b"precious");
    };
    check("mounted");
    ok(["rm", &mount.at("up")]);
    symlink("../../../../../../../../etc", mount.dir.join("up")).unwrap();
    mount.umount();
    check("not mounted");
}

#[test]
fn nothing_is_copied_into_itself() {
    let mount = Mount::new();
    let room = mount.room.path();
    let source = room.join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), b"x").unwrap();
    let inner = source.join("volume.rzfs");
    let line = fails(
        1,
        ["import".as_ref(), source.as_os_str(), inner.as_os_str()],
    );
    assert!(line.contains("is in it"), "{line}");
    assert!(!inner.exists());
    ok([
        "import".as_ref(),
        source.as_os_str(),
        mount.volume.as_os_str(),
    ]);
    let own = mount.volume.join("out");
    for target in [&own, &mount.volume.join("out.tar")] {
        let line = fails(
            1,
            [
                "export".as_ref(),
                mount.volume.as_os_str(),
                target.as_os_str(),
            ],
        );
        assert!(line.contains("its own files"), "{line}");
        assert!(!target.exists());
    }
    mount.mount(&[]);
    let dir = mount.dir.to_str().unwrap();
    for args in [
        ["import", dir, &mount.at("again")],
        ["export", &mount.at(""), &format!("{dir}/again")],
    ] {
        let line = fails(1, args);
        assert!(line.contains("is in it"), "{line}");
    }
    let line = fails(1, ["cp", "-r", dir, &mount.at("again")]);
    assert!(line.contains("is in it"), "{line}");
    // Relative paths are no way around it.
    let out = Command::new(RAZORFS)
        .args(["export", ".", "again"])
        .current_dir(&mount.dir)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(!mount.dir.join("again").exists());
    mount.umount();
    // Nor by a detour inside of the volume.
    mount.mount(&[]);
    symlink("sub", mount.dir.join("link")).unwrap();
    mount.umount();
    for target in ["sub/again", "link/again"] {
        let line = fails(1, ["cp", "-r", &mount.at("sub"), &mount.at(target)]);
        assert!(line.contains("inside of it"), "{line}");
    }
}

#[test]
fn the_second_signal_ends_a_daemon_whose_mount_is_in_use() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("file"), b"kept").unwrap();
    let mut sleeper = Command::new("sleep")
        .arg("600")
        .current_dir(&mount.dir)
        .spawn()
        .unwrap();
    let pid = mount.pid();
    signal(pid, "TERM");
    wait_until("the mount is taken away", || !is_mounted(&mount.dir));
    assert!(is_alive(pid), "who uses it is served on");
    let line = fails(1, ["umount".as_ref(), mount.volume.as_os_str()]);
    assert!(line.contains(&format!("kill {pid}")), "{line}");
    signal(pid, "TERM");
    wait_until("the daemon has ended", || !is_alive(pid));
    mount.mount(&[]);
    assert_eq!(mount.info()["recovery"]["clean"], Value::Bool(true));
    assert_eq!(fs::read(mount.dir.join("file")).unwrap(), b"kept");
    mount.umount();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn a_daemon_out_of_reach_is_not_taken_for_a_dead_one() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("file"), b"kept").unwrap();
    let pid = mount.pid();
    let moved = mount.room.path().join("moved");
    fs::rename(&mount.volume, &moved).unwrap();
    let other = Mount::new();
    let line = fails(
        1,
        [
            "mount".as_ref(),
            other.volume.as_os_str(),
            mount.dir.as_os_str(),
        ],
    );
    assert!(line.contains("is mounted there"), "{line}");
    assert!(is_mounted(&mount.dir));
    // Its files can be looked at, and only it can tell more.
    assert_eq!(ok(["ls".as_ref(), mount.dir.as_os_str()]), "file\n");
    let line = fails(1, ["info".as_ref(), mount.dir.as_os_str()]);
    assert!(line.contains("takes no commands"), "{line}");
    fs::rename(&moved, &mount.volume).unwrap();
    mount.umount();
    assert!(!is_alive(pid));
    mount.verify();
}

#[test]
fn a_volume_put_in_the_place_of_a_mounted_one_is_left_alone() {
    let mount = Mount::with(&[]);
    let pid = mount.pid();
    let moved = mount.room.path().join("moved");
    fs::rename(&mount.volume, &moved).unwrap();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    fs::write(mount.dir.join("file"), vec![7; 9 << 20]).unwrap();
    fs::File::open(mount.dir.join("file"))
        .and_then(|file| file.sync_all())
        .unwrap();
    // It is the other one's by now.
    let listener = std::os::unix::net::UnixListener::bind(mount.volume.join("razorfs.sock"));
    ok(["umount".as_ref(), moved.as_os_str()]);
    assert!(!is_alive(pid));
    assert!(mount.volume.join("razorfs.sock").exists());
    drop(listener.unwrap());
    mount.verify();
    assert_eq!(ok(["ls".as_ref(), mount.volume.as_os_str()]), "");
    ok(["verify".as_ref(), "--level=3".as_ref(), moved.as_os_str()]);
    assert_eq!(ok(["ls".as_ref(), moved.as_os_str()]), "file\n");
}

#[test]
fn a_volume_may_have_any_path() {
    let room = room();
    let odd = OsStr::from_bytes(b"a b\nc\xff,d\\e:\t");
    let dir = room.path().canonicalize().unwrap().join(odd);
    fs::create_dir(&dir).unwrap();
    let (volume, mnt) = (dir.join("v"), dir.join("m"));
    ok(["mount".as_ref(), volume.as_os_str(), mnt.as_os_str()]);
    fs::write(mnt.join("file"), b"x").unwrap();
    for place in [&volume, &mnt] {
        assert_eq!(ok(["ls".as_ref(), place.as_os_str()]), "file\n");
        assert!(info(place)["pid"].is_u64());
    }
    ok(["umount".as_ref(), mnt.as_os_str()]);
    assert_eq!(ok(["ls".as_ref(), volume.as_os_str()]), "file\n");
}

#[test]
fn a_daemon_keeps_nothing_of_who_starts_it() {
    let mount = Mount::new();
    let lock = mount.room.path().join("lock");
    run(Command::new("flock")
        .arg(&lock)
        .arg(RAZORFS)
        .arg("mount")
        .args([&mount.volume, &mount.dir]));
    run(Command::new("flock").arg("-n").arg(&lock).arg("true"));
    mount.umount();
}

#[test]
fn a_daemon_is_not_started_with_too_few_descriptors_to_answer() {
    let mount = Mount::new();
    let start = |limits: &str| {
        let script = format!("{limits}; exec timeout 60 \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", RAZORFS, "mount"]);
        command.args([&mount.volume, &mount.dir]).output().unwrap()
    };
    let refused = start("ulimit -n 12");
    assert_eq!(refused.status.code(), Some(2));
    let line = String::from_utf8(refused.stderr).unwrap();
    assert!(line.contains("ulimit -n"), "{line}");
    assert!(!is_mounted(&mount.dir) && !mount.volume.exists());
    // What may be raised is.
    assert!(start("ulimit -S -n 12").status.success());
    ok(["info".as_ref(), mount.dir.as_os_str()]);
    mount.umount();
}

#[test]
fn a_volume_that_could_not_be_created_leaves_nothing() {
    let room = room();
    let volume = room.path().join("v");
    // Files of the host end at 512 bytes here.
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let create = |volume: &OsStr| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", RAZORFS, "create"]);
        command.arg(volume).output().unwrap().status.code()
    };
    assert_eq!(create(volume.as_os_str()), Some(1));
    assert!(!volume.exists());
    fs::create_dir(&volume).unwrap();
    assert_eq!(create(volume.as_os_str()), Some(1));
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    ok(["create".as_ref(), volume.as_os_str()]);
}

#[test]
fn a_copy_of_a_symbolic_link_of_the_host_is_called_like_it() {
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    let (file, link) = (
        mount.room.path().join("file"),
        mount.room.path().join("link"),
    );
    fs::write(&file, b"x").unwrap();
    symlink(&file, &link).unwrap();
    ok(["cp", link.to_str().unwrap(), &mount.at("")]);
    assert_eq!(ok(["ls".as_ref(), mount.volume.as_os_str()]), "link\n");
    assert_eq!(ok(["cat", &mount.at("link")]), "x");
}

#[test]
fn ctrl_c_ends_what_waits_for_others() {
    // For the bytes of a tar that do not come.
    let mount = Mount::new();
    let mut child = Command::new(RAZORFS)
        .args(["import".as_ref(), "-".as_ref(), mount.volume.as_os_str()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the volume is created", || {
        mount.volume.join("SUPER").exists()
    });
    signal(child.id(), "INT");
    let input = child.stdin.take();
    wait_until("it has ended", || child.try_wait().unwrap().is_some());
    drop(input);
    assert!(!mount.volume.exists());
    // For a daemon that does not answer.
    mount.mount(&[]);
    let pid = mount.pid();
    signal(pid, "STOP");
    // As from a terminal, also where this runs behind a shell that has jobs ignore Ctrl-C.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", RAZORFS, "verify"])
        .arg(&mount.volume)
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    signal(child.id(), "INT");
    wait_until("it has ended", || child.try_wait().unwrap().is_some());
    signal(pid, "CONT");
    mount.umount();
}

#[test]
fn what_a_foreign_daemon_says_does_not_play_with_the_terminal() {
    use std::io::{Read, Write};
    let mount = Mount::new();
    ok(["create".as_ref(), mount.volume.as_os_str()]);
    let socket = mount.volume.join("razorfs.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let server = std::thread::spawn(move || {
        for answer in [
            r#"{"v":1,"done":{"volume":"\u001b[2J\nhealth      ok","health":"\u001b]0;x"}}"#,
            r#"{"v":1,"failed":"no \u001b[2J","code":1}"#,
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]).unwrap();
            let mut message = (answer.len() as u32).to_le_bytes().to_vec();
            message.extend_from_slice(answer.as_bytes());
            stream.write_all(&message).unwrap();
        }
    });
    let said = ok(["info".as_ref(), mount.volume.as_os_str()]);
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let said = fails(1, ["info".as_ref(), mount.volume.as_os_str()]);
    assert!(!said.contains('\u{1b}'), "{said:?}");
    server.join().unwrap();
}
