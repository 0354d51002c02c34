//! Giving memory back to the host.
#![expect(unsafe_code, reason = "the allocator is the system's")]

/// Gives back what was let go of. The threads of a mount have buffers of 1 MiB each, which the
/// allocator would keep for threads that may never come.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it looks at nothing but memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
