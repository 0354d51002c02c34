//! Where the next batches go. A batch lies in one file, so what is left at the end of a file that
//! a batch does not fit in stays empty: what several batches take is more than the sum of them.

use razorfs_format::journal::{LINK, UNIT, extent_bytes};

use super::ring::{Ring, RingFile, Role};

/// The files that batches go to next, beside the one that is kept for the day that a sync fails.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Bytes that are left of the file in use.
    here: u64,
    /// Bytes that the files take that come after it, in order.
    after: Vec<u64>,
}

impl Places {
    fn new<'a>(here: u64, free: impl Iterator<Item = &'a RingFile>) -> Self {
        let mut free: Vec<&RingFile> = free.collect();
        free.sort_by_key(|f| std::cmp::Reverse(f.rank()));
        // The last one is kept.
        free.pop();
        let after = free.iter().map(|f| f.len - UNIT as u64).collect();
        Self { here, after }
    }

    /// Whether batches of these payloads fit, one after another.
    pub fn take(&self, payloads: impl IntoIterator<Item = usize>) -> bool {
        let (mut here, mut after) = (self.here, self.after.iter());
        payloads.into_iter().all(|len| {
            let extent = extent_bytes(len + LINK) as u64;
            if extent > here {
                here = after.next().copied().unwrap_or(0);
            }
            let left = here.checked_sub(extent);
            here = left.unwrap_or(0);
            left.is_some()
        })
    }
}

impl Ring {
    /// Where the next batches go.
    #[must_use]
    pub fn places(&self) -> Places {
        Places::new(self.left(), self.available())
    }

    fn left(&self) -> u64 {
        self.fill().map_or(0, |(at, len)| len - at)
    }

    /// The same after a [`Ring::turn`]; none if there is no file to go on in.
    #[must_use]
    pub fn places_after_turn(&self) -> Option<Places> {
        let next = self.best_free()?;
        let here = self.available().find(|f| f.slot == next)?.len - UNIT as u64;
        let others = || self.available().filter(|f| f.slot != next);
        others().next()?;
        Some(Places::new(here, others()))
    }

    /// The same while the next step of [`Ring::grow`] is on its way; none if it takes no file.
    #[must_use]
    pub fn places_while_growing(&self) -> Option<Places> {
        let slot = self.growth_takes()?;
        let others = self.available().filter(|f| f.slot != slot);
        Some(Places::new(self.left(), others))
    }
}

impl RingFile {
    /// Of the files that are free the one with the highest is used next.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let prepared = self.role == Role::Prepared;
        (prepared, self.len, std::cmp::Reverse(self.jid))
    }
}
