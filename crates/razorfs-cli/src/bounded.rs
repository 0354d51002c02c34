//! A bound to what is read of the headers of a tar, which are held in memory: a few compressed
//! bytes can become many.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes of the headers of one entry: names, attributes of 64 KiB each, and more than anybody has.
const HEADERS_MAX: u64 = 64 << 20;

/// How much may be read until the next call.
#[derive(Clone)]
pub struct Bound(Rc<Cell<u64>>);

impl Bound {
    /// The headers of an entry follow, after `unread` bytes of the entry before.
    pub fn headers(&self, unread: u64) {
        self.0.set(unread.saturating_add(HEADERS_MAX));
    }

    /// The data of an entry follow, which go to the disk piece by piece.
    pub fn data(&self) {
        self.0.set(u64::MAX);
    }
}

/// Reads as `R` does, within the bound.
pub struct Bounded<R> {
    inner: R,
    bound: Bound,
}

impl<R: Read> Bounded<R> {
    /// Without a bound until one is set.
    pub fn new(inner: R) -> (Self, Bound) {
        let bound = Bound(Rc::new(Cell::new(u64::MAX)));
        let reader = Self {
            inner,
            bound: bound.clone(),
        };
        (reader, bound)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.bound.0.get();
        if left == 0 {
            return Err(io::Error::other("the header of an entry is too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        // `most` is within the buffer, so nothing is left out here.
        let n = self.inner.read(buf.get_mut(..most).unwrap_or_default())?;
        if left != u64::MAX {
            self.bound.0.set(left.saturating_sub(n as u64));
        }
        Ok(n)
    }
}
