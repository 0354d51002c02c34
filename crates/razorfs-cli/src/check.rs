//! Looking for damage, for `razorfs verify`: the one place that knows who looks.

use std::path::Path;

use razorfs::{FileKind, Options, Volume};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::place;
use crate::tree::{CHUNK, Tree, VolumeTree};

/// Sees `{"done": n, "total": n}`; an error stops the check.
pub type Step<'a> = &'a mut dyn FnMut(&Value) -> Result<()>;

/// Checks a volume at a level from 0 to 3 and answers with the document of `verify --json`.
/// `live` is the volume where the process that checks is the one that has it open.
pub fn run(path: &Path, level: u8, live: Option<&Volume>, step: Step<'_>) -> Result<Value> {
    let volume = match live {
        Some(volume) => volume.clone(),
        None => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            place::open(path, options)?
        }
    };
    let mut check = Check {
        findings: Vec::new(),
        names: 0,
        bytes: 0,
    };
    for line in &volume.recovery_report().damage {
        check.find(1, &crate::failure::shown(path), line);
    }
    let tree = VolumeTree::new(volume, path);
    let walked = if level > 0 {
        check.walk(&tree, level, step)
    } else {
        Ok(())
    };
    let volume = tree.into_volume();
    if live.is_none() {
        let closed = volume.close();
        closed.map_err(|e| Failure::engine("close", path, &e))?;
    }
    walked?;
    Ok(json!({
        "schema": 1,
        "level": level,
        "clean": check.findings.is_empty(),
        "findings": check.findings,
        "checked": {"names": check.names, "bytes": check.bytes},
    }))
}

struct Check {
    findings: Vec<Value>,
    names: u64,
    bytes: u64,
}

impl Check {
    fn find(&mut self, number: u16, object: &str, meaning: &str) {
        self.findings.push(json!({
            "number": number,
            "severity": "error",
            "object": object,
            "meaning": meaning,
            "remedy": "copy what can be read with `razorfs export`, and restore the rest",
        }));
    }

    /// Reads all names and inodes through the engine, and at level 3 all data: every byte of
    /// either is checked against its checksum on the way.
    fn walk(&mut self, tree: &VolumeTree, level: u8, step: Step<'_>) -> Result<()> {
        let mut stack = vec![std::path::PathBuf::new()];
        let mut buf = vec![0; CHUNK];
        while let Some(path) = stack.pop() {
            self.names += 1;
            step(&json!({"done": self.names}))?;
            let shown = crate::failure::shown(&tree.shown(&path));
            let meta = match tree.find(&path) {
                Ok(Some(meta)) => meta,
                // Removed since its directory was read.
                Ok(None) => continue,
                Err(failure) => {
                    self.find(2, &shown, &failure.message);
                    continue;
                }
            };
            if meta.is_dir() {
                match tree.list(&path) {
                    Ok(names) => stack.extend(names.into_iter().map(|name| path.join(name))),
                    Err(failure) => self.find(3, &shown, &failure.message),
                }
            } else if meta.kind == FileKind::Regular && level >= 3 {
                let mut data = match tree.read(&path) {
                    Ok(data) => data,
                    Err(failure) => {
                        self.find(4, &shown, &failure.message);
                        continue;
                    }
                };
                loop {
                    match std::io::Read::read(&mut data, &mut buf) {
                        Ok(0) => break,
                        Ok(n) => self.bytes += n as u64,
                        Err(e) => {
                            self.find(4, &shown, &e.to_string());
                            break;
                        }
                    }
                    step(&json!({}))?;
                }
            }
        }
        Ok(())
    }
}
