//! Checkpoints: a frozen memtable becomes segments, a manifest and a superblock.

pub mod superfile;
