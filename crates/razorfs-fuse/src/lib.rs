//! The FUSE server of RazorFS: kernel requests in, error numbers out.
//!
//! Three rooms, each of which knows only the next. [`transport`] moves messages between the kernel
//! and us and knows nothing of what they say. [`protocol`] turns bytes into typed requests and
//! answers into bytes; it does no I/O. [`operations`] carries requests out on a [`FileSystem`] and
//! knows no transport. [`mount`] makes and ends mounts, [`Session`] puts everything together.
//!
//! Nothing here has to survive: node numbers are inode numbers, file handles carry no state, and
//! directory positions are stored in the volume. What holds an unlinked file alive is the kernel's
//! lookup count, kept by [`FileSystem::pin`].

mod clock;
mod connection;
mod filesystem;
pub mod mount;
mod notify;
pub mod null;
mod obstacle;
pub mod operations;
pub mod protocol;
mod session;
mod snapshots;
mod statistics;
pub mod transport;
mod underway;

pub use filesystem::FileSystem;
pub use mount::{MountError, MountOptions, Mounted, remount};
pub use notify::Notifier;
pub use null::NullFs;
pub use obstacle::Obstacle;
pub use session::{Session, SessionOptions, TransportChoice, Unmounter};
pub use snapshots::{HIDDEN, SNAPSHOTS, WithSnapshots, forget, forget_snapshot, forget_stale};
pub use statistics::{Latency, Statistics};
pub use underway::Unanswered;
