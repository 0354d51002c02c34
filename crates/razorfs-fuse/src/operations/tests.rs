use std::io::{self, IoSlice};

use razorfs_format::record::FILE_MAX;

use super::*;
use crate::null::NullFs;
use crate::protocol::Encode as _;
use crate::transport::ReplySink;
use crate::{Notifier, WithSnapshots, forget_snapshot, forget_stale};

/// Keeps what is sent.
#[derive(Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl ReplySink for Kept {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let whole = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.lock().push(whole);
        Ok(())
    }
}

fn operations() -> Operations {
    Operations::new(
        Arc::new(NullFs::default()),
        Limits::default(),
        Validity::default(),
    )
}

/// Carries a message out; the error number and the content of each answer.
fn ask(operations: &Operations, opcode: u32, node: u64, body: &[u8]) -> Vec<(i32, Vec<u8>)> {
    ask_as(operations, 0, opcode, node, body)
}

/// The same as a user.
fn ask_as(
    operations: &Operations,
    uid: u32,
    opcode: u32,
    node: u64,
    body: &[u8],
) -> Vec<(i32, Vec<u8>)> {
    ask_numbered(operations, 3, uid, opcode, node, body)
}

/// The same by its number.
fn ask_numbered(
    operations: &Operations,
    unique: u64,
    uid: u32,
    opcode: u32,
    node: u64,
    body: &[u8],
) -> Vec<(i32, Vec<u8>)> {
    let mut message = Vec::new();
    message.u32((protocol::IN_HEADER + body.len()) as u32);
    message.u32(opcode);
    message.u64(unique);
    message.u64(node);
    message.u32(uid);
    message.zeros(12);
    message.extend_from_slice(body);
    let kept = Arc::new(Kept::default());
    drop(operations.handle(&message, ReplyTo(kept.clone()), &mut Scratch::default()));
    let answers = std::mem::take(&mut *kept.0.lock());
    let split = |answer: Vec<u8>| {
        assert_eq!(answer[..4], (answer.len() as u32).to_ne_bytes());
        assert_eq!(answer[8..16], unique.to_ne_bytes());
        let error = i32::from_ne_bytes(answer[4..8].try_into().unwrap());
        (-error, answer[16..].to_vec())
    };
    answers.into_iter().map(split).collect()
}

#[test]
fn every_request_is_answered_once_and_those_without_answer_never() {
    let operations = operations();
    for opcode in 0..70 {
        for len in [0, 8, 16, 40, 88, 200] {
            let answers = ask(&operations, opcode, 1, &vec![0; len]).len();
            let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
            let expected = usize::from(!silent.contains(&opcode));
            assert_eq!(answers, expected, "{}, {len} bytes", opcode::name(opcode));
        }
    }
}

#[test]
fn the_size_of_an_attribute_can_be_asked_for() {
    let operations = operations();
    let value = [7; 1000];
    operations
        .fs
        .set_xattr(Ino::ROOT, b"user.a", &value, razorfs::XattrMode::Set)
        .unwrap();
    let get = |size: u32| {
        let mut body = Vec::new();
        body.u32(size);
        body.u32(0);
        body.extend_from_slice(b"user.a\0");
        ask(&operations, opcode::GETXATTR, 1, &body).remove(0)
    };
    let mut size = Vec::new();
    size.u32(1000);
    size.u32(0);
    assert_eq!(get(0), (0, size));
    assert_eq!(get(1000), (0, value.to_vec()));
    assert_eq!(get(999).0, libc::ERANGE);
}

#[test]
fn an_answer_that_is_dropped_says_eio() {
    let kept = Arc::new(Kept::default());
    let reply = ReplyTo(kept.clone()).request(9);
    std::thread::spawn(move || drop(reply)).join().unwrap();
    let answers = kept.0.lock();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][4..8], (-libc::EIO).to_ne_bytes());
}

#[test]
fn a_directory_whose_next_entries_vanish_does_not_end_early() {
    let operations = operations();
    for n in 0..300 {
        let node = razorfs::NewNode::file(0o600);
        operations
            .fs
            .create_node(Ino::ROOT, format!("{n}").as_bytes(), &node)
            .unwrap();
    }
    let read = |after: u64| {
        let mut body = Vec::new();
        body.u64(0);
        body.u64(after);
        body.u32(4096);
        body.zeros(20);
        ask(&operations, opcode::READDIRPLUS, 1, &body).remove(0).1
    };
    let (mut seen, mut after) = (0, 0);
    loop {
        let bytes = read(after);
        let mut rest = &bytes[..];
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            after = u64::from_ne_bytes(rest[136..144].try_into().unwrap());
            let name = u32::from_ne_bytes(rest[144..148].try_into().unwrap());
            rest = &rest[protocol::DirectoryBuffer::entry_len(name as usize, true)..];
            seen += 1;
        }
    }
    assert_eq!(seen, 302);
}

#[test]
fn a_request_that_panics_is_answered_and_the_thread_lives_on() {
    let operations = operations();
    for _ in 0..10 {
        let answers = ask(&operations, opcode::LOOKUP, 1, b"panic\0");
        assert_eq!(answers, [(libc::EIO, Vec::new())]);
    }
    let answers = ask(&operations, opcode::STATFS, 1, b"");
    assert_eq!(answers[0].0, 0);
}

#[test]
fn flags_are_for_the_owner_and_those_that_guard_for_root() {
    let operations = operations();
    let set = |uid: u32, flags: u32| {
        let mut body = Vec::new();
        body.zeros(12);
        body.u32(0x4008_6602);
        body.zeros(8);
        body.u32(4);
        body.u32(0);
        body.u32(flags);
        ask_as(&operations, uid, opcode::IOCTL, 1, &body)[0].0
    };
    let (immutable, compressed) = (0x10, 0x4);
    assert_eq!(set(1000, compressed), libc::EPERM);
    assert_eq!(set(1000, immutable), libc::EPERM);
    let owner = razorfs::SetAttributes {
        uid: Some(1000),
        ..razorfs::SetAttributes::default()
    };
    operations.fs.set_attributes(Ino::ROOT, &owner).unwrap();
    assert_eq!(set(1000, compressed), 0);
    assert_eq!(set(1000, immutable), libc::EPERM);
    assert_eq!(set(0, immutable), 0);
    assert_eq!(set(1000, compressed), libc::EPERM);
}

#[test]
fn whatever_changes_the_content_clears_setuid_but_for_root() {
    let operations = operations();
    let node = razorfs::NewNode::file(0o4755);
    let made = operations.fs.create_node(Ino::ROOT, b"f", &node).unwrap();
    let (mut allocate, mut copy) = (Vec::new(), Vec::new());
    allocate.zeros(16);
    allocate.u64(10);
    allocate.zeros(8);
    copy.zeros(16);
    copy.u64(made.ino.0);
    copy.zeros(32);
    for (opcode, node, body) in [
        (opcode::FALLOCATE, made.ino.0, allocate),
        (opcode::COPY_FILE_RANGE, made.ino.0, copy),
    ] {
        for (uid, expected) in [(0, 0o4755), (1000, 0o755)] {
            let setuid = razorfs::SetAttributes {
                mode: Some(0o4755),
                ..razorfs::SetAttributes::default()
            };
            operations.fs.set_attributes(made.ino, &setuid).unwrap();
            operations.privileges.changed(made.ino);
            ask_as(&operations, uid, opcode, node, &body);
            let mode = operations.fs.stat(made.ino).unwrap().mode & 0o7777;
            assert_eq!(mode, expected, "{} as {uid}", opcode::name(opcode));
        }
    }
}

/// Opens a volume, that goes on from what the memory has.
fn with_redo(path: &std::path::Path, ram: &Arc<razorfs_disk::Ram>) -> razorfs::Volume {
    let redo = razorfs::redo::RedoMemory::new(Arc::clone(ram)).unwrap();
    let options = razorfs::Options {
        threads: false,
        redo: Some(Arc::new(redo)),
        ..razorfs::Options::default()
    };
    razorfs::Volume::open(path, options).unwrap()
}

#[test]
fn a_request_that_was_applied_and_comes_again_is_answered_and_not_applied() {
    use crate::protocol::RESENT;
    let room = tempfile::tempdir().unwrap();
    let ram = Arc::new(razorfs_disk::Ram::new(4 << 20));
    razorfs::Volume::create(room.path(), &razorfs::CreateOptions::default()).unwrap();
    // Each one goes on where the one before was let go of, without being closed.
    let begin = || {
        let volume = with_redo(room.path(), &ram);
        let operations = Operations::new(
            Arc::new(WithSnapshots::new(volume)),
            Limits::default(),
            Validity::default(),
        );
        operations.resume(Agreed {
            minor: 45,
            flags: 0,
        });
        operations
    };
    let mkdir = |operations: &Operations, unique| {
        let mut body = Vec::new();
        body.u32(0o755);
        body.u32(0);
        body.extend_from_slice(b"d\0");
        ask_numbered(operations, unique, 0, opcode::MKDIR, 1, &body).remove(0)
    };
    let rmdir = |operations: &Operations, unique| {
        ask_numbered(operations, unique, 0, opcode::RMDIR, 1, b"d\0")
            .remove(0)
            .0
    };
    let write = |operations: &Operations, unique, node, byte| {
        let mut body = vec![0; 40];
        body[16..20].copy_from_slice(&1u32.to_ne_bytes());
        body.push(byte);
        ask_numbered(operations, unique, 0, opcode::WRITE, node, &body)
            .remove(0)
            .0
    };

    let operations = begin();
    let (error, made) = mkdir(&operations, 100);
    assert_eq!(error, 0);
    drop(operations);
    let operations = begin();
    assert_eq!(mkdir(&operations, 100 | RESENT), (0, made.clone()));
    // Another one, that came to a daemon and was not carried out.
    assert_eq!(mkdir(&operations, 102 | RESENT).0, libc::EEXIST);
    // The number alone says nothing.
    assert_eq!(mkdir(&operations, 100).0, libc::EEXIST);
    assert_eq!(rmdir(&operations, 104 | RESENT), 0);
    drop(operations);
    let operations = begin();
    assert_eq!(rmdir(&operations, 104 | RESENT), 0);
    assert_eq!(rmdir(&operations, 106 | RESENT), libc::ENOENT);

    // What others have written since is not undone.
    let fs = &operations.fs;
    let file = fs.create_node(Ino::ROOT, b"f", &razorfs::NewNode::file(0o644));
    let file = file.unwrap().ino;
    assert_eq!(write(&operations, 108, file.0, 7), 0);
    drop(operations);
    let operations = begin();
    assert_eq!(write(&operations, 110, file.0, 8), 0);
    assert_eq!(write(&operations, 108 | RESENT, file.0, 7), 0);
    let mut found = [0];
    operations.fs.read(file, 0, &mut found).unwrap();
    assert_eq!(found, [8]);

    // A part of it was written, as no file is larger.
    let across = |operations: &Operations, unique| {
        let mut body = (FILE_MAX - 3).to_ne_bytes().to_vec();
        body.splice(0..0, [0; 8]);
        body.resize(40, 0);
        body[16..20].copy_from_slice(&8u32.to_ne_bytes());
        body.extend_from_slice(&[9; 8]);
        let (error, answer) =
            ask_numbered(operations, unique, 0, opcode::WRITE, file.0, &body).remove(0);
        assert_eq!(error, 0);
        u32::from_ne_bytes(answer[..4].try_into().unwrap())
    };
    assert_eq!(across(&operations, 112), 3);
    drop(operations);
    assert_eq!(across(&begin(), 112 | RESENT), 3);
}

/// Truncating, punching, copying, setting attributes and flags again would undo what others, who
/// have seen it done, have done since.
#[test]
fn what_others_have_done_since_a_change_that_comes_again_is_not_undone() {
    use crate::protocol::RESENT;
    let room = tempfile::tempdir().unwrap();
    let ram = Arc::new(razorfs_disk::Ram::new(4 << 20));
    razorfs::Volume::create(room.path(), &razorfs::CreateOptions::default()).unwrap();
    let begin = || {
        let fs = WithSnapshots::new(with_redo(room.path(), &ram));
        let operations = Operations::new(Arc::new(fs), Limits::default(), Validity::default());
        operations.resume(Agreed {
            minor: 45,
            flags: 0,
        });
        operations
    };
    let file = |operations: &Operations, name: &[u8], bytes: &[u8]| {
        let node = razorfs::NewNode::file(0o644);
        let ino = operations.fs.create_node(Ino::ROOT, name, &node);
        let ino = ino.unwrap().ino;
        operations.fs.write(ino, 0, bytes).unwrap();
        ino
    };
    let read = |operations: &Operations, ino| {
        let mut found = vec![0; 4 << 20];
        let n = operations.fs.read(ino, 0, &mut found).unwrap();
        found.truncate(n);
        found
    };
    let words = |words: &[u64]| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.collect::<Vec<u8>>()
    };
    let mut truncate = vec![0; 88];
    truncate[..4].copy_from_slice(&(1u32 << 3).to_ne_bytes());
    let mut chmod = vec![0; 88];
    chmod[..4].copy_from_slice(&1u32.to_ne_bytes());
    chmod[68..72].copy_from_slice(&0o600u32.to_ne_bytes());
    let punch = words(&[
        0,
        0,
        4,
        (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64,
    ]);

    let operations = begin();
    let bytes = [7; 9];
    let [cut, holed, mode, source, target] =
        [b"a", b"b", b"c", b"d", b"e"].map(|name| file(&operations, name, &bytes));
    // More than goes at once, of which the first parts are known as none.
    let many: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    operations.fs.write(source, 0, &many).unwrap();
    let copy = words(&[0, 0, target.0, 0, 0, many.len() as u64, 0]);
    let asked = [
        (100, opcode::SETATTR, cut, &truncate),
        (102, opcode::FALLOCATE, holed, &punch),
        (104, opcode::SETATTR, mode, &chmod),
        (106, opcode::COPY_FILE_RANGE, source, &copy),
    ];
    let ask = |operations: &Operations, resent: u64| {
        let one = |(unique, opcode, ino, body): &(u64, u32, Ino, &Vec<u8>)| {
            ask_numbered(operations, unique | resent, 0, *opcode, ino.0, body).remove(0)
        };
        // Each by a thread of its own, of which the last request is known.
        let all = asked
            .iter()
            .map(|asked| std::thread::scope(|scope| scope.spawn(|| one(asked)).join().unwrap()));
        all.collect::<Vec<_>>()
    };
    let first = ask(&operations, 0);
    assert!(first.iter().all(|(error, _)| *error == 0), "{first:?}");
    assert_eq!(first[3].1[..4], (many.len() as u32).to_ne_bytes());
    assert_eq!(read(&operations, target), many);
    drop(operations);
    let operations = begin();
    let fs = &operations.fs;
    for ino in [cut, holed, target] {
        fs.write(ino, 0, b"since").unwrap();
    }
    let since = razorfs::SetAttributes {
        mode: Some(0o640),
        ..razorfs::SetAttributes::default()
    };
    fs.set_attributes(mode, &since).unwrap();
    let again = ask(&operations, RESENT);
    assert!(again.iter().all(|(error, _)| *error == 0), "{again:?}");
    assert_eq!(again[3], first[3]);
    assert_eq!(read(&operations, cut), b"since");
    assert_eq!(read(&operations, holed), b"since\x07\x07\x07\x07");
    assert_eq!(operations.fs.stat(mode).unwrap().mode & 0o7777, 0o640);
    assert_eq!(read(&operations, target)[..5], *b"since");
    // And the answer is what it is now.
    let size = again[0].1[16 + 8..16 + 16].try_into().unwrap();
    assert_eq!(u64::from_ne_bytes(size), 5);
}

/// Keeps what is sent in its order; an answer waits before it is, until it is let go.
struct Waits {
    kept: Kept,
    answers: Mutex<std::sync::mpsc::Sender<()>>,
    let_go: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl ReplySink for Waits {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let is_notification = parts[0][8..16] == [0; 8];
        if !is_notification {
            self.answers.lock().send(()).unwrap();
            // When nobody is there to let it go, it goes.
            let _ = self.let_go.lock().recv();
        }
        self.kept.send(parts)
    }
}

/// Has a request look at the volume, changes that, and has `tell` tell the kernel while the answer
/// is not sent yet; whether it was sent before the kernel was told anything.
fn is_answered_first(
    operations: &Operations,
    (opcode, node, body): (u32, Ino, &[u8]),
    change: impl FnOnce(),
    tell: impl Fn(&Notifier) + Sync,
) -> bool {
    let (answers, answered) = std::sync::mpsc::channel();
    let (let_go, goes) = std::sync::mpsc::channel();
    let sink = Arc::new(Waits {
        kept: Kept::default(),
        answers: Mutex::new(answers),
        let_go: Mutex::new(goes),
    });
    let mut message = Vec::new();
    message.u32((protocol::IN_HEADER + body.len()) as u32);
    message.u32(opcode);
    message.u64(3);
    message.u64(node.0);
    message.zeros(16);
    message.extend_from_slice(body);
    let notifier = Notifier {
        sink: sink.clone(),
        underway: operations.underway(),
    };
    std::thread::scope(|scope| {
        let reply = ReplyTo(sink.clone());
        scope.spawn(|| drop(operations.handle(&message, reply, &mut Scratch::default())));
        answered.recv().unwrap();
        change();
        let tells = let_go.clone();
        *notifier.underway.waits.lock() = Some(Box::new(move || tells.send(()).unwrap()));
        scope.spawn(|| tell(&notifier)).join().unwrap();
        // If nobody has waited for it.
        drop(let_go);
        notifier.underway.waits.lock().take();
    });
    let sent = sink.kept.0.lock();
    assert!(sent.len() > 1, "the kernel is told something");
    let is_answer = |message: &Vec<u8>| message[8..16] == 3u64.to_ne_bytes();
    sent.iter().position(is_answer) == Some(0)
}

/// The answer came after what it was to be forgotten by, and was kept for an hour.
#[test]
fn what_was_looked_at_before_a_rollback_is_answered_before_the_kernel_forgets() {
    let root = Ino::ROOT;
    let mut read_dir = vec![0; 40];
    read_dir[16..18].copy_from_slice(&4096u16.to_ne_bytes());
    for (opcode, body) in [
        (opcode::LOOKUP, &b"new\0"[..]),
        (opcode::LOOKUP, b"changed\0"),
        (opcode::LOOKUP, b"gone\0"),
        (opcode::GETATTR, &[0; 16]),
        (opcode::READDIRPLUS, &read_dir),
    ] {
        let room = tempfile::tempdir().unwrap();
        let volume =
            razorfs::Volume::open_or_create(room.path().join("v"), razorfs::Options::default());
        let volume = volume.unwrap();
        let file = razorfs::NewNode::file(0o644);
        let changed = volume.create_node(root, b"changed", &file).unwrap().ino;
        volume.create_node(root, b"gone", &file).unwrap();
        volume.snapshot("then").unwrap();
        volume.write(changed, 0, b"more").unwrap();
        volume.unlink(root, b"gone").unwrap();
        volume.create_node(root, b"new", &file).unwrap();
        let fs = Arc::new(WithSnapshots::new(volume.clone()));
        let operations = Operations::new(fs, Limits::default(), Validity::default());
        let safety = Mutex::new(String::new());
        let first = is_answered_first(
            &operations,
            (opcode, root, body),
            || *safety.lock() = volume.rollback("then").unwrap().name,
            |notifier| {
                let before = volume.at_snapshot(safety.lock().as_str()).unwrap();
                forget_stale(&volume, &before, notifier).unwrap();
            },
        );
        assert!(first, "{} {body:?}", opcode::name(opcode));
    }
}

#[test]
fn a_name_without_snapshot_is_answered_before_the_kernel_is_told_of_the_snapshot() {
    let room = tempfile::tempdir().unwrap();
    let volume =
        razorfs::Volume::open_or_create(room.path().join("v"), razorfs::Options::default());
    let volume = volume.unwrap();
    let fs = Arc::new(WithSnapshots::new(volume.clone()));
    let hidden = fs.lookup(Ino::ROOT, crate::HIDDEN.as_bytes()).unwrap().ino;
    let snapshots = fs.lookup(hidden, crate::SNAPSHOTS.as_bytes()).unwrap().ino;
    let operations = Operations::new(fs, Limits::default(), Validity::default());
    let first = is_answered_first(
        &operations,
        (opcode::LOOKUP, snapshots, b"then\0"),
        || drop(volume.snapshot("then").unwrap()),
        |notifier| forget_snapshot("then", notifier),
    );
    assert!(first);
}

/// The kernel counts the requests of each mount from the same number on.
#[test]
fn a_request_of_one_mount_is_not_taken_for_that_of_another_of_the_volume() {
    use crate::protocol::RESENT;
    let room = tempfile::tempdir().unwrap();
    let ram = Arc::new(razorfs_disk::Ram::new(4 << 20));
    razorfs::Volume::create(room.path(), &razorfs::CreateOptions::default()).unwrap();
    let begin = || with_redo(room.path(), &ram);
    let serve = |volume: &razorfs::Volume, origin| {
        let fs = Arc::new(WithSnapshots::new(volume.clone()));
        let operations = Operations::new(fs, Limits::default(), Validity::default());
        let operations = operations.of_mount(origin);
        operations.resume(Agreed {
            minor: 45,
            flags: 0,
        });
        operations
    };
    let unlink = |operations: &Operations, unique| {
        ask_numbered(operations, unique, 0, opcode::UNLINK, 1, b"f\0")[0].0
    };
    let volume = begin();
    let file = razorfs::NewNode::file(0o644);
    volume.create_node(Ino::ROOT, b"f", &file).unwrap();
    volume.snapshot("then").unwrap();
    assert_eq!(unlink(&serve(&volume, 1), 100), 0);
    drop(volume);
    let volume = begin();
    assert_eq!(unlink(&serve(&volume, 1), 100 | RESENT), 0);
    assert_eq!(unlink(&serve(&volume, 2), 100 | RESENT), libc::ENOENT);
    // What a snapshot shows is answered, whatever its number.
    let then = serve(&volume.at_snapshot("then").unwrap(), 1);
    let (error, found) = ask_numbered(&then, 100 | RESENT, 0, opcode::LOOKUP, 1, b"f\0").remove(0);
    assert_eq!((error, found[..8] == [0; 8]), (0, false));
    // Nor does its end mean that nobody is left whose requests are noted.
    then.ended();
    assert_eq!(unlink(&serve(&volume, 1), 100 | RESENT), 0);
}
