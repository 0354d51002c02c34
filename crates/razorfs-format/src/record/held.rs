//! A frame that the head let go of and a snapshot holds. The bytes are told at the head of
//! [`super`].

use super::BLOCK;
use crate::error::{Place, Result};
use crate::ids::Epoch;
use crate::pack::{FRAME_ALIGN, FRAME_HEADER_LEN, frame_len};
use crate::wire::{Put, Take};

/// What is known of a frame whose last reference a flush took away. Together with the epoch of
/// that, which is in the key, its life: a snapshot that was taken in it shows the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Epoch in which it was written.
    pub birth: Epoch,
    /// Bytes of the frame in its pack, header and padding included.
    pub bytes: u64,
}

impl Held {
    /// The encoding.
    #[must_use]
    pub fn to_bytes(self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(8);
        out.put_varint(self.birth.0);
        out.put_varint(self.bytes);
        out.into()
    }

    /// Reads a record that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "held frame");
        let birth = Epoch(t.varint()?);
        let at_bytes = t;
        let bytes = t.varint_max(frame_len(BLOCK))?;
        if bytes < FRAME_HEADER_LEN || !bytes.is_multiple_of(FRAME_ALIGN) {
            return Err(at_bytes.error("the bytes of a frame", bytes));
        }
        t.end()?;
        Ok(Self { birth, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::FileName;

    const HERE: Place = Place::new(FileName::Super, 0);

    #[test]
    fn golden_bytes_of_a_held_frame() {
        let held = Held {
            birth: Epoch(300),
            bytes: frame_len(131_072),
        };
        let bytes = [0xac, 2, 0xb8, 0x80, 8];
        assert_eq!(*held.to_bytes(), bytes);
        assert_eq!(Held::decode(&bytes, HERE).unwrap(), held);
    }

    #[test]
    fn what_no_flush_writes_is_refused() {
        let of = |bytes| {
            Held {
                birth: Epoch(1),
                bytes,
            }
            .to_bytes()
        };
        assert!(Held::decode(&of(56), HERE).is_ok());
        for bad in [of(48), of(60), of(frame_len(BLOCK) + 8)] {
            assert!(Held::decode(&bad, HERE).is_err(), "{bad:?}");
        }
        assert!(Held::decode(&of(56)[..1], HERE).is_err());
        assert!(Held::decode(&[&*of(56), &[0]].concat(), HERE).is_err());
    }

    proptest! {
        #[test]
        fn a_held_frame_survives_its_encoding(birth in any::<u64>(), stored in 0..=BLOCK) {
            let held = Held { birth: Epoch(birth), bytes: frame_len(stored) };
            prop_assert_eq!(Held::decode(&held.to_bytes(), HERE).unwrap(), held);
        }
    }
}
