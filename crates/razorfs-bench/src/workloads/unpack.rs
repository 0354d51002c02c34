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

#[cfg(test)]
mod tests {
    use razorfs::{Options, Volume};

    use super::*;
    use crate::tree::{HostTree, LibraryTree};

    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_mtime(1);
        header.set_size(0);
        tar.append_data(&mut header, "d", &[][..]).unwrap();
        tar.append_data(&mut header, "d/e", &[][..]).unwrap();
        for (name, size) in [("d/empty", 0), ("d/e/small", 10), ("d/e/large", 300_000)] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(1);
            header.set_size(size as u64);
            tar.append_data(&mut header, name, &vec![7; size][..])
                .unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mtime(1);
        header.set_size(0);
        tar.append_link(&mut header, "d/link", "empty").unwrap();
        tar.into_inner().unwrap()
    }

    fn what_is_unpacked_is_read_and_goes(tree: &dyn Tree) {
        let root = Path::new("");
        let bytes = unpack(tree, &archive()).unwrap();
        assert_eq!(bytes, 300_010);
        assert_eq!(read_all(tree, root, &mut Vec::new()).unwrap(), bytes);
        assert_eq!(tree.list(Path::new("d")).unwrap().len(), 3);
        remove_all(tree, root).unwrap();
        assert!(tree.list(root).unwrap().is_empty());
    }

    #[test]
    fn a_tree_is_the_same_on_the_host_and_in_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host");
        fs::create_dir(&host).unwrap();
        what_is_unpacked_is_read_and_goes(&HostTree(host));
        let volume = Volume::open_or_create(dir.path().join("v"), Options::default()).unwrap();
        what_is_unpacked_is_read_and_goes(&LibraryTree(volume.clone()));
        volume.close().unwrap();
    }
}
