//! What is done with hostile bytes: one plain function for each decoder. The seeded tests beside
//! this folder call each of them; the fuzz targets in `fuzz/`, which include it by its path, call
//! those of a room, and the first byte of their input chooses.
//!
//! Each body takes any bytes and hands them to a decoder twice: as they are, and *sealed*, which
//! is with every checksum put right, so that the code behind the checksum is reached as well. It
//! panics where the decoder does, and where what was decoded does not encode to the same bytes
//! although the format has only one way to say it.
#![allow(dead_code, reason = "each user takes a part of it")]

mod journal;
mod pack;
mod parity;
mod records;
mod roots;
mod segment;

use razorfs_format::{PackId, Place, SegmentId, VolumeId, layout::FileName};

/// One body.
pub type Body = fn(&[u8]);

/// All of them by rooms, which are the fuzz targets.
pub const ROOMS: &[(&str, &[(&str, Body)])] = &[
    (
        "journal",
        &[
            ("journal_sector", journal::sector),
            ("journal_header", journal::header),
            ("batch", journal::batch),
            ("ops", journal::ops),
        ],
    ),
    (
        "pack",
        &[
            ("pack_header", pack::header),
            ("frame_header", pack::frame_header),
            ("pack_trailer", pack::trailer),
            ("frame", pack::frame),
            ("scan_frames", pack::scan),
            ("decompress", pack::decompressed),
        ],
    ),
    (
        "parity",
        &[("parity", parity::parity), ("scrub", parity::scrub)],
    ),
    (
        "records",
        &[
            ("wire", records::wire),
            ("key", records::key),
            ("inode", records::inode),
            ("dirent", records::dirent),
            ("extent", records::extent),
            ("orphan", records::orphan),
            ("shared", records::shared),
            ("xattr", records::xattr),
            ("file_name", records::file_name),
            ("held", records::held),
        ],
    ),
    (
        "roots",
        &[
            ("superblock", roots::superblock),
            ("manifest", roots::manifest),
        ],
    ),
    (
        "segment",
        &[
            ("names", segment::names),
            ("block", segment::block),
            ("dirblock", segment::dirblock),
            ("index", segment::index),
            ("filter", segment::filter),
            ("segment_header", segment::header),
            ("segment_footer", segment::footer),
            ("sealed_block", segment::sealed),
            ("segment", segment::whole),
        ],
    ),
];

/// The bodies of a room, by name.
pub fn of(room: &str) -> &'static [(&'static str, Body)] {
    match ROOMS.iter().find(|(name, _)| *name == room) {
        Some((_, bodies)) => bodies,
        None => panic!("no room is called {room}"),
    }
}

/// Runs the body that the first byte chooses with the bytes behind it.
pub fn run(room: &str, data: &[u8]) {
    if let Some((choice, input)) = data.split_first() {
        let bodies = of(room);
        bodies[usize::from(*choice) % bodies.len()].1(input);
    }
}

pub const VID: VolumeId = VolumeId(0x0706_0504_0302_0100);
pub const SEGMENT: SegmentId = SegmentId(5);
pub const PACK: PackId = PackId(6);
pub const HERE: Place = Place::new(FileName::Super, 0);

/// Hands out the bytes of an input piece by piece; zeros when they are used up.
pub struct Source<'a>(pub &'a [u8]);

impl<'a> Source<'a> {
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.u8())
    }

    pub fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub fn slice(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `data`, cut or filled with zeros to `n` bytes.
pub fn fit(data: &[u8], n: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(n, 0);
    bytes
}

/// Overwrites the bytes at `at`.
pub fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}
