//! Programs that use a volume beside its mount, through the daemon.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use razorfs::{Durability, FileKind, Options, XattrMode};
use razorfs_client::{Client, Dir, OpenOptions, Point};
use rustix::thread::Uid;

use crate::support::{Mount, Random, fails, is_alive, ok, seed};

fn connected(mount: &Mount) -> (Client, Dir) {
    // As a program does that embeds the library: the volume is not to be had, and that is no error.
    let client = razorfs_client::open(&mount.volume, Options::default()).unwrap();
    assert!(client.is_served());
    let root = client.root();
    (client, root)
}

fn kind<T>(done: std::io::Result<T>) -> ErrorKind {
    done.err().unwrap().kind()
}

#[test]
fn what_a_program_does_through_the_daemon_is_seen_in_the_mount_at_once() {
    let mount = Mount::with(&[]);
    let at = |name: &str| mount.dir.join(name);
    fs::write(at("old"), "from the mount").unwrap();
    fs::create_dir(at("d")).unwrap();
    // The kernel remembers what is there, and what is not.
    for name in ["new", "d/new", "x/y/z"] {
        assert!(!at(name).exists());
    }
    assert_eq!(fs::read_dir(at("d")).unwrap().count(), 0);
    let (client, root) = connected(&mount);
    assert_eq!(root.read("old").unwrap(), b"from the mount");
    root.write("new", b"new").unwrap();
    root.write("d/new", vec![7; 3 << 20]).unwrap();
    root.create_dir_all("x/y/z").unwrap();
    root.write("old", b"changed, and longer than it was before")
        .unwrap();
    assert_eq!(fs::read(at("new")).unwrap(), b"new");
    assert_eq!(fs::read(at("d/new")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(fs::read_dir(at("d")).unwrap().count(), 1);
    assert!(at("x/y/z").is_dir());
    let old = fs::read_to_string(at("old")).unwrap();
    assert_eq!(old, "changed, and longer than it was before");
    root.rename("new", "d/moved").unwrap();
    root.hard_link("old", "twin").unwrap();
    root.symlink("d/moved", "link").unwrap();
    root.set_permissions("old", 0o600).unwrap();
    assert!(!at("new").exists());
    assert_eq!(fs::read(at("link")).unwrap(), b"new");
    let seen = fs::metadata(at("old")).unwrap();
    assert_eq!(
        (seen.nlink(), seen.permissions().mode() & 0o777),
        (2, 0o600)
    );
    // Through a link that led nowhere.
    root.symlink("d/target", "dangling").unwrap();
    assert!(!at("d/target").exists());
    root.create("dangling").unwrap().write_all(b"t").unwrap();
    assert_eq!(fs::read(at("d/target")).unwrap(), b"t");
    root.remove_dir_all("d").unwrap();
    assert!(!at("d").exists());
    root.remove_file("twin").unwrap();
    assert_eq!(fs::metadata(at("old")).unwrap().nlink(), 1);
    client.sync().unwrap();
    mount.umount();
    assert!(root.exists("old").is_err());
    mount.verify();
}

#[test]
fn a_file_that_a_program_has_open_is_read_written_and_outlives_its_name() {
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    let mut file = root.create("f").unwrap();
    file.write_all(b"hello ").unwrap();
    file.write_all(&vec![b'x'; 2 << 20]).unwrap();
    assert_eq!(
        fs::metadata(mount.dir.join("f")).unwrap().len(),
        6 + (2 << 20)
    );
    file.set_len(11).unwrap();
    file.write_at(b"world", 6).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world");
    assert_eq!(fs::read_to_string(mount.dir.join("f")).unwrap(), text);
    let mut end = OpenOptions::new().append(true).open(&root, "f").unwrap();
    end.write_all(b"!").unwrap();
    assert_eq!(file.metadata().unwrap().size, 12);
    fs::remove_file(mount.dir.join("f")).unwrap();
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), 11);
    assert_eq!(file.read(&mut [0; 9]).unwrap(), 1);
    let new = OpenOptions::new().write(true).create_new(true);
    new.open(&root, "g").unwrap();
    assert_eq!(kind(new.open(&root, "g")), ErrorKind::AlreadyExists);
    assert_eq!(kind(root.open("none")), ErrorKind::NotFound);
    let refused = root.open("g").unwrap().write_at(b"x", 0);
    assert_eq!(kind(refused), ErrorKind::PermissionDenied);
    for n in 0..2500 {
        fs::write(mount.dir.join(format!("n{n}")), "").unwrap();
    }
    let entries: Vec<_> = root.read_dir("").unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 2501);
    assert!(
        entries
            .iter()
            .all(|entry| entry.kind() == FileKind::Regular)
    );
    drop((file, end));
    mount.umount();
    mount.verify();
}

#[test]
fn several_changes_of_a_program_are_in_the_mount_all_or_none() {
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    root.write("a", b"1").unwrap();
    assert!(!mount.dir.join("d").exists());
    let mut tx = root.transaction();
    tx.create_dir("d");
    tx.write("d/b", vec![2; 100_000]);
    tx.rename("a", "d/a");
    tx.symlink("d/a", "link");
    tx.set_permissions("d/b", 0o640);
    tx.commit(Durability::Synced).unwrap();
    assert_eq!(fs::read(mount.dir.join("link")).unwrap(), b"1");
    assert_eq!(fs::read(mount.dir.join("d/b")).unwrap(), vec![2; 100_000]);
    let mut tx = root.transaction();
    tx.write("new", b"x");
    tx.remove_dir("d");
    let refused = kind(tx.commit(Durability::Async));
    assert_eq!(refused, ErrorKind::DirectoryNotEmpty);
    assert!(!mount.dir.join("new").exists());
    mount.kill(mount.pid());
    ok(["umount".as_ref(), mount.dir.as_os_str()]);
    mount.mount(&[]);
    assert_eq!(fs::read(mount.dir.join("link")).unwrap(), b"1");
    mount.umount();
    mount.verify();
}

#[test]
fn several_programs_and_the_mount_work_at_the_same_time() {
    let mount = Mount::with(&[]);
    thread::scope(|scope| {
        for n in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                let (_client, root) = connected(mount);
                let own = format!("p{n}");
                root.create_dir(&own).unwrap();
                for round in 0..150 {
                    let (temp, name) = (format!("{own}/temp"), format!("{own}/f{}", round % 20));
                    root.write(&temp, format!("{n} {round}")).unwrap();
                    root.rename(&temp, &name).unwrap();
                    let seen = fs::read_to_string(mount.dir.join(&name)).unwrap();
                    assert_eq!(seen, format!("{n} {round}"));
                    let mine = format!("m{n}-{}", round % 10);
                    fs::write(mount.dir.join(&mine), format!("{round}")).unwrap();
                    assert_eq!(root.read_to_string(&mine).unwrap(), format!("{round}"));
                }
            });
        }
    });
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 44);
    mount.umount();
    mount.verify();
}

#[test]
fn the_daemon_outlives_programs_that_die_in_the_middle_and_such_that_talk_nonsense() {
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    root.write("f", b"here").unwrap();
    let socket = mount.volume.join("razorfs.sock");
    let hello = |version: u64| {
        let text = format!(r#"{{"v":1,"request":"library","version":{version}}}"#);
        frame(text.as_bytes())
    };
    for rest in [
        // A part of a message, a request that there is not, and a length that nobody sends.
        frame(&[7; 100])[..30].to_vec(),
        frame(&[99]),
        u32::MAX.to_le_bytes().to_vec(),
        Vec::new(),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&hello(razorfs_client::VERSION)).unwrap();
        stream.write_all(&rest).unwrap();
        // It may have been hung up on already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(String::from_utf8_lossy(&said).contains("done"));
    }
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream
        .write_all(&hello(razorfs_client::VERSION + 1))
        .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("speaks version"), "{said}");
    // What a program has open and nobody else goes with the program.
    let other = Client::connect(&mount.volume).unwrap();
    let open = other.root().open("f").unwrap();
    root.remove_file("f").unwrap();
    assert_eq!(open.metadata().unwrap().nlink, 0);
    std::mem::forget(open);
    drop(other);
    assert!(!root.exists("f").unwrap());
    for _ in 0..100 {
        drop(Client::connect(&mount.volume).unwrap());
    }
    mount.umount();
    mount.verify();
    assert_eq!(
        kind(Client::connect(&mount.volume)),
        ErrorKind::NotConnected
    );
    // Now it is to be had, and the same call opens it.
    let here = razorfs_client::open(&mount.volume, Options::default()).unwrap();
    assert!(!here.is_served() && !here.root().exists("f").unwrap());
    here.close().unwrap();
}

/// What a user does who is nobody here, and may pass the directory of the volume.
fn as_somebody<T: Send>(mount: &Mount, work: impl FnOnce(&Path) -> T + Send) -> T {
    // What is above it is none of theirs.
    let mut home = fs::File::options();
    let home = home
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(&mount.volume)
        .unwrap();
    let volume = format!("/proc/self/fd/{}", home.as_raw_fd());
    let other = || {
        let nobody = Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        work(Path::new(&volume))
    };
    thread::scope(|scope| scope.spawn(other).join().unwrap())
}

/// Commands are for the owner of the daemon, whatever the socket's permissions are.
#[test]
fn who_may_connect_may_use_the_volume_and_not_command_the_daemon() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let mount = Mount::with(&[]);
    let socket = mount.volume.join("razorfs.sock");
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&mount.volume, fs::Permissions::from_mode(0o711)).unwrap();
    let refused = as_somebody(&mount, |volume| {
        kind(razorfs_client::open(volume, Options::default()))
    });
    assert_eq!(refused, ErrorKind::PermissionDenied);
    mount.umount();
    mount.mount(&["-o", "socket_mode=0666"]);
    assert_eq!(mode(), 0o666);
    let crowd = as_somebody(&mount, |volume| {
        let client = razorfs_client::open(volume, Options::default()).unwrap();
        client.root().write("theirs", b"theirs").unwrap();
        let connect = || UnixStream::connect(volume.join("razorfs.sock")).unwrap();
        let mut stream = connect();
        stream
            .write_all(&frame(br#"{"v":1,"request":"sync"}"#))
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.contains("belongs to another user"), "{said}");
        (0..100).map(|_| connect()).collect::<Vec<_>>()
    });
    // However many there are of them, commands are answered.
    assert_eq!(mount.info()["options"]["socket_mode"], "0666");
    drop(crowd);
    assert_eq!(fs::read(mount.dir.join("theirs")).unwrap(), b"theirs");
    let log = ok(["log".as_ref(), mount.volume.as_os_str(), "--json".as_ref()]);
    assert!(log.contains("65534"), "{log}");
    let other = mount.room.path().join("other");
    let line = fails(
        1,
        [
            "mount".as_ref(),
            "-o".as_ref(),
            "socket_mode=0660".as_ref(),
            mount.volume.as_os_str(),
            other.as_os_str(),
        ],
    );
    assert!(line.contains("is for the whole volume"), "{line}");
    mount.umount();
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

#[test]
fn what_a_program_appends_is_not_lost_to_one_in_the_mount_that_has_the_file_open() {
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    let at = mount.dir.join("log");
    let mut inside = fs::File::options()
        .create(true)
        .append(true)
        .open(&at)
        .unwrap();
    inside.write_all(b"inside,").unwrap();
    let open = OpenOptions::new().append(true);
    let mut outside = open.open(&root, "log").unwrap();
    // The kernel would append where the file ended as far as it knows.
    assert_eq!(
        kind(outside.write_all(b"outside,")),
        ErrorKind::ResourceBusy
    );
    let mut tx = root.transaction();
    tx.write("log", vec![0; 100]);
    assert_eq!(kind(tx.commit(Durability::Async)), ErrorKind::ResourceBusy);
    assert_eq!(kind(outside.set_len(100)), ErrorKind::ResourceBusy);
    // What makes it no longer is done.
    outside.write_at(b"INSIDE", 0).unwrap();
    inside.write_all(b"again,").unwrap();
    assert_eq!(fs::read(&at).unwrap(), b"INSIDE,again,");
    root.write("log", b"anew,").unwrap();
    assert_eq!(fs::read(&at).unwrap(), b"anew,");
    drop(inside);
    outside.write_all(b"outside,").unwrap();
    let mut inside = fs::File::options().append(true).open(&at).unwrap();
    inside.write_all(b"inside").unwrap();
    assert_eq!(fs::read(&at).unwrap(), b"anew,outside,inside");
    drop((inside, outside));
    mount.umount();
    mount.verify();
}

#[test]
fn what_is_written_to_memory_in_the_mount_comes_before_what_a_program_does() {
    let mount = Mount::with(&[]);
    let (client, root) = connected(&mount);
    root.write("f", vec![b'.'; 8192]).unwrap();
    // A page is held back until somebody asks for it.
    let script = "import mmap, sys\n\
        file = open(sys.argv[1], 'r+b')\n\
        pages = mmap.mmap(file.fileno(), 8192)\n\
        pages[:6] = b'inside'\n\
        print('written', flush=True)\n\
        sys.stdin.read()\n\
        print(pages[4096:4103].decode(), flush=True)\n";
    let mut inside = Command::new("python3")
        .args(["-c", script])
        .arg(mount.dir.join("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = inside.stdout.take().unwrap();
    said.read_exact(&mut [0; 8]).unwrap();
    client.snapshot("s").unwrap();
    let taken = client.view("s").unwrap().root();
    assert_eq!(&taken.read("f").unwrap()[..6], b"inside");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&root, "f")
        .unwrap();
    file.write_at(b"outside", 4096).unwrap();
    drop(inside.stdin.take());
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), "outside");
    assert!(inside.wait().unwrap().success());
    let both = root.read("f").unwrap();
    assert_eq!(
        (&both[..6], &both[4096..4103]),
        (&b"inside"[..], &b"outside"[..])
    );
    drop((file, taken));
    mount.umount();
    mount.verify();
}

#[test]
fn a_program_uses_snapshots_and_branches_of_a_volume_that_is_mounted() {
    let mount = Mount::with(&[]);
    let (client, root) = connected(&mount);
    fs::write(mount.dir.join("f"), "at first").unwrap();
    let hidden = mount.dir.join(".razorfs/snapshots/before/f");
    assert!(!hidden.exists());
    client.snapshot("before").unwrap();
    assert_eq!(kind(client.snapshot("before")), ErrorKind::AlreadyExists);
    fs::write(mount.dir.join("f"), "changed").unwrap();
    assert_eq!(fs::read(&hidden).unwrap(), b"at first");
    let before = client.view("before").unwrap();
    assert_eq!(before.root().read("f").unwrap(), b"at first");
    assert_eq!(
        kind(before.root().write("f", b"")),
        ErrorKind::ReadOnlyFilesystem
    );
    client.create_branch("attempt").unwrap();
    before.create_branch("from-before").unwrap();
    let names = |points: std::io::Result<Vec<Point>>| -> Vec<String> {
        points
            .unwrap()
            .into_iter()
            .map(|point| point.name)
            .collect()
    };
    assert_eq!(names(client.snapshots()), ["before"]);
    assert_eq!(names(client.branches()), ["attempt", "from-before"]);
    // One that is mounted as well: what is done here is seen there, and nowhere else.
    let at = |name: &str| format!("{}@{name}", mount.volume.display());
    let dir = mount.room.path().join("attempt");
    ok(["mount".as_ref(), at("attempt").as_ref(), dir.as_os_str()]);
    assert!(!dir.join("new").exists());
    let attempt = razorfs_client::open(at("attempt"), Options::default()).unwrap();
    attempt.root().write("new", b"of the branch").unwrap();
    assert_eq!(fs::read(dir.join("new")).unwrap(), b"of the branch");
    assert!(!root.exists("new").unwrap() && !mount.dir.join("new").exists());
    fs::write(dir.join("f"), "by the mount").unwrap();
    assert_eq!(attempt.root().read("f").unwrap(), b"by the mount");
    attempt.snapshot("of-attempt").unwrap();
    assert_eq!(
        client.view("of-attempt").unwrap().root().read("f").unwrap(),
        b"by the mount"
    );
    let mounted = client.delete_branch("attempt").err().unwrap();
    assert_eq!(mounted.kind(), ErrorKind::ResourceBusy);
    assert!(
        mounted.to_string().contains("it is mounted on"),
        "{mounted}"
    );
    ok(["umount".as_ref(), dir.as_os_str()]);
    assert_eq!(
        kind(client.delete_branch("attempt")),
        ErrorKind::ResourceBusy
    );
    drop(attempt);
    // The daemon sees a moment later that it has gone.
    crate::support::wait_until("the branch is free", || {
        client.delete_branch("attempt").is_ok()
    });
    client.delete_branch("from-before").unwrap();
    client.delete_snapshot("before").unwrap();
    assert!(!hidden.exists());
    assert!(client.view("before").is_err());
    assert_eq!(names(client.branches()), [""; 0]);
    mount.umount();
    mount.verify();
}

#[test]
fn attributes_links_and_renames_of_all_kinds_are_seen_in_the_mount() {
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    let at = |name: &str| mount.dir.join(name);
    fs::write(at("a"), "a").unwrap();
    fs::write(at("b"), "b").unwrap();
    root.set_xattr("a", "user.x", b"value", XattrMode::Set)
        .unwrap();
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(at("a"), "user.x", &mut value).unwrap();
    assert_eq!(&value[..len], b"value");
    rustix::fs::setxattr(at("a"), "user.y", b"z", rustix::fs::XattrFlags::CREATE).unwrap();
    let mut names = root.xattrs("a").unwrap();
    names.sort();
    assert_eq!(names, ["user.x", "user.y"]);
    root.remove_xattr("a", "user.x").unwrap();
    assert_eq!(root.xattr("a", "user.y").unwrap(), b"z");
    assert_eq!(kind(root.rename_new("a", "b")), ErrorKind::AlreadyExists);
    root.exchange("a", "b").unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"b");
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    root.hard_link("b", "c").unwrap();
    assert_eq!(fs::metadata(at("b")).unwrap().nlink(), 2);
    root.symlink("b", "s").unwrap();
    assert_eq!(fs::read_link(at("s")).unwrap(), Path::new("b"));
    assert_eq!(
        root.symlink_metadata("s").unwrap().kind(),
        FileKind::Symlink
    );
    // Who is in a directory that was moved is in it still.
    fs::create_dir_all(at("d/e")).unwrap();
    let mut inside = Command::new("sh")
        .args(["-c", "read line; cat f; cat ../../moved/e/f"])
        .current_dir(at("d/e"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tx = root.transaction();
    tx.write("d/e/f", b"here ");
    tx.rename("d", "moved");
    tx.commit(Durability::Async).unwrap();
    assert!(at("moved/e/f").exists());
    drop(inside.stdin.take());
    let said = inside.wait_with_output().unwrap();
    assert_eq!(said.stdout, b"here here ");
    mount.umount();
    mount.verify();
}

#[test]
fn a_program_opens_the_volume_again_after_the_death_of_the_daemon() {
    let mount = Mount::with(&[]);
    if !mount.again_patiently() {
        return;
    }
    let (client, root) = connected(&mount);
    let held = root.create("held").unwrap();
    held.write_at(b"acknowledged", 0).unwrap();
    root.remove_file("held").unwrap();
    root.write("f", b"acknowledged").unwrap();
    assert_eq!(fs::read(mount.dir.join("f")).unwrap(), b"acknowledged");
    mount.kill_daemon(mount.pid());
    let lost = root.read("f").err().unwrap();
    assert!(lost.to_string().contains("open it again"), "{lost}");
    assert!(held.metadata().is_err() && client.sync().is_err());
    // The next daemon is not there yet, perhaps: nobody else gets the volume meanwhile.
    let (_client, again) = connected(&mount);
    assert_eq!(again.read("f").unwrap(), b"acknowledged");
    again.write("f", b"anew").unwrap();
    assert_eq!(fs::read(mount.dir.join("f")).unwrap(), b"anew");
    assert!(held.metadata().is_err(), "its number is not another file's");
    mount.umount();
    mount.verify();
}

/// Where a program of the test below works, which is this test again in another process.
const PROGRAM: &str = "RAZORFS_TEST_PROGRAM";

/// Writes over and over until it is killed: two files that are equal, and one that is long.
fn work_until_killed(volume: &str, own: &str) -> ! {
    let root = razorfs_client::open(volume, Options::default())
        .unwrap()
        .root();
    root.create_dir_all(own).unwrap();
    let long = root.create(format!("{own}/long")).unwrap();
    for n in 0_u64.. {
        let content = n.to_le_bytes().repeat(20_000);
        let mut tx = root.transaction();
        tx.write(format!("{own}/a"), &*content);
        tx.write(format!("{own}/b"), &*content);
        tx.commit(Durability::Async).unwrap();
        long.write_at(&n.to_le_bytes().repeat(400_000), 0).unwrap();
    }
    unreachable!("it is killed")
}

#[test]
fn the_daemon_outlives_processes_that_are_killed_in_a_transaction_and_in_a_write() {
    if let Ok(place) = std::env::var(PROGRAM) {
        let (own, volume) = place.split_once(' ').unwrap();
        work_until_killed(volume, own);
    }
    let mount = Mount::with(&[]);
    let (_client, root) = connected(&mount);
    let pid = mount.pid();
    let mut random = Random(seed());
    println!("RAZORFS_SEED={}", random.0);
    let start = |n: u64| -> Child {
        let place = format!("p{n} {}", mount.volume.display());
        let own = "library::the_daemon_outlives_processes_that_are_killed_in_a_transaction_and_in_a\
            _write";
        Command::new(std::env::current_exe().unwrap())
            .args([own, "--exact"])
            .env(PROGRAM, place)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    for round in 0..8 {
        let mut programs: Vec<Child> = (0..3).map(start).collect();
        crate::support::wait_until("all of them work", || {
            (0..3).all(|n| root.exists(format!("p{n}/b")).unwrap())
        });
        for program in &mut programs {
            thread::sleep(Duration::from_millis(random.between(1, 60)));
            assert!(
                program.try_wait().unwrap().is_none(),
                "it works until it is killed"
            );
            program.kill().unwrap();
            program.wait().unwrap();
        }
        for n in 0..3 {
            // All of a transaction, or none: also by what the mount shows.
            let read = |name: &str| fs::read(mount.dir.join(format!("p{n}/{name}"))).unwrap();
            // What it had sent last may just be done.
            let (a, b) = (read("a"), read("b"));
            let again = (read("a"), read("b"));
            assert!(a == b || again.0 == again.1, "round {round}");
            assert_eq!(a.len(), 160_000);
            root.remove_dir_all(format!("p{n}")).unwrap();
        }
    }
    assert!(is_alive(pid) && mount.pid() == pid);
    mount.umount();
    mount.verify();
}

#[test]
fn more_programs_than_there_is_room_for_are_told_so_and_keep_no_command_waiting() {
    let mount = Mount::with(&[]);
    let mut clients: Vec<Client> = Vec::new();
    let refused = loop {
        match Client::connect(&mount.volume) {
            Ok(client) => clients.push(client),
            Err(refused) => break refused,
        }
        assert!(clients.len() < 1000);
    };
    assert!(
        refused.to_string().contains("too many programs"),
        "{refused}"
    );
    assert_eq!(clients.len(), 64);
    assert_eq!(mount.info()["options"]["order"], "default");
    // A half message holds nobody else up, and neither does one who is stopped.
    clients.pop();
    crate::support::wait_until("there is room", || {
        Client::connect(&mount.volume)
            .map(|client| clients.push(client))
            .is_ok()
    });
    let root = clients[0].root();
    let mut files = Vec::new();
    root.write("f", b"f").unwrap();
    let refused = loop {
        match root.open("f") {
            Ok(file) => files.push(file),
            Err(refused) => break refused,
        }
        assert!(files.len() < 10_000);
    };
    assert!(refused.to_string().contains("4096 files"), "{refused}");
    files.pop();
    drop(root.open("f").unwrap());
    assert_eq!(clients[1].root().read("f").unwrap(), b"f");
    drop((files, clients));
    mount.umount();
}
