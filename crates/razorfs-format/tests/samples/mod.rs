//! Valid inputs for the bodies, and how they are changed.
#![allow(dead_code, reason = "each user takes a part of it")]

use razorfs_format::key::{Key, Tag};
use std::sync::Arc;

use razorfs_format::manifest::{Counters, ForkMeta, Manifest, PackMeta, SegmentMeta, SnapshotMeta};
use razorfs_format::names;
use razorfs_format::op::{Counter, Mutation, OpType, encode_op};
use razorfs_format::pack::{TrailerEntry, encode_trailer};
use razorfs_format::record::{
    Codec, Dirent, Extent, FileKind, Fragment, FragmentKind, Held, Inode, Origin, Orphan, PackRef,
    Shared, Time, Xattr,
};
use razorfs_format::scrub::{Found, Record};
use razorfs_format::segment::BlockBuilder;
use razorfs_format::superblock::names::FeatureNames;
use razorfs_format::superblock::{
    Features, Geometry, JournalStart, ManifestRef, State, Superblock,
};
use razorfs_format::timeline::Timeline;
use razorfs_format::{
    BatchSeq, Branch, Epoch, Generation, Ino, Jid, Lsn, ManifestId, PackId, SegmentId,
};

use crate::bodies::{self, HERE, PACK, VID};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    /// The randomness of input `seed` of a body.
    pub fn of(name: &str, seed: u64) -> Self {
        let start = name
            .bytes()
            .fold(0, |h: u64, b| h.wrapping_mul(31) + u64::from(b));
        Self(start ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub const fn below(&mut self, n: usize) -> usize {
        (self.next() % if n == 0 { 1 } else { n as u64 }) as usize
    }
}

/// Numbers at which arithmetic breaks.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// One input: every fourth is random bytes, the others a sample with some changes.
pub fn input(valid: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if valid.is_empty() || rng.below(4) == 0 {
        let len = [16, 64, 600, 5000][rng.below(4)];
        let few = rng.below(3) == 0;
        let byte = |rng: &mut Rng| {
            if few {
                rng.next() as u8 & 3
            } else {
                rng.next() as u8
            }
        };
        return (0..rng.below(len)).map(|_| byte(rng)).collect();
    }
    let mut bytes = valid[rng.below(valid.len())].clone();
    for _ in 0..rng.below(5) {
        change(&mut bytes, &valid[rng.below(valid.len())], rng);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.below(bytes.len());
    match rng.below(8) {
        0 => bytes.truncate(at),
        1 => {
            let tail = bytes.split_off(at);
            bytes.extend((0..rng.below(20)).map(|_| rng.next() as u8));
            bytes.extend(tail);
        }
        2 => {
            let (from, n) = (rng.below(other.len()), rng.below(40));
            let part: Vec<u8> = other.iter().skip(from).take(n).copied().collect();
            let end = (at + part.len()).min(bytes.len());
            bytes.splice(at..end, part);
        }
        3 | 4 => {
            let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][rng.below(4)];
            for (to, from) in bytes.iter_mut().skip(at).zip(edge.into_iter().take(width)) {
                *to = from;
            }
        }
        5 => {
            let end = (at + rng.below(9)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
    }
}

/// Valid inputs of the body `name`; none for those that make something valid of any bytes.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "inode" => vec![
            inode(FileKind::Regular, b""),
            inode(FileKind::Symlink, b"a/b"),
        ],
        "dirent" => vec![dirent(b"x"), dirent(&[b'n'; 255])],
        "extent" => vec![extent().to_bytes().into(), Vec::new()],
        "orphan" => [Orphan::Reap, Orphan::Trim { from: 1 << 40 }]
            .map(|o| o.to_bytes().into())
            .into(),
        "shared" => [(1, 56), (1 << 40, 131_128)]
            .map(|(count, bytes)| Shared { count, bytes }.to_bytes().into())
            .into(),
        "held" => [(1, 56), (1 << 40, 131_128)]
            .map(|(birth, bytes)| {
                let birth = Epoch(birth);
                Held { birth, bytes }.to_bytes().into()
            })
            .into(),
        "xattr" => vec![xattr()],
        "ops" => vec![ops()],
        "key" => vec![keys()],
        "superblock" => vec![superblock().encode(1)],
        "manifest" => vec![manifest(Timeline::default(), 0), manifest(timeline(), 2)],
        "names" => vec![name_table()],
        "block" => vec![plain(Tag::Inode), plain(Tag::Xattr), plain(Tag::Extent)],
        "dirblock" => vec![dirblock()],
        "pack_trailer" => vec![trailer()],
        "scrub" => vec![scrub()],
        "segment" | "scan_frames" | "frame" | "batch" => long(),
        _ => Vec::new(),
    }
}

/// What fuzzing a room begins with: some inputs of each body behind the byte that chooses it.
pub fn seeds(room: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (choice, (name, _)) in (0..).zip(bodies::of(room)) {
        let mut inputs = of(name);
        let mut rng = Rng::of(name, 0);
        inputs.extend((0..2).map(|_| input(&[], &mut rng)));
        all.extend(inputs.iter().map(|input| [&[choice], &input[..]].concat()));
    }
    all
}

/// Inputs that bodies which build something take their choices from.
fn long() -> Vec<Vec<u8>> {
    let mut rng = Rng(77);
    let mut make = |mask: u8| (0..1500).map(|_| rng.next() as u8 & mask).collect();
    vec![
        make(0xff),
        make(0x7f),
        make(0x1f),
        vec![0xff; 900],
        vec![4; 700],
    ]
}

fn inode(kind: FileKind, target: &[u8]) -> Vec<u8> {
    let at = |secs| Time {
        secs,
        nanos: 999_999_999,
    };
    let inode = Inode {
        mode: kind.mode_bits() | 0o644,
        nlink: 2,
        uid: 1000,
        gid: u32::MAX,
        rdev: 0,
        flags: 8,
        size: 1 << 40,
        blocks: 0,
        atime: at(-5),
        mtime: at(1 << 33),
        ctime: at(0),
        btime: at(i64::MIN),
        parent: Ino(300),
        cookie: 77 << 8,
        entries: 0,
        target: target.into(),
    };
    inode.to_bytes().into()
}

fn dirent(name: &[u8]) -> Vec<u8> {
    let dirent = Dirent {
        ino: Ino(1 << 33),
        kind: FileKind::Directory,
        name: name.into(),
    };
    dirent.to_bytes().into()
}

fn pack_ref(codec: Codec, raw_len: u32, origin: Option<Origin>) -> PackRef {
    PackRef {
        pack: PACK,
        pos: 8192,
        stored_len: if codec == Codec::None { raw_len } else { 50 },
        raw_len,
        skip: 0,
        codec,
        birth: Epoch(9),
        origin,
        crcs: vec![7; PackRef::crc_count(codec, raw_len)].into(),
    }
}

fn fragment(off: u32, len: u32, kind: FragmentKind) -> Fragment {
    Fragment { off, len, kind }
}

fn extent() -> Extent {
    let origin = Origin {
        branch: Branch::HEAD,
        ino: Ino(70),
        block: 3,
        offset: 64,
    };
    let lz4 = pack_ref(Codec::Lz4, 5000, Some(origin));
    let raw = pack_ref(Codec::None, 40_000, None);
    Extent {
        fragments: vec![
            fragment(0, 3, FragmentKind::Inline(b"abc".as_slice().into())),
            fragment(10, 100, FragmentKind::Reserved),
            fragment(4096, 4000, FragmentKind::Pack(lz4)),
            fragment(60_000, 40_000, FragmentKind::Pack(raw)),
        ],
    }
}

fn xattr() -> Vec<u8> {
    let xattr = Xattr {
        name: b"user.note".as_slice().into(),
        value: vec![5; 300].into(),
    };
    xattr.to_bytes().into()
}

fn ops() -> Vec<u8> {
    let key = Key::inode(Branch::HEAD, Ino(16));
    let put = |new| Mutation::Put {
        key,
        value: inode(FileKind::Regular, b"").into(),
        new,
    };
    let patch = extent()
        .fragments
        .into_iter()
        .map(|fragment| Mutation::Patch {
            key: Key::extent(Branch::HEAD, Ino(16), 2),
            fragment,
        });
    let mut all = vec![put(true), put(false), Mutation::Del { key }];
    all.extend(patch);
    all.push(Mutation::Count {
        branch: Branch::HEAD,
        counter: Counter::Bytes,
        delta: i64::MIN,
    });
    all.push(Mutation::Who {
        uid: 1,
        gid: 2,
        pid: u32::MAX,
    });
    let mut out = Vec::new();
    for ty in [OpType::Create, OpType::Write] {
        let mut inner = Vec::new();
        all.iter().for_each(|m| m.encode(&mut inner));
        encode_op(ty, &inner, &mut out);
    }
    let mut inner = Vec::new();
    of_branches().iter().for_each(|m| m.encode(&mut inner));
    encode_op(OpType::Snapshot, &inner, &mut out);
    encode_op(OpType::Note, &[], &mut out);
    out
}

fn snapshot(id: u64, epoch: u64, name: &[u8]) -> SnapshotMeta {
    SnapshotMeta {
        id,
        branch: Branch(id as u32 % 2),
        epoch: Epoch(epoch),
        gone: name.is_empty(),
        time: 1 << 60,
        inodes: 300,
        bytes: 1 << 70,
        name: name.into(),
    }
}

fn fork(id: u32, epoch: u64) -> ForkMeta {
    ForkMeta {
        id: Branch(id),
        parent: Branch::HEAD,
        epoch: Epoch(epoch),
        time: 1 << 60,
        inodes: 200,
        bytes: 70_000,
        name: b"work".as_slice().into(),
    }
}

/// What only branches and snapshots have.
fn of_branches() -> Vec<Mutation> {
    let begin = |branch, epoch| Mutation::Begin {
        branch: Branch(branch),
        epoch: Epoch(epoch),
    };
    let back = |branch| Mutation::Back {
        branch: Branch(branch),
        id: 5,
        end: Epoch(300),
    };
    vec![
        begin(1, 200),
        Mutation::Count {
            branch: Branch(1),
            counter: Counter::Inodes,
            delta: -3,
        },
        begin(0, 301),
        Mutation::Take(snapshot(5, 200, b"taken")),
        Mutation::Fork(fork(2, 200)),
        back(0),
        back(2),
        Mutation::Drop { id: 5 },
        Mutation::Prune {
            branch: Branch(u32::MAX),
        },
    ]
}

/// Two lines, and a branch that has written.
fn timeline() -> Timeline {
    let mut timeline = Timeline::default();
    timeline.add(snapshot(1, 3, b"first"));
    timeline.add(snapshot(2, 5, b""));
    assert!(timeline.roll_back(Branch::HEAD, Epoch(3), Epoch(5)));
    assert!(timeline.fork(fork(1, 5)));
    assert!(timeline.begin(Branch(1), Epoch(8)));
    let mut idle = fork(4, 3);
    idle.name = b"idle".as_slice().into();
    assert!(timeline.fork(idle));
    timeline
}

fn keys() -> Vec<u8> {
    [
        Key::dirent(Branch(1), Ino(2), 3 << 8),
        Key::link(Branch(u32::MAX), Ino(4), Ino(5), 6),
        Key::xattr(Branch(0), Ino(u64::MAX), u64::MAX, 255),
    ]
    .iter()
    .flat_map(|k| k.as_bytes().to_vec())
    .collect()
}

fn superblock() -> Superblock {
    Superblock {
        uuid: [3; 16],
        generation: Generation(7),
        features: Features::default(),
        manifest: ManifestRef {
            id: ManifestId(4),
            len: 300,
            crc: 5,
        },
        journal: JournalStart {
            jid: Jid(3),
            batch: BatchSeq(99),
        },
        cut: Lsn(120),
        state: State::Clean,
        flags: 0,
        end: BatchSeq(100),
        nonce: 1,
        hash_key: [9; 16],
        geometry: Geometry::default(),
        names: FeatureNames::default(),
    }
}

/// In the form that the body takes: a shape, the generation, and the sections behind their lengths.
fn manifest(timeline: Timeline, shape: u8) -> Vec<u8> {
    let key = |n| Key::inode(Branch::HEAD, Ino(n));
    let manifest = Manifest {
        id: ManifestId(9),
        generation: Generation(4),
        segments: vec![SegmentMeta {
            id: SegmentId(5),
            tag: Tag::Inode,
            level: 1,
            first: key(1),
            last: key(900),
            epoch_min: Epoch(1),
            epoch_max: Epoch(8),
            bytes: 9000,
            entries: 800,
            tombstones: 10,
            footer_crc: 6,
            run: 0,
        }],
        packs: vec![PackMeta {
            id: PackId(6),
            sealed: true,
            len: 70_000,
            total: 65_904,
            live: 1000,
            last_birth: Epoch(7),
        }],
        counters: Counters::default(),
        timeline: Arc::new(timeline),
        ..Manifest::default()
    };
    let bytes = manifest.to_bytes(VID);
    let mut out = vec![shape];
    out.extend_from_slice(&bytes[24..32]);
    let mut rest = &bytes[48..];
    for kind in 1..=5 + u32::from(shape) {
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if kind != 3 {
            out.push(len as u8);
        }
        out.extend_from_slice(&rest[8..8 + len]);
        rest = &rest[12 + len..];
    }
    out
}

fn words() -> Vec<String> {
    let mut words: Vec<String> = (0..60).map(|i| format!("file-{i:04}.rs")).collect();
    words.extend((0..20u64).map(|i| format!("{:016x}.o", i.wrapping_mul(0x1234_5678_9abc_def1))));
    words.push("x".repeat(255));
    words.sort();
    words
}

fn name_table() -> Vec<u8> {
    let words = words();
    let sorted: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    let mut out = (sorted.len() as u16).to_le_bytes().to_vec();
    names::encode(&sorted, &mut out);
    out
}

fn plain(tag: Tag) -> Vec<u8> {
    let mut builder = BlockBuilder::new(tag);
    for i in 0..50u64 {
        let key = match tag {
            Tag::Xattr => Key::xattr(Branch::HEAD, Ino(20), i, 0),
            Tag::Extent => Key::extent(Branch::HEAD, Ino(20), i),
            _ => Key::inode(Branch::HEAD, Ino(i * 3)),
        };
        for epoch in (0..=i % 3).rev() {
            let value = vec![i as u8; i as usize];
            let value = (i % 7 != 0).then_some(&value[..]);
            builder.push(key, Epoch(epoch + 5), value, HERE).unwrap();
        }
    }
    let place = Tag::ALL.iter().position(|t| *t == tag).unwrap();
    let mut out = vec![place as u8];
    out.extend(builder.finish());
    out
}

fn dirblock() -> Vec<u8> {
    let mut builder = BlockBuilder::new(Tag::Dirent);
    for (i, word) in (0..).zip(words()) {
        let key = Key::dirent(Branch::HEAD, Ino(1 + i / 30), ((i + 1) << 8) | (i % 2));
        let value = dirent(word.as_bytes());
        let value = (i % 9 != 0).then_some(&value[..]);
        builder.push(key, Epoch(i % 4), value, HERE).unwrap();
    }
    builder.finish()
}

/// As the body takes it: without its checksum.
fn scrub() -> Vec<u8> {
    let found = |number| Found {
        number,
        object: "inode 17".into(),
        detail: "expected 1, got 2".into(),
    };
    let record = Record {
        done: 1 << 33,
        findings: vec![found(605), found(402)],
        ..Record::default()
    };
    let mut bytes = record.encode(VID);
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// In the form that the body takes: end, count, last birth, trailer.
fn trailer() -> Vec<u8> {
    let mut entries = Vec::new();
    let mut pos = 4096;
    for i in 0..20u32 {
        let entry = TrailerEntry {
            pos,
            stored_len: i * 900,
            branch: Branch::HEAD,
            ino: Ino(u64::from(i ^ 5)),
            block: i.into(),
        };
        pos = entry.end() + u64::from(i % 2) * 64;
        entries.push(entry);
    }
    let bytes = encode_trailer(VID, PACK, pos, Epoch(3), &entries);
    let mut out = (((pos - 4096) / 8) as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    out.extend_from_slice(&3u64.to_le_bytes());
    out.extend_from_slice(&bytes[..bytes.len() - 64]);
    out
}
