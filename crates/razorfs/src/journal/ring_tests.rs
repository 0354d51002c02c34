//! The ring on a simulated disk: prefixes after power cuts, damage told from torn ends.

use std::sync::Arc;

use razorfs_disk::sim::{Image, SimDisk, SimRng};
use razorfs_disk::{Dir, Disk};
use razorfs_format::journal::{SECTOR, UNIT, extent_bytes};
use razorfs_format::{BatchSeq, Generation, Jid, Lsn, VolumeId};

use super::growth::Grown;
use super::*;
use crate::error::{Error, Result};

const VID: VolumeId = VolumeId(0xFEED);

fn geometry() -> JournalGeometry {
    JournalGeometry {
        initial_file: 32 << 10,
        max_file: 64 << 10,
        initial_files: 3,
        max_files: 5,
        copies: 1,
    }
}

/// The geometry of the ring on this disk.
fn geometry_on(disk: &SimDisk) -> JournalGeometry {
    let files = disk.files();
    let two = files.iter().any(|(name, _)| name.leaf.ends_with(".b"));
    JournalGeometry {
        copies: 1 + u8::from(two),
        ..geometry()
    }
}

fn blank() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    disk
}

fn create(disk: &SimDisk) -> (Ring, JournalStart) {
    create_with(disk, 1)
}

fn create_with(disk: &SimDisk, copies: u8) -> (Ring, JournalStart) {
    let geometry = JournalGeometry {
        copies,
        ..geometry()
    };
    Ring::create(Arc::new(disk.clone()), VID, geometry).unwrap()
}

fn batch(seq: u64, payload: Vec<u8>) -> Batch {
    Batch {
        seq: BatchSeq(seq),
        first_lsn: Lsn(seq * 10),
        n_ops: 3,
        durable: BatchSeq(0),
        generation: Generation(1),
        wall_ns: seq,
        payload,
    }
}

/// A payload that tells its batch, and its timeline.
fn payload(rng: &mut SimRng, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    rng.fill(&mut bytes);
    bytes
}

/// How many runs of the random tests; `RAZORFS_SEEDS` asks for more.
fn seeds() -> u64 {
    let asked = std::env::var("RAZORFS_SEEDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(150)
}

type Log = Vec<(u64, Vec<u8>)>;

fn recover(
    disk: &SimDisk,
    start: JournalStart,
    clean: Option<u64>,
) -> Result<(Ring, RecoveryReport, Log)> {
    let mut log = Log::new();
    let mut apply = |b: &Batch| {
        log.push((b.seq.0, b.payload.clone()));
        Ok(())
    };
    let (disk, geometry) = (Arc::new(disk.clone()), geometry_on(disk));
    let clean = clean.map(BatchSeq);
    let (ring, report) = Ring::recover(disk, VID, geometry, start, clean, &mut apply, &mut |_| {
        Ok(())
    })?;
    Ok((ring, report, log))
}

fn read_only(disk: &SimDisk, start: JournalStart, clean: Option<u64>) -> (RecoveryReport, Log) {
    let mut log = Log::new();
    let mut apply = |b: &Batch| {
        log.push((b.seq.0, b.payload.clone()));
        Ok(())
    };
    let (disk, copies) = (Arc::new(disk.clone()), geometry_on(disk).copies);
    let clean = clean.map(BatchSeq);
    let report = Ring::open_read_only(disk, VID, copies, start, clean, &mut apply).unwrap();
    (report, log)
}

/// A disk, a ring, and what must come back.
struct World {
    disk: SimDisk,
    rng: SimRng,
    ring: Option<Ring>,
    /// Payload of batch `i + 1`, in the timeline that counts.
    history: Vec<Vec<u8>>,
    /// The last batch that was acknowledged.
    acked: u64,
    /// The start in the superblock, and in the one before it.
    starts: [JournalStart; 2],
    recoveries: u64,
    rescues: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with(seed, 1)
    }

    fn with(seed: u64, copies: u8) -> Self {
        let disk = blank();
        let (ring, start) = create_with(&disk, copies);
        Self {
            disk,
            rng: SimRng::new(seed),
            ring: Some(ring),
            history: Vec::new(),
            acked: 0,
            starts: [start; 2],
            recoveries: 0,
            rescues: 0,
        }
    }

    fn ring(&mut self) -> &mut Ring {
        self.ring.as_mut().unwrap()
    }

    /// One random call; an error is a crash.
    fn step(&mut self) -> Result<()> {
        match self.rng.below(21) {
            0..=11 => {
                let max = self.ring().max_batch() as u64;
                let len = match self.rng.below(8) {
                    0 => self.rng.range(0, max),
                    1..=2 => self.rng.range(3000, 9000).min(max),
                    _ => self.rng.below(600),
                };
                self.append(len)?;
            }
            12..=15 => self.sync()?,
            16..=17 => self.checkpoint()?,
            18 => {
                self.ring().prepare()?;
            }
            19 => self.turn()?,
            _ => {
                self.ring().grow()?;
            }
        }
        Ok(())
    }

    fn append(&mut self, len: u64) -> Result<()> {
        let payload = payload(&mut self.rng, len);
        let mut seq = self.history.len() as u64 + 1;
        assert_eq!(self.ring().next(), BatchSeq(seq));
        let room = self.ring().room();
        // What was handed over may survive, whatever the answer.
        self.history.push(payload.clone());
        let mut done = self.ring().append(&batch(seq, payload.clone()));
        if matches!(done, Err(Error::Invalid(_))) {
            assert!(room < len.max(1), "room {room} but no place for {len}");
            self.history.pop();
            // The second checkpoint releases what the first one made redundant.
            self.checkpoint_all()?;
            self.checkpoint_all()?;
            while self.ring().room() < len {
                assert!(self.ring().grow()?, "no room and no growth");
            }
            seq = self.history.len() as u64 + 1;
            self.history.push(payload.clone());
            done = self.ring().append(&batch(seq, payload));
        }
        done?;
        self.acked = self.acked.max(self.ring().durable().0);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let before = self.ring().rescues();
        self.ring().sync()?;
        self.rescues += self.ring().rescues() - before;
        self.acked = self.history.len() as u64;
        assert_eq!(self.ring().durable().0, self.acked);
        Ok(())
    }

    /// Goes on in another file; what was handed over is durable then, unless there is none.
    fn turn(&mut self) -> Result<()> {
        let was = self.ring().durable();
        let places = self.ring().places_after_turn();
        let had = (self.ring().rescues(), self.ring().files.len());
        let turned = self.ring().turn();
        let has = (self.ring().rescues(), self.ring().files.len());
        // More if nothing is in the file that was in use; less if a file failed.
        let most = self.ring().max_batch();
        let batches = |places: &Places| (0..40).find(|n| !places.take(vec![most; n + 1]));
        let less = places.is_some_and(|was| batches(&was) > batches(&self.ring().places()));
        assert!(turned.is_err() || has != had || !less);
        self.acked = self.acked.max(self.ring().durable().0);
        assert!(self.ring().durable() >= was);
        turned
    }

    /// A checkpoint whose superblock names some cut, and what can be released after it.
    fn checkpoint(&mut self) -> Result<()> {
        let cut = self
            .rng
            .range(self.starts[0].batch.0, self.history.len() as u64 + 2);
        self.cut_at(cut)
    }

    fn checkpoint_all(&mut self) -> Result<()> {
        self.cut_at(self.history.len() as u64 + 1)
    }

    fn cut_at(&mut self, cut: u64) -> Result<()> {
        // The start may be taken down before the sync, too, which may move batches.
        let mut start = self.ring().start_for(BatchSeq(cut));
        self.sync()?;
        if self.rng.chance(1, 2) {
            start = self.ring().start_for(BatchSeq(cut));
        }
        self.starts = [start, self.starts[0]];
        let before = self.starts[1].batch;
        self.ring().release(before);
        Ok(())
    }

    fn check_log(&self, start: JournalStart, report: &RecoveryReport, log: &Log) {
        assert!(
            !report.read_only,
            "{start:?} of {:?}: {report:?}",
            self.starts
        );
        assert!(report.damage.is_empty(), "{report:?}");
        let (last, start) = (report.last.0, start.batch.0);
        assert!(
            last >= self.acked,
            "lost: {} of {} {report:?}",
            last,
            self.acked
        );
        assert!(last <= self.history.len() as u64, "{report:?}");
        let expected: Log = (start..=last)
            .map(|seq| (seq, self.history[seq as usize - 1].clone()))
            .collect();
        assert_eq!(log.len(), expected.len());
        assert!(*log == expected, "other batches than were written");
        assert_eq!(report.batches, log.len() as u64);
    }

    /// Recovers, with cuts on the way, and checks what came back.
    fn recover(&mut self) {
        self.ring = None;
        let off = self.disk.list(Dir::Journal).is_err();
        if off || self.rng.chance(2, 3) {
            self.disk = self.disk.power_cut(&mut self.rng);
        } else {
            // Only the process died.
            self.disk.clear_faults();
            self.disk.drop_caches();
        }
        loop {
            let (report, log) = read_only(&self.disk, self.starts[0], None);
            self.check_log(self.starts[0], &report, &log);
            let (older, log) = read_only(&self.disk, self.starts[1], None);
            self.check_log(self.starts[1], &older, &log);
            assert_eq!(report.last, older.last);
            // Before a recovery a superblock that names the same start is written.
            self.starts[1] = self.starts[0];
            if self.rng.chance(1, 3) {
                let calls = self.disk.op_count();
                self.disk.cut_after(calls + self.rng.below(12));
            }
            match recover(&self.disk, self.starts[0], None) {
                Ok((mut ring, again, log)) => {
                    self.disk.clear_faults();
                    self.check_log(self.starts[0], &again, &log);
                    assert_eq!(report.last, again.last);
                    if self.rng.chance(1, 2) {
                        ring.release(self.starts[0].batch);
                    }
                    self.history.truncate(report.last.0 as usize);
                    self.acked = report.last.0;
                    self.ring = Some(ring);
                    self.recoveries += 1;
                    return;
                }
                Err(_) => self.disk = self.disk.power_cut(&mut self.rng),
            }
        }
    }
}

#[test]
fn after_any_power_cut_a_prefix_comes_back_no_shorter_than_the_last_sync() {
    for seed in 0..seeds() {
        let mut w = World::new(seed);
        for _ in 0..6 {
            let calls = w.disk.op_count();
            w.disk.cut_after(calls + w.rng.below(60));
            while w.step().is_ok() {}
            w.recover();
        }
        assert_eq!(w.recoveries, 6);
    }
}

#[test]
fn a_cut_at_every_single_call_of_one_run() {
    let run = |cut: Option<u64>| {
        let mut w = World::new(7);
        if let Some(cut) = cut {
            w.disk.cut_after(cut);
        }
        let done = (0..120).try_for_each(|_| w.step());
        (w, done)
    };
    let (whole, done) = run(None);
    done.unwrap();
    let first = {
        let disk = blank();
        create(&disk);
        disk.op_count()
    };
    for cut in first..whole.disk.op_count() {
        let (mut w, done) = run(Some(cut));
        assert!(done.is_err());
        w.recover();
        for _ in 0..20 {
            w.step().unwrap();
        }
    }
}

#[test]
fn failing_syncs_and_writes_lose_nothing_that_was_acknowledged() {
    let mut rescues = 0;
    for seed in 0..seeds() {
        let mut w = World::new(seed);
        for _ in 0..4 {
            let counts = w.disk.counts();
            let k = w.rng.below(6);
            match w.rng.below(4) {
                0 => w.disk.fail_sync_at(counts.syncs + k),
                1 => w.disk.fail_sync_partly_at(counts.syncs + k, seed),
                2 => {
                    let written = w.rng.below(9000);
                    w.disk.fail_write_at(counts.writes + k, written);
                }
                // Twice in a row may be one too many.
                _ => {
                    w.disk.fail_sync_at(counts.syncs + k);
                    w.disk.fail_sync_at(counts.syncs + k + 1 + w.rng.below(2));
                }
            }
            for _ in 0..60 {
                if w.step().is_err() {
                    break;
                }
            }
            w.recover();
        }
        rescues += w.rescues;
    }
    assert!(rescues > seeds() / 5, "{rescues}");
}

#[test]
fn a_second_failure_stops_the_ring_for_good() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 10])).unwrap();
    ring.sync().unwrap();
    ring.append(&batch(2, vec![2; 10])).unwrap();
    let syncs = disk.counts().syncs;
    for k in 0..8 {
        disk.fail_sync_at(syncs + k);
    }
    assert!(matches!(ring.sync(), Err(Error::Failed(_))));
    disk.clear_faults();
    assert!(ring.sync().is_err(), "a later sync proves nothing");
    assert!(ring.append(&batch(3, vec![])).is_err());
    assert_eq!(ring.durable(), BatchSeq(1));
    drop(ring);
    let disk = disk.power_cut(&mut SimRng::new(1));
    let (_, report, _) = recover(&disk, start, None).unwrap();
    assert!(report.last >= BatchSeq(1));
}

#[test]
fn the_ring_goes_round_many_times_in_the_same_files() {
    let mut w = World::new(3);
    let files = w.disk.files();
    for _ in 0..600 {
        w.append(2000).unwrap();
        if w.history.len().is_multiple_of(4) {
            w.checkpoint().unwrap();
            w.checkpoint().unwrap();
            w.ring().prepare().unwrap();
        }
    }
    assert!(w.ring().start_for(BatchSeq(601)).jid > Jid(80));
    assert_eq!(w.disk.files(), files);
    w.sync().unwrap();
    w.recover();
    assert_eq!(w.history.len(), 600);
}

#[test]
fn a_full_ring_says_so_and_goes_on_after_a_release() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    let mut seq = 1;
    while ring.room() >= 3000 {
        ring.append(&batch(seq, vec![7; 3000])).unwrap();
        seq += 1;
    }
    assert!(ring.pressed());
    assert!(matches!(
        ring.append(&batch(seq, vec![7; 9000])),
        Err(Error::Invalid(_))
    ));
    ring.sync().unwrap();
    ring.release(BatchSeq(seq));
    ring.append(&batch(seq, vec![7; 9000])).unwrap();
}

#[test]
fn what_is_not_synced_fits_in_one_file() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    let least = 28 << 10;
    for seq in 1..=3 {
        ring.append(&batch(seq, vec![7; 9000])).unwrap();
        assert!(ring.unsynced_bytes() <= least, "{}", ring.unsynced_bytes());
    }
    assert_eq!(
        ring.durable(),
        BatchSeq(2),
        "the third one made it too much"
    );
    assert!(crate::marks::count(crate::marks::Mark::JournalSyncForced) > 0);
}

#[test]
fn growth_takes_steps_and_survives_cuts() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    let small = ring.capacity();
    while ring.grow().unwrap() {}
    assert_eq!(
        ring.host_bytes(),
        5 * (64 << 10) - (32 << 10),
        "all but the active file"
    );
    assert!(ring.capacity() > small);
    ring.append(&batch(1, vec![1; 20_000])).unwrap();
    ring.append(&batch(2, vec![2; 20_000])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let (ring, report, _) = recover(&disk.power_cut(&mut SimRng::new(4)), start, None).unwrap();
    assert_eq!(report.last, BatchSeq(2));
    drop(ring);

    for cut in 0..60 {
        let disk = blank();
        let (mut ring, start) = create(&disk);
        ring.append(&batch(1, vec![1; 20_000])).unwrap();
        ring.sync().unwrap();
        disk.cut_after(disk.op_count() + cut);
        while matches!(ring.grow(), Ok(true)) {}
        let disk = disk.power_cut(&mut SimRng::new(cut));
        let (mut ring, report, _) = recover(&disk, start, None).unwrap();
        assert_eq!(report.last, BatchSeq(1));
        assert!(report.damage.is_empty());
        while ring.grow().unwrap() {}
        ring.append(&batch(2, vec![2; 20_000])).unwrap();
        ring.sync().unwrap();
        let disk = disk.power_cut(&mut SimRng::new(cut));
        assert_eq!(read_only(&disk, start, None).0.last, BatchSeq(2));
    }
}

/// Whoever committed waited for the zeros, and for their flush.
#[test]
fn batches_are_written_while_a_file_is_filled() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    let (mut seq, mut filled) = (0, 0);
    loop {
        let filling = match ring.begin_step().unwrap() {
            Grown::Nothing => break,
            Grown::Done => continue,
            Grown::Filling(filling) => filling,
        };
        seq += 1;
        ring.append(&batch(seq, vec![1; 3000])).unwrap();
        let done = filling.run();
        ring.sync().unwrap();
        ring.filled(filling, done).unwrap();
        filled += 1;
    }
    assert!(filled > 2, "{filled}");
    let (_, report, _) = recover(&disk.power_cut(&mut SimRng::new(4)), start, None).unwrap();
    assert_eq!(report.last, BatchSeq(seq));
}

/// The file in use is as long as the ring takes at once until another one has taken its place.
#[test]
fn the_file_in_use_grows_once_another_one_is_used() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 20_000])).unwrap();
    ring.sync().unwrap();
    let small = ring.max_batch();
    while ring.grow().unwrap() {}
    assert_eq!(ring.max_batch(), small);
    ring.turn().unwrap();
    ring.release(BatchSeq(2));
    // Nothing is in the file that is in use now: it is let go of for another one.
    ring.turn().unwrap();
    while ring.grow().unwrap() {}
    assert!(ring.max_batch() > small);
    assert_eq!(ring.host_bytes(), 5 * (64 << 10));
    ring.append(&batch(2, vec![2; ring.max_batch()])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    // The start that names a life that has been overwritten leads to what came after it.
    let start = JournalStart {
        batch: BatchSeq(2),
        ..start
    };
    let disk = disk.power_cut(&mut SimRng::new(5));
    let (_, report, log) = recover(&disk, start, None).unwrap();
    assert!(report.damage.is_empty() && log.len() == 1 && log[0].0 == 2);
}

#[test]
fn a_host_that_is_full_does_not_stop_the_ring() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    let used: u64 = disk.files().iter().map(|(_, len)| len).sum();
    disk.set_capacity(Some(used + 8192));
    assert!(matches!(ring.grow(), Err(Error::NoSpace)));
    for seq in 1..200 {
        ring.append(&batch(seq, vec![3; 1000])).unwrap();
        ring.sync().unwrap();
        ring.release(BatchSeq(seq));
    }
    while matches!(ring.grow(), Ok(true)) {}
    assert_eq!(disk.files().iter().map(|(_, len)| len).sum::<u64>(), used);
}

/// Batches 1 to 4, of one, three, two and one units, which fill the first file, all synced.
fn four() -> (Image, JournalStart, Log) {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    let mut rng = SimRng::new(11);
    let mut log = Log::new();
    for (seq, len) in [(1, 100), (2, 9000), (3, 5000), (4, 50)] {
        let payload = payload(&mut rng, len);
        ring.append(&batch(seq, payload.clone())).unwrap();
        ring.sync().unwrap();
        log.push((seq, payload));
    }
    (disk.image(), start, log)
}

fn first_file() -> razorfs_disk::Name {
    host::name(0, 0)
}

#[test]
fn no_flipped_bit_passes_for_a_torn_end_or_changes_a_batch() {
    let (image, start, log) = four();
    let disk = SimDisk::from_image(&image);
    let ends = [8192, 20480, 28672, 32768u64];
    let mut rng = SimRng::new(1);
    let mut flip = |at: u64, batch: usize| {
        let bit = rng.below(8) as u8;
        assert!(disk.flip_bit(&first_file(), at, bit));
        let (report, read) = read_only(&disk, start, None);
        assert!(read == log[..batch], "bit {bit} of byte {at}");
        assert!(
            report.read_only && !report.damage.is_empty(),
            "byte {at}: {report:?}"
        );
        assert_eq!(report.torn, None, "byte {at}");
        assert!(disk.flip_bit(&first_file(), at, bit));
    };
    let mut from = 4096;
    for (i, end) in ends.into_iter().enumerate().take(3) {
        for at in (from..end).step_by(3) {
            flip(at, i);
        }
        from = end;
    }
    assert!(read_only(&disk, start, None).1 == log);
}

#[test]
fn the_last_batch_is_not_cut_off_for_a_flipped_bit_either() {
    let (image, start, log) = four();
    let disk = SimDisk::from_image(&image);
    for at in 28672..32768 {
        disk.flip_bit(&first_file(), at, 3);
        let (report, read) = read_only(&disk, start, None);
        assert!(read == log[..3], "byte {at}");
        assert!(report.read_only, "byte {at}");
        disk.flip_bit(&first_file(), at, 3);
    }
}

#[test]
fn a_damaged_file_header_costs_no_batch() {
    let (image, start, log) = four();
    let disk = SimDisk::from_image(&image);
    for at in 0..512 {
        disk.flip_bit(&first_file(), at, 5);
        let (report, read) = read_only(&disk, start, None);
        assert!(read == log);
        assert!(!report.read_only && report.damage.len() == 1, "{report:?}");
        disk.flip_bit(&first_file(), at, 5);
    }
    // Going on works, too.
    disk.flip_bit(&first_file(), 77, 5);
    let (mut ring, _, _) = recover(&disk, start, None).unwrap();
    ring.append(&batch(5, vec![5])).unwrap();
    ring.sync().unwrap();
    assert_eq!(read_only(&disk, start, None).1.len(), 5);
}

/// A ring that went round once, so that stale sectors are those of an older life.
fn second_round() -> (SimDisk, JournalStart, Vec<u8>) {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    let mut seq = 1;
    for _ in 0..13 {
        ring.append(&batch(seq, vec![seq as u8; 5000])).unwrap();
        ring.sync().unwrap();
        ring.release(BatchSeq(seq));
        seq += 1;
    }
    let start = ring.start_for(BatchSeq(seq));
    let before = disk.image();
    ring.append(&batch(seq, vec![99; 3000])).unwrap();
    ring.sync().unwrap();
    let (file, at) = placed(&before, &disk.image());
    let old = before.bytes(&file).unwrap()[at..at + UNIT].to_vec();
    assert!(old.iter().any(|&b| b != 0), "an older life stands there");
    (disk, start, old)
}

/// The file and offset of the first byte, behind the headers, that differs.
fn placed(before: &Image, after: &Image) -> (razorfs_disk::Name, usize) {
    for (name, _) in after.files() {
        let (a, b) = (before.bytes(name).unwrap(), after.bytes(name).unwrap());
        if let Some(at) = (UNIT..b.len()).find(|&i| a.get(i) != b.get(i)) {
            return (name.clone(), at / UNIT * UNIT);
        }
    }
    panic!("nothing changed");
}

#[test]
fn a_batch_with_any_sector_missing_is_torn_and_with_any_damaged_is_not() {
    let (disk, start, old) = second_round();
    let whole = disk.image();
    let seq = start.batch.0;
    let (report, log) = read_only(&disk, start, None);
    assert_eq!((report.torn, log.len()), (None, 1));
    let file = (0..3).map(|slot| host::name(slot, 0)).find(|n| {
        let bytes = whole.bytes(n).unwrap();
        (1..bytes.len() / UNIT).any(|u| bytes[u * UNIT + 8] == seq as u8 && bytes[u * UNIT] != 0)
    });
    let file = file.unwrap();
    let bytes = whole.bytes(&file).unwrap();
    let at = (1..)
        .map(|u| u * UNIT)
        .find(|&at| bytes[at + 8] == seq as u8)
        .unwrap();
    for missing in 1..256u32 {
        for stale in [&old[..], &[0; UNIT]] {
            let mut image = whole.clone();
            for s in (0..8).filter(|s| missing & 1 << s != 0) {
                let from = s * SECTOR;
                image.write(&file, (at + from) as u64, &stale[from..from + SECTOR]);
            }
            let torn = SimDisk::from_image(&image);
            let (report, log) = read_only(&torn, start, None);
            assert!(log.is_empty() && !report.read_only && report.damage.is_empty());
            assert_eq!(report.torn.is_some(), missing != 255, "{report:?}");
            if let Some(t) = report.torn {
                assert_eq!((t.batch.0, t.written), (seq, 8 - missing.count_ones()));
            }
            // The superblock of a volume closed in order says that it was there.
            let (report, _) = read_only(&torn, start, Some(seq));
            assert!(report.read_only && !report.damage.is_empty());
        }
        // Damaged, and none missing.
        let mut image = whole.clone();
        for s in (0..8).filter(|s| missing & 1 << s != 0) {
            image.write(&file, (at + s * SECTOR + 100) as u64, &[0x5A; 7]);
        }
        let (report, log) = read_only(&SimDisk::from_image(&image), start, None);
        assert!(
            log.is_empty() && report.read_only && report.torn.is_none(),
            "{missing:b}"
        );
    }
}

#[test]
fn a_lost_batch_that_a_later_one_says_was_durable_is_noticed() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    ring.sync().unwrap();
    disk.lose_write_at(disk.counts().writes);
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.sync().unwrap();
    disk.drop_caches();
    let (report, _) = read_only(&disk, start, None);
    assert!(!report.read_only, "nothing tells yet");
    ring.append(&batch(3, vec![3; 100])).unwrap();
    ring.sync().unwrap();
    disk.drop_caches();
    let (mut ring, report, log) = recover(&disk, start, None).unwrap();
    assert!(report.read_only && !report.damage.is_empty());
    assert_eq!(log.len(), 1, "everything before it was replayed");
    assert!(matches!(
        ring.append(&batch(2, vec![])),
        Err(Error::ReadOnly(_))
    ));
    assert!(matches!(ring.sync(), Err(Error::ReadOnly(_))));
}

/// What an older life left where a write was lost may be the beginning of a long batch, which
/// reaches over the batch that came after the lost one.
#[test]
fn a_lost_batch_is_noticed_though_an_older_one_reaches_over_the_next() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    ring.append(&batch(1, vec![1; 7400])).unwrap();
    ring.sync().unwrap();
    let before = disk.image();
    let mut next = 2;
    // Until the first file is used again.
    let (mut ring, start) = loop {
        let start = ring.start_for(BatchSeq(next));
        let (mut again, _, _) = recover(&disk, start, None).unwrap();
        again.release(BatchSeq(next));
        if again.active.as_ref().unwrap().slot == 0 {
            let start = again.start_for(BatchSeq(next));
            break (again, start);
        }
        again.append(&batch(next, vec![2; 10])).unwrap();
        again.sync().unwrap();
        next += 1;
        ring = again;
    };
    for seq in next..next + 2 {
        ring.append(&batch(seq, vec![3; 10])).unwrap();
        ring.sync().unwrap();
    }
    let mut image = disk.image();
    let old = before.bytes(&first_file()).unwrap();
    image.write(&first_file(), UNIT as u64, &old[UNIT..2 * UNIT]);
    let (report, log) = read_only(&SimDisk::from_image(&image), start, None);
    assert!(report.read_only && log.is_empty(), "{report:?}");
}

#[test]
fn a_lost_file_header_is_noticed() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    for seq in 1..=7 {
        ring.append(&batch(seq, vec![1; 3000])).unwrap();
    }
    ring.sync().unwrap();
    // The next batch opens a new life: header first.
    disk.lose_write_at(disk.counts().writes);
    ring.append(&batch(8, vec![8; 3000])).unwrap();
    ring.append(&batch(9, vec![9; 3000])).unwrap();
    ring.sync().unwrap();
    disk.drop_caches();
    let (report, log) = read_only(&disk, start, None);
    assert_eq!(
        (log.len(), report.damage.len(), report.read_only),
        (9, 1, false)
    );
}

#[test]
fn batches_of_a_discarded_end_never_mix_with_new_ones() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    ring.sync().unwrap();
    // Batch 2 is torn, batch 3 behind it survives whole.
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.append(&batch(3, vec![3; 100])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let mut image = disk.image();
    // As if none of this had been synced: the last says that only the first was durable.
    image.write(&first_file(), 2 * UNIT as u64 + 512, &[0; 512]);
    let disk = SimDisk::from_image(&image);
    let (mut ring, report, _) = recover(&disk, start, None).unwrap();
    assert_eq!((report.last.0, report.discarded), (1, 1));
    // Crashes right after the new header, twice: nothing changes, and no file is used up.
    for _ in 0..3 {
        drop(ring);
        let files = disk.files().len();
        let found;
        (ring, found, _) = recover(&disk, start, None).unwrap();
        assert_eq!(found.last.0, 1);
        assert_eq!(disk.files().len(), files);
    }
    // A new batch 2; then a crash. The old batch 3 must not follow it.
    ring.append(&batch(2, vec![22; 100])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let (report, log) = read_only(&disk, start, None);
    assert_eq!(log, [(1, vec![1; 100]), (2, vec![22; 100])]);
    assert!(!report.read_only, "{report:?}");
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    ring.append(&batch(3, vec![33; 100])).unwrap();
    ring.sync().unwrap();
    let (_, log) = read_only(&disk, start, None);
    assert_eq!(log[2], (3, vec![33; 100]));
}

#[test]
fn a_damaged_first_batch_of_a_new_life_does_not_bring_back_an_old_end() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let mut image = disk.image();
    image.write(&first_file(), 2 * UNIT as u64 + 512, &[0; 512]);
    let disk = SimDisk::from_image(&image);
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    let before = disk.image();
    ring.append(&batch(2, vec![22; 100])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let (file, at) = placed(&before, &disk.image());
    for sector in 0..8 {
        disk.flip_bit(&file, (at + sector * SECTOR + 20) as u64, 1);
        let (report, log) = read_only(&disk, start, None);
        assert_eq!(log.len(), 1);
        assert!(
            report.read_only && report.torn.is_none(),
            "sector {sector}: {report:?}"
        );
        disk.flip_bit(&file, (at + sector * SECTOR + 20) as u64, 1);
    }
}

#[test]
fn a_clean_volume_is_not_searched_and_goes_on() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    ring.sync().unwrap();
    let mut start = ring.start_for(BatchSeq(2));
    drop(ring);
    for seq in 2..40 {
        let reads = disk.counts().bytes_read;
        let (mut ring, report, log) = recover(&disk, start, Some(seq - 1)).unwrap();
        assert!(disk.counts().bytes_read - reads <= 3 * 8192, "headers only");
        assert_eq!((log.len(), report.last.0), (0, seq - 1));
        ring.release(start.batch);
        ring.append(&batch(seq, vec![seq as u8; 2000])).unwrap();
        ring.sync().unwrap();
        let (_, log) = read_only(&disk, start, None);
        assert_eq!(log, [(seq, vec![seq as u8; 2000])]);
        start = ring.start_for(BatchSeq(seq + 1));
    }
    assert_eq!(disk.files().len(), 3);
}

#[test]
fn many_crashes_in_a_row_without_a_checkpoint_find_a_file_each() {
    let disk = blank();
    let (ring, start) = create(&disk);
    drop(ring);
    for seq in 1..20 {
        let (mut ring, report, _) = recover(&disk, start, None).unwrap();
        assert_eq!(report.last.0, seq - 1);
        ring.append(&batch(seq, vec![seq as u8; 10])).unwrap();
        ring.sync().unwrap();
    }
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    ring.release(BatchSeq(20));
    while ring.grow().unwrap() {}
    assert_eq!(
        disk.list(Dir::Journal).unwrap().len(),
        5,
        "surplus files are removed"
    );
}

#[test]
fn unreadable_sectors_count_as_damaged() {
    let (image, start, log) = four();
    let disk = SimDisk::from_image(&image);
    disk.fail_reads(&first_file(), 8192..8192 + 512);
    let (report, read) = read_only(&disk, start, None);
    assert!(read == log[..1]);
    assert!(report.read_only);
}

#[test]
fn one_write_a_batch_and_one_sync() {
    let disk = blank();
    let (mut ring, _) = create(&disk);
    let before = disk.counts();
    ring.append(&batch(1, vec![1; 3000])).unwrap();
    ring.sync().unwrap();
    let after = disk.counts();
    assert_eq!(after.writes - before.writes, 1);
    assert_eq!(
        after.bytes_written - before.bytes_written,
        extent_bytes(3000) as u64
    );
    assert_eq!(
        (after.syncs - before.syncs, after.dir_syncs),
        (1, before.dir_syncs)
    );
}

#[test]
fn of_two_copies_of_a_life_s_beginning_the_newer_one_is_followed() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    for seq in 1..=7 {
        ring.append(&batch(seq, vec![1; 3000])).unwrap();
    }
    ring.sync().unwrap();
    // Batch 8 opens a life. Its write fails at the very end, so it is written again elsewhere,
    // and in the end both copies are on the disk.
    disk.fail_write_at(disk.counts().writes + 1, 4096);
    ring.append(&batch(8, vec![8; 3000])).unwrap();
    assert_eq!(ring.rescues(), 1);
    ring.append(&batch(9, vec![9; 3000])).unwrap();
    ring.sync().unwrap();
    let disk = disk.power_cut_with(|n| n - 1);
    let (report, log) = read_only(&disk, start, None);
    assert_eq!((report.last.0, log.len(), report.read_only), (9, 9, false));
}

#[test]
fn a_start_taken_down_before_batches_moved_still_leads_to_them() {
    for damaged in [false, true] {
        let disk = blank();
        let (mut ring, _) = create(&disk);
        ring.append(&batch(1, vec![1; 100])).unwrap();
        ring.sync().unwrap();
        ring.append(&batch(2, vec![2; 100])).unwrap();
        let start = ring.start_for(BatchSeq(3));
        disk.fail_sync_at(disk.counts().syncs);
        let before = disk.image();
        ring.sync().unwrap();
        assert_eq!(ring.rescues(), 1);
        assert!(ring.start_for(BatchSeq(3)).jid > start.jid);
        let (file, at) = placed(&before, &disk.image());
        ring.append(&batch(3, vec![3; 100])).unwrap();
        ring.sync().unwrap();
        if damaged {
            // The batch that the new life begins with is not needed any more.
            disk.flip_bit(&file, at as u64 + 30, 1);
        }
        let (report, log) = read_only(&disk, start, None);
        assert_eq!(log, [(3, vec![3; 100])]);
        assert!(!report.read_only);
    }
}

#[test]
fn a_file_whose_name_may_be_lost_is_not_relied_on() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    disk.fail_dir_sync_at(disk.counts().dir_syncs);
    while ring.grow().is_ok() {}
    assert_eq!(disk.files().len(), 4);
    // The process dies here; the host goes on.
    drop(ring);
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    for seq in 1..=16 {
        ring.append(&batch(seq, vec![1; 3000])).unwrap();
        ring.sync().unwrap();
    }
    let disk = disk.power_cut_with(|_| 0);
    assert_eq!(read_only(&disk, start, None).0.last, BatchSeq(16));
}

#[test]
fn what_a_killed_process_left_in_the_cache_is_made_durable_before_it_counts() {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    drop(ring);
    let (mut ring, report, _) = recover(&disk, start, None).unwrap();
    assert_eq!(report.last, BatchSeq(1));
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.sync().unwrap();
    let disk = disk.power_cut_with(|_| 0);
    assert_eq!(read_only(&disk, start, None).0.last, BatchSeq(2));
}

#[test]
fn files_that_were_mangled_at_will_give_a_prefix_or_nothing() {
    let (image, start, log) = four();
    let names: Vec<_> = image.files().map(|(name, _)| name.clone()).collect();
    for seed in 0..600 {
        let mut rng = SimRng::new(seed);
        let mut image = image.clone();
        for _ in 0..rng.range(1, 6) {
            let name = rng.pick(&names).unwrap().clone();
            let from = rng.pick(&names).unwrap();
            let sector = rng.below(64) * SECTOR as u64;
            match rng.below(5) {
                0 => drop(image.flip_bit(&name, rng.below(32 << 10), 3)),
                1 => drop(image.set_len(&name, rng.below(40 << 10))),
                2 => drop(image.remove(&name)),
                3 => image.write(&name, sector, &payload(&mut rng, 700)),
                // Sectors of another place or file.
                _ => {
                    let bytes = image.bytes(from).unwrap_or_default();
                    let at = rng.below(64) as usize * SECTOR;
                    let n = 1 << rng.below(4);
                    let bytes = bytes.iter().skip(at).take(n * SECTOR).copied();
                    image.write(&name, sector, &bytes.collect::<Vec<_>>());
                }
            }
        }
        let disk = SimDisk::from_image(&image);
        let (report, read) = read_only(&disk, start, None);
        assert!(read == log[..read.len()], "seed {seed}");
        assert!(report.read_only || read.len() >= 3 || report.last.0 == read.len() as u64);
        // And nothing short of all that was durable goes without a word.
        let (report, read) = read_only(&disk, start, Some(4));
        assert!(
            read.len() == 4 || report.read_only,
            "seed {seed}: {report:?}"
        );
        if let Ok((mut ring, again, _)) = recover(&disk, start, None) {
            let next = again.last.0 + 1;
            let appended = ring
                .append(&batch(next, vec![1]))
                .and_then(|()| ring.sync());
            assert_eq!(appended.is_ok(), !again.read_only);
        }
    }
}

mod forged_tests;
mod twins_tests;
