//! Deterministic simulation of the whole engine: a reference file system ([`model`], [`posix`]),
//! seeded workloads that collide on few names ([`workload`]), a driver that compares every answer
//! ([`driver`]) and cuts the power at any call of the disk, faults, flipped bits, and a shrinker
//! that leaves the few operations that matter. One number replays a run.

pub mod content;
mod crash;
pub mod driver;
pub mod dump;
pub mod engine;
pub mod farm;
pub mod flips;
pub mod looks;
pub mod marks;
pub mod model;
pub mod names;
pub mod op;
pub mod panics;
pub mod perform;
pub mod posix;
pub mod rng;
pub mod run;
pub mod shrink;
#[cfg(test)]
mod sim_tests;
pub mod subject;
#[cfg(test)]
mod toy;
pub mod workload;

/// The checker that is run after each cut and each clean close.
pub const VERIFY: Option<engine::Verify> = None;
