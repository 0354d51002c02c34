//! FS_IOC_SHUTDOWN: cuts the volume off from its disk, for tests of what a crash leaves.
//!
//! The ioctl hands its flags in, but its number says that it hands something out; so the kernel
//! does not bring them to us, and we fetch them from the caller's memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::{Errno, Operations, Result};
use crate::protocol::{self, Header};
use crate::transport::Reply;

/// Everything done before is made durable first: the default, and "flush the log".
const FLUSHING: [u32; 2] = [0, 1];
/// What is not durable is lost.
const NOT_FLUSHING: u32 = 2;

impl Operations {
    pub(super) fn shut_down(&self, caller: &Header, arg: u64, reply: Reply) {
        let flags = match self.shutdown_flags(caller, arg) {
            Ok(flags) => flags,
            Err(e) => return self.fail(e, reply),
        };
        let fs = Arc::clone(&self.fs);
        let end = move |reply: Reply| {
            tracing::warn!(flags, "a program shuts the volume down");
            let mut out = Vec::new();
            protocol::put_ioctl(&mut out, &[]);
            match fs.shut_down() {
                Ok(()) => {
                    reply.bytes(&out);
                }
                Err(e) => {
                    reply.error(e.errno());
                }
            }
        };
        if flags == NOT_FLUSHING {
            return end(reply);
        }
        self.fs.sync_then(Box::new(move |result| match result {
            Ok(()) => end(reply),
            Err(e) => {
                reply.error(e.errno());
            }
        }));
    }

    /// What the caller asks for, if it may.
    fn shutdown_flags(&self, caller: &Header, arg: u64) -> Result<u32> {
        let own = rustix::process::geteuid().as_raw();
        if caller.uid != 0 && caller.uid != own {
            return Err(Errno(libc::EPERM));
        }
        let mut flags = [0; 4];
        let memory = File::open(format!("/proc/{}/mem", caller.pid));
        let read = memory.and_then(|memory| memory.read_exact_at(&mut flags, arg));
        if let Err(e) = read {
            tracing::warn!("the flags of FS_IOC_SHUTDOWN cannot be read: {e}");
            return Err(Errno(libc::EPERM));
        }
        let flags = u32::from_ne_bytes(flags);
        if FLUSHING.contains(&flags) || flags == NOT_FLUSHING {
            Ok(flags)
        } else {
            Err(Errno(libc::EINVAL))
        }
    }
}
