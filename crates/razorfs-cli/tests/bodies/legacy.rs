//! What is done with hostile files of the prototype: they are decoded, and what is said to be whole
//! is put into a volume. The seeded test and the fuzz target `legacy` both do that.

use std::path::Path;
use std::sync::Arc;

use razorfs::{Time, Volume};
use razorfs_cli::legacy::{Form, Found, decode};
use razorfs_cli::prototype::place;
use razorfs_cli::tree::VolumeTree;
use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::{SimDisk, SimRng};

use super::prototype::{self, Known};

/// What is decoded holds no path that leads out, no name twice, and no more than was there.
fn look(found: &Found<'_>, given: usize) {
    let mut before: Option<&[u8]> = None;
    let mut bytes = 0;
    for item in &found.items {
        assert!(before < Some(item.path), "{:?}", item.path);
        before = Some(item.path);
        bytes += item.bytes.map_or(0, <[u8]>::len) + 1;
        let parts = item.path.split(|byte| *byte == b'/');
        for part in parts {
            assert!(!part.is_empty() && part != b"." && part != b"..");
            assert!(part.len() <= 255 && !part.contains(&0));
        }
        if let Some(slash) = item.path.iter().rposition(|byte| *byte == b'/') {
            let parent = &item.path[..slash];
            let parent = found.items.binary_search_by_key(&parent, |item| item.path);
            assert!(found.items[parent.unwrap()].bytes.is_none());
        }
    }
    assert!(bytes <= given, "{bytes} of {given}");
    assert!(found.findings.len() <= given + 16);
    for finding in &found.findings {
        let line = finding.to_string();
        assert!(line.chars().all(|c| !c.is_control()), "{line}");
    }
}

/// Puts the files into a volume, which must verify afterwards.
fn fill(found: &Found<'_>) {
    let disk = SimDisk::from_image(&super::empty());
    let volume = Volume::open_on(Arc::new(disk.clone()), Arc::new(OsEnv), super::options());
    let tree = VolumeTree::new(volume.unwrap(), "volume");
    let written = Time::default();
    let mut items = 0;
    place(found, written, &tree, Path::new(""), &mut |_, item| {
        items += usize::from(item);
        Ok(())
    })
    .unwrap();
    let files = found.items.iter().filter(|item| item.bytes.is_some());
    assert_eq!(items, files.count());
    tree.into_volume().close().unwrap();
    let report = razorfs_verify::verify(&disk, 3, &mut |_| ()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

fn number(bytes: &[u8], at: usize) -> usize {
    let field = bytes.get(at..at + 4).and_then(|field| field.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field) as usize)
}

fn put(bytes: &mut [u8], at: usize, sum: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Puts the checksums of a 'razr' file right.
fn seal(bytes: &mut [u8]) {
    if bytes.len() < 96 {
        return;
    }
    let (start, len) = (number(bytes, 36), number(bytes, 40));
    for at in (start..start.saturating_add(len).min(bytes.len())).step_by(52) {
        if let Some(inode) = bytes.get(at..at + 48) {
            let sum = prototype::crc(inode);
            put(bytes, at + 48, sum);
        }
    }
    let whole = number(bytes, 60);
    put(bytes, 8, 0);
    put(bytes, 60, 0);
    let sum = prototype::crc(&bytes[8..92]);
    put(bytes, 8, sum);
    if whole != 0 {
        let sum = prototype::crc(&bytes[96..]);
        put(bytes, 60, sum);
    }
}

/// Puts the checksums of a journal right.
fn seal_journal(bytes: &mut [u8]) {
    let mut at = 0usize;
    while at + 32 <= bytes.len() {
        let end = (at + 32).saturating_add(number(bytes, at + 24));
        put(bytes, at + 28, 0);
        let Some(entry) = bytes.get(at + 4..end) else {
            return;
        };
        let sum = prototype::crc(entry);
        put(bytes, at + 28, sum);
        at = end;
    }
}

/// Decodes the bytes as the first of them says: as a dump or a 'razr' file, as they are or sealed,
/// with so much of their end as a journal as the second says. Answers whether every byte made
/// sense.
pub fn legacy(data: &[u8]) -> bool {
    let [how, cut, bytes @ ..] = data else {
        return false;
    };
    let mut bytes = bytes.to_vec();
    let form = if how & 1 == 0 { Form::Dump } else { Form::Razr };
    let mut journal = if form == Form::Razr && how & 4 != 0 {
        bytes.split_off(bytes.len() - bytes.len() * usize::from(*cut) / 256)
    } else {
        Vec::new()
    };
    if how & 2 != 0 && form == Form::Razr {
        seal(&mut bytes);
        seal_journal(&mut journal);
    }
    let beside = (how & 4 != 0).then_some(&journal[..]);
    let found = match decode(form, &bytes, beside) {
        Ok(found) => found,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            return false;
        }
    };
    look(&found, bytes.len() + journal.len());
    // A volume takes its time.
    if how & 0x38 == 0 && found.items.len() <= 64 {
        fill(&found);
    }
    found.findings.is_empty()
}

/// Files that are right, or that say what they should not.
pub fn forge(seed: u64) -> Vec<u8> {
    let mut rng = SimRng::new(seed);
    let mut below = move |n: u64| rng.next_u64() % n;
    let names: [&[u8]; 14] = [
        b"/a",
        b"/b",
        b"/b/c",
        b"/b/c/d",
        b"/e",
        b"/e/f",
        b"/odd\xff\n",
        b"plain",
        b"/deep/er/est",
        b"/b/../../evil",
        b"//",
        b"/b/",
        b"/nul\0nul",
        b"..",
    ];
    let honest = below(3) > 0;
    let mut all = vec![Known::directory(1, "/")];
    for ino in 2..2 + below(8) {
        let name = names[below(if honest { 9 } else { 14 }) as usize].to_vec();
        let ino = if honest || below(8) > 0 {
            ino
        } else {
            below(4)
        };
        if honest && all.iter().any(|known| known.path == name) {
            continue;
        }
        let leaf = !honest || (name != b"/b" && name != b"/b/c" && name != b"/e");
        let bytes = vec![ino as u8; below(40) as usize];
        let known = match below(4) > 0 && leaf {
            true => Known::file(ino, name, bytes),
            false => Known::directory(ino, name),
        };
        all.push(known);
    }
    let how = (below(256) & 0xFE) as u8 | u8::from(below(3) > 0);
    let mut bytes = match how & 1 {
        0 => prototype::dump(20, &all),
        _ => prototype::razr(20, &all, below(2) == 0),
    };
    let main = bytes.len();
    for _ in 0..below(5) {
        let ino = 2 + below(20);
        bytes.extend(match below(5) {
            _ if how & 5 != 5 => break,
            0 => prototype::created(ino, names[below(14) as usize], &[7; 9]),
            1 => prototype::created(ino, names[below(9) as usize], &[]),
            2 => prototype::deleted(ino),
            3 => prototype::written(ino, &[8; 5]),
            _ => prototype::checkpoint(),
        });
    }
    if !honest {
        for _ in 0..below(4) {
            let at = below(bytes.len() as u64) as usize;
            let most = [1, 4, 1 << 20, 1 << 60, u64::MAX][below(5) as usize];
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes.truncate(at + 1),
                2 if at + 8 <= bytes.len() => {
                    bytes[at..at + 8].copy_from_slice(&most.to_le_bytes());
                }
                _ => bytes.insert(at, below(256) as u8),
            }
        }
    }
    let journal = bytes.len().saturating_sub(main);
    let cut = (journal * 256).div_ceil(bytes.len().max(1)).min(255) as u8;
    [&[how, cut], &bytes[..]].concat()
}

/// What fuzzing begins with.
pub fn seeds() -> impl Iterator<Item = Vec<u8>> {
    (0..64).map(forge)
}
