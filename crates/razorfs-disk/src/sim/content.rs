//! The bytes of a simulated file: a table of shared pages, copied when written.

use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

/// Bytes of a page, the unit of sharing and of space.
pub(super) const PAGE: usize = 4096;
/// Bytes of a sector, the unit of atomicity.
pub(super) const SECTOR: usize = 512;

type Bytes = [u8; PAGE];
pub(super) type Sector = [u8; SECTOR];

/// A page, and its sum once somebody has asked for it.
#[derive(Clone)]
struct Page {
    bytes: Bytes,
    sum: OnceLock<u128>,
}

impl Page {
    /// The sum of its bytes; none if all of them are zero.
    fn sum(&self) -> Option<u128> {
        let sum = *self.sum.get_or_init(|| {
            if self.bytes == [0; PAGE] {
                return 0;
            }
            let mut sum = Sum::default();
            let (words, _) = self.bytes.as_chunks();
            words
                .iter()
                .for_each(|word| sum.add(u64::from_le_bytes(*word)));
            sum.of().max(1)
        });
        (sum != 0).then_some(sum)
    }

    /// Its bytes, which are about to change.
    fn change(&mut self) -> &mut Bytes {
        self.sum = OnceLock::new();
        &mut self.bytes
    }
}

/// Shared by all pages that were allocated and never written.
static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| {
    Arc::new(Page {
        bytes: [0; PAGE],
        sum: OnceLock::new(),
    })
});

/// A length and the bytes before it. Bytes at and behind the length are always zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    allocated: u64,
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

/// A sum of words that tells images of a run from each other, 128 bits wide; nobody forges these.
#[derive(Default)]
pub(super) struct Sum(u64, u64);

impl Sum {
    pub(super) fn add(&mut self, word: u64) {
        // Two multiplicative hashes (Knuth, TAOCP 6.4) by odd numbers whose bits are well spread.
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    }

    pub(super) const fn of(&self) -> u128 {
        (self.0 as u128) << 64 | self.1 as u128
    }
}

/// The parts of pages that `range` covers: (page, first byte in it, bytes).
fn spans(range: Range<u64>) -> impl Iterator<Item = (usize, usize, usize)> {
    let page = PAGE as u64;
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let start = at % page;
        let take = (page - start).min(range.end - at);
        let span = ((at / page) as usize, start as usize, take as usize);
        at += take;
        Some(span)
    })
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Behind this nothing but zeros is.
    pub(super) fn extent(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// Bytes of host space.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    fn page(&self, page: usize) -> Option<&Bytes> {
        Some(&self.pages.get(page)?.as_deref()?.bytes)
    }

    /// Reads until `buf` is full or the file ends.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let (mut rest, _) = buf.split_at_mut(n);
        for (page, start, take) in spans(offset..offset.saturating_add(n as u64)) {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(take);
            match self.page(page).and_then(|p| p.get(start..start + take)) {
                Some(bytes) => head.copy_from_slice(bytes),
                None => head.fill(0),
            }
            rest = tail;
        }
        n
    }

    /// Adds the length and the bytes to a sum; a page of zeros and a missing one are alike.
    pub(super) fn add_to(&self, sum: &mut Sum) {
        sum.add(self.len);
        for (number, page) in (0_u64..).zip(self.pages.iter()) {
            if let Some(bytes) = page.as_ref().and_then(|page| page.sum()) {
                sum.add(number);
                sum.add((bytes >> 64) as u64);
                sum.add(bytes as u64);
            }
        }
        sum.add(u64::MAX);
    }

    /// All bytes.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.len as usize];
        self.read(0, &mut all);
        all
    }

    fn slot(&mut self, page: usize) -> &mut Option<Arc<Page>> {
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() <= page {
            pages.resize(page + 1, None);
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "the table was made long enough above"
        )]
        &mut pages[page]
    }

    fn page_mut(&mut self, page: usize) -> &mut Bytes {
        let fresh = self.page(page).is_none();
        if fresh {
            self.allocated += PAGE as u64;
        }
        Arc::make_mut(self.slot(page).get_or_insert_with(|| Arc::clone(&ZEROS))).change()
    }

    /// Writes, growing the file where needed.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        let mut rest = data;
        for (page, start, take) in spans(offset..end) {
            let (head, tail) = rest.split_at(take);
            if let Some(bytes) = self.page_mut(page).get_mut(start..start + take) {
                bytes.copy_from_slice(head);
            }
            rest = tail;
        }
        self.len = self.len.max(end);
    }

    /// Makes a range zeros; with `keep` its pages stay allocated (and missing ones become so).
    pub(super) fn zero(&mut self, range: Range<u64>, keep: bool) {
        for (page, start, take) in spans(range) {
            let there = self.page(page).is_some();
            if take == PAGE {
                if there != keep {
                    let bytes = PAGE as u64;
                    self.allocated = if keep {
                        self.allocated + bytes
                    } else {
                        self.allocated - bytes
                    };
                }
                if there || keep {
                    *self.slot(page) = keep.then(|| Arc::clone(&ZEROS));
                }
            } else if (there || keep)
                && let Some(bytes) = self.page_mut(page).get_mut(start..start + take)
            {
                bytes.fill(0);
            }
        }
    }

    /// Allocates what is missing of a range; the bytes stay as they are.
    pub(super) fn reserve(&mut self, range: Range<u64>) {
        for (page, ..) in spans(range) {
            if self.page(page).is_none() {
                self.allocated += PAGE as u64;
                *self.slot(page) = Some(Arc::clone(&ZEROS));
            }
        }
    }

    /// Bytes of `range`, from its start, that can be written when `free` bytes of space are left.
    pub(super) fn fits(&self, range: Range<u64>, free: u64) -> u64 {
        let (mut fits, mut free) = (0, free);
        for (page, _, take) in spans(range) {
            if self.page(page).is_none() {
                if free < PAGE as u64 {
                    break;
                }
                free -= PAGE as u64;
            }
            fits += take as u64;
        }
        fits
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let page = PAGE as u64;
            let whole = len.next_multiple_of(page);
            self.zero(len..whole.min(self.len), false);
            let keep = (whole / page) as usize;
            if self.pages.len() > keep {
                let pages = Arc::make_mut(&mut self.pages);
                let gone = pages.drain(keep..).flatten().count();
                self.allocated -= (gone * PAGE) as u64;
            }
        }
        self.len = len;
    }

    /// Takes the pages that `range` touches, as they are in `other`.
    pub(super) fn take_pages(&mut self, other: &Self, range: Range<u64>) {
        for (page, ..) in spans(range) {
            let theirs = other.pages.get(page).cloned().flatten();
            let ours = self.page(page).is_some();
            match (ours, theirs.is_some()) {
                (false, false) => continue,
                (false, true) => self.allocated += PAGE as u64,
                (true, false) => self.allocated -= PAGE as u64,
                (true, true) => {}
            }
            *self.slot(page) = theirs;
        }
    }

    /// Whether the page that holds `sector` holds nothing but zeros for sure.
    pub(super) fn is_blank(&self, sector: u64) -> bool {
        let page = (sector * SECTOR as u64 / PAGE as u64) as usize;
        match self.pages.get(page) {
            Some(Some(page)) => Arc::ptr_eq(page, &ZEROS),
            _ => true,
        }
    }

    /// One sector, zeros where nothing is.
    pub(super) fn sector(&self, sector: u64) -> Sector {
        let at = sector * SECTOR as u64;
        let (page, start) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
        self.page(page)
            .and_then(|p| p.get(start..)?.first_chunk())
            .copied()
            .unwrap_or([0; SECTOR])
    }

    /// Replaces one sector; the length stays.
    pub(super) fn set_sector(&mut self, sector: u64, bytes: &Sector) {
        let at = sector * SECTOR as u64;
        let (page, start) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
        if self.page(page).is_none() && bytes.iter().all(|b| *b == 0) {
            return;
        }
        if let Some(room) = self.page_mut(page).get_mut(start..start + SECTOR) {
            room.copy_from_slice(bytes);
        }
    }

    /// Sets the length to `len` whatever lies behind it, which is cut off.
    pub(super) fn clip(&mut self, len: u64) {
        self.len = self.len.max(self.extent());
        self.set_len(len);
    }
}
