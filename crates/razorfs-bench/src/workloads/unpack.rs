//! W7: unpacking a real tree, reading it, removing it.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use super::{Values, synced};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::target::{Paths, Target};
use crate::tree::{Kind, Tree, Unpacked};

/// Runs it.
pub fn run(target: &mut Target, paths: &Paths) -> Result<Values> {
    let source = paths.source();
    let archive = fs::read(&source).at("read", &source)?;
    let mut values = Values::new();
    let mut bytes = 0;
    let unpack = || {
        bytes = unpack(target.tree()?, &archive)?;
        Ok(())
    };
    values.push(("w7.unpack", synced(target, unpack)?));
    drop(archive);
    target.cold()?;
    let watch = Stopwatch::start();
    let mut buf = Vec::with_capacity(4 << 20);
    let read = read_all(target.tree()?, Path::new(""), &mut buf)?;
    values.push(("w7.read", watch.seconds()));
    if read != bytes {
        return Err(format!("{bytes} bytes were unpacked, and {read} read"));
    }
    let remove = || remove_all(target.tree()?, Path::new(""));
    values.push(("w7.rm", synced(target, remove)?));
    Ok(values)
}

/// Does what tar does for an ordinary user; answers with the bytes of the files.
fn unpack(tree: &dyn Tree, archive: &[u8]) -> Result<u64> {
    let mut archive = tar::Archive::new(Cursor::new(archive));
    let mut data = Vec::with_capacity(4 << 20);
    let mut bytes = 0;
    for entry in archive.entries().when("read the archive")? {
        let mut entry = entry.when("read the archive")?;
        let path: PathBuf = entry.path().when("read the archive")?.into_owned();
        let header = entry.header();
        let kind = header.entry_type();
        if kind.is_dir() {
            tree.mkdir(&path)?;
        } else if kind.is_symlink() {
            let link = entry.link_name().when("read the archive")?;
            tree.symlink(link.as_deref().unwrap_or(Path::new("-")), &path)?;
        } else if kind.is_file() {
            let attributes = Unpacked {
                mode: header.mode().when("read the archive")?,
                modified: header.mtime().when("read the archive")?,
            };
            data.clear();
            entry.read_to_end(&mut data).when("read the archive")?;
            tree.write(&path, &data, Some(attributes))?;
            bytes += data.len() as u64;
        }
    }
    Ok(bytes)
}

fn read_all(tree: &dyn Tree, dir: &Path, buf: &mut Vec<u8>) -> Result<u64> {
    let mut bytes = 0;
    for (name, kind) in tree.list(dir)? {
        if name == "lost+found" {
            continue;
        }
        let path = dir.join(name);
        match kind {
            Kind::Dir => bytes += read_all(tree, &path, buf)?,
            Kind::File => {
                tree.read(&path, buf)?;
                bytes += buf.len() as u64;
            }
            Kind::Other => {}
        }
    }
    Ok(bytes)
}

fn remove_all(tree: &dyn Tree, dir: &Path) -> Result<()> {
    for (name, kind) in tree.list(dir)? {
        if name == "lost+found" {
            continue;
        }
        let path = dir.join(name);
        if kind == Kind::Dir {
            remove_all(tree, &path)?;
            tree.rmdir(&path)?;
        } else {
            tree.unlink(&path)?;
        }
    }
    Ok(())
}
