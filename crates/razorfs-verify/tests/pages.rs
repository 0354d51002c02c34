//! The pages of the documentation say what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common::closed;
use crate::common::forge::{manifest, name_of, superblock};
use razorfs_disk::Dir;
use razorfs_format::layout::{DIRECTORIES, FileName};
use razorfs_format::segment::{self, block, dirblock, filter, index, seal};
use razorfs_format::superblock::offset;
use razorfs_format::{Ino, journal, names, op, pack, parity, record, scrub, superblock as sup};
use razorfs_verify::{FindingKind, FindingKind as K};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// The modules of the format, without tests and the list of modules.
fn modules(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            modules(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && name != "lib.rs" {
            found.push(path.canonicalize().unwrap());
        }
    }
}

#[test]
fn the_page_of_the_format_links_every_module() {
    let text = page("docs/format.md");
    let mut linked: Vec<PathBuf> = text
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .map(|link| {
            repository()
                .join("docs")
                .join(link)
                .canonicalize()
                .expect(link)
        })
        .collect();
    // Other pages are linked as well; that they exist has just been seen.
    linked.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    linked.sort();
    linked.dedup();
    let mut all = Vec::new();
    modules(&repository().join("crates/razorfs-format/src"), &mut all);
    all.sort();
    assert_eq!(linked, all);
}

#[test]
fn the_page_of_the_format_names_every_file_and_record() {
    let text = page("docs/format.md");
    for name in [FileName::Super, FileName::Lock, FileName::Reserve] {
        assert!(text.contains(&format!("| `{name}` |")), "{name}");
    }
    for dir in DIRECTORIES {
        assert!(text.contains(&format!("`{dir}/")), "{dir}");
    }
    for tag in razorfs_format::key::Tag::ALL {
        assert!(
            text.contains(&format!("| `{}` |", char::from(tag as u8))),
            "{tag:?}"
        );
    }
}

/// Four letters where they stand in a volume.
fn magics() -> Vec<(&'static str, String)> {
    let image = closed(1);
    let newest = superblock(&image);
    let list = manifest(&image, &newest);
    let text = |file: FileName, from_end: bool, at: u64| {
        let bytes = image.bytes(&name_of(file)).unwrap();
        let at = if from_end {
            bytes.len() - at as usize
        } else {
            at as usize
        };
        String::from_utf8_lossy(&bytes[at..at + 4]).into_owned()
    };
    let manifest = FileName::Manifest(newest.manifest.id);
    let segment = FileName::Segment(list.segments[0].id);
    let sealed = FileName::Pack(list.packs.iter().find(|p| p.sealed).unwrap().id);
    let journal = crate::common::files(&image, Dir::Journal);
    let journal = FileName::parse("journal", &journal[0].0.leaf).unwrap();
    let batch = journal::UNIT + journal::SECTOR_HEAD;
    let ascii = |magic: u32| String::from_utf8_lossy(&magic.to_le_bytes()).into_owned();
    vec![
        ("parity magic", ascii(parity::MAGIC)),
        ("scrub magic", ascii(scrub::MAGIC)),
        ("manifest magic", text(manifest, false, 0)),
        (
            "journal file magic",
            text(journal, false, journal::SECTOR_HEAD as u64),
        ),
        ("journal batch magic", text(journal, false, batch as u64)),
        ("segment magic", text(segment, false, 0)),
        (
            "segment footer magic",
            text(segment, true, segment::FOOTER_LEN as u64),
        ),
        ("pack magic", text(sealed, false, 0)),
        ("pack frame magic", text(sealed, false, pack::HEADER_LEN)),
        ("pack footer magic", text(sealed, true, pack::Footer::LEN)),
        ("superblock magic", format!("{:#x}", sup::MAGIC)),
        ("superblock family", sup::FAMILY.escape_ascii().to_string()),
        (
            "superblock version",
            format!("{}.{}", sup::MAJOR, sup::MINOR),
        ),
    ]
}

fn numbers() -> Vec<(&'static str, u64)> {
    vec![
        ("superblock slots", sup::SLOTS as u64),
        ("superblock slot bytes", sup::SLOT as u64),
        ("superblock offset of the uuid", offset::UUID as u64),
        (
            "superblock offset of the generation",
            offset::GENERATION as u64,
        ),
        ("superblock offset of the features", offset::FEATURES as u64),
        ("superblock offset of the manifest", offset::MANIFEST as u64),
        ("superblock offset of the journal", offset::JOURNAL as u64),
        ("superblock offset of the state", offset::STATE as u64),
        ("superblock offset of the end", offset::END as u64),
        ("superblock offset of the nonce", offset::NONCE as u64),
        ("superblock offset of the hash key", offset::HASH_KEY as u64),
        ("superblock offset of the geometry", offset::GEOMETRY as u64),
        ("superblock offset of the zeros", offset::REST as u64),
        ("superblock offset of the checksum", offset::CRC as u64),
        ("journal sector bytes", journal::SECTOR as u64),
        (
            "journal sector payload bytes",
            journal::SECTOR_PAYLOAD as u64,
        ),
        ("journal unit bytes", journal::UNIT as u64),
        ("journal batch header bytes", journal::BATCH_HEADER as u64),
        ("journal file bytes at least", journal::FILE_MIN),
        ("journal file bytes at most", journal::FILE_MAX),
        ("segment header bytes", segment::HEADER_LEN as u64),
        ("segment footer bytes", segment::FOOTER_LEN as u64),
        ("segment block trailer bytes", seal::TRAILER_LEN as u64),
        ("segment block raw bytes at most", seal::RAW_MAX as u64),
        (
            "segment index partition blocks",
            index::PARTITION_BLOCKS as u64,
        ),
        (
            "segment filter bits for each key",
            filter::BITS_PER_KEY as u64,
        ),
        (
            "segment directory block entries at most",
            dirblock::ENTRIES_MAX as u64,
        ),
        ("segment restart interval", block::RESTART as u64),
        ("string table restart interval", names::RESTART as u64),
        ("pack header bytes", pack::HEADER_LEN),
        ("pack frame header bytes", pack::FRAME_HEADER_LEN),
        ("pack frame alignment", pack::FRAME_ALIGN),
        ("pack footer bytes", pack::Footer::LEN),
        ("parity header bytes", parity::HEADER_LEN as u64),
        ("parity shards of a group", parity::SHARDS.into()),
        ("parity recovery shards of a group", parity::RECOVERY.into()),
        ("parity shard bytes at most", parity::SHARD_MAX.into()),
        ("block bytes", u64::from(record::BLOCK)),
        (
            "raw bytes of a frame for each checksum",
            u64::from(record::RAW_CRC_CHUNK),
        ),
        ("name bytes at most", record::NAME_MAX as u64),
        (
            "symbolic link target bytes at most",
            record::TARGET_MAX as u64,
        ),
        (
            "attribute name bytes at most",
            record::XATTR_NAME_MAX as u64,
        ),
        (
            "attribute value bytes at most",
            record::XATTR_VALUE_MAX as u64,
        ),
        ("record value bytes at most", op::MAX_VALUE as u64),
        ("file bytes at most", record::FILE_MAX),
        ("root inode", Ino::ROOT.0),
        ("first inode given out", Ino::FIRST.0),
    ]
}

#[test]
fn the_constants_of_the_page_are_those_of_the_code() {
    let text = page("docs/format.md");
    let (_, table) = text.split_once("## Constants").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    });
    let stated: BTreeMap<String, String> = rows.filter(|(name, _)| name != "constant").collect();
    let numbers = numbers().into_iter().map(|(name, n)| (name, n.to_string()));
    let code = magics().into_iter().chain(numbers);
    let code: BTreeMap<String, String> = code.map(|(n, v)| (n.to_owned(), v)).collect();
    assert_eq!(stated, code);
}

/// The table of findings, as the page has it.
fn table() -> String {
    let mut out =
        String::from("| number | severity | what it means | what to do |\n|---|---|---|---|\n");
    for kind in FindingKind::ALL {
        let (n, severity) = (kind.number(), kind.severity());
        out += &format!(
            "| {n} | {severity} | {} | {} |\n",
            kind.meaning(),
            kind.remedy()
        );
    }
    out
}

#[test]
fn the_page_of_the_findings_is_that_of_the_code() {
    let text = page("crates/razorfs-verify/FINDINGS.md");
    let (_, stated) = text.split_once("\n\n| number").unwrap();
    // On a difference this is what the page should hold.
    assert_eq!(format!("| number{stated}"), table(), "\n{}", table());
}

/// What each number means, for ever: a line is added for a new one, and none is changed or removed,
/// as somebody may have a report with it, or a program that knows it.
#[rustfmt::skip]
const NUMBERS: &[(u16, K)] = &[
    (101, K::NoSuperblock),
    (102, K::SuperblockSlot),
    (103, K::SuperblockTwins),
    (104, K::SuperblockUnknownBytes),
    (105, K::UnknownFeatures),
    (106, K::ReadOnlyFeatures),
    (107, K::SuperblockLost),
    (108, K::WriteFailed),
    (109, K::SuperblockLength),
    (110, K::NewerVersion),
    (201, K::NoManifest),
    (202, K::PreviousManifest),
    (203, K::PreviousSegment),
    (204, K::PreviousPack),
    (205, K::UnlistedFile),
    (206, K::ForeignFile),
    (207, K::Quarantined),
    (208, K::ReserveNotZero),
    (209, K::ManifestInconsistent),
    (301, K::JournalFileUnfinished),
    (302, K::JournalFileHeader),
    (303, K::JournalSector),
    (304, K::JournalTornTail),
    (305, K::JournalBatchDamaged),
    (306, K::JournalBatchLost),
    (307, K::JournalBatchMeaning),
    (308, K::JournalUnusedBytes),
    (309, K::JournalTwinMissing),
    (310, K::JournalTwinDamaged),
    (311, K::JournalTwinOlder),
    (312, K::JournalFilling),
    (313, K::JournalTwinAlone),
    (314, K::JournalChain),
    (401, K::SegmentMissing),
    (402, K::SegmentDamaged),
    (403, K::SegmentBlock),
    (405, K::RecordUnreadable),
    (501, K::RootMissing),
    (502, K::DirentDangling),
    (503, K::DirentKind),
    (504, K::DirentCookie),
    (505, K::DuplicateName),
    (506, K::DirentHomeless),
    (507, K::LinkCount),
    (508, K::InodeHome),
    (509, K::LinkRecords),
    (510, K::EntryCount),
    (511, K::Unreachable),
    (512, K::Nameless),
    (513, K::OrphanWrong),
    (514, K::XattrOwner),
    (515, K::XattrFlag),
    (516, K::XattrKey),
    (517, K::ExtentOwner),
    (518, K::ExtentBeyondSize),
    (519, K::CounterInodes),
    (520, K::CounterBytes),
    (521, K::CounterNextIno),
    (522, K::NamespaceIncomplete),
    (523, K::DirectoryNames),
    (524, K::OtherBranch),
    (601, K::PackMissing),
    (602, K::PackHeader),
    (603, K::PackShort),
    (604, K::FrameReference),
    (605, K::FrameDamaged),
    (606, K::DeadFrame),
    (607, K::PackGap),
    (608, K::PackTrailer),
    (609, K::PackUnusedBytes),
    (610, K::PackAccountLow),
    (611, K::PackAccountHigh),
    (612, K::PackTotal),
    (613, K::PackBirth),
    (614, K::PackTornHole),
    (615, K::SharedCount),
    (616, K::SharedCountHigh),
    (617, K::DataLost),
    (618, K::HeldWrong),
    (619, K::HeldMissing),
    (701, K::Unreadable),
    (702, K::TooMany),
    (801, K::ParityMissing),
    (802, K::ParityPending),
    (803, K::ParityDamaged),
    (804, K::ParityForeign),
    (805, K::ShardDamaged),
    (806, K::ParityWrong),
    (807, K::ScrubRecord),
];

#[test]
fn a_number_never_changes_its_meaning() {
    for (number, kind) in NUMBERS {
        assert_eq!(kind.number(), *number, "{kind:?}");
    }
    let pinned: BTreeSet<K> = NUMBERS.iter().map(|(_, kind)| *kind).collect();
    let new = FindingKind::ALL
        .iter()
        .filter(|kind| !pinned.contains(*kind));
    let new: Vec<_> = new.map(|kind| (kind.number(), kind)).collect();
    assert!(new.is_empty(), "to be added to the list: {new:?}");
}

#[test]
fn numbers_stand_once_and_in_order() {
    let numbers: Vec<u16> = FindingKind::ALL.iter().map(|k| k.number()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
}
