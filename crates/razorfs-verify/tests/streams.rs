//! Streams: what one volume sends another one has, exactly, and a check by the format alone finds
//! nothing in it; what is broken off goes on, and what is damaged changes nothing.

use std::collections::BTreeMap;

use crate::common::{Rng, check, create, image_of, open};
use proptest::prelude::*;
use razorfs::{
    AllocateMode, Error, FileKind, Incoming, Ino, NewNode, ReceiveOptions, Received, RenameMode,
    SeekFor, SendOptions, Sent, SetAttributes, Stat, Step, Time, Volume, XattrMode, inode_flags,
};
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_verify::Severity;

/// Flags that are no property of the file.
const OF_THE_VOLUME: u32 = inode_flags::HAS_XATTR | inode_flags::TRIMMING;

/// All that can be told of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    stat: Stat,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Runs of data; the rest are holes.
    data: Vec<(u64, Vec<u8>)>,
    /// The first of its names.
    first: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Node>;

fn entries(volume: &Volume, dir: Ino) -> Vec<(Vec<u8>, Ino, FileKind)> {
    let mut entries = Vec::new();
    let listed = volume.collect_children(dir, 0, &mut |e| {
        entries.push((e.name.to_vec(), e.ino, e.kind));
        true
    });
    listed.unwrap();
    // Cookies are of the volume.
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn data_of(volume: &Volume, ino: Ino, size: u64) -> Vec<(u64, Vec<u8>)> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Ok(from) = volume.seek(ino, at, SeekFor::Data) {
        let to = volume.seek(ino, from, SeekFor::Hole).unwrap();
        let mut bytes = vec![0; (to - from) as usize];
        assert_eq!(volume.read(ino, from, &mut bytes).unwrap(), bytes.len());
        runs.push((from, bytes));
        at = to;
        if at >= size {
            break;
        }
    }
    runs
}

fn node(volume: &Volume, ino: Ino, first: &[u8]) -> Node {
    let mut stat = volume.stat(ino).unwrap();
    let data = match stat.kind() {
        FileKind::Regular => data_of(volume, ino, stat.size),
        _ => Vec::new(),
    };
    let names = volume.list_xattr(ino).unwrap();
    let xattrs = names.into_iter().map(|name| {
        let value = volume.get_xattr(ino, &name).unwrap();
        (name.to_vec(), value.to_vec())
    });
    let target = match stat.kind() {
        FileKind::Symlink => volume.read_link(ino).unwrap().to_vec(),
        _ => Vec::new(),
    };
    stat.ino = Ino(0);
    stat.flags &= !OF_THE_VOLUME;
    Node {
        stat,
        target,
        xattrs: xattrs.collect(),
        data,
        first: first.to_vec(),
    }
}

fn tree(volume: &Volume) -> Tree {
    let mut found = Tree::new();
    let mut firsts: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
    let mut stack = vec![(Vec::new(), Ino::ROOT, FileKind::Directory)];
    while let Some((path, ino, kind)) = stack.pop() {
        if kind == FileKind::Directory {
            let below = entries(volume, ino).into_iter().rev();
            stack.extend(below.map(|(name, ino, kind)| {
                let path = [path.as_slice(), b"/", &name].concat();
                (path, ino, kind)
            }));
        }
        let first = firsts.entry(ino).or_insert_with(|| path.clone()).clone();
        let node = node(volume, ino, &first);
        assert!(found.insert(path, node).is_none());
    }
    found
}

/// Compares in a way that says where the first difference is.
fn assert_same(a: &Tree, b: &Tree, what: &str) {
    let names = |tree: &Tree| {
        tree.keys()
            .map(|k| k.escape_ascii().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(a), names(b), "{what}: names");
    for (path, node) in a {
        assert_eq!(node, &b[path], "{what}: {}", path.escape_ascii());
    }
}

struct Side {
    disk: SimDisk,
    env: SimEnv,
    volume: Volume,
}

impl Side {
    fn new(seed: u64) -> Self {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let volume = open(&disk, &env);
        Self { disk, env, volume }
    }

    fn receive(&self, stream: &[u8]) -> razorfs::Result<Received> {
        self.receive_with(stream, ReceiveOptions::default())
    }

    fn receive_with(&self, stream: &[u8], options: ReceiveOptions) -> razorfs::Result<Received> {
        let incoming = Incoming::new(stream)?;
        self.volume.receive(incoming, options, &mut |_| Ok(()))
    }

    fn tree_at(&self, snapshot: &str) -> Tree {
        tree(&self.volume.at_snapshot(snapshot).unwrap())
    }

    fn settle(&self) {
        while self.volume.step(Step::Reap).unwrap() {}
        self.volume.step(Step::Checkpoint).unwrap();
        while self.volume.step(Step::Release).unwrap() {}
    }

    /// Closes it, and checks it by the format alone.
    fn check(self, what: &str) {
        self.settle();
        self.volume.close().unwrap();
        let report = check(&image_of(&self.disk), 4);
        // What a crash leaves is no damage.
        let bad = report
            .findings
            .iter()
            .filter(|f| !matches!(f.number, 609 | 614));
        let bad: Vec<_> = bad.map(ToString::to_string).collect();
        assert!(bad.is_empty(), "{what}: {bad:#?}");
    }

    fn reopen(self) -> Self {
        drop(self.volume);
        let volume = open(&self.disk, &self.env);
        Self { volume, ..self }
    }
}

fn named(name: &str, from: Option<&str>) -> SendOptions {
    SendOptions::Snapshot {
        name: name.into(),
        from: from.map(str::to_owned),
    }
}

fn send_with(volume: &Volume, what: &SendOptions) -> (Vec<u8>, Sent) {
    let mut out = Vec::new();
    let sent = volume.send(what, &mut out, &mut |_| Ok(())).unwrap();
    assert_eq!(sent.bytes, out.len() as u64);
    (out, sent)
}

fn send(volume: &Volume, name: &str, from: Option<&str>) -> Vec<u8> {
    send_with(volume, &named(name, from)).0
}

/// One change, by numbers that say which file, which name and so on.
type Op = (u8, u8, u8, u16);

fn ops(n: usize) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(any::<Op>(), 0..n)
}

/// Every inode with one of its names.
fn all(volume: &Volume) -> Vec<(Ino, Vec<u8>, Ino, FileKind)> {
    let (mut found, mut dirs) = (Vec::new(), vec![Ino::ROOT]);
    while let Some(dir) = dirs.pop() {
        for (name, ino, kind) in entries(volume, dir) {
            if kind == FileKind::Directory {
                dirs.push(ino);
            }
            found.push((dir, name, ino, kind));
        }
    }
    found
}

fn a_name(n: u8) -> Vec<u8> {
    match n % 9 {
        7 => vec![b'x'; 255],
        8 => vec![0xff, n, 0xfe, b' '],
        _ => vec![b'a' + n % 26],
    }
}

fn new_node(n: u16) -> NewNode<'static> {
    let file = NewNode::file(0o644);
    match n % 9 {
        0..=3 => file,
        4 | 5 => NewNode::directory(0o755),
        6 => NewNode {
            kind: FileKind::Symlink,
            target: b"some/where/else",
            ..file
        },
        7 => NewNode {
            kind: FileKind::Fifo,
            ..file
        },
        _ => NewNode {
            kind: FileKind::CharDevice,
            rdev: 0x0103,
            ..file
        },
    }
}

/// What fails does nothing: that is fine.
fn apply(volume: &Volume, (op, a, b, n): Op) {
    let all = all(volume);
    let mut dirs = vec![Ino::ROOT];
    dirs.extend(
        all.iter()
            .filter(|f| f.3 == FileKind::Directory)
            .map(|f| f.2),
    );
    let dir = dirs[usize::from(a) % dirs.len()];
    let pick = |n: u8| all.get(usize::from(n) % all.len().max(1)).cloned();
    let offset = u64::from(n) * 13;
    let done = match (op % 20, pick(b)) {
        (0..=4, _) | (_, None) => {
            let made = volume.create_node(dir, &a_name(b), &new_node(n));
            made.map(drop)
        }
        (5..=7, Some((_, _, ino, _))) => {
            let len = [1, 100, 5000, 150_000][usize::from(n) % 4];
            let bytes = Rng(u64::from(n)).bytes(len);
            volume.write(ino, offset, &bytes).map(drop)
        }
        (8, Some((_, _, ino, _))) => {
            let size = [0, 10, offset, 1 << 41][usize::from(a) % 4];
            let set = SetAttributes {
                size: Some(size),
                ..SetAttributes::default()
            };
            volume.set_attributes(ino, &set).map(drop)
        }
        (9, Some((_, _, ino, _))) => {
            let mode = AllocateMode::PunchHole;
            volume.allocate(ino, mode, offset, 1 + u64::from(a) * 1000)
        }
        (10, Some((_, _, ino, _))) => volume.link(ino, dir, &a_name(a)).map(drop),
        (11 | 12, Some((parent, name, _, FileKind::Directory))) => volume.rmdir(parent, &name),
        (11 | 12, Some((parent, name, _, _))) => volume.unlink(parent, &name),
        (13 | 14, Some((parent, name, _, _))) => {
            volume.rename(parent, &name, dir, &a_name(n as u8), RenameMode::Replace)
        }
        (15, Some((parent, name, _, _))) => match pick(a) {
            Some((to, other, _, _)) => {
                volume.rename(parent, &name, to, &other, RenameMode::Exchange)
            }
            None => Ok(()),
        },
        (16, Some((_, _, ino, _))) => {
            let name = [b"user.".as_slice(), &a_name(a)[..1]].concat();
            match n % 3 {
                0 => volume.remove_xattr(ino, &name),
                _ => {
                    let value = Rng(u64::from(n)).bytes(usize::from(n) % 3000);
                    volume.set_xattr(ino, &name, &value, XattrMode::Set)
                }
            }
        }
        (17, Some((_, _, ino, _))) => {
            let time = |secs: i64| Time {
                secs,
                nanos: u32::from(n) * 15_000,
            };
            let set = SetAttributes {
                mode: Some(u32::from(n) & 0o7777),
                uid: Some(u32::from(a)),
                gid: Some(u32::from(b)),
                atime: Some(time(-5)),
                mtime: Some(time(1 << 33)),
                flags: Some(u32::from(a) & inode_flags::ZSTD),
                ..SetAttributes::default()
            };
            volume.set_attributes(ino, &set).map(drop)
        }
        (18, Some((_, _, ino, _))) => match pick(a) {
            Some((_, _, from, _)) => volume.copy_range(from, 0, ino, offset, 200_000).map(drop),
            None => Ok(()),
        },
        (_, Some(_)) => {
            let step = [Step::Commit, Step::Checkpoint, Step::Reap, Step::Compact];
            volume.step(step[usize::from(a) % 4]).map(drop)
        }
    };
    let _ = done;
}

fn changed(side: &Side, ops: &[Op], name: &str) {
    for op in ops {
        side.env.advance(1_000_003);
        apply(&side.volume, *op);
    }
    side.volume.snapshot(name).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// What one has another has, after all of it and after each difference; and what is made of it
    /// there comes back.
    #[test]
    fn what_is_sent_is_what_is_received(first in ops(60), second in ops(60), third in ops(40)) {
        let (a, b) = (Side::new(1), Side::new(2));
        changed(&a, &first, "one");
        b.receive(&send(&a.volume, "one", None)).unwrap();
        assert_same(&a.tree_at("one"), &tree(&b.volume), "all");
        changed(&a, &second, "two");
        b.receive(&send(&a.volume, "two", Some("one"))).unwrap();
        assert_same(&a.tree_at("two"), &tree(&b.volume), "difference");
        assert_same(&a.tree_at("two"), &b.tree_at("two"), "snapshot");
        assert_same(&a.tree_at("one"), &b.tree_at("one"), "older snapshot");
        let time = |side: &Side| side.volume.snapshots().last().unwrap().time;
        prop_assert_eq!(time(&a), time(&b));
        // Both go on; the other way wins.
        changed(&a, &first, "lost");
        changed(&b, &third, "three");
        let back = send(&b.volume, "three", Some("two"));
        let had = tree(&a.volume);
        let refused = a.receive(&back);
        if had != a.tree_at("two") {
            prop_assert!(matches!(refused, Err(Error::Stream(_))));
            let forced = a.receive_with(&back, ReceiveOptions { force: true }).unwrap();
            assert_same(&had, &a.tree_at(&forced.safety.unwrap().name), "safety");
        }
        assert_same(&b.tree_at("three"), &tree(&a.volume), "back");
        // And once more there, from what came back.
        changed(&a, &second, "four");
        b.receive(&send(&a.volume, "four", Some("three"))).unwrap();
        assert_same(&a.tree_at("four"), &tree(&b.volume), "there again");
        a.check("sender");
        b.check("receiver");
    }
}

/// A small world with something of everything.
fn small(seed: u64) -> Side {
    let side = Side::new(seed);
    let mut rng = Rng(seed);
    for op in some_ops(&mut rng, 120) {
        apply(&side.volume, op);
    }
    // Enough for several batches.
    let fs = side.volume.root();
    fs.create_dir_all("many/files").unwrap();
    for n in 0..200 {
        fs.write(format!("many/files/{n}"), format!("{n}")).unwrap();
    }
    drop(fs);
    side
}

fn some_ops(rng: &mut Rng, n: usize) -> Vec<Op> {
    let op = |n: u64| (n as u8, (n >> 8) as u8, (n >> 16) as u8, (n >> 24) as u16);
    (0..n).map(|_| op(rng.next())).collect()
}

/// Enough changes for several batches.
fn change_much(side: &Side, rng: &mut Rng, name: &str) {
    let fs = side.volume.root();
    for n in 0..150 {
        fs.write(format!("many/files/{}", n + 100), b"changed")
            .unwrap();
    }
    drop(fs);
    changed(side, &some_ops(rng, 80), name);
}

/// The ends of the header and of each frame.
fn boundaries(stream: &[u8]) -> Vec<usize> {
    let u32_at = |at: usize| u32::from_le_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
    let mut ends = vec![24 + u32_at(12) + 4];
    while *ends.last().unwrap() < stream.len() {
        let at = ends.last().unwrap();
        ends.push(at + 20 + u32_at(at + 8) + 4);
    }
    ends
}

#[test]
fn a_stream_that_breaks_off_anywhere_goes_on_where_it_was() {
    let a = small(5);
    a.volume.snapshot("one").unwrap();
    let whole = send(&a.volume, "one", None);
    let mut ends = boundaries(&whole);
    assert!(ends.len() > 3, "{} frames", ends.len() - 1);
    // In the middle of frames as well.
    let middles: Vec<_> = ends.windows(2).map(|w| (w[0] + w[1]) / 2).collect();
    ends.extend(middles);
    for cut in ends.into_iter().filter(|cut| *cut < whole.len()) {
        let mut b = Side::new(6);
        let broken = b.receive(&whole[..cut]);
        assert!(matches!(broken, Err(Error::Stream(_))), "{cut}");
        assert_eq!(tree(&b.volume).len(), 1, "nothing is seen of it");
        assert!(b.volume.snapshots().is_empty());
        // Whoever asks may be another process.
        if cut % 2 == 0 {
            b = b.reopen();
        }
        let Some(token) = b.volume.resume_token().unwrap() else {
            assert!(cut < boundaries(&whole)[1]);
            continue;
        };
        let token: razorfs::Token = token.to_string().parse().unwrap();
        let (rest, _) = send_with(&a.volume, &SendOptions::Rest(token));
        assert!(rest.len() < whole.len());
        b.receive(&rest).unwrap();
        assert_same(&a.tree_at("one"), &tree(&b.volume), "the rest");
        assert!(b.volume.resume_token().unwrap().is_none());
        b.check("receiver");
    }
}

#[test]
fn a_difference_that_breaks_off_leaves_the_volume_to_its_user() {
    let (a, b) = (small(7), Side::new(8));
    a.volume.snapshot("one").unwrap();
    b.receive(&send(&a.volume, "one", None)).unwrap();
    change_much(&a, &mut Rng(9), "two");
    let stream = send(&a.volume, "two", Some("one"));
    let ends = boundaries(&stream);
    let before = tree(&b.volume);
    assert!(b.receive(&stream[..ends[2]]).is_err());
    assert_same(&before, &tree(&b.volume), "after the break");
    let token = b.volume.resume_token().unwrap().unwrap();
    let (rest, _) = send_with(&a.volume, &SendOptions::Rest(token));
    // It is his as before.
    let fs = b.volume.root();
    fs.write("mine", b"written meanwhile").unwrap();
    let refused = b.receive(&rest).err().unwrap().to_string();
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(fs.read("mine").unwrap(), b"written meanwhile");
    let forced = b
        .receive_with(&rest, ReceiveOptions { force: true })
        .unwrap();
    assert_same(&a.tree_at("two"), &tree(&b.volume), "the rest");
    let kept = b.volume.at_snapshot(forced.safety.unwrap()).unwrap();
    assert_eq!(kept.root().read("mine").unwrap(), b"written meanwhile");
    drop((fs, kept, forced.before));
    b.check("receiver");
}

#[test]
fn no_bit_of_a_stream_can_be_another() {
    let a = Side::new(11);
    let fs = a.volume.root();
    fs.create_dir("d").unwrap();
    fs.write("d/f", vec![7; 3000]).unwrap();
    fs.hard_link("d/f", "g").unwrap();
    fs.symlink("d/f", "l").unwrap();
    a.volume.snapshot("one").unwrap();
    let b = Side::new(12);
    b.receive(&send(&a.volume, "one", None)).unwrap();
    fs.write("d/f", b"other").unwrap();
    fs.rename("d", "e").unwrap();
    a.volume.snapshot("two").unwrap();
    let stream = send(&a.volume, "two", Some("one"));
    let before = tree(&b.volume);
    for bit in 0..stream.len() * 8 {
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let refused = b.receive(&bad);
        assert!(refused.is_err(), "bit {bit} of {}", stream.len() * 8);
        // All of it once in a while; what else there is to see always.
        if bit % 97 == 0 {
            assert_same(&before, &tree(&b.volume), "a flipped bit");
        }
        assert_eq!(b.volume.snapshots().len(), 1);
        b.volume.step(Step::Release).unwrap();
    }
    b.receive(&stream).unwrap();
    assert_same(&a.tree_at("two"), &tree(&b.volume), "the good one");
    // Parts that are left out, come twice or in another order are no stream either.
    let ends = boundaries(&stream);
    let frame = stream[ends[0]..ends[1]].to_vec();
    let c = Side::new(13);
    c.receive(&send(&a.volume, "one", None)).unwrap();
    for bad in [
        [&stream[..ends[0]], &stream[ends[1]..]].concat(),
        [&stream[..ends[1]], &frame, &stream[ends[1]..]].concat(),
        [&stream[..], b"x"].concat(),
        stream[..stream.len() - 1].to_vec(),
        Vec::new(),
    ] {
        assert!(matches!(c.receive(&bad), Err(Error::Stream(_))));
    }
    assert_eq!(c.volume.snapshots().len(), 1);
    drop(fs);
    b.check("receiver");
}

#[test]
fn a_volume_that_has_not_what_a_stream_goes_on_from_refuses_it() {
    let (a, b) = (small(15), Side::new(16));
    a.volume.snapshot("one").unwrap();
    let whole = send(&a.volume, "one", None);
    a.volume.root().write("more", b"x").unwrap();
    a.volume.snapshot("two").unwrap();
    let difference = send(&a.volume, "two", Some("one"));
    let why = |side: &Side, stream: &[u8]| side.receive(stream).err().unwrap().to_string();
    assert!(why(&b, &difference).contains("has not received"));
    b.volume.root().write("mine", b"x").unwrap();
    assert!(why(&b, &whole).contains("not empty"));
    b.volume.root().remove_file("mine").unwrap();
    b.receive(&whole).unwrap();
    assert!(why(&b, &whole).contains("already"));
    // One of the same name is not the same.
    b.volume.delete_snapshot("one").unwrap();
    b.volume.snapshot("one").unwrap();
    assert!(why(&b, &difference).contains("has not received"));
    // A name that is taken.
    let c = Side::new(17);
    c.receive(&whole).unwrap();
    c.volume.snapshot("two").unwrap();
    assert!(why(&c, &difference).contains("another snapshot"));
    c.volume.delete_snapshot("two").unwrap();
    // Reading is no change.
    let set = SetAttributes {
        atime: Some(Time { secs: 1, nanos: 2 }),
        ctime: Some(c.volume.stat(Ino::ROOT).unwrap().ctime),
        ..SetAttributes::default()
    };
    c.volume.set_attributes(Ino::ROOT, &set).unwrap();
    c.receive(&difference).unwrap();
    c.check("receiver");
}

#[test]
fn nobody_sees_or_changes_anything_while_a_stream_comes_in() {
    let (a, b) = (small(21), Side::new(22));
    a.volume.snapshot("one").unwrap();
    let stream = send(&a.volume, "one", None);
    let incoming = Incoming::new(stream.as_slice()).unwrap();
    assert_eq!((incoming.name().as_str(), incoming.base()), ("one", None));
    let mut seen = 0;
    let watch = &mut |_| {
        seen += 1;
        assert_eq!(tree(&b.volume).len(), 1);
        let fs = b.volume.root();
        assert!(matches!(fs.write("x", b""), Err(Error::ReadOnly(_))));
        assert!(matches!(b.volume.snapshot("x"), Err(Error::ReadOnly(_))));
        assert!(b.volume.snapshots().is_empty());
        for hidden in ["@receiving", "@received-part"] {
            assert!(matches!(b.volume.at_snapshot(hidden), Err(Error::NotFound)));
            let deleted = b.volume.delete_snapshot(hidden);
            assert!(matches!(deleted, Err(Error::NotFound)));
        }
        assert!(!b.volume.step(Step::Reap).unwrap());
        b.volume.step(Step::Checkpoint).unwrap();
        b.volume.step(Step::Compact).unwrap();
        b.volume.step(Step::Release).unwrap();
        Ok(())
    };
    b.volume
        .receive(incoming, ReceiveOptions::default(), watch)
        .unwrap();
    assert!(seen > 2);
    assert_same(&a.tree_at("one"), &tree(&b.volume), "all");
    b.volume.root().write("afterwards", b"").unwrap();
    drop(a);
    b.check("receiver");
}

/// The number of records does not depend on how many files there are beside those that changed.
#[test]
fn a_difference_costs_what_has_changed() {
    let cost = |files: u32| {
        let a = Side::new(31);
        let fs = a.volume.root();
        for n in 0..files {
            if n % 100 == 0 {
                fs.create_dir(format!("d{}", n / 100)).unwrap();
            }
            fs.write(format!("d{}/{n}", n / 100), format!("file {n}"))
                .unwrap();
        }
        a.volume.snapshot("one").unwrap();
        for n in 0..10 {
            fs.write(format!("d{n}/{}", n * 100), b"another").unwrap();
        }
        a.volume.snapshot("two").unwrap();
        send(&a.volume, "two", Some("one")).len()
    };
    let (few, many) = (cost(1000), cost(10_000));
    assert!(few.abs_diff(many) < 100, "{few} and {many} bytes");
    assert!(few < 2000, "{few} bytes");
}

/// Of a large file only what was written is sent.
#[test]
fn a_few_bytes_of_a_large_file_are_a_few_bytes_of_a_stream() {
    let (a, b) = (Side::new(33), Side::new(34));
    let fs = a.volume.root();
    fs.write("large", Rng(1).bytes(1 << 20)).unwrap();
    a.volume.step(Step::Checkpoint).unwrap();
    a.volume.snapshot("one").unwrap();
    b.receive(&send(&a.volume, "one", None)).unwrap();
    let large = a.volume.find_by_path(b"large").unwrap();
    a.volume.write(large, 300_000, &[1; 4096]).unwrap();
    a.volume.snapshot("two").unwrap();
    let stream = send(&a.volume, "two", Some("one"));
    assert!(stream.len() < 8192, "{} bytes", stream.len());
    b.receive(&stream).unwrap();
    assert_same(&a.tree_at("two"), &tree(&b.volume), "difference");
    drop(fs);
    b.check("receiver");
}

/// A power cut at any moment leaves what was before, or all of it; and where it was before the rest
/// of the stream makes it whole.
#[test]
fn a_power_cut_leaves_all_of_a_stream_or_nothing() {
    let a = small(41);
    a.volume.snapshot("one").unwrap();
    let whole = send(&a.volume, "one", None);
    change_much(&a, &mut Rng(43), "two");
    let stream = send(&a.volume, "two", Some("one"));
    let (one, two) = (a.tree_at("one"), a.tree_at("two"));
    let b = Side::new(42);
    b.receive(&whole).unwrap();
    b.settle();
    b.volume.close().unwrap();
    let image = b.disk.image();
    let run = |cut: Option<u64>| {
        let disk = SimDisk::from_image(&image);
        let volume = open(&disk, &b.env);
        let first = disk.op_count();
        if let Some(cut) = cut {
            disk.cut_after(first + cut);
        }
        let incoming = Incoming::new(stream.as_slice()).unwrap();
        let mut batches = 0;
        let mut steps = |_| {
            batches += 1;
            volume
                .step(if batches % 3 == 0 {
                    Step::Checkpoint
                } else {
                    Step::Commit
                })
                .map(drop)
        };
        let received = volume.receive(incoming, ReceiveOptions::default(), &mut steps);
        let done = disk.op_count() - first;
        (disk, volume, received.is_ok(), done)
    };
    let (_, volume, is_ok, calls) = run(None);
    assert!(is_ok && calls > 20, "{calls} calls");
    drop(volume);
    let (mut before, mut after, mut resumed) = (0, 0, 0);
    for cut in 0..=calls {
        let (disk, volume, told, _) = run(Some(cut));
        drop(volume);
        let disk = disk.after_cut(&mut SimRng::new(cut));
        let report = check(&image_of(&disk), 4);
        let bad = report
            .findings
            .iter()
            .filter(|f| f.severity >= Severity::Error);
        let bad: Vec<_> = bad.map(ToString::to_string).collect();
        assert!(bad.is_empty(), "cut {cut}, before it is opened: {bad:#?}");
        let env = SimEnv::new(44 + cut);
        let volume = open(&disk, &env);
        let side = Side { disk, env, volume };
        if side.volume.snapshots().len() == 2 {
            after += 1;
        } else {
            assert!(!told, "cut {cut}: what was told to be there is not");
            before += 1;
            assert_same(&one, &tree(&side.volume), "before");
            assert_eq!(side.volume.snapshots().len(), 1);
            let rest = match side.volume.resume_token().unwrap() {
                Some(token) => {
                    resumed += 1;
                    send_with(&a.volume, &SendOptions::Rest(token)).0
                }
                None => stream.clone(),
            };
            side.receive(&rest).unwrap();
        }
        assert_same(&two, &tree(&side.volume), "after");
        side.check(&format!("cut {cut}"));
    }
    assert!(
        before > 5 && after > 0 && resumed > 3,
        "{before} {after} {resumed}"
    );
}
