//! From names, which are whole paths, to the files and directories below the root.

use std::collections::{HashMap, HashSet};

use super::{Content, Finding, Item, Named, mode_of};

/// Bytes of a path, at most: the prototype's own bound.
pub const PATH_MAX: usize = 4096;
/// Bytes of a name in it, at most.
const NAME_MAX: usize = 255;

/// Checks the names, makes the directories that nobody names, and sorts parents before children.
pub fn place<'a>(named: Vec<Named<'a>>, findings: &mut Vec<Finding<'a>>) -> Vec<Item<'a>> {
    let mut lost = |named: &Named<'a>, cause: String| {
        findings.push(Finding {
            in_journal: named.in_journal,
            ..Finding::lost(named.at, Some(named.name), cause)
        });
    };
    let mut by_path: HashMap<&[u8], Named<'_>> = HashMap::new();
    for named in named {
        let path = match path_of(named.name) {
            Ok(path) => path,
            Err(cause) => {
                lost(&named, cause.to_owned());
                continue;
            }
        };
        match by_path.get(path) {
            Some(first) => lost(&named, format!("inode {} has that path, too", first.ino)),
            None => {
                by_path.insert(path, named);
            }
        }
    }
    let parents = parents(by_path.keys().copied());
    let mut items = Vec::new();
    for (path, named) in by_path {
        let parent = path.is_empty() || parents.contains(path);
        let bytes = match named.content {
            Content::Directory => None,
            Content::Unknown if parent => None,
            // The root of some dumps.
            Content::File([]) if path.is_empty() => None,
            Content::File(bytes) if !parent => Some(bytes),
            Content::File(_) => {
                lost(&named, "a file with files in it".to_owned());
                continue;
            }
            Content::Unknown => {
                let cause = "an empty directory, or a file whose bytes are not there";
                lost(&named, cause.to_owned());
                continue;
            }
        };
        items.push(Item {
            path,
            bytes,
            mode: named.mode,
            millis: named.millis,
        });
    }
    let made: HashSet<&[u8]> = items.iter().map(|item| item.path).collect();
    let unnamed = parents.into_iter().filter(|path| !made.contains(path));
    items.extend(unnamed.map(|path| Item {
        path,
        bytes: None,
        mode: mode_of(Content::Directory),
        millis: None,
    }));
    items.retain(|item| !item.path.is_empty());
    items.sort_unstable_by_key(|item| item.path);
    items
}

/// The path below the root that a name says. The prototype knew no names without a slash before
/// them, but for what was in its root at first.
fn path_of(name: &[u8]) -> Result<&[u8], &'static str> {
    if name == b"/" {
        return Ok(&[]);
    }
    let path = name.strip_prefix(b"/").unwrap_or(name);
    if path.len() > PATH_MAX {
        return Err("a path of more than 4096 bytes");
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" => return Err("a path with an empty name in it"),
            b"." | b".." => return Err("a path with `.` or `..` in it"),
            _ if part.len() > NAME_MAX => return Err("a name of more than 255 bytes"),
            _ if part.contains(&0) => return Err("a path with a zero byte in it"),
            _ => {}
        }
    }
    Ok(path)
}

/// All directories that paths go through, without the root.
fn parents<'a>(paths: impl Iterator<Item = &'a [u8]>) -> HashSet<&'a [u8]> {
    let mut parents = HashSet::new();
    for path in paths {
        let mut rest = path;
        while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
            rest = rest.get(..slash).unwrap_or_default();
            // What is above it is known, too.
            if !parents.insert(rest) {
                break;
            }
        }
    }
    parents
}
