//! `razorfs create`: a new, empty volume.

use std::path::{Path, PathBuf};

use razorfs::{Compression, CreateOptions, Error, Volume};
use razorfs_disk::Dir;

use crate::failure::{Failure, Result};
use crate::{place, size};

/// Creates an empty volume
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs create demo.rzfs
  razorfs create demo.rzfs --limit 10G --compression zstd:5
  razorfs create demo.rzfs --journal-copies 2
  razorfs create demo.rzfs --parity")]
pub struct Args {
    /// The directory to create; it may exist if it is empty
    volume: PathBuf,
    /// Most bytes of file data that it takes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    limit: Option<u64>,
    /// Compression of file data: none, lz4, zstd or zstd:1 to zstd:22
    #[arg(long, default_value = "lz4", value_parser = compression)]
    compression: Compression,
    /// Copies of the journal: with 2 any one file of it may be damaged or lost, and is healed; each
    /// sync writes both
    #[arg(long, value_name = "N", default_value = "1",
        value_parser = clap::value_parser!(u8).range(1..=2))]
    journal_copies: u8,
    /// Keeps parity of metadata and of full packs of data, which heals what the disk damages; it
    /// takes about 6.3 % more space
    #[arg(long)]
    parity: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let options = CreateOptions {
        limit: args.limit,
        compression: args.compression,
        journal_copies: args.journal_copies,
        parity: args.parity,
        ..options()
    };
    create(&place::absolute(&args.volume)?, &options)?;
    Ok(0)
}

/// The options of a volume that belongs to who runs the command.
pub fn options() -> CreateOptions {
    CreateOptions {
        root_uid: rustix::process::geteuid().as_raw(),
        root_gid: rustix::process::getegid().as_raw(),
        ..CreateOptions::default()
    }
}

/// Creates a volume at `path`, and says so if something is there.
pub fn create(path: &Path, options: &CreateOptions) -> Result<()> {
    if let Some(failure) = place::no_directory("create", path) {
        return Err(failure);
    }
    let empty = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(Failure::host("create", path, &e)),
    };
    if !empty {
        check_leavings(path)?;
    }
    let existed = path.exists();
    Volume::create(path, options).map_err(|e| {
        // If somebody else creates it at the same time, it is theirs.
        if empty && !matches!(e, Error::Exists | Error::Locked(_)) {
            remove(path, existed);
        }
        Failure::engine("create", path, &e)
    })
}

/// What a creation makes in the volume's directory, besides the directories of the layout.
const OURS: [&str; 3] = ["SUPER", "LOCK", "CREATING"];

/// That a directory which is not empty holds nothing but what an interrupted creation has left.
fn check_leavings(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Failure::host("create", path, &e);
    let free = Volume::may_create(path).map_err(|e| Failure::engine("create", path, &e))?;
    if place::is_volume(path) && !free {
        let remedy = "use it, or name another path";
        return Err(Failure::with(
            "create",
            path,
            "it is a volume already",
            remedy,
        ));
    }
    let mut foreign = !free;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let mut known = OURS.into_iter().chain(Dir::ALL.map(Dir::path));
        foreign |= !known.any(|ours| name == *ours);
    }
    if foreign && place::is_part(path) {
        return Err(place::incomplete("create", path));
    }
    if foreign {
        let cause = "the directory is not empty";
        return Err(Failure::with("create", path, cause, "name another path"));
    }
    Ok(())
}

/// Removes a volume that this command has created, but not a directory that was there before. The
/// failure that is reported is the one before.
pub fn remove(volume: &Path, keep_directory: bool) {
    if !keep_directory {
        let _ = std::fs::remove_dir_all(volume);
        return;
    }
    for entry in std::fs::read_dir(volume).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if entry.file_type().is_ok_and(|of| of.is_dir()) {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
    }
}

fn compression(text: &str) -> std::result::Result<Compression, String> {
    let level = match text {
        "none" => return Ok(Compression::None),
        "lz4" => return Ok(Compression::Lz4),
        "zstd" => "3",
        _ => text.strip_prefix("zstd:").unwrap_or_default(),
    };
    match level.parse() {
        Ok(level @ 1..=22) => Ok(Compression::Zstd(level)),
        _ => Err("write none, lz4, zstd, or zstd:1 to zstd:22".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_creation_is_created_anew_and_foreign_files_are_left_alone() {
        let room = tempfile::tempdir().unwrap();
        let (whole, path) = (room.path().join("whole"), room.path().join("path"));
        let options = CreateOptions::default();
        create(&whole, &options).unwrap();
        assert!(create(&whole, &options).is_err());
        // As a process leaves it that is killed before it has written the superblock.
        let half = || {
            let _ = std::fs::remove_dir_all(&path);
            for dir in Dir::ALL {
                std::fs::create_dir_all(path.join(dir.path())).unwrap();
            }
            for file in ["LOCK", "journal/J-0000", "meta/M-0000000000000001.rm"] {
                std::fs::copy(whole.join(file), path.join(file)).unwrap();
            }
            std::fs::write(path.join("SUPER"), vec![0; 4 * 4096]).unwrap();
        };
        half();
        // Without the mark it may be what is left of a volume.
        assert!(create(&path, &options).is_err());
        assert!(path.join("meta/M-0000000000000001.rm").exists());
        std::fs::write(path.join("CREATING"), b"").unwrap();
        std::fs::write(path.join("mine"), b"mine").unwrap();
        assert!(create(&path, &options).is_err());
        assert_eq!(std::fs::read(path.join("mine")).unwrap(), b"mine");
        std::fs::remove_file(path.join("mine")).unwrap();
        create(&path, &options).unwrap();
        assert!(!path.join("CREATING").exists());
        let volume = Volume::open(&path, razorfs::Options::default()).unwrap();
        volume.close().unwrap();
        // Directories alone.
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::create_dir_all(path.join("journal")).unwrap();
        create(&path, &options).unwrap();
    }

    #[test]
    fn compression_is_read() {
        assert_eq!(compression("none"), Ok(Compression::None));
        assert_eq!(compression("zstd"), Ok(Compression::Zstd(3)));
        assert_eq!(compression("zstd:19"), Ok(Compression::Zstd(19)));
        for bad in ["", "gzip", "zstd:", "zstd:0", "zstd:23", "lz4:1"] {
            assert!(compression(bad).is_err(), "{bad}");
        }
    }
}
