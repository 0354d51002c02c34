//! The bytes of every struct of a segment, and what decoders make of any others.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::error::Place;
use crate::ids::{Branch, Epoch, Ino, PackId, SegmentId, VolumeId};
use crate::key::{Key, Tag};
use crate::layout::FileName;
use crate::record::{Codec, Dirent, FileKind};

const PLACE: Place = Place::new(FileName::Segment(SegmentId(5)), 64);

fn id(tag: Tag) -> Identity {
    Identity {
        volume: VolumeId(0x1122),
        segment: SegmentId(5),
        tag,
    }
}

/// Hex, spaces and line breaks ignored; `z<n>` stands for n zeros.
fn hex(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        if let Some(n) = word.strip_prefix('z') {
            out.resize(out.len() + n.parse::<usize>().unwrap(), 0);
        } else {
            for pair in word.as_bytes().chunks(2) {
                out.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            }
        }
    }
    out
}

fn inode(n: u64) -> Key {
    Key::inode(Branch::HEAD, Ino(n))
}

fn dirent(ino: u64, name: &str) -> Vec<u8> {
    let kind = FileKind::Regular;
    Dirent {
        ino: Ino(ino),
        kind,
        name: name.as_bytes().into(),
    }
    .to_bytes()
    .into()
}

#[test]
fn header() {
    let header = Header {
        id: id(Tag::Inode),
        codec: Codec::Lz4,
        epoch_min: Epoch(3),
        epoch_max: Epoch(9),
    };
    let bytes = header.to_bytes();
    let golden = "525a5347 0100 49 01 2211 z6 05 z7 03 z7 09 z7 z20 7c2c0249";
    assert_eq!(bytes, hex(golden));
    assert_eq!(Header::decode(&bytes, header.id), Ok(header));
    let other = Identity {
        segment: SegmentId(6),
        ..header.id
    };
    assert!(Header::decode(&bytes, other).is_err());
}

#[test]
fn footer() {
    let footer = Footer {
        id: id(Tag::Inode),
        epoch_min: Epoch(3),
        epoch_max: Epoch(9),
        entries: 7,
        tombstones: 1,
        bytes: 5000,
        top: Handle {
            offset: 0x340,
            len: 0x20,
            crc: 0xaabb_ccdd,
        },
        blocks: 2,
        first: inode(1),
        last: inode(0x102),
    };
    let (bytes, crc) = footer.to_bytes();
    let golden = "525a5346 0100 49 00 2211 z6 05 z7 03 z7 09 z7 07 z7 01 z7 8813 z6
        40030000 20000000 ddccbbaa 02000000 49 z11 01 z19 49 z10 0102 z19 z3948 71d3347b";
    assert_eq!(bytes, hex(golden));
    assert_eq!(bytes.len(), FOOTER_LEN);
    assert_eq!(Footer::decode(&bytes, footer.id, crc, 904), Ok(footer));
    assert!(Footer::decode(&bytes, footer.id, crc ^ 1, 904).is_err());
}

#[test]
fn plain_block() {
    let mut builder = BlockBuilder::new(Tag::Inode);
    builder
        .push(inode(1), Epoch(8), Some(b"ab"), PLACE)
        .unwrap();
    builder.push(inode(1), Epoch(5), None, PLACE).unwrap();
    builder.push(inode(2), Epoch(6), Some(b""), PLACE).unwrap();
    let golden = "03000000 2d000000 05 z7 00 z3
        00 49 z11 01 03 03 6162   0d 00 00   0c 02 01 01   14000000";
    assert_eq!(builder.finish(), hex(golden));
}

#[test]
fn directory_block() {
    let mut builder = BlockBuilder::new(Tag::Dirent);
    let d = |dir, cookie| Key::dirent(Branch::HEAD, Ino(dir), cookie);
    let (one, two) = (dirent(100, "b"), dirent(103, "a"));
    builder
        .push(d(7, 0x0a00), Epoch(4), Some(&one), PLACE)
        .unwrap();
    builder.push(d(7, 0x0b00), Epoch(4), None, PLACE).unwrap();
    builder
        .push(d(9, 0x0c00), Epoch(4), Some(&two), PLACE)
        .unwrap();
    let golden = "0300 0200 0200 02 00 01 z7 04 z7 64 z7
        z4 07 z7 0200   z4 09 z7 0300
        0a z6 0b z6 0c z6   30   0808   01   0000 0161 0162";
    assert_eq!(builder.finish(), hex(golden));
}

#[test]
fn index_and_top_index() {
    let entry = IndexEntry {
        last: inode(0x77),
        handle: Handle {
            offset: 64,
            len: 100,
            crc: 0xdead_beef,
        },
        entries: 12,
        tombstones: 3,
        epoch_max: Epoch(9),
        filter: Handle::default(),
    };
    let bytes = index::encode(Tag::Inode, false, &[entry]);
    let record = "49 z11 77 40000000 64000000 efbeadde 0c000000 03000000 09 z7";
    assert_eq!(bytes, hex(&format!("01000000 0d 00 0000 {record}")));
    let index = Index::parse(Tag::Inode, false, &bytes, PLACE).unwrap();
    assert_eq!(index.get(0), Ok(Some(entry)));
    assert_eq!((index.seek(&inode(0x77)), index.seek(&inode(0x78))), (0, 1));

    let top = IndexEntry {
        filter: Handle {
            offset: 9,
            len: 8,
            crc: 7,
        },
        ..entry
    };
    let bytes = index::encode(Tag::Inode, true, &[top]);
    let golden = format!("01000000 0d 01 0000 {record} 09000000 08000000 07000000");
    assert_eq!(bytes, hex(&golden));
    let index = Index::parse(Tag::Inode, true, &bytes, PLACE).unwrap();
    assert_eq!(index.get(0), Ok(Some(top)));
}

#[test]
fn filter_bytes() {
    let bytes = filter::encode(&[filter_hash(&inode(1))]);
    assert_eq!(
        bytes,
        hex("01000000 z4 0000001000001000000100000000002002000000000002000200000001000000")
    );
}

#[test]
fn sealed_block() {
    let mut out = Vec::new();
    let handle = seal::seal(
        id(Tag::Inode),
        BlockKind::Data,
        Codec::Lz4,
        b"abc",
        64,
        &mut out,
    );
    assert_eq!(out, hex("616263 00 03000000 7ee56982"));
    assert_eq!((handle.offset, handle.len), (64, 12));
}

#[test]
fn filters_deny_about_one_percent_wrongly_and_never_what_is_there() {
    let hashes: Vec<u64> = (0..20_000).map(|n| filter_hash(&inode(n))).collect();
    let bytes = filter::encode(&hashes);
    assert!(bytes.len() <= 20_000 * 10 / 8 + 64);
    let filter = Filter::parse(&bytes, PLACE).unwrap();
    assert!(hashes.iter().all(|h| filter.may_hold(*h)));
    let wrong = (20_000..120_000)
        .filter(|n| filter.may_hold(filter_hash(&inode(*n))))
        .count();
    assert!(wrong < 2000, "{wrong} of 100000");
}

type Version = (Key, u64, Option<Vec<u8>>);

fn any_key(tag: Tag) -> impl Strategy<Value = Key> {
    // Few branches, inodes and numbers, so that keys share prefixes, directories and hashes.
    let near = prop_oneof![3 => 0u64..4, 1 => any::<u64>()];
    let second = prop_oneof![0u64..600, any::<u64>()];
    (0u32..2, near, second, 0u8..3).prop_map(move |(branch, ino, second, seq)| {
        let (branch, ino) = (Branch(branch), Ino(ino));
        match tag {
            Tag::Dirent => Key::dirent(branch, ino, second),
            Tag::Extent => Key::extent(branch, ino, second),
            Tag::Inode => Key::inode(branch, Ino(second)),
            Tag::Link => Key::link(branch, ino, Ino(second), u64::from(seq)),
            Tag::Orphan => Key::orphan(branch, Ino(second)),
            Tag::Shared => Key::shared(PackId(ino.0), second),
            Tag::Held => Key::held(Epoch(ino.0), PackId(second), u64::from(seq)),
            Tag::Xattr => Key::xattr(branch, ino, second, seq),
        }
    })
}

fn any_value(tag: Tag) -> BoxedStrategy<Option<Vec<u8>>> {
    if tag != Tag::Dirent {
        return proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..90))
            .boxed();
    }
    let name = "[a-z0-9._-]{1,20}".prop_filter("a name", |n| n != "." && n != "..");
    let ino = prop_oneof![1u64..5000, any::<u64>()];
    proptest::option::weighted(0.8, (ino, name).prop_map(|(ino, name)| dirent(ino, &name))).boxed()
}

/// Records of one table in the order of a segment.
fn any_records() -> impl Strategy<Value = (Tag, Vec<Version>)> {
    let tag = prop_oneof![
        2 => Just(Tag::Dirent),
        1 => proptest::sample::select(Tag::ALL.to_vec()),
    ];
    tag.prop_flat_map(|tag| {
        let epoch = prop_oneof![Just(5u64), 0u64..40, any::<u64>()];
        let entry = ((any_key(tag), epoch), any_value(tag));
        proptest::collection::vec(entry, 1..200).prop_map(move |entries| {
            let unique: BTreeMap<_, _> = entries
                .into_iter()
                .map(|((k, e), v)| ((k, std::cmp::Reverse(e)), v))
                .collect();
            (
                tag,
                unique.into_iter().map(|((k, e), v)| (k, e.0, v)).collect(),
            )
        })
    })
}

fn build(tag: Tag, records: &[Version]) -> Vec<u8> {
    let mut builder = BlockBuilder::new(tag);
    for (key, epoch, value) in records {
        builder
            .push(*key, Epoch(*epoch), value.as_deref(), PLACE)
            .unwrap();
    }
    builder.finish()
}

/// Reads everything there is to read; must not panic, nor go on for ever.
fn read_all(tag: Tag, bytes: &[u8], probe: &Key) {
    if let Ok(block) = Block::parse(tag, bytes, PLACE) {
        let mut position = Position::default();
        let mut room = ValueBuf::default();
        let mut n = 0;
        while let Ok(Some(_)) = block.next(&mut position, &mut room) {
            n += 1;
            assert!(n <= bytes.len());
        }
        let _ = block.check();
        let _ = block.find(probe, Epoch(9), &mut room);
    }
}

proptest! {
    #[test]
    fn blocks_read_back((tag, records) in any_records()) {
        let bytes = build(tag, &records);
        let block = Block::parse(tag, &bytes, PLACE).unwrap();
        prop_assert_eq!(block.len() as usize, records.len());
        block.check().unwrap();
        let mut position = Position::default();
        let mut room = ValueBuf::default();
        for (key, epoch, value) in &records {
            let entry = block.next(&mut position, &mut room).unwrap().unwrap();
            let expected = Entry { key: *key, epoch: Epoch(*epoch), value: value.as_deref() };
            prop_assert_eq!(entry, expected);
        }
        prop_assert_eq!(block.next(&mut position, &mut room), Ok(None));
    }

    #[test]
    fn searches_agree_with_a_scan((tag, records) in any_records(), others in any::<[u64; 4]>()) {
        let bytes = build(tag, &records);
        let block = Block::parse(tag, &bytes, PLACE).unwrap();
        let mut probes: Vec<(Key, u64)> = records.iter().map(|(k, e, _)| (*k, *e)).collect();
        for n in others {
            probes.extend(probes.first().map(|(k, _)| (Key::from_bytes(
                &k.as_bytes().iter().zip(n.to_be_bytes().iter().cycle())
                    .enumerate().map(|(i, (a, b))| if i < 5 { *a } else { *b })
                    .collect::<Vec<_>>()).unwrap(), n)));
        }
        for (key, at) in probes {
            for at in [at, at.saturating_sub(1), u64::MAX] {
                let found = block.find(&key, Epoch(at), &mut ValueBuf::default())
                    .unwrap().map(|e| (e.epoch.0, e.value.map(<[u8]>::to_vec)));
                let expected = records.iter().find(|(k, e, _)| *k == key && *e <= at)
                    .map(|(_, e, v)| (*e, v.clone()));
                prop_assert_eq!(found, expected);
            }
            let mut position = block.seek(&key).unwrap();
            let next = block.next(&mut position, &mut ValueBuf::default())
                .unwrap().map(|e| (e.key, e.epoch.0));
            let expected = records.iter().find(|(k, ..)| *k >= key).map(|(k, e, _)| (*k, *e));
            prop_assert_eq!(next, expected);
        }
    }

    #[test]
    fn any_bytes_give_an_answer(bytes: Vec<u8>, tag in 0usize..6) {
        let tag = Tag::ALL[tag];
        let probe = Key::inode(Branch::HEAD, Ino(1));
        if tag == Tag::Inode || tag == Tag::Dirent {
            let probe = if tag == Tag::Dirent {
                Key::dirent(Branch::HEAD, Ino(1), 300)
            } else { probe };
            read_all(tag, &bytes, &probe);
        }
        let _ = Header::decode(&bytes, id(tag));
        let _ = Footer::decode(&bytes, id(tag), 0, 0);
        let handle = Handle { offset: 0, len: bytes.len() as u32, crc: 0 };
        let _ = seal::unseal(id(tag), BlockKind::Data, handle, &bytes);
        if let Ok(filter) = Filter::parse(&bytes, PLACE) {
            let _ = filter.may_hold(77);
        }
        for top in [false, true] {
            if let Ok(index) = Index::parse(tag, top, &bytes, PLACE) {
                let _ = (index.seek(&probe), index.get(0), index.get(index.len()));
            }
        }
    }

    /// Damage that a checksum would have caught, as a decoder of its own must survive it.
    #[test]
    fn damaged_blocks_give_an_answer(
        (tag, records) in any_records(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = build(tag, &records);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (key, ..) in records.iter().take(5) {
            read_all(tag, &bytes, key);
        }
    }

    #[test]
    fn sealed_blocks_open_with_their_identity_only(
        raw in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            (any::<u8>(), 0usize..40_000).prop_map(|(b, n)| vec![b; n]),
        ],
        codec in proptest::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd]),
        offset: u32,
        bit: prop::sample::Index,
    ) {
        let id = id(Tag::Extent);
        let mut out = Vec::new();
        let handle = seal::seal(id, BlockKind::Data, codec, &raw, offset, &mut out);
        prop_assert!(out.len() <= raw.len() + seal::TRAILER_LEN);
        let opened = seal::unseal(id, BlockKind::Data, handle, &out).unwrap();
        prop_assert_eq!(&*opened, &raw[..]);

        let elsewhere = Handle { offset: offset ^ 1, ..handle };
        let other = Identity { segment: SegmentId(6), ..id };
        prop_assert!(seal::unseal(id, BlockKind::Data, elsewhere, &out).is_err());
        prop_assert!(seal::unseal(id, BlockKind::Index, handle, &out).is_err());
        prop_assert!(seal::unseal(other, BlockKind::Data, handle, &out).is_err());
        let bit = bit.index(out.len() * 8);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(seal::unseal(id, BlockKind::Data, handle, &out).is_err());
    }
}

/// Names as source trees have them: words and their combinations, a few suffixes.
fn source_tree(n: usize) -> Vec<String> {
    const WORDS: [&str; 24] = [
        "alloc", "block", "cache", "config", "driver", "entry", "file", "graph", "handler",
        "index", "inode", "journal", "kernel", "layout", "manager", "memory", "network", "parser",
        "queue", "request", "segment", "socket", "utils", "worker",
    ];
    const SUFFIXES: [&str; 6] = [".c", ".h", ".rs", "_test.go", ".cpp", ".md"];
    let mut seed = 1u64;
    let mut next = |n: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut names = std::collections::BTreeSet::new();
    while names.len() < n {
        let mut name = WORDS[next(24)].to_string();
        for _ in 0..next(3) {
            name = format!("{name}_{}", WORDS[next(24)]);
        }
        if next(4) == 0 {
            name = format!("{name}{}", next(100));
        }
        names.insert(name + SUFFIXES[next(6)]);
    }
    names.into_iter().collect()
}

/// Bytes that the sealed block takes for each name, beyond what it takes with names of one byte
/// that are all the same.
fn name_cost(names: &[String]) -> f64 {
    let size = |names: &mut dyn Iterator<Item = &str>| {
        let mut builder = BlockBuilder::new(Tag::Dirent);
        let mut cookie = 1u64;
        let mut entries: Vec<(u64, u64, &str)> = names
            .zip(100..)
            .map(|(name, ino)| {
                cookie = cookie
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (cookie >> 9 << 8, ino, name)
            })
            .collect();
        entries.sort_unstable();
        for (cookie, ino, name) in entries {
            let key = Key::dirent(Branch::HEAD, Ino(7), cookie);
            builder
                .push(key, Epoch(1), Some(&dirent(ino, name)), PLACE)
                .unwrap();
        }
        let mut out = Vec::new();
        let raw = builder.finish();
        seal::seal(
            id(Tag::Dirent),
            BlockKind::Data,
            Codec::Lz4,
            &raw,
            64,
            &mut out,
        );
        out.len() as f64
    };
    let bare = size(&mut names.iter().map(|_| "x"));
    (size(&mut names.iter().map(String::as_str)) - bare) / names.len() as f64
}

#[test]
fn the_string_table_halves_the_names_of_source_trees_and_nearly_halves_hex() {
    let check = |names: Vec<String>, least: f64| {
        let plain = names.iter().map(String::len).sum::<usize>() as f64 / names.len() as f64;
        let saved = 100.0 * (1.0 - name_cost(&names) / plain);
        assert!(saved >= least, "{saved:.1} % of {plain:.1} bytes a name");
    };
    check(source_tree(1000), 50.0);
    let digest = |n: u64| {
        let word = |i| crate::crc::crc32c(&[n, i], b"");
        (0..5).map(|i| format!("{:08x}", word(i))).collect()
    };
    check((0..1000).map(digest).collect(), 40.0);
}
