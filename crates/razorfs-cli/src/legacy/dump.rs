//! The prototype's dump: everything it had in memory, without magic and checksums.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | next inode: above all that there are |
//! | 8 | n, number of names |
//! | n × (8 + 8 + l) | inode, l, path of l bytes |
//! | 8 | m, number of contents |
//! | m × (8 + 8 + l) | inode, l, content of l bytes |
//!
//! Valid if it ends where the last content does, no inode has two paths or two contents, each is
//! below the next inode, and each content has a path. A path without a content is a directory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::paths::PATH_MAX;
use super::take::{Short, Take};
use super::{Content, Finding, Named, mode_of};

/// Whether a file that begins with `start` can be a dump: the root at least has a path in it.
pub fn is_likely(start: &[u8]) -> bool {
    let mut take = Take::new(start, 0);
    let Ok([next, n, ino, l]) = four(&mut take) else {
        return false;
    };
    n >= 1 && n <= next && ino < next && (1..=PATH_MAX as u64).contains(&l)
}

fn four(take: &mut Take<'_>) -> Result<[u64; 4], Short> {
    Ok([take.u64()?, take.u64()?, take.u64()?, take.u64()?])
}

/// A record of either table.
struct Record<'a> {
    at: u64,
    ino: u64,
    bytes: &'a [u8],
}

/// What there is of each inode once.
type Once<'a> = HashMap<u64, Option<Record<'a>>>;

/// Decodes a dump as far as it goes.
pub fn decode<'a>(bytes: &'a [u8], findings: &mut Vec<Finding<'a>>) -> Vec<Named<'a>> {
    let mut take = Take::new(bytes, 0);
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    let end = tables(&mut take, &mut names, &mut contents);
    let next = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let whole = match end {
        Err((what, short)) => {
            findings.push(Finding::doubt(short.at, short.say(what)));
            false
        }
        Ok(()) if !take.rest().is_empty() => {
            let cause = format!("{} bytes follow the last content", take.rest().len());
            findings.push(Finding::doubt(take.at(), cause));
            false
        }
        Ok(()) => true,
    };
    let order: Vec<u64> = names.iter().map(|name| name.ino).collect();
    let mut names = once(names, "path", findings);
    let mut contents = once(contents, "content", findings);
    let mut found = Vec::new();
    for ino in order {
        let Some(Some(Record { at, bytes, .. })) = names.remove(&ino) else {
            continue;
        };
        if ino >= next {
            let cause = format!("inode {ino} is not below the next one, {next}");
            let name = Some(bytes);
            findings.push(Finding {
                name,
                ..Finding::doubt(at, cause)
            });
        }
        let content = match contents.remove(&ino) {
            Some(Some(content)) => Content::File(content.bytes),
            None if whole => Content::Directory,
            // Of two contents neither is known to be its own.
            None | Some(None) => Content::Unknown,
        };
        found.push(Named {
            at,
            in_journal: false,
            ino,
            name: bytes,
            content,
            mode: mode_of(content),
            millis: None,
        });
    }
    for Record { at, ino, .. } in contents.into_values().flatten() {
        let cause = format!("the content of inode {ino}, which has no path of its own");
        findings.push(Finding::lost(at, None, cause));
    }
    found
}

/// Reads both tables up to where they end, or break off.
fn tables<'a>(
    take: &mut Take<'a>,
    names: &mut Vec<Record<'a>>,
    contents: &mut Vec<Record<'a>>,
) -> Result<(), (&'static str, Short)> {
    take.u64().map_err(|short| ("the next inode", short))?;
    for (what, table) in [("a path", names), ("a content", contents)] {
        let count = take.u64().map_err(|short| ("a number of records", short))?;
        for _ in 0..count {
            table.push(record(take).map_err(|short| (what, short))?);
        }
    }
    Ok(())
}

fn record<'a>(take: &mut Take<'a>) -> Result<Record<'a>, Short> {
    let at = take.at();
    let (ino, len) = (take.u64()?, take.u64()?);
    let bytes = take.bytes(len)?;
    Ok(Record { at, ino, bytes })
}

/// The records by their inodes. Where two have the same, neither is known to be right.
fn once<'a>(
    records: Vec<Record<'a>>,
    what: &'static str,
    findings: &mut Vec<Finding<'a>>,
) -> Once<'a> {
    let mut by_ino = Once::new();
    for record in records {
        let mut twice = |record: Record<'a>| {
            let name = (what == "path").then_some(record.bytes);
            let cause = format!("inode {} has more than one {what}", record.ino);
            findings.push(Finding::lost(record.at, name, cause));
        };
        match by_ino.entry(record.ino) {
            Entry::Vacant(place) => {
                place.insert(Some(record));
            }
            Entry::Occupied(mut place) => {
                if let Some(first) = place.get_mut().take() {
                    twice(first);
                }
                twice(record);
            }
        }
    }
    by_ino
}
