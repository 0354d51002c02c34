//! The journal beside a 'razr' file: what was done since that was saved.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic 0x72617A72 |
//! | 4 | 1 | kind: 1 create, 2 delete, 3 write, 7 checkpoint |
//! | 5 | 3 | zero |
//! | 8 | 8 | time, milliseconds since 1970 |
//! | 16 | 8 | inode |
//! | 24 | 4 | l, bytes of data |
//! | 28 | 4 | CRC-32 of bytes 4 to 32, this field taken as zero, and the data |
//! | 32 | l | data: create: path, a zero byte, content; write: the whole content |
//!
//! Nothing counts from the first entry on that is not so.

use std::borrow::Cow;
use std::collections::HashMap;

use super::take::Take;
use super::{Content, Finding, MAGIC, Named, Replay, crc32, mode_of};

/// Bytes of an entry before its data.
const HEAD: u64 = 32;

/// What an entry says.
enum Change<'a> {
    Create(&'a [u8], &'a [u8]),
    Delete,
    Write(&'a [u8]),
    Checkpoint,
}

/// An entry.
struct Entry<'a> {
    ino: u64,
    millis: u64,
    change: Change<'a>,
}

/// Whether bytes begin with an entry.
pub fn begins(bytes: &[u8]) -> bool {
    entry(&mut Take::new(bytes, 0)).is_ok()
}

/// Does to the files what the journal says.
pub fn apply<'a>(
    journal: &'a [u8],
    files: Vec<Named<'a>>,
    findings: &mut Vec<Finding<'a>>,
) -> (Vec<Named<'a>>, Replay) {
    let mut files: Vec<Option<Named<'_>>> = files.into_iter().map(Some).collect();
    let inos = files.iter().flatten().map(|named| named.ino);
    let mut index: HashMap<u64, usize> = inos.zip(0..).collect();
    let mut replay = Replay::default();
    let mut take = Take::new(journal, 0);
    while !take.rest().is_empty() {
        let at = take.at();
        let Entry {
            ino,
            millis,
            change,
        } = match entry(&mut take) {
            Ok(entry) => entry,
            Err(cause) => {
                replay.cut = Some((at, cause));
                break;
            }
        };
        replay.entries += 1;
        let there = index.get(&ino).and_then(|place| files.get_mut(*place));
        match (change, there.and_then(Option::as_mut)) {
            (Change::Create(name, bytes), there) => {
                let old = there.map(|named| named.content);
                let content = match (bytes, old) {
                    // As the prototype read it, who wrote the same for `mkdir`.
                    ([], None) => Content::Directory,
                    ([], Some(old)) => old,
                    (bytes, _) => Content::File(bytes),
                };
                let named = Named {
                    at,
                    in_journal: true,
                    ino,
                    name,
                    content,
                    mode: mode_of(content),
                    millis: Some(millis),
                };
                if let Some(old) = index
                    .insert(ino, files.len())
                    .and_then(|i| files.get_mut(i))
                {
                    *old = None;
                }
                files.push(Some(named));
            }
            (Change::Delete, _) => {
                if let Some(old) = index.remove(&ino).and_then(|i| files.get_mut(i)) {
                    *old = None;
                }
            }
            (Change::Write(bytes), Some(named)) => {
                named.content = Content::File(bytes);
                named.mode = mode_of(named.content);
                named.millis = Some(millis);
            }
            (Change::Write(_), None) => {
                let cause = format!("the content of inode {ino}, which has no path");
                findings.push(Finding {
                    in_journal: true,
                    ..Finding::lost(at, None, cause)
                });
            }
            // The file that was saved has all before it; done again, it is the same.
            (Change::Checkpoint, _) => {}
        }
    }
    (files.into_iter().flatten().collect(), replay)
}

/// The next entry, or what is wrong with it.
fn entry<'a>(take: &mut Take<'a>) -> Result<Entry<'a>, Cow<'static, str>> {
    let short = |short: super::take::Short| Cow::from(short.say("an entry"));
    let head = take.bytes(HEAD).map_err(short)?;
    let mut fields = Take::new(head, 0);
    if fields.array().map_err(short)? != MAGIC {
        return Err("no entry begins here".into());
    }
    let [kind, reserved @ ..] = fields.array::<4>().map_err(short)?;
    let millis = fields.u64().map_err(short)?;
    let ino = fields.u64().map_err(short)?;
    let len = fields.u32().map_err(short)?;
    let sum = fields.u32().map_err(short)?;
    let data = take.bytes(len.into()).map_err(short)?;
    let covered = head.get(4..28).unwrap_or_default();
    if crc32(&[covered, &[0; 4], data]) != sum {
        return Err("an entry's checksum is wrong".into());
    }
    let change = match (kind, data) {
        _ if reserved != [0; 3] => return Err("an entry's zeros are none".into()),
        (1, data) => match data.iter().position(|byte| *byte == 0) {
            Some(end) => {
                let (path, rest) = data.split_at_checked(end).unwrap_or_default();
                Change::Create(path, rest.split_first().map_or(&[], |(_, bytes)| bytes))
            }
            None => return Err("an entry's path has no end".into()),
        },
        (2, []) => Change::Delete,
        (3, data) => Change::Write(data),
        (7, []) => Change::Checkpoint,
        (2 | 7, _) => return Err("an entry has data that it must not have".into()),
        _ => return Err(format!("an entry of kind {kind}, which was never written").into()),
    };
    Ok(Entry {
        ino,
        millis,
        change,
    })
}
