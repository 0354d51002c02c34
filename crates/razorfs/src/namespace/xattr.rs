//! Extended attributes.
//!
//! Keyed by the hash of the name and a collision number, as entries of directories are. An inode
//! without the flag `HAS_XATTR` has none, and no record is looked for.

use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{XATTR_NAME_MAX, XATTR_VALUE_MAX, Xattr, inode_flags, name_cookie};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::operation::{Operation, PLACE};
use crate::{Error, Result, XattrMode};

/// Attributes of the root whose names begin so are the volume's own: what it remembers of streams.
const OWN: &[u8] = b"razorfs.";

/// Whether an attribute is the volume's own, which nobody else sees or sets.
pub(super) fn is_own(ino: Ino, name: &[u8]) -> bool {
    ino == Ino::ROOT && name.starts_with(OWN)
}

fn check_settable(ino: Ino, name: &[u8]) -> Result<()> {
    match is_own(ino, name) {
        true => Err(Error::NotPermitted("the attribute is the volume's own")),
        false => check_name(name),
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        [] => Err(Error::Invalid("the attribute's name is empty")),
        name if name.len() > XATTR_NAME_MAX => Err(Error::NameTooLong),
        name if name.contains(&0) => Err(Error::Invalid("the attribute's name contains a NUL")),
        _ => Ok(()),
    }
}

impl Operation<'_> {
    pub(super) fn has_xattrs(&mut self, ino: Ino) -> Result<bool> {
        Ok(self.inode(ino)?.flags & inode_flags::HAS_XATTR != 0)
    }

    /// The attribute, or the key that it would get.
    pub(super) fn find_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(Key, Option<Xattr>)> {
        let hash = name_cookie(self.store.hash_key(), name) >> 8;
        let mut free = 0;
        let mut found = None;
        if self.has_xattrs(ino)? {
            let from = Key::xattr(Branch::HEAD, ino, hash, 0);
            let to = Key::xattr(Branch::HEAD, ino, hash + 1, 0);
            self.scan(&from, &to, |key, value| {
                if u16::from(key.xattr_seq()) == free {
                    free += 1;
                }
                let xattr = Xattr::decode(value, PLACE)?;
                if *xattr.name == *name {
                    found = Some((*key, Some(xattr)));
                }
                Ok(found.is_none())
            })?;
        }
        match (found, u8::try_from(free)) {
            (Some(found), _) => Ok(found),
            (None, Ok(seq)) => Ok((Key::xattr(Branch::HEAD, ino, hash, seq), None)),
            (None, Err(_)) => Err(Error::NoSpace),
        }
    }

    /// The attributes, until `each` answers false.
    pub(super) fn each_xattr(
        &self,
        ino: Ino,
        mut each: impl FnMut(&Key, Xattr) -> bool,
    ) -> Result<()> {
        let from = Key::xattr(Branch::HEAD, ino, 0, 0);
        let to = Key::xattr(Branch::HEAD, ino, u64::MAX, 0);
        self.scan(&from, &to, |key, value| {
            Ok(each(key, Xattr::decode(value, PLACE)?))
        })
    }

    fn xattrs_changed(&mut self, ino: Ino, any: bool) -> Result<()> {
        let now = self.now;
        let inode = self.change(ino)?;
        inode.ctime = now;
        if any {
            inode.flags |= inode_flags::HAS_XATTR;
        } else {
            inode.flags &= !inode_flags::HAS_XATTR;
        }
        Ok(())
    }

    fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check_settable(ino, name)?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(Error::AttributeTooLarge);
        }
        self.check_names_change(ino)?;
        let (key, old) = self.find_xattr(ino, name)?;
        let is_new = old.is_none();
        match (mode, old) {
            (XattrMode::Create, Some(_)) => return Err(Error::Exists),
            (XattrMode::Replace, None) => return Err(Error::NoAttribute),
            _ => {}
        }
        if !self.mode_follows(ino, name, value)? {
            if is_new {
                let any = self.has_xattrs(ino)?;
                return self.xattrs_changed(ino, any);
            }
            return self.take_out(ino, key);
        }
        let xattr = Xattr {
            name: name.into(),
            value: value.into(),
        };
        if is_new {
            self.put_new(key, xattr.to_bytes());
        } else {
            self.put(key, xattr.to_bytes());
        }
        self.xattrs_changed(ino, true)
    }

    /// Another value for an attribute that is there.
    pub(super) fn replace_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        let (key, _) = self.find_xattr(ino, name)?;
        let xattr = Xattr {
            name: name.into(),
            value: value.into(),
        };
        self.put(key, xattr.to_bytes());
        Ok(())
    }

    /// Removes the attribute at `gone`, which is there.
    pub(super) fn take_out(&mut self, ino: Ino, gone: Key) -> Result<()> {
        let mut others = false;
        self.each_xattr(ino, |key, _| {
            others |= *key != gone;
            !others
        })?;
        self.del(gone);
        self.xattrs_changed(ino, others)
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        check_settable(ino, name)?;
        self.check_names_change(ino)?;
        let (gone, old) = self.find_xattr(ino, name)?;
        if old.is_none() {
            return Err(Error::NoAttribute);
        }
        self.take_out(ino, gone)
    }
}

impl Namespace {
    /// Value of an attribute.
    pub(crate) fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        check_name(name)?;
        let _lock = self.locks.read(ino);
        let (_, xattr) = self.reader().find_xattr(ino, name)?;
        let xattr = xattr.filter(|_| !is_own(ino, name));
        Ok(xattr.ok_or(Error::NoAttribute)?.value)
    }

    /// Names of the attributes.
    pub(crate) fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        let _lock = self.locks.read(ino);
        let mut op = self.reader();
        let mut names = Vec::new();
        if op.has_xattrs(ino)? {
            op.each_xattr(ino, |_, xattr| {
                if !is_own(ino, &xattr.name) {
                    names.push(xattr.name);
                }
                true
            })?;
        }
        Ok(names)
    }

    /// Sets an attribute.
    pub(crate) fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let locks = self.locks.write(ino);
        let mut op = self.begin(OpType::Xattr)?;
        op.set_xattr(ino, name, value, mode)?;
        self.finish(op, locks)
    }

    /// Removes an attribute.
    pub(crate) fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let locks = self.locks.write(ino);
        let mut op = self.begin(OpType::Xattr)?;
        op.remove_xattr(ino, name)?;
        self.finish(op, locks)
    }
}
