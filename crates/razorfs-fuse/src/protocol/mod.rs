//! The FUSE protocol, version 7: bytes to typed requests, typed answers to bytes. No I/O.
//!
//! [`parse`] takes any bytes and never panics: every size is checked before use. Integers are in
//! the byte order of the machine, as the kernel is on the same one.

mod init;
pub mod opcode;
mod reply;
mod request;
mod take;

#[cfg(test)]
mod tests;

pub use init::{Agreed, Dialect, InitIn, Limits, Negotiated, Unusable, flags, negotiate};
pub use reply::{
    DirectoryBuffer, Encode, REPLY_HEADER, Validity, put_attributes, put_entry, put_ioctl,
    put_negative_entry, put_notification, put_open, put_size, put_statfs, put_statx, put_u64,
    put_write, reply_header,
};
pub use request::{
    Forget, Header, IN_HEADER, Malformed, Operation, RESENT, Request, SetAttr, data_of, flag,
    header_of, is_first_sent, parse,
};
