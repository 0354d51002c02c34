//! The real host: the only user of the host's files.
