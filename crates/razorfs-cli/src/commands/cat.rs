//! `razorfs cat`: the bytes of files.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::commands::print;
use crate::failure::{Failure, Result};
use crate::place::{Opened, spot};
use crate::tree::CHUNK;

/// Writes files to standard output
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs cat demo.rzfs:/etc/motd
  razorfs cat mnt:/a mnt:/b > both
  razorfs cat mnt@yesterday:/a")]
pub struct Args {
    /// Files, as PLACE:/path or PLACE@SNAPSHOT:/path
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    for file in &args.files {
        let spot = spot(file)?;
        let opened = Opened::open(&spot, false)?;
        let outcome = cat(&opened, &spot.path);
        opened.close()?;
        outcome?;
    }
    Ok(0)
}

fn cat(opened: &Opened, path: &Path) -> Result<()> {
    let tree = opened.tree();
    let path = tree.resolve(path)?;
    let mut data = tree.read(&path)?;
    let mut buf = vec![0; CHUNK];
    loop {
        let n = data
            .read(&mut buf)
            .map_err(|e| Failure::host("read", tree.shown(&path), &e))?;
        match buf.get(..n) {
            Some(piece) if !piece.is_empty() => print(piece)?,
            _ => return Ok(()),
        }
    }
}
