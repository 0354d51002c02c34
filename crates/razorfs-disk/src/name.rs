//! Names of files inside a volume.

use std::fmt;

/// A directory of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dir {
    /// The volume itself.
    Root,
    /// `journal`.
    Journal,
    /// `meta`.
    Meta,
    /// `pack`.
    Pack,
    /// `archive`.
    Archive,
    /// `quarantine`.
    Quarantine,
}

impl Dir {
    /// All of them, the volume itself first.
    pub const ALL: [Self; 6] = [
        Self::Root,
        Self::Journal,
        Self::Meta,
        Self::Pack,
        Self::Archive,
        Self::Quarantine,
    ];

    /// Its path inside the volume; `""` for the volume itself.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Journal => "journal",
            Self::Meta => "meta",
            Self::Pack => "pack",
            Self::Archive => "archive",
            Self::Quarantine => "quarantine",
        }
    }

    /// The directory with this path.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.path() == path)
    }
}

/// A file of a volume: a directory and a name in it, which holds no `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The directory.
    pub dir: Dir,
    /// The name in it.
    pub leaf: Box<str>,
}

impl Name {
    /// `leaf` in `dir`.
    #[must_use]
    pub fn new(dir: Dir, leaf: &str) -> Self {
        debug_assert!(!leaf.contains('/') && !leaf.is_empty());
        Self {
            dir,
            leaf: leaf.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dir {
            Dir::Root => f.write_str(&self.leaf),
            dir => write!(f, "{}/{}", dir.path(), self.leaf),
        }
    }
}
