//! File data: fragments laid over each other, frames written to packs and read back, and the
//! account of what in the packs is still needed.
//!
//! The road of a write: dirty pieces of a batch become frames ([`PackWriter::write`] answers when
//! they are synced), the batch names them as patches, and the flush of the memtable resolves the
//! patches of a block into a sorted list ([`overlay`]) and tells the [`Account`] what came and
//! went. The road of a read: [`read_fragments`], which checks each byte under the identity of the
//! file that asks for it.

mod account;
mod dead;
mod effort;
mod fragments;
mod reader;
mod turnover;
mod writer;

pub use account::{Account, ToClean};
pub use dead::{PUNCH_MIN, dead_runs};
pub use fragments::{
    FrameUse, MAX_FRAGMENTS, covered, frames_of, inline_bytes, is_zero, lost_bytes, needs_rewrite,
    overlay,
};
pub use razorfs_format::compress::Compression;
pub use razorfs_format::pack::{FrameIdentity, PackState};
pub use reader::{PackReader, StoredFrame, read_fragments};
pub use turnover::{Settled, Turnover};
pub use writer::{FrameWrite, PackWriter, Position};

use razorfs_disk::{Dir, Name};
use razorfs_format::PackId;
use razorfs_format::layout::FileName;

/// The file of a pack.
fn pack_file(pack: PackId) -> Name {
    Name::new(Dir::Pack, &FileName::Pack(pack).leaf())
}
