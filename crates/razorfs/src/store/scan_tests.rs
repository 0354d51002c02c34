//! Scans through all layers, at every size of them, against a map. In tests a chunk is a few
//! records long, so that every scan is made of several.

use std::collections::BTreeMap;

use proptest::prelude::*;
use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{Dirent, FileKind, Fragment, FragmentKind};
use razorfs_format::{Branch, Ino};

use super::Tx;
use crate::{Geometry, Options, Volume};

const INO: Ino = Ino(1 << 40);

#[derive(Clone, Debug)]
enum Do {
    Put(u64),
    Del(u64),
    /// Bytes of a block.
    Write(u64, u32),
    Hole(u64, u32),
    Gone(u64),
    Freeze,
    Checkpoint,
    Compact,
    Scan(u64, u64, usize),
}

fn any_do() -> impl Strategy<Value = Do> {
    let n = || 0..40_u64;
    let off = || (0..4_u32).prop_map(|n| n * 30_000);
    prop_oneof![
        8 => n().prop_map(Do::Put),
        6 => n().prop_map(Do::Del),
        8 => (n(), off()).prop_map(|(n, off)| Do::Write(n, off)),
        2 => (n(), off()).prop_map(|(n, off)| Do::Hole(n, off)),
        4 => n().prop_map(Do::Gone),
        1 => Just(Do::Freeze),
        1 => Just(Do::Checkpoint),
        1 => Just(Do::Compact),
        3 => (n(), 0..50_u64, 0..50_usize).prop_map(|(from, to, most)| Do::Scan(from, to, most)),
    ]
}

fn entry(n: u64) -> Key {
    Key::dirent(Branch::HEAD, INO, 0x100 + n)
}

fn block(n: u64) -> Key {
    Key::extent(Branch::HEAD, INO, n)
}

fn value(turn: u8) -> Vec<u8> {
    let mut value = Vec::new();
    let (ino, kind, name) = (Ino(7), FileKind::Regular, vec![b'a', turn | 0x80].into());
    Dirent { ino, kind, name }.encode(&mut value);
    value
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Vec<u8>>,
    /// The written offsets of each block; 100 bytes are written at each.
    blocks: BTreeMap<u64, BTreeMap<u32, ()>>,
}

fn check(volume: &Volume, model: &Model, from: u64, to: u64, most: usize) {
    let store = &volume.inner.store;
    let mut found = Vec::new();
    let mut each = |key: &Key, value: &super::Bytes| {
        found.push((key.second() - 0x100, value.to_vec()));
        found.len() < most
    };
    store.scan(&entry(from), &entry(to), &mut each).unwrap();
    let range = from..to.max(from);
    let want = model.entries.range(range.clone());
    let want: Vec<_> = want
        .map(|(n, v)| (*n, v.clone()))
        .take(most.max(1))
        .collect();
    assert_eq!(found, want);
    for n in range.clone() {
        let value = store.get(&entry(n)).unwrap();
        assert_eq!(value.as_deref(), model.entries.get(&n).map(Vec::as_slice));
    }
    let mut found = Vec::new();
    let mut each = |n: u64, runs: &[std::ops::Range<u32>]| {
        found.push((n, runs.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>()));
        found.len() < most
    };
    store.extents(INO, from, to, &mut each).unwrap();
    let runs = |offs: &BTreeMap<u32, ()>| offs.keys().map(|o| (*o, o + 100)).collect();
    let blocks = model
        .blocks
        .range(range)
        .filter(|(_, offs)| !offs.is_empty());
    let want: Vec<(u64, Vec<_>)> = blocks
        .map(|(n, offs)| (*n, runs(offs)))
        .take(most.max(1))
        .collect();
    assert_eq!(found, want);
}

fn perform(volume: &Volume, model: &mut Model, step: &Do, turn: u8) {
    let store = &volume.inner.store;
    let mut tx = Tx::new(OpType::Note);
    match *step {
        Do::Put(n) => {
            let value = value(turn);
            match model.entries.insert(n, value.clone()) {
                Some(_) => tx.put(entry(n), value.into()),
                None => tx.put_new(entry(n), value.into()),
            }
        }
        Do::Del(n) => {
            if model.entries.remove(&n).is_some() {
                tx.del(entry(n));
            }
        }
        Do::Write(n, off) => {
            model.blocks.entry(n).or_default().insert(off, ());
            tx.write(INO, n, off, vec![turn; 100]);
        }
        Do::Hole(n, off) => {
            model.blocks.entry(n).or_default().remove(&off);
            let (len, kind) = (100, FragmentKind::Hole);
            tx.patch(block(n), Fragment { off, len, kind });
        }
        Do::Gone(n) => {
            model.blocks.remove(&n);
            tx.del(block(n));
        }
        Do::Freeze => {
            store.freeze(false).unwrap();
        }
        Do::Checkpoint => volume.checkpoint().unwrap(),
        Do::Compact => {
            volume.step(crate::Step::Compact).unwrap();
        }
        Do::Scan(from, to, most) => check(volume, model, from, to, most),
    }
    let _ticket = store.commit(tx).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn scans_see_what_a_map_holds(steps in prop::collection::vec(any_do(), 1..250)) {
        let geometry = Geometry::tiny();
        let volume = Volume::for_tests(Options { geometry, ..Options::default() });
        let mut model = Model::default();
        for (turn, step) in steps.iter().enumerate() {
            perform(&volume, &mut model, step, turn as u8);
        }
        check(&volume, &model, 0, 60, usize::MAX);
    }
}
