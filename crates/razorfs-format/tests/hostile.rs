//! Every decoder, given thousands of inputs: random bytes, and valid ones that were changed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bodies;
mod samples;

use std::panic::{AssertUnwindSafe, catch_unwind};

use samples::Rng;

/// Every body, with its name.
fn all() -> impl Iterator<Item = &'static (&'static str, bodies::Body)> {
    bodies::ROOMS.iter().flat_map(|(_, bodies)| *bodies)
}

/// A number that the environment may set.
fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

/// Runs one body over seeded inputs, and says which seed broke it.
fn run(name: &str, body: bodies::Body) {
    let valid = samples::of(name);
    let first = setting("RAZORFS_SEED", 1);
    for seed in first..first + setting("RAZORFS_INPUTS", 3000) {
        let input = samples::input(&valid, &mut Rng::of(name, seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&input))) {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            panic!("{name}: RAZORFS_SEED={seed}: {said}\ninput: {input:02x?}");
        }
    }
}

#[test]
fn hostile_bytes_get_an_answer_from_every_decoder() {
    let all: Vec<_> = all().collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(all.len().div_ceil(2))
            .map(|part| scope.spawn(|| part.iter().for_each(|(name, body)| run(name, *body))))
            .collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn every_valid_sample_is_accepted_by_its_body() {
    for (name, body) in all() {
        for sample in samples::of(name) {
            body(&sample);
        }
    }
}

/// What fuzzing begins with has every body, and nothing in it breaks one.
#[test]
fn seeds_of_rooms_run_in_all_their_bodies() {
    for (room, bodies) in bodies::ROOMS {
        let seeds = samples::seeds(room);
        for choice in 0..bodies.len() {
            let chosen = |seed: &Vec<u8>| usize::from(seed[0]) == choice;
            assert!(seeds.iter().filter(|seed| chosen(seed)).count() > 1);
        }
        seeds.iter().for_each(|seed| bodies::run(room, seed));
    }
}

/// The changed samples are worth their name only if the samples are valid.
#[test]
fn samples_of_records_decode() {
    use razorfs_format::op::decode_ops;
    use razorfs_format::record::{Dirent, Extent, Held, Inode, Orphan, Shared, Xattr};
    let here = bodies::HERE;
    let all = |name, check: &dyn Fn(&[u8]) -> bool| {
        let samples = samples::of(name);
        assert!(
            !samples.is_empty() && samples.iter().all(|s| check(s)),
            "{name}"
        );
    };
    all("inode", &|s| Inode::decode(s, here).is_ok());
    all("dirent", &|s| Dirent::decode(s, here).is_ok());
    all("extent", &|s| Extent::decode(s, here).is_ok());
    all("orphan", &|s| Orphan::decode(s, here).is_ok());
    all("held", &|s| Held::decode(s, here).is_ok());
    all("shared", &|s| Shared::decode(s, here).is_ok());
    all("xattr", &|s| Xattr::decode(s, here).is_ok());
    all("ops", &|s| decode_ops(s, here).is_ok());
}
