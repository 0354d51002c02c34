//! Which way the kernel's requests come.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use razorfs_fuse::transport::rings_available;

use crate::support::{Mount, RAZORFS, fails, is_alive, ok, reap, run, wait_until};

/// Whether requests can come over io_uring here; says so where not.
pub fn has_rings() -> bool {
    let has = rings_available();
    if let Err(why) = &has {
        eprintln!("SKIPPED over io_uring: {why}");
    }
    has.is_ok()
}

#[test]
fn a_mount_says_which_way_its_requests_come() {
    let kept = Mount::with(&[]);
    assert_eq!(kept.info()["transport"], "dev", "it could not go on");
    assert!(kept.keeper().is_some());
    let expected = if has_rings() { "uring" } else { "dev" };
    let alone = Mount::with(&["-o", "nokeeper"]);
    assert_eq!(alone.info()["transport"], expected);
    let dev = Mount::with(&["-o", "nokeeper,transport=dev"]);
    assert_eq!(dev.info()["transport"], "dev");
    let text = ok(["info".as_ref(), dev.dir.as_os_str()]);
    assert!(text.contains("requests    over /dev/fuse"), "{text}");
}

#[test]
fn what_was_asked_for_and_cannot_be_is_an_error() {
    let mount = Mount::new();
    let options = ["mount", "-o", "transport=uring"].map(std::ffi::OsStr::new);
    let paths = [mount.volume.as_os_str(), mount.dir.as_os_str()];
    let line = options.into_iter().chain(paths);
    if has_rings() {
        ok(line);
        let info = mount.info();
        assert_eq!(info["transport"], "uring");
        assert_eq!(info["options"]["keeper"], false);
        assert!(info["keeper"].is_null());
        let text = ok(["info".as_ref(), mount.dir.as_os_str()]);
        assert!(text.contains("requests    over io_uring"), "{text}");
    } else {
        let said = fails(2, line);
        assert!(said.contains("transport=auto"), "{said}");
    }
}

#[test]
fn what_was_written_over_io_uring_is_there_after_a_kill_and_callers_get_errors() {
    if !has_rings() {
        return;
    }
    let mount = Mount::with(&["-o", "transport=uring"]);
    let path = mount.dir.join("f");
    let mut file = File::create_new(&path).unwrap();
    file.write_all(&vec![7; 3_000_000]).unwrap();
    file.sync_all().unwrap();
    // Somebody who asks all the time.
    let mut asks = Command::new("sh")
        .args(["-c", "while mkdir \"$0/d\" && rmdir \"$0/d\"; do :; done"])
        .arg(&mount.dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(asks.try_wait().unwrap().is_none());
    mount.kill_daemon(mount.pid());
    // It gets an error and does not hang.
    reap(asks);
    assert!(file.metadata().is_err() || file.write_all(b"x").is_err());
    drop(file);
    run(Command::new(RAZORFS).arg("umount").arg(&mount.dir));
    mount.mount(&["-o", "transport=uring"]);
    let mut bytes = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == vec![7; 3_000_000]);
    mount.umount();
    mount.verify();
}

#[test]
fn a_signal_unmounts_what_comes_over_io_uring() {
    if !has_rings() {
        return;
    }
    for foreground in [true, false] {
        let mount = Mount::new();
        let mut line = vec!["mount", "-o", "transport=uring"];
        if foreground {
            line.push("--foreground");
        }
        let mut command = Command::new(RAZORFS);
        command.args(line).args([&mount.volume, &mount.dir]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap();
        wait_until("it is mounted", || mount.info()["transport"] == "uring");
        std::fs::write(mount.dir.join("f"), b"x").unwrap();
        let pid = mount.pid();
        crate::support::signal(pid, "INT");
        if foreground {
            assert_eq!(pid, child.id());
        }
        reap(child);
        wait_until("the daemon is gone", || !is_alive(pid));
        assert!(!crate::support::is_mounted(&mount.dir));
        mount.verify();
    }
}
