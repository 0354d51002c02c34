//! Which files a damaged place is about, told by the undamaged volume: the repair's own opinion of
//! that does not count.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use razorfs::Ino;
use razorfs_disk::sim::Image;
use razorfs_disk::{Dir, Name};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, scan_frames};
use razorfs_format::record::Dirent;
use razorfs_format::segment::seal::unseal;
use razorfs_format::segment::search::find_blocks;
use razorfs_format::segment::{Block, BlockKind, Header, Identity, Position, ValueBuf};
use razorfs_format::superblock::{SHARED_FRAMES, SLOT, Superblock};
use razorfs_format::{FormatError, VolumeId};

/// The inodes of the records and frames in a range of a file. `None` where that says too little: in
/// the journal, in what is the list of other things, where frames are shared, or where names that
/// had been removed may come back.
pub fn by(image: &Image, name: &Name, range: &Range<u64>) -> Option<BTreeSet<Ino>> {
    let slots = image.bytes(&Name::new(Dir::Root, "SUPER"))?;
    let mut slots = slots
        .chunks(SLOT)
        .enumerate()
        .filter_map(|(n, bytes)| Superblock::decode(n, bytes).ok());
    let superblock = slots.next()?;
    let vid = superblock.vid();
    let bytes = image.bytes(name)?;
    match FileName::parse(name.dir.path(), &name.leaf)? {
        FileName::Segment(segment) => Tag::ALL.into_iter().find_map(|tag| {
            let id = Identity {
                volume: vid,
                segment,
                tag,
            };
            Header::decode(&bytes, id).ok()?;
            in_segment(id, &bytes, range).ok()?
        }),
        FileName::Pack(_) if superblock.features.incompat & SHARED_FRAMES != 0 => None,
        FileName::Pack(pack) => Some(in_pack(vid, pack, &bytes, range)),
        _ => None,
    }
}

fn in_segment(
    id: Identity,
    bytes: &[u8],
    range: &Range<u64>,
) -> Result<Option<BTreeSet<Ino>>, FormatError> {
    let mut inos = BTreeSet::new();
    if id.tag == Tag::Held {
        // What is held is counted anew.
        return Ok(Some(inos));
    }
    for found in find_blocks(id, bytes) {
        let handle = found.handle;
        let place = u64::from(handle.offset)..u64::from(handle.offset) + u64::from(handle.len);
        if found.kind != BlockKind::Data || place.end <= range.start || range.end <= place.start {
            continue;
        }
        let stored = bytes.get(place.start as usize..place.end as usize);
        let raw = unseal(id, BlockKind::Data, handle, stored.unwrap_or_default())?;
        let block = Block::parse(id.tag, &raw, id.place(place.start))?;
        let (mut position, mut room) = (Position::default(), ValueBuf::default());
        while let Some(record) = block.next(&mut position, &mut room)? {
            inos.insert(record.key.ino());
            match (id.tag, record.value) {
                (Tag::Dirent, Some(value)) => {
                    inos.insert(Dirent::decode(value, id.place(place.start))?.ino);
                }
                (Tag::Dirent, None) => return Ok(None),
                _ => {}
            }
        }
    }
    Ok(Some(inos))
}

fn in_pack(
    vid: VolumeId,
    pack: razorfs_format::PackId,
    bytes: &[u8],
    range: &Range<u64>,
) -> BTreeSet<Ino> {
    let mut inos = BTreeSet::new();
    let mut read = |buf: &mut [u8], at: u64| -> Result<usize, std::convert::Infallible> {
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(n)
    };
    let Ok(()) = scan_frames(
        &mut read,
        vid,
        pack,
        HEADER_LEN..bytes.len() as u64,
        Depth::Headers,
        &mut |met| {
            if let Scanned::Frame { pos, header, .. } = met
                && pos < range.end
                && range.start < pos + header.frame_len()
            {
                inos.insert(header.identity.ino);
            }
            ControlFlow::Continue(())
        },
    );
    inos
}
