//! Tests of the command on real mounts: they need /dev/fuse, fusermount3, git, sqlite3, diff and
//! python3.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has done its work"
)]

mod bad_input;
#[path = "bodies/prototype.rs"]
mod bodies;
mod branches;
mod commands;
mod crash;
mod diff;
mod doctor;
mod hostile;
mod import_export;
mod keeper;
mod library;
mod log;
mod migrate;
mod mounts;
mod onto_host;
mod packaging;
mod prototype;
mod restore;
mod snapshots;
mod snapshots_live;
mod streams;
mod support;
mod tour;
mod transactions;
mod transport;
mod tree;
mod watch;
mod work;
