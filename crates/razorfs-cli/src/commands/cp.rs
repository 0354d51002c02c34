//! `razorfs cp`: copies between a volume and the host, and within volumes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::place::{Opened, Spot, split};
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::tree::{Copy, CopyOptions, HostTree, Tree, keep_apart, measure};

/// Copies files into, out of and between volumes
#[derive(clap::Args, Debug)]
#[command(after_help = "A path without `:/` is one of the host.

Examples:
  razorfs cp photo.jpg demo.rzfs:/photos/
  razorfs cp -r demo.rzfs:/photos /tmp
  razorfs cp a.rzfs:/x b.rzfs:/y
  razorfs cp -r mnt@yesterday:/photos mnt:/photos-of-yesterday")]
pub struct Args {
    /// What to copy: PLACE:/path, PLACE@SNAPSHOT:/path, or a path of the host
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Where to: an existing directory, or a new name for a single source
    target: PathBuf,
    /// Copies directories with what is in them
    #[arg(short, long)]
    recursive: bool,
    /// Keeps owner, permissions, times, extended attributes and hard links
    #[arg(short, long)]
    preserve: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Copies one thing with all that is in it and all attributes, to a new name.
pub fn copy(source: PathBuf, target: PathBuf, quiet: bool) -> Result<()> {
    let args = Args {
        sources: vec![source],
        target,
        recursive: true,
        preserve: true,
        quiet,
    };
    run(&args).map(drop)
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    let mut ends = Ends::default();
    let (target_end, target) = ends.open(&args.target, true)?;
    let mut sources = Vec::new();
    for source in &args.sources {
        let (end, path) = ends.open(source, false)?;
        // Named as it was called, which for a symbolic link is not what it leads to.
        let called = split(source)?.map_or_else(|| source.clone(), |spot| spot.path);
        let name = called.file_name().or(path.file_name());
        let name = name.map(ToOwned::to_owned);
        sources.push(Source { end, path, name });
    }
    let outcome = copy_all(args, &ends, &sources, target_end, &target);
    ends.close()?;
    outcome.map(|()| 0)
}

/// What is copied: the tree that it is in, its path there, and the name that the copy gets.
struct Source {
    end: usize,
    path: PathBuf,
    name: Option<OsString>,
}

/// The path without symbolic links above its last part, where what is above it exists.
fn settle(tree: &dyn Tree, path: &Path) -> Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if tree.find(parent)?.is_some() => {
            Ok(tree.resolve(parent)?.join(name))
        }
        _ => Ok(path.to_path_buf()),
    }
}

fn copy_all(
    args: &Args,
    ends: &Ends,
    sources: &[Source],
    target_end: usize,
    target: &Path,
) -> Result<()> {
    let to = ends.tree(target_end)?;
    let target = match to.find(target)? {
        Some(_) => to.resolve(target)?,
        None => settle(to, target)?,
    };
    let into = to.find(&target)?.is_some_and(|meta| meta.is_dir());
    if !into && sources.len() > 1 {
        let shown = to.shown(&target);
        let remedy = "name an existing directory as the target";
        return Err(Failure::with(
            "copy to",
            shown,
            "it is not a directory",
            remedy,
        ));
    }
    let options = CopyOptions {
        preserve: args.preserve,
        recursive: args.recursive,
    };
    let mut progress = Progress::new("cp", Unit::Bytes, args.quiet);
    let mut total = 0;
    for source in sources {
        total += measure(ends.tree(source.end)?, &source.path)?.0;
    }
    progress.set_total(total);
    for source in sources {
        let from = ends.tree(source.end)?;
        let path = settle(from, &source.path)?;
        let target = match &source.name {
            Some(name) if into => target.join(name),
            _ => target.clone(),
        };
        if source.end == target_end && target.starts_with(&path) {
            let shown = from.shown(&path);
            let cause = "the target is the same, or inside of it";
            return Err(Failure::with("copy", shown, cause, "name another target"));
        }
        if args.recursive {
            keep_apart(from, &path, to, &target)?;
        }
        Copy::new(from, to, options, &mut progress).run(&path, &target)?;
    }
    Ok(())
}

/// The trees that take part, each opened once: a volume cannot be opened twice.
#[derive(Default)]
struct Ends {
    opened: Vec<(Option<Key>, End)>,
}

/// What tells trees of places apart: where the place is, and the snapshot.
type Key = (PathBuf, Option<String>);

enum End {
    Host(HostTree),
    Place(Opened),
}

impl Ends {
    /// The number of the tree that a path is in, and the path in it.
    fn open(&mut self, text: &Path, write: bool) -> Result<(usize, PathBuf)> {
        let spot = split(text)?;
        let key = match &spot {
            Some(spot) => Some((crate::place::absolute(&spot.place)?, spot.snapshot.clone())),
            None => None,
        };
        let path = match &spot {
            Some(spot) => spot.path.clone(),
            None => crate::place::absolute(text)?,
        };
        if let Some(at) = self.opened.iter().position(|(k, _)| *k == key) {
            return Ok((at, path));
        }
        let end = match &spot {
            // A path from the root replaces the root of the tree that it is joined to.
            None => End::Host(HostTree::new("/")),
            Some(spot) => match self.beside(&key, spot, write) {
                Some(opened) => End::Place(opened?),
                None => End::Place(Opened::open(spot, write)?),
            },
        };
        self.opened.push((key, end));
        Ok((self.opened.len() - 1, path))
    }

    /// The tree of a volume that is open at another point of its time.
    fn beside(&self, key: &Option<Key>, spot: &Spot, write: bool) -> Option<Result<Opened>> {
        let place = |key: &Option<Key>| key.as_ref().map(|(place, _)| place.clone());
        let same = |(k, _): &&(Option<Key>, End)| place(k) == place(key);
        match self.opened.iter().find(same)? {
            (_, End::Place(opened)) => opened.at(spot, write),
            _ => None,
        }
    }

    fn tree(&self, end: usize) -> Result<&dyn Tree> {
        match self.opened.get(end) {
            Some((_, End::Host(tree))) => Ok(tree),
            Some((_, End::Place(opened))) => Ok(opened.tree()),
            None => Err(Failure::new("cannot copy: the tree is not open")),
        }
    }

    fn close(self) -> Result<()> {
        for (_, end) in self.opened {
            if let End::Place(opened) = end {
                opened.close()?;
            }
        }
        Ok(())
    }
}
