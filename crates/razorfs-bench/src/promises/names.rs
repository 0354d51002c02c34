//! How many bytes the names of a tree take in the blocks of directories, by the encoder that writes
//! these, and then compressed as blocks are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use razorfs_format::key::Tag;
use razorfs_format::names::encode;
use razorfs_format::record::{Codec, name_cookie};
use razorfs_format::segment::dirblock::ENTRIES_MAX;
use razorfs_format::segment::seal::seal;
use razorfs_format::segment::{BlockKind, Identity};
use razorfs_format::{SegmentId, VolumeId};
use serde_json::{Value, json};

use crate::failure::{At, Result};
use crate::space::Random;

/// Bytes of names at which a block ends, as in a segment, where each entry counts for 12 more.
const BLOCK: usize = 48 * 1024;
/// Names of the set that is made.
const MADE: usize = 10_000;

/// The names of one tree.
pub struct Set {
    what: String,
    names: u64,
    /// Each with a byte that ends it, as strings have.
    plain: u64,
    sizes: Sizes,
}

/// Bytes of the tables of names, as they are and compressed.
#[derive(Default)]
struct Sizes {
    encoded: u64,
    lz4: u64,
    zstd: u64,
}

impl Sizes {
    fn add(&mut self, table: &[u8]) {
        let id = Identity {
            volume: VolumeId(1),
            segment: SegmentId(1),
            tag: Tag::Dirent,
        };
        let sealed = |codec| {
            let mut out = Vec::new();
            u64::from(seal(id, BlockKind::Data, codec, table, 0, &mut out).len)
        };
        self.encoded += table.len() as u64;
        self.lz4 += sealed(Codec::Lz4);
        self.zstd += sealed(Codec::Zstd);
    }
}

impl Set {
    pub fn json(&self) -> Value {
        json!({
            "what": self.what,
            "names": self.names,
            "plain_bytes": self.plain,
            "encoded_bytes": self.sizes.encoded,
            "lz4_bytes": self.sizes.lz4,
            "zstd_bytes": self.sizes.zstd,
        })
    }

    /// Adds a directory. Its entries stand in the order of the hashes of their names.
    fn add(&mut self, names: &[Vec<u8>], block: &mut Block) {
        let mut sorted: Vec<&Vec<u8>> = names.iter().collect();
        sorted.sort_by_cached_key(|name| name_cookie(&[7; 16], name));
        for name in sorted {
            self.names += 1;
            self.plain += name.len() as u64 + 1;
            block.push(name, &mut self.sizes);
        }
    }
}

/// The names of a block of entries, of one directory or of several that follow each other.
#[derive(Default)]
struct Block {
    names: BTreeSet<Vec<u8>>,
    entries: usize,
    bytes: usize,
}

impl Block {
    fn push(&mut self, name: &[u8], sizes: &mut Sizes) {
        self.entries += 1;
        self.bytes += name.len() + 12;
        self.names.insert(name.to_vec());
        if self.entries == ENTRIES_MAX || self.bytes >= BLOCK {
            self.end(sizes);
        }
    }

    fn end(&mut self, sizes: &mut Sizes) {
        let names: Vec<&[u8]> = self.names.iter().map(Vec::as_slice).collect();
        let mut bytes = Vec::new();
        encode(&names, &mut bytes);
        sizes.add(&bytes);
        *self = Self::default();
    }
}

/// Names of 32 random hexadecimal digits, as caches have them.
pub fn hexadecimal(seed: u64) -> Set {
    let mut random = Random(seed);
    let mut name = || format!("{:016x}{:016x}", random.next(), random.next()).into_bytes();
    let names: Vec<_> = (0..MADE).map(|_| name()).collect();
    of("32 hexadecimal digits", &[names])
}

/// Those of a tree of the host.
pub fn tree(dir: &Path) -> Result<Set> {
    let mut all = Vec::new();
    let mut stack: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).at("list", &dir)? {
            let entry = entry.at("list", &dir)?;
            if entry.file_type().at("look at", &entry.path())?.is_dir() {
                stack.push(entry.path());
            }
            names.push(entry.file_name().into_encoded_bytes());
        }
        all.push(names);
    }
    Ok(of(&dir.display().to_string(), &all))
}

fn of(what: &str, directories: &[Vec<Vec<u8>>]) -> Set {
    let mut set = Set {
        what: what.into(),
        names: 0,
        plain: 0,
        sizes: Sizes::default(),
    };
    let mut block = Block::default();
    for names in directories {
        set.add(names, &mut block);
    }
    block.end(&mut set.sizes);
    set
}

pub fn tell(sets: &[Set]) {
    println!("Names, in the blocks of directories, and smaller by how much:\n");
    println!("| tree | names | bytes with an end each | front-coded | and LZ4 | and zstd |");
    println!("|---|---|---|---|---|---|");
    for set in sets {
        let less = |bytes: u64| 100.0 * (1.0 - bytes as f64 / set.plain.max(1) as f64);
        println!(
            "| {} | {} | {} | {:.0} % | {:.0} % | {:.0} % |",
            set.what,
            set.names,
            set.plain,
            less(set.sizes.encoded),
            less(set.sizes.lz4),
            less(set.sizes.zstd),
        );
    }
    println!();
}
