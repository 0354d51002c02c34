//! What is measured, and what is required of it.

/// Whether more is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Less is better.
    Seconds,
    /// Less is better.
    Milliseconds,
    /// More is better.
    MibPerSecond,
    /// More is better.
    PerSecond,
    /// Less is better.
    Mib,
}

impl Unit {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::MibPerSecond => "MiB/s",
            Self::PerSecond => "/s",
            Self::Mib => "MiB",
        }
    }
}

/// One measure.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Its name in JSON.
    pub id: &'static str,
    /// Its row, with `{n}` for the size.
    pub row: &'static str,
    /// Its unit.
    pub unit: Unit,
}

const fn measure(id: &'static str, row: &'static str, unit: Unit) -> Measure {
    Measure { id, row, unit }
}

/// All, in the order of the table.
pub const MEASURES: &[Measure] = &[
    measure("w1.create", "W1 create {files} × 4 KiB", Unit::Seconds),
    measure("w2.stat", "W2 stat all, cold", Unit::Seconds),
    measure("w3.read", "W3 read all, cold", Unit::Seconds),
    measure("w4.unlink", "W4 unlink all", Unit::Seconds),
    measure("w5.mkdir", "W5 mkdir {dirs}", Unit::Seconds),
    measure("w5.rmdir", "W5 rmdir {dirs}", Unit::Seconds),
    measure("w6.rename", "W6 rename {dirs}", Unit::Seconds),
    measure("w7.unpack", "W7 unpack {tree}", Unit::Seconds),
    measure("w7.read", "W7 read the tree, cold", Unit::Seconds),
    measure("w7.rm", "W7 rm -rf", Unit::Seconds),
    measure("w8.write", "W8 write {big} MiB + fsync", Unit::MibPerSecond),
    measure("w8.read", "W8 read it, cold", Unit::MibPerSecond),
    measure(
        "w10.p50",
        "W10 4 KiB append + fsync, p50",
        Unit::Milliseconds,
    ),
    measure("w10.p99", "W10 the same, p99", Unit::Milliseconds),
    measure(
        "w10.rate8",
        "W10 fsyncs a second, 8 threads",
        Unit::PerSecond,
    ),
    measure("w10.p50.8", "W10 8 threads, p50", Unit::Milliseconds),
    measure("w10.p99.8", "W10 8 threads, p99", Unit::Milliseconds),
    measure(
        "many.create",
        "create {many} × 1 KiB, one sync",
        Unit::Seconds,
    ),
    measure("mount.create", "create and mount", Unit::Milliseconds),
    measure("mount.clean", "mount, empty", Unit::Milliseconds),
    measure(
        "mount.filled",
        "mount, {files} files, cold",
        Unit::Milliseconds,
    ),
    measure("mount.killed", "mount after kill -9", Unit::Milliseconds),
    measure("mount.empty", "empty volume on the disk", Unit::Mib),
    measure(
        "mount.memory",
        "daemon's peak memory, {files} files",
        Unit::Mib,
    ),
    measure("million.create", "create 1,000,000 files", Unit::Seconds),
    measure("million.list", "list them", Unit::Seconds),
    measure("million.memory", "peak memory meanwhile", Unit::Mib),
];

/// A group of workloads that share a mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Group {
    /// W1 to W4.
    Files,
    /// W5 and W6.
    Names,
    /// W7.
    Tree,
    /// W8.
    Big,
    /// W10.
    Append,
    /// 100,000 files, without a mount beside ext4.
    Many,
    /// Time to mount, size of an empty volume.
    Mount,
    /// A million files; only with --long.
    Million,
}

impl Group {
    /// All, in the order they run.
    pub const ALL: [Self; 8] = [
        Self::Mount,
        Self::Files,
        Self::Names,
        Self::Tree,
        Self::Big,
        Self::Append,
        Self::Many,
        Self::Million,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Names => "names",
            Self::Tree => "tree",
            Self::Big => "big",
            Self::Append => "append",
            Self::Many => "many",
            Self::Mount => "mount",
            Self::Million => "million",
        }
    }
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Files of W1 to W4.
    pub files: u64,
    /// Directories and renames.
    pub dirs: u64,
    /// Files of W7.
    pub tree_files: u64,
    /// Bytes of W7.
    pub tree_bytes: u64,
    /// MiB of W8.
    pub big: u64,
    /// Appends of each thread of W10.
    pub appends: u64,
    /// Files of the embedded workload.
    pub many: u64,
    /// Files of the memory workload.
    pub million: u64,
    /// MiB of the image below the loop device.
    pub image: u64,
}

impl Sizes {
    /// As the bounds want them.
    pub const FULL: Self = Self {
        files: 20_000,
        dirs: 10_000,
        tree_files: 12_000,
        tree_bytes: 200 << 20,
        big: 1024,
        appends: 1000,
        many: 100_000,
        million: 1_000_000,
        image: 3072,
    };

    /// For a quick look.
    pub const QUICK: Self = Self {
        files: 4000,
        dirs: 2000,
        tree_files: 3000,
        tree_bytes: 40 << 20,
        big: 256,
        appends: 200,
        many: 20_000,
        million: 1_000_000,
        image: 1024,
    };
}

/// What a bound compares.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// At most so much.
    AtMost(f64),
    /// At most so many times the value of ext4.
    TimesExt4(f64),
    /// At least so much of the rate of ext4.
    OfExt4(f64),
}

/// One bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// What it says.
    pub says: &'static str,
    /// The measure.
    pub id: &'static str,
    /// The target's name.
    pub target: &'static str,
    /// The limit.
    pub limit: Limit,
}

const fn bound(says: &'static str, id: &'static str, target: &'static str, limit: Limit) -> Bound {
    Bound {
        says,
        id,
        target,
        limit,
    }
}

/// All bounds.
pub const BOUNDS: &[Bound] = &[
    bound(
        "an empty volume takes at most 4 MiB",
        "mount.empty",
        "razorfs",
        Limit::AtMost(4.0),
    ),
    bound(
        "create and mount under 1 s",
        "mount.create",
        "razorfs",
        Limit::AtMost(1000.0),
    ),
    bound(
        "a clean mount under 50 ms",
        "mount.clean",
        "razorfs",
        Limit::AtMost(50.0),
    ),
    bound(
        "a mount after a kill under 1 s",
        "mount.killed",
        "razorfs",
        Limit::AtMost(1000.0),
    ),
    bound(
        "unpacking at most 4 × ext4",
        "w7.unpack",
        "razorfs",
        Limit::TimesExt4(4.0),
    ),
    bound(
        "cold read of the tree at most 3 × ext4",
        "w7.read",
        "razorfs",
        Limit::TimesExt4(3.0),
    ),
    bound(
        "sequential write at least 0.7 of ext4",
        "w8.write",
        "razorfs",
        Limit::OfExt4(0.7),
    ),
    bound(
        "cold sequential read at least 0.7 of ext4",
        "w8.read",
        "razorfs",
        Limit::OfExt4(0.7),
    ),
    bound(
        "append + fsync no slower than ext4",
        "w10.p50",
        "razorfs",
        Limit::TimesExt4(1.0),
    ),
    bound(
        "the same with 8 threads",
        "w10.rate8",
        "razorfs",
        Limit::OfExt4(1.0),
    ),
    bound(
        "embedded creation faster than ext4",
        "many.create",
        "embedded",
        Limit::TimesExt4(1.0),
    ),
    bound(
        "1,000,000 files in under 512 MiB",
        "million.memory",
        "embedded",
        Limit::AtMost(512.0),
    ),
];
