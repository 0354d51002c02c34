//! Reading frames: never a byte is answered that was not checked under the identity asked for.

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use quick_cache::sync::Cache;
use razorfs_disk::File;
use razorfs_format::layout::FileName;
use razorfs_format::pack::{
    Depth, FRAME_HEADER_LEN, Footer, FrameHeader, FrameIdentity, FramePlan, Scanned, TrailerEntry,
    decode_trailer, scan_frames,
};
use razorfs_format::parity::Object;
use razorfs_format::record::{Fragment, FragmentKind, PackRef};
use razorfs_format::{Branch, Ino, PackId, Place, VolumeId};

use crate::error::{Error, Result};
use crate::parity::Host;

/// Packs held open at once, unless told otherwise.
const HANDLES: usize = 128;
/// Longest trailer that is read; that of a full pack of the smallest frames is far below.
const TRAILER_MAX: u32 = 64 << 20;

thread_local! {
    /// Room for the stored bytes of a frame, and for the raw ones.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Reads frames of any pack; shared by all threads. Keeps a bounded number of files open.
pub struct PackReader {
    host: Host,
    vid: VolumeId,
    open: Cache<PackId, Arc<dyn File>>,
}

/// A whole frame as it is stored, checked: what moving it to another pack takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredFrame {
    /// Its header.
    pub header: FrameHeader,
    /// The stored bytes.
    pub stored: Vec<u8>,
    /// Their checksums.
    pub crcs: Box<[u32]>,
}

impl PackReader {
    /// A reader of the packs of volume `vid`.
    #[must_use]
    pub fn new(host: impl Into<Host>, vid: VolumeId) -> Self {
        Self::with_handles(host, vid, HANDLES)
    }

    /// The same, with at most `handles` files open at once.
    #[must_use]
    pub fn with_handles(host: impl Into<Host>, vid: VolumeId, handles: usize) -> Self {
        Self {
            host: host.into(),
            vid,
            open: Cache::new(handles.max(1)),
        }
    }

    fn file(&self, pack: PackId) -> Result<Arc<dyn File>> {
        self.open
            .get_or_insert_with(&pack, || self.host.open(Object::Pack(pack)))
    }

    /// Reads and checks with `work`, if need be with the pack's parity.
    fn checked<T>(&self, pack: PackId, work: &mut dyn FnMut(&dyn File) -> Result<T>) -> Result<T> {
        self.host
            .checked(Object::Pack(pack), &self.file(pack)?, work)
    }

    /// Closes the file of a pack; to be called after the pack has been removed, so that the host
    /// gives its space back.
    pub fn forget(&self, pack: PackId) {
        self.open.remove(&pack);
    }

    /// Reads the bytes `frag` of the fragment that `r` stands in (0 is the fragment's first byte)
    /// into `out`, which is as long. `id` is the identity of the file that refers to the frame,
    /// its `off` that of the frame's first raw byte; the origin in `r` overrides it.
    ///
    /// After an error `out` holds zeros.
    pub fn read(
        &self,
        r: &PackRef,
        id: &FrameIdentity,
        frag: Range<u32>,
        out: &mut [u8],
    ) -> Result<()> {
        let done = self.try_read(r, id, frag, out);
        if done.is_err() {
            // Bytes read in place may stand there unchecked.
            out.fill(0);
        }
        done
    }

    fn try_read(
        &self,
        r: &PackRef,
        id: &FrameIdentity,
        frag: Range<u32>,
        out: &mut [u8],
    ) -> Result<()> {
        let id = &match r.origin {
            Some(_) => FrameIdentity::of(r, id.branch, id.ino, id.block, id.off),
            None => FrameIdentity {
                birth: r.birth,
                ..*id
            },
        };
        let want = r.skip.saturating_add(frag.start)..r.skip.saturating_add(frag.end);
        let plan = FramePlan::new(r, want)?;
        self.checked(r.pack, &mut |file| {
            if plan.is_direct() && out.len() == plan.len() {
                fill(file, out, plan.place())?;
                plan.check(self.vid, id, out)?;
                return Ok(());
            }
            SCRATCH.with_borrow_mut(|(stored, raw)| {
                stored.resize(plan.len(), 0);
                fill(file, stored, plan.place())?;
                plan.extract(self.vid, id, stored, out, raw)?;
                Ok(())
            })
        })
    }

    /// Fails unless the header of a frame says what `r` does, which has its origin. The bytes are
    /// not looked at.
    pub fn check_header(&self, r: &PackRef) -> Result<()> {
        let place = Place::new(FileName::Pack(r.pack), r.pos);
        FramePlan::new(r, 0..r.raw_len)?;
        let got = self.checked(r.pack, &mut |file| {
            let mut bytes = [0; FRAME_HEADER_LEN as usize];
            fill(file, &mut bytes, place)?;
            Ok(FrameHeader::decode(&bytes, self.vid, r.pack, r.pos)?)
        })?;
        let identity = FrameIdentity::of(r, Branch::HEAD, Ino(0), 0, 0);
        let expected = FrameHeader {
            identity,
            raw_len: r.raw_len,
            stored_len: r.stored_len,
            codec: r.codec,
            data_crc: identity.data_crc(self.vid, &r.crcs),
        };
        match got == expected {
            true => Ok(()),
            false => {
                let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
                Err(place.error("frame header", expected, got).into())
            }
        }
    }

    /// Reads a whole frame as it is stored, and checks it.
    pub fn read_stored(&self, r: &PackRef, id: &FrameIdentity) -> Result<StoredFrame> {
        let identity = match r.origin {
            Some(_) => FrameIdentity::of(r, id.branch, id.ino, id.block, id.off),
            None => FrameIdentity {
                birth: r.birth,
                ..*id
            },
        };
        let plan = FramePlan::new(r, 0..r.raw_len)?;
        let mut stored = vec![0; plan.len()];
        self.checked(r.pack, &mut |file| {
            fill(file, &mut stored, plan.place())?;
            Ok(plan.check(self.vid, &identity, &stored)?)
        })?;
        Ok(StoredFrame {
            header: FrameHeader {
                identity,
                raw_len: r.raw_len,
                stored_len: r.stored_len,
                codec: r.codec,
                data_crc: identity.data_crc(self.vid, &r.crcs),
            },
            stored,
            crcs: r.crcs.clone(),
        })
    }

    /// Walks the frames of a pack whose headers stand in `range`, until `each` breaks.
    pub fn scan(
        &self,
        pack: PackId,
        range: Range<u64>,
        depth: Depth,
        each: &mut dyn FnMut(Scanned<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let file = self.file(pack)?;
        let read = &mut |buf: &mut [u8], at| Ok::<_, Error>(file.read_at(buf, at)?);
        scan_frames(read, self.vid, pack, range, depth, each)
    }

    /// The frames of a pack whose frames end at `len`: from its trailer, or, where there is none
    /// or it is damaged, from the headers.
    pub fn entries(&self, pack: PackId, len: u64) -> Result<Vec<TrailerEntry>> {
        if let Ok(entries) = self.trailer(pack, len) {
            return Ok(entries);
        }
        let file = self.file(pack)?;
        let mut entries = Vec::new();
        list_frames(&*file, self.vid, pack, 0..len, &mut entries)?;
        Ok(entries)
    }

    /// The trailer of a sealed pack whose frames end at `len`.
    pub fn trailer(&self, pack: PackId, len: u64) -> Result<Vec<TrailerEntry>> {
        self.checked(pack, &mut |file| self.read_trailer(file, pack, len))
    }

    fn read_trailer(&self, file: &dyn File, pack: PackId, len: u64) -> Result<Vec<TrailerEntry>> {
        let file_len = file.len()?;
        let place = |offset| Place::new(FileName::Pack(pack), offset);
        let at = file_len.checked_sub(Footer::LEN).unwrap_or(len).max(len);
        let mut footer = [0; Footer::LEN as usize];
        fill(file, &mut footer, place(at))?;
        let footer = Footer::decode(&footer, self.vid, pack, file_len)?;
        if footer.end != len || footer.trailer_len > TRAILER_MAX {
            return Err(place(at)
                .error(
                    "pack footer",
                    format_args!("frames up to {len}, a trailer of at most {TRAILER_MAX}"),
                    format_args!("up to {}, {} bytes", footer.end, footer.trailer_len),
                )
                .into());
        }
        let mut trailer = vec![0; footer.trailer_len as usize];
        fill(file, &mut trailer, place(len))?;
        Ok(decode_trailer(&trailer, &footer, self.vid, pack)?)
    }
}

/// Appends the frames whose headers stand in `range` to `entries`.
pub(super) fn list_frames(
    file: &dyn File,
    vid: VolumeId,
    pack: PackId,
    range: Range<u64>,
    entries: &mut Vec<TrailerEntry>,
) -> Result<()> {
    let end = range.end;
    let read = &mut |buf: &mut [u8], at| Ok::<_, Error>(file.read_at(buf, at)?);
    scan_frames(read, vid, pack, range, Depth::Headers, &mut |met| {
        if let Scanned::Frame { pos, header, .. } = met {
            let entry = TrailerEntry {
                pos,
                stored_len: header.stored_len,
                branch: header.identity.branch,
                ino: header.identity.ino,
                block: header.identity.block,
            };
            if entry.end() <= end {
                entries.push(entry);
            }
        }
        ControlFlow::Continue(())
    })
}

/// Fills `buf` from `place`; a file that ends before is damaged.
pub(super) fn fill(file: &dyn File, buf: &mut [u8], place: Place) -> Result<()> {
    let got = file.read_at(buf, place.offset)?;
    if got < buf.len() {
        return Err(place
            .plus(got as u64)
            .error(
                "end of the pack",
                format_args!("{} more bytes", buf.len() - got),
                "the end of the file",
            )
            .into());
    }
    Ok(())
}

/// Reads from `off` on the bytes of block `block` of file `ino`, whose fragments are `frags`, into
/// `out`; what no fragment covers reads as zeros. After an error `out` is not to be used.
pub fn read_fragments(
    frags: &[Fragment],
    reader: &PackReader,
    ino: Ino,
    block: u64,
    off: u32,
    out: &mut [u8],
) -> Result<()> {
    let end = u32::try_from(out.len())
        .ok()
        .and_then(|len| off.checked_add(len))
        .ok_or(Error::Invalid("a read beyond the block"))?;
    // Where the next byte goes, as an offset in the block.
    let mut at = off;
    let mut out = out;
    for f in frags {
        let (from, to) = (f.off.max(at), f.end().min(end));
        if from >= to {
            continue;
        }
        let (gap, rest) = out.split_at_mut((from - at) as usize);
        gap.fill(0);
        let (piece, rest) = rest.split_at_mut((to - from) as usize);
        let range = from - f.off..to - f.off;
        match &f.kind {
            FragmentKind::Hole | FragmentKind::Reserved => piece.fill(0),
            FragmentKind::Inline(bytes) => {
                match bytes.get(range.start as usize..range.end as usize) {
                    Some(bytes) => piece.copy_from_slice(bytes),
                    None => return Err(Error::Invalid("an inline fragment shorter than it says")),
                }
            }
            FragmentKind::Pack(r) => {
                let id = FrameIdentity::of(r, Branch::HEAD, ino, block, f.off);
                reader.read(r, &id, range, piece)?;
            }
            FragmentKind::Lost => return Err(super::lost_bytes(ino, block, &(from..to))),
        }
        (at, out) = (to, rest);
    }
    out.fill(0);
    Ok(())
}
