//! How many blocks share a frame. The bytes are told at the head of [`super`].
//!
//! A frame has either one *own* reference, which has no origin and is not counted here, or any
//! number of *shared* ones, all with an origin. Several fragments of one block count once.

use super::BLOCK;
use crate::error::{Place, Result};
use crate::pack::{FRAME_ALIGN, FRAME_HEADER_LEN, frame_len};
use crate::wire::{Put, Take};

/// A frame that blocks of several files may refer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Number of blocks that refer to it, at least 1; or [`Shared::KEPT`].
    pub count: u64,
    /// Bytes of the frame in its pack, header and padding included.
    pub bytes: u64,
}

impl Shared {
    /// Instead of a count: how many blocks refer to the frame is not known any more, and it stays
    /// for ever.
    pub const KEPT: u64 = u64::MAX;

    /// The encoding.
    #[must_use]
    pub fn to_bytes(self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(8);
        out.put_varint(self.count);
        out.put_varint(self.bytes);
        out.into()
    }

    /// Reads a record that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "shared frame");
        let start = t;
        let count = t.varint()?;
        if count == 0 {
            return Err(start.error("a count of at least 1", 0));
        }
        let at_bytes = t;
        let bytes = t.varint_max(frame_len(BLOCK))?;
        if bytes < FRAME_HEADER_LEN || !bytes.is_multiple_of(FRAME_ALIGN) {
            return Err(at_bytes.error("the bytes of a frame", bytes));
        }
        t.end()?;
        Ok(Self { count, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::FileName;

    const HERE: Place = Place::new(FileName::Super, 0);

    #[test]
    fn golden_bytes_of_a_shared_frame() {
        let shared = Shared {
            count: 300,
            bytes: frame_len(131_072),
        };
        let bytes = [0xac, 2, 0xb8, 0x80, 8];
        assert_eq!(*shared.to_bytes(), bytes);
        assert_eq!(Shared::decode(&bytes, HERE).unwrap(), shared);
    }

    #[test]
    fn what_no_flush_writes_is_refused() {
        let of = |count, bytes| Shared { count, bytes }.to_bytes();
        let good = of(1, 56);
        assert!(Shared::decode(&good, HERE).is_ok());
        for bad in [of(0, 56), of(1, 48), of(1, 60), of(1, frame_len(BLOCK) + 8)] {
            assert!(Shared::decode(&bad, HERE).is_err(), "{bad:?}");
        }
        assert!(Shared::decode(&good[..1], HERE).is_err());
        assert!(Shared::decode(&[&*good, &[0]].concat(), HERE).is_err());
    }

    proptest! {
        #[test]
        fn a_shared_frame_survives_its_encoding(count in 1..u64::MAX, stored in 0..=BLOCK) {
            let shared = Shared { count, bytes: frame_len(stored) };
            prop_assert_eq!(Shared::decode(&shared.to_bytes(), HERE).unwrap(), shared);
        }
    }
}
