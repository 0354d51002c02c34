//! Integers, keys and the values of records. None of them has a checksum of its own.

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::{DIRECTORIES, FileName};
use razorfs_format::record::{Dirent, Extent, Held, Inode, Orphan, Shared, Xattr, is_name};
use razorfs_format::wire::{Put, Take};

use super::HERE;

/// Varints and strings have one form, so what was taken is what putting it gives.
pub fn wire(data: &[u8]) {
    let mut t = Take::new(data, HERE, "fuzz");
    let mut again = Vec::new();
    while !t.is_empty() {
        let before = t;
        let mut one = Vec::new();
        let read = match again.len() % 3 {
            0 => t.varint().map(|v| one.put_varint(v)),
            1 => t.signed().map(|v| one.put_signed(v)),
            _ => t.bytes(1 << 20).map(|v| one.put_bytes(v)),
        };
        if let Err(e) = read {
            assert!(!e.to_string().is_empty());
            t = before;
            break;
        }
        again.extend_from_slice(&one);
    }
    assert!(data.starts_with(&again));
    assert_eq!(again.len() + t.rest().len(), data.len());
}

/// A key is its bytes, and its order theirs.
pub fn key(data: &[u8]) {
    for start in 0..data.len().min(64) {
        for tag in Tag::ALL {
            let Some(bytes) = data.get(start..start + tag.key_len()) else {
                continue;
            };
            let Some(key) = Key::from_bytes(bytes) else {
                continue;
            };
            assert_eq!(key.as_bytes(), bytes);
            let next = key.successor();
            let wrapped = bytes.iter().skip(1).all(|b| *b == 0xff);
            assert!(next > key || wrapped);
            let _ = (key.branch(), key.ino(), key.pack(), key.xattr_seq());
            if tag.key_len() >= 21 {
                let _ = key.second();
            }
            assert!(!format!("{key:?}").is_empty());
        }
    }
    let mut padded = data.to_vec();
    padded.resize(64, 0);
    for tag in Tag::ALL {
        padded[0] = tag as u8;
        let key = Key::from_bytes(&padded[..tag.key_len()]);
        assert_eq!(key.map(|k| k.tag()), Some(tag));
    }
}

pub fn inode(data: &[u8]) {
    if let Ok(inode) = Inode::decode(data, HERE) {
        assert_eq!(&*inode.to_bytes(), data);
        let _ = (inode.kind(), inode.is_dir());
    }
}

pub fn dirent(data: &[u8]) {
    if let Ok(dirent) = Dirent::decode(data, HERE) {
        assert_eq!(&*dirent.to_bytes(), data);
        assert!(is_name(&dirent.name));
    }
}

pub fn extent(data: &[u8]) {
    if let Ok(extent) = Extent::decode(data, HERE) {
        assert_eq!(&*extent.to_bytes(), data);
        let ends = extent.fragments.iter().map(|f| (f.off, f.end()));
        assert!(ends.clone().zip(ends.skip(1)).all(|(a, b)| a.1 <= b.0));
    }
}

pub fn orphan(data: &[u8]) {
    if let Ok(orphan) = Orphan::decode(data, HERE) {
        assert_eq!(&*orphan.to_bytes(), data);
    }
}

pub fn held(data: &[u8]) {
    if let Ok(held) = Held::decode(data, HERE) {
        assert_eq!(&*held.to_bytes(), data);
    }
}

pub fn shared(data: &[u8]) {
    if let Ok(shared) = Shared::decode(data, HERE) {
        assert_eq!(&*shared.to_bytes(), data);
    }
}

pub fn xattr(data: &[u8]) {
    if let Ok(xattr) = Xattr::decode(data, HERE) {
        assert_eq!(&*xattr.to_bytes(), data);
    }
}

/// A file of the volume has one spelling.
pub fn file_name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for dir in DIRECTORIES.into_iter().chain([""]) {
        for leaf in [
            text.to_string(),
            format!("J-{text}"),
            format!("S-{text}.rs"),
        ] {
            if let Some(name) = FileName::parse(dir, &leaf) {
                assert_eq!((name.dir(), name.leaf()), (dir, leaf));
            }
        }
    }
}
