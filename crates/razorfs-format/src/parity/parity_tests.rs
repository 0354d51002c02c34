use super::*;

const VID: VolumeId = VolumeId(0x1122_3344_5566_7788);
const PACK: Object = Object::Pack(PackId(5));

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(next).collect()
}

fn parity_of(object: &[u8], shard: u32) -> Vec<u8> {
    let mut builder = Builder::new(VID, PACK, shard);
    for piece in object.chunks(1000) {
        builder.push(piece).unwrap();
    }
    builder.finish(&[]).unwrap()
}

/// Heals all of an object; answers how many shards were damaged.
fn heal(object: &mut Vec<u8>, parity: &[u8]) -> std::result::Result<usize, Lost> {
    let shape = Shape::decode(parity, VID, PACK, parity.len() as u64).unwrap();
    object.resize(shape.len as usize, 0);
    let mut healed = 0;
    for index in 0..shape.groups() {
        let group = shape.group(index);
        let range = group.range().start as usize..group.range().end as usize;
        let record = &parity[group.record as usize..][..group.record_len()];
        let mut data = object[range.clone()].to_vec();
        data.resize(group.padded(), 0);
        let sums = group.sums(record).unwrap();
        let bad = group.bad_shards(&sums, &data, &[]);
        group.heal(&sums, &mut data, &bad, record)?;
        healed += bad.len();
        object[range.clone()].copy_from_slice(&data[..range.len()]);
    }
    Ok(healed)
}

#[test]
fn the_bytes_of_header_and_record_stay_what_they_are() {
    let object: Vec<u8> = (0..100).collect();
    let parity = parity_of(&object, SHARD_MAX);
    let mut header = Vec::new();
    header.extend_from_slice(b"RZRQ\x01\x00\x01\x02");
    header.extend_from_slice(&VID.0.to_le_bytes());
    header.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
    header.extend_from_slice(&[64, 0, 0, 0, 32, 0]);
    header.resize(60, 0);
    assert_eq!(parity[..60], header);
    let hash = |bytes: &[u8]| crc32c(&[], bytes);
    // Two shards of 64 bytes, the second one filled up: five sums and two recovery shards.
    assert_eq!(parity.len(), 64 + 4 * 5 + 2 * 64);
    let large = parity_of(&bytes(70 * 64 + 9, 3), 64);
    // Checksum of the header, sums, recovery shards, and all of three groups.
    let parts = [&parity[60..64], &parity[64..84], &parity[84..], &large];
    assert_eq!(parts.map(hash), GOLDEN);
}

/// Of the bytes above; they were written by version 3.1.0 of the crate.
const GOLDEN: [u32; 4] = [927_843_254, 3_307_023_767, 3_383_489_536, 1_651_904_012];

#[test]
fn any_two_shards_of_a_group_are_made_again() {
    let whole = bytes(40 * 64 + 17, 1);
    let parity = parity_of(&whole, 64);
    for a in 0..32 {
        for b in a..32 {
            let mut object = whole.clone();
            object[a * 64..][..64].fill(0);
            object[b * 64 + 3] ^= 1;
            object[40 * 64] ^= 0x80;
            let damaged = if a == b { 2 } else { 3 };
            assert_eq!(heal(&mut object, &parity), Ok(damaged));
            assert!(object == whole);
        }
    }
}

#[test]
fn three_shards_are_told_to_be_lost() {
    let whole = bytes(32 * 64, 1);
    let parity = parity_of(&whole, 64);
    let mut object = whole.clone();
    object[..130].fill(1);
    let lost = Lost {
        shards: 3,
        recovery: 2,
    };
    assert_eq!(heal(&mut object, &parity), Err(lost));
}

#[test]
fn damaged_recovery_shards_are_not_used() {
    let whole = bytes(32 * 64, 1);
    let clean = parity_of(&whole, 64);
    for at in [64 + 35 * 4, 64 + 35 * 4 + 64 + 9] {
        let mut parity = clean.clone();
        parity[at] ^= 4;
        let mut object = whole.clone();
        object[700] ^= 1;
        assert_eq!(heal(&mut object, &parity), Ok(1));
        assert!(object == whole);
        object[..65].fill(0xff);
        assert!(heal(&mut object, &parity).is_err());
    }
}

#[test]
fn a_small_object_may_be_lost_as_a_whole() {
    for len in [1, 63, 64, 65, 128, 129, 5000, 65536, 131_072] {
        let whole = bytes(len, 9);
        let parity = parity_of(&whole, SHARD_MAX);
        assert!(
            parity.len() <= 64 + 5 * 4 + 2 * 64 + len.next_multiple_of(64),
            "{len}"
        );
        assert_eq!(heal(&mut Vec::new(), &parity).map(|n| n > 0), Ok(true));
        let mut object = Vec::new();
        heal(&mut object, &parity).unwrap();
        assert!(object == whole, "{len}");
    }
}

#[test]
fn the_head_may_be_written_last() {
    for len in [50, 2048, 2049, 9000] {
        let whole = bytes(len, 4);
        let mut builder = Builder::new(VID, PACK, 64);
        let mut blank = whole.clone();
        blank[..40].fill(0);
        builder.push(&blank).unwrap();
        let parity = builder.finish(&whole[..40]).unwrap();
        assert!(parity == parity_of(&whole, 64));
    }
}

#[test]
fn seven_percent_are_enough_for_full_packs() {
    for len in [2 << 20, 64 << 20, (128 << 20) - 77, (54 << 20) + 1] {
        let shape = Shape::new(VID, PACK, len, SHARD_MAX);
        assert!(
            shape.file_len() * 100 <= len * 7,
            "{len}: {}",
            shape.file_len()
        );
    }
}

#[test]
fn parity_of_another_object_or_volume_is_refused() {
    let parity = parity_of(&bytes(300, 2), 64);
    let len = parity.len() as u64;
    let others = [
        (VolumeId(1), PACK, len),
        (VID, Object::Pack(PackId(6)), len),
        (VID, Object::Segment(SegmentId(5)), len),
        (VID, PACK, len + 1),
    ];
    for (vid, object, len) in others {
        assert!(Shape::decode(&parity, vid, object, len).is_err());
    }
    for at in 0..HEADER_LEN {
        let mut bad = parity.clone();
        bad[at] ^= 1;
        assert!(Shape::decode(&bad, VID, PACK, len).is_err(), "byte {at}");
    }
    let shape = Shape::decode(&parity, VID, PACK, len).unwrap();
    let group = shape.group(0);
    for at in 0..group.sums_len() {
        let mut bad = parity.clone();
        bad[HEADER_LEN + at] ^= 1;
        assert!(group.sums(&bad[HEADER_LEN..]).is_err(), "byte {at}");
    }
}
