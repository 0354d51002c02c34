//! What a volume tells about itself.

/// One kind of background work, for volumes that run without threads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Writes the open batch to the journal and makes it durable.
    Commit,
    /// Turns what is in RAM into segments, packs, a manifest and a superblock.
    Checkpoint,
    /// Merges segments.
    Compact,
    /// Removes one batch of what nameless inodes and truncations left.
    Reap,
    /// Adds one file to the journal.
    Grow,
    /// One step of a scrub, if one runs and is due.
    Scrub,
    /// Heals what was found damaged, or makes a piece of the parity of a pack.
    Parity,
    /// Copies a part of what a pack still holds, so that the pack can be removed; the next
    /// checkpoint moves the references.
    Clean,
    /// Gives back what only snapshots held that were given up.
    Release,
}

/// Counts since the volume was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Operations that changed something.
    pub ops: u64,
    /// Journal batches written.
    pub batches: u64,
    /// Bytes of journal written.
    pub journal_bytes: u64,
    /// Bytes of file data handed in.
    pub written_bytes: u64,
    /// Bytes of file data handed out.
    pub read_bytes: u64,
    /// Bytes written to packs.
    pub pack_bytes: u64,
    /// Bytes written to segments.
    pub segment_bytes: u64,
    /// Syncs asked of the host's disk.
    pub disk_syncs: u64,
    /// Checkpoints done.
    pub checkpoints: u64,
    /// Compactions done.
    pub compactions: u64,
    /// Bytes of packs that cleaning has copied elsewhere.
    pub cleaned_bytes: u64,
    /// Packs that cleaning has gone through.
    pub cleaned_packs: u64,
    /// Packs that were removed.
    pub removed_packs: u64,
    /// Nanoseconds that writers were slowed down by, together, where space is short.
    pub slowed_ns: u64,
    /// Bytes of records and data in RAM that are in no segment or pack yet.
    pub dirty_bytes: u64,
    /// Inodes that wait for their removal.
    pub orphans: u64,
    /// Reads of damaged bytes that parity made up for.
    pub parity_reads: u64,
    /// Damaged shards that were healed on the disk.
    pub parity_healed: u64,
    /// Bytes of metadata that the cache of blocks holds.
    pub cache_bytes: u64,
    /// The most that it holds, in bytes.
    pub cache_limit: u64,
    /// How often a block of metadata was asked for.
    pub cache_lookups: u64,
    /// How often it was not in the cache, and had to be read.
    pub cache_misses: u64,
    /// Bytes of the journal that the next checkpoint gives back.
    pub journal_used: u64,
    /// Bytes that the journal takes before a checkpoint must have given some back. It grows when
    /// much is written.
    pub journal_capacity: u64,
}

impl Stats {
    /// Bytes that went to the journal, to packs and to segments for each byte of file data that
    /// was handed in, in hundredths; `None` before there was any.
    #[must_use]
    pub fn write_amplification(&self) -> Option<u64> {
        let written = self
            .journal_bytes
            .saturating_add(self.pack_bytes)
            .saturating_add(self.segment_bytes);
        written.saturating_mul(100).checked_div(self.written_bytes)
    }
}

/// What a volume is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Info {
    /// Its identity.
    pub uuid: [u8; 16],
    /// Version of the format: major and minor.
    pub version: (u16, u16),
    /// Feature bits: compatible, read-only compatible, incompatible.
    pub features: [u64; 3],
    /// Generation of the superblock.
    pub generation: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Sum of the sizes of the regular files, in bytes.
    pub bytes: u64,
    /// Most bytes of file data, if there is a limit.
    pub limit: Option<u64>,
    /// Number of segments.
    pub segments: u64,
    /// Bytes of segments.
    pub segment_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Bytes of packs that are still referred to.
    pub pack_live_bytes: u64,
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Bytes of parity, if the volume has any.
    pub parity_bytes: Option<u64>,
    /// Sealed packs whose parity is still to be made, or cannot be made because they are damaged.
    pub parity_missing: u64,
    /// Why the volume refuses writes, if it does.
    pub read_only: Option<String>,
    /// Maintenance that fails at present, each with the cause: it is tried again, and writes are
    /// refused when there is no room without it.
    pub failing: Vec<String>,
}

/// What recovery found when the volume was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RecoverySummary {
    /// The volume had been closed properly.
    pub clean: bool,
    /// Journal batches replayed.
    pub batches: u64,
    /// Operations replayed.
    pub ops: u64,
    /// Bytes of journal replayed.
    pub bytes: u64,
    /// An unfinished last batch was discarded; nothing of it had been acknowledged as durable.
    pub torn: bool,
    /// Damage that was found, one line each.
    pub damage: Vec<String>,
    /// What was damaged in one copy and was healed from the other, one line each.
    pub healed: Vec<String>,
    /// Nameless inodes found, which are removed in the background.
    pub orphans: u64,
    /// Transactions that were in no journal and came from [`crate::Options::redo`]; `None` if
    /// nobody had died there.
    pub redone: Option<u64>,
}

/// Whether a scrub works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ScrubState {
    /// It does, and goes on after the volume was closed and opened again.
    Running,
    /// It was paused.
    Paused,
    /// It came to its end, or there was none.
    #[default]
    Idle,
}

/// Damage that a scrub found and could not heal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubFinding {
    /// The number that `razorfs verify` has for it.
    pub number: u16,
    /// Where.
    pub object: String,
    /// What was expected, and what was found.
    pub detail: String,
}

/// A scrub that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubPass {
    /// When, in nanoseconds since 1970.
    pub ended: u64,
    /// Shards and copies that it healed.
    pub healed: u64,
    /// What it found damaged and could not heal.
    pub damaged: u64,
}

/// How far a scrub is, and what it has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ScrubStatus {
    /// Whether it works.
    pub state: ScrubState,
    /// What it looks at next.
    pub position: String,
    /// Bytes that were looked at.
    pub done: u64,
    /// Bytes that there are to be looked at.
    pub total: u64,
    /// Bytes a second at most; 0: as many as there are.
    pub limit: u64,
    /// Bytes a second since it was started or went on.
    pub rate: u64,
    /// Shards and copies that were healed.
    pub healed: u64,
    /// What is damaged and cannot be healed.
    pub damaged: u64,
    /// The first of that, one by one.
    pub findings: Vec<ScrubFinding>,
    /// When it began, in nanoseconds since 1970; 0: never.
    pub started: u64,
    /// The last one that came to its end.
    pub last: Option<ScrubPass>,
}
