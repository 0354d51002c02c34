//! `razorfs ls`: what is in a directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::FileKind;
use serde_json::{Value, json};

use crate::commands::{print, print_json};
use crate::failure::{Result, shown_bytes};
use crate::place::{Opened, spot};
use crate::tree::{Meta, Tree};
use crate::{commands::stat, size};

/// Lists directories
#[derive(clap::Args, Debug)]
#[command(
    after_help = "--json prints an array of the objects that `razorfs stat --json` \
prints.

Examples:
  razorfs ls demo.rzfs
  razorfs ls -l mnt:/photos
  razorfs ls -R demo.rzfs:/photos/2026
  razorfs ls demo.rzfs@before-import:/photos"
)]
pub struct Args {
    /// A directory or file, as PLACE:/path or PLACE@SNAPSHOT:/path; a place alone is its root
    place: PathBuf,
    /// One line for each with permissions, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Names that begin with a dot too
    #[arg(short, long)]
    all: bool,
    /// The directories below too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let spot = spot(&args.place)?;
    let opened = Opened::open(&spot, false)?;
    let outcome = list(opened.tree(), &spot.path, args);
    opened.close()?;
    outcome.map(|()| 0)
}

fn list(tree: &dyn Tree, path: &Path, args: &Args) -> Result<()> {
    let path = tree.resolve(path)?;
    let mut documents = Vec::new();
    if !tree.meta(&path)?.is_dir() {
        let line = line(tree, &path, args, &mut documents)?;
        print(line.as_bytes())?;
    }
    let mut stack = vec![path.clone()];
    while let Some(dir) = stack.pop() {
        if !tree.meta(&dir)?.is_dir() {
            continue;
        }
        let mut names = tree.list(&dir)?;
        names.retain(|name| args.all || !name.as_bytes().starts_with(b"."));
        names.sort();
        let mut text = String::new();
        if args.recursive && !args.json {
            let below = dir.strip_prefix(&path).unwrap_or(&dir);
            let gap = if dir == path { "" } else { "\n" };
            text = format!("{gap}./{}:\n", shown_bytes(below.as_os_str().as_bytes()));
        }
        let mut below = Vec::new();
        for name in names {
            let path = dir.join(name);
            text.push_str(&line(tree, &path, args, &mut documents)?);
            if args.recursive && tree.meta(&path)?.is_dir() {
                below.push(path);
            }
        }
        print(text.as_bytes())?;
        stack.extend(below.into_iter().rev());
    }
    if args.json {
        print_json(&Value::Array(documents))?;
    }
    Ok(())
}

/// The line for one file; with `--json` an object is added to `documents` instead.
fn line(tree: &dyn Tree, path: &Path, args: &Args, documents: &mut Vec<Value>) -> Result<String> {
    let bytes = path.file_name().unwrap_or_default().as_bytes();
    let name = shown_bytes(bytes);
    if args.json {
        documents.push(stat::document(tree, path)?);
        return Ok(String::new());
    }
    if !args.long {
        return Ok(format!("{name}\n"));
    }
    let meta = tree.meta(path)?;
    let mut line = format!(
        "{} {:3} {:5} {:5} {:>12} {} {name}",
        permissions(&meta),
        meta.nlink,
        meta.uid,
        meta.gid,
        meta.size,
        size::date(meta.mtime.secs),
    );
    if meta.kind == FileKind::Symlink {
        let target = tree.target(path)?;
        line.push_str(&format!(" -> {}", shown_bytes(target.as_bytes())));
    }
    line.push('\n');
    Ok(line)
}

/// `drwxr-xr-x`.
pub fn permissions(meta: &Meta) -> String {
    let mut text = String::from(match meta.kind {
        FileKind::Directory => "d",
        FileKind::Symlink => "l",
        FileKind::Fifo => "p",
        FileKind::Socket => "s",
        FileKind::CharDevice => "c",
        FileKind::BlockDevice => "b",
        FileKind::Regular => "-",
    });
    let set = |bit: u32| meta.mode & bit != 0;
    for (shift, special, small, large) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        text.push(if set(4 << shift) { 'r' } else { '-' });
        text.push(if set(2 << shift) { 'w' } else { '-' });
        text.push(match (set(1 << shift), set(special)) {
            (true, true) => small,
            (false, true) => large,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The name of a kind in JSON documents.
pub fn kind_name(kind: FileKind) -> Value {
    json!(match kind {
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Regular => "file",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_in_ls() {
        let of = |kind, mode| permissions(&Meta::new(kind, mode));
        assert_eq!(of(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(of(FileKind::Regular, 0o4644), "-rwSr--r--");
        assert_eq!(of(FileKind::Symlink, 0o777), "lrwxrwxrwx");
        assert_eq!(of(FileKind::Regular, 0o2755), "-rwxr-sr-x");
    }
}
