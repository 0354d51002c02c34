//! Fragments against an array of bytes.

use std::sync::Arc;

use proptest::prelude::*;
use razorfs_disk::Disk;
use razorfs_disk::sim::SimDisk;
use razorfs_format::layout::FileName;
use razorfs_format::pack::FrameIdentity;
use razorfs_format::record::{BLOCK, Extent};
use razorfs_format::{Branch, Epoch, Ino, Place, VolumeId};

use super::super::{Compression, FrameWrite, PackReader, PackWriter, read_fragments};
use super::*;

const VID: VolumeId = VolumeId(7);
const INO: Ino = Ino(20);
const AT: u64 = 3;

#[derive(Clone, Debug)]
enum Kind {
    Hole,
    Reserved,
    Inline,
    Pack(Compression),
}

#[derive(Clone, Debug)]
struct Patch {
    off: u32,
    len: u32,
    kind: Kind,
    word: u32,
}

impl Patch {
    /// Bytes that compress when the word is small, and differ from patch to patch.
    fn bytes(&self) -> Vec<u8> {
        let mut x = u64::from(self.word);
        (0..self.len)
            .map(|i| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                match self.word % 2 {
                    0 => (x >> 56) as u8,
                    _ => (i / 7) as u8 ^ self.word as u8,
                }
            })
            .collect()
    }
}

fn patches() -> impl Strategy<Value = Vec<Patch>> {
    let kind = prop_oneof![
        2 => Just(Kind::Hole),
        1 => Just(Kind::Reserved),
        4 => Just(Kind::Inline),
        2 => Just(Kind::Pack(Compression::None)),
        2 => Just(Kind::Pack(Compression::Lz4)),
        1 => Just(Kind::Pack(Compression::Zstd(1))),
    ];
    // Few different bounds, so that patches often touch and cover each other exactly.
    let bound = prop_oneof![
        3 => (0..=16u32).prop_map(|n| n * (BLOCK / 16)),
        1 => 0..=BLOCK,
        3 => (0..40u32).prop_map(|n| n * 100),
    ];
    let patch = (bound.clone(), bound, kind, any::<u32>()).prop_map(|(a, b, kind, word)| {
        let (off, end) = (
            a.min(b).min(BLOCK - 1),
            a.max(b).max(a.min(b) + 1).min(BLOCK),
        );
        let len = (end - off).max(1);
        Patch {
            off,
            len,
            kind,
            word,
        }
    });
    prop::collection::vec(patch, 1..25)
}

fn writer_and_reader() -> (PackWriter, PackReader) {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let next = std::sync::atomic::AtomicU64::new(1);
    let new_id = move || PackId(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let writer = PackWriter::new(disk.clone(), VID, 1 << 20, Arc::new(new_id), None);
    (writer, PackReader::new(disk, VID))
}

fn fragment(patch: &Patch, writer: &mut PackWriter) -> Fragment {
    let kind = match patch.kind {
        Kind::Hole => FragmentKind::Hole,
        Kind::Reserved => FragmentKind::Reserved,
        Kind::Inline => FragmentKind::Inline(patch.bytes().into()),
        Kind::Pack(compression) => {
            let identity = FrameIdentity {
                branch: Branch::HEAD,
                ino: INO,
                block: AT,
                off: patch.off,
                birth: Epoch(5),
            };
            let raw = patch.bytes().into();
            let frame = FrameWrite {
                identity,
                raw,
                compression,
            };
            FragmentKind::Pack(writer.write(&[frame]).unwrap().remove(0))
        }
    };
    let Patch { off, len, .. } = *patch;
    Fragment { off, len, kind }
}

fn runs(map: &[bool]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for at in (0u32..).zip(map).filter(|(_, c)| **c).map(|(at, _)| at) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn patches_laid_over_each_other_read_as_an_array_of_bytes(
        patches in patches(),
        cuts in prop::collection::vec((0..BLOCK, 0..BLOCK), 4),
    ) {
        let (mut writer, reader) = writer_and_reader();
        let (mut model, mut map) = (vec![0u8; BLOCK as usize], vec![false; BLOCK as usize]);
        let mut list = Vec::new();
        for patch in &patches {
            let range = patch.off as usize..(patch.off + patch.len) as usize;
            match patch.kind {
                Kind::Hole | Kind::Reserved => model[range.clone()].fill(0),
                _ => model[range.clone()].copy_from_slice(&patch.bytes()),
            }
            map[range].fill(!matches!(patch.kind, Kind::Hole));
            overlay(&mut list, fragment(patch, &mut writer));

            // The record takes the list as it is: sorted, not overlapping, no hole.
            let bytes = Extent { fragments: list.clone() }.to_bytes();
            let place = Place::new(FileName::Super, 0);
            prop_assert_eq!(&Extent::decode(&bytes, place).unwrap().fragments, &list);
            prop_assert_eq!(covered(&list), runs(&map));
        }
        for (a, b) in cuts.into_iter().chain([(0, BLOCK - 1)]) {
            let (from, to) = (a.min(b), a.max(b) + 1);
            let mut out = vec![0xaa; (to - from) as usize];
            read_fragments(&list, &reader, INO, AT, from, &mut out).unwrap();
            prop_assert_eq!(&out[..], &model[from as usize..to as usize]);
        }
        // Another block or file does not get these bytes.
        let packed = list.iter().find(|f| matches!(f.kind, FragmentKind::Pack(_)));
        if let Some(f) = packed {
            let mut out = vec![0xaa; f.len as usize];
            let one = std::slice::from_ref(f);
            prop_assert!(read_fragments(one, &reader, INO, 4, f.off, &mut out).is_err());
            prop_assert!(read_fragments(one, &reader, Ino(21), AT, f.off, &mut out).is_err());
            prop_assert!(out.iter().all(|b| *b == 0));
        }
    }
}

#[test]
fn small_neighbours_are_joined_and_large_ones_are_not() {
    let line = |n: u32| Fragment {
        off: n * 100,
        len: 100,
        kind: FragmentKind::Inline(vec![n as u8; 100].into()),
    };
    let mut list = Vec::new();
    for n in 0..1000 {
        overlay(&mut list, line(n));
    }
    assert_eq!(inline_bytes(&list), 100_000);
    assert!(list.len() <= 1000 / 20, "{}", list.len());
    assert!(needs_rewrite(&list));
    assert!(matches!(
        covered(&list)[..],
        [Range {
            start: 0,
            end: 100_000
        }]
    ));
    overlay(
        &mut list,
        Fragment {
            off: 0,
            len: BLOCK,
            kind: FragmentKind::Hole,
        },
    );
    assert!(list.is_empty() && !needs_rewrite(&list));
}

#[test]
fn a_frame_in_several_pieces_is_one_frame() {
    let (mut writer, _) = writer_and_reader();
    let patch = Patch {
        off: 0,
        len: 50_000,
        kind: Kind::Pack(Compression::None),
        word: 2,
    };
    let mut list = Vec::new();
    overlay(&mut list, fragment(&patch, &mut writer));
    overlay(
        &mut list,
        Fragment {
            off: 100,
            len: 10,
            kind: FragmentKind::Hole,
        },
    );
    overlay(
        &mut list,
        Fragment {
            off: 300,
            len: 10,
            kind: FragmentKind::Reserved,
        },
    );
    assert_eq!(list.len(), 4);
    let frames: Vec<_> = frames_of(&list).collect();
    let expected = FrameUse {
        pack: PackId(1),
        pos: 4096,
        bytes: 50_056,
        birth: frames[0].birth,
        foreign: false,
    };
    assert_eq!(frames, [expected]);
}

#[test]
fn zeros_are_told_from_other_bytes() {
    let mut bytes = vec![0; 1000];
    assert!(is_zero(&bytes) && is_zero(&[]));
    for at in [0, 63, 64, 959, 960, 999] {
        bytes[at] = 1;
        assert!(!is_zero(&bytes));
        bytes[at] = 0;
    }
}
