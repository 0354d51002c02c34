//! W10: appending and syncing, alone and with others.

use std::path::Path;

use super::{Values, noise};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::measures::Sizes;
use crate::target::Target;

const THREADS: usize = 8;

/// Runs it.
pub fn run(target: &Target, sizes: &Sizes) -> Result<Values> {
    let mut alone = appends(target, "alone", sizes.appends)?;
    let watch = Stopwatch::start();
    let together = std::thread::scope(|scope| {
        let one = |n: usize| move || appends(target, &format!("thread{n}"), sizes.appends);
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(one(n))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(
                thread
                    .join()
                    .map_err(|_| String::from("a thread panicked"))??,
            );
        }
        Ok::<_, String>(all)
    });
    let seconds = watch.seconds();
    let mut together = together?;
    let rate = together.len() as f64 / seconds;
    Ok(vec![
        ("w10.p50", percentile(&mut alone, 50)),
        ("w10.p99", percentile(&mut alone, 99)),
        ("w10.rate8", rate),
        ("w10.p50.8", percentile(&mut together, 50)),
        ("w10.p99.8", percentile(&mut together, 99)),
    ])
}

/// Milliseconds of each append with its fsync.
fn appends(target: &Target, name: &str, count: u64) -> Result<Vec<f64>> {
    let path = Path::new(name);
    let mut file = target.tree()?.open(path)?;
    let data = noise(4096, 3);
    let mut times = Vec::new();
    for _ in 0..count {
        let watch = Stopwatch::start();
        file.append(&data).at("append to", path)?;
        file.sync().at("sync", path)?;
        times.push(watch.seconds() * 1e3);
    }
    Ok(times)
}

fn percentile(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times
        .get((times.len() * percent / 100).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}
