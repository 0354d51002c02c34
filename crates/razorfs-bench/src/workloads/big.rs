//! W8: one big file from start to end.

use std::path::Path;

use super::{Values, noise};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::measures::Sizes;
use crate::target::Target;

const MIB: usize = 1 << 20;
/// Longer than any window of a compressor that is used here.
const CYCLE: usize = 31;

/// Runs it.
pub fn run(target: &mut Target, sizes: &Sizes) -> Result<Values> {
    let mut values = Values::new();
    let path = Path::new("big");
    let data = noise(CYCLE * MIB, 2);
    let piece = |n: u64| data.chunks(MIB).nth(n as usize % CYCLE).unwrap_or_default();
    let rate = |seconds: f64| sizes.big as f64 / seconds;
    let watch = Stopwatch::start();
    let mut file = target.tree()?.open(path)?;
    for n in 0..sizes.big {
        file.append(piece(n)).at("write", path)?;
    }
    file.sync().at("sync", path)?;
    values.push(("w8.write", rate(watch.seconds())));
    drop(file);
    target.cold()?;
    let mut buf = vec![0; MIB];
    let watch = Stopwatch::start();
    let file = target.tree()?.open(path)?;
    for n in 0..sizes.big {
        let got = file.read_at(&mut buf, n * MIB as u64).at("read", path)?;
        // The start of a piece tells one from another, and does not cost what comparing all would.
        if got != MIB || buf.get(..64) != piece(n).get(..64) {
            return Err(format!("{} reads wrong at MiB {n}", path.display()));
        }
    }
    values.push(("w8.read", rate(watch.seconds())));
    Ok(values)
}
