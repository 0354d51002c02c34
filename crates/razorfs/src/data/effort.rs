//! How hard to try to compress a file whose blocks do not shrink.

use razorfs_format::Ino;

/// After this many blocks in a row that did not shrink …
const GIVE_UP: u8 = 8;
/// … only one block in this many is tried.
const ONE_IN: u8 = 32;
/// Files remembered; a file whose place another one takes starts afresh.
const SLOTS: usize = 1024;

#[derive(Clone, Copy, Default)]
struct Slot {
    ino: Ino,
    failures: u8,
    skipped: u8,
}

/// The luck that compression had with the files lately written to, in fixed memory.
pub(super) struct Effort(Box<[Slot]>);

impl Effort {
    pub(super) fn new() -> Self {
        Self(vec![Slot::default(); SLOTS].into())
    }

    fn slot(&mut self, ino: Ino) -> Option<&mut Slot> {
        let at = (ino.0 % SLOTS as u64) as usize;
        let slot = self.0.get_mut(at)?;
        if slot.ino != ino {
            *slot = Slot {
                ino,
                ..Slot::default()
            };
        }
        Some(slot)
    }

    /// Whether the next block of `ino` is worth a try.
    pub(super) fn worth_a_try(&mut self, ino: Ino) -> bool {
        let Some(slot) = self.slot(ino) else {
            return true;
        };
        if slot.failures < GIVE_UP {
            return true;
        }
        slot.skipped += 1;
        if slot.skipped < ONE_IN {
            return false;
        }
        slot.skipped = 0;
        true
    }

    /// Notes whether a try saved space.
    pub(super) fn note(&mut self, ino: Ino, saved: bool) {
        if let Some(slot) = self.slot(ino) {
            slot.failures = match saved {
                true => 0,
                false => slot.failures.saturating_add(1),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_eight_failures_one_block_in_32_is_tried_until_one_shrinks() {
        let (mut effort, ino) = (Effort::new(), Ino(77));
        for _ in 0..8 {
            assert!(effort.worth_a_try(ino));
            effort.note(ino, false);
        }
        let tried: Vec<usize> = (1..=96).filter(|_| effort.worth_a_try(ino)).collect();
        assert_eq!(tried, [32, 64, 96]);
        effort.note(ino, false);
        assert!(!effort.worth_a_try(ino));
        assert!(effort.worth_a_try(Ino(78)));
        effort.note(ino, true);
        assert!(effort.worth_a_try(ino));
    }
}
