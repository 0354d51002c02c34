//! Descriptors: those that whoever called us has left open, and how many we may have.
#![expect(
    unsafe_code,
    reason = "the descriptors belong to nothing in this program"
)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{COULD_NOT_RUN, Failure, Result};

/// A daemon needs so many descriptors: about ten threads use one file each at a time, and each
/// command that asks it something takes one.
const NEEDED: u64 = 64;

/// Allows this process and those that it starts as many descriptors as may be, and fails if that is
/// too few to serve a mount with.
pub fn have_enough() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let may = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match may {
        Some(most) if most < NEEDED => Err(Failure::new(format!(
            "cannot mount: only {most} open files are allowed here and {NEEDED} are needed; raise \
             the limit, as with `ulimit -n 1024`"
        ))
        .code(COULD_NOT_RUN)),
        _ => Ok(()),
    }
}

/// Keeps the descriptors that are open, but for the standard ones, from the programs that we start:
/// a daemon would hold a lock of flock(1), or the end of somebody's pipe, for as long as it lives.
pub fn keep_to_ourselves() {
    const CLOSE_ON_EXEC: libc::c_uint = 1 << 2;
    // SAFETY: no memory is passed, and nothing is closed here. Kernels before 5.11 do not know the
    // call; descriptors are inherited there.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_ON_EXEC);
    }
}
