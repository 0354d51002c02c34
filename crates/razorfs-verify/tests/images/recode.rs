//! Everything in an image, decoded and encoded again, is what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::ControlFlow;

use razorfs_disk::Dir;
use razorfs_disk::sim::Image;
use razorfs_format::journal::{
    BatchHeader, FileHeader, SECTOR, SECTOR_HEAD, Sector, UNIT, encode_batch, extent_bytes,
    read_linked,
};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::op::{Mutation, decode_ops, encode_op};
use razorfs_format::pack::{
    Depth, Footer as PackFooter, HEADER_LEN, Scanned, decode_trailer, encode_header,
    encode_trailer, scan_frames,
};
use razorfs_format::parity::{Object, Shape};
use razorfs_format::record::{Dirent, Extent, FragmentKind, Held, Inode, Orphan, Shared, Xattr};
use razorfs_format::scrub::Record;
use razorfs_format::segment::check::check_segment;
use razorfs_format::segment::seal::unseal;
use razorfs_format::segment::{
    Block, BlockBuilder, BlockKind, FOOTER_LEN, Footer, HEADER_LEN as SEGMENT_HEADER, Header,
    Identity, Index, Position, ValueBuf, index,
};
use razorfs_format::superblock::{SLOT, Superblock};
use razorfs_format::{Branch, FormatError, PackId, Place, VolumeId};

use crate::common::forge::{name_of, superblocks};

/// What was met in all images together.
#[derive(Default)]
pub struct Seen(BTreeMap<String, u64>);

impl Seen {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// The images hold every kind of thing there is.
    pub fn assert_complete(&self) {
        let mut wanted: BTreeSet<String> =
            ["superblock", "manifest", "journal file", "batch", "link"]
                .into_iter()
                .chain(["frame", "pack trailer", "block of D"])
                .chain(["parity of a pack", "parity of a segment", "scrub"])
                .chain([
                    "inline", "packed", "shared", "PUT", "NEW", "DEL", "PATCH", "CTR", "TAKE",
                    "DROP", "BACK", "CTR OF", "BACK OF", "FORK", "PRUNE", "EPOCH", "WHO",
                ])
                .map(String::from)
                .collect();
        for tag in Tag::ALL {
            wanted.insert(format!("{tag:?} in a segment"));
        }
        let seen: BTreeSet<String> = self.0.keys().cloned().collect();
        let missing: Vec<_> = wanted.difference(&seen).collect();
        assert!(
            missing.is_empty(),
            "no image has {missing:?}; they have {:?}",
            self.0
        );
    }
}

/// Checks one image. What is damaged is passed over: the listing tells of it.
pub fn check(name: &str, image: &Image, seen: &mut Seen) {
    let supers = superblocks(image);
    let Some(vid) = supers.first().map(Superblock::vid) else {
        panic!("{name} has no superblock");
    };
    let bytes = image.bytes(&name_of(FileName::Super)).unwrap();
    for (slot, raw) in bytes.chunks(SLOT).enumerate() {
        if let Ok(superblock) = Superblock::decode(slot, raw) {
            assert_eq!(superblock.encode(slot), raw, "{name}: superblock");
            seen.count("superblock");
        }
    }
    for superblock in &supers {
        let file = FileName::Manifest(superblock.manifest.id);
        let raw = image.bytes(&name_of(file)).unwrap_or_default();
        if let Ok(manifest) = Manifest::decode(&raw, vid, superblock.manifest.id) {
            assert_eq!(manifest.to_bytes(vid), raw, "{name}: {file}");
            seen.count("manifest");
            for meta in &manifest.segments {
                let raw = image.bytes(&name_of(FileName::Segment(meta.id))).unwrap();
                if check_segment(&raw, vid, meta, &mut |_, _, _| ()).is_ok() {
                    let id = Identity {
                        volume: vid,
                        segment: meta.id,
                        tag: meta.tag,
                    };
                    segment(id, &raw, meta.footer_crc, seen).unwrap();
                }
            }
        }
    }
    for (file, _) in image.files() {
        let raw = image.bytes(file).unwrap();
        match (file.dir, FileName::parse(file.dir.path(), &file.leaf)) {
            (Dir::Journal, Some(at)) => journal(vid, at, &raw, seen),
            (Dir::Pack, Some(FileName::Pack(id))) => pack(vid, id, &raw, seen),
            (_, Some(FileName::PackParity(id))) => parity(vid, Object::Pack(id), image, seen),
            (_, Some(FileName::SegmentParity(id))) => parity(vid, Object::Segment(id), image, seen),
            (Dir::Root, Some(FileName::Scrub)) => {
                let record = Record::decode(&raw, vid).unwrap();
                assert_eq!(record.encode(vid), raw, "{name}: {file}");
                seen.count("scrub");
            }
            _ => {}
        }
    }
}

/// The parity of an object is made of it again.
fn parity(vid: VolumeId, object: Object, image: &Image, seen: &mut Seen) {
    let raw = image.bytes(&name_of(object.parity())).unwrap();
    let of = image.bytes(&name_of(object.file())).unwrap();
    let shape = Shape::decode(&raw, vid, object, raw.len() as u64).unwrap();
    assert_eq!(shape.encode(), raw[..shape.group(0).record as usize]);
    for index in 0..shape.groups() {
        let group = shape.group(index);
        let mut data = of[group.range().start as usize..group.range().end as usize].to_vec();
        data.resize(group.padded(), 0);
        let record = &raw[group.record as usize..][..group.record_len()];
        assert_eq!(group.encode(&data).unwrap(), record);
        seen.count(if matches!(object, Object::Pack(_)) {
            "parity of a pack"
        } else {
            "parity of a segment"
        });
    }
}

fn segment(id: Identity, raw: &[u8], crc: u32, seen: &mut Seen) -> Result<(), FormatError> {
    let header = Header::decode(raw, id)?;
    assert_eq!(header.to_bytes(), raw[..SEGMENT_HEADER]);
    let at = raw.len() - FOOTER_LEN;
    let footer = Footer::decode(&raw[at..], id, crc, at as u64)?;
    assert_eq!(footer.to_bytes(), (raw[at..].to_vec(), crc));
    let open = |kind, handle: razorfs_format::segment::Handle| {
        let start = handle.offset as usize;
        unseal(id, kind, handle, &raw[start..start + handle.len as usize])
    };
    let entries = |index: &Index<'_>| (0..index.len()).map_while(|i| index.get(i).ok()?).collect();
    let top_raw = open(BlockKind::Top, footer.top)?;
    let top: Vec<_> = entries(&Index::parse(id.tag, true, &top_raw, id.place(0))?);
    assert_eq!(index::encode(id.tag, true, &top), top_raw[..]);
    for part in top {
        let part_raw = open(BlockKind::Index, part.handle)?;
        let blocks: Vec<_> = entries(&Index::parse(id.tag, false, &part_raw, id.place(0))?);
        assert_eq!(index::encode(id.tag, false, &blocks), part_raw[..]);
        for entry in blocks {
            let block_raw = open(BlockKind::Data, entry.handle)?;
            block(id, &block_raw, seen)?;
        }
    }
    Ok(())
}

fn block(id: Identity, raw: &[u8], seen: &mut Seen) -> Result<(), FormatError> {
    let block = Block::parse(id.tag, raw, id.place(0))?;
    let mut builder = BlockBuilder::new(id.tag);
    let (mut position, mut room) = (Position::default(), ValueBuf::default());
    while let Some(entry) = block.next(&mut position, &mut room)? {
        builder.push(entry.key, entry.epoch, entry.value, id.place(0))?;
        if let Some(value) = entry.value {
            record(&entry.key, value, seen)?;
            seen.count(format!("{:?} in a segment", id.tag));
        }
    }
    assert_eq!(builder.finish(), raw);
    seen.count(format!("block of {}", id.tag as u8 as char));
    Ok(())
}

/// The value of a record encodes as it was.
fn record(key: &Key, value: &[u8], seen: &mut Seen) -> Result<(), FormatError> {
    let place = Place::new(FileName::Super, 0);
    let again: Box<[u8]> = match key.tag() {
        Tag::Dirent => Dirent::decode(value, place)?.to_bytes(),
        Tag::Inode => Inode::decode(value, place)?.to_bytes(),
        Tag::Orphan => Orphan::decode(value, place)?.to_bytes(),
        Tag::Shared => Shared::decode(value, place)?.to_bytes(),
        Tag::Held => Held::decode(value, place)?.to_bytes(),
        Tag::Xattr => Xattr::decode(value, place)?.to_bytes(),
        Tag::Link => Box::default(),
        Tag::Extent => {
            let extent = Extent::decode(value, place)?;
            for fragment in &extent.fragments {
                seen.count(match &fragment.kind {
                    FragmentKind::Hole => "hole",
                    FragmentKind::Reserved => "reserved",
                    FragmentKind::Inline(_) => "inline",
                    FragmentKind::Pack(r) if r.origin.is_some() => "shared",
                    FragmentKind::Pack(_) => "packed",
                    FragmentKind::Lost => "lost",
                });
            }
            extent.to_bytes()
        }
    };
    assert_eq!(&*again, value, "{key:?}");
    Ok(())
}

fn journal(vid: VolumeId, file: FileName, raw: &[u8], seen: &mut Seen) {
    let place = Place::new(file, 0);
    if let Ok(header) = FileHeader::decode(vid, raw, place) {
        assert_eq!(header.encode(vid), raw[..SECTOR]);
        seen.count("journal file");
    }
    for at in (UNIT..raw.len()).step_by(UNIT) {
        let sector: &[u8; SECTOR] = raw[at..].first_chunk().unwrap();
        let number = (at / SECTOR) as u32;
        let Sector::Stamped {
            jid,
            seq_lo,
            payload,
        } = Sector::read(vid, number, sector)
        else {
            continue;
        };
        let place = place.plus((at + SECTOR_HEAD) as u64);
        // Not every unit begins a batch.
        let Ok(mut header) = BatchHeader::decode(vid, jid, seq_lo, payload, place) else {
            continue;
        };
        let end = at + extent_bytes(header.payload_len as usize);
        let Some(bytes) = raw.get(at..end) else {
            continue;
        };
        let Ok((mut payload, link)) = read_linked(vid, jid, &header, bytes, place) else {
            continue;
        };
        operations(&payload, place, seen);
        if let Some(link) = link {
            payload.extend(link.0);
            seen.count("link");
        }
        let mut again = Vec::new();
        encode_batch(vid, jid, number, &mut header, &payload, &mut again);
        let whole = bytes.chunks(SECTOR).zip(number..).all(|(sector, n)| {
            let sector = sector.first_chunk().unwrap();
            matches!(Sector::read(vid, n, sector), Sector::Stamped { jid: j, seq_lo: s, .. }
                if (j, s) == (jid, seq_lo))
        });
        if whole {
            assert_eq!(again, bytes, "{file} at {at}");
            seen.count("batch");
        }
    }
}

fn operations(payload: &[u8], place: Place, seen: &mut Seen) {
    let mut again = Vec::new();
    for op in decode_ops(payload, place).unwrap() {
        let mut inner = Vec::new();
        for mutation in &op.mutations {
            seen.count(match mutation {
                Mutation::Put { new: true, .. } => "NEW",
                Mutation::Put { new: false, .. } => "PUT",
                Mutation::Del { .. } => "DEL",
                Mutation::Patch { .. } => "PATCH",
                Mutation::Count {
                    branch: Branch::HEAD,
                    ..
                } => "CTR",
                Mutation::Count { .. } => "CTR OF",
                Mutation::Who { .. } => "WHO",
                Mutation::Take(_) => "TAKE",
                Mutation::Drop { .. } => "DROP",
                Mutation::Back {
                    branch: Branch::HEAD,
                    ..
                } => "BACK",
                Mutation::Back { .. } => "BACK OF",
                Mutation::Fork(_) => "FORK",
                Mutation::Prune { .. } => "PRUNE",
                Mutation::Begin { .. } => "EPOCH",
            });
            if let Mutation::Put { key, value, .. } = mutation {
                record(key, value, seen).unwrap();
            }
            mutation.encode(&mut inner);
        }
        encode_op(op.ty, &inner, &mut again);
    }
    assert_eq!(again, payload);
}

fn pack(vid: VolumeId, id: PackId, raw: &[u8], seen: &mut Seen) {
    assert_eq!(encode_header(vid, id), raw[..HEADER_LEN as usize]);
    let foot = raw.len().saturating_sub(PackFooter::LEN as usize);
    let footer = PackFooter::decode(&raw[foot..], vid, id, raw.len() as u64);
    if let Ok(footer) = &footer {
        let body = &raw[footer.end as usize..foot];
        let entries = decode_trailer(body, footer, vid, id).unwrap();
        let again = encode_trailer(vid, id, footer.end, footer.last_birth, &entries);
        assert_eq!(again, raw[footer.end as usize..]);
        seen.count("pack trailer");
    }
    let end = footer.map_or(raw.len() as u64, |f| f.end);
    let mut read = |buf: &mut [u8], pos: u64| {
        let there = raw.get(pos as usize..).unwrap_or_default();
        let n = buf.len().min(there.len());
        buf[..n].copy_from_slice(&there[..n]);
        Ok::<_, Infallible>(n)
    };
    let mut each = |met: Scanned<'_>| {
        if let Scanned::Frame { pos, header, .. } = met {
            let again = header.encode(vid, id, pos);
            assert_eq!(again, raw[pos as usize..][..again.len()]);
            seen.count("frame");
        }
        ControlFlow::Continue(())
    };
    let Ok(()) = scan_frames(&mut read, vid, id, 0..end, Depth::Headers, &mut each);
}
