//! The workloads. Each runs in a process of its own, so that one that hangs or dies takes nothing
//! with it.

mod append;
mod big;
mod files;
mod many;
mod mounts;
mod unpack;

use std::path::PathBuf;

use crate::clock::Stopwatch;
use crate::failure::Result;
use crate::measures::{Group, Sizes};
use crate::target::{Kind, Paths, Target};

pub use many::peak_memory;

/// The values that came of it, by the names of the measures.
pub type Values = Vec<(&'static str, f64)>;

/// Runs the workloads of a group on a target.
pub fn run(group: Group, kind: Kind, paths: &Paths, sizes: &Sizes) -> Result<Values> {
    match group {
        Group::Mount => return mounts::run(paths, sizes),
        Group::Million => return many::million(paths, sizes),
        _ => {}
    }
    let mut target = Target::start(kind, paths)?;
    let values = match group {
        Group::Files => files::files(&mut target, sizes)?,
        Group::Names => files::names(&mut target, sizes)?,
        Group::Tree => unpack::run(&mut target, paths)?,
        Group::Big => big::run(&mut target, sizes)?,
        Group::Append => append::run(&target, sizes)?,
        Group::Many | Group::Mount | Group::Million => many::run(&target, sizes)?,
    };
    target.finish()?;
    Ok(values)
}

/// Whether a group means anything on a target.
pub const fn fits(group: Group, kind: Kind) -> bool {
    match group {
        Group::Files | Group::Names | Group::Tree => true,
        // Nothing reaches a disk there.
        Group::Big | Group::Append => kind.keeps_data(),
        Group::Many => matches!(kind, Kind::Ext4 | Kind::Host | Kind::Embedded),
        Group::Mount => matches!(kind, Kind::Razorfs),
        Group::Million => matches!(kind, Kind::Embedded),
    }
}

/// Seconds that `work` takes, with everything on the disk at the end.
fn synced(target: &Target, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let watch = Stopwatch::start();
    work()?;
    target.sync()?;
    Ok(watch.seconds())
}

/// The path of file `n` of many, in directories of 1000.
fn path(n: u64) -> PathBuf {
    PathBuf::from(format!("d{:03}/f{n:06}", n / 1000))
}

/// Bytes that do not compress, different for each seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
