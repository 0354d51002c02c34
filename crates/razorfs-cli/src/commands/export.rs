//! `razorfs export`: a volume as a directory or a tar.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::archive::Packing;
use crate::failure::{Failure, Result};
use crate::pack;
use crate::place::{Opened, spot};
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::tree::{Copy, CopyOptions, HostTree, Tree, keep_apart, measure};

/// Copies a volume to a directory or a tar
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The name of the target says what it becomes: .tar, .tar.gz (.tgz), \
.tar.zst (.tzst), - for a plain tar on standard output, and a directory otherwise, which must be \
missing or empty. A target that fails half way is removed.

Examples:
  razorfs export demo.rzfs backup.tar.zst
  razorfs export mnt:/photos /tmp/photos
  razorfs export mnt@yesterday yesterday.tar.zst
  razorfs export demo.rzfs - | ssh host tar x"
)]
pub struct Args {
    /// A volume, a mount point, or PLACE:/path; PLACE@SNAPSHOT for what that has
    place: PathBuf,
    /// A directory, a tar, or - for standard output
    target: PathBuf,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    let spot = spot(&args.place)?;
    let opened = Opened::open(&spot, false)?;
    let mut progress = Progress::new("export", Unit::Bytes, args.quiet);
    let outcome = export(opened.tree(), &spot.path, &args.target, &mut progress);
    opened.close()?;
    outcome?;
    progress.finish();
    Ok(0)
}

fn export(tree: &dyn Tree, path: &Path, target: &Path, progress: &mut Progress) -> Result<()> {
    let path = tree.resolve(path)?;
    if target != Path::new("-") {
        keep_apart(tree, &path, &HostTree::new(target), Path::new(""))?;
    }
    progress.set_total(measure(tree, &path)?.0);
    if target == Path::new("-") {
        let out = std::io::stdout().lock();
        let out = pack(tree, &path, target, out, Packing::Plain, progress)?;
        return finish(out, target).map(|_| ());
    }
    match Packing::of(target) {
        None => directory(tree, &path, target, progress),
        Some(packing) => tar(tree, &path, target, packing, progress),
    }
}

fn directory(tree: &dyn Tree, path: &Path, target: &Path, progress: &mut Progress) -> Result<()> {
    let failed = |e| Failure::host("write to", target, &e);
    let existed = match std::fs::read_dir(target) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let cause = "the directory is not empty";
                let remedy = "name another target; its name ends in .tar for a tar";
                return Err(Failure::with("export to", target, cause, remedy));
            }
            true
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(failed(e)),
    };
    let to = HostTree::new(target);
    let options = CopyOptions {
        preserve: true,
        recursive: true,
    };
    let outcome = Copy::new(tree, &to, options, progress).run(path, Path::new(""));
    if outcome.is_err() && !existed {
        // The failure that is reported is the first one.
        let _ = std::fs::remove_dir_all(target);
    }
    outcome
}

fn tar(
    tree: &dyn Tree,
    path: &Path,
    target: &Path,
    packing: Packing,
    progress: &mut Progress,
) -> Result<()> {
    let failed = |e| Failure::host("write to", target, &e);
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let write = |progress: &mut Progress| {
        let file = BufWriter::with_capacity(1 << 17, File::create(&part).map_err(failed)?);
        let file = pack(tree, path, target, file, packing, progress)?;
        let file = finish(file, target)?;
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&part, target).map_err(failed)
    };
    write(progress).inspect_err(|_| {
        // The failure that is reported is the first one.
        let _ = std::fs::remove_file(&part);
    })
}

fn pack<W: Write>(
    tree: &dyn Tree,
    path: &Path,
    target: &Path,
    out: W,
    packing: Packing,
    progress: &mut Progress,
) -> Result<W> {
    pack::pack(tree, path, target, out, packing, &mut |n, item| {
        progress.add(n);
        if item {
            progress.item();
        }
        signals::check()
    })
}

fn finish<W: Write>(mut out: W, target: &Path) -> Result<W> {
    out.flush()
        .map_err(|e| Failure::host("write to", target, &e))?;
    Ok(out)
}
