use proptest::prelude::*;
use razorfs::{Entry, FileKind, Ino};

use super::*;

/// A message: header and body.
fn message(opcode: u32, body: &[u8], extensions: u16) -> Vec<u8> {
    let mut out = Vec::new();
    out.u32((IN_HEADER + body.len()) as u32);
    out.u32(opcode);
    for v in [77, 5] {
        out.u64(v);
    }
    for v in [1000, 100, 4242] {
        out.u32(v);
    }
    out.u16(extensions);
    out.u16(0);
    out.extend_from_slice(body);
    out
}

const DIALECT: Dialect = Dialect { setxattr_ext: true };

proptest! {
    #[test]
    fn any_bytes_give_a_request_or_an_error(bytes: Vec<u8>, ext: bool) {
        let _ = parse(&bytes, Dialect { setxattr_ext: ext });
    }

    #[test]
    fn any_body_of_any_kind_gives_a_request_or_an_error(
        opcode in 0u32..60,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        extensions in 0u16..4,
    ) {
        if let Ok(request) = parse(&message(opcode, &body, extensions), DIALECT) {
            prop_assert_eq!(request.header.unique, 77);
            // Whatever is lazy must stop as well.
            if let Operation::BatchForget(forgotten) = request.operation {
                prop_assert!(forgotten.count() * 16 <= body.len());
            }
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_refused(cut in 1usize..60) {
        let mut body = Vec::new();
        body.u64(9);
        body.u32(2);
        body.u32(0);
        body.extend_from_slice(b"from\0to\0");
        let whole = message(opcode::RENAME2, &body, 0);
        let cut = whole.len().saturating_sub(cut);
        prop_assert!(parse(&whole[..cut], DIALECT).is_err());
    }
}

#[test]
fn a_rename_is_read() {
    let mut body = Vec::new();
    body.u64(9);
    body.u32(2);
    body.u32(0);
    body.extend_from_slice(b"from\0to\0");
    // An extension at the end is passed over.
    body.u64(0);
    let bytes = message(opcode::RENAME2, &body, 1);
    let request = parse(&bytes, DIALECT).unwrap();
    assert_eq!((request.header.node, request.header.uid), (5, 1000));
    let Operation::Rename {
        name,
        new_parent,
        new_name,
        flags,
    } = request.operation
    else {
        panic!("{request:?}");
    };
    assert_eq!(
        (name, new_parent, new_name, flags),
        (&b"from"[..], 9, &b"to"[..], 2)
    );
}

#[test]
fn a_write_that_claims_more_than_it_brings_is_refused() {
    let mut body = vec![0; 16];
    body.u32(100);
    body.zeros(20);
    body.zeros(99);
    assert!(parse(&message(opcode::WRITE, &body, 0), DIALECT).is_err());
    body.zeros(1);
    assert!(parse(&message(opcode::WRITE, &body, 0), DIALECT).is_ok());
}

#[test]
fn nothing_is_promised_that_the_kernel_does_not_have() {
    let mut offer = InitIn {
        major: 7,
        minor: 36,
        max_readahead: 1 << 17,
        flags: u64::MAX,
    };
    let (reply, negotiated) = negotiate(&offer, &Limits::default()).unwrap();
    let negotiated = negotiated.unwrap();
    assert_eq!((reply.len(), negotiated.minor), (64, 36));
    assert!(negotiated.flags & flags::NO_OPEN_SUPPORT != 0);
    // Lists cannot be inherited where the kernel has applied the umask before.
    let lists = flags::POSIX_ACL | flags::DONT_MASK;
    assert_eq!(negotiated.flags & lists, lists);
    assert!(negotiated.flags & flags::ATOMIC_O_TRUNC == 0);
    offer.flags = flags::ASYNC_READ;
    let (_, negotiated) = negotiate(&offer, &Limits::default()).unwrap();
    assert_eq!(negotiated.unwrap().flags, flags::ASYNC_READ);
    offer.minor = 30;
    assert!(negotiate(&offer, &Limits::default()).is_err());
    offer.major = 8;
    let (_, negotiated) = negotiate(&offer, &Limits::default()).unwrap();
    assert!(negotiated.is_none());
}

#[test]
fn a_directory_buffer_stops_at_its_size() {
    let entry = Entry {
        cookie: 256,
        ino: Ino(16),
        kind: FileKind::Regular,
        name: b"123456789"[..].into(),
    };
    let mut out = Vec::new();
    for (plus, len) in [(false, 40), (true, 168)] {
        assert_eq!(DirectoryBuffer::entry_len(9, plus), len);
        let mut buffer = DirectoryBuffer::new(&mut out, 2 * len + 1, plus);
        assert!(buffer.push(&entry, None, Validity::default()));
        assert!(buffer.push(&entry, None, Validity::default()));
        assert!(!buffer.push(&entry, None, Validity::default()));
        assert_eq!(out.len(), 2 * len);
    }
}
