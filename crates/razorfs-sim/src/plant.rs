//! What is done to a volume before it is repaired.

use std::collections::BTreeSet;

use razorfs::Ino;
use razorfs_disk::sim::Image;
use razorfs_disk::{Dir, Name};

use crate::flips::{Damage, Instead, Victim};
use crate::rng::Rng;
use crate::touched;

/// Damage to a volume.
#[derive(Clone, Debug)]
pub enum Plant {
    /// To one place.
    One(Damage),
    /// Zeros.
    Zeros(Name, u64, u64),
    /// Two blocks of 4 KiB change places.
    Swap(Name, u64, u64),
    /// A file is what it was before: a copy of the volume's files that was taken earlier.
    Older(Name, usize),
    /// These slots of the superblock are overwritten.
    Slots(Vec<u64>),
    /// Several at once.
    Several(Vec<Self>),
}

const SUPER: &str = "SUPER";
const SLOT: u64 = 4096;

impl Plant {
    /// Something, somewhere.
    pub fn any(victim: &Victim, rng: &mut Rng) -> Self {
        if rng.chance(10) {
            let many = rng.range(2..6);
            let one = |_| Self::one(victim, rng);
            return Self::Several((0..many).map(one).collect());
        }
        Self::one(victim, rng)
    }

    fn one(victim: &Victim, rng: &mut Rng) -> Self {
        if rng.chance(4) {
            let all: [&[u64]; 4] = [&[0, 1], &[2, 3], &[0, 2], &[0, 1, 2, 3]];
            return Self::Slots(rng.pick(&all).map(|s| s.to_vec()).unwrap_or_default());
        }
        let files: Vec<(Name, u64)> = victim
            .image
            .files()
            .filter(|(name, len)| *len > 0 && &*name.leaf != "LOCK" && &*name.leaf != "RESERVE")
            .map(|(name, len)| (name.clone(), len))
            .collect();
        // Of each kind as often, however many there are of it.
        let dirs = [Dir::Meta, Dir::Meta, Dir::Pack, Dir::Journal, Dir::Root];
        let dir = rng.pick(&dirs).copied().unwrap_or(Dir::Meta);
        let of_dir: Vec<_> = files
            .iter()
            .filter(|(n, _)| n.dir == dir)
            .cloned()
            .collect();
        let files = if of_dir.is_empty() { files } else { of_dir };
        let Some((name, len)) = rng.pick(&files).cloned() else {
            return Self::Slots(Vec::new());
        };
        let at = rng.range(0..len);
        match rng.range(0..10) {
            0..4 => Self::One(Damage::Bit(name, at, rng.range(0..8) as u8)),
            4 => {
                let instead = match rng.chance(50) {
                    true => Instead::Noise,
                    false => Instead::Zeros,
                };
                Self::One(Damage::Block(name, at / 512 * 512, 512, instead))
            }
            5 => Self::Zeros(name, at / 4096 * 4096, 4096),
            6 => Self::Swap(name, at / 4096 * 4096, rng.range(0..len) / 4096 * 4096),
            7 => Self::Older(name, rng.below(victim.older.len().max(1))),
            8 => Self::One(Damage::Short(name, at)),
            _ => Self::One(Damage::Gone(name)),
        }
    }

    /// Answers whether anything changed.
    pub fn apply(&self, victim: &Victim, image: &mut Image) -> bool {
        match self {
            Self::One(damage) => damage.apply(victim, image),
            Self::Zeros(name, at, len) => {
                let old = piece(image, name, *at, *len);
                image.write(name, *at, &vec![0; old.len()]);
                old.iter().any(|b| *b != 0)
            }
            Self::Swap(name, a, b) => {
                let (one, other) = (piece(image, name, *a, SLOT), piece(image, name, *b, SLOT));
                if one.len() != other.len() {
                    return false;
                }
                image.write(name, *a, &other);
                image.write(name, *b, &one);
                one != other
            }
            Self::Older(name, n) => {
                let Some(older) = victim.older.get(*n).and_then(|i| i.bytes(name)) else {
                    return false;
                };
                let now = image.bytes(name);
                image.remove(name);
                image.write(name, 0, &older);
                now != Some(older)
            }
            Self::Slots(slots) => {
                let name = Name::new(Dir::Root, SUPER);
                for slot in slots {
                    image.write(&name, slot * SLOT, &[0x5a; SLOT as usize]);
                }
                !slots.is_empty()
            }
            Self::Several(all) => {
                let changed = all.iter().map(|plant| plant.apply(victim, image));
                changed.fold(false, |any, one| any | one)
            }
        }
    }

    /// The files that it is about, where that can be told.
    pub fn touched(&self, victim: &Victim) -> Option<BTreeSet<Ino>> {
        match self {
            Self::One(Damage::Bit(name, at, _)) => touched::by(&victim.image, name, &(*at..at + 1)),
            Self::One(Damage::Block(name, at, len, Instead::Noise | Instead::Zeros)) => {
                touched::by(&victim.image, name, &(*at..at + *len as u64))
            }
            Self::Zeros(name, at, len) => touched::by(&victim.image, name, &(*at..at + len)),
            Self::Slots(slots) => (slots.len() < 4).then(BTreeSet::new),
            _ => None,
        }
    }

    /// What it leaves of the journal may look as if its end had never been written.
    pub fn may_look_torn(&self, victim: &Victim) -> bool {
        match self {
            Self::One(damage) => victim.may_look_torn(damage),
            Self::Zeros(name, ..) | Self::Swap(name, ..) | Self::Older(name, _) => {
                name.dir == Dir::Journal
            }
            Self::Slots(slots) => slots.len() == 4,
            Self::Several(_) => true,
        }
    }
}

fn piece(image: &Image, name: &Name, at: u64, len: u64) -> Vec<u8> {
    let bytes = image.bytes(name).unwrap_or_default();
    let end = (at + len).min(bytes.len() as u64) as usize;
    bytes.get(at as usize..end).unwrap_or_default().to_vec()
}
