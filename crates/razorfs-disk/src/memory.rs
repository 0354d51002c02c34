//! Memory that may outlive the process that writes to it.

use std::sync::atomic::AtomicU64;

/// Words of memory, zero at first. What is stored in them stays when the process ends, if the
/// memory outlives it: [`crate::os::SharedMemory`] does as long as anybody holds its descriptor,
/// [`Ram`] as long as anybody holds the value.
pub trait Memory: Send + Sync + std::fmt::Debug {
    /// The words.
    fn words(&self) -> &[AtomicU64];
    /// Gives the host's memory behind these words back, where that can be done; they are zero then,
    /// or as they were.
    fn give_back(&self, _first: usize, _count: usize) {}
}

/// Memory of this process, for tests and simulations.
#[derive(Debug)]
pub struct Ram(Box<[AtomicU64]>);

impl Ram {
    /// So many bytes, in whole words.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self((0..bytes / 8).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Memory for Ram {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl<M: Memory + ?Sized> Memory for std::sync::Arc<M> {
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }

    fn give_back(&self, first: usize, count: usize) {
        (**self).give_back(first, count);
    }
}
