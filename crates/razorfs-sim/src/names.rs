//! The few names that workloads use, by number: collisions are what finds bugs.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Number of a name.
pub type NameId = u16;

/// One past the largest number of a name.
pub const COUNT: NameId = 320;
/// The number of a name that is one byte too long.
pub const TOO_LONG: NameId = COUNT;
/// Names of this number and above stand for themselves only in bulk directories.
pub const ODD: NameId = 12;

fn make(id: NameId) -> Vec<u8> {
    match id {
        0..8 => vec![b'a' + id as u8],
        8 => vec![b'L'; 255],
        9 => b"\xff\xfe not UTF-8 \x01".to_vec(),
        10 => b"deadbeefdeadbeefdeadbeefdeadbeef".to_vec(),
        11 => b"...".to_vec(),
        TOO_LONG => vec![b'x'; 256],
        n if n % 3 == 0 => {
            let hash = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("{hash:016x}").into_bytes()
        }
        n => format!("file-{n:04}.txt").into_bytes(),
    }
}

/// The bytes of a name.
#[must_use]
pub fn bytes(id: NameId) -> &'static [u8] {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..=TOO_LONG).map(make).collect());
    all.get(usize::from(id)).map_or(b"?", Vec::as_slice)
}

/// The number of a name, if it is one of ours.
#[must_use]
pub fn id(name: &[u8]) -> Option<NameId> {
    static ALL: OnceLock<HashMap<&'static [u8], NameId>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..=TOO_LONG).map(|id| (bytes(id), id)).collect());
    all.get(name).copied()
}

/// Extended attributes' names: those of a name, in the `user` name space.
#[must_use]
pub fn xattr(id: NameId) -> Vec<u8> {
    let mut name = b"user.".to_vec();
    let room = if id == TOO_LONG { 256 } else { 250 };
    name.extend(bytes(id).iter().take(room));
    name
}

/// The number of an extended attribute's name, if it is one of ours.
#[must_use]
pub fn xattr_id(name: &[u8]) -> Option<NameId> {
    let rest = name.strip_prefix(b"user.")?;
    if rest.len() == 250 { Some(8) } else { id(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_number() {
        for n in 0..=TOO_LONG {
            assert_eq!(id(bytes(n)), Some(n));
        }
        for n in 0..COUNT {
            assert_eq!(xattr_id(&xattr(n)), Some(n));
            assert!(xattr(n).len() <= 255);
        }
    }
}
