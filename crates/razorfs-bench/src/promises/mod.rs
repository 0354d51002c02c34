//! The promises of the prototype, measured: what a save writes and takes beside the prototype's two
//! ways of saving, how small names become, how fast checksums are, and how long an operation waits
//! for what goes on in the background.

mod checksums;
mod names;
mod old;
mod saves;
mod stalls;

use std::path::PathBuf;

use serde_json::json;

use crate::failure::Result;
use crate::room::Room;

/// What is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files that are there, for each run
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1000, 10_000])]
    files: Vec<u64>,
    /// Saves of each run
    #[arg(long, value_name = "N", default_value_t = 20)]
    saves: u64,
    /// Operations between two saves
    #[arg(long, value_name = "N", default_value_t = 100)]
    operations: u64,
    /// How often each way takes its turn
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Trees whose names are measured, besides a made one of hexadecimal digits
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    names: Vec<PathBuf>,
    /// Creations whose times are taken
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    creations: u64,
    /// Seed of what is done
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
}

/// Runs it and prints what was seen.
pub fn run(args: &Args) -> Result<()> {
    let room = Room::make(&args.dir)?;
    let mut saved = Vec::new();
    for files in &args.files {
        saved.push(saves::measure(args, *files, room.path())?);
    }
    let mut sets = vec![names::hexadecimal(args.seed)];
    for dir in &args.names {
        sets.push(names::tree(dir)?);
    }
    let rates = checksums::Rates::measure();
    let stalls = stalls::measure(args, room.path())?;
    if args.json {
        let document = json!({
            "saves": saved.iter().map(saves::Saved::json).collect::<Vec<_>>(),
            "names": sets.iter().map(names::Set::json).collect::<Vec<_>>(),
            "checksums": rates.json(),
            "creations": stalls.json(),
        });
        println!("{document:#}");
        return Ok(());
    }
    saves::tell(args, &saved);
    names::tell(&sets);
    rates.tell();
    stalls.tell();
    Ok(())
}
