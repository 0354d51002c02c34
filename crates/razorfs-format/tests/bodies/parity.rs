//! Parity, and the record of a scrub.

use razorfs_format::crc::crc32c;
use razorfs_format::parity::{HEADER_LEN, Object, Shape, claimed};
use razorfs_format::scrub::Record;

use super::{PACK, Source, VID, fit, put};

/// A header, and then a group of which any bytes are damaged.
pub fn parity(data: &[u8]) {
    let object = Object::Pack(PACK);
    let _ = Shape::decode(data, VID, object, data.len() as u64);
    let _ = claimed(data);
    let mut from = Source(data);
    let file_len = u64::from(from.u32());
    let mut bytes = fit(from.0, HEADER_LEN);
    put(&mut bytes, 0, b"RZRQ\x01\0\x01\x02");
    put(&mut bytes, 8, &VID.0.to_le_bytes());
    put(&mut bytes, 16, &PACK.0.to_le_bytes());
    put(&mut bytes, 36, &[32, 0]);
    put(&mut bytes, 38, &[0; 22]);
    let crc = crc32c(&[VID.0, 1, PACK.0], &bytes[..60]);
    put(&mut bytes, 60, &crc.to_le_bytes());
    if let Ok(shape) = Shape::decode(&bytes, VID, object, file_len) {
        assert_eq!(shape.encode(), bytes);
        assert_eq!(claimed(&bytes), Some((VID, object)));
        assert!(shape.group_of(shape.len - 1) == shape.groups() - 1);
    }
    group(data);
}

fn group(data: &[u8]) {
    let mut from = Source(data);
    let len = u64::from(from.u16()) + 1;
    let shape = Shape::new(VID, Object::Pack(PACK), len, u32::from(from.u16()));
    let group = shape.group(u32::from(from.u8()) % shape.groups());
    let whole = fit(from.0, group.padded());
    let mut record = group.encode(&whole).expect("shards of the right length");
    let sums = group.sums(&record).expect("what was just made");
    assert_eq!(group.bad_shards(&sums, &whole, &[]), []);
    let mut damaged = whole.clone();
    for _ in 0..from.u8() % 4 {
        let at = usize::from(from.u16());
        let (size, turn) = (damaged.len(), from.u8());
        damaged[at % size] ^= turn;
        let at = group.sums_len() + at % (record.len() - group.sums_len());
        record[at] ^= from.u8() & 1;
    }
    let bad = group.bad_shards(&sums, &damaged, &[]);
    let left = 2 - group.bad_recovery(&sums, &record);
    let healed = group.heal(&sums, &mut damaged, &bad, &record).is_ok();
    assert_eq!(healed, bad.len() <= left);
    assert!(!healed || damaged == whole);
    let any = fit(data, group.record_len());
    if let Ok(sums) = group.sums(&any) {
        let bad = group.bad_shards(&sums, &damaged, &[0]);
        let _ = group.heal(&sums, &mut damaged, &bad, &any);
    }
}

/// A record has one encoding.
pub fn scrub(data: &[u8]) {
    let _ = Record::decode(data, VID);
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(98), 0);
    put(&mut bytes, 0, b"RZSC\x01\0");
    put(&mut bytes, 8, &VID.0.to_le_bytes());
    let crc = crc32c(&[VID.0], &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    if let Ok(record) = Record::decode(&bytes, VID) {
        let again = record.encode(VID);
        assert_eq!(Record::decode(&again, VID).as_ref(), Ok(&record));
    }
}
