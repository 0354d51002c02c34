//! `razorfs import`: fills a volume from a directory or a tar.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::archive::{self, Counted};
use crate::commands::create;
use crate::failure::{Failure, Result};
use crate::place::{self, Opened, split};
use crate::placing::make_parents;
use crate::progress::{Progress, Unit};
use crate::signals::{self, Interruptible};
use crate::tree::{Copy, CopyOptions, HostTree, Tree, keep_apart, measure};

/// Copies a directory or a tar into a volume
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The volume is created if it is missing, and removed again if the import \
fails. Into an existing volume each file is there as a whole or not at all. Everything is on the \
disk when the command returns.

Examples:
  razorfs import ~/photos photos.rzfs
  razorfs import backup.tar.zst demo.rzfs:/backup
  curl -s https://example.org/x.tar.gz | razorfs import - demo.rzfs"
)]
pub struct Args {
    /// A directory, a tar (plain, gzip or zstd), or - for a tar from standard input
    source: PathBuf,
    /// The volume, a mount point, or PLACE:/path
    volume: PathBuf,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    // First, so that nothing is created for a source that is not there.
    let source = Source::open(&args.source)?;
    let target = split(&args.volume)?;
    let (place, path) = match target {
        Some(spot) => (spot.place, spot.path),
        None => (args.volume.clone(), PathBuf::new()),
    };
    let full = place::absolute(&place)?;
    let fresh = match std::fs::symlink_metadata(&full) {
        Ok(_) => is_empty_directory(&full),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    let existed = full.exists();
    if fresh {
        create::create(&full, &create::options())?;
    }
    let outcome = fill(source, &place, &path, args.quiet);
    if outcome.is_err() && fresh {
        create::remove(&full, existed);
    }
    if outcome.is_err() {
        // Whatever else went wrong because of it.
        signals::check()?;
    }
    outcome.map(|()| 0)
}

fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Where the files come from.
enum Source {
    Directory(PathBuf),
    Tar(Box<dyn Read>, Option<u64>),
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let input = Interruptible(std::io::stdin().lock());
            return Ok(Self::Tar(Box::new(input), None));
        }
        let failed = |e| Failure::host("open", path, &e);
        let meta = std::fs::metadata(path).map_err(failed)?;
        if meta.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        let file = File::open(path).map_err(failed)?;
        // A pipe has no length to tell progress by.
        let len = meta.is_file().then_some(meta.len());
        Ok(Self::Tar(Box::new(Interruptible(file)), len))
    }
}

fn fill(source: Source, place: &Path, path: &Path, quiet: bool) -> Result<()> {
    let opened = Opened::open(place, true)?;
    let mut progress = Progress::new("import", Unit::Bytes, quiet);
    let outcome = fill_tree(source, opened.tree(), path, &mut progress);
    let synced = outcome.and_then(|()| opened.tree().sync());
    match opened {
        Opened::Mounted(_) if synced.is_ok() => sync_daemon(place)?,
        Opened::Mounted(_) => {}
        Opened::Inside(_) => {
            let closed = opened.close();
            synced.clone()?;
            closed?;
        }
    }
    synced?;
    progress.finish();
    Ok(())
}

/// The kernel does not pass a sync on to a daemon: it is asked itself.
fn sync_daemon(place: &Path) -> Result<()> {
    if let place::Place::Live(mut live) = place::Place::find(place)? {
        live.ask(crate::socket::Request::Sync)?;
    }
    Ok(())
}

fn fill_tree(source: Source, tree: &dyn Tree, path: &Path, progress: &mut Progress) -> Result<()> {
    match source {
        Source::Directory(dir) => {
            let from = HostTree::new(&dir);
            let root = Path::new("");
            keep_apart(&from, root, tree, path)?;
            make_parents(tree, path)?;
            progress.set_total(measure(&from, root)?.0);
            let options = CopyOptions {
                preserve: true,
                recursive: true,
            };
            Copy::new(&from, tree, options, progress).run(root, path)
        }
        Source::Tar(data, total) => {
            make_parents(tree, path)?;
            let counted = Counted::new(data);
            let count = counted.count();
            if let Some(total) = total {
                progress.set_total(total);
            }
            let data = archive::decompress(BufReader::with_capacity(1 << 17, counted))?;
            archive::unpack(data, tree, path, &mut |item| {
                progress.set(count.get());
                if item {
                    progress.item();
                }
                signals::check()
            })
        }
    }
}
