use std::sync::Arc;

use razorfs_disk::Ram;

use super::record::OwnedPart;
use super::*;
use razorfs_format::Branch;
use razorfs_format::key::Key;

const VOLUME: VolumeId = VolumeId(7);

fn memory(ram: &Arc<Ram>) -> RedoMemory {
    RedoMemory::new(Arc::clone(ram)).unwrap()
}

fn ram() -> Arc<Ram> {
    Arc::new(Ram::new(512 << 10))
}

fn asked(request: u64, answer: u64) -> Asked {
    Asked { request, answer }
}

/// Writes a record of so many bytes; false if there is no room.
fn put(redo: &RedoMemory, batch: u64, bytes: usize, who: Asked) -> bool {
    let data = vec![batch as u8; bytes];
    let part = || Part::Mutations(&data);
    let room = redo.reserve(BatchSeq(batch), 9, part().words(), who);
    let Some(room) = room.unwrap() else {
        return false;
    };
    redo.fill(&room, |each| each(part()));
    true
}

/// Lengths of what is left, by batch.
fn left(redo: &RedoMemory, last: u64) -> Vec<(u64, Vec<usize>)> {
    let batches = redo.left(BatchSeq(last)).unwrap().into_iter();
    let len = |record: Record| match record.parts.as_slice() {
        [OwnedPart::Mutations(bytes)] => bytes.len(),
        other => panic!("{other:?}"),
    };
    batches
        .map(|(batch, records)| (batch.0, records.into_iter().map(len).collect()))
        .collect()
}

#[test]
fn what_one_process_wrote_the_next_finds_in_order() {
    let ram = ram();
    let redo = memory(&ram);
    assert!(!redo.attach(VOLUME, 1).unwrap());
    // Across chunks, which have 4 KiB here.
    for (batch, bytes) in [(3, 10), (3, 5000), (3, 0), (4, 20_000), (4, 1)] {
        assert!(put(&redo, batch, bytes, Asked::default()));
    }
    drop(redo);
    let next = memory(&ram);
    assert!(next.attach(VOLUME, 1).unwrap());
    assert_eq!(
        left(&next, 2),
        [(3, vec![10, 5000, 0]), (4, vec![20_000, 1])]
    );
    // It goes on in the same batch.
    assert!(put(&next, 4, 2, Asked::default()));
    drop(next);
    let last = memory(&ram);
    assert!(last.attach(VOLUME, 1).unwrap());
    assert_eq!(left(&last, 3), [(4, vec![20_000, 1, 2])]);
    assert_eq!(left(&last, 4), []);
}

#[test]
fn all_parts_come_back() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    let key = Key::extent(Branch(3), Ino(70), 9);
    let data = vec![5; 40_001];
    let parts = [
        Part::Mutations(b"abc"),
        Part::Touch(Branch::HEAD, Ino(6), b"inode six"),
        Part::Touch(Branch(9), Ino(6), b"inode six of a branch"),
        Part::Write {
            key,
            off: 17,
            bytes: &data,
        },
        Part::Mutations(b""),
    ];
    let words = parts.iter().map(Part::words).sum();
    let room = redo.reserve(BatchSeq(1), 2, words, asked(44, 45)).unwrap();
    redo.fill(&room.unwrap(), |each| parts.into_iter().for_each(each));
    let mut batches = redo.left(BatchSeq(0)).unwrap();
    let (_, mut records) = batches.pop().unwrap();
    let record = records.pop().unwrap();
    assert_eq!((record.ty, record.asked.answer), (2, 45));
    let (off, bytes) = (17, data);
    assert_eq!(
        record.parts,
        [
            OwnedPart::Mutations(b"abc".to_vec()),
            OwnedPart::Touch(Branch::HEAD, Ino(6), b"inode six".to_vec()),
            OwnedPart::Touch(Branch(9), Ino(6), b"inode six of a branch".to_vec()),
            OwnedPart::Write { key, off, bytes },
            OwnedPart::Mutations(Vec::new()),
        ]
    );
}

#[test]
fn a_record_that_was_not_completed_never_happened() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    assert!(put(&redo, 1, 100, Asked::default()));
    let room = redo.reserve(BatchSeq(1), 9, 50, asked(8, 0)).unwrap();
    assert!(room.is_some());
    assert!(put(&redo, 1, 200, Asked::default()));
    let next = memory(&ram);
    next.attach(VOLUME, 1).unwrap();
    assert_eq!(left(&next, 0), [(1, vec![100, 200])]);
    assert_eq!(next.applied(8), None);
}

#[test]
fn a_damaged_record_is_refused() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    put(&redo, 1, 100, Asked::default());
    let at = redo.shape.chunk(0) + HEADER + 3;
    ram.words()[at].fetch_xor(1 << 13, Ordering::Relaxed);
    let e = memory(&ram).attach(VOLUME, 1).unwrap_err();
    assert!(e.to_string().contains("damaged"), "{e}");
}

#[test]
fn requests_are_known_until_their_thread_has_another() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    put(&redo, 1, 10, asked(100, 5));
    put(&redo, 2, 10, asked(102, 0));
    redo.trim(BatchSeq(2));
    assert_eq!(redo.applied(100), None);
    assert_eq!(redo.applied(102), Some(0));
    // The death of a process between the record and the slot.
    redo.store(SLOTS_AT, 0);
    put(&redo, 3, 10, asked(104, 6));
    redo.store(SLOTS_AT, 0);
    let next = memory(&ram);
    next.attach(VOLUME, 1).unwrap();
    assert_eq!(next.applied(104), Some(6));
    // The next process uses other slots, and the journal has the batch by now.
    put(&next, 4, 10, asked(106, 7));
    next.trim(BatchSeq(4));
    let last = memory(&ram);
    last.attach(VOLUME, 1).unwrap();
    assert_eq!(last.applied(104), Some(6));
    assert_eq!(last.applied(106), Some(7));
    assert_eq!(last.applied(0), None);
}

#[test]
fn a_full_memory_says_so_and_room_comes_with_the_journal() {
    let redo = memory(&ram());
    redo.attach(VOLUME, 1).unwrap();
    let mut batch = 1;
    let mut count = 0;
    while put(&redo, batch, 30_000, Asked::default()) {
        count += 1;
        batch += count % 2;
    }
    assert!(count > 10, "{count}");
    redo.trim(BatchSeq(2));
    assert!(put(&redo, batch, 30_000, Asked::default()));
    redo.trim(BatchSeq(batch));
    let most = redo.most();
    let too_much = redo.reserve(BatchSeq(1000), 9, most + 1, Asked::default());
    assert!(too_much.is_err());
    let all = redo.reserve(BatchSeq(1000), 9, most, Asked::default());
    assert!(all.unwrap().is_some());
}

#[test]
fn memory_that_is_not_ours_is_refused() {
    let ram = ram();
    memory(&ram).attach(VOLUME, 1).unwrap();
    assert!(memory(&ram).attach(VolumeId(8), 1).is_err());
    ram.words()[0].store(5, Ordering::Relaxed);
    assert!(memory(&ram).attach(VOLUME, 1).is_err());
    assert!(RedoMemory::new(Ram::new(4096)).is_err());
}

#[test]
fn a_volume_that_was_opened_elsewhere_is_not_gone_on_with() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    redo.expect_nonce(2);
    // It dies before it has written the nonce, then after it has.
    assert!(memory(&ram).attach(VOLUME, 1).unwrap());
    memory(&ram).expect_nonce(3);
    assert!(memory(&ram).attach(VOLUME, 3).unwrap());
    memory(&ram).expect_nonce(4);
    assert!(memory(&ram).attach(VOLUME, 2).is_err(), "it was never seen");
    assert!(memory(&ram).attach(VOLUME, 1).is_err(), "that is long ago");
    assert!(memory(&ram).attach(VOLUME, 3).unwrap());
    memory(&ram).expect_nonce(5);
    memory(&ram).settle_nonce();
    assert!(memory(&ram).attach(VOLUME, 3).is_err());
    assert!(memory(&ram).attach(VOLUME, 5).unwrap());
}

#[test]
fn a_volume_that_takes_no_writes_is_not_gone_on_with() {
    let ram = ram();
    let redo = memory(&ram);
    redo.attach(VOLUME, 1).unwrap();
    let cause = "a cause with an ü ".repeat(40);
    redo.latch(&cause);
    redo.latch("another");
    let e = memory(&ram).attach(VOLUME, 1).unwrap_err().to_string();
    assert!(e.contains("a cause with an ü a cause"), "{e}");
}

#[test]
fn what_is_not_used_is_given_back() {
    #[derive(Debug)]
    struct Counting(Ram, Arc<Mutex<Vec<(usize, usize)>>>);
    impl Memory for Counting {
        fn words(&self) -> &[AtomicU64] {
            self.0.words()
        }
        fn give_back(&self, first: usize, count: usize) {
            self.1.lock().push((first, count));
        }
    }
    let given = Arc::default();
    let redo = RedoMemory::new(Counting(Ram::new(512 << 10), Arc::clone(&given))).unwrap();
    redo.attach(VOLUME, 1).unwrap();
    put(&redo, 1, 200_000, Asked::default());
    redo.give_back();
    redo.trim(BatchSeq(1));
    assert_eq!(given.lock().len(), 0, "it was used a moment ago");
    redo.give_back();
    let kept = redo.shape.chunk(16);
    let words = given.lock().pop();
    assert!(words.is_some_and(|(first, words)| first == kept && words >= 33 * 512));
    redo.give_back();
    assert_eq!(given.lock().len(), 0, "once is enough");
}
