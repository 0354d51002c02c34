use proptest::prelude::*;

use super::*;

const VID: VolumeId = VolumeId(0x1122);

fn key(n: u64) -> Key {
    Key::inode(Branch::HEAD, Ino(n))
}

fn sample() -> Manifest {
    Manifest {
        id: ManifestId(3),
        generation: Generation(4),
        segments: vec![SegmentMeta {
            id: SegmentId(5),
            tag: Tag::Inode,
            level: 1,
            first: key(1),
            last: key(2),
            epoch_min: Epoch(6),
            epoch_max: Epoch(7),
            bytes: 300,
            entries: 9,
            tombstones: 2,
            footer_crc: 0xaabb_ccdd,
            run: 11,
        }],
        packs: vec![PackMeta {
            id: PackId(12),
            sealed: true,
            len: 4096,
            total: 80,
            live: 70,
            last_birth: Epoch(7),
        }],
        counters: Counters {
            next_ino: Ino(16),
            next_segment: SegmentId(6),
            next_pack: PackId(13),
            next_manifest: ManifestId(4),
            inodes: 2,
            bytes: 99,
            epoch: Epoch(7),
            lsn: Lsn(21),
        },
        branches: vec![BranchMeta {
            id: Branch(0),
            parent: Branch(0),
            epoch: Epoch(0),
            name: (*b"head").into(),
        }],
        timeline: Arc::new(Timeline::new(vec![snapshot()], Vec::new()).unwrap()),
    }
}

fn snapshot() -> SnapshotMeta {
    SnapshotMeta {
        id: 1,
        branch: Branch(0),
        epoch: Epoch(6),
        gone: false,
        time: 5,
        inodes: 7,
        bytes: 8,
        name: (*b"s").into(),
    }
}

#[test]
fn golden() {
    let zeros = |bytes: &[u8], n: usize| [bytes, &vec![0; n]].concat();
    let word = |v: u8| zeros(&[v], 7);
    let bytes = sample().to_bytes(VID);
    let crc = |range: std::ops::Range<usize>, kind: Option<u64>| {
        let seed: Vec<u64> = [VID.0, 3].into_iter().chain(kind).collect();
        crc32c(&seed, &bytes[range]).to_le_bytes().to_vec()
    };
    let segment = [
        &[5, b'I', 1, 13, b'I'][..],
        &zeros(&[], 11),
        &[1, 13, b'I'],
        &zeros(&[], 11),
        &[2, 6, 7, 0xac, 2, 9, 2, 0xdd, 0xcc, 0xbb, 0xaa, 11],
    ]
    .concat();
    let golden = [
        &b"RZMF\x01\x00\x00\x00\x22\x11"[..],
        &zeros(&[], 6),
        &word(3),
        &word(4),
        &[
            bytes.len() as u8,
            (bytes.len() >> 8) as u8,
            0,
            0,
            0,
            0,
            0,
            0,
        ],
        &[5, 0, 0, 0],
        &crc(0..44, None),
        &[1, 0, 0, 0, segment.len() as u8, 0, 0, 0],
        &segment,
        &crc(48..98, Some(1)),
        &[2, 0, 0, 0, 7, 0, 0, 0, 12, 1, 0x80, 0x20, 80, 70, 7],
        &crc(102..117, Some(2)),
        &[3, 0, 0, 0, 64, 0, 0, 0],
        &[16, 6, 13, 4, 2, 99, 7, 21].map(word).concat(),
        &crc(121..193, Some(3)),
        b"\x04\0\0\0\x08\0\0\0\0\0\0\x04head",
        &crc(197..213, Some(4)),
        b"\x05\0\0\0\x1f\0\0\0\x01\x00\x06\0\x05\0\0\0\0\0\0\0\x07",
        &zeros(&[8], 15),
        b"\x01s",
        &crc(217..256, Some(5)),
        &crc(0..260, None),
    ]
    .concat();
    assert_eq!(bytes, golden);
    assert_eq!(Manifest::crc(&bytes).to_le_bytes(), golden[260..]);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let manifest = sample();
    let bytes = manifest.to_bytes(VID);
    assert_eq!(
        Manifest::decode(&bytes, VID, manifest.id),
        Ok(manifest.clone())
    );
    assert!(Manifest::decode(&bytes, VolumeId(1), manifest.id).is_err());
    assert!(Manifest::decode(&bytes, VID, ManifestId(4)).is_err());
    for len in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..len], VID, manifest.id).is_err());
    }
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            Manifest::decode(&damaged, VID, manifest.id).is_err(),
            "bit {bit}"
        );
    }
    assert!(Manifest::decode(&[&bytes[..], &[0]].concat(), VID, manifest.id).is_err());
}

#[test]
fn an_id_that_stands_twice_is_refused() {
    let mut manifest = sample();
    manifest.segments.push(manifest.segments[0]);
    let bytes = manifest.to_bytes(VID);
    assert!(Manifest::decode(&bytes, VID, manifest.id).is_err());
}

proptest! {
    #[test]
    fn manifests_read_back(
        segments in proptest::collection::btree_map(any::<u64>(), any::<[u64; 6]>(), 0..40),
        packs in proptest::collection::btree_map(any::<u64>(), any::<[u64; 4]>(), 0..40),
        counters: [u64; 8],
        name in proptest::collection::vec(any::<u8>(), 0..=255),
    ) {
        let mut manifest = sample();
        manifest.segments = segments.iter().map(|(id, v)| SegmentMeta {
            id: SegmentId(*id),
            level: v[0] as u8,
            first: key(v[1].min(v[2])),
            last: key(v[1].max(v[2])),
            epoch_min: Epoch(v[3].min(v[4])),
            epoch_max: Epoch(v[3].max(v[4])),
            bytes: v[5],
            entries: v[0].max(v[5]),
            tombstones: v[0].min(v[5]),
            footer_crc: v[4] as u32,
            run: v[1],
            ..manifest.segments[0]
        }).collect();
        manifest.packs = packs.iter().map(|(id, v)| PackMeta {
            id: PackId(*id),
            sealed: v[0] % 2 == 1,
            len: v[0],
            total: v[1],
            live: v[2],
            last_birth: Epoch(v[3]),
        }).collect();
        manifest.counters.next_ino = Ino(counters[0]);
        manifest.counters.lsn = Lsn(counters[7]);
        let named = SnapshotMeta { name: name.into(), ..snapshot() };
        manifest.timeline = Arc::new(Timeline::new(vec![named], Vec::new()).unwrap());
        let bytes = manifest.to_bytes(VID);
        prop_assert_eq!(Manifest::decode(&bytes, VID, manifest.id), Ok(manifest));
    }

    #[test]
    fn any_bytes_give_an_answer(bytes: Vec<u8>, kind in 1u32..7, payload: Vec<u8>) {
        let _ = Manifest::decode(&bytes, VID, ManifestId(3));
        // Sections with right checksums and any content.
        let place = Place::new(FileName::Manifest(ManifestId(3)), 0);
        let t = Take::new(&payload, place, "test");
        match kind {
            1 => drop(take_all(t, take_segment)),
            2 => drop(take_all(t, take_pack)),
            3 => drop(take_all(t, take_counters)),
            4 => drop(take_all(t, take_branch)),
            5 => drop(take_all(t, take_snapshot)),
            _ => drop(take_all(t, take_span)),
        }
    }
}

#[test]
fn a_sum_of_sizes_beyond_64_bits_reads_back_and_one_within_adds_no_section() {
    let mut manifest = Manifest::default();
    manifest.counters.bytes = u128::from(u64::MAX);
    let short = manifest.to_bytes(VID);
    assert_eq!(
        Manifest::decode(&short, VID, manifest.id),
        Ok(manifest.clone())
    );
    for more in [1, 7, i128::MAX as u128 - u128::from(u64::MAX)] {
        manifest.counters.bytes = u128::from(u64::MAX) + more;
        let long = manifest.to_bytes(VID);
        assert_eq!(long.len(), short.len() + 12 + 16);
        assert_eq!(
            Manifest::decode(&long, VID, manifest.id),
            Ok(manifest.clone())
        );
    }
    manifest.counters.bytes = u128::MAX;
    assert!(Manifest::decode(&manifest.to_bytes(VID), VID, manifest.id).is_err());
}

#[test]
fn lines_and_what_was_given_up_read_back() {
    let mut manifest = sample();
    let back = |id, epoch| SnapshotMeta {
        id,
        epoch: Epoch(epoch),
        gone: id == 2,
        bytes: u128::from(u64::MAX) + 5,
        ..snapshot()
    };
    let timeline = Arc::make_mut(&mut manifest.timeline);
    timeline.add(back(2, 9));
    assert!(timeline.roll_back(Branch::HEAD, Epoch(6), Epoch(9)));
    // What is written next belongs to the line that began then.
    assert!(Manifest::decode(&manifest.to_bytes(VID), VID, manifest.id).is_err());
    manifest.counters.epoch = Epoch(9);
    let bytes = manifest.to_bytes(VID);
    let read = Manifest::decode(&bytes, VID, manifest.id);
    assert_eq!(read, Ok(manifest.clone()));
    // A line that goes on from no snapshot is none.
    let spans = manifest.timeline.spans().to_vec();
    assert!(Timeline::new(vec![back(2, 9)], spans).is_err());
}

#[test]
fn a_snapshot_of_the_epoch_that_never_ends_is_refused() {
    let mut manifest = sample();
    let epoch = Epoch(u64::MAX);
    let forged = SnapshotMeta {
        epoch,
        ..snapshot()
    };
    manifest.timeline = Arc::new(Timeline::new(vec![forged], Vec::new()).unwrap());
    let bytes = manifest.to_bytes(VID);
    assert!(Manifest::decode(&bytes, VID, manifest.id).is_err());
}
