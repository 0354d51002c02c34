use std::collections::BTreeSet;

use super::content::SECTOR;
use super::*;
use crate::{Disk, DiskOp, Env, File, LockMode, OpenHow};
use std::io::IoSlice;

fn name(leaf: &str) -> Name {
    Name::new(Dir::Meta, leaf)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    disk
}

fn create(disk: &SimDisk, leaf: &str) -> Arc<dyn File> {
    disk.open(&name(leaf), OpenHow::CreateNew).unwrap()
}

/// A file whose bytes and name are durable.
fn durable(disk: &SimDisk, leaf: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(disk, leaf);
    write(&*file, 0, bytes);
    file.sync_data().unwrap();
    disk.sync_dir(Dir::Meta).unwrap();
    file
}

fn write(file: &dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

fn contents(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn read_how(disk: &SimDisk, leaf: &str, how: OpenHow) -> Option<Vec<u8>> {
    disk.open(&name(leaf), how).ok().map(|f| contents(&*f))
}

fn read(disk: &SimDisk, leaf: &str) -> Option<Vec<u8>> {
    read_how(disk, leaf, OpenHow::Read)
}

/// What `look` sees after each possible outcome of a cut.
fn outcomes<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let mut choices = Choices::default();
    while choices.advance() {
        seen.insert(look(&disk.after_cut_with(|n| choices.choose(n))));
    }
    seen
}

fn leaves(disk: &SimDisk) -> Vec<String> {
    let files = disk.files().into_iter();
    files.map(|(n, len)| format!("{}:{len}", n.leaf)).collect()
}

fn set<const N: usize>(of: [&str; N]) -> BTreeSet<Vec<String>> {
    let words = |s: &str| s.split_whitespace().map(str::to_owned).collect();
    of.into_iter().map(words).collect()
}

#[test]
fn data_and_length_survive_independently() {
    let d = disk();
    let f = durable(&d, "a", b"hello");
    write(&*f, 0, b"HELLO!");
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    let want: [&[u8]; 4] = [b"hello", b"HELLO", b"hello\0", b"HELLO!"];
    assert_eq!(seen, want.map(<[u8]>::to_vec).into());
    f.sync_data().unwrap();
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert_eq!(seen, [b"HELLO!".to_vec()].into());
}

#[test]
fn each_sector_is_kept_in_any_of_its_versions() {
    let d = disk();
    let f = durable(&d, "a", &[0; 3 * SECTOR]);
    write(&*f, 0, &[1; 2 * SECTOR]);
    write(&*f, SECTOR as u64, &[2; 2 * SECTOR]);
    let firsts = |d: &SimDisk| {
        let bytes = read(d, "a").unwrap();
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is torn");
        }
        bytes.iter().step_by(SECTOR).copied().collect::<Vec<_>>()
    };
    let mut want = BTreeSet::new();
    for a in [0, 1] {
        for b in [0, 1, 2] {
            want.extend([0, 2].map(|c| vec![a, b, c]));
        }
    }
    assert_eq!(outcomes(&d, firsts), want);
}

#[test]
fn truncation_can_be_lost_and_what_it_cut_off_never_mixes_in() {
    let d = disk();
    let f = durable(&d, "a", b"abcdef");
    f.set_len(2).unwrap();
    f.set_len(4).unwrap();
    assert_eq!(contents(&*f), b"ab\0\0");
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert!(seen.contains(b"abcdef".as_slice()) && seen.contains(b"ab".as_slice()));
    f.sync_data().unwrap();
    f.set_len(6).unwrap();
    f.sync_data().unwrap();
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert_eq!(seen, [b"ab\0\0\0\0".to_vec()].into());
}

#[test]
fn a_created_file_may_vanish_even_if_it_was_synced() {
    let d = disk();
    let f = create(&d, "a");
    write(&*f, 0, b"x");
    f.sync_data().unwrap();
    assert_eq!(outcomes(&d, leaves), set(["", "a:1"]));
    d.sync_dir(Dir::Pack).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["", "a:1"]));
    d.sync_dir(Dir::Meta).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["a:1"]));
    d.remove(&name("a")).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["", "a:1"]));
    // The name can be used again, and then stands for the one file or the other.
    write(&*create(&d, "a"), 0, b"xyz");
    assert_eq!(outcomes(&d, leaves), set(["", "a:1", "a:0", "a:3"]));
    d.sync_dir(Dir::Meta).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["a:0", "a:3"]));
}

#[test]
fn a_rename_is_atomic_and_the_replaced_file_stays_until_then() {
    let d = disk();
    durable(&d, "super", b"old");
    let f = create(&d, "tmp");
    write(&*f, 0, b"fresh");
    f.sync_data().unwrap();
    d.rename(&name("tmp"), &name("super")).unwrap();
    assert_eq!(leaves(&d), ["super:5"]);
    let want = set(["super:3", "super:3 tmp:5", "super:5"]);
    assert_eq!(outcomes(&d, leaves), want);
    d.sync_dir(Dir::Meta).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["super:5"]));
}

#[test]
fn a_rename_between_directories_needs_both_synced() {
    let d = disk();
    durable(&d, "a", b"1");
    let to = Name::new(Dir::Archive, "b");
    d.rename(&name("a"), &to).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["a:1", "b:1"]));
    d.sync_dir(Dir::Meta).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["a:1", "b:1"]));
    d.sync_dir(Dir::Archive).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["b:1"]));
    // A durable change brings those with it that it builds on.
    d.rename(&to, &name("a")).unwrap();
    write(&*d.open(&to, OpenHow::CreateNew).unwrap(), 0, b"22");
    d.sync_dir(Dir::Archive).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["a:1 b:0", "a:1 b:2"]));
}

#[test]
fn an_unlinked_file_goes_on_and_its_bytes_are_freed_at_last() {
    let d = disk();
    let f = durable(&d, "a", b"bytes");
    d.remove(&name("a")).unwrap();
    d.sync_dir(Dir::Meta).unwrap();
    write(&*f, 5, b"!");
    assert_eq!(contents(&*f), b"bytes!");
    drop(f);
    assert!(d.lock_state().files.iter().all(|f| f.forgotten));
}

#[test]
fn after_a_failed_sync_the_cache_deceives() {
    let d = disk();
    let f = durable(&d, "a", b"old");
    d.fail_sync_at(d.counts().syncs);
    write(&*f, 0, b"new");
    let error = f.sync_data().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EIO));
    f.sync_data().unwrap();
    assert_eq!(read(&d, "a").unwrap(), b"new");
    let uncached = read_how(&d, "a", OpenHow::ReadUncached);
    assert_eq!(uncached.unwrap(), b"old");
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert_eq!(seen, [b"old".to_vec()].into());
    // Written again they are dirty again, and a success means something.
    write(&*f, 0, b"n");
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert_eq!(seen, [b"old".to_vec(), b"new".to_vec()].into());
    f.sync_data().unwrap();
    let seen = outcomes(&d, |d| read(d, "a").unwrap());
    assert_eq!(seen, [b"new".to_vec()].into());
}

#[test]
fn a_failed_sync_may_have_reached_the_disk_in_part() {
    let seen: BTreeSet<Vec<u8>> = (0..64)
        .map(|seed| {
            let d = disk();
            let f = durable(&d, "a", &[0; 2 * SECTOR]);
            d.fail_sync_partly_at(d.counts().syncs, seed);
            write(&*f, 0, &[1; 2 * SECTOR]);
            f.sync_data().unwrap_err();
            d.drop_caches();
            contents(&*f).into_iter().step_by(SECTOR).collect()
        })
        .collect();
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_lying_sync_leaves_everything_pending() {
    let d = disk();
    let f = durable(&d, "a", b"old");
    d.lie_at_sync(d.counts().syncs);
    write(&*f, 0, b"new");
    f.sync_data().unwrap();
    let want: BTreeSet<Vec<u8>> = [b"old".to_vec(), b"new".to_vec()].into();
    assert_eq!(outcomes(&d, |d| read(d, "a").unwrap()), want);
    d.lie_at_dir_sync(d.counts().dir_syncs);
    d.remove(&name("a")).unwrap();
    d.sync_dir(Dir::Meta).unwrap();
    assert_eq!(outcomes(&d, leaves), set(["", "a:3"]));
}

#[test]
fn lost_and_misdirected_writes_come_to_light_past_the_cache() {
    let d = disk();
    let f = durable(&d, "a", b"aaaa");
    durable(&d, "b", b"bbbb");
    let k = d.counts().writes;
    d.lose_write_at(k);
    write(&*f, 0, b"AA");
    assert_eq!(contents(&*f), b"AAaa");
    let uncached = |leaf| read_how(&d, leaf, OpenHow::ReadUncached).unwrap();
    assert_eq!(uncached("a"), b"aaaa");
    d.misdirect_write_at(k + 1, &name("b"), 2);
    write(&*f, 0, b"XYZ");
    f.sync_data().unwrap();
    assert_eq!(uncached("a"), b"aaaa");
    assert_eq!(
        (read(&d, "b").unwrap(), uncached("b")),
        (b"bbbb".into(), b"bbXY".into())
    );
    d.drop_caches();
    assert_eq!(
        (read(&d, "a").unwrap(), read(&d, "b").unwrap()),
        (b"aaaa".into(), b"bbXY".into())
    );
}

#[test]
fn writes_and_reads_fail_where_planted() {
    let d = disk();
    let f = durable(&d, "a", b"aaaa");
    d.fail_write_at(d.counts().writes, 2);
    let bufs = [IoSlice::new(b"b"), IoSlice::new(b"bb")];
    let error = f.write_at(&bufs, 0).unwrap_err();
    assert_eq!(
        (error.op, error.source.raw_os_error()),
        (DiskOp::Write, Some(libc::EIO))
    );
    assert_eq!(contents(&*f), b"bbaa");
    d.short_write_at(d.counts().writes, 1);
    assert!(f.write_at(&bufs, 0).unwrap_err().is_full());
    d.enospc_at(d.op_count());
    assert!(f.set_len(9).unwrap_err().is_full());
    d.fail_read_at(d.counts().reads);
    f.read_at(&mut [0], 0).unwrap_err();
    f.read_at(&mut [0], 0).unwrap();
    d.stale_read_at(d.counts().reads);
    assert_eq!(contents(&*f), b"aaaa");
    d.misdirect_read_at(d.counts().reads, 2);
    assert_eq!(contents(&*f), b"aa\0\0");
    d.fail_reads(&name("a"), 2..3);
    f.read_at(&mut [0; 2], 0).unwrap();
    f.read_at(&mut [0; 3], 0).unwrap_err();
    write(&*f, 2, b"!");
    assert_eq!(contents(&*f), b"bb!a");
    d.fail_dir_sync_at(d.counts().dir_syncs);
    d.remove(&name("a")).unwrap();
    d.sync_dir(Dir::Meta).unwrap_err();
    assert_eq!(outcomes(&d, leaves).len(), 2);
}

#[test]
fn a_limited_host_fills_up_and_empties() {
    let d = disk();
    d.set_capacity(Some(3 * 4096));
    let f = create(&d, "a");
    f.allocate(0..4096, true).unwrap();
    assert_eq!(d.space().unwrap().free, 2 * 4096);
    let error = f.write_at(&[IoSlice::new(&[1; 4 * 4096])], 0).unwrap_err();
    assert!(error.is_full());
    assert_eq!(contents(&*f), [1; 3 * 4096]);
    assert_eq!(d.space().unwrap().free, 0);
    assert!(f.allocate(0..4 * 4096, false).unwrap_err().is_full());
    write(&*f, 100, b"overwriting takes no space");
    f.punch(4096..8192).unwrap();
    assert_eq!(d.space().unwrap().free, 4096);
    f.set_len(1).unwrap();
    assert_eq!(d.space().unwrap().free, 2 * 4096);
    d.remove(&name("a")).unwrap();
    assert_eq!(
        d.space().unwrap(),
        crate::Space {
            total: 3 * 4096,
            free: 3 * 4096
        }
    );
}

#[test]
fn the_power_goes_off_in_the_call_asked_for() {
    let script = |d: &SimDisk| -> crate::Result<()> {
        d.create_dirs()?;
        let f = d.open(&name("tmp"), OpenHow::CreateNew)?;
        f.write_at(&[IoSlice::new(b"data")], 0)?;
        f.sync_data()?;
        d.rename(&name("tmp"), &name("a"))?;
        d.sync_dir(Dir::Meta)
    };
    let whole = SimDisk::new();
    script(&whole).unwrap();
    assert_eq!(whole.op_count(), 6);
    let mut synced = 0;
    for n in 0..=whole.op_count() {
        let d = SimDisk::new();
        d.cut_after(n);
        let result = script(&d);
        assert_eq!((result.is_ok(), d.is_off()), (n == 6, n < 6));
        if let Err(e) = result {
            assert!(SimDisk::is_power_off(&e));
            assert!(SimDisk::is_power_off(
                &d.lock(LockMode::Shared).err().unwrap()
            ));
        }
        assert!(d.op_count() <= n + 1);
        for leaves in outcomes(&d, leaves) {
            // The data were synced before the rename.
            assert!(!leaves.iter().any(|l| l.starts_with("a:") && l != "a:4"));
            synced += usize::from(leaves == ["a:4"]);
        }
    }
    // In the rename, in the sync of its directory, and after it.
    assert_eq!(synced, 3);
}

#[test]
fn after_a_cut_the_old_disk_is_dead_and_the_new_one_is_its_own() {
    let d = disk();
    let f = durable(&d, "a", b"1");
    let lock = d.lock(LockMode::Exclusive).unwrap();
    let after = d.power_cut(&mut SimRng::new(1));
    assert!(SimDisk::is_power_off(&f.len().unwrap_err()));
    assert!(SimDisk::is_power_off(&d.list(Dir::Meta).unwrap_err()));
    let other = d.power_cut(&mut SimRng::new(2));
    let _new = after.lock(LockMode::Exclusive).unwrap();
    drop(lock);
    after.remove(&name("a")).unwrap();
    assert_eq!(read(&other, "a").unwrap(), b"1");
}

#[test]
fn one_writer_or_many_readers() {
    let d = disk();
    let one = d.lock(LockMode::Shared).unwrap();
    let two = d.clone().lock(LockMode::Shared).unwrap();
    let error = d.lock(LockMode::Exclusive).err().unwrap();
    assert!(error.holder.is_some());
    drop((one, two));
    let writer = d.lock(LockMode::Exclusive).unwrap();
    d.lock(LockMode::Shared).err().unwrap();
    drop(writer);
    d.lock(LockMode::Exclusive).unwrap();
}

#[test]
fn images_are_restored_flipped_and_carried() {
    let d = disk();
    let f = durable(&d, "a", &[0; 5000]);
    write(&*f, 0, b"pending");
    let image = d.image();
    assert_eq!(image.total_len(), 5000);
    assert_eq!(image.bytes(&name("a")).unwrap(), [0; 5000]);
    let mut flipped = image.clone();
    assert!(flipped.flip_bit(&name("a"), 4999, 7) && !flipped.flip_bit(&name("a"), 5000, 0));
    let other = SimDisk::from_image(&flipped);
    assert_eq!(read(&other, "a").unwrap()[4999], 128);
    assert!(other.flip_bit(&name("a"), 4999, 7));
    assert_eq!(read(&other, "a").unwrap(), [0; 5000]);
    d.restore(&flipped);
    assert!(SimDisk::is_power_off(&f.len().unwrap_err()));
    assert_eq!(read(&d, "a").unwrap()[4999], 128);
    let copy = SimDisk::new();
    flipped.store(&copy).unwrap();
    assert_eq!(copy.image().bytes(&name("a")), flipped.bytes(&name("a")));
    let loaded = Image::load(&copy).unwrap();
    assert_eq!(loaded.bytes(&name("a")), flipped.bytes(&name("a")));
    assert_eq!(image.bytes(&name("a")).unwrap(), [0; 5000]);
}

#[test]
fn a_huge_length_costs_nothing() {
    let d = disk();
    let f = create(&d, "a");
    f.set_len(1 << 39).unwrap();
    f.set_len(10).unwrap();
    f.set_len(1 << 38).unwrap();
    f.punch(0..1 << 38).unwrap();
    f.sync_data().unwrap();
    assert_eq!(outcomes(&d, |d| d.files().len()), [0, 1].into());
    assert_eq!(f.len().unwrap(), 1 << 38);
}

#[test]
fn calls_are_counted_and_traced() {
    let d = disk();
    d.start_trace();
    let f = durable(&d, "a", b"four");
    contents(&*f);
    let counts = d.counts();
    assert_eq!((counts.writes, counts.bytes_written), (1, 4));
    assert_eq!((counts.syncs, counts.dir_syncs), (1, 1));
    assert_eq!(
        (counts.reads, counts.bytes_read, counts.mutations),
        (1, 4, 5)
    );
    assert_eq!(d.take_trace().len(), 4);
}

#[test]
fn a_seed_replays() {
    let run = |seed| {
        let mut rng = SimRng::new(seed);
        let d = disk();
        for leaf in ["a", "b", "c"] {
            let f = create(&d, leaf);
            write(&*f, rng.below(5000), &vec![7; rng.range(1, 9000) as usize]);
        }
        let after = d.power_cut(&mut rng);
        let bytes = |(n, _): (Name, u64)| (read(&after, &n.leaf), n);
        after.files().into_iter().map(bytes).collect::<Vec<_>>()
    };
    assert!((0..50).all(|seed| run(seed) == run(seed)));
    assert!((0..50).any(|seed| run(seed) != run(seed + 1)));
    let mut rng = SimRng::new(0);
    // The published first output of SplitMix64 for seed 0.
    assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf);
    assert!((0..1000).all(|_| rng.below(7) < 7));
    let (env, again) = (SimEnv::new(3), SimEnv::new(3));
    assert_eq!((env.random(), env.now()), (again.random(), again.now()));
    let (before, handle) = (env.monotonic(), env.clone());
    handle.advance(1_000_000_000);
    assert!(env.monotonic() > before + 1_000_000_000);
}

/// A file as it must be, kept the slow way: everything it was since the last sync.
#[derive(Default)]
struct Oracle {
    history: Vec<Vec<u8>>,
}

impl Oracle {
    fn now(&self) -> Vec<u8> {
        self.history.last().unwrap().clone()
    }

    fn allows(&self, bytes: &[u8]) -> bool {
        let sector = |of: &[u8], s: usize| {
            let mut padded = of.to_vec();
            padded.resize(of.len().max((s + 1) * SECTOR), 0);
            padded[s * SECTOR..(s + 1) * SECTOR].to_vec()
        };
        let all = |s: usize| {
            let got = sector(bytes, s);
            self.history.iter().any(|past| {
                let mut past = sector(past, s);
                // What lies behind the length that was kept is gone.
                let keep = bytes.len().saturating_sub(s * SECTOR).min(SECTOR);
                past[keep..].fill(0);
                past == got
            })
        };
        self.history.iter().any(|past| past.len() == bytes.len())
            && (0..bytes.len().div_ceil(SECTOR)).all(all)
    }
}

fn random_change(rng: &mut SimRng, file: &dyn File, oracle: &mut Oracle) {
    let mut now = oracle.now();
    let (from, len) = (rng.below(9000) as usize, rng.range(1, 3000) as usize);
    let to = from + len;
    match rng.below(10) {
        0..5 => {
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes);
            write(file, from as u64, &bytes);
            now.resize(now.len().max(to), 0);
            now[from..to].copy_from_slice(&bytes);
        }
        5 => {
            file.set_len(from as u64).unwrap();
            now.resize(from, 0);
        }
        6 => {
            file.punch(from as u64..to as u64).unwrap();
            let end = now.len();
            now[from.min(end)..to.min(end)].fill(0);
        }
        7 => {
            file.allocate(from as u64..to as u64, true).unwrap();
            now.resize(now.len().max(to), 0);
            now[from..to].fill(0);
        }
        8 => {
            file.allocate(from as u64..to as u64, false).unwrap();
            now.resize(now.len().max(to), 0);
        }
        _ => {
            file.sync_data().unwrap();
            oracle.history.clear();
        }
    }
    oracle.history.push(now);
}

#[test]
fn after_any_changes_a_cut_leaves_only_what_the_model_allows() {
    for seed in 0..400 {
        let mut rng = SimRng::new(seed);
        let mut d = disk();
        let mut file = durable(&d, "a", b"");
        let mut oracle = Oracle {
            history: vec![vec![]],
        };
        for _ in 0..rng.range(1, 40) {
            random_change(&mut rng, &*file, &mut oracle);
            assert_eq!(contents(&*file), oracle.now(), "seed {seed}");
            let kept = read(&d.after_cut(&mut rng), "a").unwrap();
            assert!(oracle.allows(&kept), "seed {seed}");
            if rng.chance(1, 10) {
                d = d.power_cut(&mut rng);
                file = d.open(&name("a"), OpenHow::ReadWrite).unwrap();
                oracle.history = vec![contents(&*file)];
            }
        }
        let allocated = d.lock_state().used();
        let recounted = SimDisk::from_image(&Image::load(&d).unwrap());
        assert!(allocated <= 16384 && recounted.lock_state().used() <= 16384);
    }
}
