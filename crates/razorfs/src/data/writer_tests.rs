//! What the writer answered is there, whatever the disk does afterwards or did meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use razorfs_disk::Name;
use razorfs_disk::sim::{SimDisk, SimRng};
use razorfs_format::pack::{Depth, Scanned, frame_end, frame_len};
use razorfs_format::{Branch, Ino};

use super::super::PackReader;
use super::*;

const VID: VolumeId = VolumeId(0xfeed);

/// A volume's packs on a simulated disk, with what must be readable.
struct Bench {
    disk: SimDisk,
    next: Arc<AtomicU64>,
    writer: PackWriter,
    /// What was answered: reference, identity, bytes.
    kept: Vec<(PackRef, FrameIdentity, Vec<u8>)>,
    states: BTreeMap<PackId, PackState>,
    pack_bytes: u64,
}

impl Bench {
    fn new(pack_bytes: u64) -> Self {
        let disk = SimDisk::new();
        disk.create_dirs().unwrap();
        Self::on(disk, Arc::new(AtomicU64::new(1)), pack_bytes, None)
    }

    fn on(disk: SimDisk, next: Arc<AtomicU64>, pack_bytes: u64, reopen: Option<PackMeta>) -> Self {
        let ids = next.clone();
        let new_id = Arc::new(move || PackId(ids.fetch_add(1, Ordering::Relaxed)));
        let writer = PackWriter::new(Arc::new(disk.clone()), VID, pack_bytes, new_id, reopen);
        let (kept, states) = (Vec::new(), BTreeMap::new());
        Self {
            disk,
            next,
            writer,
            kept,
            states,
            pack_bytes,
        }
    }

    fn reader(&self) -> PackReader {
        PackReader::with_handles(Arc::new(self.disk.clone()), VID, 2)
    }

    /// Writes frames and remembers them if the writer answers.
    fn write(&mut self, frames: &[FrameWrite<'_>]) -> Result<()> {
        let done = self.writer.write(frames);
        for state in take_states(&mut self.writer) {
            self.states.insert(state.id, state);
        }
        for (r, f) in done?.into_iter().zip(frames) {
            self.kept.push((r, f.identity, f.raw.to_vec()));
        }
        Ok(())
    }

    /// Everything that was answered reads back, in whole and in part; the states cover it.
    fn check(&self, rng: &mut SimRng) {
        let reader = self.reader();
        for (r, id, raw) in &self.kept {
            let mut out = vec![0; raw.len()];
            let whole = reader.read(r, id, 0..raw.len() as u32, &mut out);
            whole.unwrap_or_else(|e| panic!("{r:?}: {e}"));
            assert!(out == *raw, "{r:?}");
            let from = rng.below(raw.len() as u64) as usize;
            let to = rng.range(from as u64 + 1, raw.len() as u64 + 1) as usize;
            let part = &mut out[..to - from];
            reader.read(r, id, from as u32..to as u32, part).unwrap();
            assert!(part == &raw[from..to], "{r:?}");
            let state = &self.states[&r.pack];
            assert!(frame_end(r) <= state.len && r.birth <= state.last_birth);
            assert_eq!(state.total, state.len - HEADER_LEN);
        }
    }

    /// Every frame up to the length that the states tell is whole, and the trailer of a sealed
    /// pack lists what a walk finds.
    fn check_packs(&self) {
        let reader = self.reader();
        for state in self.states.values() {
            // Nothing of an earlier life follows what is written to now.
            let file = self.disk.open(&pack_file(state.id), OpenHow::Read).unwrap();
            assert!(
                state.sealed || file.len().unwrap() == state.len,
                "{state:?}"
            );
            let mut walked = Vec::new();
            reader
                .scan(state.id, 0..state.len, Depth::Data, &mut |met| {
                    let Scanned::Frame {
                        pos,
                        header,
                        data: Some(Ok(_)),
                    } = met
                    else {
                        panic!("{state:?}: {met:?}");
                    };
                    walked.push(entry(&header, pos));
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(reader.entries(state.id, state.len).unwrap(), walked);
            assert_eq!(
                walked.last().map_or(HEADER_LEN, TrailerEntry::end),
                state.len
            );
        }
    }

    /// The same packs on a disk after a power cut; the pack that was open is gone on with.
    fn after_cut(&self, rng: &mut SimRng) -> Self {
        let disk = self.disk.power_cut(rng);
        let open = self.states.values().rfind(|s| !s.sealed).map(|s| s.meta(0));
        let mut next = Self::on(disk, self.next.clone(), self.pack_bytes, open);
        next.kept.clone_from(&self.kept);
        next.states.clone_from(&self.states);
        next
    }
}

fn identity(rng: &mut SimRng, len: usize) -> FrameIdentity {
    FrameIdentity {
        branch: Branch::HEAD,
        ino: Ino(16 + rng.below(5)),
        block: rng.below(100),
        off: rng.below(u64::from(BLOCK) - len as u64 + 1) as u32,
        birth: Epoch(rng.below(9)),
    }
}

fn frame(rng: &mut SimRng) -> FrameWrite<'static> {
    let max = *rng
        .pick(&[10, 600, 5000, 40_000, u64::from(BLOCK)])
        .unwrap();
    let mut raw = vec![0; rng.range(1, max + 1) as usize];
    if rng.chance(1, 2) {
        rng.fill(&mut raw);
    } else {
        let word = rng.next_u64().to_le_bytes();
        raw.iter_mut()
            .zip(word.iter().cycle())
            .for_each(|(b, w)| *b = *w);
    }
    let compression = *rng
        .pick(&[Compression::None, Compression::Lz4, Compression::Zstd(1)])
        .unwrap();
    let identity = identity(rng, raw.len());
    FrameWrite {
        identity,
        raw: raw.into(),
        compression,
    }
}

fn frames(rng: &mut SimRng, max: u64) -> Vec<FrameWrite<'static>> {
    (0..rng.range(1, max + 1)).map(|_| frame(rng)).collect()
}

/// What the writer tells, once.
fn take_states(writer: &mut PackWriter) -> Vec<PackState> {
    let states = writer.states();
    writer.forget_states(&states);
    states
}

#[test]
fn a_call_costs_one_write_and_one_sync() {
    let (mut bench, rng) = (Bench::new(64 << 20), &mut SimRng::new(1));
    for first in [true, false, false] {
        let before = bench.disk.counts();
        let call: Vec<_> = (0..300).map(|_| frame(rng)).collect();
        bench.write(&call).unwrap();
        let after = bench.disk.counts();
        assert_eq!(after.writes - before.writes, 1);
        assert_eq!(after.syncs - before.syncs, 1);
        assert_eq!(after.dir_syncs - before.dir_syncs, u64::from(first));
    }
    assert_eq!(bench.states.len(), 1);
    bench.check(rng);
    bench.check_packs();
}

#[test]
fn packs_are_sealed_when_full_and_end_with_their_trailer() {
    let (mut bench, rng) = (Bench::new(200_000), &mut SimRng::new(2));
    for _ in 0..40 {
        let call = frames(rng, 8);
        bench.write(&call).unwrap();
    }
    bench.check(rng);
    bench.check_packs();
    let sealed: Vec<_> = bench.states.values().filter(|s| s.sealed).collect();
    assert!(sealed.len() > 5 && bench.states.len() <= sealed.len() + 1);
    for state in sealed {
        assert!(state.len <= 200_000);
        assert!(
            !bench
                .reader()
                .trailer(state.id, state.len)
                .unwrap()
                .is_empty()
        );
        // A damaged trailer is told apart, and the headers stand in for it.
        let name = pack_file(state.id);
        assert!(bench.disk.flip_bit(&name, state.len + 3, 2));
        assert!(bench.reader().trailer(state.id, state.len).is_err());
    }
    bench.check_packs();
}

#[test]
fn a_pack_gone_on_with_lists_its_earlier_frames_too() {
    let (mut bench, rng) = (Bench::new(1 << 20), &mut SimRng::new(3));
    bench.write(&frames(rng, 8)).unwrap();
    let mut bench = bench.after_cut(rng);
    bench.write(&frames(rng, 8)).unwrap();
    bench.writer.seal().unwrap();
    for state in take_states(&mut bench.writer) {
        bench.states.insert(state.id, state);
    }
    assert_eq!(bench.states.len(), 1);
    let state = *bench.states.values().next().unwrap();
    assert!(state.sealed);
    let listed = bench.reader().trailer(state.id, state.len).unwrap();
    assert_eq!(listed.len(), bench.kept.len());
    bench.check(rng);
    bench.check_packs();
}

#[test]
fn after_a_power_cut_at_any_call_what_was_answered_is_there_and_writing_goes_on() {
    for seed in 0..200 {
        let rng = &mut SimRng::new(seed);
        let mut bench = Bench::new(rng.range(100_000, 600_000));
        for _ in 0..4 {
            let from = bench.disk.op_count();
            bench.disk.cut_after(from + rng.below(30));
            for _ in 0..8 {
                let call = frames(rng, 5);
                if bench.write(&call).is_err() {
                    break;
                }
            }
            bench = bench.after_cut(rng);
            // Reading what a cut left does not depend on going on with it.
            bench.check(rng);
        }
        bench.write(&frames(rng, 5)).unwrap();
        bench.check(rng);
        bench.check_packs();
    }
}

#[test]
fn a_failed_sync_costs_nothing_but_the_pack() {
    for k in 0..12 {
        for partly in [false, true] {
            let (mut bench, rng) = (Bench::new(300_000), &mut SimRng::new(k));
            match partly {
                true => bench.disk.fail_sync_partly_at(k, k + 9),
                false => bench.disk.fail_sync_at(k),
            }
            for _ in 0..14 {
                bench.write(&frames(rng, 4)).unwrap();
                // The host's cache may still show pages that the disk does not have.
                bench.disk.drop_caches();
                bench.check(rng);
            }
            assert!(bench.disk.counts().syncs > k);
            let mut bench = bench.after_cut(rng);
            bench.check(rng);
            bench.check_packs();
            bench.write(&frames(rng, 4)).unwrap();
            bench.after_cut(rng).check(rng);
        }
    }
}

#[test]
fn two_failed_syncs_in_a_row_are_an_error_and_the_next_call_starts_afresh() {
    let (mut bench, rng) = (Bench::new(1 << 20), &mut SimRng::new(5));
    bench.write(&frames(rng, 4)).unwrap();
    bench.disk.fail_sync_at(1);
    bench.disk.fail_sync_at(2);
    let error = bench.write(&frames(rng, 4)).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    // The first pack ends where it was good; the second never was.
    let known: Vec<_> = bench.states.values().map(|s| (s.id, s.sealed)).collect();
    assert_eq!(known, [(PackId(1), true)]);
    assert_eq!(bench.disk.files().len(), 1);
    bench.write(&frames(rng, 4)).unwrap();
    assert_eq!(bench.states.len(), 2);
    bench.check_packs();
    bench.after_cut(rng).check(rng);
}

#[test]
fn a_single_failing_call_of_any_kind_is_survived() {
    for seed in 0..200 {
        let rng = &mut SimRng::new(seed);
        let mut bench = Bench::new(300_000);
        bench.write(&frames(rng, 3)).unwrap();
        let (now, counts) = (bench.disk.op_count(), bench.disk.counts());
        match rng.below(4) {
            0 => bench.disk.fail_call_at(now + rng.below(12)),
            1 => bench
                .disk
                .fail_write_at(counts.writes + rng.below(5), rng.below(100_000)),
            2 => bench.disk.fail_dir_sync_at(counts.dir_syncs + rng.below(2)),
            _ => bench.disk.fail_sync_at(counts.syncs + rng.below(5)),
        }
        for _ in 0..8 {
            bench.write(&frames(rng, 4)).unwrap();
        }
        bench.check(rng);
        bench.check_packs();
        let bench = bench.after_cut(rng);
        bench.check(rng);
        bench.check_packs();
    }
}

#[test]
fn a_full_host_is_told_and_the_pack_is_gone_on_with_when_there_is_room() {
    for seed in 0..50 {
        let rng = &mut SimRng::new(seed);
        let mut bench = Bench::new(1 << 20);
        if rng.chance(3, 4) {
            bench.write(&frames(rng, 3)).unwrap();
        }
        let (used, packs) = (bench.disk.space().unwrap(), bench.states.len());
        let held: u64 = bench
            .disk
            .files()
            .iter()
            .map(|f| f.1.next_multiple_of(4096))
            .sum();
        bench.disk.set_capacity(Some(held + rng.below(3) * 4096));
        for _ in 0..3 {
            let mut raw = vec![0; 20_000];
            rng.fill(&mut raw);
            let identity = identity(rng, raw.len());
            let call = [FrameWrite {
                identity,
                raw: raw.into(),
                compression: Compression::Lz4,
            }];
            let error = bench.write(&call).unwrap_err();
            assert!(matches!(error, Error::NoSpace), "{used:?} {error}");
            assert!(bench.disk.files().len() <= packs.max(1));
        }
        bench.check(rng);
        bench.disk.set_capacity(None);
        bench.write(&frames(rng, 3)).unwrap();
        assert_eq!(bench.states.len(), 1);
        bench.check_packs();
        bench.after_cut(rng).check(rng);
    }
}

#[test]
fn each_flipped_bit_of_the_stored_bytes_is_refused_and_named() {
    let (mut bench, rng) = (Bench::new(1 << 20), &mut SimRng::new(7));
    for (len, compression) in [(700, Compression::None), (900, Compression::Zstd(1))] {
        let mut raw = vec![7; len];
        if compression == Compression::None {
            rng.fill(&mut raw);
        }
        let identity = identity(rng, len);
        bench
            .write(&[FrameWrite {
                identity,
                raw: raw.into(),
                compression,
            }])
            .unwrap();
    }
    for (r, id, raw) in &bench.kept {
        for bit in 0..u64::from(r.stored_len) * 8 {
            let (at, bit) = (r.pos + FRAME_HEADER_LEN + bit / 8, (bit % 8) as u8);
            assert!(bench.disk.flip_bit(&pack_file(r.pack), at, bit));
            let mut out = vec![9; raw.len()];
            let got = bench.reader().read(r, id, 0..raw.len() as u32, &mut out);
            let Err(Error::Corrupt(e)) = got else {
                panic!("byte {at} bit {bit}: {got:?}");
            };
            assert_eq!(e.0.place.file, FileName::Pack(r.pack));
            assert!(out.iter().all(|b| *b == 0));
            assert!(bench.disk.flip_bit(&pack_file(r.pack), at, bit));
        }
    }
    bench.check(rng);
}

#[test]
fn a_pack_that_cannot_be_gone_on_with_is_left_and_a_fresh_one_taken() {
    let rng = &mut SimRng::new(8);
    for damage in 0..4 {
        let mut bench = Bench::new(1 << 20);
        bench.write(&frames(rng, 3)).unwrap();
        let mut bench = bench.after_cut(rng);
        let name: Name = pack_file(PackId(1));
        let state = bench.states[&PackId(1)];
        match damage {
            0 => assert!(bench.disk.flip_bit(&name, 10, 1)),
            1 => {
                let file = bench.disk.open(&name, OpenHow::ReadWrite).unwrap();
                file.set_len(state.len - 1).unwrap();
                bench.kept.clear();
            }
            2 => {
                bench.disk.remove(&name).unwrap();
                bench.kept.clear();
            }
            _ => {
                // Nothing wrong: what follows the length is cut off.
                let file = bench.disk.open(&name, OpenHow::ReadWrite).unwrap();
                file.write_at(&[IoSlice::new(&[5; 600_000])], state.len)
                    .unwrap();
            }
        }
        bench.write(&frames(rng, 3)).unwrap();
        assert_eq!(bench.states[&PackId(1)].sealed, damage < 3);
        assert_eq!(bench.states.len(), if damage < 3 { 2 } else { 1 });
        bench.check(rng);
        if damage == 3 {
            bench.check_packs();
        }
        bench.after_cut(rng).check(rng);
    }
}

#[test]
fn frames_are_copied_as_they_are() {
    let (mut bench, rng) = (Bench::new(1 << 20), &mut SimRng::new(9));
    bench.write(&frames(rng, 9)).unwrap();
    let reader = bench.reader();
    let stored: Vec<_> = bench
        .kept
        .iter()
        .map(|(r, id, _)| reader.read_stored(r, id).unwrap())
        .collect();
    bench.writer.seal().unwrap();
    let copies = bench
        .writer
        .copy(&stored.iter().collect::<Vec<_>>(), Epoch(0))
        .unwrap();
    for state in take_states(&mut bench.writer) {
        bench.states.insert(state.id, state);
    }
    for (copy, (r, _, _)) in copies.iter().zip(&mut bench.kept) {
        assert_ne!(copy.pack, r.pack);
        assert_eq!(
            *copy,
            PackRef {
                pack: copy.pack,
                pos: copy.pos,
                ..r.clone()
            }
        );
        *r = copy.clone();
    }
    bench.check(rng);
    bench.check_packs();
    // Under another identity a frame is not even moved.
    let (r, id, _) = &bench.kept[0];
    let wrong = FrameIdentity {
        block: id.block + 1,
        ..*id
    };
    assert!(reader.read_stored(r, &wrong).is_err());
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let (mut bench, rng) = (Bench::new(1 << 20), &mut SimRng::new(10));
    let good = frame(rng);
    for (len, off) in [(0, 0), (BLOCK + 1, 0), (10, BLOCK - 9), (1, u32::MAX)] {
        let identity = FrameIdentity {
            off,
            ..good.identity
        };
        let raw = vec![1; len as usize].into();
        let bad = FrameWrite {
            identity,
            raw,
            compression: Compression::None,
        };
        assert!(matches!(bench.write(&[bad]), Err(Error::Invalid(_))));
    }
    assert!(bench.write(&[]).is_ok());
    assert_eq!(bench.disk.files(), []);
    // A reference to nowhere is an error of the disk or of the format, never a panic.
    bench.write(&[good]).unwrap();
    let (r, id, raw) = &bench.kept[0];
    let len = raw.len() as u32;
    let mut out = raw.clone();
    let reader = bench.reader();
    for bad in [
        PackRef {
            pack: PackId(99),
            ..r.clone()
        },
        PackRef {
            pos: r.pos + frame_len(r.stored_len),
            ..r.clone()
        },
        PackRef {
            pos: u64::MAX,
            ..r.clone()
        },
        PackRef {
            skip: u32::MAX,
            ..r.clone()
        },
        PackRef {
            raw_len: u32::MAX,
            stored_len: u32::MAX,
            ..r.clone()
        },
    ] {
        assert!(reader.read(&bad, id, 0..len, &mut out).is_err());
        assert!(out.iter().all(|b| *b == 0));
    }
}
