//! From a reference to bytes that may be used: which bytes to read, how to check them.

use std::ops::Range;

use super::{FRAME_HEADER_LEN, FrameIdentity};
use crate::compress::decompress;
use crate::error::{Place, Result};
use crate::ids::VolumeId;
use crate::layout::FileName;
use crate::record::{BLOCK, Codec, PackRef, RAW_CRC_CHUNK};

/// Which bytes of a pack must be read, and checked, to get some raw bytes of a frame: the 16 KiB
/// chunks that hold them of a raw frame, all of a compressed one.
#[derive(Clone, Debug)]
pub struct FramePlan<'a> {
    r: &'a PackRef,
    want: Range<u32>,
    /// Where in the stored bytes the read begins and ends.
    stored: Range<u32>,
}

impl<'a> FramePlan<'a> {
    /// Plans to get the raw bytes `want` of the frame behind `r` (of the frame, not of the
    /// fragment). Refuses a reference whose lengths cannot be, before anything is allocated.
    pub fn new(r: &'a PackRef, want: Range<u32>) -> Result<Self> {
        let place = Place::new(FileName::Pack(r.pack), r.pos);
        if r.raw_len > BLOCK || r.stored_len > BLOCK {
            return Err(place.error(
                "reference to a frame",
                format_args!("at most {BLOCK} bytes"),
                format_args!("{} stored, {} raw", r.stored_len, r.raw_len),
            ));
        }
        let fits = match r.codec {
            Codec::None => r.stored_len == r.raw_len,
            Codec::Lz4 | Codec::Zstd => (1..=r.raw_len).contains(&r.stored_len),
        };
        if !fits {
            return Err(place.error(
                "reference to a frame",
                format_args!("a stored length for {} bytes with {:?}", r.raw_len, r.codec),
                r.stored_len,
            ));
        }
        let crcs = PackRef::crc_count(r.codec, r.raw_len);
        if r.crcs.len() != crcs {
            return Err(place.error("checksums of a frame", crcs, r.crcs.len()));
        }
        if want.start >= want.end || want.end > r.raw_len {
            return Err(place.error(
                "reference to a frame",
                format_args!("bytes inside 0..{}", r.raw_len),
                format_args!("{want:?}"),
            ));
        }
        let stored = match r.codec {
            Codec::None => {
                let start = want.start / RAW_CRC_CHUNK * RAW_CRC_CHUNK;
                let end = want.end.next_multiple_of(RAW_CRC_CHUNK).min(r.raw_len);
                start..end
            }
            Codec::Lz4 | Codec::Zstd => 0..r.stored_len,
        };
        Ok(Self { r, want, stored })
    }

    /// Offset in the pack of the bytes to read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let from = FRAME_HEADER_LEN + u64::from(self.stored.start);
        self.r.pos.saturating_add(from)
    }

    /// How many bytes to read: at most [`BLOCK`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Whether there is nothing to read; never so for a valid reference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Whether the bytes to read are exactly the bytes wanted, so that they can be read in place;
    /// [`FramePlan::check`] is then all that is left to do.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.r.codec == Codec::None && self.stored == self.want
    }

    /// The place of the bytes, for errors.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::new(FileName::Pack(self.r.pack), self.offset())
    }

    /// Checks the bytes that were read, under the identity that the reader expects.
    pub fn check(&self, vid: VolumeId, id: &FrameIdentity, stored: &[u8]) -> Result<()> {
        let place = self.place();
        if stored.len() != self.len() {
            return Err(place.error("stored bytes of a frame", self.len(), stored.len()));
        }
        let (chunk, first) = match self.r.codec {
            Codec::None => (RAW_CRC_CHUNK, self.stored.start / RAW_CRC_CHUNK),
            Codec::Lz4 | Codec::Zstd => (BLOCK, 0),
        };
        let expected = self.r.crcs.iter().skip(first as usize);
        let starts = (self.stored.start..).step_by(chunk as usize);
        for ((bytes, start), expected) in stored.chunks(chunk as usize).zip(starts).zip(expected) {
            let got = id.crc(vid, start).with(bytes).finish();
            if got != *expected {
                return Err(place.plus(u64::from(start - self.stored.start)).error(
                    "stored bytes of a frame",
                    format_args!(
                        "CRC {expected:#010x} of file {} block {} offset {} epoch {}",
                        id.ino,
                        id.block,
                        u64::from(id.off) + u64::from(start),
                        id.birth
                    ),
                    format_args!("{got:#010x}"),
                ));
            }
        }
        Ok(())
    }

    /// Checks the bytes that were read and puts the raw bytes wanted into `out`, which is as long
    /// as the range asked for. `scratch` is room for a whole frame where one must be decompressed
    /// to get a part of it.
    pub fn extract(
        &self,
        vid: VolumeId,
        id: &FrameIdentity,
        stored: &[u8],
        out: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<()> {
        self.check(vid, id, stored)?;
        let place = self.place();
        if out.len() != self.want.len() {
            return Err(place.error("room for a frame's bytes", self.want.len(), out.len()));
        }
        let from = match self.r.codec {
            Codec::None => stored.get((self.want.start - self.stored.start) as usize..),
            codec if self.want == (0..self.r.raw_len) => {
                return decompress(codec, stored, out, place);
            }
            codec => {
                scratch.clear();
                scratch.resize(self.r.raw_len as usize, 0);
                decompress(codec, stored, scratch, place)?;
                scratch.get(self.want.start as usize..)
            }
        };
        // The plan's bounds were checked when it was made.
        match from.and_then(|bytes| bytes.get(..out.len())) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => unreachable!("a plan lies inside its frame"),
        }
        Ok(())
    }
}
