//! The account against a recount of everything.

use std::collections::BTreeSet;

use proptest::prelude::*;
use razorfs_format::pack::TrailerEntry;
use razorfs_format::record::{Codec, FragmentKind, Origin, PackRef};
use razorfs_format::{Branch, Ino};

use super::super::dead::{PUNCH_MIN, dead_runs};
use super::super::fragments::overlay;
use super::*;

/// What happens to one of a few blocks.
#[derive(Clone, Debug)]
enum Step {
    /// A new frame of so many bytes is laid over the block at an offset.
    Write {
        block: usize,
        off: u32,
        len: u32,
        foreign: bool,
    },
    Erase {
        block: usize,
        off: u32,
        len: u32,
    },
    /// Memtable and extents are flushed.
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..8u32, 1..8u32).prop_map(|(o, l)| (o * 16384, l * 16384));
    let step = prop_oneof![
        6 => (0..6usize, range.clone(), prop::bool::weighted(0.1)).prop_map(
            |(block, (off, len), foreign)| {
                Step::Write { block, off, len: len.min(131_072 - off), foreign }
            }
        ),
        2 => (0..6usize, range).prop_map(|(block, (off, len))| {
            Step::Erase { block, off, len: len.min(131_072 - off) }
        }),
        2 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..120)
}

/// Packs of a few frames each, filled one after the other.
struct Packs {
    open: PackState,
    all: Vec<TrailerEntry>,
    of: Vec<PackId>,
}

impl Packs {
    fn frame(&mut self, len: u32, birth: Epoch, foreign: bool) -> (PackRef, Option<PackState>) {
        let mut sealed = None;
        if self.open.len > 1_000_000 {
            sealed = Some(PackState {
                sealed: true,
                ..self.open
            });
            self.open = PackState::new(self.open.id.next());
        }
        let entry = TrailerEntry {
            pos: self.open.len,
            stored_len: len,
            branch: Branch::HEAD,
            ino: Ino(1),
            block: 0,
        };
        let origin = Origin {
            branch: Branch(1),
            ino: Ino(5),
            block: 5,
            offset: 0,
        };
        let r = PackRef {
            pack: self.open.id,
            pos: entry.pos,
            stored_len: len,
            raw_len: len,
            skip: 0,
            codec: Codec::None,
            birth,
            origin: foreign.then_some(origin),
            crcs: Box::new([]),
        };
        self.all.push(entry);
        self.of.push(self.open.id);
        self.open.cover(&r);
        (r, sealed)
    }
}

proptest! {
    #[test]
    fn any_sequence_of_flushes_counts_as_a_recount_does(steps in steps()) {
        let mut packs =
            Packs { open: PackState::new(PackId(1)), all: Vec::new(), of: Vec::new() };
        let mut account = Account::default();
        let mut epoch = Epoch(1);
        // What was flushed, and what a memtable on top of it says.
        let mut flushed: Vec<Vec<Fragment>> = vec![Vec::new(); 6];
        let mut now = flushed.clone();
        // Dead for good, as of each flush.
        let mut punched: BTreeSet<(PackId, u64)> = BTreeSet::new();
        for step in steps.into_iter().chain([Step::Flush, Step::Flush]) {
            match step {
                Step::Write { block, off, len, foreign } => {
                    let (r, sealed) = packs.frame(len, epoch, foreign);
                    account.note(&packs.open);
                    if let Some(sealed) = sealed {
                        account.note(&sealed);
                    }
                    overlay(&mut now[block], Fragment { off, len, kind: FragmentKind::Pack(r) });
                }
                Step::Erase { block, off, len } => {
                    overlay(&mut now[block], Fragment { off, len, kind: FragmentKind::Hole });
                }
                Step::Flush => {
                    for (old, new) in flushed.iter_mut().zip(&now) {
                        account.apply(old, new);
                        old.clone_from(new);
                    }
                    account.flushed(epoch);
                    let live: BTreeSet<(PackId, u64)> = flushed
                        .iter()
                        .flat_map(|list| frames_of(list))
                        .filter(|f| !f.foreign)
                        .map(|f| (f.pack, f.pos))
                        .collect();
                    for p in account.packs() {
                        let count: u64 = packs
                            .all
                            .iter()
                            .zip(&packs.of)
                            .filter(|(e, id)| **id == p.id && live.contains(&(p.id, e.pos)))
                            .map(|(e, _)| e.end() - e.pos)
                            .sum();
                        prop_assert_eq!(p.live, count);
                        prop_assert!(p.live <= p.total || p.total == 0);
                    }
                    for id in account.fully_dead(epoch) {
                        prop_assert!(id != packs.open.id && !live.iter().any(|(p, _)| *p == id));
                    }
                    for (pack, hole) in account.take_punchable(epoch) {
                        prop_assert_ne!(pack, packs.open.id);
                        for (e, _) in packs.all.iter().zip(&packs.of).filter(|(_, p)| **p == pack) {
                            let hit = e.pos < hole.end && hole.start < e.end();
                            prop_assert!(!hit || !live.contains(&(pack, e.pos)));
                            if hit {
                                punched.insert((pack, e.pos));
                            }
                        }
                    }
                    epoch = epoch.next();
                }
            }
        }
        // What the trailer and liveness find covers what was punched on the way.
        for p in account.packs().filter(|p| p.sealed && p.live > 0) {
            let live: BTreeSet<u64> = flushed
                .iter()
                .flat_map(|list| frames_of(list))
                .filter(|f| f.pack == p.id && !f.foreign)
                .map(|f| f.pos)
                .collect();
            let list: Vec<TrailerEntry> = packs
                .all
                .iter()
                .zip(&packs.of)
                .filter(|(_, id)| **id == p.id)
                .map(|(e, _)| *e)
                .collect();
            let holes = dead_runs(&list, &mut |e| Ok(live.contains(&e.pos))).unwrap();
            for (pack, pos) in punched.iter().filter(|(id, _)| *id == p.id) {
                let e = list.iter().find(|e| e.pos == *pos).unwrap();
                prop_assert!(
                    holes.iter().any(|h| e.pos < h.end && h.start < e.end()),
                    "{} {}", pack, pos
                );
            }
            for h in &holes {
                let dead = list.iter().filter(|e| !live.contains(&e.pos));
                let bytes: u64 = dead
                    .map(|e| e.end().min(h.end).saturating_sub(e.pos.max(h.start)))
                    .sum();
                prop_assert_eq!(bytes, h.end - h.start);
            }
        }
    }
}

fn pack(id: u64, sealed: bool, total: u64, live: u64, last_birth: u64) -> PackMeta {
    PackMeta {
        id: PackId(id),
        sealed,
        len: HEADER_LEN + total,
        total,
        live,
        last_birth: Epoch(last_birth),
    }
}

fn fragment(pos: u64, len: u32) -> Fragment {
    let (pack, codec) = (PackId(1), Codec::None);
    let r = PackRef {
        pack,
        pos,
        stored_len: len,
        raw_len: len,
        skip: 0,
        codec,
        birth: Epoch(1),
        origin: None,
        crcs: Box::new([]),
    };
    Fragment {
        off: 0,
        len,
        kind: FragmentKind::Pack(r),
    }
}

#[test]
fn a_run_is_given_out_when_old_enough_and_again_when_it_has_grown() {
    // Frames of 8 KiB with their headers.
    let len = 8192 - 56;
    let at = |n: u64| 4096 + n * 8192;
    let mut account = Account::new([pack(1, true, 100 * 8192, 100 * 8192, 3)]);
    for n in (0..7).chain(8..10) {
        account.apply(&[fragment(at(n), len)], &[]);
    }
    account.flushed(Epoch(5));
    assert_eq!(account.take_punchable(Epoch(5)), []);
    account.apply(&[fragment(at(7), len)], &[]);
    account.flushed(Epoch(6));
    assert_eq!(account.take_punchable(Epoch(5)), []);
    // The header of the first frame stays.
    let first = [(PackId(1), 8192..at(10))];
    assert_eq!(account.take_punchable(Epoch(6)), first);
    assert_eq!(account.take_punchable(Epoch(6)), []);
    account.apply(&[fragment(at(10), len)], &[fragment(at(10), len)]);
    account.apply(&[fragment(at(11), len)], &[]);
    account.apply(&[fragment(at(10), len)], &[]);
    account.flushed(Epoch(7));
    assert_eq!(
        account.take_punchable(Epoch(7)),
        [(PackId(1), 8192..at(12))]
    );
    account.remove(PackId(1));
    assert_eq!(account.take_punchable(Epoch(9)), []);
    assert!(at(10) - 8192 >= PUNCH_MIN);
}

#[test]
fn packs_are_deletable_and_cleanable_only_when_all_of_them_was_flushed() {
    let mut account = Account::new([
        pack(1, true, 1000, 0, 4),
        pack(2, false, 1000, 0, 4),
        pack(3, true, 1000, 0, 6),
        pack(4, true, 1000, 100, 5),
        pack(5, true, 1000, 100, 1),
        pack(6, true, 1000, 900, 1),
        pack(7, true, 1000, 500, 1),
        pack(8, false, 1000, 10, 1),
    ]);
    assert_eq!(account.fully_dead(Epoch(5)), [PackId(1)]);
    assert_eq!(account.fully_dead(Epoch(6)), [PackId(1), PackId(3)]);
    assert_eq!(
        account.cleanable(Epoch(5)),
        [PackId(5), PackId(7), PackId(4)]
    );
    let mut copy = account.clone();
    copy.remove(PackId(1));
    assert!(copy.get(PackId(1)).is_none() && account.get(PackId(1)).is_some());
    account.note(&PackState {
        sealed: true,
        ..PackState::new(PackId(2))
    });
    let known = account.get(PackId(2)).unwrap();
    assert!(known.sealed && known.total == 1000 && known.last_birth == Epoch(4));
    assert_eq!(account.totals(), (8 * (1000 + HEADER_LEN), 1610));
}
