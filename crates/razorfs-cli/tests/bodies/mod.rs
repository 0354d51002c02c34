//! What is done with hostile tars: they are unpacked into a directory of the host, beside which
//! nothing may change, and into a volume, which must verify afterwards. The seeded test and the
//! fuzz target `tar` both do that.
#![allow(dead_code, reason = "each user takes a part of it")]

mod forger;
pub mod legacy;
pub mod prototype;

use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use razorfs::{CreateOptions, Geometry, Options, Volume};
use razorfs_cli::archive::{decompress, unpack};
use razorfs_cli::tree::{HostTree, Tree, VolumeTree};
use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::{Image, SimDisk};

pub use forger::Forger;

/// Bytes of a tar once it is unpacked that are looked at: a few compressed ones can be many.
const UNPACKED_MAX: u64 = 64 << 20;

/// An answer: that it is done, or a message.
fn unpack_into(tree: &dyn Tree, bytes: &[u8]) -> bool {
    let done = decompress(bytes).and_then(|data| {
        let data = BufReader::new(data.take(UNPACKED_MAX));
        unpack(data, tree, Path::new(""), &mut |_| Ok(()))
    });
    if let Err(failure) = &done {
        assert!(!failure.message.trim().is_empty());
    }
    done.is_ok()
}

/// Name, mode, names, times and bytes of a file.
type Seen = (OsString, u32, u64, i64, i64, Vec<u8>);

/// All that is known of the files in a directory.
fn look(dir: &Path) -> Vec<Seen> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_owned();
            let (changed, inode) = (meta.mtime(), meta.ctime_nsec());
            (name, meta.mode(), meta.nlink(), changed, inode, bytes)
        })
        .collect();
    all.sort();
    all
}

/// A directory of the host to unpack in, and one that no tar may reach.
pub struct Stage {
    dir: PathBuf,
    outside: PathBuf,
    before: Vec<Seen>,
}

impl Stage {
    /// Sets it up in an empty directory.
    pub fn new(dir: &Path) -> Self {
        let outside = dir.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), b"sings").unwrap();
        Self {
            dir: dir.to_path_buf(),
            before: look(&outside),
            outside,
        }
    }

    /// What no tar may reach.
    pub fn outside(&self) -> &Path {
        &self.outside
    }

    /// Unpacks a tar where a link leads outside; answers whether that could be done. Panics where
    /// anything outside was touched.
    pub fn unpack(&self, bytes: &[u8]) -> bool {
        let to = self.dir.join("to");
        std::fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink(&self.outside, to.join("out")).unwrap();
        std::fs::write(to.join("a"), b"old").unwrap();
        let done = unpack_into(&HostTree::new(&to), bytes);
        assert_eq!(look(&self.outside), self.before);
        let rest: Vec<_> = std::fs::read_dir(&self.dir).unwrap().collect();
        assert_eq!(rest.len(), 2, "{rest:?}");
        std::fs::remove_dir_all(&to).unwrap();
        done
    }
}

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    }
}

/// A volume with nothing in it.
fn empty() -> Image {
    static EMPTY: LazyLock<Image> = LazyLock::new(|| {
        let disk = Arc::new(SimDisk::new());
        let create = CreateOptions::from(&options());
        Volume::create_on(disk.clone(), Arc::new(OsEnv), &create).unwrap();
        disk.image()
    });
    EMPTY.clone()
}

/// Unpacks a tar into a volume; panics where that does not verify afterwards.
pub fn unpack_into_volume(bytes: &[u8]) {
    let disk = SimDisk::from_image(&empty());
    let volume = Volume::open_on(Arc::new(disk.clone()), Arc::new(OsEnv), options()).unwrap();
    let tree = VolumeTree::new(volume, "volume");
    unpack_into(&tree, bytes);
    tree.into_volume().close().unwrap();
    let report = razorfs_verify::verify(&disk, 3, &mut |_| ()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// Puts the checksums of headers right, as far as headers can be told.
fn seal(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        at += 512;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let size = tar::Header::from_byte_slice(block).entry_size();
        // One that the tar does not have is not passed over: what follows is sealed, too.
        let size = size
            .ok()
            .and_then(|size| size.checked_next_multiple_of(512));
        if let Some(size) = size.filter(|size| *size <= (tar.len() - at) as u64) {
            at += size as usize;
        }
    }
}

/// Unpacks the bytes as the first of them says: as they are, sealed, or sealed and compressed; on
/// the host or in a volume.
pub fn tar(stage: &Stage, data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if how & 3 != 0 {
        seal(&mut bytes);
    }
    if how & 3 == 3 {
        bytes = zstd::encode_all(bytes.as_slice(), 1).unwrap();
    }
    if how & 4 == 0 {
        stage.unpack(&bytes);
    } else {
        unpack_into_volume(&bytes);
    }
}

/// What fuzzing begins with.
pub fn seeds(stage: &Stage) -> impl Iterator<Item = Vec<u8>> {
    (0..64u8).map(|seed| {
        let tar = Forger::new(seed.into(), stage.outside()).tar();
        [&[seed], &tar[..]].concat()
    })
}
