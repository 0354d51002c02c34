//! The prototype's 'razr' 1.0 file.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic 0x72617A72 |
//! | 4 | 2+2 | version 1, 0 |
//! | 8 | 4 | CRC-32 of bytes 8 to 92, this field and that of the file taken as zero |
//! | 12 | 8 | time of the save, milliseconds since 1970 |
//! | 20 | 8 | next inode: above all that there are |
//! | 28 | 4+4 | offset and bytes of the string table; it begins at 96 |
//! | 36 | 4+4 | offset and bytes of the inode table, which follows |
//! | 44 | 4+4 | offset and bytes of the data section, which follows and ends the file |
//! | 52 | 4+4 | zero (a journal in the file) |
//! | 60 | 4 | zero, or the CRC-32 of all bytes from 96 on |
//! | 64 | 32 | zero |
//!
//! A string is a length of four bytes and as many bytes; each is the path of an inode. An entry of
//! the inode table:
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | inode |
//! | 8 | 8 | parent, or zero; not used, since the path says it |
//! | 16 | 4 | offset of the path in the string table |
//! | 20 | 2 | mode |
//! | 22 | 2 | zero (flags) |
//! | 24 | 8 | size |
//! | 32 | 8 | time, milliseconds since 1970 |
//! | 40 | 4+4 | offset in the data section and bytes, of a file |
//! | 48 | 4 | CRC-32 of bytes 0 to 48 |
//!
//! Valid if, besides, the strings are those that inodes refer to and no others, and so are the
//! bytes of the data section. Neither has a checksum where that of the file is zero.

use std::collections::HashMap;

use super::take::{Short, Take};
use super::{Content, Finding, MAGIC, Named, Refusal, crc32, journal};

const HEADER: u64 = 96;
const INODE: u64 = 52;
/// Bits of a mode that say what it is.
const KIND: u16 = 0o170_000;
const REGULAR: u16 = 0o100_000;
const DIRECTORY: u16 = 0o040_000;
/// What is in the place of the checksum in a file of a volume of ours.
const FAMILY: &[u8] = b"RZFSVOL1";

/// A part of the file.
struct Section<'a> {
    at: u64,
    bytes: &'a [u8],
}

struct Header<'a> {
    next: u64,
    strings: Section<'a>,
    inodes: Section<'a>,
    data: Section<'a>,
}

/// An entry of the inode table whose checksum is right.
struct Inode {
    at: u64,
    ino: u64,
    name: u32,
    mode: u16,
    millis: u64,
    data: (u32, u32),
}

/// Decodes a file as far as it makes sense.
pub fn decode<'a>(
    bytes: &'a [u8],
    findings: &mut Vec<Finding<'a>>,
) -> Result<Vec<Named<'a>>, Refusal> {
    refuse(bytes)?;
    let short = |short: Short| Refusal {
        at: short.at,
        cause: "the file ends in its header",
        remedy: "use a copy that is complete",
    };
    let header = header(bytes, findings).map_err(short)?;
    let mut inodes = inodes(&header, findings);
    let names = names(&header.strings, &inodes, findings);
    data(&header.data, &mut inodes, findings);
    let mut found = Vec::new();
    for inode in inodes {
        let at = inode.at;
        let Some(name) = names.get(&inode.name).copied().flatten() else {
            let cause = format!("the path of inode {} is not there or damaged", inode.ino);
            findings.push(Finding::lost(at, None, cause));
            continue;
        };
        let content = match inode.mode & KIND {
            DIRECTORY => Content::Directory,
            _ => {
                let (start, len) = (inode.data.0 as usize, inode.data.1 as usize);
                let range = start..start.saturating_add(len);
                // An empty file may begin anywhere.
                Content::File(header.data.bytes.get(range).unwrap_or_default())
            }
        };
        found.push(Named {
            at,
            in_journal: false,
            ino: inode.ino,
            name,
            content,
            mode: u32::from(inode.mode & 0o7777),
            millis: Some(inode.millis),
        });
    }
    Ok(found)
}

/// Refuses what has the magic, but is something else.
fn refuse(bytes: &[u8]) -> Result<(), Refusal> {
    let refusal = |at, cause, remedy| Err(Refusal { at, cause, remedy });
    if !bytes.starts_with(&MAGIC) {
        let cause = "it does not begin as a 'razr' file does";
        return refusal(0, cause, "check that it is the right file");
    }
    if bytes.get(8..16) == Some(FAMILY) {
        let cause = "it is a file of a RazorFS volume of today";
        return refusal(8, cause, "mount that volume and import its files");
    }
    if journal::begins(bytes) {
        let cause = "it is a journal of the prototype";
        return refusal(0, cause, "name the file that it lies beside");
    }
    if bytes.get(8..12) == Some(&[0; 4]) {
        let cause = "the prototype's last version wrote it, without checksums and whole paths";
        let remedy = "mount it with the prototype and import the mount point";
        return refusal(8, cause, remedy);
    }
    Ok(())
}

fn header<'a>(bytes: &'a [u8], findings: &mut Vec<Finding<'a>>) -> Result<Header<'a>, Short> {
    let mut doubt = |at: u64, wrong: bool, cause: &'static str| {
        if wrong {
            findings.push(Finding::doubt(at, cause));
        }
    };
    let mut all = Take::new(bytes, 0);
    let head = all.bytes(HEADER)?;
    let body = all.rest();
    let mut take = Take::new(head, 0);
    take.u32()?;
    let version = (take.u16()?, take.u16()?);
    doubt(4, version != (1, 0), "the version is not 1.0");
    let sum = take.u32()?;
    let (before, after) = (head.get(12..60), head.get(64..92));
    let covered = [
        &[0; 4],
        before.unwrap_or_default(),
        &[0; 4],
        after.unwrap_or_default(),
    ];
    let wrong = crc32(&covered) != sum;
    doubt(8, wrong, "the header's checksum is wrong");
    take.u64()?;
    let next = take.u64()?;
    let mut end = HEADER;
    let mut section = |take: &mut Take<'_>| -> Result<Section<'a>, Short> {
        let at = take.at();
        let (start, len) = (u64::from(take.u32()?), u64::from(take.u32()?));
        doubt(
            at,
            start != end,
            "a section does not begin where the one before ends",
        );
        end = start + len;
        let past = end > bytes.len() as u64;
        doubt(at, past, "a section ends behind the file");
        let from = usize::try_from(start)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let to = usize::try_from(end).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get(from..to).unwrap_or_default();
        Ok(Section { at: start, bytes })
    };
    let (strings, inodes) = (section(&mut take)?, section(&mut take)?);
    let data = section(&mut take)?;
    let more = end < bytes.len() as u64;
    doubt(end, more, "there are bytes behind the last section");
    let journal = take.u64()?;
    doubt(52, journal != 0, "there is a journal in the file");
    let file = take.u32()?;
    let wrong = file != 0 && crc32(&[body]) != file;
    let cause = "the file's checksum is wrong: any path or content can be damaged";
    doubt(60, wrong, cause);
    let reserved = take.rest().iter().any(|byte| *byte != 0);
    doubt(64, reserved, "zeros of the header are none");
    let odd = !(inodes.bytes.len() as u64).is_multiple_of(INODE);
    doubt(inodes.at, odd, "the inode table ends inside an inode");
    Ok(Header {
        next,
        strings,
        inodes,
        data,
    })
}

/// The inodes that are whole. Where two have one number, neither is known to be right.
fn inodes(header: &Header<'_>, findings: &mut Vec<Finding<'_>>) -> Vec<Inode> {
    let table = &header.inodes;
    let mut inodes = Vec::new();
    let mut count: HashMap<u64, u32> = HashMap::new();
    for (entry, n) in table.bytes.chunks_exact(INODE as usize).zip(0..) {
        let at = table.at + n * INODE;
        let covered = entry.get(..48).unwrap_or_default();
        let Ok((inode, rest)) = inode(entry, at) else {
            continue;
        };
        if crc32(&[covered]) != rest.sum {
            findings.push(Finding::lost(at, None, "an inode's checksum is wrong"));
            continue;
        }
        *count.entry(inode.ino).or_default() += 1;
        let wrong = match inode.mode & KIND {
            REGULAR => rest.size != u64::from(inode.data.1),
            DIRECTORY => rest.size != 0 || inode.data != (0, 0),
            _ => true,
        };
        let ino = inode.ino;
        if wrong || rest.flags != 0 {
            let cause = format!("kind, size or flags of inode {ino} are none that were written");
            findings.push(Finding::lost(at, None, cause));
            continue;
        }
        if ino >= header.next {
            let cause = format!("inode {ino} is not below the next one, {}", header.next);
            findings.push(Finding::doubt(at, cause));
        }
        inodes.push(inode);
    }
    inodes.retain(|inode| {
        let once = count.get(&inode.ino) == Some(&1);
        if !once {
            let cause = format!("inode {} is there more than once", inode.ino);
            findings.push(Finding::lost(inode.at, None, cause));
        }
        once
    });
    inodes
}

/// What is checked and not kept.
struct Rest {
    flags: u16,
    size: u64,
    sum: u32,
}

fn inode(entry: &[u8], at: u64) -> Result<(Inode, Rest), Short> {
    let mut take = Take::new(entry, at);
    let ino = take.u64()?;
    take.u64()?;
    let (name, mode, flags) = (take.u32()?, take.u16()?, take.u16()?);
    let (size, millis) = (take.u64()?, take.u64()?);
    let data = (take.u32()?, take.u32()?);
    let sum = take.u32()?;
    let inode = Inode {
        at,
        ino,
        name,
        mode,
        millis,
        data,
    };
    Ok((inode, Rest { flags, size, sum }))
}

/// The strings by their offsets, as far as inodes refer to them. Where strings begin is under the
/// inodes' checksums, how long they are is not: a string that runs into the next, or ends where no
/// other begins, is not taken.
fn names<'a>(
    table: &Section<'a>,
    inodes: &[Inode],
    findings: &mut Vec<Finding<'a>>,
) -> HashMap<u32, Option<&'a [u8]>> {
    let len = table.bytes.len() as u64;
    let mut starts: Vec<u32> = inodes.iter().map(|inode| inode.name).collect();
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|start| u64::from(*start) < len);
    let mut names = HashMap::new();
    let mut at = 0;
    let mut owner = None;
    let ends = starts.into_iter().map(Some).chain([None]);
    for next in ends {
        let end = next.map_or(len, u64::from);
        let rest = table.bytes.get(at as usize..end as usize);
        let mut take = Take::new(rest.unwrap_or_default(), table.at + at);
        let mut name = None;
        while !take.rest().is_empty() {
            let begin = take.at();
            let first = begin == table.at + at;
            match string(&mut take) {
                Ok(text) if first && owner.is_some() => name = Some(text),
                Ok(text) => {
                    let cause = "a path that belongs to no inode";
                    findings.push(Finding::lost(begin, Some(text), cause));
                }
                Err(short) => {
                    findings.push(Finding::doubt(begin, short.say("a path")));
                    name = None;
                    break;
                }
            }
        }
        if let Some(owner) = owner {
            names.insert(owner, name);
        }
        (at, owner) = (end, next);
    }
    names
}

fn string<'a>(take: &mut Take<'a>) -> Result<&'a [u8], Short> {
    let len = take.u32()?;
    take.bytes(len.into())
}

/// Drops inodes whose bytes are not there, or are another's.
fn data(section: &Section<'_>, inodes: &mut Vec<Inode>, findings: &mut Vec<Finding<'_>>) {
    inodes.sort_by_key(|inode| (inode.data.0, inode.data.1));
    let len = section.bytes.len() as u64;
    let mut end = 0;
    inodes.retain(|inode| {
        let (start, bytes) = (u64::from(inode.data.0), u64::from(inode.data.1));
        let to = start + bytes;
        let cause = if to > len {
            "are not all there"
        } else if bytes > 0 && start < end {
            "are another's, too"
        } else {
            if bytes > 0 && start > end {
                findings.push(gap(section.at + end, start - end));
            }
            // An empty file takes no place, wherever it begins.
            if bytes > 0 {
                end = to;
            }
            return true;
        };
        let cause = format!("the bytes of inode {} {cause}", inode.ino);
        findings.push(Finding::lost(inode.at, None, cause));
        false
    });
    if end < len {
        findings.push(gap(section.at + end, len - end));
    }
}

fn gap(at: u64, bytes: u64) -> Finding<'static> {
    Finding::lost(at, None, format!("{bytes} bytes that belong to no inode"))
}
