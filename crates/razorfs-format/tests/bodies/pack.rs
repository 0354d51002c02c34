//! Packs, frames, compression.

use std::convert::Infallible;
use std::ops::ControlFlow;

use razorfs_format::compress::{Compression, compress, decompress};
use razorfs_format::crc::crc32c;
use razorfs_format::pack::{
    Depth, FRAME_ALIGN, FRAME_HEADER_LEN, Footer, FrameHeader, FrameIdentity, FramePlan,
    HEADER_LEN, PackState, Scanned, check_header, decode_trailer, encode_header, encode_trailer,
    frame_end, scan_frames,
};
use razorfs_format::record::{BLOCK, Codec, PackRef};
use razorfs_format::{Branch, Epoch, Ino};

use super::{HERE, PACK, Source, VID, fit, put};

pub fn header(data: &[u8]) {
    let _ = check_header(data, VID, PACK);
    let mut bytes = fit(data, HEADER_LEN as usize);
    put(&mut bytes, 0, b"RZPK\x01\0\x08\0");
    put(&mut bytes, 8, &VID.0.to_le_bytes());
    put(&mut bytes, 16, &PACK.0.to_le_bytes());
    let crc = crc32c(&[VID.0, PACK.0], &bytes[..4092]);
    put(&mut bytes, 4092, &crc.to_le_bytes());
    if check_header(&bytes, VID, PACK).is_ok() {
        assert_eq!(encode_header(VID, PACK), bytes[..]);
    }
}

fn sealed_frame(data: &[u8], pos: u64) -> Vec<u8> {
    let mut bytes = fit(data, FRAME_HEADER_LEN as usize);
    put(&mut bytes, 0, b"RZFR");
    let crc = crc32c(&[VID.0, PACK.0, pos], &bytes[..52]);
    put(&mut bytes, 52, &crc.to_le_bytes());
    bytes
}

pub fn frame_header(data: &[u8]) {
    let mut from = Source(data);
    let pos = u64::from(from.u32()) * FRAME_ALIGN;
    let _ = FrameHeader::decode(from.0, VID, PACK, pos);
    let bytes = sealed_frame(from.0, pos);
    if let Ok(header) = FrameHeader::decode(&bytes, VID, PACK, pos) {
        assert_eq!(header.encode(VID, PACK, pos), bytes[..]);
        let _ = header.check(VID, PACK, pos, data);
        assert!(header.frame_len() >= FRAME_HEADER_LEN + u64::from(header.stored_len));
    }
}

/// A list of frames has one encoding.
pub fn trailer(data: &[u8]) {
    let _ = Footer::decode(data, VID, PACK, data.len() as u64);
    let mut from = Source(data);
    let end = HEADER_LEN + u64::from(from.u32() & 0xff_ffff) * FRAME_ALIGN;
    let (count, last_birth) = (u32::from(from.u16()), Epoch(from.u64()));
    let mut body = from.0.to_vec();
    body.resize(body.len().next_multiple_of(FRAME_ALIGN as usize), 0);
    let footer = Footer {
        end,
        count: if count < 1000 {
            count
        } else {
            u32::MAX / count
        },
        trailer_len: body.len() as u32,
        trailer_crc: crc32c(&[VID.0, PACK.0, end], &body),
        last_birth,
    };
    let foot = footer.encode(VID, PACK);
    let file_len = end + body.len() as u64 + Footer::LEN;
    assert_eq!(Footer::decode(&foot, VID, PACK, file_len), Ok(footer));
    assert!(Footer::decode(&foot, VID, PACK, file_len + 8).is_err());
    if let Ok(entries) = decode_trailer(&body, &footer, VID, PACK) {
        assert!(entries.iter().all(|e| e.end() <= end));
        body.extend_from_slice(&foot);
        assert_eq!(encode_trailer(VID, PACK, end, last_birth, &entries), body);
    }
}

/// From a reference that says anything to bytes of exactly the length asked for.
pub fn frame(data: &[u8]) {
    let mut from = Source(data);
    let codec = Codec::from_byte(from.u8() % 3).unwrap();
    let raw_len = from.u32() & 0x3_ffff;
    let stored_len = match from.u8() % 4 {
        0 => from.u32(),
        _ if codec == Codec::None => raw_len,
        _ => u32::from(from.u16()),
    };
    let mut r = PackRef {
        pack: PACK,
        pos: from.u64() >> (from.u8() % 64),
        stored_len,
        raw_len,
        skip: from.u32() & 0x1_ffff,
        codec,
        birth: Epoch(from.u64()),
        origin: None,
        crcs: Box::default(),
    };
    let mut state = PackState::new(PACK);
    state.len = u64::from(from.u16());
    state.cover(&r);
    assert!(state.len >= frame_end(&r));
    let id = FrameIdentity::of(&r, Branch::HEAD, Ino(5), 6, from.u32());
    let want = from.u32() & 0x3_ffff;
    let want = want..want.saturating_add(u32::from(from.u16()));
    assert!(FramePlan::new(&r, want.clone()).is_err() || raw_len == 0);
    let stored = fit(from.0, stored_len.min(BLOCK) as usize);
    r.crcs = id.checksums(VID, codec, &stored);
    let Ok(plan) = FramePlan::new(&r, want.clone()) else {
        return;
    };
    assert!(plan.len() <= BLOCK as usize && !plan.is_empty());
    let begin = (plan.offset() - r.pos.saturating_add(FRAME_HEADER_LEN)) as usize;
    let read = &stored[begin..begin + plan.len()];
    let mut out = vec![0xee; want.len()];
    let mut scratch = Vec::new();
    plan.check(VID, &id, read).unwrap();
    let got = plan.extract(VID, &id, read, &mut out, &mut scratch);
    if codec == Codec::None {
        assert_eq!(got, Ok(()));
        assert_eq!(out, stored[want.start as usize..want.end as usize]);
    }
    let other = FrameIdentity {
        block: id.block + 1,
        ..id
    };
    assert!(plan.check(VID, &other, read).is_err());
}

/// A pack of frames and of anything else; `range` may say more than there is.
pub fn scan(data: &[u8]) {
    let mut from = Source(data);
    let mut file = fit(&[], HEADER_LEN as usize);
    while !from.is_empty() && file.len() < 1 << 20 {
        let (kind, len) = (from.u8(), usize::from(from.u8()));
        if kind & 3 == 0 {
            file.extend_from_slice(from.slice(len));
            file.resize(file.len().next_multiple_of(8), 0);
            continue;
        }
        put_frame(&mut from, kind, len.max(1), &mut file);
    }
    let end = match data.last() {
        Some(0) => u64::MAX,
        Some(1) => HEADER_LEN + 8,
        _ => file.len() as u64,
    };
    for depth in [Depth::Headers, Depth::Data] {
        let mut at = HEADER_LEN;
        let mut read = |buf: &mut [u8], pos: u64| {
            let there = file.get(pos as usize..).unwrap_or_default();
            let n = buf.len().min(there.len());
            buf[..n].copy_from_slice(&there[..n]);
            Ok::<_, Infallible>(n)
        };
        let mut each = |met: Scanned<'_>| {
            let (start, stop) = match met {
                Scanned::Frame { pos, header, data } => {
                    assert_eq!(data.is_some(), depth == Depth::Data);
                    (pos, pos + header.frame_len())
                }
                Scanned::Gap { range, .. } | Scanned::Missing(range) => (range.start, range.end),
            };
            // Nothing is passed over, nothing is told twice.
            assert_eq!(start, at);
            assert!(stop > start);
            at = stop;
            ControlFlow::Continue(())
        };
        let Ok(()) = scan_frames(&mut read, VID, PACK, HEADER_LEN..end, depth, &mut each);
        assert!(at >= end.min(file.len() as u64));
    }
}

fn put_frame(from: &mut Source<'_>, kind: u8, len: usize, file: &mut Vec<u8>) {
    let pos = file.len() as u64;
    let stored = fit(from.slice(len), len);
    let identity = FrameIdentity {
        branch: Branch::HEAD,
        ino: Ino(from.u16().into()),
        block: 1,
        off: 0,
        birth: Epoch(3),
    };
    let checksums = identity.checksums(VID, Codec::None, &stored);
    let header = FrameHeader {
        identity,
        raw_len: len as u32,
        stored_len: len as u32,
        codec: Codec::None,
        data_crc: identity.data_crc(VID, &checksums),
    };
    let mut head = header.encode(VID, PACK, pos);
    if kind & 3 == 2 {
        // Right checksum, other words.
        head[usize::from(from.u8()) % 52] ^= from.u8();
        let sealed = sealed_frame(&head, pos);
        head.copy_from_slice(&sealed);
    }
    file.extend_from_slice(&head);
    file.extend_from_slice(&stored);
    file.resize(file.len().next_multiple_of(8), kind >> 7);
}

/// Streams of any bytes fill the room exactly or are refused; what was compressed reads back.
pub fn decompressed(data: &[u8]) {
    let mut from = Source(data);
    let codec = Codec::from_byte(from.u8() % 3).unwrap();
    let mut room = vec![0; usize::from(from.u16())];
    let _ = decompress(codec, from.0, &mut room, HERE);
    for how in [Compression::Lz4, Compression::Zstd(1)] {
        let mut stored = Vec::new();
        let codec = compress(how, from.0, &mut stored);
        if codec != Codec::None {
            let mut raw = vec![0; from.0.len()];
            decompress(codec, &stored, &mut raw, HERE).unwrap();
            assert_eq!(raw, from.0);
        }
    }
}
