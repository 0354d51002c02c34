//! Streams that somebody forged who can compute checksums: whatever they say, the volume that
//! receives one has what it had, or a tree.

use std::sync::LazyLock;

use razorfs::{FileKind, Incoming, Ino, ReceiveOptions, SendOptions, Step, Time};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::crc::crc32c;
use razorfs_format::stream::{
    Attributes, End, FrameKind, Header, Identity, Item, Link, Named, put_frame, take_batch,
    take_frame,
};
use razorfs_format::wire::Put;

use super::Source;
use crate::common::{self, Rng};

/// A volume that has received a snapshot, and that snapshot.
struct Receiver {
    image: Image,
    base: Named,
    /// Below it all inode numbers of the base are.
    end: u64,
}

static RECEIVER: LazyLock<Receiver> = LazyLock::new(|| {
    let (disk, env) = (SimDisk::new(), SimEnv::new(3));
    common::create(&disk, &env);
    let sender = common::open(&disk, &env);
    common::populate(&sender, &mut Rng(5), 0);
    sender.snapshot("base").expect("a snapshot");
    let what = SendOptions::Snapshot {
        name: "base".into(),
        from: None,
    };
    let mut stream = Vec::new();
    let sent = sender.send(&what, &mut stream, &mut |_| Ok(()));
    sent.expect("what is whole can be sent");
    let (disk, env) = (SimDisk::new(), SimEnv::new(4));
    common::create(&disk, &env);
    let volume = common::open(&disk, &env);
    let incoming = Incoming::new(stream.as_slice()).expect("a stream");
    let received = volume.receive(incoming, ReceiveOptions::default(), &mut |_| Ok(()));
    received.expect("what was sent can be received");
    volume.close().expect("it closes");
    let len = 24 + u32::from_le_bytes(stream[12..16].try_into().expect("four bytes")) as usize + 4;
    let header = Header::decode(&stream[..len]).expect("a header");
    Receiver {
        image: disk.image(),
        base: header.snapshot,
        end: header.end,
    }
});

/// Bytes as they are, as where a stream is to go on, and then as items of a stream that goes on
/// from what the volume has.
pub fn stream(data: &[u8]) {
    decoders(data);
    let receiver = &*RECEIVER;
    let (disk, env) = (SimDisk::from_image(&receiver.image), SimEnv::new(6));
    let volume = common::open(&disk, &env);
    if let Some(token) = token(receiver, &mut Source(data)) {
        let again: razorfs::Token = token.to_string().parse().expect("a token");
        assert_eq!(again, token);
        // It goes on from wherever that is, or it is refused.
        let mut sent = Vec::new();
        if volume
            .send(&SendOptions::Rest(token), &mut sent, &mut |_| Ok(()))
            .is_ok()
        {
            Incoming::new(sent.as_slice()).expect("what is sent is a stream");
        }
    }
    let forged = forged(receiver, &mut Source(data));
    let incoming = Incoming::new(forged.as_slice()).expect("a forged header");
    let received = volume.receive(incoming, ReceiveOptions::default(), &mut |_| {
        volume.step(Step::Commit).map(drop)
    });
    assert_eq!(volume.snapshots().len(), 1 + usize::from(received.is_ok()));
    drop(received);
    if let Ok(Some(token)) = volume.resume_token() {
        let again: razorfs::Token = token.to_string().parse().expect("a token");
        assert_eq!(again, token);
    }
    while volume.step(Step::Reap).expect("the reaper works") {}
    volume.step(Step::Checkpoint).expect("it is written down");
    volume.close().expect("it closes");
    let report = common::check(&common::image_of(&disk), 4);
    let bad: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn decoders(data: &[u8]) {
    let _ = Incoming::new(data);
    let _ = data
        .iter()
        .map(|b| *b as char)
        .collect::<String>()
        .parse::<razorfs::Token>();
    if let Ok(header) = Header::decode(data) {
        assert_eq!(Header::decode(&header.to_bytes()).as_ref(), Ok(&header));
    }
    let _ = take_frame([1, 2], 0, data);
    let _ = End::decode(data);
    if let Ok((_, items)) = take_batch(data) {
        let mut again = vec![0];
        items.iter().for_each(|item| item.encode(&mut again));
        assert_eq!(take_batch(&again).map(|batch| batch.1).as_ref(), Ok(&items));
    }
}

/// A token for the rest of a stream of the snapshot that the volume has, with its checksum.
fn token(receiver: &Receiver, from: &mut Source<'_>) -> Option<razorfs::Token> {
    let mut bytes = Vec::new();
    let has_base = from.u8().is_multiple_of(4);
    bytes.put_u8(has_base.into());
    for _ in 0..=u8::from(has_base) {
        let identity = receiver.base.identity;
        bytes.extend_from_slice(&identity.volume);
        bytes.put_varint(identity.id);
        bytes.put_varint(identity.time);
    }
    bytes.put_varint(from.u16().into());
    bytes.extend_from_slice(&from.array::<16>());
    let mut cursor = vec![from.u8() % 16];
    cursor.put_varint(from.u16().into());
    cursor.put_varint(from.u16().into());
    bytes.put_bytes(match from.u8() % 4 {
        0 => from.slice(40),
        _ => &cursor,
    });
    bytes.put_u32(crc32c(&[], &bytes));
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("rzt1-{}", digits.collect::<String>()).parse().ok()
}

fn forged(receiver: &Receiver, from: &mut Source<'_>) -> Vec<u8> {
    let header = Header {
        sender: receiver.base.identity.volume,
        snapshot: Named {
            identity: Identity {
                volume: receiver.base.identity.volume,
                id: u64::MAX,
                time: 77,
            },
            name: b"forged".as_slice().into(),
        },
        base: Some(receiver.base.clone()),
        end: receiver.end + 4,
        origins: Vec::new(),
        goes_on: None,
    };
    let mut out = header.to_bytes();
    let (seed, mut link) = (header.seed(), header.first_link());
    let mut number = 0;
    while !from.is_empty() {
        let mut payload = vec![];
        payload.put_bytes(b"");
        for _ in 0..=from.u8() % 8 {
            match from.u8() % 16 {
                0 => payload.extend_from_slice(from.slice(5)),
                kind => item(kind, receiver, from).encode(&mut payload),
            }
        }
        link = link.then(&payload);
        put_frame(seed, FrameKind::Batch, number, &payload, &mut out);
        number += 1;
    }
    if from.u8() == 7 {
        link = Link([0; 16]);
    }
    let end = End {
        link,
        frames: number,
    };
    put_frame(seed, FrameKind::End, number, &end.to_bytes(), &mut out);
    out
}

/// One of the inodes that are there, or that may come.
fn ino(receiver: &Receiver, from: &mut Source<'_>) -> Ino {
    let first = Ino::FIRST.0;
    match u64::from(from.u8()) % (receiver.end + 5 - first) {
        0 => Ino::ROOT,
        n => Ino(first + n - 1),
    }
}

fn name(from: &mut Source<'_>) -> Box<[u8]> {
    let known = [
        "dir0", "sub", "link", "moved", "sparse", "file-0-0", "file-0-3", "a", "b", ".razorfs",
    ];
    known[usize::from(from.u8()) % known.len()]
        .as_bytes()
        .into()
}

fn item(kind: u8, receiver: &Receiver, from: &mut Source<'_>) -> Item {
    let ino = ino(receiver, from);
    match kind {
        1..=3 => Item::Inode(attributes(ino, from)),
        4..=6 => Item::Name {
            dir: self::ino(receiver, from),
            name: name(from),
            ino,
        },
        7..=9 => Item::NoName {
            dir: ino,
            name: name(from),
        },
        10 => Item::Xattr {
            ino,
            name: [b"user.".as_slice(), &name(from)].concat().into(),
            value: from.slice(9).into(),
        },
        11 => Item::NoXattr {
            ino,
            name: b"user.note".as_slice().into(),
        },
        12 => Item::Data {
            ino,
            offset: u64::from(from.u16()) % 100_000,
            bytes: vec![from.u8(); 1 + usize::from(from.u8()) * 100],
        },
        13 => Item::Hole {
            ino,
            offset: u64::from(from.u16()) % 100_000,
            len: 1 + u32::from(from.u8()) * 100,
        },
        _ => Item::Gone { ino },
    }
}

fn attributes(ino: Ino, from: &mut Source<'_>) -> Attributes {
    let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink];
    let kind = kinds[usize::from(from.u8()) % 3];
    let time = Time {
        secs: from.u8().into(),
        nanos: 5,
    };
    Attributes {
        ino,
        mode: kind.mode_bits() | u32::from(from.u8()),
        uid: 1,
        gid: 2,
        rdev: 0,
        flags: u32::from(from.u8()) & 1,
        size: match kind {
            FileKind::Regular => u64::from(from.u16()) * 7,
            _ => 0,
        },
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        target: match kind {
            FileKind::Symlink => b"x".as_slice().into(),
            _ => b"".as_slice().into(),
        },
    }
}
