//! Level 0: the slots of the superblock.

use razorfs_format::layout::FileName;
use razorfs_format::superblock::names::Set;
use razorfs_format::superblock::version::{Version, newer};
use razorfs_format::superblock::{Access, SLOT, SLOTS, State, Superblock, pick, slots_of, twin_of};
use razorfs_format::{FormatError, Generation};

use crate::FindingKind as K;
use crate::session::{Opened, Session};

/// The two generations that the superblock tells of.
pub struct Generations {
    pub newest: Superblock,
    /// The one before it, to fall back to.
    pub previous: Option<Superblock>,
}

/// Checks all slots. `None`: the volume cannot be read.
pub fn check(s: &mut Session<'_>) -> Option<Generations> {
    let (file, len) = match s.open(FileName::Super) {
        Opened::File(file, len) => (file, len),
        Opened::Missing => {
            s.find(K::NoSuperblock, FileName::Super, "the file is missing");
            return None;
        }
        Opened::Unreadable => {
            s.find(
                K::NoSuperblock,
                FileName::Super,
                "the file cannot be opened",
            );
            return None;
        }
    };
    let right = (SLOTS * SLOT) as u64;
    if len != right {
        s.find(
            K::SuperblockLength,
            FileName::Super,
            format!("expected {right} bytes, got {len}"),
        );
    }
    let bytes = s.read_all(&*file, FileName::Super, len.min(right));
    s.checked.superblock_slots += SLOTS as u64;
    if is_newer(s, &bytes) {
        return None;
    }
    let slots: Vec<Result<Superblock, FormatError>> = (0..SLOTS)
        .map(|slot| Superblock::decode(slot, slot_bytes(&bytes, slot)))
        .collect();
    let Some((_, newest)) = pick(&slots) else {
        for error in slots.iter().filter_map(|slot| slot.as_ref().err()) {
            s.find_bad(K::NoSuperblock, error);
        }
        return None;
    };
    let newest = newest.clone();
    s.vid = newest.vid();
    check_slots(s, &slots, &bytes, newest.generation);
    let usable = check_state(s, &newest);
    let before = newest.generation.0.checked_sub(1).map(Generation);
    let mut slots = slots.into_iter().flatten();
    let previous = slots.find(|p| Some(p.generation) == before && p.uuid == newest.uuid);
    usable.then_some(Generations { newest, previous })
}

/// Whether a slot is of a newer major version: then the others say nothing, and nothing of what
/// they name is damaged because it cannot be read.
fn is_newer(s: &mut Session<'_>, bytes: &[u8]) -> bool {
    let found = (0..SLOTS).filter_map(|n| Some((n, newer(n, slot_bytes(bytes, n))?)));
    let found: Vec<(usize, Version)> = found.collect();
    for (slot, version) in &found {
        let detail = format!(
            "it is of version {version} of the format, and the newest that this program knows is \
             {}",
            Version::NEWEST
        );
        s.find(
            K::NewerVersion,
            format!("{} slot {slot}", FileName::Super),
            detail,
        );
    }
    !found.is_empty()
}

fn slot_bytes(bytes: &[u8], slot: usize) -> &[u8] {
    let rest = bytes.get(slot * SLOT..).unwrap_or_default();
    rest.get(..SLOT).unwrap_or(rest)
}

fn check_slots(
    s: &mut Session<'_>,
    slots: &[Result<Superblock, FormatError>],
    bytes: &[u8],
    newest: Generation,
) {
    for (number, slot) in slots.iter().enumerate() {
        let raw = slot_bytes(bytes, number);
        let object = format!("{} slot {number}", FileName::Super);
        match slot {
            Err(error) => {
                // A new volume has one generation only.
                let unused = newest.0 == 1 && !slots_of(newest).contains(&number);
                let zero = raw.len() == SLOT && raw.iter().all(|b| *b == 0);
                if !(unused && zero) {
                    s.find_bad(K::SuperblockSlot, error);
                }
            }
            Ok(block) => {
                if block.encode(number) != raw {
                    s.find(
                        K::SuperblockUnknownBytes,
                        &object,
                        "expected zeros and version 1.0",
                    );
                }
                let twin = slots.get(twin_of(number));
                if let Some(Ok(twin)) = twin
                    && number % 2 == 0
                    && twin != block
                {
                    let detail = format!(
                        "generation {} here, {} in its twin",
                        block.generation, twin.generation
                    );
                    s.find(K::SuperblockTwins, object, detail);
                }
            }
        }
    }
}

/// Whether the volume can be read by this code.
fn check_state(s: &mut Session<'_>, newest: &Superblock) -> bool {
    if newest.state == State::IoError {
        s.find(K::WriteFailed, FileName::Super, "state 3");
    }
    match newest.features.access() {
        Access::Writable => true,
        Access::ReadOnly(bits) => {
            let features = newest.names.of(Set::RoCompat, bits);
            s.find(K::ReadOnlyFeatures, FileName::Super, features);
            true
        }
        Access::Refused(bits) => {
            let features = newest.names.of(Set::Incompat, bits);
            s.find(K::UnknownFeatures, FileName::Super, features);
            false
        }
    }
}
