//! The tree that is unpacked: real files of this machine, as one tar.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{At, Result};

/// Larger files say more of sequential writing than of unpacking.
const LARGEST: u64 = 4 << 20;

/// How much is wanted.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Number of files at which it is enough.
    pub files: u64,
    /// Bytes at which it is enough, though never with fewer files.
    pub bytes: u64,
}

/// What was found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Bytes in files.
    pub bytes: u64,
}

struct Maker {
    tar: tar::Builder<BufWriter<fs::File>>,
    wanted: Wanted,
    found: Found,
}

/// Writes the tar. Sources of crates first, as trees of source are what people unpack, then what
/// any machine has.
pub fn make(path: &Path, wanted: Wanted) -> Result<Found> {
    let file = fs::File::create(path).at("create", path)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    tar.follow_symlinks(false);
    let mut maker = Maker {
        tar,
        wanted,
        found: Found::default(),
    };
    for (name, place) in places() {
        if place.is_dir() {
            maker.add_dir(&place, Path::new(&name))?;
        }
    }
    let found = maker.found;
    let out = maker.tar.into_inner().at("write", path)?;
    let file = out.into_inner().at("write", path)?;
    file.sync_all().at("write", path)?;
    if found.files < wanted.files {
        return Err(format!(
            "this machine has only {} files to unpack; {} are wanted",
            found.files, wanted.files
        ));
    }
    Ok(found)
}

fn places() -> Vec<(String, PathBuf)> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let mut places = vec![("crates".into(), cargo.join("registry/src"))];
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    if let Ok(out) = sysroot {
        let root = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        places.push(("library".into(), root.join("lib/rustlib/src")));
    }
    let others = [
        "include",
        "lib/python3",
        "share/perl",
        "share/doc",
        "share/man",
        "share",
    ];
    for other in others {
        places.push((other.replace('/', "-"), Path::new("/usr").join(other)));
    }
    places
}

impl Maker {
    fn enough(&self) -> bool {
        let (found, wanted) = (&self.found, &self.wanted);
        found.files >= wanted.files && found.bytes >= wanted.bytes
            || found.files >= wanted.files * 3 / 2
    }

    fn add_dir(&mut self, from: &Path, name: &Path) -> Result<()> {
        if self.enough() {
            return Ok(());
        }
        let Ok(entries) = fs::read_dir(from) else {
            return Ok(());
        };
        self.tar.append_dir(name, from).at("archive", from)?;
        self.found.dirs += 1;
        let mut entries: Vec<_> = entries.flatten().collect();
        // The same order on every machine that has the same files.
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if self.enough() {
                break;
            }
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                self.add_dir(&path, &name)?;
            } else if metadata.is_symlink() {
                self.tar
                    .append_path_with_name(&path, &name)
                    .at("archive", &path)?;
            } else if metadata.is_file() && metadata.len() <= LARGEST {
                let Ok(mut file) = fs::File::open(&path) else {
                    continue;
                };
                self.tar
                    .append_file(&name, &mut file)
                    .at("archive", &path)?;
                self.found.files += 1;
                self.found.bytes += metadata.len();
            }
        }
        Ok(())
    }
}
