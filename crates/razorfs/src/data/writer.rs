//! Writing frames: when [`PackWriter::write`] answers, they are on the disk.
//!
//! Order of one call: the pack's header (if it is new) and all frames in few large writes, then
//! `fdatasync` of the pack, then, for a new pack, a sync of the directory. Only then may a batch
//! name the frames (I1).
//!
//! A pack whose write or sync failed is never written to again: after a failed sync the host may
//! have dropped the pages and report success the next time. It ends at its last good length, and
//! the same frames go to a fresh pack, once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, DiskError, File, OpenHow};
use razorfs_format::compress::{Compression, compress};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{
    FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, FrameIdentity, HEADER_LEN, PackState, TrailerEntry,
    check_header, encode_header, encode_trailer,
};
use razorfs_format::record::{BLOCK, Codec, PackRef};
use razorfs_format::{Epoch, PackId, Place, VolumeId};

use super::effort::Effort;
use super::pack_file;
use super::reader::{StoredFrame, fill, list_frames};
use crate::error::{Error, Result};
use crate::fence;
use crate::marks::{self, Mark};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Pieces of one vectored write: below what Linux takes at once (1024).
const PIECES: usize = 1000;

/// A frame to write.
#[derive(Clone, Debug)]
pub struct FrameWrite<'a> {
    /// Whose bytes they are.
    pub identity: FrameIdentity,
    /// The bytes: 1 to [`BLOCK`], and not beyond the end of the block.
    pub raw: Cow<'a, [u8]>,
    /// What to try.
    pub compression: Compression,
}

/// A frame ready to be stored, wherever.
struct Ready<'a> {
    header: FrameHeader,
    stored: Cow<'a, [u8]>,
    crcs: Cow<'a, [u32]>,
}

/// The pack that is being written.
struct Open {
    state: PackState,
    file: Arc<dyn File>,
    /// Header and name are durable.
    named: bool,
    /// The frames from `listed` on.
    entries: Vec<TrailerEntry>,
    /// Frames before this position were written before the pack was opened again.
    listed: u64,
}

/// Appends frames to packs. Not shared: each thread that writes has its own.
pub struct PackWriter {
    disk: Arc<dyn Disk>,
    vid: VolumeId,
    pack_bytes: u64,
    new_id: Arc<dyn Fn() -> PackId + Send + Sync>,
    reopen: Option<PackState>,
    open: Option<Open>,
    touched: BTreeMap<PackId, PackState>,
    effort: Effort,
    packed: Vec<u8>,
    /// Frames that are written count as born in this epoch, if they are older.
    youngest: Epoch,
    /// Bytes that were written.
    written: Arc<AtomicU64>,
}

/// Where a writer was.
#[derive(Clone, Debug)]
pub struct Position {
    current: Option<PackState>,
    touched: BTreeMap<PackId, PackState>,
}

type Attempt = std::result::Result<Vec<PackRef>, Failure>;

/// Why an append failed, and what that means for the pack.
enum Failure {
    /// The host is full, or another one has the volume, and the pack is as it was: another pack
    /// would not help.
    Useless(Error),
    /// The pack was given up.
    GivenUp(Error),
}

impl PackWriter {
    /// A writer to packs of about `pack_bytes`. A pack is created when the first frame comes, with
    /// an id from `new_id`; or `reopen` is gone on with at its length, after what follows there,
    /// which nothing refers to, has been cut off.
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        vid: VolumeId,
        pack_bytes: u64,
        new_id: Arc<dyn Fn() -> PackId + Send + Sync>,
        reopen: Option<PackMeta>,
    ) -> Self {
        Self {
            disk,
            vid,
            pack_bytes,
            new_id,
            reopen: reopen
                .filter(|meta| !meta.sealed)
                .map(|meta| PackState::of(&meta)),
            open: None,
            touched: BTreeMap::new(),
            effort: Effort::new(),
            packed: Vec::new(),
            youngest: Epoch(0),
            written: Arc::default(),
        }
    }

    /// Adds what it writes to a count.
    #[must_use]
    pub fn counting(self, written: Arc<AtomicU64>) -> Self {
        Self { written, ..self }
    }

    /// Writes all frames. When it answers they are durable, as are the names of the packs that
    /// hold them. Answers the reference of each, in order.
    ///
    /// After an error nothing may refer to any of the frames.
    pub fn write(&mut self, frames: &[FrameWrite<'_>]) -> Result<Vec<PackRef>> {
        let ready = frames
            .iter()
            .map(|frame| self.make_ready(frame))
            .collect::<Result<Vec<_>>>()?;
        self.store(&ready)
    }

    /// Stores frames of other packs as they are, with the identity and the checksums that they
    /// have. Durable when it answers. The first reference to them comes in `epoch` or before.
    pub fn copy(&mut self, frames: &[&StoredFrame], epoch: Epoch) -> Result<Vec<PackRef>> {
        // Not that of their birth: the packs would be taken for such that nothing will refer to.
        self.youngest = self.youngest.max(epoch);
        let ready: Vec<_> = frames
            .iter()
            .map(|f| Ready {
                header: f.header,
                stored: Cow::Borrowed(&*f.stored),
                crcs: Cow::Borrowed(&*f.crcs),
            })
            .collect();
        let stored = self.store(&ready);
        self.youngest = Epoch(0);
        stored
    }

    /// The packs touched since the states were last taken, as they are now.
    #[must_use]
    pub fn states(&self) -> Vec<PackState> {
        self.touched.values().copied().collect()
    }

    /// Forgets states that are written down elsewhere now, but for packs that were touched since.
    pub fn forget_states(&mut self, states: &[PackState]) {
        for state in states {
            if self.touched.get(&state.id) == Some(state) {
                self.touched.remove(&state.id);
            }
        }
    }

    /// The pack that is gone on with, if there is one.
    #[must_use]
    pub fn current(&self) -> Option<PackId> {
        let open = self.open.as_ref().map(|open| open.state.id);
        open.or_else(|| self.reopen.map(|state| state.id))
    }

    /// Where the writer is, to come back to.
    #[must_use]
    pub fn position(&self) -> Position {
        let open = self.open.as_ref().map(|open| open.state);
        Position {
            current: open.or(self.reopen),
            touched: self.touched.clone(),
        }
    }

    /// Gives up what was written since, which nothing refers to, and its space with it. What the
    /// host does not give back now is cut off when the pack is gone on with, or removed at the
    /// next mount.
    pub fn rewind(&mut self, to: &Position) {
        marks::hit(Mark::PackRewound);
        self.open = None;
        self.reopen = to.current;
        for id in self
            .touched
            .keys()
            .filter(|id| !to.touched.contains_key(id))
        {
            if to.current.is_none_or(|current| current.id != *id) {
                let _ = self.disk.remove(&pack_file(*id));
            }
        }
        if let Some(current) = &to.current {
            let file = self.disk.open(&pack_file(current.id), OpenHow::ReadWrite);
            let _ = file.and_then(|file| file.set_len(current.len));
        }
        self.touched.clone_from(&to.touched);
    }

    /// Seals the pack that is being written, if there is one; the next frame opens a new one.
    pub fn seal(&mut self) -> Result<()> {
        if self.open.is_none() && self.reopen.is_some() {
            self.open_pack()?;
        }
        if let Some(open) = self.open.take() {
            self.seal_pack(open);
        }
        Ok(())
    }

    fn make_ready<'a>(&mut self, frame: &'a FrameWrite<'_>) -> Result<Ready<'a>> {
        let (raw, identity) = (&*frame.raw, frame.identity);
        if raw.is_empty() || raw.len() as u64 + u64::from(identity.off) > u64::from(BLOCK) {
            return Err(Error::Invalid("a frame that is empty or leaves its block"));
        }
        let ino = identity.ino;
        let mut codec = Codec::None;
        if frame.compression != Compression::None && self.effort.worth_a_try(ino) {
            codec = compress(frame.compression, raw, &mut self.packed);
            self.effort.note(ino, codec != Codec::None);
        }
        let stored = match codec {
            Codec::None => Cow::Borrowed(raw),
            // A copy of just these bytes: the buffer is larger than the frame ever was.
            Codec::Lz4 | Codec::Zstd => Cow::Owned(self.packed.as_slice().into()),
        };
        let crcs = identity.checksums(self.vid, codec, &stored);
        Ok(Ready {
            header: FrameHeader {
                identity,
                raw_len: raw.len() as u32,
                stored_len: stored.len() as u32,
                codec,
                data_crc: identity.data_crc(self.vid, &crcs),
            },
            stored,
            crcs: Cow::Owned(crcs.into()),
        })
    }

    fn store(&mut self, frames: &[Ready<'_>]) -> Result<Vec<PackRef>> {
        let mut refs = Vec::with_capacity(frames.len());
        while let Some(rest) = frames.get(refs.len()..).filter(|rest| !rest.is_empty()) {
            let stored = match self.append(rest) {
                Err(Failure::GivenUp(e)) => {
                    tracing::warn!("a pack was given up: {e}; its frames go to a fresh one");
                    marks::hit(Mark::PackRescued);
                    self.append(rest)
                }
                done => done,
            };
            match stored {
                Ok(stored) => refs.extend(stored),
                Err(Failure::Useless(e) | Failure::GivenUp(e)) => return Err(e),
            }
        }
        Ok(refs)
    }

    /// Stores and syncs as many of the frames as the pack takes, at least one.
    fn append(&mut self, frames: &[Ready<'_>]) -> Attempt {
        let mut open = self.pack_for(frames).map_err(|e| match e {
            Error::NoSpace | Error::Fenced(_) => Failure::Useless(e),
            e => Failure::GivenUp(e),
        })?;
        let start = match open.named {
            true => open.state.len,
            false => 0,
        };
        let mut end = open.state.len;
        let mut glue = match open.named {
            true => Vec::new(),
            false => encode_header(self.vid, open.state.id).to_vec(),
        };
        // The pieces between the stored bytes: padding of one frame and header of the next.
        let mut cuts = Vec::with_capacity(frames.len() + 1);
        let mut refs = Vec::new();
        let mut last_birth = open.state.last_birth.max(self.youngest);
        for frame in frames {
            let header = &frame.header;
            if end + header.frame_len() > self.pack_bytes && !(refs.is_empty() && is_empty(&open)) {
                break;
            }
            glue.extend_from_slice(&header.encode(self.vid, open.state.id, end));
            cuts.push(glue.len());
            let padding = header.frame_len() - FRAME_HEADER_LEN - u64::from(header.stored_len);
            glue.resize(glue.len() + padding as usize, 0);
            refs.push(header.reference(open.state.id, end, frame.crcs.as_ref().into()));
            open.entries.push(entry(header, end));
            end += header.frame_len();
            last_birth = last_birth.max(header.identity.birth);
        }
        let done = PackState {
            len: end,
            total: end - HEADER_LEN,
            last_birth,
            sealed: refs.len() < frames.len(),
            ..open.state
        };
        if done.sealed {
            glue.extend_from_slice(&self.trailer(&mut open, end, last_birth));
        }
        cuts.push(glue.len());
        let pieces = pieces(&glue, &cuts, frames);
        match write_pieces(&*open.file, &pieces, start) {
            Ok(()) => {}
            Err(e) => return Err(self.failed(open, e, true)),
        }
        let synced = open.file.sync_data().and_then(|()| match open.named {
            true => Ok(()),
            false => self.disk.sync_dir(Dir::Pack),
        });
        if let Err(e) = synced {
            return Err(self.failed(open, e, false));
        }
        open.state = done;
        open.named = true;
        self.written.fetch_add(end - start, Ordering::Relaxed);
        self.touched.insert(done.id, done);
        if !done.sealed {
            self.open = Some(open);
        }
        Ok(refs)
    }

    /// The open pack, if it takes the first frame; else a fresh one.
    fn pack_for(&mut self, frames: &[Ready<'_>]) -> Result<Open> {
        self.open_pack()?;
        let need = frames.first().map_or(0, |f| f.header.frame_len());
        if let Some(open) = self.open.take() {
            if is_empty(&open) || open.state.len + need <= self.pack_bytes {
                return Ok(open);
            }
            self.seal_pack(open);
        }
        self.create()
    }

    /// Opens the pack to go on with, if there is one.
    fn open_pack(&mut self) -> Result<()> {
        let Some(state) = self.reopen.take() else {
            return Ok(());
        };
        match self.continue_at(state) {
            Ok(open) => {
                marks::hit(Mark::PackReopened);
                self.open = Some(open);
            }
            Err(e) => {
                // Its frames stay what they are; new ones go elsewhere.
                tracing::warn!("pack {} cannot be gone on with: {e}", state.id);
                self.end(state);
            }
        }
        Ok(())
    }

    fn continue_at(&self, state: PackState) -> Result<Open> {
        let file = self.disk.open(&pack_file(state.id), OpenHow::ReadWrite)?;
        let mut header = [0; HEADER_LEN as usize];
        let place = Place::new(FileName::Pack(state.id), 0);
        fill(&*file, &mut header, place)?;
        check_header(&header, self.vid, state.id)?;
        let len = file.len()?;
        if len < state.len || state.len < HEADER_LEN || !state.len.is_multiple_of(FRAME_ALIGN) {
            return Err(place.error("length of the pack", state.len, len).into());
        }
        if len > state.len {
            file.set_len(state.len)?;
        }
        Ok(Open {
            state,
            file,
            named: true,
            entries: Vec::new(),
            listed: state.len,
        })
    }

    fn create(&self) -> Result<Open> {
        let state = PackState::new((self.new_id)());
        let file = fence::create(self.disk.as_ref(), &pack_file(state.id))?;
        Ok(Open {
            state,
            file,
            named: false,
            entries: Vec::new(),
            listed: HEADER_LEN,
        })
    }

    /// The trailer of the pack, whose frames end at `end`; empty if the frames from before it was
    /// opened again cannot be listed: a pack without a trailer is walked by its headers.
    fn trailer(&self, open: &mut Open, end: u64, last_birth: Epoch) -> Vec<u8> {
        let mut entries = Vec::new();
        let before = HEADER_LEN..open.listed;
        let id = open.state.id;
        if !before.is_empty() {
            let listed = list_frames(&*open.file, self.vid, id, before, &mut entries);
            if let Err(e) = listed {
                tracing::warn!("pack {id} gets no trailer: {e}");
                return Vec::new();
            }
        }
        entries.append(&mut open.entries);
        encode_trailer(self.vid, id, end, last_birth, &entries)
    }

    /// Ends a pack with its trailer. That the trailer does not reach the disk harms nothing.
    fn seal_pack(&mut self, mut open: Open) {
        let (len, last_birth) = (open.state.len, open.state.last_birth);
        if open.named {
            marks::hit(Mark::PackSealed);
            let trailer = self.trailer(&mut open, len, last_birth);
            let written = open
                .file
                .write_at(&[IoSlice::new(&trailer)], len)
                .and_then(|()| open.file.sync_data());
            if let Err(e) = written {
                tracing::warn!("pack {} gets no trailer: {e}", open.state.id);
                let _ = open.file.set_len(len);
            }
            self.end(open.state);
        }
    }

    /// Notes that a pack ends at its last good length.
    fn end(&mut self, state: PackState) {
        let state = PackState {
            sealed: true,
            ..state
        };
        self.touched.insert(state.id, state);
    }

    /// What becomes of a pack after a failed write or sync.
    fn failed(&mut self, mut open: Open, error: DiskError, writing: bool) -> Failure {
        let full = writing && error.is_full();
        // What was written beyond the good length is no part of the pack.
        let cut = open.file.set_len(open.state.len);
        if !open.named {
            // Nothing was ever stored in it, and nobody knows its name.
            let removed = self.disk.remove(&pack_file(open.state.id));
            drop((removed, cut));
            return match full {
                true => Failure::Useless(error.into()),
                false => Failure::GivenUp(error.into()),
            };
        }
        if full && cut.is_ok() {
            open.entries.retain(|e| e.pos < open.state.len);
            self.open = Some(open);
            return Failure::Useless(error.into());
        }
        self.end(open.state);
        Failure::GivenUp(error.into())
    }
}

/// Whether the pack holds no frame yet.
fn is_empty(open: &Open) -> bool {
    open.state.len == HEADER_LEN
}

fn entry(header: &FrameHeader, pos: u64) -> TrailerEntry {
    TrailerEntry {
        pos,
        stored_len: header.stored_len,
        branch: header.identity.branch,
        ino: header.identity.ino,
        block: header.identity.block,
    }
}

/// Headers and stored bytes in turn.
fn pieces<'a>(glue: &'a [u8], cuts: &[usize], frames: &'a [Ready<'_>]) -> Vec<IoSlice<'a>> {
    let mut pieces = Vec::with_capacity(cuts.len() * 2);
    let mut stored = frames.iter().map(|f| &*f.stored);
    let (mut rest, mut done) = (glue, 0);
    for (nth, cut) in cuts.iter().enumerate() {
        let (piece, after) = rest.split_at(cut - done);
        (rest, done) = (after, *cut);
        if !piece.is_empty() {
            pieces.push(IoSlice::new(piece));
        }
        // Behind the last piece of glue, the trailer, nothing follows.
        if nth + 1 < cuts.len() {
            pieces.extend(stored.next().map(IoSlice::new));
        }
    }
    pieces
}

fn write_pieces(
    file: &dyn File,
    pieces: &[IoSlice<'_>],
    start: u64,
) -> std::result::Result<(), DiskError> {
    let mut at = start;
    for some in pieces.chunks(PIECES) {
        file.write_at(some, at)?;
        at += some.iter().map(|p| p.len() as u64).sum::<u64>();
    }
    Ok(())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod writer_tests;
