//! `razorfs mkdir`: new directories.

use std::path::{Path, PathBuf};

use razorfs::FileKind;

use crate::failure::{Failure, Result};
use crate::place::{Opened, spot};
use crate::tree::{Meta, Tree};

/// Creates directories
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs mkdir demo.rzfs:/photos
  razorfs mkdir -p demo.rzfs:/photos/2026/11")]
pub struct Args {
    /// Directories, as PLACE:/path
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Creates the directories above too, and accepts one that exists
    #[arg(short, long)]
    parents: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    for directory in &args.directories {
        let spot = spot(directory)?;
        let opened = Opened::open(&spot, true)?;
        let outcome = mkdir(opened.tree(), &spot.path, args.parents);
        opened.close()?;
        outcome?;
    }
    Ok(0)
}

fn mkdir(tree: &dyn Tree, path: &Path, parents: bool) -> Result<()> {
    let mut paths: Vec<&Path> = path.ancestors().collect();
    paths.pop();
    if !parents {
        paths.truncate(1);
    }
    if paths.is_empty() && !parents {
        let cause = "it exists already";
        return Err(Failure::with(
            "create",
            tree.shown(path),
            cause,
            "use another name",
        ));
    }
    let now = crate::env().now();
    let mut meta = Meta::new(FileKind::Directory, 0o755);
    meta.atime = razorfs::Time::from_unix_nanos(now);
    meta.mtime = meta.atime;
    for path in paths.into_iter().rev() {
        let there = tree.find(path)?;
        if parents && there.is_some_and(|there| there.is_dir()) {
            continue;
        }
        tree.make(path, &meta, Path::new(""))?;
        tree.dress(path, &meta)?;
    }
    Ok(())
}
