//! Journal files that somebody forged who can compute checksums.

use razorfs_format::journal::FileHeader;

use super::*;

/// A ring that was used, with the header of another life in its last file.
fn forged(jid: u32) -> (SimDisk, JournalStart) {
    let disk = blank();
    let (mut ring, start) = create(&disk);
    ring.append(&batch(1, vec![1; 100])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let header = FileHeader {
        jid: Jid(jid),
        previous: Jid(1),
        slot: 2,
        copy: 0,
        len: 32 << 10,
    };
    let mut image = disk.image();
    image.write(&host::name(2, 0), 0, &header.encode(VID));
    (SimDisk::from_image(&image), start)
}

#[test]
fn the_highest_life_number_in_a_header_does_not_make_recovery_search_for_ever() {
    let (disk, start) = forged(u32::MAX);
    let (report, log) = read_only(&disk, start, None);
    assert_eq!((log.len(), report.read_only), (1, false));
    let error = recover(&disk, start, None).err().unwrap().to_string();
    assert!(error.contains("life numbers"), "{error}");
    // One less leaves one to go on with.
    let (disk, start) = forged(u32::MAX - 1);
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.sync().unwrap();
    assert_eq!(read_only(&disk, start, None).1.len(), 2);
}

#[test]
fn the_highest_file_number_does_not_overflow_where_the_ring_grows() {
    let (disk, start) = forged(0);
    let mut image = disk.image();
    image.write(&host::name(u32::MAX, 0), 0, &[0; UNIT]);
    let disk = SimDisk::from_image(&image);
    let (mut ring, ..) = recover(&disk, start, None).unwrap();
    let error = loop {
        match ring.grow() {
            Ok(more) => assert!(more, "the number is needed at last"),
            Err(e) => break e.to_string(),
        }
    };
    assert!(error.contains("file numbers"), "{error}");
    ring.append(&batch(2, vec![2; 100])).unwrap();
    ring.sync().unwrap();
    assert_eq!(read_only(&disk, start, None).1.len(), 2);
}
