//! The parts of segments, and whole ones whose checksums are right and whose words are not.

use razorfs_format::crc::crc32c;
use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::names::{self, NameBuf, NameTable};
use razorfs_format::record::{Codec, Dirent, FileKind};
use razorfs_format::segment::check::check_segment;
use razorfs_format::segment::index::{self, Index, IndexEntry};
use razorfs_format::segment::seal::{BlockKind, Handle, Identity, TRAILER_LEN, seal, unseal};
use razorfs_format::segment::{
    Block, BlockBuilder, FOOTER_LEN, Filter, Footer, HEADER_LEN, Header, Position, ValueBuf,
    filter, filter_hash,
};
use razorfs_format::{Branch, Epoch, Ino, PackId};

use super::{HERE, SEGMENT, Source, VID, fit, put};

const fn id(tag: Tag) -> Identity {
    Identity {
        volume: VID,
        segment: SEGMENT,
        tag,
    }
}

fn tag_of(byte: u8) -> Tag {
    Tag::ALL[usize::from(byte) % Tag::ALL.len()]
}

/// The names of a table read alike one by one and in a row, and read back when encoded anew.
pub fn names(data: &[u8]) {
    let mut from = Source(data);
    let count = usize::from(from.u16()) % 1025;
    let Ok(table) = NameTable::parse(count, from.0, HERE) else {
        return;
    };
    let mut name = NameBuf::default();
    for i in [0, 1, count / 2, count.saturating_sub(1), count, usize::MAX] {
        let _ = table.get(i, &mut name);
    }
    let mut all: Vec<Vec<u8>> = Vec::new();
    if table.for_each(|name| all.push(name.to_vec())).is_err() {
        return;
    }
    assert_eq!(all.len(), count);
    for (i, expected) in all.iter().enumerate() {
        table.get(i, &mut name).unwrap();
        assert_eq!(name.as_bytes(), expected);
    }
    if all.iter().map(Vec::len).sum::<usize>() < 48 * 1024 {
        let mut bytes = Vec::new();
        let sorted: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        names::encode(&sorted, &mut bytes);
        let table = NameTable::parse(count, &bytes, HERE).unwrap();
        let mut at = all.iter();
        let same = |name: &[u8]| assert_eq!(Some(name), at.next().map(Vec::as_slice));
        table.for_each(same).unwrap();
    }
}

type Row = (Key, Epoch, Option<Vec<u8>>);

fn rows(block: &Block<'_>) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let (mut position, mut room) = (Position::default(), ValueBuf::default());
    while let Some(e) = block.next(&mut position, &mut room).ok()? {
        rows.push((e.key, e.epoch, e.value.map(<[u8]>::to_vec)));
        assert!(rows.len() <= block.len() as usize);
    }
    Some(rows)
}

/// Any raw block can be searched; one that is in order reads back when built anew.
fn search(tag: Tag, raw: &[u8]) {
    let Ok(block) = Block::parse(tag, raw, HERE) else {
        return;
    };
    assert!(!block.is_empty());
    let whole = block.check().is_ok();
    let mut room = ValueBuf::default();
    let rows = rows(&block);
    let keys: Vec<Key> = rows.iter().flatten().map(|row| row.0).collect();
    let step = keys.len() / 16 + 1;
    for key in keys.iter().step_by(step) {
        for at in [Epoch(u64::MAX), Epoch(1)] {
            let _ = block.find(key, at, &mut room);
        }
        let _ = block.seek(&key.successor());
    }
    let mut bytes = [0x7f; 32];
    bytes[0] = tag as u8;
    if let Some(key) = Key::from_bytes(&bytes[..tag.key_len()]) {
        let _ = block.find(&key, Epoch(7), &mut room);
    }
    let Some(rows) = rows.filter(|_| whole) else {
        return;
    };
    let pairs = rows.iter().zip(rows.iter().skip(1));
    let ordered = |(a, b): (&Row, &Row)| a.0 < b.0 || (a.0 == b.0 && a.1 > b.1);
    let of_the_table = rows.iter().all(|row| row.0.tag() == tag);
    if !of_the_table || !pairs.into_iter().all(ordered) {
        return;
    }
    let mut builder = BlockBuilder::new(tag);
    for (key, epoch, value) in &rows {
        let fits = builder.push(*key, *epoch, value.as_deref(), HERE).is_ok();
        if !fits || (tag == Tag::Dirent && builder.size() > 48 * 1024) {
            return;
        }
    }
    let again = builder.finish();
    let block = Block::parse(tag, &again, HERE).unwrap();
    block.check().unwrap();
    assert_eq!(self::rows(&block), Some(rows));
}

pub fn block(data: &[u8]) {
    let mut from = Source(data);
    match tag_of(from.u8()) {
        Tag::Dirent => search(Tag::Inode, from.0),
        tag => search(tag, from.0),
    }
}

pub fn dirblock(data: &[u8]) {
    search(Tag::Dirent, data);
}

/// The entries of an index have one encoding.
pub fn index(data: &[u8]) {
    let mut from = Source(data);
    let (tag, top) = (tag_of(from.u8()), from.u8() & 1 == 1);
    let _ = Index::parse(tag, top, from.0, HERE);
    // The head says what is there.
    let len = tag.key_len() + Handle::LEN + 16 + if top { Handle::LEN } else { 0 };
    let mut raw = ((from.0.len() / len) as u32).to_le_bytes().to_vec();
    raw.extend_from_slice(&[tag.key_len() as u8, u8::from(top), 0, 0]);
    raw.extend(from.0.chunks_exact(len).flatten());
    for entry in raw[8..].chunks_exact_mut(len) {
        entry[0] = tag as u8;
    }
    let Ok(index) = Index::parse(tag, top, &raw, HERE) else {
        return;
    };
    let entries: Vec<_> = (0..=index.len()).map(|i| index.get(i)).collect();
    assert_eq!(entries.last(), Some(&Ok(None)));
    let whole: Option<Vec<IndexEntry>> = entries[..index.len()]
        .iter()
        .map(|e| e.clone().ok().flatten())
        .collect();
    for entry in whole.iter().flatten().take(32) {
        assert!(index.seek(&entry.last) <= index.len());
    }
    if let Some(entries) = whole {
        assert_eq!(index::encode(tag, top, &entries), raw);
    }
}

/// No bytes make a filter deny what was put into it.
pub fn filter(data: &[u8]) {
    if let Ok(filter) = Filter::parse(data, HERE) {
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let _ = filter.may_hold(hash);
        }
    }
    let (hashes, _) = data.as_chunks::<8>();
    let hashes: Vec<u64> = hashes.iter().map(|h| u64::from_le_bytes(*h)).collect();
    let raw = filter::encode(&hashes);
    let filter = Filter::parse(&raw, HERE).unwrap();
    assert!(hashes.iter().all(|hash| filter.may_hold(*hash)));
}

pub fn header(data: &[u8]) {
    let _ = Header::decode(data, id(Tag::Inode));
    let mut from = Source(data);
    let id = id(tag_of(from.u8()));
    let mut bytes = fit(from.0, HEADER_LEN);
    put(&mut bytes, 0, b"RZSG\x01\0");
    let codec = bytes[7] % 4;
    put(&mut bytes, 6, &[id.tag as u8, codec]);
    put(&mut bytes, 8, &VID.0.to_le_bytes());
    put(&mut bytes, 16, &SEGMENT.0.to_le_bytes());
    if bytes[7] == 0 {
        put(&mut bytes, 40, &[0; 20]);
    }
    let crc = crc32c(&[VID.0, SEGMENT.0], &bytes[..HEADER_LEN - 4]);
    put(&mut bytes, HEADER_LEN - 4, &crc.to_le_bytes());
    if let Ok(header) = Header::decode(&bytes, id) {
        assert_eq!(header.to_bytes(), bytes);
    }
}

pub fn footer(data: &[u8]) {
    let mut from = Source(data);
    let id = id(tag_of(from.u8()));
    let _ = Footer::decode(from.0, id, from.clone_u32(), 0);
    let mut bytes = fit(from.0, FOOTER_LEN);
    put(&mut bytes, 0, b"RZSF\x01\0");
    put(&mut bytes, 6, &[id.tag as u8, 0]);
    put(&mut bytes, 8, &VID.0.to_le_bytes());
    put(&mut bytes, 16, &SEGMENT.0.to_le_bytes());
    for at in [80, 112] {
        put(&mut bytes, at, &[id.tag as u8]);
        let zeros = [0; 32];
        put(
            &mut bytes,
            at + id.tag.key_len(),
            &zeros[id.tag.key_len()..],
        );
    }
    let crc = crc32c(
        &[VID.0, SEGMENT.0, FOOTER_LEN as u64],
        &bytes[..FOOTER_LEN - 4],
    );
    put(&mut bytes, FOOTER_LEN - 4, &crc.to_le_bytes());
    assert!(Footer::decode(&bytes, id, crc ^ 1, 0).is_err());
    if let Ok(footer) = Footer::decode(&bytes, id, crc, 0) {
        assert_eq!(footer.to_bytes(), (bytes, crc));
    }
}

impl Source<'_> {
    /// The next four bytes, which stay.
    fn clone_u32(&self) -> u32 {
        Source(self.0).u32()
    }
}

const KINDS: [BlockKind; 4] = [
    BlockKind::Data,
    BlockKind::Index,
    BlockKind::Top,
    BlockKind::Filter,
];

pub fn sealed(data: &[u8]) {
    let mut from = Source(data);
    let id = id(tag_of(from.u8()));
    let kind = KINDS[usize::from(from.u8()) % 4];
    let (offset, codec) = (from.u32(), from.u8() % 4);
    let raw_len = u32::from_le_bytes([from.u8(), from.u8(), from.u8() & 0x1f, 0]);
    // Stored bytes that say what they like, under the right checksum.
    let mut bytes = from.0.to_vec();
    bytes.push(codec);
    bytes.extend_from_slice(&raw_len.to_le_bytes());
    let what = u64::from(kind as u8) << 8 | u64::from(id.tag as u8);
    let crc = crc32c(&[VID.0, SEGMENT.0, u64::from(offset), what], &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let len = bytes.len() as u32;
    let handle = Handle { offset, len, crc };
    if let Ok(raw) = unseal(id, kind, handle, &bytes) {
        assert_eq!(raw.len(), raw_len as usize);
        let mut again = Vec::new();
        let codec = Codec::from_byte(codec).unwrap();
        let handle = seal(id, kind, codec, &raw, offset, &mut again);
        assert_eq!(again.len(), handle.len as usize);
        assert!(again.len() <= raw.len() + TRAILER_LEN);
        assert_eq!(unseal(id, kind, handle, &again), Ok(raw));
    }
    let _ = unseal(id, kind, handle, data);
}

/// A segment of a few records; `harm` says how many bytes of it are changed before its checksums
/// are made.
struct Forged {
    bytes: Vec<u8>,
    meta: SegmentMeta,
    rows: Vec<Row>,
    harmed: bool,
}

fn harm(from: &mut Source<'_>, raw: &mut [u8]) -> bool {
    let times = from.u8() % 8;
    if times > 3 || raw.is_empty() {
        return false;
    }
    for _ in 0..=times {
        let at = usize::from(from.u16()) % raw.len();
        raw[at] ^= from.u8().max(1);
    }
    true
}

fn next_row(from: &mut Source<'_>, tag: Tag, n: &mut u64) -> Row {
    let shape = from.u8();
    *n += 1 + u64::from(shape & 3);
    let (head, ino) = (Branch::HEAD, Ino(*n / 8));
    let key = match tag {
        Tag::Dirent => Key::dirent(head, ino, *n << 8),
        Tag::Extent => Key::extent(head, ino, *n),
        Tag::Inode => Key::inode(head, Ino(*n)),
        Tag::Link => Key::link(head, ino, Ino(2), *n),
        Tag::Orphan => Key::orphan(head, Ino(*n)),
        Tag::Shared => Key::shared(PackId(ino.0), *n),
        Tag::Held => Key::held(Epoch(ino.0), PackId(*n), *n * 8),
        Tag::Xattr => Key::xattr(head, ino, *n, shape & 1),
    };
    let value = match (shape >> 4, tag) {
        (0 | 1, _) => None,
        (_, Tag::Dirent) => {
            let dirent = Dirent {
                ino: Ino(u64::from(from.u16())),
                kind: FileKind::Regular,
                name: format!("name-{:x}", u16::from(shape) * 7 % 64)
                    .as_bytes()
                    .into(),
            };
            Some(dirent.to_bytes().into())
        }
        (n, _) => Some(from.slice(usize::from(n)).to_vec()),
    };
    (key, Epoch(u64::from(shape >> 2)), value)
}

fn forge(from: &mut Source<'_>) -> Forged {
    let tag = tag_of(from.u8());
    let (id, codec) = (id(tag), Codec::from_byte(from.u8() % 3).unwrap());
    let (mut out, mut rows, mut harmed) = (vec![0; HEADER_LEN], Vec::new(), false);
    let (mut n, mut blocks, mut hashes) = (0, Vec::new(), Vec::new());
    for _ in 0..=from.u8() % 3 {
        let mut builder = BlockBuilder::new(tag);
        for _ in 0..=from.u8() % 40 {
            let (key, epoch, value) = next_row(from, tag, &mut n);
            builder.push(key, epoch, value.as_deref(), HERE).unwrap();
            hashes.push(filter_hash(&key));
            rows.push((key, epoch, value));
        }
        let mut entry = IndexEntry {
            last: builder.last_key().unwrap(),
            handle: Handle::default(),
            entries: builder.len() as u32,
            tombstones: builder.tombstones(),
            epoch_max: builder.epochs().unwrap().1,
            filter: Handle::default(),
        };
        let mut raw = builder.finish();
        harmed |= harm(from, &mut raw);
        entry.handle = seal(id, BlockKind::Data, codec, &raw, out.len() as u32, &mut out);
        blocks.push(entry);
    }
    let mut put_sealed = |kind, mut raw: Vec<u8>, out: &mut Vec<u8>| {
        harmed |= harm(from, &mut raw);
        seal(id, kind, codec, &raw, out.len() as u32, out)
    };
    let filter = put_sealed(BlockKind::Filter, filter::encode(&hashes), &mut out);
    let part = put_sealed(
        BlockKind::Index,
        index::encode(tag, false, &blocks),
        &mut out,
    );
    let sum = |of: fn(&IndexEntry) -> u32| blocks.iter().map(of).sum::<u32>();
    let epoch_max = blocks.iter().map(|b| b.epoch_max).max().unwrap();
    let whole = IndexEntry {
        last: blocks.last().unwrap().last,
        handle: part,
        entries: sum(|b| b.entries),
        tombstones: sum(|b| b.tombstones),
        epoch_max,
        filter,
    };
    let top = put_sealed(BlockKind::Top, index::encode(tag, true, &[whole]), &mut out);
    let header = Header {
        id,
        codec,
        epoch_min: rows.iter().map(|r| r.1).min().unwrap(),
        epoch_max,
    };
    put(&mut out, 0, &header.to_bytes());
    let footer = Footer {
        id,
        epoch_min: header.epoch_min,
        epoch_max,
        entries: whole.entries.into(),
        tombstones: whole.tombstones.into(),
        bytes: (out.len() + FOOTER_LEN) as u64,
        top,
        blocks: blocks.len() as u32,
        first: rows[0].0,
        last: whole.last,
    };
    let (bytes, footer_crc) = footer.to_bytes();
    out.extend_from_slice(&bytes);
    let meta = SegmentMeta {
        id: SEGMENT,
        tag,
        level: 0,
        first: footer.first,
        last: footer.last,
        epoch_min: footer.epoch_min,
        epoch_max,
        bytes: footer.bytes,
        entries: footer.entries,
        tombstones: footer.tombstones,
        footer_crc,
        run: 1,
    };
    Forged {
        bytes: out,
        meta,
        rows,
        harmed,
    }
}

/// A segment that nobody harmed is sound and has its records; what is harmed under right
/// checksums gets an answer, and what is harmed afterwards is refused.
pub fn whole(data: &[u8]) {
    let mut from = Source(data);
    let mut forged = forge(&mut from);
    let mut seen = Vec::new();
    let result = check_segment(
        &forged.bytes,
        VID,
        &forged.meta,
        &mut |key, epoch, value| {
            seen.push((*key, epoch, value.map(<[u8]>::to_vec)));
        },
    );
    if !forged.harmed {
        assert_eq!(result, Ok(()));
        assert_eq!(seen, forged.rows);
    }
    let at = from.u32() as usize % forged.bytes.len();
    forged.bytes[at] ^= from.u8().max(1);
    assert!(check_segment(&forged.bytes, VID, &forged.meta, &mut |_, _, _| ()).is_err());
    let _ = check_segment(data, VID, &forged.meta, &mut |_, _, _| ());
}
