//! The daemon dies, its keeper starts another one, and whoever uses the mount does not notice.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Mount, fails, is_alive, is_mounted, ok, signal, wait_until};

/// Kills the daemon alone; the next one is another process.
fn die(mount: &Mount) {
    let pid = mount.pid();
    mount.kill_daemon(pid);
    assert_ne!(mount.pid(), pid);
}

fn try_lock(file: &File) -> bool {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[test]
fn open_files_directories_and_locks_go_on() {
    let mount = Mount::with(&[]);
    let dir = &mount.dir;
    let many = dir.join("many");
    std::fs::create_dir(&many).unwrap();
    for n in 0..4000 {
        File::create(many.join(format!("a file with a name of some length, number {n}"))).unwrap();
    }
    let mut written = File::create_new(dir.join("written")).unwrap();
    written.write_all(b"before, ").unwrap();
    let mut gone = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(dir.join("gone"))
        .unwrap();
    gone.write_all(b"no name").unwrap();
    std::fs::remove_file(dir.join("gone")).unwrap();
    let locked = File::create_new(dir.join("locked")).unwrap();
    assert!(try_lock(&locked));
    let mut listed = std::fs::read_dir(&many).unwrap();
    let mut names: BTreeSet<_> = listed.by_ref().take(700).collect_names();
    // A process with its working directory there.
    let mut inside = Command::new("sh")
        .args(["-c", "read line; cat ../written; echo more > here; pwd"])
        .current_dir(&many)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    die(&mount);

    written.write_all(b"after").unwrap();
    assert_eq!(
        std::fs::read(dir.join("written")).unwrap(),
        b"before, after"
    );
    gone.write_all(b" and more").unwrap();
    let mut text = String::new();
    gone.seek(SeekFrom::Start(0)).unwrap();
    gone.read_to_string(&mut text).unwrap();
    assert_eq!(text, "no name and more");
    let other = File::open(dir.join("locked")).unwrap();
    assert!(!try_lock(&other), "the lock is held still");
    drop(locked);
    assert!(try_lock(&other));
    let before = names.len();
    names.extend(listed.collect_names());
    assert_eq!(names.len(), 4000, "{before} of them had come before");
    inside.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = inside.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("before, after{}\n", many.display()));
    assert_eq!(std::fs::read(many.join("here")).unwrap(), b"more\n");

    // What has no name goes when it is closed, though nobody has counted who held it.
    let inodes = |mount: &Mount| mount.info()["inodes"].as_u64().unwrap();
    let with = inodes(&mount);
    drop(gone);
    wait_until("the file without a name is gone", || inodes(&mount) < with);
    drop((written, other));
    mount.umount();
    mount.verify();
}

#[test]
fn a_file_without_a_name_that_was_closed_before_the_death_gives_its_space_back() {
    let mount = Mount::with(&[]);
    // So that the kernel knows that nobody wants to be told of a close.
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    let inodes = || mount.info()["inodes"].as_u64().unwrap();
    let before = inodes();
    let mut nameless = File::options();
    let nameless = nameless
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(&mount.dir);
    let nameless = nameless.unwrap();
    assert_eq!(inodes(), before + 1);
    // The last thing that a thread of it did was to make the file; it does not hear of its end.
    let pid = mount.pid();
    signal(pid, "STOP");
    drop(nameless);
    mount.kill_daemon(pid);
    wait_until("the file without a name is gone", || inodes() == before);
    mount.umount();
    mount.verify();
}

/// The names of a listing.
trait Names {
    fn collect_names(self) -> BTreeSet<std::ffi::OsString>;
}

impl<I: Iterator<Item = std::io::Result<std::fs::DirEntry>>> Names for I {
    fn collect_names(self) -> BTreeSet<std::ffi::OsString> {
        self.map(|entry| entry.unwrap().file_name()).collect()
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_is_done_twice() {
    let mount = Mount::with(&[]);
    let dir = mount.dir.clone();
    let worker = std::thread::spawn(move || {
        let mut log = File::options();
        let log = log.create_new(true).append(true).open(dir.join("log"));
        let log = log.unwrap();
        for n in 0..1500u32 {
            // Each of these fails if it is done a second time.
            let (a, b) = (dir.join(format!("a{n}")), dir.join(format!("b{n}")));
            std::fs::create_dir(&a).unwrap();
            std::fs::rename(&a, &b).unwrap();
            File::create_new(&a).unwrap().write_all(&[7; 5000]).unwrap();
            std::fs::hard_link(&a, b.join("link")).unwrap();
            std::fs::remove_file(&a).unwrap();
            std::os::unix::fs::symlink("target", &a).unwrap();
            (&log).write_all(&n.to_le_bytes()).unwrap();
            if n % 3 > 0 {
                std::fs::remove_file(b.join("link")).unwrap();
                std::fs::remove_dir(&b).unwrap();
            }
        }
    });
    let mut deaths = 0;
    while !worker.is_finished() && deaths < 4 {
        std::thread::sleep(Duration::from_millis(150 + 77 * deaths));
        mount.kill_daemon(mount.pid());
        deaths += 1;
    }
    worker.join().unwrap();
    let log = File::open(mount.dir.join("log")).unwrap();
    assert_eq!(log.metadata().unwrap().len(), 6000);
    for n in 0..1500u32 {
        let mut number = [0; 4];
        log.read_exact_at(&mut number, u64::from(n) * 4).unwrap();
        assert_eq!(u32::from_le_bytes(number), n);
        let link = mount.dir.join(format!("b{n}/link"));
        assert_eq!(link.exists(), n % 3 == 0, "{n}");
        assert!(mount.dir.join(format!("a{n}")).is_symlink());
    }
    assert_eq!(mount.info()["keeper"]["restarts"], deaths);
    drop(log);
    mount.umount();
    mount.verify();
}

#[test]
fn commands_work_after_a_death_and_nothing_is_left_in_the_end() {
    let mount = Mount::with(&[]);
    let keeper = mount.keeper().unwrap();
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    die(&mount);
    mount.sync();
    let info = mount.info();
    assert_eq!(info["keeper"]["restarts"], 1);
    assert_eq!(mount.keeper(), Some(keeper));
    let text = ok(["info".as_ref(), mount.volume.as_os_str()]);
    assert!(
        text.contains(&format!("keeper      {keeper}, 1 restarts")),
        "{text}"
    );
    let log = mount.log();
    assert!(log.contains("was killed by signal 9"), "{log}");
    let pid = mount.pid();
    mount.umount();
    assert!(!is_alive(keeper) && !is_alive(pid));
    mount.verify();

    // A signal to either ends both.
    for to_keeper in [true, false] {
        mount.mount(&[]);
        die(&mount);
        let (keeper, pid) = (mount.keeper().unwrap(), mount.pid());
        signal(if to_keeper { keeper } else { pid }, "TERM");
        wait_until("both are gone", || !is_alive(keeper) && !is_alive(pid));
        assert!(!crate::support::is_mounted(&mount.dir));
        mount.verify();
    }
}

#[test]
fn five_deaths_in_a_minute_are_the_end() {
    let mount = Mount::with(&[]);
    let keeper = mount.keeper().unwrap();
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    mount.sync();
    for _ in 0..4 {
        die(&mount);
    }
    assert_eq!(std::fs::read(mount.dir.join("file")).unwrap(), b"text");
    let pid = mount.pid();
    mount.kill_daemon(pid);
    wait_until("the keeper is gone", || !is_alive(keeper));
    let e = File::create(mount.dir.join("other")).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ENOTCONN));
    let log = mount.log();
    assert!(log.contains("death 5 within a minute"), "{log}");
    mount.umount();
    mount.mount(&[]);
    assert_eq!(std::fs::read(mount.dir.join("file")).unwrap(), b"text");
    mount.umount();
}

#[test]
fn a_volume_that_cannot_be_gone_on_with_is_given_up_with_the_reason() {
    let mount = Mount::with(&[]);
    let keeper = mount.keeper().unwrap();
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    mount.sync();
    let superblock = mount.volume.join("SUPER");
    let whole = std::fs::read(&superblock).unwrap();
    std::fs::write(&superblock, vec![0; whole.len()]).unwrap();
    mount.kill_daemon(mount.pid());
    wait_until("the keeper is gone", || !is_alive(keeper));
    let log = mount.log();
    assert!(log.contains(") cannot go on: "), "{log}");
    assert!(log.contains("death 5 within a minute"), "{log}");
    std::fs::write(&superblock, whole).unwrap();
    mount.umount();
    mount.mount(&[]);
    assert_eq!(std::fs::read(mount.dir.join("file")).unwrap(), b"text");
    mount.umount();
}

/// Kills the daemon of a mount where another one cannot go on, and answers with what gives it back
/// what it lacks.
fn die_where_nobody_can_go_on(mount: &Mount) -> impl FnOnce() {
    let superblock = mount.volume.join("SUPER");
    let whole = std::fs::read(&superblock).unwrap();
    std::fs::write(&superblock, vec![0; whole.len()]).unwrap();
    mount.kill_daemon(mount.pid());
    wait_until("another one has tried", || {
        mount.log().contains("another one will try")
    });
    move || std::fs::write(&superblock, whole).unwrap()
}

#[test]
fn what_keeps_a_daemon_from_going_on_may_pass() {
    let mount = Mount::with(&[]);
    let mut file = File::create(mount.dir.join("file")).unwrap();
    file.write_all(b"text").unwrap();
    let mend = die_where_nobody_can_go_on(&mount);
    mend();
    file.write_all(b" and more").unwrap();
    assert_eq!(
        std::fs::read(mount.dir.join("file")).unwrap(),
        b"text and more"
    );
    drop(file);
    mount.umount();
    mount.verify();
}

#[test]
fn a_signal_while_no_daemon_serves_is_for_the_next() {
    let mount = Mount::with(&[]);
    let keeper = mount.keeper().unwrap();
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    let mend = die_where_nobody_can_go_on(&mount);
    signal(keeper, "TERM");
    mend();
    wait_until("all have ended", || !is_alive(keeper));
    assert!(!is_mounted(&mount.dir));
    mount.verify();
    assert_eq!(ok(["cat", &mount.at("file")]), "text");
}

#[test]
fn a_mount_goes_on_without_its_keeper() {
    let mount = Mount::with(&[]);
    let (keeper, pid) = (mount.keeper().unwrap(), mount.pid());
    signal(keeper, "KILL");
    wait_until("the keeper is gone", || !is_alive(keeper));
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    wait_until("the log tells", || {
        mount.log().contains("the keeper has died")
    });
    let info = mount.info();
    assert!(
        info["keeper"]["pid"].is_null() && info["pid"] == pid,
        "{info}"
    );
    mount.umount();
    mount.verify();
}

#[test]
fn without_a_keeper_a_death_is_the_end() {
    let over_io_uring = razorfs_fuse::transport::rings_available().is_ok();
    let ways = ["nokeeper,transport=dev", "transport=uring"];
    for options in &ways[..1 + usize::from(over_io_uring)] {
        let mount = Mount::with(&["-o", options]);
        assert!(mount.info()["keeper"].is_null());
        mount.kill_daemon(mount.pid());
        let e = std::fs::read_dir(&mount.dir).unwrap_err().raw_os_error();
        // Over io_uring the connection ends a moment after the process; who asks before that is
        // told that it was cut off, or, by a thread that was about to take it and has died, that
        // it was cancelled.
        let cut_off = [Some(libc::ECONNABORTED), Some(libc::ECANCELED)];
        let is_cut_off = *options == ways[1] && cut_off.contains(&e);
        assert!(e == Some(libc::ENOTCONN) || is_cut_off, "{options}: {e:?}");
        let line = fails(1, ["ls".as_ref(), mount.dir.as_os_str()]);
        assert!(line.contains("the daemon of this mount is gone"), "{line}");
        mount.umount();
        mount.verify();
    }
}

#[test]
fn a_mount_for_reading_goes_on() {
    let mount = Mount::with(&[]);
    std::fs::write(mount.dir.join("file"), "one\ntwo\n").unwrap();
    mount.umount();
    mount.mount(&["--read-only"]);
    let mut lines = BufReader::with_capacity(4, File::open(mount.dir.join("file")).unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    die(&mount);
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    assert!(File::create(mount.dir.join("other")).is_err());
    drop(lines);
    mount.umount();
}

#[test]
fn a_volume_that_was_moved_is_found_again() {
    let mount = Mount::with(&[]);
    let moved = mount.room.path().join("moved.rzfs");
    std::fs::rename(&mount.volume, &moved).unwrap();
    std::fs::write(mount.dir.join("file"), "text").unwrap();
    let info = crate::support::info(&moved);
    let pid = u32::try_from(info["pid"].as_u64().unwrap()).unwrap();
    mount.kill_daemon(pid);
    assert_eq!(std::fs::read(mount.dir.join("file")).unwrap(), b"text");
    std::fs::rename(&moved, &mount.volume).unwrap();
    mount.umount();
    mount.verify();
}
