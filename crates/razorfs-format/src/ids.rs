//! Identities. None of them is ever reused within a volume.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $int);

        impl $name {
            /// The identity that follows this one. The last one, which only bytes that no engine
            /// wrote can have, follows itself.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The first eight bytes of the volume's uuid, little endian; part of every checksum's seed.
    VolumeId,
    u64
);
id!(
    /// An inode number: increasing, never reused, so that no generation number is needed.
    Ino,
    u64
);
id!(
    /// A branch of the name space. [`Branch::HEAD`] is what a plain mount shows.
    Branch,
    u32
);
id!(
    /// Generation of a memtable; every record version carries the epoch that wrote it.
    Epoch,
    u64
);
id!(
    /// Number of a journal batch: the unit of atomicity and of durability.
    BatchSeq,
    u64
);
id!(
    /// Log sequence number: the number of one operation.
    Lsn,
    u64
);
id!(
    /// Number of one life of a journal file; a recycled file gets a new one.
    Jid,
    u32
);
id!(
    /// A segment: an immutable sorted file of records.
    SegmentId,
    u64
);
id!(
    /// A pack: an append-only file of data frames.
    PackId,
    u64
);
id!(
    /// A manifest: the complete list of segments and packs of one generation.
    ManifestId,
    u64
);
id!(
    /// Generation of the superblock.
    Generation,
    u64
);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
    /// The first number given to a created inode; 2 to 15 are reserved.
    pub const FIRST: Self = Self(16);
}

impl Branch {
    /// The branch that a plain mount shows.
    pub const HEAD: Self = Self(0);
    /// None: of a snapshot that was made of what a branch had been, not of what it was then.
    pub const NONE: Self = Self(u32::MAX);
}
