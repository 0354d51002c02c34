//! The journal's bytes: golden, read back, and every flipped bit noticed.

use proptest::prelude::*;

use super::*;
use crate::layout::FileName;

const VID: VolumeId = VolumeId(0x1122_3344_5566_7788);

fn place() -> Place {
    Place::new(FileName::Journal(0), 0)
}

fn header(seq: u64) -> BatchHeader {
    BatchHeader {
        seq: BatchSeq(seq),
        first_lsn: Lsn(0x21),
        n_ops: 0x22,
        payload_len: 0,
        durable: BatchSeq(0x23),
        generation: Generation(0x24),
        wall_ns: 0x25,
        flags: 0,
        payload_crc: 0,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a reader makes of a batch's bytes: every sector stamped right, header and payload intact.
fn read(jid: Jid, first: u32, seq: u64, bytes: &[u8]) -> Option<(BatchHeader, Vec<u8>)> {
    let mut head = None;
    for (i, sector) in bytes.chunks_exact(SECTOR).enumerate() {
        let sector: &[u8; SECTOR] = sector.try_into().unwrap();
        match Sector::read(VID, first + i as u32, sector) {
            Sector::Stamped {
                jid: j,
                seq_lo,
                payload,
            } if j == jid && seq_lo == seq as u32 => {
                if i == 0 {
                    head = BatchHeader::decode(VID, jid, seq_lo, payload, place()).ok();
                }
            }
            _ => return None,
        }
    }
    let head = head?;
    let payload = read_payload(VID, jid, &head, bytes, place()).ok()?;
    Some((head, payload))
}

#[test]
fn golden_file_header() {
    let h = FileHeader {
        jid: Jid(0x31),
        previous: Jid(0x32),
        slot: 0x33,
        copy: 0,
        len: 0x2000,
    };
    let v = h.encode(VID);
    assert_eq!(
        hex(&v[4..52]),
        concat!(
            "3100000000000000",
            "525a4a4601000000",
            "8877665544332211",
            "3100000032000000",
            "3300000000000000",
            "0020000000000000",
        )
    );
    assert_eq!(v.len(), SECTOR);
    assert!(v[52..].iter().all(|&b| b == 0));
    let crc = crc32c(&[VID.0, 0x31 << 32, 0], &v[SECTOR_HEAD..]);
    assert_eq!(v[..4], crc.to_le_bytes());
    assert_eq!(FileHeader::decode(VID, &v, place()), Ok(h));
    assert!(FileHeader::decode(VolumeId(1), &v, place()).is_err());
}

#[test]
fn golden_batch() {
    let mut h = header(0x1_0000_0007);
    let mut v = Vec::new();
    encode_batch(VID, Jid(5), 8, &mut h, b"abc", &mut v);
    assert_eq!(v.len(), UNIT);
    assert_eq!(hex(&v[4..12]), "0500000007000000");
    assert_eq!(
        hex(&v[12..68]),
        concat!(
            "525a4a4240000000",
            "0700000001000000",
            "2100000000000000",
            "2200000003000000",
            "2300000000000000",
            "2400000000000000",
            "2500000000000000",
        )
    );
    let seed = [VID.0, 5, 0x1_0000_0007];
    assert_eq!(v[68..72], crc32c(&seed, b"abc").to_le_bytes());
    assert_eq!(v[72..76], crc32c(&seed, &v[12..72]).to_le_bytes());
    assert_eq!(&v[76..79], b"abc");
    assert_eq!(
        v[..4],
        crc32c(&[VID.0, 5 << 32 | 7, 8], &v[12..512]).to_le_bytes()
    );
    assert_eq!(
        v[512..516],
        crc32c(&[VID.0, 5 << 32 | 7, 9], &[0; 500]).to_le_bytes()
    );
}

#[test]
fn extents_and_room_agree() {
    for units in 1..40u64 {
        let room = payload_room(units * UNIT as u64) as usize;
        assert_eq!(extent_bytes(room), units as usize * UNIT);
        assert_eq!(extent_bytes(room + 1), (units as usize + 1) * UNIT);
    }
    assert_eq!(extent_bytes(0), UNIT);
    assert_eq!(payload_room(0), 0);
}

#[test]
fn a_sector_is_only_itself() {
    let mut zero = [0; SECTOR];
    assert_eq!(Sector::read(VID, 9, &zero), Sector::Zero);
    zero[511] = 1;
    assert_eq!(Sector::read(VID, 9, &zero), Sector::Bad);
    let mut v = Vec::new();
    encode_batch(VID, Jid(5), 8, &mut header(7), b"abc", &mut v);
    let sector: &[u8; SECTOR] = v[..SECTOR].try_into().unwrap();
    assert!(matches!(
        Sector::read(VID, 8, sector),
        Sector::Stamped {
            jid: Jid(5),
            seq_lo: 7,
            ..
        }
    ));
    assert_eq!(Sector::read(VID, 9, sector), Sector::Bad, "misplaced");
    assert_eq!(
        Sector::read(VolumeId(0), 8, sector),
        Sector::Bad,
        "of another volume"
    );
}

#[test]
fn every_flipped_bit_of_a_batch_is_noticed() {
    let mut v = Vec::new();
    encode_batch(VID, Jid(5), 8, &mut header(7), &[7; 600], &mut v);
    assert!(read(Jid(5), 8, 7, &v).is_some());
    for bit in 0..v.len() * 8 {
        v[bit / 8] ^= 1 << (bit % 8);
        let sector: &[u8; SECTOR] = v
            .chunks_exact(SECTOR)
            .nth(bit / 8 / SECTOR)
            .unwrap()
            .try_into()
            .unwrap();
        let number = 8 + (bit / 8 / SECTOR) as u32;
        assert_eq!(Sector::read(VID, number, sector), Sector::Bad, "bit {bit}");
        v[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn batches_read_back_and_move(
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
        jid in 1u32.., first in 1u32..1000, seq: u64, to_jid in 1u32.., to_first in 1u32..1000,
    ) {
        let mut h = header(seq);
        let mut v = vec![1; 77];
        encode_batch(VID, Jid(jid), first, &mut h, &payload, &mut v);
        prop_assert_eq!(v.len(), extent_bytes(payload.len()));
        prop_assert_eq!(read(Jid(jid), first, seq, &v), Some((h, payload.clone())));
        move_batch(VID, Jid(to_jid), to_first, &mut h, &mut v);
        let mut again = Vec::new();
        let mut h2 = header(seq);
        encode_batch(VID, Jid(to_jid), to_first, &mut h2, &payload, &mut again);
        prop_assert_eq!(v, again);
        prop_assert_eq!(h, h2);
    }

    #[test]
    fn any_bytes_give_an_answer(
        mut bytes in proptest::collection::vec(any::<u8>(), SECTOR..2 * UNIT), fix: u8, len: u32,
    ) {
        // Some of the inputs carry right checksums, so that the fields behind them are reached.
        if fix & 1 != 0 {
            bytes[SECTOR_HEAD..SECTOR_HEAD + 4].copy_from_slice(
                if fix & 2 != 0 { b"RZJF" } else { b"RZJB" },
            );
            let whole = bytes.len() / SECTOR * SECTOR;
            stamp(VID, Jid(3), 0, 0, &mut bytes[..whole]);
        }
        let _ = FileHeader::decode(VID, &bytes, place());
        let _ = BatchHeader::decode(VID, Jid(3), 0, &bytes[SECTOR_HEAD..], place());
        let mut h = header(3);
        h.payload_len = len >> (fix & 31);
        let _ = read_payload(VID, Jid(3), &h, &bytes, place());
    }
}
