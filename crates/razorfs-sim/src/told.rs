//! What a repair said that it lost, held against what the volume shows.

use std::collections::{BTreeMap, BTreeSet};

use razorfs::{FileKind, Ino};
use razorfs_verify::{Lose, Loss};

use crate::engine::{EngineFs, is_refusal};
use crate::looks::check_stat;
use crate::marks::Marks;
use crate::model::{Model, Node};
use crate::names;
use crate::subject::FileSystem;
use crate::survey::{Bad, PIECE, attributes, bad, read};

/// What the repair said that it lost.
pub(crate) struct Told<'l> {
    of: BTreeMap<Ino, Vec<&'l Loss>>,
    /// It could not tell, as no list of the volume's files was left.
    listed: bool,
}

impl<'l> Told<'l> {
    pub(crate) fn new(losses: &'l [Loss], listed: bool) -> Self {
        let mut of: BTreeMap<Ino, Vec<&Loss>> = BTreeMap::new();
        for loss in losses {
            of.entry(loss.ino).or_default().push(loss);
        }
        Self { of, listed }
    }

    fn has(&self, ino: Ino, any: &[Lose]) -> bool {
        let losses = self.of.get(&ino).into_iter().flatten();
        losses.into_iter().any(|loss| any.contains(&loss.what))
    }

    /// Whether the volume shows this state, but for what was told.
    pub(crate) fn compare(
        &self,
        fs: &EngineFs,
        model: &Model,
        marks: &mut Marks,
    ) -> Result<(), String> {
        // Files whose disappearance was told: the directories that lead to them are.
        let mut hidden = BTreeSet::new();
        for (ino, node) in model.nodes() {
            if self.has(ino, &[Lose::Names, Lose::Inode, Lose::Old, Lose::Name]) {
                hidden.extend(node.entries.values().copied());
            }
        }
        for (ino, node) in model.nodes().filter(|(_, n)| n.nlink > 0) {
            let what = |e: String| format!("{} (inode {ino}): {e}", model.path_of(ino));
            let told = self.of.contains_key(&ino);
            match fs.stat(ino) {
                Err(e) if is_refusal(&e) => return Err(what(format!("stat answered {e}"))),
                Err(_) if told || hidden.contains(&ino) => {
                    marks.hit("file gone, and told");
                    continue;
                }
                Err(e) => return Err(what(format!("stat answered {e}"))),
                Ok(_) => {}
            }
            self.node(fs, ino, node).map_err(what)?;
            marks.hit(if told {
                "file with a loss"
            } else {
                "file whole"
            });
        }
        Ok(())
    }

    fn node(&self, fs: &EngineFs, ino: Ino, node: &Node) -> Result<(), String> {
        let stat = fs.stat(ino).map_err(|e| e.to_string())?;
        let unsure = self.has(ino, &[Lose::Inode, Lose::Old]);
        if node.is_dir() {
            self.entries(fs, ino, node)?;
        }
        if !unsure {
            let mut expected = node.clone();
            let names = [Lose::Link, Lose::OldName, Lose::Name];
            if node.is_dir() || self.has(ino, &names) || self.listed {
                // Counted anew; entries were compared.
                expected.nlink = stat.nlink;
            }
            check_stat(&stat, ino, &expected)?;
        }
        if node.is_dir() && !self.has(ino, &[Lose::Name, Lose::Inode, Lose::Old]) {
            let parent = fs.parent_of(ino).map_err(|e| e.to_string())?;
            if parent != node.parent && !self.has(node.parent, &[Lose::Names]) {
                return Err(format!("parent {parent}, expected {}", node.parent));
            }
        }
        match node.kind {
            FileKind::Regular => self.bytes(fs, ino, node, stat.size, unsure)?,
            FileKind::Symlink if !unsure => {
                let target = fs.read_link(ino).map_err(|e| e.to_string())?;
                if *target != *node.target {
                    return Err("another target".into());
                }
            }
            _ => {}
        }
        if unsure || self.has(ino, &[Lose::Attributes]) {
            return Ok(());
        }
        attributes(fs, ino, node).map_err(|e| format!("{e:?}"))
    }

    /// What is missing was told, and nothing is there that was not.
    fn entries(&self, fs: &EngineFs, ino: Ino, node: &Node) -> Result<(), String> {
        let found = fs.entries(ino, 0, usize::MAX).map_err(|e| e.to_string())?;
        let unsure = self.has(ino, &[Lose::Names, Lose::Inode, Lose::Old, Lose::Name]);
        let mut there = BTreeMap::new();
        for entry in &found {
            match names::id(&entry.name) {
                Some(name) => {
                    there.insert(name, entry.ino);
                }
                None if ino == Ino::ROOT && &*entry.name == b"lost+found" => {}
                None if self.of.contains_key(&entry.ino) || self.listed => {}
                None => return Err(format!("an entry {:?}", entry.name.escape_ascii())),
            }
        }
        for (name, child) in &node.entries {
            let lost = [
                Lose::Name,
                Lose::OldName,
                Lose::Entry,
                Lose::Link,
                Lose::Inode,
                Lose::Old,
            ];
            match there.remove(name) {
                Some(found) if found == *child => {
                    let stat = fs.lookup(ino, names::bytes(*name));
                    let stat = stat.map_err(|e| format!("its entry is not found: {e}"))?;
                    if stat.ino != *child {
                        return Err("an entry leads to another inode".into());
                    }
                }
                _ if unsure || self.has(*child, &lost) => {}
                found => return Err(format!("entry of inode {child}: {found:?}")),
            }
        }
        let strange = |child: &Ino| !self.of.contains_key(child);
        match there.values().find(|child| strange(child)) {
            Some(child) if !unsure && !self.listed => {
                Err(format!("an entry of inode {child} that was not there"))
            }
            _ => Ok(()),
        }
    }

    /// Every byte is the right one, or in a range that was told; lost data read as zeros.
    fn bytes(
        &self,
        fs: &EngineFs,
        ino: Ino,
        node: &Node,
        size: u64,
        unsure: bool,
    ) -> Result<(), String> {
        let ranges: Vec<&Loss> = self.of.get(&ino).into_iter().flatten().copied().collect();
        if !unsure && ranges.iter().all(|l| l.range.is_none()) {
            let mut at = 0;
            while at < node.size {
                read(fs, ino, node, at).map_err(|e| format!("{e:?}"))?;
                at += PIECE as u64;
            }
            return Ok(());
        }
        let size = size.min(node.size);
        let mut at = 0;
        while at < size {
            let len = (size - at).min(PIECE as u64) as usize;
            let (mut found, mut expected) = (vec![0xee; len], vec![0; len]);
            fs.read(ino, at, &mut found).map_err(|e| match bad(e) {
                Bad::Refused => "a read is refused".to_string(),
                Bad::Wrong(e) => e,
            })?;
            node.content.read(at, &mut expected);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let here = at + i as u64;
                if found == expected {
                    continue;
                }
                let told = ranges
                    .iter()
                    .find(|l| l.range.as_ref().is_some_and(|r| r.contains(&here)));
                match told.map(|l| l.what) {
                    Some(Lose::Unsure) => {}
                    Some(Lose::Data) if *found == 0 => {}
                    other => {
                        return Err(format!(
                            "byte {here} is {found}, not {expected} ({other:?})"
                        ));
                    }
                }
            }
            at += len as u64;
        }
        Ok(())
    }
}
