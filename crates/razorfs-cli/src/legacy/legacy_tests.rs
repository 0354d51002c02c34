use std::collections::BTreeMap;

use razorfs_disk::sim::SimRng;

use super::*;
use crate::hostile_tests::bodies::prototype::{
    Known, SAVED, checkpoint, crc, created, deleted, dump, entry, razr, written,
};

type Tree = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What was decoded, by path.
fn tree(found: &Found<'_>) -> Tree {
    let item = |item: &Item<'_>| (item.path.to_vec(), item.bytes.map(<[u8]>::to_vec));
    found.items.iter().map(item).collect()
}

/// What should be decoded.
fn below_root(all: &[Known]) -> Tree {
    let below = all.iter().filter(|known| known.path != b"/");
    let entry = |known: &Known| (known.path[1..].to_vec(), known.bytes.clone());
    below.map(entry).collect()
}

fn sound(form: Form, bytes: &[u8]) -> Tree {
    let found = decode(form, bytes, None).unwrap();
    assert_eq!(found.findings, []);
    tree(&found)
}

/// Whether nothing is said against a file.
fn passes(form: Form, bytes: &[u8]) -> bool {
    decode(form, bytes, None).is_ok_and(|found| found.findings.is_empty())
}

/// All that is said, in lines.
fn said(form: Form, bytes: &[u8]) -> (Tree, Vec<String>) {
    let found = decode(form, bytes, None).unwrap();
    let lines = found.findings.iter().map(ToString::to_string);
    (tree(&found), lines.collect())
}

/// A tree as the prototype could have one, in the order of a hash map.
fn random(seed: u64) -> (u64, Vec<Known>) {
    let mut rng = SimRng::new(seed);
    let mut below = move |n: u64| rng.next_u64() % n;
    let mut all = vec![Known::directory(1, "/")];
    let mut directories = vec![Vec::new()];
    let mut next = 2;
    for _ in 0..below(60) {
        let mut path = directories[below(directories.len() as u64) as usize].clone();
        path.push(b'/');
        path.extend(format!("{next}").bytes());
        // Any bytes but a slash and zero are a name.
        path.extend((0..below(9)).map(|_| match below(255) as u8 + 1 {
            b'/' => 0xFF,
            byte => byte,
        }));
        if below(4) == 0 {
            directories.push(path.clone());
            all.push(Known::directory(next, path));
        } else {
            let len = below(3) * below(300);
            let bytes: Vec<u8> = (0..len).map(|_| below(256) as u8).collect();
            all.push(Known::file(next, path, bytes));
        }
        next += 1 + below(3);
    }
    for i in (1..all.len()).rev() {
        all.swap(i, below(i as u64 + 1) as usize);
    }
    (next, all)
}

#[test]
fn what_was_written_comes_in_exactly() {
    for seed in 0..300 {
        let (next, all) = random(seed);
        let expected = below_root(&all);
        assert_eq!(sound(Form::Dump, &dump(next, &all)), expected);
        for summed in [false, true] {
            let bytes = razr(next, &all, summed);
            assert_eq!(sound(Form::Razr, &bytes), expected);
            let found = decode(Form::Razr, &bytes, None).unwrap();
            for item in found.items {
                let mode = if item.bytes.is_some() { 0o644 } else { 0o755 };
                assert_eq!((item.mode, item.millis), (mode, Some(SAVED)));
            }
        }
    }
}

#[test]
fn what_it_is_shows_from_its_beginning() {
    let (next, all) = random(3);
    assert_eq!(Form::of(&dump(next, &all)[..32]), Some(Form::Dump));
    assert_eq!(Form::of(&razr(next, &all, false)[..32]), Some(Form::Razr));
    assert_eq!(Form::of(&[0; 512]), None);
    assert_eq!(
        Form::of(b"./\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        None
    );
    assert_eq!(
        Form::of(b"a text of some length that is no file system"),
        None
    );
}

#[test]
fn every_cut_is_refused() {
    let (next, all) = random(5);
    let (a, b, c) = (
        dump(next, &all),
        razr(next, &all, false),
        razr(next, &all, true),
    );
    for (form, bytes) in [(Form::Dump, a), (Form::Razr, b), (Form::Razr, c)] {
        assert!(passes(form, &bytes));
        for end in 0..bytes.len() {
            assert!(!passes(form, &bytes[..end]), "{form:?} cut at {end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(!passes(form, &longer));
    }
}

#[test]
fn every_flipped_bit_under_a_checksum_is_found() {
    let (next, all) = random(7);
    for summed in [false, true] {
        let mut bytes = razr(next, &all, summed);
        let at = |field: usize| u32::from_le_bytes(*bytes[field..].first_chunk().unwrap()) as usize;
        let (inodes, data) = (at(36), at(44));
        // Paths and contents have no other checksum than that of the file.
        let covered: Vec<usize> = match summed {
            true => (0..bytes.len()).collect(),
            false => (0..96).chain(inodes..data).collect(),
        };
        for byte in covered {
            for bit in 0..8 {
                bytes[byte] ^= 1 << bit;
                assert!(!passes(Form::Razr, &bytes), "bit {bit} of byte {byte}");
                bytes[byte] ^= 1 << bit;
            }
        }
        assert!(passes(Form::Razr, &bytes));
    }
}

fn saved() -> Vec<u8> {
    let all = [
        Known::directory(1, "/"),
        Known::file(2, "/a", "one"),
        Known::directory(3, "/d"),
        Known::file(4, "/d/b", "two"),
    ];
    razr(5, &all, false)
}

fn history() -> Vec<Vec<u8>> {
    vec![
        created(5, b"/new", b"begins"),
        written(5, b"goes on"),
        written(2, b"changed"),
        checkpoint(),
        deleted(4),
        created(6, b"/dir", b""),
        created(7, b"/dir/empty\xff", b""),
        written(7, b"no more"),
        // Another path of the same inode.
        created(2, b"/moved", b""),
    ]
}

#[test]
fn a_journal_is_applied_to_what_was_saved() {
    let (saved, history) = (saved(), history().concat());
    let found = decode(Form::Razr, &saved, Some(&history)).unwrap();
    assert_eq!(found.findings, []);
    let expected = [
        ("d", None),
        ("dir", None),
        ("moved", Some("changed")),
        ("new", Some("goes on")),
    ];
    let expected = expected.map(|(path, bytes)| (path.into(), bytes.map(Into::into)));
    let mut expected: Tree = expected.into();
    expected.insert(b"dir/empty\xff".to_vec(), Some(b"no more".to_vec()));
    assert_eq!(tree(&found), expected);
    let replay = Replay {
        entries: 9,
        cut: None,
    };
    assert_eq!(found.journal, Some(replay));
    let millis = |path: &[u8]| {
        found
            .items
            .iter()
            .find(|item| item.path == path)
            .unwrap()
            .millis
    };
    assert_eq!(
        (millis(b"d"), millis(b"new")),
        (Some(SAVED), Some(SAVED + 1000))
    );
    // An empty one is as good as none.
    let found = decode(Form::Razr, &saved, Some(&[])).unwrap();
    assert_eq!(tree(&found), sound(Form::Razr, &saved));
}

#[test]
fn a_journal_counts_up_to_its_first_bad_entry_wherever_it_is_cut_or_flipped() {
    let (saved, history) = (saved(), history());
    let whole = history.concat();
    let states: Vec<Tree> = (0..=history.len())
        .map(|n| tree(&decode(Form::Razr, &saved, Some(&history[..n].concat())).unwrap()))
        .collect();
    let mut ends = vec![0];
    ends.extend(history.iter().scan(0, |end, entry| {
        *end += entry.len();
        Some(*end)
    }));
    let check = |journal: &[u8], byte: usize| {
        let good = ends.iter().rposition(|end| *end <= byte).unwrap();
        let found = decode(Form::Razr, &saved, Some(journal)).unwrap();
        let replay = found.journal.clone().unwrap();
        assert_eq!(replay.entries, good as u64, "at {byte}");
        assert_eq!(tree(&found), states[good], "at {byte}");
        replay.cut.map(|(at, _)| at)
    };
    for end in 0..whole.len() {
        let cut = check(&whole[..end], end);
        // Where an entry ends a journal may.
        let begin = ends.iter().rev().find(|begin| **begin <= end).unwrap();
        let expected = (*begin < end).then_some(*begin as u64);
        assert_eq!(cut, expected, "cut at {end}");
    }
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            assert!(check(&flipped, byte).is_some(), "bit {bit} of byte {byte}");
        }
    }
}

#[test]
fn entries_that_were_never_written_end_a_journal() {
    let saved = saved();
    let mut dirty = deleted(4);
    dirty[6] = 1;
    dirty[28..32].fill(0);
    let sum = crc(&dirty[4..]);
    dirty[28..32].copy_from_slice(&sum.to_le_bytes());
    let cases = [
        (entry(6, 4, b"/a\0/b"), "kind 6"),
        (entry(1, 9, b"/no end"), "no end"),
        (entry(2, 4, b"x"), "must not have"),
        (dirty, "zeros"),
        (vec![b'x'; 40], "no entry"),
        (deleted(4)[..31].to_vec(), "takes 32 bytes, and 31 are left"),
    ];
    for (last, cause) in cases {
        let journal = [written(2, b"new"), last, deleted(2)].concat();
        let found = decode(Form::Razr, &saved, Some(&journal)).unwrap();
        let replay = found.journal.clone().unwrap();
        let (at, why) = replay.cut.clone().unwrap();
        assert_eq!((replay.entries, at), (1, 35));
        // What follows an entry that is cut off looks like its end.
        assert!(why.contains(cause) || why.contains("checksum"), "{why}");
        assert_eq!(tree(&found)[&b"a"[..]], Some(b"new".to_vec()));
        assert!(found.findings.is_empty());
    }
    let journal = written(99, b"nameless");
    let found = decode(Form::Razr, &saved, Some(&journal)).unwrap();
    let line = found.findings[0].to_string();
    assert!(
        line.starts_with("at byte 0 of its journal: the content of inode 99"),
        "{line}"
    );
}

#[test]
fn what_is_whole_in_a_damaged_file_is_saved_and_the_rest_named() {
    let (next, all) = random(11);
    let expected = below_root(&all);
    let bytes = razr(next, &all, false);
    let inodes = u32::from_le_bytes(*bytes[36..].first_chunk().unwrap()) as usize;
    let mut files = 0;
    for (n, known) in all.iter().enumerate() {
        let mut damaged = bytes.clone();
        damaged[inodes + n * 52 + 30] ^= 4;
        let (saved, lines) = said(Form::Razr, &damaged);
        let mut rest = expected.clone();
        if known.bytes.is_some() {
            rest.remove(&known.path[1..]);
            files += 1;
        } else if let Some(path) = known.path.get(1..).filter(|path| {
            let inside = [path, &b"/"[..]].concat();
            !expected.keys().any(|other| other.starts_with(&inside))
        }) {
            rest.remove(path);
        }
        assert_eq!(saved, rest);
        assert!(
            lines
                .iter()
                .any(|line| line.contains("an inode's checksum is wrong"))
        );
        let shown = crate::failure::shown_bytes(&known.path);
        let named = format!(", {shown}: a path that belongs to no inode");
        assert!(lines.iter().any(|line| line.ends_with(&named)), "{lines:?}");
    }
    assert!(files > 5);
    // A damaged header keeps nothing from being read.
    let mut damaged = bytes.clone();
    damaged[13] ^= 1;
    let (saved, lines) = said(Form::Razr, &damaged);
    assert_eq!(saved, expected);
    assert_eq!(lines, ["at byte 8: the header's checksum is wrong"]);
}

#[test]
fn a_length_in_the_string_table_that_is_damaged_costs_one_file() {
    let all = [
        Known::file(2, "/a", "1"),
        Known::file(3, "/b", "2"),
        Known::file(4, "/c", "3"),
    ];
    for len in [0, 1, 3, 4, 200] {
        let mut bytes = razr(5, &all, false);
        bytes[96 + 6] = len;
        let (saved, lines) = said(Form::Razr, &bytes);
        assert_eq!(
            saved.keys().collect::<Vec<_>>(),
            [b"a", b"c"],
            "{len}: {lines:?}"
        );
        assert!(
            lines.iter().any(|line| line.contains("inode 3")),
            "{lines:?}"
        );
    }
}

#[test]
fn a_dump_that_is_cut_off_gives_the_files_that_are_there() {
    let all = [
        Known::directory(1, "/"),
        Known::directory(2, "/d"),
        Known::file(3, "/d/one", "1"),
        Known::file(4, "/two", "22"),
        Known::directory(5, "/empty"),
    ];
    let bytes = dump(6, &all);
    let (saved, lines) = said(Form::Dump, &bytes[..bytes.len() - 1]);
    let expected = [("d", None), ("d/one", Some("1"))];
    let expected = expected.map(|(path, bytes)| (path.into(), bytes.map(Into::into)));
    assert_eq!(saved, Tree::from(expected));
    let end = bytes.len() - 2;
    let cut = format!("at byte {end}: a content takes 2 bytes, and 1 are left");
    assert!(lines.contains(&cut), "{lines:?}");
    // Nobody knows any more whether it was a directory.
    for name in ["/two", "/empty"] {
        let line = format!("{name}: an empty directory, or a file whose bytes are not there");
        assert!(lines.iter().any(|said| said.ends_with(&line)), "{lines:?}");
    }
}

#[test]
fn lengths_and_counts_of_any_size_are_errors() {
    let all = [Known::directory(1, "/"), Known::file(2, "/a", "x")];
    let bytes = dump(3, &all);
    for at in [8, 24, 41, 50 + 1, 67] {
        for most in [1 << 60, u64::MAX, u64::MAX - 7, 1 << 32] {
            let mut hostile = bytes.clone();
            hostile[at..at + 8].copy_from_slice(&u64::to_le_bytes(most));
            assert!(!passes(Form::Dump, &hostile), "{most} at {at}");
        }
    }
    let bytes = razr(3, &all, false);
    for at in (28..60).step_by(4).chain([96, 101]) {
        let mut hostile = bytes.clone();
        hostile[at..at + 4].fill(0xFF);
        hostile[8..12].fill(0);
        let sum = crc(&hostile[8..92]);
        hostile[8..12].copy_from_slice(&sum.to_le_bytes());
        assert!(!passes(Form::Razr, &hostile), "at {at}");
    }
}

#[test]
fn names_that_lead_elsewhere_or_stand_twice_are_not_taken() {
    let long = vec![b'n'; 256];
    let deep = b"/d".repeat(2049);
    let cases: [(&[u8], &str); 11] = [
        (b"/x/../../etc", "`.` or `..`"),
        (b"..", "`.` or `..`"),
        (b"/./x", "`.` or `..`"),
        (b"//x", "empty name"),
        (b"/x/", "empty name"),
        (b"", "empty name"),
        (b"/nul\0nul", "zero byte"),
        (&long, "more than 255"),
        (&deep, "more than 4096"),
        (b"/a", "has that path, too"),
        // The same file, without the slash.
        (b"a", "has that path, too"),
    ];
    for (name, cause) in cases {
        let all = [Known::file(2, "/a", "good"), Known::file(3, name, "evil")];
        for (form, bytes) in [
            (Form::Dump, dump(4, &all)),
            (Form::Razr, razr(4, &all, true)),
        ] {
            let (saved, lines) = said(form, &bytes);
            assert_eq!(saved.len(), 1, "{saved:?}");
            assert!(lines[0].contains(cause), "{lines:?}");
        }
    }
    let inside = [
        Known::file(2, "/a", "file"),
        Known::file(3, "/a/b", "in it"),
    ];
    let (saved, lines) = said(Form::Dump, &dump(4, &inside));
    assert_eq!(saved[&b"a/b"[..]], Some(b"in it".to_vec()));
    assert!(lines[0].contains("a file with files in it"), "{lines:?}");
}

#[test]
fn inodes_that_stand_twice_or_too_high_are_not_as_they_were_written() {
    let all = [
        Known::file(2, "/a", "1"),
        Known::file(2, "/b", "2"),
        Known::file(3, "/c", "3"),
    ];
    for (form, bytes) in [
        (Form::Dump, dump(4, &all)),
        (Form::Razr, razr(4, &all, true)),
    ] {
        let (saved, lines) = said(form, &bytes);
        assert_eq!(saved.keys().collect::<Vec<_>>(), [b"c"]);
        let twice = lines.iter().filter(|line| line.contains("more than"));
        assert!(twice.count() >= 2, "{lines:?}");
    }
    for (form, bytes) in [
        (Form::Dump, dump(3, &all[1..])),
        (Form::Razr, razr(3, &all[1..], true)),
    ] {
        let (saved, lines) = said(form, &bytes);
        assert_eq!(saved.len(), 2);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("inode 3 is not below the next one, 3"),
            "{lines:?}"
        );
    }
}

#[test]
fn bytes_that_two_inodes_claim_come_in_once() {
    let all = [Known::file(2, "/a", "0123"), Known::file(3, "/b", "4567")];
    let mut bytes = razr(4, &all, false);
    let second = 96 + 12 + 52;
    bytes[second + 40] = 2;
    let sum = crc(&bytes[second..second + 48]);
    bytes[second + 48..second + 52].copy_from_slice(&sum.to_le_bytes());
    let (saved, lines) = said(Form::Razr, &bytes);
    assert_eq!(saved, below_root(&all[..1]));
    assert!(
        lines[0].contains("the bytes of inode 3 are another's, too"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("4 bytes that belong to no inode"),
        "{lines:?}"
    );
}

#[test]
fn what_is_something_else_is_refused_with_what_to_do() {
    let mut ours = saved();
    ours[8..16].copy_from_slice(b"RZFSVOL1");
    let mut last = saved();
    last[8..12].fill(0);
    let cases = [
        (ours, "mount that volume"),
        (history().concat(), "name the file that it lies beside"),
        (last, "mount it with the prototype"),
        (saved()[..95].to_vec(), "use a copy that is complete"),
    ];
    for (bytes, remedy) in cases {
        let refusal = decode(Form::Razr, &bytes, None).unwrap_err();
        assert!(refusal.to_string().contains(remedy), "{refusal}");
    }
}

#[test]
fn a_hundred_thousand_files_and_a_deep_path_are_no_trouble() {
    let mut all = vec![Known::directory(1, "/")];
    all.extend((2..100_002).map(|ino| {
        let path = format!("/{}/{}/file-{ino}", ino % 100, ino % 7);
        Known::file(ino, path, ino.to_le_bytes())
    }));
    let deep = b"/d".repeat(2048);
    all.push(Known::file(100_002, &deep, "deep"));
    for (form, bytes) in [
        (Form::Dump, dump(100_003, &all)),
        (Form::Razr, razr(100_003, &all, true)),
    ] {
        let found = decode(form, &bytes, None).unwrap();
        assert_eq!(found.findings, []);
        // Nobody names the directories.
        assert_eq!(found.items.len(), 100_001 + 100 + 700 + 2047);
    }
}
