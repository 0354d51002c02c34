//! Superblock and manifest.

use razorfs_format::crc::crc32c;
use razorfs_format::manifest::Manifest;
use razorfs_format::superblock::{FAMILY, MAGIC, MAJOR, SLOT, SLOTS, Superblock, offset, pick};
use razorfs_format::wire::Put;
use razorfs_format::{Generation, ManifestId};

use super::{Source, VID, fit, put};

pub fn superblock(data: &[u8]) {
    let mut slots = Vec::new();
    for slot in 0..SLOTS {
        let raw = data.get(slot * SLOT..).unwrap_or_default();
        slots.push(Superblock::decode(slot, raw));
    }
    let mut bytes = fit(data, SLOT);
    put(&mut bytes, offset::MAGIC, &MAGIC.to_le_bytes());
    put(&mut bytes, offset::VERSION, &MAJOR.to_le_bytes());
    put(&mut bytes, offset::FAMILY, &FAMILY);
    for slot in 0..SLOTS {
        let crc = crc32c(&[slot as u64], &bytes[..offset::CRC]);
        put(&mut bytes, offset::CRC, &crc.to_le_bytes());
        let read = Superblock::decode(slot, &bytes);
        if let Ok(s) = &read {
            // Bytes that nothing reads may differ, what they mean may not.
            assert_eq!(Superblock::decode(slot, &s.encode(slot)).as_ref(), Ok(s));
            let _ = (s.vid(), s.clean_end(), s.features.access());
            assert!(Superblock::decode((slot + 1) % SLOTS, &bytes).is_err());
        }
        slots.push(read);
    }
    if let Some((at, newest)) = pick(&slots) {
        assert_eq!(slots[at].as_ref(), Ok(newest));
    }
}

pub fn manifest(data: &[u8]) {
    let id = ManifestId(9);
    let _ = Manifest::decode(data, VID, id);
    let mut from = Source(data);
    let shape = from.u8();
    let generation = Generation(from.u64());
    let mut sections: Vec<(u32, &[u8])> = Vec::new();
    // Lines and branches are there or not.
    let most = 5 + u32::from(shape % 3);
    for kind in 1..=most {
        let len = if kind == 3 {
            64
        } else {
            usize::from(from.u8())
        };
        sections.push((kind, from.slice(len)));
    }
    // Mostly the kinds in order, sometimes others.
    match shape {
        250 => sections.push((from.u32(), from.slice(20))),
        251 => sections.reverse(),
        252 => drop(sections.pop()),
        _ => {}
    }
    let bytes = sealed_manifest(id, generation, &sections);
    if let Ok(manifest) = Manifest::decode(&bytes, VID, id) {
        let again = manifest.to_bytes(VID);
        // What says nothing is left out, and snapshots get their order.
        if sections.len() == 5 && manifest.timeline.is_trivial() {
            assert_eq!(again, bytes);
        }
        assert_eq!(Manifest::decode(&again, VID, id), Ok(manifest));
        assert!(Manifest::decode(&bytes, VID, id.next()).is_err());
    }
}

fn sealed_manifest(id: ManifestId, generation: Generation, sections: &[(u32, &[u8])]) -> Vec<u8> {
    let len = 48 + sections.iter().map(|(_, p)| p.len() + 12).sum::<usize>() + 4;
    let mut out = b"RZMF".to_vec();
    out.put_u16(1);
    out.put_u16(0);
    out.put_u64(VID.0);
    out.put_u64(id.0);
    out.put_u64(generation.0);
    out.put_u64(len as u64);
    out.put_u32(sections.len() as u32);
    let crc = crc32c(&[VID.0, id.0], &out);
    out.put_u32(crc);
    for (kind, payload) in sections {
        let start = out.len();
        out.put_u32(*kind);
        out.put_u32(payload.len() as u32);
        out.extend_from_slice(payload);
        let crc = crc32c(&[VID.0, id.0, u64::from(*kind)], &out[start..]);
        out.put_u32(crc);
    }
    let crc = crc32c(&[VID.0, id.0], &out);
    out.put_u32(crc);
    out
}
