//! Files as the C++ prototype wrote them, byte by byte after `docs/legacy.md`. Nothing of it is
//! shared with what reads them.
#![allow(dead_code, reason = "each user takes a part of it")]

/// Milliseconds since 1970 of all that is saved here.
pub const SAVED: u64 = 1_700_000_000_123;

/// What the prototype had in memory of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub ino: u64,
    pub path: Vec<u8>,
    /// `None` for a directory.
    pub bytes: Option<Vec<u8>>,
}

impl Known {
    pub fn file(ino: u64, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = Some(bytes.as_ref().to_vec());
        Self {
            bytes,
            ..Self::directory(ino, path)
        }
    }

    pub fn directory(ino: u64, path: impl AsRef<[u8]>) -> Self {
        Self {
            ino,
            path: path.as_ref().to_vec(),
            bytes: None,
        }
    }
}

/// CRC-32 as IEEE 802.3 has it, bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xEDB8_8320;
            }
        }
    }
    !crc
}

/// The dump.
pub fn dump(next: u64, all: &[Known]) -> Vec<u8> {
    let mut out = next.to_le_bytes().to_vec();
    let mut table = |records: Vec<(u64, &[u8])>| {
        out.extend((records.len() as u64).to_le_bytes());
        for (ino, bytes) in records {
            out.extend(ino.to_le_bytes());
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        }
    };
    table(
        all.iter()
            .map(|known| (known.ino, &known.path[..]))
            .collect(),
    );
    let contents = all.iter();
    table(
        contents
            .filter_map(|known| Some((known.ino, known.bytes.as_deref()?)))
            .collect(),
    );
    out
}

/// The 'razr' 1.0 file; with the checksum of the whole, or with the zero that stands there.
pub fn razr(next: u64, all: &[Known], summed: bool) -> Vec<u8> {
    let (mut strings, mut inodes, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for known in all {
        let bytes = known.bytes.as_deref();
        let mode: u16 = if bytes.is_some() {
            0o100_644
        } else {
            0o040_755
        };
        let len = bytes.map_or(0, <[u8]>::len);
        let start = if bytes.is_some() { data.len() } else { 0 };
        let mut inode = Vec::new();
        inode.extend(known.ino.to_le_bytes());
        inode.extend(parent(all, &known.path).to_le_bytes());
        inode.extend((strings.len() as u32).to_le_bytes());
        inode.extend(mode.to_le_bytes());
        inode.extend([0; 2]);
        inode.extend((len as u64).to_le_bytes());
        inode.extend(SAVED.to_le_bytes());
        inode.extend((start as u32).to_le_bytes());
        inode.extend((len as u32).to_le_bytes());
        inode.extend(crc(&inode).to_le_bytes());
        assert_eq!(inode.len(), 52);
        inodes.extend(inode);
        strings.extend((known.path.len() as u32).to_le_bytes());
        strings.extend(&known.path);
        data.extend(bytes.unwrap_or_default());
    }
    let mut out = 0x7261_7A72_u32.to_le_bytes().to_vec();
    out.extend([1, 0, 0, 0]);
    out.extend([0; 4]);
    out.extend(SAVED.to_le_bytes());
    out.extend(next.to_le_bytes());
    let mut at = 96;
    for section in [&strings, &inodes, &data] {
        out.extend((at as u32).to_le_bytes());
        out.extend((section.len() as u32).to_le_bytes());
        at += section.len();
    }
    out.extend([0; 8 + 4 + 32]);
    assert_eq!(out.len(), 96);
    let sum = crc(&out[8..92]);
    out[8..12].copy_from_slice(&sum.to_le_bytes());
    out.extend(strings);
    out.extend(inodes);
    out.extend(data);
    if summed {
        let sum = crc(&out[96..]);
        out[60..64].copy_from_slice(&sum.to_le_bytes());
    }
    out
}

/// The inode of the directory above, as the prototype's writer looked for it.
fn parent(all: &[Known], path: &[u8]) -> u64 {
    let above = path.iter().rposition(|byte| *byte == b'/');
    let above = above.filter(|slash| *slash > 0).map(|slash| &path[..slash]);
    let of = |above| all.iter().find(|known| known.path == above);
    // It took a walk through all inodes for each, which 100,000 files have no time for.
    let small = all.len() < 1000;
    above
        .filter(|_| small)
        .and_then(of)
        .map_or(0, |known| known.ino)
}

/// An entry of the journal.
pub fn entry(kind: u8, ino: u64, data: &[u8]) -> Vec<u8> {
    let mut out = 0x7261_7A72_u32.to_le_bytes().to_vec();
    out.extend([kind, 0, 0, 0]);
    out.extend((SAVED + 1000).to_le_bytes());
    out.extend(ino.to_le_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    assert_eq!(out.len(), 32);
    out.extend(data);
    let sum = crc(&out[4..]);
    out[28..32].copy_from_slice(&sum.to_le_bytes());
    out
}

pub fn created(ino: u64, path: &[u8], bytes: &[u8]) -> Vec<u8> {
    entry(1, ino, &[path, &[0], bytes].concat())
}

pub fn deleted(ino: u64) -> Vec<u8> {
    entry(2, ino, &[])
}

pub fn written(ino: u64, bytes: &[u8]) -> Vec<u8> {
    entry(3, ino, bytes)
}

pub fn checkpoint() -> Vec<u8> {
    entry(7, 0, &[])
}
