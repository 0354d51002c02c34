//! A kernel that remembers every name and every attribute until it is told to forget it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use razorfs::{FileKind, Ino, Stale, Stat, Time, Volume};
use razorfs_client::{Moving, Others, Refusal};

type Name = (Ino, Box<[u8]>);

/// What it has seen of a volume.
#[derive(Default)]
struct Tree {
    names: BTreeMap<Name, Ino>,
    inodes: BTreeMap<Ino, Stat>,
}

impl Tree {
    fn of(volume: &Volume) -> Self {
        let mut tree = Self::default();
        let mut dirs = vec![Ino::ROOT];
        while let Some(dir) = dirs.pop() {
            tree.see(volume, dir);
            let mut entries = Vec::new();
            let mut each = |entry| {
                entries.push(entry);
                true
            };
            volume.collect_children(dir, 0, &mut each).unwrap();
            for entry in entries {
                tree.names.insert((dir, entry.name), entry.ino);
                match entry.kind {
                    FileKind::Directory => dirs.push(entry.ino),
                    _ => tree.see(volume, entry.ino),
                }
            }
        }
        tree
    }

    fn see(&mut self, volume: &Volume, ino: Ino) {
        let stat = volume.stat(ino).unwrap();
        // When a file was read is not to be forgotten.
        let atime = Time::default();
        self.inodes.insert(ino, Stat { atime, ..stat });
    }
}

/// The kernel beside a program.
pub struct Kernel<'a> {
    volume: &'a Volume,
    remembers: Mutex<Tree>,
    told: Mutex<(BTreeSet<Name>, BTreeSet<Ino>)>,
}

impl<'a> Kernel<'a> {
    pub fn new(volume: &'a Volume) -> Self {
        Self {
            volume,
            remembers: Mutex::new(Tree::of(volume)),
            told: Mutex::default(),
        }
    }

    /// A request is about to be answered: whatever is other than before has been told.
    pub fn check(&self) {
        let (names, inodes) = std::mem::take(&mut *self.told.lock().unwrap());
        let now = Tree::of(self.volume);
        let mut remembers = self.remembers.lock().unwrap();
        for name in remembers.names.keys().chain(now.names.keys()) {
            let same = remembers.names.get(name) == now.names.get(name);
            // Nobody has looked for a name in a directory that was not there.
            let is_new = !remembers.inodes.contains_key(&name.0);
            assert!(same || is_new || names.contains(name), "name {name:?}");
        }
        for (ino, was) in &remembers.inodes {
            let Some(is) = now.inodes.get(ino).filter(|is| *is != was) else {
                continue;
            };
            assert!(inodes.contains(ino), "{was:?} is {is:?}");
            // Who has it open is told from who has just looked at it by its names.
            if was.size < is.size && was.kind() != FileKind::Directory {
                let of_file = remembers.names.iter().filter(|(_, of)| *of == ino);
                for (name, _) in of_file {
                    assert!(names.contains(name), "name {name:?} of {was:?}");
                }
            }
        }
        *remembers = now;
    }
}

impl Others for Kernel<'_> {
    fn are_there(&self) -> bool {
        true
    }

    fn forget(&self, stale: &Stale) {
        let mut told = self.told.lock().unwrap();
        told.0.extend(stale.names.iter().cloned());
        told.1.extend(stale.inodes.iter().copied());
    }

    fn have_open(&self, ino: Ino) -> bool {
        // Some files are open.
        ino.0 % 3 == 2
    }

    fn hand_over(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn moving(
        &self,
        _what: Moving<'_>,
        work: &mut dyn FnMut() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        work()
    }
}
