//! Each kind of finding is planted, and found.

use std::collections::BTreeSet;

use crate::common::forge::{
    DIR, FILE, ROOT, TWICE, Tree, edit_first_batch, edit_manifest, edit_superblock, journal,
    make_newer, manifest, name_of, new_volume, previous, put_batch, superblock,
};
use crate::common::{
    Rng, check, check_disk, closed, closed_with, create, create_file, files, image_of, numbers,
    open, remove, told,
};
use razorfs::{FileKind, Ino, NewNode, Step};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_disk::{Dir, Name};
use razorfs_format::crc::crc32c;
use razorfs_format::journal::FileHeader;
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::record::{
    Codec, Extent, Fragment, FragmentKind, Orphan, PackRef, Xattr, inode_flags,
};
use razorfs_format::superblock::{SLOT, State, slots_of};
use razorfs_format::{BatchSeq, Branch, Epoch, Generation, Lsn, PackId, SegmentId};
use razorfs_verify::{FindingKind as K, RepairError, RepairOptions, repair};

const HEAD: Branch = Branch::HEAD;

/// The kinds planted by a group of tests.
type Planted = Vec<(K, Image)>;

fn edited(seed: u64, edit: impl FnOnce(&mut Image)) -> Image {
    let mut image = closed(seed);
    edit(&mut image);
    image
}

fn spoilt(edit: impl FnOnce(&mut Tree)) -> Image {
    let mut tree = Tree::new();
    edit(&mut tree);
    tree.image()
}

fn superblocks() -> Planted {
    let sup = || name_of(FileName::Super);
    let newest_slot = |image: &Image| slots_of(superblock(image).generation)[0];
    vec![
        (K::NoSuperblock, edited(1, |i| assert!(i.remove(&sup())))),
        (
            K::SuperblockSlot,
            edited(1, |i| assert!(i.flip_bit(&sup(), 40, 1))),
        ),
        (
            K::SuperblockTwins,
            edited(1, |i| {
                let (slot, mut other) = (newest_slot(i), superblock(i));
                other.nonce ^= 1;
                i.write(&sup(), (slot * SLOT) as u64, &other.encode(slot));
            }),
        ),
        (
            K::SuperblockUnknownBytes,
            edited(1, |i| {
                let slot = newest_slot(i);
                let mut bytes = superblock(i).encode(slot);
                bytes[300] = 1;
                let crc = crc32c(&[slot as u64], &bytes[..4092]);
                bytes[4092..].copy_from_slice(&crc.to_le_bytes());
                i.write(&sup(), (slot * SLOT) as u64, &bytes);
            }),
        ),
        (
            K::UnknownFeatures,
            edited(1, |i| edit_superblock(i, |s| s.features.incompat = 1 << 60)),
        ),
        (
            K::ReadOnlyFeatures,
            edited(1, |i| {
                edit_superblock(i, |s| s.features.ro_compat = 1 << 60)
            }),
        ),
        (
            K::WriteFailed,
            edited(1, |i| edit_superblock(i, |s| s.state = State::IoError)),
        ),
        (
            K::SuperblockLength,
            edited(1, |i| assert!(i.set_len(&sup(), 16_385))),
        ),
        (K::NewerVersion, edited(1, |i| make_newer(i, &[0, 1, 2, 3]))),
        (
            K::NewerVersion,
            edited(1, |i| {
                let newest = superblock(i).generation;
                let [slot, _] = slots_of(Generation(newest.0 + 1));
                make_newer(i, &[slot]);
            }),
        ),
    ]
}

fn manifests_and_files() -> Planted {
    let current = |i: &Image| name_of(FileName::Manifest(superblock(i).manifest.id));
    let stray = |name: Name| edited(2, |i| i.write(&name, 0, b"what is this"));
    vec![
        (K::NoManifest, edited(2, |i| assert!(i.remove(&current(i))))),
        (
            K::PreviousManifest,
            edited(2, |i| {
                let old = name_of(FileName::Manifest(previous(i).manifest.id));
                assert_ne!(old, current(i));
                assert!(i.remove(&old));
            }),
        ),
        (
            K::PreviousSegment,
            edited(2, |i| {
                let old = previous(i);
                edit_manifest(i, &old, |m| m.segments[0].id = SegmentId(999));
            }),
        ),
        (
            K::PreviousPack,
            edited(2, |i| {
                let old = previous(i);
                edit_manifest(i, &old, |m| m.packs[0].id = PackId(999));
            }),
        ),
        (
            K::UnlistedFile,
            stray(name_of(FileName::SegmentTmp(SegmentId(4000)))),
        ),
        (K::ForeignFile, stray(Name::new(Dir::Root, "notes.txt"))),
        (K::ScrubRecord, stray(name_of(FileName::Scrub))),
        (K::Quarantined, stray(Name::new(Dir::Quarantine, "S-1"))),
        (K::ReserveNotZero, stray(name_of(FileName::Reserve))),
        (
            K::ManifestInconsistent,
            edited(2, |i| {
                let newest = superblock(i);
                edit_manifest(i, &newest, |m| m.counters.next_segment = SegmentId(1));
            }),
        ),
        (
            K::TooMany,
            edited(2, |i| {
                for n in 0..10_001 {
                    i.write(&Name::new(Dir::Meta, &format!("stray{n}")), 0, b"");
                }
            }),
        ),
    ]
}

/// A new volume that was not closed, with a batch of two units behind the first.
fn long_batch() -> (Image, Vec<u8>) {
    let mut tree = Tree::new();
    for block in 1..6 {
        tree.data(FILE, block, 1500);
    }
    tree.edit(FILE, |i| i.size = 6 * 131_072);
    tree.bytes = 6 * 131_072;
    let mut image = new_volume();
    edit_superblock(&mut image, |s| s.state = State::Dirty);
    let payload = tree.payload();
    assert_eq!(put_batch(&mut image, 2, 2, &payload, |_| ()), 5);
    (image, payload)
}

/// The newest superblocks are lost, and no batch names their generation: but the manifest of a
/// checkpoint is there that came after it and was cut off.
fn older_superblocks() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(5));
    create(&disk, &env);
    let volume = open(&disk, &env);
    let next = |file: &[u8]| {
        volume
            .create_node(ROOT, file, &NewNode::file(0o644))
            .unwrap();
        volume.checkpoint().unwrap();
        image_of(&disk)
    };
    let (old, mut image, newest) = (next(b"a"), next(b"b"), next(b"c"));
    let superblocks = name_of(FileName::Super);
    image.write(&superblocks, 0, &old.bytes(&superblocks).unwrap());
    let file = name_of(FileName::Manifest(superblock(&newest).manifest.id));
    image.write(&file, 0, &newest.bytes(&file).unwrap());
    image
}

fn journals() -> Planted {
    let sector = |n: u64| n * 512;
    let long = |edit: &dyn Fn(&mut Image)| {
        let mut image = long_batch().0;
        edit(&mut image);
        image
    };
    let next = |image: &mut Image, durable| {
        let mut payload = Vec::new();
        razorfs_format::op::encode_op(razorfs_format::op::OpType::Note, &[], &mut payload);
        put_batch(image, 3, 5, &payload, |h| h.durable = BatchSeq(durable));
    };
    vec![
        (K::SuperblockLost, older_superblocks()),
        (
            K::SuperblockLost,
            long(&|i| {
                let payload = long_batch().1;
                put_batch(i, 2, 2, &payload, |h| h.generation = Generation(9));
            }),
        ),
        (
            K::JournalFileUnfinished,
            edited(3, |i| {
                i.write(&name_of(FileName::Journal(9)), 0, &[0; 8192])
            }),
        ),
        (
            K::JournalFileHeader,
            edited(3, |i| assert!(i.flip_bit(&journal(), 30, 0))),
        ),
        (
            K::JournalSector,
            edited(3, |i| assert!(i.flip_bit(&journal(), 4096 + 700, 0))),
        ),
        (
            K::JournalTornTail,
            long(&|i| i.write(&journal(), sector(30), &[0; 512])),
        ),
        // Both a sector that was never written and a damaged one: it was never complete.
        (
            K::JournalTornTail,
            long(&|i| {
                i.write(&journal(), sector(30), &[0; 512]);
                assert!(i.flip_bit(&journal(), sector(20), 3));
            }),
        ),
        (
            K::JournalBatchDamaged,
            long(&|i| assert!(i.flip_bit(&journal(), sector(20) + 99, 3))),
        ),
        (
            K::JournalBatchDamaged,
            long(&|i| assert!(i.flip_bit(&journal(), sector(16) + 20, 3))),
        ),
        (
            K::JournalBatchLost,
            long(&|i| {
                next(i, 2);
                i.write(&journal(), sector(30), &[0; 512]);
            }),
        ),
        (
            K::JournalBatchLost,
            edited(3, |i| edit_superblock(i, |s| s.end = BatchSeq(s.end.0 + 1))),
        ),
        (
            K::JournalBatchMeaning,
            long(&|i| {
                put_batch(i, 2, 2, b"\x63nonsense", |_| ());
            }),
        ),
        (
            K::JournalBatchMeaning,
            long(&|i| {
                let payload = long_batch().1;
                put_batch(i, 2, 2, &payload, |h| h.first_lsn = Lsn(77));
            }),
        ),
        (
            K::JournalFilling,
            long(&|i| {
                // The last sectors are those of a longer batch of the same number.
                let old = i.bytes(&journal()).unwrap();
                let mut payload = long_batch().1;
                payload.push(0xEE);
                put_batch(i, 2, 2, &payload, |_| ());
                i.write(&journal(), sector(16), &old[512 * 16..512 * 24]);
            }),
        ),
        (
            K::JournalChain,
            edited(3, |i| edit_first_batch(i, false, |_, ops| ops[0] = 8)),
        ),
        (
            K::JournalChain,
            edited(3, |i| edit_first_batch(i, true, |_, ops| ops[0] = 8)),
        ),
        (
            K::JournalChain,
            edited(3, |i| edit_first_batch(i, true, |h, _| h.wall_ns += 1)),
        ),
        (
            K::JournalChain,
            edited(3, |i| {
                edit_first_batch(i, true, |header, ops| {
                    header.n_ops = 0;
                    ops.clear();
                });
            }),
        ),
        (
            K::JournalUnusedBytes,
            edited(3, |i| {
                let len = files(i, Dir::Journal)[0].1;
                i.write(&journal(), len, &[1; 512]);
            }),
        ),
    ]
}

/// Damage to one of two copies of a journal file, which the next mount heals.
fn twins() -> Planted {
    let twin = || name_of(FileName::JournalTwin(0));
    let edited = |edit: &dyn Fn(&mut Image)| {
        let mut image = closed_with(3, 2);
        edit(&mut image);
        image
    };
    let len = |i: &Image| i.bytes(&twin()).unwrap().len() as u64;
    let in_use = |edit: &dyn Fn(&mut Image)| {
        let mut image = twins_in_use();
        edit(&mut image);
        image
    };
    let used = used_slot(&twins_in_use());
    vec![
        (
            K::JournalTwinMissing,
            in_use(&|i| assert!(i.remove(&name_of(FileName::JournalTwin(used))))),
        ),
        (
            K::JournalTwinMissing,
            in_use(&|i| assert!(i.remove(&name_of(FileName::Journal(used))))),
        ),
        (
            K::JournalTwinDamaged,
            edited(&|i| assert!(i.flip_bit(&twin(), 30, 0))),
        ),
        (
            K::JournalTwinDamaged,
            edited(&|i| assert!(i.flip_bit(&journal(), 4096 + 700, 0))),
        ),
        (
            K::JournalTwinDamaged,
            edited(&|i| assert!(i.set_len(&twin(), len(i) - 7))),
        ),
        (
            K::JournalTwinDamaged,
            edited(&|i| {
                let other = i.bytes(&name_of(FileName::Journal(1))).unwrap();
                i.write(&twin(), 0, &other);
            }),
        ),
        (
            K::JournalTwinOlder,
            edited(&|i| i.write(&twin(), 4096, &[0; 512])),
        ),
    ]
}

/// The file of the journal whose life is the youngest.
fn used_slot(image: &Image) -> u32 {
    let vid = superblock(image).vid();
    let life = |slot: &u32| {
        let file = FileName::Journal(*slot);
        let bytes = image.bytes(&name_of(file)).unwrap();
        let place = razorfs_format::Place::new(file, 0);
        FileHeader::decode(vid, &bytes[..512], place).unwrap().jid
    };
    (0..3).max_by_key(life).unwrap()
}

/// What a power cut leaves that comes between the two removals, or creations, of a pair.
#[test]
fn one_copy_of_a_journal_file_that_nothing_needs_is_no_damage() {
    for name in [FileName::Journal(0), FileName::JournalTwin(0)] {
        let mut image = closed_with(3, 2);
        assert!(image.remove(&name_of(name)));
        let report = check(&image, 3);
        assert_eq!(numbers(&report), [K::JournalTwinAlone.number()]);
        let disk = SimDisk::from_image(&image);
        let volume = open(&disk, &SimEnv::new(5));
        let report = volume.recovery_report();
        assert!(report.healed.is_empty() && report.damage.is_empty());
        volume.close().unwrap();
        let report = check(&image_of(&disk), 3);
        assert!(report.findings.is_empty(), "{}", told(&report));
    }
}

#[test]
fn what_is_wrong_with_one_copy_of_the_journal_is_a_warning_and_gone_after_the_next_mount() {
    for (kind, image) in twins() {
        let report = check(&image, 3);
        assert!(report.is_sound(), "{kind:?}: {}", told(&report));
        let disk = SimDisk::from_image(&image);
        let volume = open(&disk, &SimEnv::new(5));
        assert!(!volume.recovery_report().healed.is_empty(), "{kind:?}");
        assert!(volume.recovery_report().damage.is_empty(), "{kind:?}");
        volume.close().unwrap();
        let report = check(&image_of(&disk), 3);
        assert!(report.findings.is_empty(), "{kind:?}: {}", told(&report));
    }
}

#[test]
fn a_repair_reads_both_copies_of_the_journal_and_makes_both_anew() {
    for lost in [FileName::Journal(0), FileName::JournalTwin(0)] {
        let mut image = twins_in_use();
        assert!(image.remove(&name_of(lost)));
        // Without a superblock nothing but the files tells that there are two copies.
        assert!(image.remove(&name_of(FileName::Super)));
        let disk = SimDisk::from_image(&image);
        let options = RepairOptions {
            commit: true,
            ..RepairOptions::default()
        };
        repair(&disk, &SimEnv::new(8), &options, &mut |_| true).unwrap();
        let report = check_disk(&disk, 3);
        assert!(report.is_sound(), "{}", told(&report));
        let journal = files(&image_of(&disk), Dir::Journal);
        let twins = journal.iter().filter(|f| f.0.leaf.ends_with(".b")).count();
        assert_eq!(2 * twins, journal.len());
        let volume = open(&disk, &SimEnv::new(9));
        assert_eq!(volume.info().features[1], 2);
        assert!(volume.lookup(Ino::ROOT, b"in the journal").is_ok());
    }
}

/// A volume that was not closed, with something in its journal alone.
fn twins_in_use() -> Image {
    let disk = SimDisk::from_image(&closed_with(3, 2));
    let volume = open(&disk, &SimEnv::new(4));
    let node = NewNode::file(0o644);
    volume
        .create_node(Ino::ROOT, b"in the journal", &node)
        .unwrap();
    volume.sync().unwrap();
    image_of(&disk)
}

fn segments() -> Planted {
    let first = |i: &Image| manifest(i, &superblock(i)).segments[0];
    let name = |i: &Image| name_of(FileName::Segment(first(i).id));
    vec![
        (
            K::SegmentMissing,
            edited(4, |i| assert!(i.remove(&name(i)))),
        ),
        (
            K::NamespaceIncomplete,
            edited(4, |i| assert!(i.remove(&name(i)))),
        ),
        (
            K::SegmentDamaged,
            edited(4, |i| assert!(i.flip_bit(&name(i), first(i).bytes - 9, 0))),
        ),
        (
            K::SegmentBlock,
            edited(4, |i| assert!(i.flip_bit(&name(i), 70, 0))),
        ),
        (
            K::RecordUnreadable,
            spoilt(|t| t.put(Key::inode(HEAD, Ino(20)), b"not an inode")),
        ),
    ]
}

fn names() -> Planted {
    let dirent = |t: &Tree, dir, name: &[u8]| Key::dirent(HEAD, dir, t.cookie(name));
    vec![
        (
            K::RootMissing,
            spoilt(|t| t.inode(ROOT, FileKind::Fifo, 1, ROOT, 0, |_| ())),
        ),
        (
            K::DirentDangling,
            spoilt(|t| t.remove(Key::inode(HEAD, FILE))),
        ),
        (
            K::DirentKind,
            spoilt(|t| {
                t.name(DIR, b"file", FILE, FileKind::Symlink);
            }),
        ),
        (
            K::DirentCookie,
            spoilt(|t| {
                t.remove(dirent(t, DIR, b"file"));
                let cookie = t.cookie(b"other");
                t.name_at(DIR, cookie, b"file", FILE, FileKind::Regular);
            }),
        ),
        (
            K::DuplicateName,
            spoilt(|t| {
                let cookie = t.cookie(b"file");
                t.name_at(DIR, cookie + 1, b"file", FILE, FileKind::Regular);
            }),
        ),
        (
            K::DirentHomeless,
            spoilt(|t| t.remove(Key::inode(HEAD, DIR))),
        ),
        (K::LinkCount, spoilt(|t| t.edit(FILE, |i| i.nlink = 5))),
        (K::LinkCount, spoilt(|t| t.edit(ROOT, |i| i.nlink = 2))),
        (K::LinkCount, spoilt(|t| t.edit(FILE, |i| i.nlink = 0))),
        (K::InodeHome, spoilt(|t| t.edit(FILE, |i| i.parent = ROOT))),
        (K::InodeHome, spoilt(|t| t.edit(ROOT, |i| i.parent = DIR))),
        (
            K::LinkRecords,
            spoilt(|t| t.remove(Key::link(HEAD, TWICE, ROOT, t.cookie(b"a")))),
        ),
        (
            K::LinkRecords,
            spoilt(|t| t.put(Key::link(HEAD, FILE, DIR, t.cookie(b"file")), b"")),
        ),
        (K::EntryCount, spoilt(|t| t.edit(DIR, |i| i.entries = 9))),
        (K::EntryCount, spoilt(|t| t.edit(FILE, |i| i.entries = 1))),
        (
            K::Unreachable,
            // Two directories in each other.
            spoilt(|t| {
                let (x, y) = (Ino(30), Ino(31));
                let in_y = t.name(y, b"x", x, FileKind::Directory);
                let in_x = t.name(x, b"y", y, FileKind::Directory);
                t.inode(x, FileKind::Directory, 3, y, in_y, |i| i.entries = 1);
                t.inode(y, FileKind::Directory, 3, x, in_x, |i| i.entries = 1);
                t.inodes += 2;
            }),
        ),
        (
            K::DirectoryNames,
            spoilt(|t| {
                t.name(ROOT, b"again", DIR, FileKind::Directory);
            }),
        ),
        (
            K::OtherBranch,
            spoilt(|t| t.put(Key::orphan(Branch(1), FILE), &Orphan::Reap.to_bytes())),
        ),
    ]
}

fn inodes() -> Planted {
    let orphan = |t: &mut Tree, ino, orphan: Orphan| {
        t.put(Key::orphan(HEAD, ino), &orphan.to_bytes());
    };
    let nameless = |t: &mut Tree| {
        t.inode(Ino(20), FileKind::Regular, 0, DIR, 0, |_| ());
        t.inodes += 1;
    };
    let attribute = |t: &mut Tree, ino, hash_of: &[u8], seq, name: &[u8]| {
        let key = Key::xattr(HEAD, ino, t.cookie(hash_of) >> 8, seq);
        let (name, value) = (name.into(), b"value"[..].into());
        t.put(key, &Xattr { name, value }.to_bytes());
    };
    let marked = |t: &mut Tree| t.edit(FILE, |i| i.flags |= inode_flags::HAS_XATTR);
    vec![
        (K::Nameless, spoilt(nameless)),
        (
            K::Nameless,
            spoilt(|t| {
                nameless(t);
                orphan(t, Ino(20), Orphan::Trim { from: 1 });
            }),
        ),
        (K::OrphanWrong, spoilt(|t| orphan(t, FILE, Orphan::Reap))),
        (K::OrphanWrong, spoilt(|t| orphan(t, Ino(40), Orphan::Reap))),
        (
            K::OrphanWrong,
            spoilt(|t| t.edit(FILE, |i| i.flags |= inode_flags::TRIMMING)),
        ),
        (
            K::XattrOwner,
            spoilt(|t| attribute(t, Ino(40), b"user.x", 0, b"user.x")),
        ),
        (
            K::XattrFlag,
            spoilt(|t| attribute(t, FILE, b"user.x", 0, b"user.x")),
        ),
        (K::XattrFlag, spoilt(marked)),
        (
            K::XattrKey,
            spoilt(|t| {
                marked(t);
                attribute(t, FILE, b"user.y", 0, b"user.x");
            }),
        ),
        (
            K::XattrKey,
            spoilt(|t| {
                marked(t);
                attribute(t, FILE, b"user.x", 0, b"user.x");
                attribute(t, FILE, b"user.x", 1, b"user.x");
            }),
        ),
        (K::ExtentOwner, spoilt(|t| t.data(Ino(40), 0, 10))),
        (K::ExtentOwner, spoilt(|t| t.data(DIR, 0, 10))),
        (K::ExtentBeyondSize, spoilt(|t| t.data(FILE, 0, 1001))),
        (K::ExtentBeyondSize, spoilt(|t| t.data(FILE, 1, 1))),
        (K::DataLost, spoilt(lost)),
        (K::CounterInodes, spoilt(|t| t.inodes += 1)),
        (K::CounterBytes, spoilt(|t| t.bytes -= 1)),
        (
            K::CounterNextIno,
            edited(5, |i| {
                let newest = superblock(i);
                edit_manifest(i, &newest, |m| m.counters.next_ino = Ino(17));
            }),
        ),
    ]
}

/// The second half of a file's only block.
fn lost(tree: &mut Tree) {
    let (off, len, kind) = (500, 500, FragmentKind::Lost);
    let mut fragments = vec![Fragment { off, len, kind }];
    let kind = FragmentKind::Inline([7; 500].into());
    fragments.insert(
        0,
        Fragment {
            off: 0,
            len: 500,
            kind,
        },
    );
    let extent = Extent { fragments };
    tree.put(Key::extent(HEAD, FILE, 0), &extent.to_bytes());
}

/// A volume with one pack: a frame that a file refers to, and a dead one behind it.
fn one_dead() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(5));
    create(&disk, &env);
    let volume = open(&disk, &env);
    for name in [b"live", b"dead"] {
        let file = volume
            .create_node(ROOT, name, &NewNode::file(0o644))
            .unwrap()
            .ino;
        volume.write(file, 0, &Rng(3).bytes(60_000)).unwrap();
    }
    volume.step(Step::Commit).unwrap();
    volume.unlink(ROOT, b"dead").unwrap();
    volume.close().unwrap();
    image_of(&disk)
}

fn reference(pack: u64, pos: u64) -> Fragment {
    let reference = PackRef {
        pack: PackId(pack),
        pos,
        stored_len: 1000,
        raw_len: 1000,
        skip: 0,
        codec: Codec::None,
        birth: Epoch(1),
        origin: None,
        crcs: [1].into(),
    };
    Fragment {
        off: 0,
        len: 1000,
        kind: FragmentKind::Pack(reference),
    }
}

fn packs() -> Planted {
    let pack = |i: &Image| name_of(FileName::Pack(manifest(i, &superblock(i)).packs[0].id));
    let dead = |edit: &dyn Fn(&mut Image)| {
        let mut image = one_dead();
        edit(&mut image);
        image
    };
    let account = |edit: &dyn Fn(&mut razorfs_format::manifest::PackMeta)| {
        dead(&|i| {
            let newest = superblock(i);
            edit_manifest(i, &newest, |m| edit(&mut m.packs[0]));
        })
    };
    let second = 4096 + 56 + 60_000;
    let refers = |pack, pos| {
        spoilt(|t| {
            let extent = Extent {
                fragments: vec![reference(pack, pos)],
            };
            t.put(Key::extent(HEAD, FILE, 0), &extent.to_bytes());
        })
    };
    vec![
        (K::PackMissing, dead(&|i| assert!(i.remove(&pack(i))))),
        (
            K::PackHeader,
            dead(&|i| assert!(i.flip_bit(&pack(i), 3000, 0))),
        ),
        (
            K::PackShort,
            dead(&|i| assert!(i.set_len(&pack(i), second))),
        ),
        (K::FrameReference, refers(3, 4096)),
        (
            K::FrameReference,
            dead(&|i| assert!(i.flip_bit(&pack(i), 4096 + 20, 0))),
        ),
        (
            K::FrameDamaged,
            dead(&|i| assert!(i.flip_bit(&pack(i), 4096 + 999, 0))),
        ),
        (
            K::DeadFrame,
            dead(&|i| assert!(i.flip_bit(&pack(i), second + 999, 0))),
        ),
        (
            K::PackGap,
            dead(&|i| assert!(i.flip_bit(&pack(i), second + 20, 0))),
        ),
        (
            K::PackTrailer,
            edited(6, |i| {
                let sealed = manifest(i, &superblock(i)).packs;
                let sealed = sealed.iter().find(|p| p.sealed).unwrap();
                assert!(i.flip_bit(&name_of(FileName::Pack(sealed.id)), sealed.len, 0));
            }),
        ),
        (
            K::PackUnusedBytes,
            dead(&|i| {
                let len = files(i, Dir::Pack)[0].1;
                i.write(&pack(i), len, &[1; 100]);
            }),
        ),
        (
            K::PackTornHole,
            dead(&|i| {
                let newest = superblock(i);
                edit_manifest(i, &newest, |m| m.packs[0].sealed = true);
                i.write(&pack(i), 512 * 200, &[0; 512]);
            }),
        ),
        (K::PackAccountLow, account(&|p| p.live -= 8)),
        (K::PackAccountHigh, account(&|p| p.live += 8)),
        (K::PackTotal, account(&|p| p.total += 8)),
        (K::PackBirth, account(&|p| p.last_birth = Epoch(0))),
    ]
}

/// A volume whose snapshot shows what the present does not: older bytes of a file, and another one.
fn with_snapshot() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(5));
    create(&disk, &env);
    let volume = open(&disk, &env);
    let make = |name: &[u8]| {
        let file = volume.create_node(ROOT, name, &NewNode::file(0o644));
        let ino = file.unwrap().ino;
        volume.write(ino, 0, &Rng(3).bytes(60_000)).unwrap();
        ino
    };
    let file = make(b"file");
    make(b"removed");
    volume.step(Step::Checkpoint).unwrap();
    volume.snapshot("kept").unwrap();
    volume.write(file, 0, &Rng(4).bytes(60_000)).unwrap();
    volume.unlink(ROOT, b"removed").unwrap();
    volume.close().unwrap();
    image_of(&disk)
}

/// Without the oldest or the newest segments of a table, as if they had never been written.
fn without_run(mut image: Image, tag: Tag, oldest: bool) -> Image {
    let newest = superblock(&image);
    edit_manifest(&mut image, &newest, |m| {
        let runs = || m.segments.iter().filter(|s| s.tag == tag).map(|s| s.run);
        let run = if oldest { runs().min() } else { runs().max() };
        let before = m.segments.len();
        m.segments.retain(|s| s.tag != tag || Some(s.run) != run);
        assert!(m.segments.len() < before);
    });
    image
}

fn snapshots() -> Planted {
    vec![
        // What the snapshot shows of the files is gone, and listed all the same.
        (
            K::HeldWrong,
            without_run(with_snapshot(), Tag::Extent, true),
        ),
        (
            K::HeldMissing,
            without_run(with_snapshot(), Tag::Held, false),
        ),
    ]
}

/// A volume with a copy that shares its data, or had one.
fn with_copy(removed: bool) -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(12));
    create(&disk, &env);
    let volume = open(&disk, &env);
    let source = create_file(&volume, "source");
    volume.write(source, 0, &Rng(1).bytes(60_000)).unwrap();
    volume.step(Step::Checkpoint).unwrap();
    let copy = create_file(&volume, "copy");
    volume.copy_range(source, 0, copy, 0, 60_000).unwrap();
    volume.step(Step::Checkpoint).unwrap();
    if removed {
        remove(&volume, "copy");
        volume.step(Step::Checkpoint).unwrap();
    }
    volume.close().unwrap();
    image_of(&disk)
}

fn shared() -> Planted {
    vec![
        // References without a record; and a removal that was done, but not counted.
        (
            K::SharedCount,
            without_run(with_copy(false), Tag::Shared, false),
        ),
        (
            K::SharedCountHigh,
            without_run(with_copy(true), Tag::Shared, false),
        ),
    ]
}

fn parity() -> Planted {
    let planted = crate::common::parities::planted();
    planted
        .into_iter()
        .map(|(k, _, image)| (k, image))
        .collect()
}

fn check_all(planted: Planted) -> BTreeSet<K> {
    let mut kinds = BTreeSet::new();
    let mut missed = Vec::new();
    for (kind, image) in planted {
        let report = check(&image, 4);
        if !numbers(&report).contains(&kind.number()) {
            missed.push(format!("{kind:?} in {}", told(&report)));
        }
        kinds.insert(kind);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
    kinds
}

#[test]
fn what_is_planted_is_found() {
    // The bases are clean: what is found was planted.
    let twins_closed = closed_with(3, 2);
    for base in [
        Tree::new().image(),
        long_batch().0,
        one_dead(),
        with_snapshot(),
        with_copy(false),
        with_copy(true),
        twins_closed,
        crate::common::parities::volume(),
    ] {
        let report = check(&base, 3);
        assert!(report.findings.is_empty(), "{}", told(&report));
    }
    let groups = [
        superblocks,
        manifests_and_files,
        journals,
        twins,
        segments,
        names,
        inodes,
        packs,
        snapshots,
        shared,
        parity,
    ];
    let mut kinds: BTreeSet<K> = groups
        .into_iter()
        .flat_map(|group| check_all(group()))
        .collect();
    let mut alone = closed_with(3, 2);
    assert!(alone.remove(&name_of(FileName::JournalTwin(0))));
    kinds.extend(check_all(vec![(K::JournalTwinAlone, alone)]));
    // No bytes are wrong where the host does not give them.
    let disk = SimDisk::from_image(&one_dead());
    disk.fail_reads(&name_of(FileName::Super), 0..1);
    assert!(numbers(&check_disk(&disk, 0)).contains(&K::Unreadable.number()));
    kinds.insert(K::Unreadable);
    let all: BTreeSet<K> = K::ALL.iter().copied().collect();
    assert_eq!(kinds, all);
}

#[test]
fn what_the_host_cannot_read_is_told_and_the_rest_is_checked() {
    let image = one_dead();
    for (name, len) in image
        .files()
        .map(|(n, l)| (n.clone(), l))
        .collect::<Vec<_>>()
    {
        let disk = SimDisk::from_image(&image);
        disk.fail_reads(&name, len / 2..len / 2 + 1);
        let report = check_disk(&disk, 3);
        assert!(
            numbers(&report).contains(&K::Unreadable.number()),
            "{name}: {}",
            told(&report)
        );
    }
}

#[test]
fn findings_about_files_tell_their_paths() {
    let image = spoilt(|t| t.edit(FILE, |i| i.nlink = 5));
    let report = check(&image, 2);
    assert_eq!(report.findings[0].object, "inode 17 (/dir/file)");
}

#[test]
fn without_superblock_or_manifest_the_answer_is_fatal_and_no_error() {
    for (kind, image) in superblocks().into_iter().chain(manifests_and_files()) {
        let fatal = check(&image, 3).worst() == Some(razorfs_verify::Severity::Fatal);
        let expected = kind.severity() == razorfs_verify::Severity::Fatal;
        assert_eq!(fatal, expected, "{kind:?}");
    }
    assert!(check(&Image::default(), 3).worst().is_some());
}

#[test]
fn numbers_at_their_limits_get_an_answer() {
    let max = u64::MAX;
    for state in [State::Clean, State::Dirty] {
        let image = edited(7, |i| {
            edit_superblock(i, |s| {
                (s.journal.batch, s.end) = (BatchSeq(max), BatchSeq(max));
                (s.cut, s.state, s.journal.jid.0) = (Lsn(max), state, u32::MAX);
            });
        });
        assert!(!check(&image, 3).is_sound());
    }
    let image = edited(7, |i| {
        let newest = superblock(i);
        edit_manifest(i, &newest, |m| {
            m.counters.next_ino = Ino(max);
            (m.counters.inodes, m.counters.epoch) = (max, Epoch(max));
            m.counters.bytes = i128::MAX as u128;
            for p in &mut m.packs {
                (p.len, p.total, p.live) = (max, max, max);
            }
            for s in &mut m.segments {
                (s.bytes, s.entries, s.run) = (max, max, max);
            }
        });
    });
    assert!(!check(&image, 3).is_sound());
    let image = spoilt(|t| {
        let extent = Extent {
            fragments: vec![reference(max, 1 << 40)],
        };
        t.put(Key::extent(HEAD, Ino(max), max), &extent.to_bytes());
        t.name_at(Ino(max), max, b"far", Ino(max), FileKind::Regular);
        t.inode(
            Ino(max),
            FileKind::Directory,
            u32::MAX,
            Ino(max),
            max,
            |i| i.entries = max,
        );
        t.put(
            Key::orphan(HEAD, Ino(max)),
            &Orphan::Trim { from: max }.to_bytes(),
        );
        (t.inodes, t.bytes) = (i64::MAX, i64::MIN);
    });
    assert!(!check(&image, 3).is_sound());
}

#[test]
fn what_is_planted_is_repaired() {
    let groups = [
        superblocks,
        manifests_and_files,
        journals,
        segments,
        names,
        inodes,
        packs,
        snapshots,
        shared,
    ];
    let refused = [K::NewerVersion, K::UnknownFeatures, K::ReadOnlyFeatures];
    for (kind, image) in groups.into_iter().flat_map(|group| group()) {
        let disk = SimDisk::from_image(&image);
        let options = RepairOptions {
            commit: true,
            ..RepairOptions::default()
        };
        let run = |seed| repair(&disk, &SimEnv::new(seed), &options, &mut |_| true);
        let outcome = match run(1) {
            Ok(outcome) => outcome,
            Err(RepairError::Refused(_)) if refused.contains(&kind) => continue,
            Err(e) => panic!("{kind:?}: {e}"),
        };
        assert!(!refused.contains(&kind));
        let report = check_disk(&disk, 3);
        assert!(
            report.is_sound(),
            "{kind:?}: {}\n{outcome:#?}",
            told(&report)
        );
        assert!(!run(2).unwrap().needed, "{kind:?}");
        let volume = open(&disk, &SimEnv::new(3));
        assert_eq!(volume.info().read_only, None, "{kind:?}");
        volume.close().unwrap();
    }
}

/// An upgrade that stopped anywhere leaves slots of both versions: all that is there is the newer
/// version's to judge.
#[test]
fn a_volume_of_a_newer_version_is_told_and_neither_repaired_nor_migrated() {
    for slots in 1..16_usize {
        let newer: Vec<usize> = (0..4).filter(|slot| slots & (1 << slot) != 0).collect();
        let image = edited(1, |i| make_newer(i, &newer));
        let disk = SimDisk::from_image(&image);
        disk.start_trace();
        let report = check_disk(&disk, 4);
        let told: Vec<_> = report
            .findings
            .iter()
            .map(|f| (f.number, &*f.object))
            .collect();
        let objects: Vec<String> = newer.iter().map(|n| format!("SUPER slot {n}")).collect();
        let expected: Vec<_> = objects.iter().map(|object| (110, &**object)).collect();
        assert_eq!(told, expected);
        assert!(report.findings[0].detail.contains("version 2.3"));
        assert!(report.findings[0].detail.contains("knows is 1.0"));
        for upgrade in [false, true] {
            let options = RepairOptions {
                commit: true,
                upgrade,
                ..RepairOptions::default()
            };
            let refused = repair(&disk, &SimEnv::new(1), &options, &mut |_| true).unwrap_err();
            let why = refused.to_string();
            assert!(
                why.contains("2.3") && why.contains("newer razorfs"),
                "{why}"
            );
        }
        assert_eq!(disk.take_trace(), Vec::<String>::new());
    }
}

#[test]
fn a_repair_of_counts_leaves_snapshots_as_they_are() {
    let mut image = with_snapshot();
    let newest = superblock(&image);
    edit_manifest(&mut image, &newest, |m| m.counters.inodes += 1);
    let disk = SimDisk::from_image(&image);
    let run = |commit| {
        let options = RepairOptions {
            commit,
            ..RepairOptions::default()
        };
        repair(&disk, &SimEnv::new(1), &options, &mut |_| true).unwrap()
    };
    for commit in [false, true] {
        let outcome = run(commit);
        assert_eq!(outcome.snapshots.len(), 1);
        assert_eq!(
            (&*outcome.snapshots[0].name, outcome.snapshots[0].kept),
            ("kept", true)
        );
        assert!(outcome.is_lossless());
    }
    let report = check_disk(&disk, 4);
    assert!(report.is_sound(), "{}", told(&report));
    assert!(!run(false).needed);
    let volume = open(&disk, &SimEnv::new(3));
    // What only the snapshot has is not among the files that have lost their names.
    let names = |volume: &razorfs::Volume| {
        let mut names = Vec::new();
        let listed = volume.collect_children(ROOT, 0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        });
        listed.unwrap();
        names.sort();
        names
    };
    assert_eq!(names(&volume), [b"file"]);
    let mut read = vec![0; 60_000];
    let file = volume.lookup(ROOT, b"file").unwrap().ino;
    assert_eq!(volume.read(file, 0, &mut read).unwrap(), read.len());
    assert!(read == Rng(4).bytes(60_000));
    let view = volume.at_snapshot("kept").unwrap();
    assert_eq!(names(&view), [b"file".to_vec(), b"removed".to_vec()]);
    assert_eq!(view.read(file, 0, &mut read).unwrap(), read.len());
}

#[test]
fn a_dry_run_and_a_stopped_repair_change_nothing() {
    let image = edited(3, |i| {
        let newest = superblock(i);
        assert!(i.flip_bit(
            &name_of(FileName::Segment(manifest(i, &newest).segments[0].id)),
            70,
            1
        ));
    });
    let calls = std::cell::Cell::new(0);
    for (commit, stop_at) in [(false, u32::MAX), (true, 0), (true, 40), (true, 1)] {
        let disk = SimDisk::from_image(&image);
        calls.set(0);
        let options = RepairOptions {
            commit,
            ..RepairOptions::default()
        };
        let done = repair(&disk, &SimEnv::new(1), &options, &mut |_| {
            calls.set(calls.get() + 1);
            calls.get() <= stop_at
        });
        match done {
            Ok(outcome) => assert!(!commit && outcome.needed && outcome.committed.is_none()),
            Err(e) => assert!(commit && matches!(e, RepairError::Stopped), "{e}"),
        }
        let left = image_of(&disk);
        for (name, _) in image.files() {
            assert_eq!(left.bytes(name), image.bytes(name), "{name}");
        }
        let new = left.files().filter(|(n, _)| image.bytes(n).is_none());
        let new: Vec<String> = new.map(|(n, _)| n.to_string()).collect();
        assert!(new.is_empty(), "{new:?}");
    }
}
