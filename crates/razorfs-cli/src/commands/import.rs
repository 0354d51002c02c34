//! `razorfs import`: fills a volume from a directory, a tar, or a file of the C++ prototype.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::archive::{self, Counted};
use crate::commands::create;
use crate::failure::{DAMAGE, Failure, Result};
use crate::legacy::Found;
use crate::place::{self, Opened, Spot, spot};
use crate::placing::make_parents;
use crate::progress::{Progress, Unit};
use crate::prototype::Prototype;
use crate::signals::{self, Interruptible};
use crate::tree::{Copy, CopyOptions, HostTree, Tree, keep_apart, measure};

/// Copies a directory, a tar or a file of the C++ prototype into a volume
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The volume is created if it is missing, and removed again if the import \
fails. Into an existing volume each file is there as a whole or not at all. Everything is on the \
disk when the command returns.

What the C++ prototype of RazorFS has written is read, too: its dump, and its 'razr' file together \
with the journal beside it (FILE.journal), which counts up to its first bad entry; docs/legacy.md \
says more. One of which a single byte makes no sense is refused. With --salvage the files that are \
whole are imported, the rest is listed, and the exit code is 4 if there is any.

Examples:
  razorfs import ~/photos photos.rzfs
  razorfs import backup.tar.zst demo.rzfs:/backup
  razorfs import /tmp/razorfs.dat new.rzfs
  curl -s https://example.org/x.tar.gz | razorfs import - demo.rzfs"
)]
pub struct Args {
    /// A directory, a tar (plain, gzip or zstd), - for a tar from standard input, or a file of the
    /// prototype
    source: PathBuf,
    /// The volume, a mount point, or PLACE:/path
    volume: PathBuf,
    /// Of a damaged file of the prototype, imports what is whole and lists the rest
    #[arg(long)]
    salvage: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    let Some(file) = Prototype::read(&args.source, args.salvage)? else {
        // First, so that nothing is created for a source that is not there.
        let source = Source::open(&args.source)?;
        if args.salvage {
            return Err(nothing_to_salvage(&args.source));
        }
        import(args, source)?;
        return Ok(0);
    };
    let found = file.decode(args.salvage)?;
    import(args, Source::Prototype(&file, &found))?;
    file.tell(&found);
    Ok(if found.findings.is_empty() { 0 } else { DAMAGE })
}

fn import(args: &Args, source: Source<'_>) -> Result<()> {
    let target = spot(&args.volume)?;
    let full = place::absolute(&target.place)?;
    let fresh = match std::fs::symlink_metadata(&full) {
        Ok(_) => is_empty_directory(&full),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    let existed = full.exists();
    if fresh {
        create::create(&full, &create::options())?;
    }
    let outcome = fill(source, &target, args.quiet);
    if outcome.is_err() && fresh {
        create::remove(&full, existed);
    }
    if outcome.is_err() {
        // Whatever else went wrong because of it.
        signals::check()?;
    }
    outcome
}

fn nothing_to_salvage(source: &Path) -> Failure {
    let cause = "it is no file of the prototype";
    Failure::with("salvage", source, cause, "leave `--salvage` out")
}

fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Where the files come from.
enum Source<'a> {
    Directory(PathBuf),
    Tar(Box<dyn Read>, Option<u64>),
    Prototype(&'a Prototype, &'a Found<'a>),
}

impl Source<'_> {
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

fn fill(source: Source<'_>, target: &Spot, quiet: bool) -> Result<()> {
    let opened = Opened::open(target, true)?;
    let mut progress = Progress::new("import", Unit::Bytes, quiet);
    let outcome = fill_tree(source, opened.tree(), &target.path, &mut progress);
    let synced = outcome.and_then(|()| opened.tree().sync());
    match opened {
        Opened::Mounted(_) if synced.is_ok() => sync_daemon(&target.place)?,
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

fn fill_tree(
    source: Source<'_>,
    tree: &dyn Tree,
    path: &Path,
    progress: &mut Progress,
) -> Result<()> {
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
        Source::Prototype(file, found) => {
            make_parents(tree, path)?;
            file.fill(found, tree, path, progress)
        }
    }
}
