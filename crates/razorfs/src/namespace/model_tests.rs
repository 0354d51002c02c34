//! Random operations against a simple model of POSIX: the same answers, the same tree, the same
//! bytes after every one of them, and not a record left when everything is removed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    AllocateMode, Error, FileKind, Ino, NewNode, Options, RenameMode, Result, SetAttributes, Step,
    Volume, XattrMode,
};

const BLOCK: u64 = 128 * 1024;
/// Offsets around which files are written: beginnings and ends of blocks, near and far.
const PLACES: [u64; 7] = [
    0,
    300,
    BLOCK - 150,
    BLOCK,
    3 * BLOCK + 5,
    1025 * BLOCK - 7,
    3000 * BLOCK,
];

#[derive(Clone, Debug)]
enum Op {
    Create(usize, u8, FileKind),
    Unnamed(usize),
    Link(usize, usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, RenameMode),
    Write(usize, u64, u16, u8),
    Append(usize, u16, u8),
    Truncate(usize, u64),
    Allocate(usize, AllocateMode, u64, u64),
    Copy(usize, u64, usize, u64, u16),
    SetXattr(usize, u8, u8, XattrMode),
    RemoveXattr(usize, u8),
    Pin(usize),
    Unpin(usize),
    Reap,
}

fn any_op() -> impl Strategy<Value = Op> {
    let node = 0..40_usize;
    let name = 0..4_u8;
    let at = (0..PLACES.len(), 0..200_u64).prop_map(|(place, by)| PLACES[place] + by);
    let kind = prop_oneof![
        3 => Just(FileKind::Regular),
        2 => Just(FileKind::Directory),
        1 => Just(FileKind::Symlink),
    ];
    let rename = prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange),
    ];
    let xattr = prop_oneof![
        Just(XattrMode::Set),
        Just(XattrMode::Create),
        Just(XattrMode::Replace)
    ];
    let allocate = prop_oneof![
        Just(AllocateMode::Extend),
        Just(AllocateMode::KeepSize),
        Just(AllocateMode::PunchHole),
        Just(AllocateMode::ZeroExtend),
        Just(AllocateMode::ZeroKeepSize),
    ];
    let len = 1..500_u16;
    let long = prop_oneof![1..700_u64, Just(2 * BLOCK), Just(2000 * BLOCK)];
    prop_oneof![
        8 => (node.clone(), name.clone(), kind).prop_map(|(d, n, k)| Op::Create(d, n, k)),
        1 => node.clone().prop_map(Op::Unnamed),
        3 => (node.clone(), node.clone(), name.clone()).prop_map(|(f, d, n)| Op::Link(f, d, n)),
        4 => (node.clone(), name.clone()).prop_map(|(d, n)| Op::Unlink(d, n)),
        2 => (node.clone(), name.clone()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        6 => (node.clone(), name.clone(), node.clone(), name.clone(), rename)
            .prop_map(|(d, n, e, m, mode)| Op::Rename(d, n, e, m, mode)),
        6 => (node.clone(), at.clone(), len.clone(), 1..255_u8)
            .prop_map(|(f, at, len, b)| Op::Write(f, at, len, b)),
        2 => (node.clone(), len.clone(), 1..255_u8).prop_map(|(f, len, b)| Op::Append(f, len, b)),
        4 => (node.clone(), at.clone()).prop_map(|(f, at)| Op::Truncate(f, at)),
        3 => (node.clone(), allocate, at.clone(), long)
            .prop_map(|(f, mode, at, len)| Op::Allocate(f, mode, at, len)),
        1 => (node.clone(), at.clone(), node.clone(), at, len)
            .prop_map(|(f, a, t, b, len)| Op::Copy(f, a, t, b, len)),
        2 => (node.clone(), name.clone(), 0..9_u8, xattr)
            .prop_map(|(f, n, v, mode)| Op::SetXattr(f, n, v, mode)),
        1 => (node.clone(), name).prop_map(|(f, n)| Op::RemoveXattr(f, n)),
        2 => node.clone().prop_map(Op::Pin),
        2 => node.prop_map(Op::Unpin),
        2 => Just(Op::Reap),
    ]
}

struct Node {
    kind: FileKind,
    nlink: u32,
    size: u64,
    /// Bytes that are not zero.
    bytes: BTreeMap<u64, u8>,
    entries: BTreeMap<u8, usize>,
    parent: usize,
    xattrs: BTreeMap<u8, u8>,
    pins: u64,
    gone: bool,
}

impl Node {
    fn new(kind: FileKind, parent: usize) -> Self {
        Self {
            kind,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            size: 0,
            bytes: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent,
            xattrs: BTreeMap::new(),
            pins: 0,
            gone: false,
        }
    }

    fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    fn regular(&mut self) -> Result<&mut Self> {
        match self.kind {
            FileKind::Regular => Ok(self),
            FileKind::Directory => Err(Error::IsADirectory),
            _ => Err(Error::Invalid("")),
        }
    }

    fn erase(&mut self, from: u64, to: u64) {
        self.bytes.retain(|at, _| *at < from || *at >= to);
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.erase(at, at + bytes.len() as u64);
        let bytes = (at..).zip(bytes.iter().copied());
        self.bytes.extend(bytes.filter(|(_, byte)| *byte != 0));
        let end = self.bytes.keys().next_back().map_or(0, |at| at + 1);
        self.size = self.size.max(end);
    }

    fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let end = at.saturating_add(len).min(self.size);
        (at..end.max(at))
            .map(|at| self.bytes.get(&at).copied().unwrap_or(0))
            .collect()
    }
}

/// What POSIX says happens.
struct Model {
    nodes: Vec<Node>,
}

impl Model {
    fn dir(&self, dir: usize) -> Result<&Node> {
        match self.nodes[dir].is_dir() {
            true => Ok(&self.nodes[dir]),
            false => Err(Error::NotADirectory),
        }
    }

    fn child(&self, dir: usize, name: u8) -> Result<usize> {
        self.dir(dir)?
            .entries
            .get(&name)
            .copied()
            .ok_or(Error::NotFound)
    }

    fn free(&self, dir: usize, name: u8) -> Result<()> {
        let node = self.dir(dir)?;
        if node.nlink == 0 {
            return Err(Error::NotFound);
        }
        match node.entries.contains_key(&name) {
            true => Err(Error::Exists),
            false => Ok(()),
        }
    }

    fn attach(&mut self, dir: usize, name: u8, child: usize) {
        self.nodes[dir].entries.insert(name, child);
        if self.nodes[child].is_dir() {
            self.nodes[dir].nlink += 1;
            self.nodes[child].parent = dir;
        }
    }

    fn detach(&mut self, dir: usize, name: u8) -> usize {
        let child = self.nodes[dir].entries.remove(&name).unwrap();
        if self.nodes[child].is_dir() {
            self.nodes[dir].nlink -= 1;
        }
        child
    }

    fn lose(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        node.gone = node.nlink == 0 && node.pins == 0;
    }

    fn create(&mut self, dir: usize, name: u8, kind: FileKind) -> Result<()> {
        self.free(dir, name)?;
        let mut node = Node::new(kind, dir);
        if kind == FileKind::Symlink {
            node.size = 6;
        }
        self.nodes.push(node);
        self.attach(dir, name, self.nodes.len() - 1);
        Ok(())
    }

    fn link(&mut self, file: usize, dir: usize, name: u8) -> Result<()> {
        self.free(dir, name)?;
        if self.nodes[file].is_dir() {
            return Err(Error::NotPermitted(""));
        }
        self.attach(dir, name, file);
        self.nodes[file].nlink += 1;
        Ok(())
    }

    fn unlink(&mut self, dir: usize, name: u8) -> Result<()> {
        if self.nodes[self.child(dir, name)?].is_dir() {
            return Err(Error::IsADirectory);
        }
        let child = self.detach(dir, name);
        self.lose(child);
        Ok(())
    }

    fn rmdir(&mut self, dir: usize, name: u8) -> Result<()> {
        let child = &self.nodes[self.child(dir, name)?];
        if !child.is_dir() {
            return Err(Error::NotADirectory);
        }
        if !child.entries.is_empty() {
            return Err(Error::NotEmpty);
        }
        let child = self.detach(dir, name);
        self.lose(child);
        Ok(())
    }

    fn is_above(&self, node: usize, mut dir: usize) -> bool {
        while dir != 0 && dir != node {
            dir = self.nodes[dir].parent;
        }
        dir == node
    }

    fn check_move(&self, child: usize, from: usize, to: usize) -> Result<()> {
        match self.nodes[child].is_dir() && from != to && self.is_above(child, to) {
            true => Err(Error::Invalid("")),
            false => Ok(()),
        }
    }

    fn rename(&mut self, from: (usize, u8), to: (usize, u8), mode: RenameMode) -> Result<()> {
        let source = self.child(from.0, from.1)?;
        if self.dir(to.0)?.nlink == 0 {
            return Err(Error::NotFound);
        }
        self.check_move(source, from.0, to.0)?;
        let target = self.child(to.0, to.1).ok();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            (_, Some(target)) if target == source => return Ok(()),
            (RenameMode::Exchange, Some(target)) => {
                self.check_move(target, to.0, from.0)?;
                self.detach(from.0, from.1);
                self.detach(to.0, to.1);
                self.attach(from.0, from.1, target);
                self.attach(to.0, to.1, source);
                return Ok(());
            }
            (_, Some(target)) => {
                match (self.nodes[source].is_dir(), self.nodes[target].is_dir()) {
                    (true, true) if !self.nodes[target].entries.is_empty() => {
                        return Err(Error::NotEmpty);
                    }
                    (true, false) => return Err(Error::NotADirectory),
                    (false, true) => return Err(Error::IsADirectory),
                    _ => {}
                }
                self.detach(to.0, to.1);
                self.lose(target);
            }
            (_, None) => {}
        }
        self.detach(from.0, from.1);
        self.attach(to.0, to.1, source);
        Ok(())
    }

    fn truncate(&mut self, file: usize, size: u64) -> Result<()> {
        let node = self.nodes[file].regular()?;
        node.erase(size, u64::MAX);
        node.size = size;
        Ok(())
    }

    fn allocate(&mut self, file: usize, mode: AllocateMode, at: u64, len: u64) -> Result<()> {
        let node = self.nodes[file].regular()?;
        use AllocateMode::{Extend, PunchHole, ZeroExtend, ZeroKeepSize};
        if matches!(mode, PunchHole | ZeroExtend | ZeroKeepSize) {
            node.erase(at, at + len);
        }
        if matches!(mode, Extend | ZeroExtend) {
            node.size = node.size.max(at + len);
        }
        Ok(())
    }

    fn copy(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<()> {
        if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(Error::Invalid(""));
        }
        self.nodes[to.0].regular()?;
        let node = self.nodes[from.0].regular()?;
        let bytes = node.read(from.1, len);
        if !bytes.is_empty() {
            let end = to.1 + bytes.len() as u64;
            let to_node = &mut self.nodes[to.0];
            to_node.write(to.1, &bytes);
            to_node.size = to_node.size.max(end);
        }
        Ok(())
    }

    fn set_xattr(&mut self, file: usize, name: u8, value: u8, mode: XattrMode) -> Result<()> {
        let xattrs = &mut self.nodes[file].xattrs;
        match (mode, xattrs.contains_key(&name)) {
            (XattrMode::Create, true) => Err(Error::Exists),
            (XattrMode::Replace, false) => Err(Error::NoAttribute),
            _ => {
                xattrs.insert(name, value);
                Ok(())
            }
        }
    }
}

/// The model and the volume side by side.
struct Pair {
    model: Model,
    volume: Volume,
    /// Inode of each node of the model.
    inos: Vec<Ino>,
}

impl Pair {
    fn new() -> Self {
        Self {
            model: Model {
                nodes: vec![Node::new(FileKind::Directory, 0)],
            },
            volume: Volume::for_tests(Options::default()),
            inos: vec![Ino::ROOT],
        }
    }

    fn run(&mut self, op: &Op) {
        let n = self.model.nodes.len();
        let gone: Vec<bool> = self.model.nodes.iter().map(|node| node.gone).collect();
        let alive = |i: usize| (!gone[i % n]).then_some(i % n);
        let (m, v) = (&mut self.model, &self.volume);
        let ino = |i: usize| self.inos[i];
        match *op {
            Op::Create(d, name, kind) => {
                let Some(d) = alive(d) else { return };
                let node = NewNode {
                    kind,
                    target: b"target",
                    ..NewNode::file(0o644)
                };
                let made = v.create_node(ino(d), &[b'a' + name], &node);
                same(&m.create(d, name, kind), &made);
                self.inos.extend(made.map(|stat| stat.ino));
            }
            Op::Unnamed(d) => {
                let Some(d) = alive(d) else { return };
                let made = v.create_unnamed(ino(d), &NewNode::file(0o600));
                if m.nodes[d].is_dir() && m.nodes[d].nlink > 0 {
                    let mut node = Node::new(FileKind::Regular, d);
                    (node.nlink, node.pins) = (0, 1);
                    m.nodes.push(node);
                    v.pin(made.as_ref().unwrap().ino, 1);
                } else {
                    made.as_ref().unwrap_err();
                }
                self.inos.extend(made.map(|stat| stat.ino));
            }
            Op::Link(f, d, name) => {
                let (Some(f), Some(d)) = (alive(f), alive(d)) else {
                    return;
                };
                if f == d {
                    return;
                }
                let got = v.link(ino(f), ino(d), &[b'a' + name]);
                if m.nodes[f].nlink > 0 || !m.nodes[f].is_dir() {
                    same(&m.link(f, d, name), &got);
                }
            }
            Op::Unlink(d, name) => {
                let Some(d) = alive(d) else { return };
                same(&m.unlink(d, name), &v.unlink(ino(d), &[b'a' + name]));
            }
            Op::Rmdir(d, name) => {
                let Some(d) = alive(d) else { return };
                same(&m.rmdir(d, name), &v.rmdir(ino(d), &[b'a' + name]));
            }
            Op::Rename(d, name, e, new, mode) => {
                let (Some(d), Some(e)) = (alive(d), alive(e)) else {
                    return;
                };
                let got = v.rename(ino(d), &[b'a' + name], ino(e), &[b'a' + new], mode);
                same(&m.rename((d, name), (e, new), mode), &got);
            }
            Op::Write(f, at, len, byte) => {
                let Some(f) = alive(f) else { return };
                let bytes = vec![byte; usize::from(len)];
                let want = m.nodes[f].regular().map(|node| node.write(at, &bytes));
                same(&want, &v.write(ino(f), at, &bytes));
            }
            Op::Append(f, len, byte) => {
                let Some(f) = alive(f) else { return };
                let bytes = vec![byte; usize::from(len)];
                let want = m.nodes[f]
                    .regular()
                    .map(|node| node.write(node.size, &bytes));
                same(&want, &v.append(ino(f), &bytes));
            }
            Op::Truncate(f, size) => {
                let Some(f) = alive(f) else { return };
                let set = SetAttributes {
                    size: Some(size),
                    ..SetAttributes::default()
                };
                same(&m.truncate(f, size), &v.set_attributes(ino(f), &set));
            }
            Op::Allocate(f, mode, at, len) => {
                let Some(f) = alive(f) else { return };
                let got = v.allocate(ino(f), mode, at, len);
                same(&m.allocate(f, mode, at, len), &got);
            }
            Op::Copy(f, a, t, b, len) => {
                let (Some(f), Some(t)) = (alive(f), alive(t)) else {
                    return;
                };
                let len = u64::from(len);
                let got = v.copy_range(ino(f), a, ino(t), b, len);
                same(&m.copy((f, a), (t, b), len), &got);
            }
            Op::SetXattr(f, name, value, mode) => {
                let Some(f) = alive(f) else { return };
                let key = [b"user.", [b'a' + name].as_slice()].concat();
                let got = v.set_xattr(ino(f), &key, &[value], mode);
                same(&m.set_xattr(f, name, value, mode), &got);
            }
            Op::RemoveXattr(f, name) => {
                let Some(f) = alive(f) else { return };
                let key = [b"user.", [b'a' + name].as_slice()].concat();
                let want = m.nodes[f].xattrs.remove(&name).ok_or(Error::NoAttribute);
                same(&want, &v.remove_xattr(ino(f), &key));
            }
            Op::Pin(f) => {
                let Some(f) = alive(f) else { return };
                m.nodes[f].pins += 1;
                v.pin(ino(f), 1);
            }
            Op::Unpin(f) => {
                let Some(f) = alive(f) else { return };
                let node = &mut m.nodes[f];
                if node.pins > 0 {
                    node.pins -= 1;
                    node.gone = node.nlink == 0 && node.pins == 0;
                    v.unpin(ino(f), 1);
                }
            }
            Op::Reap => {
                v.step(Step::Reap).unwrap();
            }
        }
    }

    /// Everything that is there, compared.
    fn compare(&self) {
        for (node, ino) in self.model.nodes.iter().zip(&self.inos) {
            if node.gone {
                continue;
            }
            let stat = self.volume.stat(*ino).unwrap();
            assert_eq!((stat.kind(), stat.nlink), (node.kind, node.nlink));
            match node.kind {
                FileKind::Directory => self.compare_directory(node, *ino),
                FileKind::Regular => self.compare_bytes(node, *ino),
                _ => assert_eq!(&*self.volume.read_link(*ino).unwrap(), b"target"),
            }
            let mut names = self.volume.list_xattr(*ino).unwrap();
            names.sort();
            let want: Vec<_> = node.xattrs.keys().map(|n| *n + b'a').collect();
            assert_eq!(names.iter().map(|n| n[5]).collect::<Vec<_>>(), want);
            for (name, value) in names.iter().zip(node.xattrs.values()) {
                assert_eq!(*self.volume.get_xattr(*ino, name).unwrap(), [*value]);
            }
        }
    }

    fn compare_directory(&self, node: &Node, ino: Ino) {
        let mut entries = BTreeMap::new();
        let mut last = 0;
        self.volume
            .collect_children(ino, 0, &mut |entry| {
                assert!(entry.cookie >= 256 && entry.cookie > last);
                last = entry.cookie;
                assert_eq!(self.volume.lookup(ino, &entry.name).unwrap().ino, entry.ino);
                assert_eq!(self.volume.stat(entry.ino).unwrap().kind(), entry.kind);
                entries.insert(entry.name[0] - b'a', entry.ino);
                true
            })
            .unwrap();
        let want = node.entries.iter();
        let want: BTreeMap<_, _> = want.map(|(name, i)| (*name, self.inos[*i])).collect();
        assert_eq!(entries, want);
        if node.nlink > 0 {
            let parent = self.volume.parent_of(ino).unwrap();
            assert_eq!(parent, self.inos[node.parent]);
        }
        let record = self.volume.find_by_inode(ino).unwrap();
        assert_eq!(record.entries, entries.len() as u64);
    }

    fn compare_bytes(&self, node: &Node, ino: Ino) {
        assert_eq!(self.volume.stat(ino).unwrap().size, node.size);
        for place in PLACES {
            let place = place.saturating_sub(800);
            let mut got = vec![0xee; 2000];
            let n = self.volume.read(ino, place, &mut got).unwrap();
            got.truncate(n);
            assert!(
                got == node.read(place, 2000),
                "bytes from {place} on differ"
            );
        }
    }

    /// Removes everything; then there is nothing but the root.
    fn remove_all(mut self) {
        for i in 0..self.model.nodes.len() {
            let pins = std::mem::take(&mut self.model.nodes[i].pins);
            self.volume.unpin(self.inos[i], pins);
        }
        self.volume.root().remove_dir_all("").unwrap_err();
        let names: Vec<_> = self.volume.root().read_dir("/").unwrap().collect();
        for entry in names {
            let entry = entry.unwrap();
            match entry.kind() {
                FileKind::Directory => self.volume.root().remove_dir_all(entry.path()).unwrap(),
                _ => self.volume.root().remove_file(entry.path()).unwrap(),
            }
        }
        while self.volume.step(Step::Reap).unwrap() {}
        let mut keys = self.volume.inner.store.keys();
        keys.retain(|key| key.ino() != Ino::ROOT);
        assert!(keys.is_empty(), "left over: {keys:?}");
        let info = self.volume.info();
        assert_eq!((info.inodes, info.bytes), (1, 0));
        assert_eq!(self.volume.stats().orphans, 0);
    }
}

fn same<T, U>(want: &Result<T>, got: &Result<U>) {
    let want = want.as_ref().err().map(Error::errno);
    let got = got.as_ref().err().map(Error::errno);
    assert_eq!(got, want);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_do_what_the_model_does(ops in prop::collection::vec(any_op(), 1..120)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.run(op);
        }
        pair.compare();
        pair.remove_all();
    }

    #[test]
    fn every_prefix_looks_like_the_model(ops in prop::collection::vec(any_op(), 1..40)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.run(op);
            pair.compare();
        }
    }
}
