//! `razorfs create`: a new, empty volume.

use std::path::{Path, PathBuf};

use razorfs::{Compression, CreateOptions, Error, Volume};

use crate::failure::{Failure, Result};
use crate::{place, size};

/// Creates an empty volume
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs create demo.rzfs
  razorfs create demo.rzfs --limit 10G --compression zstd:5")]
pub struct Args {
    /// The directory to create; it may exist if it is empty
    volume: PathBuf,
    /// Most bytes of file data that it takes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    limit: Option<u64>,
    /// Compression of file data: none, lz4, zstd or zstd:1 to zstd:22
    #[arg(long, default_value = "lz4", value_parser = compression)]
    compression: Compression,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let options = CreateOptions {
        limit: args.limit,
        compression: args.compression,
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
    if place::is_volume(path) {
        let remedy = "use it, or name another path";
        return Err(Failure::with(
            "create",
            path,
            "it is a volume already",
            remedy,
        ));
    }
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let cause = "the directory is not empty";
                return Err(Failure::with("create", path, cause, "name another path"));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failure::host("create", path, &e)),
    }
    let existed = path.exists();
    Volume::create(path, options).map_err(|e| {
        // If somebody else creates it at the same time, it is theirs.
        if !matches!(e, Error::Exists | Error::Locked(_)) {
            remove(path, existed);
        }
        Failure::engine("create", path, &e)
    })
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
    fn compression_is_read() {
        assert_eq!(compression("none"), Ok(Compression::None));
        assert_eq!(compression("zstd"), Ok(Compression::Zstd(3)));
        assert_eq!(compression("zstd:19"), Ok(Compression::Zstd(19)));
        for bad in ["", "gzip", "zstd:", "zstd:0", "zstd:23", "lz4:1"] {
            assert!(compression(bad).is_err(), "{bad}");
        }
    }
}
