//! A second volume, which receives what the volume of a run sends: snapshots, whole or what
//! differs from an older one, and the rests of streams that broke off. Its disk has power cuts and
//! faults of its own, in the middle of a receipt.

use std::collections::{BTreeMap, VecDeque};

use razorfs::{Error, Ino, SendOptions, SetAttributes, Token};

use crate::driver::{DISK_ERRORS, Failure, Runner};
use crate::dump::dump_tree;
use crate::model::{Model, differences, time_differences};
use crate::op::{Ending, Fault, Work};
use crate::points::Which;
use crate::rng::Rng;
use crate::subject::{FileSystem, Machine};

/// More snapshots are not kept in it, as each is compared.
const MOST: usize = 3;

/// A tree with other inode numbers, so that two volumes can be compared: counted in the order of
/// the names. When a file was read does not count.
fn canonical(state: &Model) -> Model {
    let mut numbers = BTreeMap::from([(Ino::ROOT, Ino::ROOT)]);
    let mut dirs = VecDeque::from([Ino::ROOT]);
    let mut next = Ino::FIRST;
    while let Some(node) = dirs.pop_front().and_then(|dir| state.node(dir)) {
        for child in node.entries.values() {
            if !numbers.contains_key(child) {
                numbers.insert(*child, next);
                next = next.next();
                dirs.push_back(*child);
            }
        }
    }
    let mut out = Model::empty();
    for (from, to) in &numbers {
        let Some(node) = state.node(*from) else {
            continue;
        };
        let mut node = node.clone();
        let number = |ino: &Ino| numbers.get(ino).copied().unwrap_or(Ino(0));
        node.entries = node.entries.iter().map(|(n, i)| (*n, number(i))).collect();
        node.parent = number(&node.parent);
        node.atime = None;
        out.insert(*to, node);
    }
    out
}

/// What differs, in words.
fn compare(expected: &Model, found: &Model) -> Vec<String> {
    let mut words = time_differences(expected, found);
    if !expected.looks_like(found) {
        words.extend(differences(expected, found));
        words.insert(0, "another state".into());
    }
    words
}

/// A snapshot of it.
#[derive(Clone)]
struct Held {
    /// Its name; of one that a receipt took before, what that begins with.
    name: String,
    state: Model,
    /// What it was received from; none if it was taken here.
    of: Option<u64>,
}

/// What it shows, with its snapshots, oldest first.
#[derive(Clone)]
struct Shown {
    tree: Model,
    points: Vec<Held>,
    /// The snapshot that it is still at.
    at: Option<u64>,
}

/// How the names of snapshots begin that a receipt takes.
const SAFETY: &str = "before-receive-";

impl Shown {
    /// What a volume shows against it.
    fn check<F: FileSystem>(&self, fs: &F) -> Result<(), String> {
        let found = dump_tree(fs).map_err(|e| e.to_string())?;
        let words = compare(&self.tree, &canonical(&found));
        if !words.is_empty() {
            return Err(words.join("\n    "));
        }
        let names = fs.snapshots();
        let alike = |(name, held): (&String, &Held)| match held.of {
            Some(_) => *name == held.name,
            None => name.starts_with(&held.name),
        };
        if names.len() != self.points.len() || !names.iter().zip(&self.points).all(alike) {
            let expected: Vec<&str> = self.points.iter().map(|p| &*p.name).collect();
            return Err(format!("snapshots {names:?}, expected {expected:?}"));
        }
        for (name, held) in names.iter().zip(&self.points) {
            let told = |e: &dyn std::fmt::Display| format!("snapshot {name}: {e}");
            let at = fs.at_snapshot(name).map_err(|e| told(&e))?;
            let found = dump_tree(&at).map_err(|e| told(&e))?;
            let words = compare(&held.state, &canonical(&found));
            if !words.is_empty() {
                return Err(told(&words.join("\n    ")));
            }
        }
        Ok(())
    }

    /// Whether it looks as a snapshot did, though another one was received since.
    fn looks_as(&self, base: u64) -> bool {
        let held = self.find(base).filter(|_| self.at != Some(base));
        held.is_some_and(|held| held.state.looks_like(&self.tree))
    }

    fn find(&self, id: u64) -> Option<&Held> {
        let is_it = |held: &&Held| held.of == Some(id);
        self.points.iter().find(is_it)
    }
}

/// What is carried: a snapshot of the run's volume.
#[derive(Clone)]
struct Cargo {
    name: String,
    of: u64,
    state: Model,
    /// What it goes on from.
    base: Option<u64>,
}

/// The other volume.
pub(crate) struct Mirror<M: Machine> {
    machine: M,
    fs: Option<M::Fs>,
    shown: Shown,
    /// What broke off last, with what it is gone on with by.
    part: Option<(Token, Cargo)>,
}

impl<M: Machine> Mirror<M> {
    fn new(mut machine: M) -> Result<Self, String> {
        let told = |e: Error| format!("a second volume: {e}");
        machine.format().map_err(told)?;
        let fs = machine.open().map_err(told)?;
        let tree = dump_tree(&fs).map_err(|e| e.to_string())?;
        let shown = Shown {
            tree: canonical(&tree),
            points: Vec::new(),
            at: None,
        };
        Ok(Self {
            machine,
            fs: Some(fs),
            shown,
            part: None,
        })
    }

    fn fs(&self) -> Result<&M::Fs, String> {
        self.fs.as_ref().ok_or_else(|| "it is not open".into())
    }

    fn check(&self) -> Result<(), String> {
        self.shown.check(self.fs()?)
    }

    /// Something is changed that no stream has brought.
    fn change(&mut self, mode: u32) -> Result<(), String> {
        let set = SetAttributes {
            mode: Some(mode),
            ..SetAttributes::default()
        };
        let fs = self.fs()?;
        match fs.set_attributes(Ino::ROOT, &set).and_then(|_| fs.sync()) {
            Ok(()) => {}
            // It is immutable, or may be appended to only.
            Err(Error::NotPermitted(_)) => return Ok(()),
            Err(e) => return Err(format!("changing it: {e}")),
        }
        self.shown.tree.update(Ino::ROOT, |root| root.perm = mode);
        self.shown.at = None;
        Ok(())
    }

    fn delete(&mut self, nth: usize) -> Result<(), String> {
        let name = self.fs()?.snapshots().into_iter().nth(nth);
        let name = name.ok_or("a snapshot is missing")?;
        let deleted = self.fs()?.delete_snapshot(&name);
        deleted.map_err(|e| format!("deleting {name}: {e}"))?;
        self.shown.points.remove(nth);
        Ok(())
    }

    /// The power goes and comes back: it shows what it did, or what it was to show.
    fn recover(&mut self, after: &Shown, seed: u64) -> Result<bool, String> {
        self.machine.arm(0);
        drop(self.fs.take());
        self.machine.revive(seed);
        self.machine.fault(Fault::None);
        self.machine.disarm();
        self.open()?;
        let (is_before, is_after) = (self.check(), after.check(self.fs()?));
        match (is_before, is_after) {
            (Ok(()), _) => Ok(false),
            (_, Ok(())) => {
                self.shown = after.clone();
                Ok(true)
            }
            (Err(before), Err(after)) => Err(format!(
                "neither what it was: {before}\n  nor what it was to be: {after}"
            )),
        }
    }

    /// Remembers what has come of a stream that was not received, if anything has.
    fn note_part(&mut self, cargo: &Cargo) -> Result<(), String> {
        let token = self.fs()?.resume_token();
        let token = token.map_err(|e| format!("its token: {e}"))?;
        self.part = match (token, self.part.take()) {
            (None, _) => None,
            (Some(token), Some((old, before))) if old == token => Some((old, before)),
            (Some(token), _) => Some((token, cargo.clone())),
        };
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        let verified = self.machine.verify();
        verified.map_err(|e| format!("verify: {e}"))?;
        let fs = self.machine.open().map_err(|e| format!("recovery: {e}"))?;
        if let Some(why) = fs.degraded() {
            return Err(format!("read-only: {why}"));
        }
        self.fs = Some(fs);
        Ok(())
    }

    /// Background work, and now and then a clean close.
    fn go_on(&mut self, rng: &mut Rng) -> Result<(), String> {
        for _ in 0..rng.range(0..5) {
            let work = rng.pick(&Work::ALL).copied().unwrap_or(Work::Commit);
            let done = self.fs()?.step(work);
            done.map_err(|e| format!("step {work:?}: {e}"))?;
        }
        if !rng.chance(15) {
            return Ok(());
        }
        if let Some(Err(e)) = self.fs.take().map(FileSystem::close) {
            return Err(format!("close: {e}"));
        }
        self.open()?;
        self.check()
    }
}

/// A stream, and how it is received.
struct Way {
    stream: Vec<u8>,
    cargo: Cargo,
    force: bool,
    is_rest: bool,
}

impl<M: Machine> Runner<M> {
    /// Sends a snapshot to the other volume.
    pub(crate) fn carry(
        &mut self,
        which: Which,
        force: bool,
        ending: &Ending,
        seed: u64,
    ) -> Result<(), Failure> {
        let mut rng = Rng::new(seed);
        let Some(cargo) = self.cargo_of(which) else {
            return Ok(());
        };
        let mut mirror = match self.mirror.take() {
            Some(mirror) => mirror,
            None => match self.machine.mirror() {
                Some(machine) => Mirror::new(machine).map_err(|e| self.failure(e))?,
                None => return Ok(()),
            },
        };
        let done = self.carry_to(&mut mirror, cargo, force, ending, &mut rng);
        match done {
            Ok(true) => self.mirror = Some(mirror),
            Ok(false) => {}
            Err(e) => {
                self.mirror = Some(mirror);
                return Err(self.failure(format!("the volume that receives: {e}")));
            }
        }
        Ok(())
    }

    fn cargo_of(&self, which: Which) -> Option<Cargo> {
        let (name, point) = (self.model.name_of(which)?, self.model.snapshot(which)?);
        Some(Cargo {
            name,
            of: point.id,
            state: canonical(&point.state),
            base: None,
        })
    }

    /// The name that the run's volume has for a snapshot, if it has it still.
    fn name_here(&self, id: u64) -> Option<String> {
        let mut points = self.model.points().iter();
        let point = points.find(|p| p.id == id)?;
        point.name().map(Into::into)
    }

    /// Answers whether the other volume is of any use still.
    fn carry_to(
        &mut self,
        mirror: &mut Mirror<M>,
        cargo: Cargo,
        force: bool,
        ending: &Ending,
        rng: &mut Rng,
    ) -> Result<bool, String> {
        if rng.chance(15) {
            mirror.change(0o500 + rng.range(0..64) as u32)?;
        }
        while mirror.shown.points.len() > MOST {
            mirror.delete(0)?;
        }
        let way = match self.rest(mirror, force)? {
            Some(way) => Some(way),
            None => self.way(mirror, cargo, force)?,
        };
        let Some(mut way) = way else {
            self.marks.hit("stream: nothing in common any more");
            return Ok(false);
        };
        if way
            .cargo
            .base
            .is_some_and(|base| mirror.shown.looks_as(base))
        {
            // Whether it is at that one for the volume follows from times that nobody knows.
            return Ok(false);
        }
        let spoilt = spoil(&mut way.stream, ending);
        self.receive(mirror, &way, spoilt, ending, rng)?;
        mirror.go_on(rng)?;
        Ok(true)
    }

    /// What differs from a snapshot that both have, or everything, if there is nothing yet.
    fn way(
        &mut self,
        mirror: &mut Mirror<M>,
        mut cargo: Cargo,
        force: bool,
    ) -> Result<Option<Way>, String> {
        let points = &mirror.shown.points;
        let is_other = |held: &Held| held.name == cargo.name && held.of.is_some();
        let is_it = mirror.shown.find(cargo.of).is_some();
        if let (Some(nth), false) = (points.iter().position(is_other), is_it) {
            mirror.delete(nth)?;
        }
        let known = mirror.shown.points.iter().rev().filter_map(|held| held.of);
        let known = known.filter(|of| *of != cargo.of);
        let mut known = known.filter_map(|of| Some((self.name_here(of)?, of)));
        let from = known.next();
        if from.is_none() && !is_it && !mirror.shown.is_empty() {
            return Ok(None);
        }
        let from = from.map(|(name, of)| {
            cargo.base = Some(of);
            name
        });
        let name = cargo.name.clone();
        let what = SendOptions::Snapshot { name, from };
        let fs = self.fs().map_err(|e| e.what)?;
        let stream = fs.send(&what).map_err(|e| format!("sending: {e}"))?;
        Ok(Some(Way {
            stream,
            cargo,
            force,
            is_rest: false,
        }))
    }

    /// The rest of what broke off, if that is to be had.
    fn rest(&mut self, mirror: &mut Mirror<M>, force: bool) -> Result<Option<Way>, String> {
        let Some((token, cargo)) = mirror.part.take() else {
            return Ok(None);
        };
        mirror.part = Some((token.clone(), cargo.clone()));
        let known = [Some(cargo.of), cargo.base].into_iter().flatten();
        let is_here = known
            .map(|id| self.name_here(id))
            .all(|name| name.is_some());
        let is_there = cargo
            .base
            .is_none_or(|base| mirror.shown.find(base).is_some());
        let fs = self.fs().map_err(|e| e.what)?;
        match fs.send(&SendOptions::Rest(token)) {
            Ok(_) if !is_here => Err("the rest of a snapshot was sent that is gone".into()),
            // Whatever it went on from is gone there.
            Ok(_) if !is_there => Ok(None),
            Ok(stream) => Ok(Some(Way {
                stream,
                cargo,
                force,
                is_rest: true,
            })),
            Err(Error::Stream(_)) if !is_here => {
                self.marks.hit("stream: the rest was not to be had");
                Ok(None)
            }
            Err(e) => Err(format!("sending the rest: {e}")),
        }
    }

    fn receive(
        &mut self,
        mirror: &mut Mirror<M>,
        way: &Way,
        spoilt: bool,
        ending: &Ending,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let before = &mirror.shown;
        let is_at = match &way.cargo.base {
            Some(_) => way.cargo.base == before.at,
            None => before.is_empty(),
        };
        let is_back = way.force && way.cargo.base.is_some() && !is_at;
        let is_refused = before.find(way.cargo.of).is_some() || !(is_at || is_back);
        let mut after = before.clone();
        after.receive(&way.cargo, is_back);
        match ending {
            Ending::Cut(calls) => mirror.machine.arm(*calls),
            Ending::Fault(fault) => mirror.machine.fault(*fault),
            _ => {}
        }
        let (fs, mut seen) = (mirror.fs()?, Ok(()));
        let mut batches = 0;
        let received = fs.receive(&way.stream, way.force, &mut || {
            batches += 1;
            if batches == 1 {
                // Nobody sees a part.
                let found = dump_tree(fs).map_err(|e| e.to_string());
                seen = found.and_then(|found| {
                    let words = compare(&before.tree, &canonical(&found));
                    if words.is_empty() {
                        Ok(())
                    } else {
                        Err(words.join("\n    "))
                    }
                });
            }
        });
        if mirror.machine.is_dead() {
            let done = mirror.recover(&after, rng.next())?;
            mirror.note_part(&way.cargo)?;
            self.marks.hit(match done {
                true => "stream: the power went, all of it was there",
                false => "stream: the power went, nothing of it was there",
            });
            return Ok(());
        }
        seen.map_err(|e| format!("a part was seen: {e}"))?;
        let is_faulty = matches!(ending, Ending::Fault(_));
        match received {
            Ok(_) if is_refused || spoilt => return Err("it took what it should refuse".into()),
            Ok(()) => {
                mirror.shown = after;
                mirror.part = None;
                self.marks
                    .hit(match (way.is_rest, is_back, &way.cargo.base) {
                        (true, ..) => "stream: the rest received",
                        (_, true, _) => "stream: received after going back",
                        (.., Some(_)) => "stream: what differs received",
                        (.., None) => "stream: everything received",
                    });
            }
            Err(Error::Stream(_)) if is_refused => self.marks.hit("stream: refused"),
            Err(Error::Stream(_)) if spoilt => {
                self.marks.hit("stream: broke off, or was damaged");
                mirror.note_part(&way.cargo)?;
            }
            Err(e) if is_faulty && DISK_ERRORS.contains(&e.errno()) => {
                self.marks.hit("stream: failed by the disk");
                mirror.recover(&after, rng.next())?;
                return mirror.note_part(&way.cargo);
            }
            Err(e) => return Err(format!("receiving: {e}")),
        }
        mirror.machine.disarm();
        mirror.machine.fault(Fault::None);
        mirror.check()
    }
}

impl Shown {
    fn is_empty(&self) -> bool {
        let root = self.tree.node(Ino::ROOT);
        self.points.is_empty() && root.is_none_or(|root| root.entries.is_empty())
    }

    fn receive(&mut self, cargo: &Cargo, is_back: bool) {
        if is_back {
            self.points.push(Held {
                name: SAFETY.into(),
                state: self.tree.clone(),
                of: None,
            });
        }
        self.points.push(Held {
            name: cargo.name.clone(),
            state: cargo.state.clone(),
            of: Some(cargo.of),
        });
        self.tree = cargo.state.clone();
        self.at = Some(cargo.of);
    }
}

/// What becomes of the stream on its way; answers whether it must be refused.
fn spoil(stream: &mut Vec<u8>, ending: &Ending) -> bool {
    let len = stream.len() as u64;
    match ending {
        Ending::Broken(at) => stream.truncate((at % len.max(1)) as usize),
        Ending::Flipped(at) => {
            let bit = at % (len * 8).max(1);
            if let Some(byte) = stream.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ending::Whole | Ending::Cut(_) | Ending::Fault(_) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use razorfs::FileKind;

    use super::*;
    use crate::model::Node;

    /// Two files in a directory; with one number they are one file of two names.
    fn tree(dir: u64, files: [u64; 2], size: u64) -> Model {
        let mut model = Model::default();
        let links = 1 + u32::from(files[0] == files[1]);
        for ino in files {
            let mut file = Node::new(FileKind::Regular, 0o644);
            (file.nlink, file.size) = (links, size);
            model.insert(Ino(ino), file);
        }
        let mut node = Node::new(FileKind::Directory, 0o755);
        node.entries = [(0, Ino(files[0])), (1, Ino(files[1]))].into();
        (node.nlink, node.parent) = (2, Ino::ROOT);
        model.insert(Ino(dir), node);
        model.update(Ino::ROOT, |root| {
            root.nlink = 3;
            root.entries = [(5, Ino(dir))].into();
        });
        model
    }

    #[test]
    fn trees_are_alike_whatever_their_inode_numbers() {
        let words = |a: &Model, b: &Model| compare(&canonical(a), &canonical(b));
        let here = tree(20, [30, 25], 7);
        assert!(words(&here, &tree(99, [17, 18], 7)).is_empty());
        for other in [tree(20, [30, 30], 7), tree(20, [30, 25], 8)] {
            assert!(!words(&here, &other).is_empty());
        }
    }
}
