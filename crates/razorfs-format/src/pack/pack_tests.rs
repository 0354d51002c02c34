//! Golden bytes of each struct of a pack (computed by hand from the tables, by another program),
//! and what the decoders do with damaged ones.

use std::convert::Infallible;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::compress::{Compression, compress};
use crate::record::Origin;

const VID: VolumeId = VolumeId(0x1122_3344_5566_7788);
const PACK: PackId = PackId(5);

fn identity() -> FrameIdentity {
    FrameIdentity {
        branch: Branch(2),
        ino: Ino(0x1234),
        block: 7,
        off: 4096,
        birth: Epoch(9),
    }
}

/// A frame as it stands in a pack, and the reference to it.
fn frame(id: FrameIdentity, raw: &[u8], how: Compression, pos: u64) -> (Vec<u8>, PackRef) {
    let mut packed = Vec::new();
    let codec = compress(how, raw, &mut packed);
    let stored = if codec == Codec::None { raw } else { &packed };
    let crcs = id.checksums(VID, codec, stored);
    let header = FrameHeader {
        identity: id,
        raw_len: raw.len() as u32,
        stored_len: stored.len() as u32,
        codec,
        data_crc: id.data_crc(VID, &crcs),
    };
    let mut out = header.encode(VID, PACK, pos).to_vec();
    out.extend_from_slice(stored);
    out.resize(header.frame_len() as usize, 0);
    (out, header.reference(PACK, pos, crcs))
}

/// A pack file with these frames, without trailer, and the references.
fn pack_of(frames: &[(FrameIdentity, Vec<u8>, Compression)]) -> (Vec<u8>, Vec<PackRef>) {
    let mut file = encode_header(VID, PACK).to_vec();
    let mut refs = Vec::new();
    for (id, raw, how) in frames {
        let (bytes, r) = frame(*id, raw, *how, file.len() as u64);
        file.extend_from_slice(&bytes);
        refs.push(r);
    }
    (file, refs)
}

/// Reads the raw bytes `want` of a frame from a pack in memory.
fn get(
    file: &[u8],
    r: &PackRef,
    id: &FrameIdentity,
    want: std::ops::Range<u32>,
) -> Result<Vec<u8>> {
    let plan = FramePlan::new(r, want.clone())?;
    let at = plan.offset() as usize;
    let stored = file.get(at..at + plan.len()).unwrap_or_default();
    let mut out = vec![0; want.len()];
    plan.extract(VID, id, stored, &mut out, &mut Vec::new())?;
    if plan.is_direct() {
        assert_eq!(stored, out);
    }
    Ok(out)
}

/// What a walk met, in a form that can be compared: (position, raw length, data ok) of frames,
/// (begin, end, zero) of gaps.
#[derive(PartialEq, Eq, Debug)]
enum Met {
    Frame(u64, u32, Option<bool>),
    Gap(u64, u64, bool),
    Missing(u64, u64),
}

fn walk(file: &[u8], range: std::ops::Range<u64>, depth: Depth) -> Vec<Met> {
    let mut met = Vec::new();
    let mut read = |buf: &mut [u8], at: u64| -> std::result::Result<usize, Infallible> {
        let bytes = file.get(at as usize..).unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    };
    let done = scan_frames(&mut read, VID, PACK, range, depth, &mut |s| {
        met.push(match s {
            Scanned::Frame { pos, header, data } => {
                Met::Frame(pos, header.raw_len, data.map(|d| d.is_ok()))
            }
            Scanned::Gap { range, zero, .. } => Met::Gap(range.start, range.end, zero),
            Scanned::Missing(range) => Met::Missing(range.start, range.end),
        });
        ControlFlow::Continue(())
    });
    let Ok(()) = done;
    met
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_header() {
    let header = encode_header(VID, PACK);
    assert_eq!(
        hex(&header[..24]),
        "525a504b0100080088776655443322110500000000000000"
    );
    assert!(header[24..4092].iter().all(|b| *b == 0));
    assert_eq!(hex(&header[4092..]), "a6e27b10");
    check_header(&header, VID, PACK).unwrap();
    assert!(check_header(&header, VolumeId(1), PACK).is_err());
    assert!(check_header(&header, VID, PackId(6)).is_err());
}

#[test]
fn golden_frame() {
    let (bytes, r) = frame(identity(), b"hello, pack", Compression::Lz4, 4096);
    assert_eq!(
        hex(&bytes),
        "525a465202000000341200000000000007000000000000000900000000000000\
         001000000b0000000b000000000e0000710dd2ba030e426968656c6c6f2c2070\
         61636b0000000000"
    );
    assert_eq!(r.crcs.len(), 1);
    assert_eq!(frame_len(r.stored_len), bytes.len() as u64);
    assert_eq!(
        get(&[vec![0; 4096], bytes].concat(), &r, &identity(), 0..11).unwrap(),
        b"hello, pack"
    );
}

#[test]
fn golden_trailer_and_footer() {
    let entries = [
        TrailerEntry {
            pos: 4096,
            stored_len: 100,
            branch: Branch(0),
            ino: Ino(16),
            block: 0,
        },
        TrailerEntry {
            pos: 4264,
            stored_len: 131_072,
            branch: Branch(1),
            ino: Ino(15),
            block: 3,
        },
    ];
    let end = entries[1].end();
    let bytes = encode_trailer(VID, PACK, end, Epoch(4), &entries);
    assert_eq!(
        hex(&bytes),
        "00640020000180800801010300000000525a5046010000008877665544332211\
         0500000000000000e0100200000000000200000010000000fa2b605100000000\
         040000000000000000000000b4dd2cf8"
    );
    let (trailer, footer) = bytes.split_at(bytes.len() - Footer::LEN as usize);
    let file_len = end + bytes.len() as u64;
    let footer = Footer::decode(footer, VID, PACK, file_len).unwrap();
    assert_eq!(
        (footer.end, footer.count, footer.last_birth),
        (end, 2, Epoch(4))
    );
    assert_eq!(
        decode_trailer(trailer, &footer, VID, PACK).unwrap(),
        entries
    );
}

#[test]
fn a_large_raw_frame_is_read_and_checked_by_chunks() {
    let raw = noise(1, 100_000);
    let id = FrameIdentity {
        off: 0,
        ..identity()
    };
    let (file, refs) = pack_of(&[(id, raw.clone(), Compression::Lz4)]);
    let r = &refs[0];
    assert_eq!((r.codec, r.crcs.len()), (Codec::None, 7));
    // A damaged chunk is refused; its neighbours are read without looking at it.
    let mut bad = file.clone();
    bad[4096 + 56 + 20_000] ^= 4;
    for want in [
        0..1,
        5..16384,
        16383..16385,
        16384..32768,
        20_000..90_000,
        99_999..100_000,
    ] {
        let expected = &raw[want.start as usize..want.end as usize];
        assert_eq!(get(&file, r, &id, want.clone()).unwrap(), expected);
        let touched = want.start < 32768 && want.end > 16384;
        assert_eq!(get(&bad, r, &id, want).is_err(), touched);
    }
}

#[test]
fn each_flipped_bit_of_a_frame_is_refused() {
    for raw in [noise(2, 61), b"abcdabcdabcdabcd".repeat(20)] {
        let (file, refs) = pack_of(&[(identity(), raw.clone(), Compression::Lz4)]);
        let whole = 0..raw.len() as u32;
        assert_eq!(
            get(&file, &refs[0], &identity(), whole.clone()).unwrap(),
            raw
        );
        let data = 4096 + 56..4096 + 56 + refs[0].stored_len as usize;
        for bit in 0..(file.len() - 4096) * 8 {
            let mut bad = file.clone();
            bad[4096 + bit / 8] ^= 1 << (bit % 8);
            if data.contains(&(4096 + bit / 8)) {
                assert!(get(&bad, &refs[0], &identity(), whole.clone()).is_err());
            }
            // The walk refuses header and padding as well.
            let met = walk(&bad, 4096..file.len() as u64, Depth::Data);
            let len = raw.len() as u32;
            assert!(
                !met.contains(&Met::Frame(4096, len, Some(true))),
                "bit {bit}: {met:?}"
            );
        }
    }
}

#[test]
fn intact_bytes_under_another_identity_are_refused() {
    let (file, refs) = pack_of(&[(identity(), noise(3, 5000), Compression::None)]);
    let id = identity();
    for wrong in [
        FrameIdentity {
            branch: Branch(3),
            ..id
        },
        FrameIdentity { ino: Ino(1), ..id },
        FrameIdentity { block: 8, ..id },
        FrameIdentity { off: 0, ..id },
        FrameIdentity {
            birth: Epoch(8),
            ..id
        },
    ] {
        let error = get(&file, &refs[0], &wrong, 0..5000).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("pack/P-0000000000000005.rp: "), "{text}");
        assert!(
            text.contains("at byte 4152") && text.contains("expected CRC"),
            "{text}"
        );
    }
    // A reference from elsewhere tells whose frame it is.
    let mut foreign = refs[0].clone();
    foreign.origin = Some(Origin {
        branch: id.branch,
        ino: id.ino,
        block: id.block,
        offset: id.off,
    });
    let of = FrameIdentity::of(&foreign, Branch(9), Ino(99), 99, 99);
    assert_eq!(of, id);
    let own = FrameIdentity::of(
        &PackRef {
            skip: 10,
            ..refs[0].clone()
        },
        id.branch,
        id.ino,
        7,
        4106,
    );
    assert_eq!(own, id);
}

#[test]
fn hostile_references_are_refused_before_anything_is_read() {
    let (_, refs) = pack_of(&[(identity(), noise(4, 5000), Compression::None)]);
    let r = &refs[0];
    for bad in [
        PackRef {
            raw_len: u32::MAX,
            stored_len: u32::MAX,
            ..r.clone()
        },
        PackRef {
            stored_len: u32::MAX,
            codec: Codec::Zstd,
            ..r.clone()
        },
        PackRef {
            raw_len: 4000,
            ..r.clone()
        },
        PackRef {
            crcs: Box::new([]),
            ..r.clone()
        },
        PackRef {
            crcs: Box::new([0; 9]),
            ..r.clone()
        },
    ] {
        assert!(FramePlan::new(&bad, 0..10).is_err());
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    for want in [0..0, 5..4, 0..5001, u32::MAX - 1..u32::MAX] {
        assert!(FramePlan::new(r, want).is_err());
    }
    let far = PackRef {
        pos: u64::MAX - 3,
        ..r.clone()
    };
    assert_eq!(FramePlan::new(&far, 0..10).unwrap().offset(), u64::MAX);
}

#[test]
fn a_walk_goes_on_behind_damage_and_given_back_space() {
    let id = |ino| FrameIdentity {
        ino: Ino(ino),
        off: 0,
        ..identity()
    };
    let (mut file, refs) = pack_of(&[
        (id(1), noise(5, 100), Compression::None),
        (id(2), noise(6, 131_072), Compression::None),
        (id(3), noise(7, 131_072), Compression::None),
        (id(4), noise(8, 5000), Compression::None),
    ]);
    let end = file.len() as u64;
    let clean = [100, 131_072, 131_072, 5000];
    for depth in [Depth::Headers, Depth::Data] {
        let ok = (depth == Depth::Data).then_some(true);
        let expected: Vec<_> = refs
            .iter()
            .zip(clean)
            .map(|(r, len)| Met::Frame(r.pos, len, ok))
            .collect();
        assert_eq!(walk(&file, 0..end, depth), expected);
    }
    // The space of the second and third is given back, as far as whole pages go.
    let from = (refs[1].pos as usize + 56).next_multiple_of(4096);
    let to = refs[3].pos as usize / 4096 * 4096;
    file[from..to].fill(0);
    let met = walk(&file, 0..end, Depth::Data);
    assert_eq!(
        met,
        [
            Met::Frame(refs[0].pos, 100, Some(true)),
            Met::Frame(refs[1].pos, 131_072, Some(false)),
            Met::Gap(refs[2].pos, refs[3].pos, false),
            Met::Frame(refs[3].pos, 5000, Some(true)),
        ]
    );
    // A long gap crosses the walk's window, and the file may end before the range does.
    let at = file.len();
    file.resize(at + 3_000_000, 0);
    let (bytes, _) = frame(id(9), b"x", Compression::None, file.len() as u64);
    let last = file.len() as u64;
    file.extend_from_slice(&bytes);
    let len = file.len() as u64;
    let met = walk(&file, end..len + 1000, Depth::Headers);
    assert_eq!(
        met,
        [
            Met::Gap(end, last, true),
            Met::Frame(last, 1, None),
            Met::Missing(len, len + 1000)
        ]
    );
}

fn entries() -> impl Strategy<Value = Vec<TrailerEntry>> {
    let one = (
        0..50u64,
        0..=BLOCK,
        any::<u32>(),
        any::<u64>(),
        any::<u64>(),
    );
    prop::collection::vec(one, 0..40).prop_map(|list| {
        let mut at = HEADER_LEN;
        list.into_iter()
            .map(|(gap, stored_len, branch, ino, block)| {
                let (branch, ino) = (Branch(branch), Ino(ino));
                let e = TrailerEntry {
                    pos: at + gap * 8,
                    stored_len,
                    branch,
                    ino,
                    block,
                };
                at = e.end();
                e
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn frames_read_back(
        word in prop::collection::vec(any::<u8>(), 1..300),
        times in 1..400usize,
        a: prop::sample::Index,
        b: prop::sample::Index,
    ) {
        let mut raw = word.repeat(times);
        raw.truncate(BLOCK as usize);
        let id = FrameIdentity { off: 0, ..identity() };
        for how in [Compression::None, Compression::Lz4, Compression::Zstd(1)] {
            let (file, refs) = pack_of(&[(id, raw.clone(), how)]);
            let (a, b) = (a.index(raw.len()), b.index(raw.len()));
            let (from, to) = (a.min(b), a.max(b) + 1);
            let got = get(&file, &refs[0], &id, from as u32..to as u32).unwrap();
            prop_assert_eq!(&got, &raw[from..to]);
            // A walk alone gives the same reference.
            let header = FrameHeader::decode(&file[4096..], VID, PACK, 4096).unwrap();
            let stored = &file[4152..4152 + header.stored_len as usize];
            let crcs = header.check(VID, PACK, 4096, stored).unwrap();
            prop_assert_eq!(&header.reference(PACK, 4096, crcs), &refs[0]);
        }
    }

    #[test]
    fn trailers_read_back_and_damaged_ones_are_refused(
        list in entries(),
        at: prop::sample::Index,
        bit in 0..8,
    ) {
        let end = list.last().map_or(HEADER_LEN, TrailerEntry::end);
        let bytes = encode_trailer(VID, PACK, end, Epoch(1), &list);
        let decode = |bytes: &[u8]| {
            let (trailer, footer) = bytes.split_at(bytes.len() - Footer::LEN as usize);
            let footer = Footer::decode(footer, VID, PACK, end + bytes.len() as u64)?;
            decode_trailer(trailer, &footer, VID, PACK)
        };
        prop_assert_eq!(decode(&bytes).unwrap(), list);
        let mut bad = bytes;
        let at = at.index(bad.len());
        bad[at] ^= 1u8 << bit;
        prop_assert!(decode(&bad).is_err());
    }

    #[test]
    fn any_bytes_give_an_answer(bytes: Vec<u8>, footer_len: u32, count: u32, pos in 0..1u64 << 41) {
        let _ = check_header(&bytes, VID, PACK);
        let _ = FrameHeader::decode(&bytes, VID, PACK, pos);
        let _ = Footer::decode(&bytes, VID, PACK, bytes.len() as u64);
        // With the right checksum too, so that what is behind it is reached.
        for trailer_len in [footer_len, bytes.len() as u32] {
            let trailer_crc = crc32c(&[VID.0, PACK.0, pos], &bytes);
            let last_birth = Epoch(0);
            let footer = Footer { end: pos, count, trailer_len, trailer_crc, last_birth };
            let _ = decode_trailer(&bytes, &footer, VID, PACK);
            let few = Footer { count: count % 8, ..footer };
            let _ = decode_trailer(&bytes, &few, VID, PACK);
        }
        let mut file = encode_header(VID, PACK).to_vec();
        file.extend_from_slice(&bytes);
        let _ = walk(&file, 0..pos, Depth::Data);
        if bytes.len() >= 52 {
            let mut head = bytes;
            head.truncate(52);
            head[..4].copy_from_slice(b"RZFR");
            let crc = crc32c(&[VID.0, PACK.0, pos], &head);
            head.extend_from_slice(&crc.to_le_bytes());
            let _ = FrameHeader::decode(&head, VID, PACK, pos);
        }
    }
}
