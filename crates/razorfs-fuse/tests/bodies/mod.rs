//! Messages of a hostile kernel. The seeded test and the fuzz target `fuse` call [`request`].
#![allow(dead_code, reason = "each user takes a part of it")]

use razorfs_fuse::protocol::{Dialect, IN_HEADER, Limits, Operation, header_of, negotiate, parse};

/// Parses the bytes as they are, and as a message whose header is right.
pub fn request(data: &[u8]) {
    for setxattr_ext in [false, true] {
        let dialect = Dialect { setxattr_ext };
        one(data, dialect);
        let mut message = data.to_vec();
        message.resize(message.len().max(IN_HEADER), 0);
        let len = message.len() as u32;
        message[..4].copy_from_slice(&len.to_ne_bytes());
        let opcode = u32::from(message[4] % 64);
        message[4..8].copy_from_slice(&opcode.to_ne_bytes());
        // Mostly no extensions.
        if message[36] > 8 {
            message[36..38].fill(0);
        }
        one(&message, dialect);
    }
}

/// What fuzzing begins with: a message of each operation, with room for its arguments and names.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |opcode: u8| {
        let mut message = vec![0; IN_HEADER];
        message[4] = opcode;
        message.extend([7, 0, 0, 0, 0, 0, 0, 0].repeat(usize::from(opcode % 9)));
        message.extend_from_slice(b"name\0other\0");
        message
    };
    (0..64).map(seed).collect()
}

fn one(message: &[u8], dialect: Dialect) {
    let header = header_of(message);
    match parse(message, dialect) {
        Ok(request) => {
            assert_eq!(Some(request.header), header);
            assert!(request.header.len as usize == message.len());
            if let Operation::BatchForget(pairs) = request.operation {
                assert!(pairs.count() * 16 <= message.len());
            }
            if let Operation::Init(offer) = &request.operation {
                let limits = Limits {
                    max_write: 1 << 20,
                    max_background: u16::MAX,
                    without: 0,
                    ..Limits::default()
                };
                let _ = negotiate(offer, &limits);
            }
            assert!(!format!("{request:?}").is_empty());
        }
        Err(malformed) => {
            assert_eq!(malformed.len, message.len());
            assert!(!malformed.to_string().is_empty());
        }
    }
}
