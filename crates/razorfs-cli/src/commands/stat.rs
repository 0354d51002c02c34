//! `razorfs stat`: what is known of a file.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};
use serde_json::{Value, json};

use crate::commands::{ls, print, print_json};
use crate::failure::{Result, shown, shown_bytes};
use crate::place::{Opened, spot};
use crate::size;
use crate::tree::{Tree, unpack_device};

/// Shows what is known of a file
#[derive(clap::Args, Debug)]
#[command(
    after_help = "--json prints one object: path, name, kind (file, directory, symlink, \
fifo, socket, char-device, block-device), ino, mode (octal text), nlink, uid, gid, size, blocks \
(of 512 bytes), atime, mtime, ctime, btime (seconds with nanoseconds as text, or null), target \
of a symlink, device (major, minor) of a device file.

Examples:
  razorfs stat demo.rzfs:/notes.txt
  razorfs stat --json mnt:/photos
  razorfs stat mnt@yesterday:/photos"
)]
pub struct Args {
    /// A file, as PLACE:/path or PLACE@SNAPSHOT:/path
    file: PathBuf,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let spot = spot(&args.file)?;
    let opened = Opened::open(&spot, false)?;
    let outcome = if args.json {
        document(opened.tree(), &spot.path).and_then(|document| print_json(&document))
    } else {
        text(opened.tree(), &spot.path).and_then(|text| print(text.as_bytes()))
    };
    opened.close()?;
    outcome.map(|()| 0)
}

/// The object for one file.
pub fn document(tree: &dyn Tree, path: &Path) -> Result<Value> {
    let meta = tree.meta(path)?;
    let time = |time: Time| json!(format!("{}.{:09}", time.secs, time.nanos));
    let name = path.file_name().unwrap_or_default();
    let mut document = json!({
        "path": shown(&tree.shown(path)),
        "name": shown_bytes(name.as_bytes()),
        "kind": ls::kind_name(meta.kind),
        "ino": meta.ino,
        "mode": format!("{:04o}", meta.mode),
        "nlink": meta.nlink,
        "uid": meta.uid,
        "gid": meta.gid,
        "size": meta.size,
        "blocks": meta.blocks,
        "atime": time(meta.atime),
        "mtime": time(meta.mtime),
        "ctime": time(meta.ctime),
        "btime": meta.btime.map(time),
    });
    let more = match meta.kind {
        FileKind::Symlink => Some(("target", json!(shown_bytes(tree.target(path)?.as_bytes())))),
        FileKind::CharDevice | FileKind::BlockDevice => {
            let (major, minor) = unpack_device(meta.rdev);
            Some(("device", json!([major, minor])))
        }
        _ => None,
    };
    if let (Some((key, value)), Some(object)) = (more, document.as_object_mut()) {
        object.insert(key.into(), value);
    }
    Ok(document)
}

fn text(tree: &dyn Tree, path: &Path) -> Result<String> {
    let meta = tree.meta(path)?;
    let time = |time: Time| format!("{}.{:09} UTC", size::date(time.secs), time.nanos);
    let mut text = format!("    file  {}", shown(&tree.shown(path)));
    if meta.kind == FileKind::Symlink {
        text.push_str(&format!(
            " -> {}",
            shown_bytes(tree.target(path)?.as_bytes())
        ));
    }
    text.push_str(&format!(
        "\n    kind  {}\n    size  {} ({}), {} blocks of 512 bytes\n   inode  {}, {} names\n",
        ls::kind_name(meta.kind).as_str().unwrap_or_default(),
        meta.size,
        size::human(meta.size),
        meta.blocks,
        meta.ino,
        meta.nlink,
    ));
    text.push_str(&format!(
        "  access  {} ({:04o}), owner {}, group {}\n",
        ls::permissions(&meta),
        meta.mode,
        meta.uid,
        meta.gid
    ));
    for (name, value) in [
        ("   atime", Some(meta.atime)),
        ("   mtime", Some(meta.mtime)),
        ("   ctime", Some(meta.ctime)),
        ("   btime", meta.btime),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("{name}  {}\n", time(value)));
        }
    }
    Ok(text)
}
