//! What a tar is read through. Its headers, which are held in memory, have a bound: a few
//! compressed bytes can become many. And the data of an entry can be read past whoever reads the
//! tar, who steps over them later: the zeros of a sparse file would be read one by one otherwise.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes of the headers of one entry: names, attributes of 64 KiB each, and more than anybody has.
const HEADERS_MAX: u64 = 64 << 20;

/// What the two ends share.
struct Shared<R> {
    inner: RefCell<R>,
    /// How much may be read until the next call.
    left: Cell<u64>,
    /// How much comes before the next header.
    before: Cell<u64>,
    /// The headers of the entry.
    headers: RefCell<Vec<u8>>,
    /// Bytes that the archive has read.
    read: Cell<u64>,
    /// Bytes that it has not, and that are gone already.
    past: Cell<u64>,
    /// Where the data of the entry begin.
    data: Cell<u64>,
}

/// The reader of an archive.
pub struct Bounded<R>(Rc<Shared<R>>);

/// Tells what the reader reads.
pub struct Bound<R>(Rc<Shared<R>>);

impl<R: Read> Bounded<R> {
    /// Without a bound until one is set.
    pub fn new(inner: R) -> (Self, Bound<R>) {
        let shared = Rc::new(Shared {
            inner: RefCell::new(inner),
            left: Cell::new(u64::MAX),
            before: Cell::new(0),
            headers: RefCell::default(),
            read: Cell::new(0),
            past: Cell::new(0),
            data: Cell::new(0),
        });
        (Self(Rc::clone(&shared)), Bound(shared))
    }
}

impl<R: Read> Bound<R> {
    /// The headers of an entry follow, after what is unread of the `stored` bytes of the entry
    /// before.
    pub fn headers(&self, stored: u64) {
        let shared = &self.0;
        let read = shared.read.get().saturating_sub(shared.data.get());
        let gone = read.saturating_add(shared.past.get());
        let unread = stored.saturating_sub(gone);
        shared.before.set(unread);
        shared.left.set(unread.saturating_add(HEADERS_MAX));
        shared.headers.borrow_mut().clear();
    }

    /// The data of an entry follow, which go to the disk piece by piece.
    pub fn data(&self) {
        self.0.left.set(u64::MAX);
        self.0.data.set(self.0.read.get());
    }

    /// The headers of the entry, from an offset of the archive on.
    pub fn headers_from(&self, offset: u64) -> Vec<u8> {
        let headers = self.0.headers.borrow();
        let wanted = self.0.data.get().saturating_sub(offset);
        let start = headers.len().saturating_sub(wanted as usize);
        headers.get(start..).unwrap_or_default().to_vec()
    }

    /// The data of the entry, for whoever reads them instead of the archive.
    pub fn past(&self) -> Past<R> {
        Past(Rc::clone(&self.0))
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let shared = &*self.0;
        let (left, past) = (shared.left.get(), shared.past.get());
        if left == 0 {
            return Err(io::Error::other("the header of an entry is too long"));
        }
        let bound = if past > 0 { past } else { left };
        let most = usize::try_from(bound).unwrap_or(usize::MAX).min(buf.len());
        // `most` is within the buffer, so nothing is left out here.
        let buf = buf.get_mut(..most).unwrap_or_default();
        if past > 0 {
            // It steps over them, and does not look.
            buf.fill(0);
            shared.past.set(past.saturating_sub(most as u64));
            shared.read.set(shared.read.get() + most as u64);
            return Ok(most);
        }
        let n = shared.inner.borrow_mut().read(buf)?;
        shared.read.set(shared.read.get() + n as u64);
        if left != u64::MAX {
            shared.left.set(left.saturating_sub(n as u64));
            let before = shared.before.get();
            shared.before.set(before.saturating_sub(n as u64));
            let header = buf.get(..n).and_then(|read| read.get(before as usize..));
            let header = header.unwrap_or_default();
            shared.headers.borrow_mut().extend_from_slice(header);
        }
        Ok(n)
    }
}

/// The data of an entry.
pub struct Past<R>(Rc<Shared<R>>);

impl<R: Read> Read for Past<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.inner.borrow_mut().read(buf)?;
        self.0.past.set(self.0.past.get() + n as u64);
        Ok(n)
    }
}
