//! Superblock slots: golden, read back, and every flipped bit noticed.

use proptest::prelude::*;

use super::*;

fn sample() -> Superblock {
    Superblock {
        uuid: std::array::from_fn(|i| i as u8 + 1),
        generation: Generation(0x21),
        features: Features {
            compat: 0x31,
            ro_compat: 0x32,
            incompat: 0x33,
        },
        manifest: ManifestRef {
            id: ManifestId(0x41),
            len: 0x42,
            crc: 0x43,
        },
        journal: JournalStart {
            jid: Jid(0x51),
            batch: BatchSeq(0x52),
        },
        cut: Lsn(0x53),
        state: State::Clean,
        flags: 0x61,
        end: BatchSeq(0x62),
        nonce: 0x63,
        hash_key: [0x71; 16],
        geometry: Geometry {
            parity: 3,
            compression: DefaultCompression::Zstd,
            compression_level: -5,
            inline_max: 0x81,
            segment_bytes: 0x82,
            segment_block_bytes: 0x83,
            journal: JournalGeometry {
                initial_file: 0x84,
                max_file: 0x85,
                initial_files: 0x86,
                max_files: 0x87,
                copies: 2,
            },
            pack_bytes: 0x88,
            limit: Some(0x89),
            ..Geometry::default()
        },
        names: FeatureNames::default(),
    }
}

#[test]
fn golden_bytes() {
    let v = sample().encode(2);
    let hex: String = v[..offset::REST]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let golden = concat!(
        "727a617201000000",
        "525a4653564f4c31",
        "0102030405060708090a0b0c0d0e0f10",
        "2100000000000000",
        "310000000000000032000000000000003300000000000000",
        "41000000000000004200000043000000",
        "510000000000000052000000000000005300000000000000",
        "0100000061000000",
        "6200000000000000",
        "6300000000000000",
        "71717171717171717171717171717171",
        "11020302fbffffff810000008200000083000000",
        "84000000850000008600000087000000",
        "00000000",
        "880000000000000089000000000000000000000000000000",
    );
    assert_eq!(hex, golden);
    assert!(v[offset::REST..offset::CRC].iter().all(|&b| b == 0));
    assert_eq!(
        v[offset::CRC..],
        crc32c(&[2], &v[..offset::CRC]).to_le_bytes()
    );
    assert_eq!(v.len(), SLOT);
    assert_eq!(sample().vid(), VolumeId(0x0807_0605_0403_0201));
}

#[test]
fn a_slot_is_read_only_where_it_was_written() {
    let s = sample();
    assert_eq!(Superblock::decode(2, &s.encode(2)), Ok(s.clone()));
    assert_eq!(Superblock::decode(3, &s.encode(3)), Ok(s.clone()));
    assert!(
        Superblock::decode(3, &s.encode(2)).is_err(),
        "the twin's seed differs"
    );
    assert!(
        Superblock::decode(0, &s.encode(0)).is_err(),
        "not a slot of this generation"
    );
    assert!(Superblock::decode(2, &[0; SLOT]).is_err());
    assert!(Superblock::decode(2, &s.encode(2)[..SLOT - 1]).is_err());
}

#[test]
fn a_slot_of_a_newer_major_version_is_told_from_a_damaged_one() {
    use super::version::{Version, newer};
    let of = |major: u16, minor: u16| {
        let mut v = sample().encode(2);
        v[4..6].copy_from_slice(&major.to_le_bytes());
        v[6..8].copy_from_slice(&minor.to_le_bytes());
        // All that a newer version may have changed.
        if major > MAJOR {
            v[8..offset::CRC].fill(0xA7);
        }
        let crc = crc32c(&[2], &v[..offset::CRC]);
        v[offset::CRC..].copy_from_slice(&crc.to_le_bytes());
        v
    };
    let version = |major, minor| Version { major, minor };
    assert_eq!(newer(2, &of(2, 3)), Some(version(2, 3)));
    assert_eq!(newer(2, &of(u16::MAX, 0)), Some(version(u16::MAX, 0)));
    assert_eq!(version(2, 3).to_string(), "2.3");
    // A newer minor version is read, and an older one of which nobody knows is no newer one.
    assert_eq!(newer(2, &of(1, 9)), None);
    assert!(Superblock::decode(2, &of(1, 9)).is_ok());
    assert_eq!(newer(2, &of(0, 9)), None);
    // In another slot, cut off, of another magic.
    assert_eq!(newer(3, &of(2, 3)), None);
    assert_eq!(newer(2, &of(2, 3)[..SLOT - 1]), None);
    // Each flipped bit makes it a damaged one.
    let whole = of(2, 3);
    for bit in 0..SLOT * 8 {
        let mut v = whole.clone();
        v[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(newer(2, &v), None, "bit {bit}");
    }
}

#[test]
fn the_newest_valid_slot_is_picked() {
    let with = |g| Superblock {
        generation: Generation(g),
        ..sample()
    };
    let bad = || Superblock::decode(0, &[]);
    let slots = [Ok(with(6)), Ok(with(6)), bad(), Ok(with(7))];
    assert_eq!(pick(&slots).map(|(i, s)| (i, s.generation.0)), Some((3, 7)));
    let slots = [bad(), Ok(with(6)), bad(), bad()];
    assert_eq!(pick(&slots).map(|(i, s)| (i, s.generation.0)), Some((1, 6)));
    assert_eq!(pick(&[bad(), bad()]), None);
}

#[test]
fn unknown_features_close_doors() {
    let mut f = Features {
        compat: u64::MAX,
        ..Features::default()
    };
    assert_eq!(f.access(), Access::Writable);
    f.ro_compat = 4;
    assert_eq!(f.access(), Access::ReadOnly(4));
    f.incompat = SHARED_FRAMES;
    assert_eq!(f.access(), Access::ReadOnly(4));
    f.incompat |= 8;
    assert_eq!(f.access(), Access::Refused(8));
}

#[test]
fn names_of_features_are_read_back_and_move_nothing() {
    let mut named = sample();
    assert!(named.names.add(names::Set::Incompat, 5, "wider-inodes"));
    let slot = named.encode(2);
    assert_eq!(slot.len(), SLOT);
    assert_eq!(slot[..offset::REST], sample().encode(2)[..offset::REST]);
    assert_eq!(Superblock::decode(2, &slot), Ok(named));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut v = sample().encode(2);
    for bit in 0..SLOT * 8 {
        v[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::decode(2, &v).is_err(), "bit {bit}");
        v[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(
        slot in 0usize..6,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        sealed: bool,
    ) {
        // Random bytes alone never get past the magic number, so some are made to.
        if sealed && bytes.len() >= offset::REST {
            bytes.resize(offset::CRC, 0);
            bytes[..16].copy_from_slice(&sample().encode(2)[..16]);
            let crc = crc32c(&[slot as u64], &bytes);
            bytes.put_u32(crc);
        }
        if let Ok(s) = Superblock::decode(slot, &bytes) {
            prop_assert_eq!(Superblock::decode(slot, &s.encode(slot)), Ok(s));
        }
    }

    #[test]
    fn fields_read_back(
            generation: u64, jid: u32, batch: u64, limit: Option<u64>, uuid: [u8; 16],
        ) {
        let mut s = sample();
        s.generation = Generation(generation);
        s.journal = JournalStart { jid: Jid(jid), batch: BatchSeq(batch) };
        s.geometry.limit = limit.filter(|&l| l != 0);
        s.uuid = uuid;
        for slot in slots_of(s.generation) {
            prop_assert_eq!(Superblock::decode(slot, &s.encode(slot)), Ok(s.clone()));
        }
    }
}
