//! What a decoder takes is bounded by its input: no length that is written in it is believed. Alone
//! in its process, which counts what is allocated.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bodies;
mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use samples::Rng;

/// The system's allocator, counted.
struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "there is no other way to see what is allocated")]
// SAFETY: all is done by the system's allocator, with what it was asked.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        more(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The most that `work` has at once.
fn most(work: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    work();
    MOST.load(Ordering::Relaxed) - before
}

/// What may be taken however short an input is: the largest block that is compressed is read into
/// a buffer of its size, and frames are looked for in pieces of a MiB.
const FIXED: usize = 2 << 20;
/// The body of parity makes what it then damages.
const PARITY: usize = 16 << 20;
/// Bytes for each byte of the input: what was read, encoded anew and compared.
const EACH: usize = 16;

#[test]
fn what_is_allocated_is_bounded_by_the_bytes_that_are_read() {
    assert!(most(|| drop(std::hint::black_box(vec![0u8; 5000]))) >= 5000);
    for (name, body) in bodies::ROOMS.iter().flat_map(|(_, bodies)| *bodies) {
        let valid = samples::of(name);
        let fixed = match *name {
            "parity" => PARITY,
            _ => FIXED,
        };
        for seed in 0..1000 {
            let input = samples::input(&valid, &mut Rng::of(name, seed));
            let took = most(|| body(&input));
            let len = input.len();
            assert!(
                took <= fixed + EACH * len,
                "{name}, seed {seed}: {took} bytes for an input of {len}"
            );
        }
    }
}
