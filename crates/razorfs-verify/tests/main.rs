//! What checks, repairs and recovery make of volumes, through their doors. One program, as each
//! would have the engine in it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bodies;
mod churn;
mod clean;
mod common;
mod copies;
mod crashes;
mod flips;
mod forged;
mod hostile;
mod kept;
mod lost;
mod moments;
mod pages;
mod parity;
mod planted;
mod shared;
mod shifted;
mod snapshots;
mod streams;
