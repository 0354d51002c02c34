//! POSIX access lists: extended attributes whose content the permission bits follow, and the other
//! way round.
//!
//! The value is Linux's own: `version 2 u32 | entries of (tag u16 | permissions u16 | id u32)`,
//! little endian. Who may do what by them is checked where permissions are: by the kernel. Here
//! stand the three rules that change records: the mode follows a new list, the list follows a new
//! mode, and what is created in a directory gets its default list.

use razorfs_format::key::Key;
use razorfs_format::record::{FileKind, Inode, Xattr, inode_flags, name_cookie};
use razorfs_format::{Branch, Ino};

use super::operation::Operation;
use crate::{Error, Result};

/// The attribute with the access list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that what is created in a directory gets.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = [2, 0, 0, 0];
/// Bytes of an entry.
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The permission bits of owner, group and others.
const PERMISSIONS: u32 = 0o777;

const MALFORMED: Error = Error::Invalid("the access list is malformed");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: [u8; 4],
}

/// A list with one entry each for owner, group and others, and any number of named ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads a list. Entries come in the order owner, users, group, groups, mask, others.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let (version, rest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
        let (entries, rest) = rest.as_chunks::<ENTRY>();
        if *version != VERSION || !rest.is_empty() {
            return Err(MALFORMED);
        }
        let entries = entries
            .iter()
            .map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| Entry {
                tag: u16::from_le_bytes([t0, t1]),
                permissions: u16::from_le_bytes([p0, p1]),
                id: [i0, i1, i2, i3],
            });
        let acl = Self(entries.collect());
        if acl.is_valid() {
            Ok(acl)
        } else {
            Err(MALFORMED)
        }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        self.0.is_sorted_by_key(|entry| entry.tag)
            && self
                .0
                .iter()
                .all(|e| known.contains(&e.tag) && e.permissions <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER]
                .iter()
                .all(|&tag| count(tag) == 1)
            && (count(MASK) == 1 || count(MASK) == 0 && named == 0)
    }

    fn encode(&self) -> Box<[u8]> {
        let mut out = VERSION.to_vec();
        for entry in &self.0 {
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.permissions.to_le_bytes());
            out.extend_from_slice(&entry.id);
        }
        out.into()
    }

    /// Whether it says more than permission bits can.
    fn is_extended(&self) -> bool {
        self.0.len() > 3
    }

    /// The entry that the bits of the group stand for: the mask, where there is one.
    fn group_class(&self) -> u16 {
        match self.0.iter().any(|entry| entry.tag == MASK) {
            true => MASK,
            false => GROUP_OBJ,
        }
    }

    /// The three entries that permission bits stand for, with the position of the bits.
    fn classes(&mut self) -> impl Iterator<Item = (&mut Entry, u32)> {
        let group = self.group_class();
        self.0.iter_mut().filter_map(move |entry| match entry.tag {
            USER_OBJ => Some((entry, 6)),
            OTHER => Some((entry, 0)),
            tag if tag == group => Some((entry, 3)),
            _ => None,
        })
    }

    /// The permission bits that go with it.
    fn permissions(&mut self) -> u32 {
        let classes = self.classes();
        classes.fold(0, |mode, (entry, shift)| {
            mode | u32::from(entry.permissions) << shift
        })
    }

    /// Makes it go with these permission bits.
    fn follow(&mut self, mode: u32) {
        for (entry, shift) in self.classes() {
            entry.permissions = (mode >> shift & 7) as u16;
        }
    }

    /// Takes away what the mode of a new file does not grant, and answers the bits that are left.
    fn restrict(&mut self, mode: u32) -> u32 {
        let left = self.permissions() & mode & PERMISSIONS;
        self.follow(left);
        left
    }
}

/// What a new inode gets from the lists of its directory.
#[derive(Default)]
pub(super) struct Inherited {
    access: Option<Box<[u8]>>,
    default: Option<Box<[u8]>>,
}

impl Operation<'_> {
    fn acl(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Acl>> {
        if self.inode(ino)?.flags & inode_flags::HAS_XATTR == 0 {
            return Ok(None);
        }
        let (_, xattr) = self.find_xattr(ino, name)?;
        xattr.map(|xattr| Acl::decode(&xattr.value)).transpose()
    }

    /// The access list follows the mode, which has been changed.
    pub(super) fn access_list_follows(&mut self, ino: Ino) -> Result<()> {
        let mode = self.inode(ino)?.mode;
        if let Some(mut acl) = self.acl(ino, ACCESS)? {
            acl.follow(mode);
            self.replace_xattr(ino, ACCESS, &acl.encode())?;
        }
        Ok(())
    }

    /// Checks a list that is going to be set, and makes the mode follow it. Answers whether it is
    /// to be kept: one that says no more than the mode is not.
    pub(super) fn mode_follows(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<bool> {
        if name != ACCESS && name != DEFAULT {
            return Ok(true);
        }
        let kind = self.inode(ino)?.kind();
        if kind == FileKind::Symlink {
            return Err(Error::Unsupported("an access list of a symbolic link"));
        }
        let mut acl = Acl::decode(value)?;
        if name == DEFAULT {
            return match kind {
                FileKind::Directory => Ok(true),
                _ => Err(Error::Invalid("only a directory has a default access list")),
            };
        }
        let inode = self.change(ino)?;
        inode.mode = inode.mode & !PERMISSIONS | acl.permissions();
        Ok(acl.is_extended())
    }

    /// What `inode` gets from the lists of `parent`, in which it is going to be created; without
    /// any the umask takes from its mode.
    pub(super) fn inherit(
        &mut self,
        parent: Ino,
        inode: &mut Inode,
        umask: u32,
    ) -> Result<Inherited> {
        let mut inherited = Inherited::default();
        if inode.kind() == FileKind::Symlink {
            return Ok(inherited);
        }
        let Some(mut acl) = self.acl(parent, DEFAULT)? else {
            inode.mode &= !(umask & PERMISSIONS);
            return Ok(inherited);
        };
        if inode.is_dir() {
            inherited.default = Some(acl.encode());
        }
        let left = acl.restrict(inode.mode);
        inode.mode = inode.mode & !PERMISSIONS | left;
        if acl.is_extended() {
            inherited.access = Some(acl.encode());
        }
        if inherited.access.is_some() || inherited.default.is_some() {
            inode.flags |= inode_flags::HAS_XATTR;
        }
        Ok(inherited)
    }

    /// Writes what a new inode, which has been inserted, inherits.
    pub(super) fn put_inherited(&mut self, ino: Ino, inherited: Inherited) {
        let hash = |name| name_cookie(self.store.hash_key(), name) >> 8;
        let (access, default) = (hash(ACCESS), hash(DEFAULT));
        // Two names of one hash have different numbers.
        let second = u8::from(access == default && inherited.access.is_some());
        let lists = [
            (ACCESS, access, 0, inherited.access),
            (DEFAULT, default, second, inherited.default),
        ];
        for (name, hash, seq, value) in lists {
            if let Some(value) = value {
                let name = name.into();
                let key = Key::xattr(Branch::HEAD, ino, hash, seq);
                self.put_new(key, Xattr { name, value }.to_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_vec();
        for (tag, permissions, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&permissions.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    const NONE: u32 = u32::MAX;
    const SMALL: [(u16, u16, u32); 3] = [(1, 6, NONE), (4, 4, NONE), (32, 4, NONE)];
    const LARGE: [(u16, u16, u32); 6] = [
        (1, 7, NONE),
        (2, 6, 5),
        (4, 5, NONE),
        (8, 1, 7),
        (16, 6, NONE),
        (32, 0, NONE),
    ];

    #[test]
    fn lists_survive_and_show_their_mode() {
        for (entries, mode) in [(&SMALL[..], 0o644), (&LARGE[..], 0o760)] {
            let bytes = list(entries);
            let mut acl = Acl::decode(&bytes).unwrap();
            assert_eq!(*acl.encode(), *bytes);
            assert_eq!(acl.permissions(), mode);
            assert_eq!(acl.is_extended(), entries.len() > 3);
            acl.follow(0o123);
            assert_eq!(acl.permissions(), 0o123);
        }
        // The mask follows, and the group's own entry stays.
        let mut acl = Acl::decode(&list(&LARGE)).unwrap();
        acl.follow(0o711);
        let group = acl.0.iter().find(|entry| entry.tag == GROUP_OBJ).unwrap();
        assert_eq!(group.permissions, 5);
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = list(&LARGE);
        assert!(Acl::decode(&good).is_ok());
        for cut in 0..good.len() {
            assert!(Acl::decode(&good[..cut]).is_err(), "{cut}");
        }
        let without = |n: usize| {
            let mut entries = LARGE.to_vec();
            entries.remove(n);
            list(&entries)
        };
        for n in [0, 2, 4, 5] {
            assert!(Acl::decode(&without(n)).is_err(), "{n}");
        }
        let mut twice = SMALL.to_vec();
        twice.push(SMALL[2]);
        let mut unknown = SMALL;
        unknown[2].0 = 64;
        let mut much = SMALL;
        much[0].1 = 8;
        let mut unsorted = SMALL;
        unsorted.swap(0, 1);
        for bad in [twice, unknown.into(), much.into(), unsorted.into()] {
            assert!(Acl::decode(&list(&bad)).is_err(), "{bad:?}");
        }
        let mut version = good;
        version[0] = 1;
        assert!(Acl::decode(&version).is_err());
    }
}
