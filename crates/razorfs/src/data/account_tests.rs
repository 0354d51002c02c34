//! The account against a recount of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use proptest::prelude::*;
use razorfs_disk::{DiskError, DiskOp};
use razorfs_format::layout::FileName;
use razorfs_format::pack::TrailerEntry;
use razorfs_format::record::{Codec, Fragment, FragmentKind, Origin, PackRef, Shared};
use razorfs_format::{Branch, Ino, Place, SegmentId};

use super::super::dead::{PUNCH_MIN, dead_runs};
use super::super::fragments::{frames_of, overlay};
use super::super::turnover::Turnover;
use super::*;
use crate::Error;

/// One flush that replaces one block, where nothing is shared.
fn apply(account: &mut Account, before: &[Fragment], after: &[Fragment]) {
    let mut turnover = Turnover::default();
    turnover.note(before, after);
    account.apply(&turnover.settle(None, |_, _| Ok(None)).unwrap());
}

/// What happens to one of a few blocks.
#[derive(Clone, Debug)]
enum Step {
    /// A new frame of so many bytes is laid over the block at an offset.
    Write {
        block: usize,
        off: u32,
        len: u32,
    },
    /// A part of what a block shows of a frame is laid over another, or the same, block.
    Share {
        from: usize,
        nth: usize,
        cut: u32,
        to: usize,
        off: u32,
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
        6 => (0..6usize, range.clone()).prop_map(|(block, (off, len))| {
            Step::Write { block, off, len: len.min(131_072 - off) }
        }),
        4 => (0..6usize, 0..9usize, 0..3u32, 0..6usize, 0..131_072u32).prop_map(
            |(from, nth, cut, to, off)| Step::Share { from, nth, cut, to, off }
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
    fn frame(&mut self, len: u32, birth: Epoch) -> (PackRef, Option<PackState>) {
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
        let r = PackRef {
            pack: self.open.id,
            pos: entry.pos,
            stored_len: len,
            raw_len: len,
            skip: 0,
            codec: Codec::None,
            birth,
            origin: None,
            crcs: Box::new([]),
        };
        self.all.push(entry);
        self.of.push(self.open.id);
        self.open.cover(&r);
        (r, sealed)
    }
}

/// What sharing does to the lists: all of the frame in the source's block gets an origin, and a
/// part of one piece is laid over the target.
fn share(now: &mut [Vec<Fragment>], step: &Step) {
    let Step::Share {
        from,
        nth,
        cut,
        to,
        off,
    } = step
    else {
        return;
    };
    let packed = |f: &&Fragment| matches!(f.kind, FragmentKind::Pack(_));
    let seen: Vec<Fragment> = now[*from].iter().filter(packed).cloned().collect();
    let Some(piece) = seen.get(*nth) else {
        return;
    };
    let FragmentKind::Pack(r) = &piece.kind else {
        return;
    };
    let origin = r.origin.unwrap_or_else(|| Origin {
        branch: Branch::HEAD,
        ino: Ino(1),
        block: *from as u64,
        offset: piece.off - r.skip,
    });
    for f in &mut now[*from] {
        if let FragmentKind::Pack(s) = &mut f.kind
            && (s.pack, s.pos) == (r.pack, r.pos)
        {
            s.origin = Some(origin);
        }
    }
    let cut = piece.len / 4 * cut;
    let (skip, len) = (r.skip + cut, (piece.len - cut).min(131_072 - off));
    let origin = Some(origin);
    let kind = FragmentKind::Pack(PackRef {
        skip,
        origin,
        ..r.clone()
    });
    overlay(
        &mut now[*to],
        Fragment {
            off: *off,
            len,
            kind,
        },
    );
}

type Counts = BTreeMap<(PackId, u64), Shared>;

/// Each reference of each kind, counted one by one.
fn recount(blocks: &[Vec<Fragment>]) -> (BTreeSet<(PackId, u64)>, Counts) {
    let (mut live, mut counts) = (BTreeSet::new(), Counts::new());
    for f in blocks.iter().flat_map(|list| frames_of(list)) {
        live.insert((f.pack, f.pos));
        if f.foreign {
            let none = Shared {
                count: 0,
                bytes: f.bytes,
            };
            counts.entry((f.pack, f.pos)).or_insert(none).count += 1;
        }
    }
    (live, counts)
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
        let mut counts = Counts::new();
        // Dead for good, as of each flush.
        let mut punched: BTreeSet<(PackId, u64)> = BTreeSet::new();
        for step in steps.into_iter().chain([Step::Flush, Step::Flush]) {
            match step {
                Step::Write { block, off, len } => {
                    let (r, sealed) = packs.frame(len, epoch);
                    account.note(&packs.open);
                    if let Some(sealed) = sealed {
                        account.note(&sealed);
                    }
                    overlay(&mut now[block], Fragment { off, len, kind: FragmentKind::Pack(r) });
                }
                Step::Share { .. } => share(&mut now, &step),
                Step::Erase { block, off, len } => {
                    overlay(&mut now[block], Fragment { off, len, kind: FragmentKind::Hole });
                }
                Step::Flush => {
                    let mut turnover = Turnover::default();
                    for (old, new) in flushed.iter_mut().zip(&now) {
                        turnover.note(old, new);
                        old.clone_from(new);
                    }
                    let counted = |pack, pos| Ok(counts.get(&(pack, pos)).copied());
                    let settled = turnover.settle(None, counted).unwrap();
                    for (pack, pos, count) in &settled.counts {
                        match count {
                            Some(count) => counts.insert((*pack, *pos), *count),
                            None => counts.remove(&(*pack, *pos)),
                        };
                    }
                    account.apply(&settled);
                    account.flushed(epoch);
                    let (live, counted) = recount(&flushed);
                    prop_assert_eq!(&counts, &counted);
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
                .filter(|f| f.pack == p.id)
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
    // Frames of 2 KiB with their headers.
    let len = 2048 - 56;
    let at = |n: u64| 4096 + n * 2048;
    let mut account = Account::new([pack(1, true, 100 * 2048, 100 * 2048, 3)]);
    for n in (0..7).chain(8..10) {
        apply(&mut account, &[fragment(at(n), len)], &[]);
    }
    account.flushed(Epoch(5));
    assert_eq!(account.take_punchable(Epoch(5)), []);
    apply(&mut account, &[fragment(at(7), len)], &[]);
    account.flushed(Epoch(6));
    assert_eq!(account.take_punchable(Epoch(5)), []);
    // The header of the first frame stays.
    let first = [(PackId(1), 8192..at(10))];
    assert_eq!(account.take_punchable(Epoch(6)), first);
    assert_eq!(account.take_punchable(Epoch(6)), []);
    apply(
        &mut account,
        &[fragment(at(10), len)],
        &[fragment(at(10), len)],
    );
    apply(&mut account, &[fragment(at(11), len)], &[]);
    apply(&mut account, &[fragment(at(10), len)], &[]);
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

fn shared(mut f: Fragment) -> Fragment {
    if let FragmentKind::Pack(r) = &mut f.kind {
        r.origin = Some(Origin {
            branch: Branch::HEAD,
            ino: Ino(9),
            block: 0,
            offset: 0,
        });
    }
    f
}

#[test]
fn a_frame_that_becomes_shared_is_neither_debited_nor_credited() {
    let own = fragment(4096, 1000);
    let mut account = Account::new([pack(1, true, 2000, 1056, 1)]);
    let mut turnover = Turnover::default();
    // The order in which blocks come does not matter, nor that of losing and gaining.
    turnover.note(&[], &[shared(own.clone())]);
    turnover.note(std::slice::from_ref(&own), &[shared(own.clone())]);
    let settled = turnover.settle(None, |_, _| Ok(None)).unwrap();
    let two = Shared {
        count: 2,
        bytes: 1056,
    };
    assert_eq!(settled.counts, [(PackId(1), 4096, Some(two))]);
    account.apply(&settled);
    account.flushed(Epoch(2));
    assert_eq!(account.get(PackId(1)).unwrap().live, 1056);
    assert!(account.fully_dead(Epoch(2)).is_empty());
    // The last one of the two takes it along, and not the first.
    for (left, live) in [(2, 1056), (1, 0)] {
        let mut turnover = Turnover::default();
        turnover.note(&[shared(own.clone())], &[]);
        let was = Shared { count: left, ..two };
        let settled = turnover.settle(None, |_, _| Ok(Some(was))).unwrap();
        let now = (left > 1).then_some(Shared { count: 1, ..two });
        assert_eq!(settled.counts, [(PackId(1), 4096, now)]);
        account.apply(&settled);
        assert_eq!(account.get(PackId(1)).unwrap().live, live);
    }
    assert_eq!(account.fully_dead(Epoch(2)), [PackId(1)]);
}

/// A flush that takes so many shared references to the frame at 4096 and gives so many, where the
/// tree has this to say of it.
fn turn(before: usize, after: usize, counted: Result<Option<u64>, ()>) -> Settled {
    let list = [shared(fragment(4096, 1000))];
    let mut turnover = Turnover::default();
    for n in 0..before.max(after) {
        let side = |some| if some { &list[..] } else { &[] };
        turnover.note(side(n < before), side(n < after));
    }
    let damaged = || Place::new(FileName::Segment(SegmentId(3)), 0).error("block", 1, 2);
    let answer = |count: Option<u64>| count.map(|count| Shared { count, bytes: 1056 });
    turnover
        .settle(None, |_, _| {
            counted.map(answer).map_err(|()| damaged().into())
        })
        .unwrap()
}

fn kept() -> Option<Shared> {
    Some(Shared {
        count: Shared::KEPT,
        bytes: 1056,
    })
}

#[test]
fn a_missing_or_too_low_count_neither_frees_a_frame_nor_underflows() {
    let at = |count| [(PackId(1), 4096, count)];
    for counted in [None, Some(1)] {
        let settled = turn(2, 0, Ok(counted));
        assert_eq!(settled.counts, at(kept()));
        assert!(settled.died.is_empty() && settled.born.is_empty());
    }
    // From then on nothing changes it, and nothing is debited or credited.
    for (before, after) in [(1, 0), (9, 0), (0, 4), (3, 2)] {
        let settled = turn(before, after, Ok(Some(Shared::KEPT)));
        assert!(settled.counts.is_empty() && settled.died.is_empty() && settled.born.is_empty());
    }
    // What is as high as it must be counts.
    assert_eq!(turn(2, 0, Ok(Some(2))).counts, at(None));
    assert_eq!(turn(2, 0, Ok(Some(2))).died.len(), 1);
}

#[test]
fn a_count_that_cannot_be_read_keeps_the_frame_and_does_not_stop_the_flush() {
    for (before, after) in [(1, 0), (0, 1), (2, 1)] {
        let settled = turn(before, after, Err(()));
        // It lies over what is damaged: later flushes need not read that.
        assert_eq!(settled.counts, [(PackId(1), 4096, kept())]);
        assert!(settled.died.is_empty());
        // A frame that nothing in the flush referred to before may be new.
        assert_eq!(settled.born.len(), usize::from(before == 0));
    }
    // What has an own reference has no count, whatever cannot be read where it would stand.
    let own = fragment(4096, 1000);
    let damaged = || Place::new(FileName::Segment(SegmentId(3)), 0).error("block", 1, 2);
    let mut turnover = Turnover::default();
    turnover.note(std::slice::from_ref(&own), &[]);
    let settled = turnover.settle(None, |_, _| Err(damaged().into())).unwrap();
    assert!(settled.died.len() == 1 && settled.counts.is_empty());
    // What the host cannot read, or has lost, is no better; what it may be able to do the next
    // time is tried again.
    let disk = |op, kind: io::ErrorKind| Error::from(DiskError::new(op, "S", kind.into()));
    for (error, goes_on) in [
        (disk(DiskOp::Read, io::ErrorKind::Other), true),
        (disk(DiskOp::Open, io::ErrorKind::NotFound), true),
        (disk(DiskOp::Open, io::ErrorKind::OutOfMemory), false),
    ] {
        let mut turnover = Turnover::default();
        turnover.note(&[shared(own.clone())], &[]);
        let settled = turnover.settle(None, |_, _| Err(error.clone()));
        assert_eq!(settled.is_ok(), goes_on, "{error}");
    }
}

#[test]
fn what_references_should_not_say_is_counted_on_the_safe_side() {
    // Two of one frame that tell of different lengths, an own one beside shared ones.
    let (long, short) = (fragment(4096, 1000), fragment(4096, 100));
    let mut turnover = Turnover::default();
    turnover.note(&[], &[shared(long.clone())]);
    turnover.note(&[], &[shared(short.clone())]);
    turnover.note(&[], std::slice::from_ref(&long));
    let settled = turnover.settle(None, |_, _| Ok(None)).unwrap();
    assert_eq!(settled.born, [(PackId(1), 1056)]);
    let mut turnover = Turnover::default();
    turnover.note(&[long], &[]);
    turnover.note(&[short], &[]);
    let settled = turnover.settle(None, |_, _| Ok(None)).unwrap();
    assert_eq!(settled.died, [(PackId(1), 4096..4096 + 160)]);
}

#[test]
fn an_account_that_says_too_little_keeps_the_pack_and_none_comes_into_being() {
    let mut account = Account::new([pack(1, true, 4000, 160, 1), pack(2, true, 8000, 0, 1)]);
    let of = |born: &[(u64, u64)], died: &[(u64, u64)]| Settled {
        born: born.iter().map(|(id, n)| (PackId(*id), *n)).collect(),
        died: died.iter().map(|(id, n)| (PackId(*id), 0..*n)).collect(),
        counts: Vec::new(),
        held: Vec::new(),
    };
    // Packs that nobody has: an image can say anything.
    account.apply(&of(&[(7, 1000)], &[(8, 1000), (u64::MAX, 8)]));
    assert_eq!(account.packs().count(), 2);
    account.apply(&of(&[], &[(1, 1056)]));
    account.apply(&of(&[(1, 1056)], &[]));
    account.apply(&of(&[], &[(1, 1056)]));
    account.apply(&of(&[], &[(1, 1056)]));
    account.flushed(Epoch(3));
    assert_eq!(account.fully_dead(Epoch(3)), [PackId(2)]);
    account.apply(&of(&[(2, u64::MAX - 3), (2, u64::MAX)], &[]));
    assert_eq!(account.totals().1, u64::MAX);
}
