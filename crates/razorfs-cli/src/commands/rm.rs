//! `razorfs rm`: removes files and trees.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::place::{Opened, spot};
use crate::signals;
use crate::tree::Tree;

/// Removes files
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs rm demo.rzfs:/notes.txt
  razorfs rm -r demo.rzfs:/old")]
pub struct Args {
    /// Files, as PLACE:/path
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Removes directories with what is in them
    #[arg(short, long)]
    recursive: bool,
    /// Says nothing about what does not exist
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    for file in &args.files {
        let spot = spot(file)?;
        let opened = Opened::open(&spot, true)?;
        let outcome = rm(opened.tree(), &spot.path, (args.recursive, args.force));
        opened.close()?;
        outcome?;
    }
    Ok(0)
}

/// Removes one thing, and with `recursive` what is in it.
pub fn rm(tree: &dyn Tree, path: &Path, (recursive, force): (bool, bool)) -> Result<()> {
    let shown = tree.shown(path);
    if path.as_os_str().is_empty() {
        let cause = "it is the root of the volume";
        return Err(Failure::with(
            "remove",
            shown,
            cause,
            "name something in it",
        ));
    }
    if force && tree.find(path)?.is_none() {
        return Ok(());
    }
    let meta = tree.meta(path)?;
    if !meta.is_dir() {
        return tree.remove(path, false);
    }
    if !recursive {
        return Err(Failure::with(
            "remove",
            shown,
            "it is a directory",
            "use -r",
        ));
    }
    // A stack of our own: how deep a tree is must not matter. A directory is met twice, and is
    // empty the second time.
    let mut stack = vec![(path.to_path_buf(), false)];
    while let Some((path, emptied)) = stack.pop() {
        signals::check()?;
        if emptied {
            tree.remove(&path, true)?;
            continue;
        }
        let names = tree.list(&path)?;
        let mut below = Vec::new();
        for name in names {
            let path = path.join(name);
            if tree.meta(&path)?.is_dir() {
                below.push((path, false));
            } else {
                signals::check()?;
                tree.remove(&path, false)?;
            }
        }
        stack.push((path, true));
        stack.extend(below);
    }
    Ok(())
}
