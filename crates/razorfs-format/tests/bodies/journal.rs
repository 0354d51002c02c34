//! Sectors, file headers, batches, operations.

use razorfs_format::Jid;
use razorfs_format::crc::crc32c;
use razorfs_format::journal::{
    BATCH_HEADER, BatchHeader, FileHeader, SECTOR, SECTOR_HEAD, SECTOR_PAYLOAD, Sector,
    encode_batch, extent_bytes, move_batch, offset, read_payload, split_link,
};
use razorfs_format::op::{decode_ops, encode_op};

use super::{HERE, Source, VID, fit, put};

fn stamped(jid: Jid, seq_lo: u32, number: u32, payload: &[u8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    put(&mut sector, 4, &jid.0.to_le_bytes());
    put(&mut sector, 8, &seq_lo.to_le_bytes());
    put(&mut sector, SECTOR_HEAD, &fit(payload, SECTOR_PAYLOAD));
    let life = u64::from(jid.0) << 32 | u64::from(seq_lo);
    let crc = crc32c(&[VID.0, life, u64::from(number)], &sector[SECTOR_HEAD..]);
    put(&mut sector, 0, &crc.to_le_bytes());
    sector
}

pub fn sector(data: &[u8]) {
    let mut raw = [0; SECTOR];
    put(&mut raw, 0, &fit(data, SECTOR));
    let zeros = raw == [0; SECTOR];
    match Sector::read(VID, 3, &raw) {
        Sector::Zero => assert!(zeros),
        Sector::Stamped { .. } | Sector::Bad => assert!(!zeros),
    }
    let mut from = Source(data);
    let (jid, seq, number) = (Jid(from.u32()), from.u32(), from.u32());
    let mut sector = stamped(jid, seq, number, from.0);
    match Sector::read(VID, number, &sector) {
        Sector::Stamped {
            jid: j, seq_lo: s, ..
        } => assert_eq!((j, s), (jid, seq)),
        other => panic!("{other:?}"),
    }
    // One bit makes it another sector, and so does another place.
    let bit = from.u16() as usize % (SECTOR * 8);
    sector[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(Sector::read(VID, number, &sector), Sector::Bad);
    sector[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(Sector::read(VID, number ^ 1, &sector), Sector::Bad);
}

pub fn header(data: &[u8]) {
    let _ = FileHeader::decode(VID, data, HERE);
    let mut from = Source(data);
    let (jid, seq) = (Jid(from.u32()), u32::from(from.u8() == 255));
    let mut payload = fit(from.0, SECTOR_PAYLOAD);
    put(&mut payload, 0, b"RZJF\x01\0");
    put(&mut payload, 8, &VID.0.to_le_bytes());
    put(&mut payload, 16, &jid.0.to_le_bytes());
    let sector = stamped(jid, seq, 0, &payload);
    if let Ok(header) = FileHeader::decode(VID, &sector, HERE) {
        let again = FileHeader::decode(VID, &header.encode(VID), HERE);
        assert_eq!(again, Ok(header));
    }
}

pub fn batch(data: &[u8]) {
    let mut from = Source(data);
    let jid = Jid(from.u32());
    let _ = BatchHeader::decode(VID, jid, from.u32(), from.0, HERE);
    // A header with the right magic and checksum that says anything else.
    let mut head = fit(from.slice(BATCH_HEADER), BATCH_HEADER);
    put(&mut head, offset::MAGIC, b"RZJB");
    put(
        &mut head,
        offset::HDR_LEN,
        &(BATCH_HEADER as u16).to_le_bytes(),
    );
    let seq = u64::from_le_bytes(head[offset::SEQ..][..8].try_into().unwrap());
    let seed = [VID.0, u64::from(jid.0), seq];
    let crc = crc32c(&seed, &head[..offset::HEADER_CRC]);
    put(&mut head, offset::HEADER_CRC, &crc.to_le_bytes());
    let mut header = BatchHeader::decode(VID, jid, seq as u32, &head, HERE).unwrap();
    // The payload is not what the header says, unless by a miracle.
    let _ = read_payload(VID, jid, &header, from.0, HERE);
    let payload = from.0;
    let mut bytes = Vec::new();
    encode_batch(VID, jid, 8, &mut header, payload, &mut bytes);
    assert_eq!(bytes.len(), extent_bytes(payload.len()));
    let read = read_payload(VID, jid, &header, &bytes, HERE);
    // What it says is a link is one, and no part of the payload.
    let (payload, _) = split_link(&header, payload);
    assert_eq!(read.as_deref(), Ok(payload));
    move_batch(VID, jid.next_life(), 16, &mut header, &mut bytes);
    let read = read_payload(VID, jid.next_life(), &header, &bytes, HERE);
    assert_eq!(read.as_deref(), Ok(payload));
    let first = &bytes[SECTOR_HEAD..SECTOR];
    let again = BatchHeader::decode(VID, jid.next_life(), seq as u32, first, HERE);
    assert_eq!(again, Ok(header));
}

trait NextLife {
    fn next_life(self) -> Self;
}

impl NextLife for Jid {
    fn next_life(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Operations have one encoding.
pub fn ops(data: &[u8]) {
    if let Ok(ops) = decode_ops(data, HERE) {
        let mut again = Vec::new();
        for op in &ops {
            let mut inner = Vec::new();
            for mutation in &op.mutations {
                mutation.encode(&mut inner);
            }
            encode_op(op.ty, &inner, &mut again);
        }
        assert_eq!(again, data);
    }
}
