//! Attributes, three ways: what the branch began with, what it has now, and what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use razorfs::{FileKind, Time};

use super::{Item, Sides};
use crate::failure::Result;
use crate::tree::{Attributes, HostTree, Meta, Tree, Xattr};

type Xattrs = BTreeMap<OsString, Vec<u8>>;

/// What a path is to have on the host: what was changed in the branch, and else what the host has.
pub struct Wanted {
    kind: FileKind,
    owner: (u32, u32),
    mode: u32,
    xattrs: Xattrs,
    /// As the branch has it, and whether that was changed there.
    atime: (Time, bool),
    mtime: (Time, bool),
    /// What the host has now.
    there: Option<(Meta, Xattrs)>,
    /// What both have changed, in words.
    pub clashes: BTreeSet<&'static str>,
}

/// What is to be, and whether both have changed it.
fn merge<T: PartialEq + Clone>(before: Option<&T>, after: &T, there: Option<&T>) -> (T, bool) {
    let Some(there) = there else {
        return (after.clone(), false);
    };
    if before == Some(after) {
        return (there.clone(), false);
    }
    (
        after.clone(),
        there != after && before.is_none_or(|before| before != there),
    )
}

fn sorted(xattrs: Vec<Xattr>) -> Xattrs {
    xattrs.into_iter().collect()
}

impl Wanted {
    /// Finds it out for a path that has `after` in the branch and `there` on the host.
    pub fn find(
        sides: &Sides<'_>,
        host: &HostTree,
        (path, item): (&Path, &Item),
        (after, there): (&Meta, Option<Meta>),
    ) -> Result<Self> {
        // What becomes another kind of file is made anew.
        let before = item.before.filter(|meta| meta.kind == after.kind);
        let there = there.filter(|meta| meta.kind == after.kind);
        let there = match there {
            Some(there) => Some((there, sorted(host.xattrs(path)?))),
            None => None,
        };
        let old = match before {
            Some(_) => sorted(sides.before.xattrs(path)?),
            None => Xattrs::new(),
        };
        let new = sorted(sides.after.xattrs(path)?);
        let mut clashes = BTreeSet::new();
        let host_meta = there.as_ref().map(|(meta, _)| meta);
        let mut number = |of: fn(&Meta) -> u32, why| {
            let host = host_meta.map(of);
            let merged = merge(before.as_ref().map(of).as_ref(), &of(after), host.as_ref());
            if merged.1 {
                clashes.insert(why);
            }
            merged.0
        };
        const OWNER: &str = "its owner is neither that which the branch began with nor the new one";
        let owner = (
            number(|meta| meta.uid, OWNER),
            number(|meta| meta.gid, OWNER),
        );
        const MODE: &str = "its mode is neither that which the branch began with nor the new one";
        let mode = number(|meta| meta.mode, MODE);
        // As long as it is worked in, a new directory can be entered.
        let is_ours = host_meta.is_some_and(|meta| meta.is_dir() && meta.mode == mode | 0o700);
        if before.is_none() && is_ours {
            clashes.remove(MODE);
        }
        if !rustix::process::geteuid().is_root() {
            // Others cannot change it, so it is as good as any.
            clashes.remove(OWNER);
        }
        let mut xattrs = match &there {
            Some((_, xattrs)) => xattrs.clone(),
            None => new.clone(),
        };
        for name in old.keys().chain(new.keys()) {
            let host = there.as_ref().map(|(_, xattrs)| xattrs.get(name));
            let (value, both) = merge(Some(&old.get(name)), &new.get(name), host.as_ref());
            if both {
                clashes.insert(
                    "an extended attribute of it is neither as the branch began with it nor as it \
                     is there now",
                );
            }
            match value.cloned() {
                Some(value) => xattrs.insert(name.clone(), value),
                None => xattrs.remove(name),
            };
        }
        let changed =
            |of: fn(&Meta) -> Time| (of(after), before.map(|b| of(&b)) != Some(of(after)));
        Ok(Self {
            kind: after.kind,
            owner,
            mode,
            xattrs,
            atime: changed(|meta| meta.atime),
            mtime: changed(|meta| meta.mtime),
            there,
            clashes,
        })
    }

    /// All of them, for a file that is new on the host.
    pub fn all(&self) -> Attributes {
        let xattrs = self.xattrs.iter();
        Attributes {
            owner: Some(self.owner),
            xattrs: xattrs
                .map(|(name, value)| (name.clone(), Some(value.clone())))
                .collect(),
            mode: self.settable(self.mode),
            atime: Some(self.atime.0),
            mtime: Some(self.mtime.0),
        }
    }

    /// A new directory that can be worked in.
    pub fn of_new_dir(&self) -> Attributes {
        Attributes {
            mode: Some(self.mode | 0o700),
            ..self.all()
        }
    }

    /// Those that are others on the host.
    pub fn changes(&self) -> Attributes {
        let Some((meta, there)) = &self.there else {
            return self.all();
        };
        let names: BTreeSet<&OsString> = there.keys().chain(self.xattrs.keys()).collect();
        let names = names.into_iter();
        let xattrs: Vec<_> = names
            .filter(|name| there.get(*name) != self.xattrs.get(*name))
            .map(|name| (name.clone(), self.xattrs.get(name).cloned()))
            .collect();
        let owner = Some(self.owner).filter(|owner| *owner != (meta.uid, meta.gid));
        // A new owner and an access list change it.
        let is_other = meta.mode != self.mode || owner.is_some() || !xattrs.is_empty();
        let time = |(time, is_changed): (Time, bool)| is_changed.then_some(time);
        Attributes {
            owner,
            xattrs,
            mode: self.settable(self.mode).filter(|_| is_other),
            atime: time(self.atime),
            mtime: time(self.mtime),
        }
    }

    fn settable(&self, mode: u32) -> Option<u32> {
        (self.kind != FileKind::Symlink).then_some(mode)
    }
}
