//! Cleaning, with what happens beside it.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Disk, Name, OpenHow};

use crate::marks::{Mark, count};
use crate::store::What;
use crate::sync::atomic::Ordering;
use crate::{Compression, CreateOptions, Error, Geometry, Ino, NewNode, Options, Step, Volume};

/// Files that stay.
const KEPT: u64 = 12;
/// Bytes of each: half a block, so that there is room for others.
const LEN: usize = 9000;

struct Bench {
    disk: SimDisk,
    volume: Volume,
    /// The pack that holds the files, and as much that is dead.
    pack: Name,
}

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        compression: Some(Compression::None),
        threads: false,
        ..Options::default()
    }
}

fn open(disk: &SimDisk) -> Volume {
    let env = Arc::new(SimEnv::new(1));
    Volume::open_on(Arc::new(disk.clone()), env, options()).unwrap()
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SimRng::new(seed).fill(&mut bytes);
    bytes
}

fn name(n: u64) -> String {
    format!("kept {n}")
}

fn create(v: &Volume, name: &str, data: &[u8]) -> Ino {
    let node = NewNode::file(0o644);
    let ino = v
        .create_node(Ino::ROOT, name.as_bytes(), &node)
        .unwrap()
        .ino;
    v.write(ino, 0, data).unwrap();
    v.step(Step::Commit).unwrap();
    ino
}

fn remove(v: &Volume, name: &str) {
    v.unlink(Ino::ROOT, name.as_bytes()).unwrap();
    while v.step(Step::Reap).unwrap() {}
}

fn find(v: &Volume, n: u64) -> Ino {
    v.find_by_path(name(n).as_bytes()).unwrap()
}

/// Generations, so that what is not needed goes.
fn settle(v: &Volume) {
    for n in 0..3 {
        create(v, &format!("settle {n}"), b"x");
        v.checkpoint().unwrap();
        remove(v, &format!("settle {n}"));
    }
    v.checkpoint().unwrap();
}

fn clean(v: &Volume) {
    while v.step(Step::Clean).unwrap() {}
}

fn packs(disk: &SimDisk) -> Vec<Name> {
    let mut files: Vec<Name> = disk.files().into_iter().map(|(name, _)| name).collect();
    files.retain(|name| name.dir == Dir::Pack && name.leaf.ends_with(".rp"));
    files.sort();
    files
}

/// A volume with one sealed pack in which every second file is dead.
fn bench(parity: bool) -> Bench {
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
    let new = CreateOptions {
        parity,
        ..CreateOptions::from(&options())
    };
    Volume::create_on(Arc::new(disk.clone()), env, &new).unwrap();
    let volume = open(&disk);
    for n in 0..KEPT {
        create(&volume, &name(n), &content(n, LEN));
        create(&volume, &format!("dead {n}"), &content(1000 + n, LEN));
    }
    let pack = packs(&disk).remove(0);
    // It fills the pack up, and goes on in the next.
    create(&volume, "filler", &content(7, 100_000));
    volume.checkpoint().unwrap();
    for n in 0..KEPT {
        remove(&volume, &format!("dead {n}"));
    }
    volume.checkpoint().unwrap();
    Bench { disk, volume, pack }
}

fn check(v: &Volume, files: impl Iterator<Item = u64>) {
    for n in files {
        let mut got = vec![0xee; LEN];
        assert_eq!(v.read(find(v, n), 0, &mut got).unwrap(), LEN);
        assert!(got == content(n, LEN), "file {n}");
    }
}

/// Nothing is counted that is not there: when all is gone, all is given back.
fn ends_empty(v: &Volume) {
    let mut names = Vec::new();
    let listed = v.collect_children(Ino::ROOT, 0, &mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    });
    listed.unwrap();
    for name in names {
        remove(v, &name);
    }
    settle(v);
    assert_eq!(v.info().pack_live_bytes, 0);
}

fn is_shown_in(v: &Volume, ino: Ino, pack: &Name) -> bool {
    let layout = v.inner.store.layout(ino, 0).unwrap();
    layout.runs.iter().any(|run| match &run.what {
        What::Own(r) | What::Shared(r) => {
            *pack.leaf == *razorfs_format::layout::FileName::Pack(r.pack).leaf()
        }
        _ => false,
    })
}

#[test]
fn what_a_pack_still_holds_is_moved_and_the_pack_removed() {
    let Bench { disk, volume, pack } = bench(false);
    assert!(packs(&disk).contains(&pack));
    clean(&volume);
    let stats = volume.stats();
    assert!(stats.cleaned_bytes >= KEPT * LEN as u64, "{stats:?}");
    // What was copied is referred to where it was, as long as no flush moves it.
    assert!(is_shown_in(&volume, find(&volume, 0), &pack));
    volume.checkpoint().unwrap();
    assert!(!is_shown_in(&volume, find(&volume, 0), &pack));
    check(&volume, 0..KEPT);
    settle(&volume);
    assert!(!packs(&disk).contains(&pack));
    assert!(volume.stats().removed_packs > 0);
    check(&volume, 0..KEPT);
    volume.close().unwrap();
    let volume = open(&disk);
    check(&volume, 0..KEPT);
    assert!(!volume.step(Step::Clean).unwrap());
    ends_empty(&volume);
}

/// The memtable that is flushed with the moves, and the one after it, have what was written.
#[test]
fn what_is_written_over_while_it_is_cleaned_keeps_what_was_written() {
    let Bench { disk, volume, pack } = bench(false);
    clean(&volume);
    // All of a frame, a part of one, the end of a file, a file.
    volume
        .write(find(&volume, 0), 0, &content(50, LEN))
        .unwrap();
    volume.write(find(&volume, 1), 4000, &[1; 3000]).unwrap();
    let cut = crate::SetAttributes {
        size: Some(100),
        ..Default::default()
    };
    volume.set_attributes(find(&volume, 2), &cut).unwrap();
    remove(&volume, &name(3));
    assert!(volume.inner.store.freeze(true).unwrap());
    volume
        .write(find(&volume, 4), 0, &content(54, LEN))
        .unwrap();
    volume.write(find(&volume, 5), 0, &[5; 3000]).unwrap();
    remove(&volume, &name(6));
    let looks = |volume: &Volume| {
        let mut got = vec![0; LEN];
        let mut read = |n| {
            let len = volume.read(find(volume, n), 0, &mut got).unwrap();
            got[..len].to_vec()
        };
        assert!(read(0) == content(50, LEN) && read(4) == content(54, LEN));
        let mut expected = content(1, LEN);
        expected[4000..7000].fill(1);
        assert!(read(1) == expected);
        assert!(read(2) == content(2, LEN)[..100]);
        let mut expected = content(5, LEN);
        expected[..3000].fill(5);
        assert!(read(5) == expected);
        check(volume, 7..KEPT);
    };
    looks(&volume);
    settle(&volume);
    looks(&volume);
    assert!(!packs(&disk).contains(&pack));
    volume.close().unwrap();
    let volume = open(&disk);
    looks(&volume);
    ends_empty(&volume);
}

#[test]
fn shared_frames_stay_and_are_not_tried_again() {
    let Bench { disk, volume, pack } = bench(false);
    let copy = create(&volume, "copy", b"");
    let len = volume.copy_range(find(&volume, 0), 0, copy, 0, LEN as u64);
    assert_eq!(len.unwrap(), LEN as u64);
    volume.checkpoint().unwrap();
    let before = count(Mark::CleanShared);
    clean(&volume);
    assert!(count(Mark::CleanShared) > before);
    settle(&volume);
    assert!(packs(&disk).contains(&pack));
    assert!(is_shown_in(&volume, copy, &pack));
    assert!(!is_shown_in(&volume, find(&volume, 1), &pack));
    let copied = volume.stats().cleaned_bytes;
    clean(&volume);
    assert_eq!(volume.stats().cleaned_bytes, copied);
    check(&volume, 0..KEPT);
    remove(&volume, &name(0));
    let mut got = vec![0; LEN];
    assert_eq!(volume.read(copy, 0, &mut got).unwrap(), LEN);
    assert!(got == content(0, LEN));
    ends_empty(&volume);
    assert!(!packs(&disk).contains(&pack));
}

/// What was shared after the copy stays; what is to be shared later is written, until the place is
/// known.
#[test]
fn a_frame_that_is_being_moved_is_not_shared() {
    let Bench { disk, volume, pack } = bench(false);
    volume.inner.store.allow_sharing().unwrap();
    clean(&volume);
    let (before, copy) = (count(Mark::CopyBarred), create(&volume, "copy", b""));
    let share = |n| volume.copy_range(find(&volume, n), 0, copy, 0, LEN as u64);
    assert_eq!(share(0).unwrap(), LEN as u64);
    assert!(count(Mark::CopyBarred) > before);
    assert!(!is_shown_in(&volume, copy, &pack));
    volume.checkpoint().unwrap();
    assert_eq!(share(1).unwrap(), LEN as u64);
    let layout = volume.inner.store.layout(copy, 0).unwrap();
    let is_shared = |what: &What| matches!(what, What::Shared(_));
    assert!(layout.runs.iter().any(|run| is_shared(&run.what)));
    settle(&volume);
    check(&volume, 0..KEPT);
    let mut got = vec![0; LEN];
    assert_eq!(volume.read(copy, 0, &mut got).unwrap(), LEN);
    assert!(got == content(1, LEN));
    assert!(!packs(&disk).contains(&pack));
    ends_empty(&volume);
}

/// A look at the version before the move may be committed after it, in the same memtable.
#[test]
fn a_frame_stays_barred_until_looks_at_its_old_place_are_over() {
    let Bench { volume, .. } = bench(false);
    let layout = volume.inner.store.layout(find(&volume, 0), 0).unwrap();
    let Some(What::Own(old)) = layout.runs.into_iter().next().map(|run| run.what) else {
        panic!("no frame");
    };
    assert!(volume.inner.store.check_frame(&old).is_ok());
    clean(&volume);
    let is_barred = || volume.inner.store.ids.is_barred(old.pack, old.pos);
    assert!(is_barred());
    volume.checkpoint().unwrap();
    assert!(is_barred() && volume.inner.store.check_frame(&old).is_err());
    create(&volume, "more", b"x");
    volume.checkpoint().unwrap();
    assert!(!is_barred());
}

/// Whoever shares a frame looks at what is written to the block, and not at what it consists of: a
/// flush that only moves another frame of a block in many pieces must not let go of this one.
#[test]
fn a_block_in_many_pieces_of_which_a_frame_is_moved_is_not_written_anew() {
    let Bench { disk, volume, pack } = bench(false);
    volume.inner.store.allow_sharing().unwrap();
    let (file, copy) = (find(&volume, 0), create(&volume, "copy", b""));
    let frames = || -> Vec<_> {
        let layout = volume.inner.store.layout(file, 0).unwrap();
        let frame = |what| match what {
            What::Own(r) => Some((r.pack, r.pos)),
            _ => None,
        };
        layout
            .runs
            .into_iter()
            .filter_map(|r| frame(r.what))
            .collect()
    };
    let moved = frames()[0];
    // Nobody writes anew what cannot be read: so it comes to be in so many pieces.
    assert!(disk.flip_bit(&pack, moved.1 + 100, 3));
    disk.drop_caches();
    let shared = content(60, 50_000);
    volume.write(file, 20_000, &shared).unwrap();
    volume.step(Step::Commit).unwrap();
    for n in 0..7 {
        volume.write(file, 1000 * n + 500, &[n as u8; 10]).unwrap();
    }
    volume.checkpoint().unwrap();
    assert!(disk.flip_bit(&pack, moved.1 + 100, 3));
    disk.drop_caches();
    assert_eq!(frames()[..8], [moved; 8]);
    let stays = frames()[8];
    clean(&volume);
    let ids = &volume.inner.store.ids;
    assert!(ids.is_barred(moved.0, moved.1) && !ids.is_barred(stays.0, stays.1));
    // The flush that moves is under way, and has nothing of the block.
    assert!(volume.inner.store.freeze(true).unwrap());
    let len = volume.copy_range(file, 20_000, copy, 0, 50_000).unwrap();
    let layout = volume.inner.store.layout(copy, 0).unwrap();
    assert!(len == 50_000 && matches!(layout.runs[0].what, What::Shared(_)));
    settle(&volume);
    assert!(frames()[0] != moved);
    let mut got = vec![0; 50_000];
    assert_eq!(volume.read(copy, 0, &mut got).unwrap(), 50_000);
    assert!(got == shared);
    ends_empty(&volume);
}

/// Bytes that are not what they should be get no new checksum and no new place.
#[test]
fn a_damaged_frame_stays_where_it_is() {
    let Bench { disk, volume, pack } = bench(false);
    let layout = volume.inner.store.layout(find(&volume, 3), 0).unwrap();
    let Some(What::Own(r)) = layout.runs.into_iter().next().map(|run| run.what) else {
        panic!("no frame");
    };
    assert!(disk.flip_bit(&pack, r.pos + 100, 3));
    disk.drop_caches();
    let before = count(Mark::CleanDamaged);
    clean(&volume);
    assert_eq!(count(Mark::CleanDamaged), before + 1);
    settle(&volume);
    let mut got = vec![0; LEN];
    let read = volume.read(find(&volume, 3), 0, &mut got);
    assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
    check(&volume, (0..KEPT).filter(|n| *n != 3));
    assert!(packs(&disk).contains(&pack));
    // It can be read when it is whole again, and is not tried again and again.
    let copied = volume.stats().cleaned_bytes;
    clean(&volume);
    assert_eq!(volume.stats().cleaned_bytes, copied);
    assert!(disk.flip_bit(&pack, r.pos + 100, 3));
    disk.drop_caches();
    check(&volume, 0..KEPT);
}

#[test]
fn a_pack_of_which_no_frames_can_be_listed_is_not_tried_again() {
    let Bench { disk, volume, pack } = bench(false);
    disk.remove(&pack).unwrap();
    disk.drop_caches();
    let before = count(Mark::CleanPackUnreadable);
    clean(&volume);
    clean(&volume);
    assert_eq!(count(Mark::CleanPackUnreadable), before + 1);
    assert_eq!(volume.stats().cleaned_bytes, 0);
}

#[test]
fn cleaning_on_a_full_host_takes_back_what_it_wrote_and_goes_on_later() {
    let Bench { disk, volume, pack } = bench(false);
    let used = disk.image().total_len();
    disk.set_capacity(Some(used + 64));
    disk.enospc_at(disk.counts().mutations + 1);
    let refused = volume.step(Step::Clean);
    assert!(
        matches!(refused, Ok(false) | Err(Error::NoSpace)),
        "{refused:?}"
    );
    check(&volume, 0..KEPT);
    disk.clear_faults();
    disk.set_capacity(None);
    clean(&volume);
    settle(&volume);
    assert!(!packs(&disk).contains(&pack));
    check(&volume, 0..KEPT);
    ends_empty(&volume);
}

/// Copies that could not be written leave no frame barred, and nothing refers to them.
#[test]
fn copies_that_cannot_be_written_are_tried_again() {
    let before = count(Mark::CleanTakenBack);
    let mut refused = 0;
    for call in 1..5 {
        let Bench { disk, volume, pack } = bench(false);
        disk.enospc_at(disk.counts().mutations + call);
        match volume.step(Step::Clean) {
            Err(Error::NoSpace) => refused += 1,
            done => assert!(done.unwrap()),
        }
        disk.clear_faults();
        let layout = volume.inner.store.layout(find(&volume, 0), 0).unwrap();
        let Some(What::Own(r)) = layout.runs.into_iter().next().map(|run| run.what) else {
            panic!("no frame");
        };
        let copied = volume.stats().cleaned_bytes > 0;
        assert_eq!(volume.inner.store.ids.is_barred(r.pack, r.pos), copied);
        clean(&volume);
        settle(&volume);
        assert!(!packs(&disk).contains(&pack));
        check(&volume, 0..KEPT);
        ends_empty(&volume);
    }
    assert!(refused > 0 && count(Mark::CleanTakenBack) >= before + refused);
}

/// A flush that moves frames writes more blocks than one that does not.
#[test]
fn a_full_host_gets_its_checkpoint_without_the_moves() {
    let mut given_up = 0;
    for pages in 0.. {
        let Bench { disk, volume, pack } = bench(false);
        clean(&volume);
        assert!(volume.stats().cleaned_bytes > 0);
        let copies = packs(&disk).pop().unwrap();
        create(&volume, "new", b"");
        let space = disk.space().unwrap();
        disk.set_capacity(Some(space.total - space.free + pages * 4096));
        let flushed = volume.checkpoint();
        disk.set_capacity(None);
        let is_moved = is_shown_in(&volume, find(&volume, 0), &copies);
        check(&volume, 0..KEPT);
        match flushed {
            Err(e) => assert!(
                matches!(e, Error::NoSpace) && !is_moved && given_up == 0,
                "{e}"
            ),
            Ok(_) if is_moved => break,
            Ok(_) => given_up += 1,
        }
        // The copies are given back, and made anew.
        settle(&volume);
        assert!(!packs(&disk).contains(&copies) && packs(&disk).contains(&pack));
        clean(&volume);
        settle(&volume);
        assert!(!packs(&disk).contains(&pack));
        check(&volume, 0..KEPT);
        ends_empty(&volume);
    }
    assert!(given_up > 0);
}

/// Whatever a power cut leaves of a copy, the frames are where the extents say.
#[test]
fn a_crash_between_copy_and_move_loses_nothing() {
    for seed in 0..20 {
        let Bench { disk, volume, .. } = bench(false);
        clean(&volume);
        if seed % 2 == 0 {
            // The copies are in a pack that a generation knows, and nothing refers to them.
            volume.step(Step::Compact).unwrap();
        }
        let checkpoint = seed % 4 > 1;
        if checkpoint {
            // The power goes during the flush that moves them.
            disk.cut_after(disk.op_count() + seed);
            let _ = volume.checkpoint();
        }
        let after = disk.power_cut(&mut SimRng::new(seed));
        drop(volume);
        let volume = open(&after);
        check(&volume, 0..KEPT);
        clean(&volume);
        settle(&volume);
        check(&volume, 0..KEPT);
        ends_empty(&volume);
    }
}

#[test]
fn a_pack_with_parity_goes_together_with_it() {
    let Bench { disk, volume, pack } = bench(true);
    while volume.step(Step::Parity).unwrap() {}
    let parity = pack.leaf.replace(".rp", ".rq");
    let has_parity = || disk.files().iter().any(|(name, _)| *name.leaf == *parity);
    assert!(has_parity());
    clean(&volume);
    settle(&volume);
    while volume.step(Step::Parity).unwrap() {}
    assert!(!packs(&disk).contains(&pack) && !has_parity());
    check(&volume, 0..KEPT);
    ends_empty(&volume);
}

/// Who looks at the files of a volume that is held still finds what a generation names.
#[test]
fn packs_of_copies_are_known_to_who_looks() {
    let Bench { volume, .. } = bench(false);
    clean(&volume);
    let seen = volume.hold_still(|disk| {
        let files = disk.list(Dir::Pack).unwrap();
        files
            .iter()
            .filter(|name| name.leaf.ends_with(".rp"))
            .count()
    });
    assert_eq!(seen.unwrap() as u64, volume.info().packs);
    settle(&volume);
    check(&volume, 0..KEPT);
}

/// A pack that was copied to and to which nothing refers yet is not given back as a dead one.
#[test]
fn a_generation_between_copy_and_move_keeps_the_copies() {
    let Bench { disk, volume, .. } = bench(false);
    clean(&volume);
    let before = packs(&disk);
    let mut installer = volume.inner.store.scrub().installer.lock();
    installer.cleaned.seal().unwrap();
    for _ in 0..3 {
        volume
            .inner
            .store
            .scrub()
            .write_anew(&mut installer)
            .unwrap();
    }
    drop(installer);
    for pack in before {
        assert!(disk.open(&pack, OpenHow::Read).is_ok(), "{pack:?}");
    }
    settle(&volume);
    check(&volume, 0..KEPT);
}

/// The flush that is tried again is of an older epoch than copies that are made meanwhile: if those
/// raised the epoch of all, a generation without the moves would find the first ones dead.
#[test]
fn copies_made_after_a_flush_that_failed_do_not_lose_those_before() {
    let Bench { disk, volume, .. } = bench(false);
    let more = 100..100 + KEPT;
    for n in more.clone() {
        create(&volume, &name(n), &content(n, LEN));
        create(&volume, &format!("dead {n}"), &content(1000 + n, LEN));
    }
    create(&volume, "another filler", &content(8, 100_000));
    volume.checkpoint().unwrap();
    for n in more.clone() {
        remove(&volume, &format!("dead {n}"));
    }
    // Little is left of the first pack, so that a step for the other one follows.
    for n in 1..KEPT {
        remove(&volume, &name(n));
    }
    volume.checkpoint().unwrap();
    assert!(volume.step(Step::Clean).unwrap());
    // As when it is full.
    let mut installer = volume.inner.store.scrub().installer.lock();
    installer.cleaned.seal().unwrap();
    drop(installer);
    create(&volume, "something", b"x");
    let used = disk.space().unwrap().total - disk.space().unwrap().free;
    disk.set_capacity(Some(used));
    assert!(volume.checkpoint().is_err());
    disk.set_capacity(None);
    let waited = count(Mark::CleanAfterFlush);
    clean(&volume);
    assert!(count(Mark::CleanAfterFlush) > waited);
    settle(&volume);
    clean(&volume);
    settle(&volume);
    check(&volume, (0..1).chain(more));
    ends_empty(&volume);
}

/// Holes stand nowhere: in a volume that was just opened all that is dead looks like waste.
#[test]
fn what_was_punched_before_the_opening_is_no_waste() {
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
    let new = CreateOptions {
        limit: Some(400_000),
        ..CreateOptions::from(&options())
    };
    Volume::create_on(Arc::new(disk.clone()), env, &new).unwrap();
    let volume = open(&disk);
    for n in 0..KEPT {
        create(&volume, &name(n), &content(n, LEN));
    }
    // It ends a little behind a page.
    create(&volume, "dead", &content(1000, 118_740));
    create(&volume, "filler", &content(7, 100_000));
    volume.checkpoint().unwrap();
    remove(&volume, "dead");
    settle(&volume);
    clean(&volume);
    assert_eq!(volume.stats().cleaned_bytes, 0);
    volume.close().unwrap();
    let volume = open(&disk);
    let before = count(Mark::CleanSearched);
    clean(&volume);
    assert!(count(Mark::CleanSearched) > before);
    assert_eq!(volume.stats().cleaned_bytes, 0);
    let core = &volume.inner.store;
    assert_eq!(core.waste_over.load(Ordering::Relaxed), 0);
    create(&volume, "settle", b"x");
    volume.checkpoint().unwrap();
    let info = volume.info();
    let stored = core.stored.load(Ordering::Relaxed);
    let holes = (info.pack_bytes + info.segment_bytes).checked_sub(stored);
    assert!(
        holes.is_some_and(|bytes| bytes > 100_000),
        "{info:?} {stored}"
    );
    check(&volume, 0..KEPT);
}

/// Only the search finds out what is waste: what leaves no holes is.
#[test]
fn what_died_before_the_opening_and_leaves_no_holes_is_cleaned() {
    let Bench { disk, volume, pack } = bench(false);
    volume.close().unwrap();
    let volume = open(&disk);
    let before = count(Mark::CleanSearched);
    clean(&volume);
    assert!(count(Mark::CleanSearched) > before);
    settle(&volume);
    assert!(!packs(&disk).contains(&pack));
    check(&volume, 0..KEPT);
    ends_empty(&volume);
}

/// Whoever waits for room in the journal would wait for all steps that come at once.
#[test]
fn cleaning_makes_way_for_a_checkpoint_that_is_asked_for() {
    let Bench { volume, .. } = bench(false);
    let store = &volume.inner.store;
    store.want_checkpoint();
    assert!(!store.scrub().clean_some().unwrap());
    assert_eq!(volume.stats().cleaned_bytes, 0);
    store.signals.wanted.lock().checkpoint = false;
    store.scrub().clean_some().unwrap();
    assert!(volume.stats().cleaned_bytes >= KEPT * LEN as u64);
    settle(&volume);
    check(&volume, 0..KEPT);
}

/// Nothing else is done in the volume, and its checkpoints come by themselves.
#[test]
fn a_delete_makes_a_checkpoint_due_within_a_minute() {
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
    Volume::create_on(
        Arc::new(disk.clone()),
        env.clone(),
        &CreateOptions::from(&options()),
    )
    .unwrap();
    let volume = Volume::open_on(Arc::new(disk.clone()), env.clone(), options()).unwrap();
    let is_due = || volume.inner.store.scrub().is_due();
    create(&volume, "file", &content(1, 200_000));
    volume.checkpoint().unwrap();
    env.advance(3600 * 1_000_000_000);
    // There is nothing to do.
    assert!(!is_due());
    volume.checkpoint().unwrap();
    create(&volume, "small", b"x");
    env.advance(30 * 1_000_000_000);
    assert!(!is_due());
    remove(&volume, "file");
    assert!(is_due());
    while is_due() {
        crate::store::RoomMaker::make_room(volume.inner.store.scrub()).unwrap();
    }
    assert_eq!(packs(&disk).len(), 0);
    assert!(!is_due());
}

#[test]
fn what_is_written_over_makes_a_checkpoint_due() {
    let volume = Volume::for_tests(options());
    let file = create(&volume, "file", &content(1, 100_000));
    volume.checkpoint().unwrap();
    let is_due = || volume.inner.store.scrub().is_due();
    for n in 0.. {
        volume
            .write(file, n % 10 * 10_000, &content(n, 10_000))
            .unwrap();
        volume.step(Step::Commit).unwrap();
        if is_due() {
            break;
        }
        assert!(n < 10);
    }
}
