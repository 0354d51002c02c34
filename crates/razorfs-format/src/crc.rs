//! CRC-32C (Castagnoli), in hardware where the processor has it, seeded with identity and place.
//!
//! Every checksum of the format covers, before the bytes themselves, the numbers that say which
//! bytes these are (volume, file, offset, …). So bytes that are intact but stale, misplaced or of
//! another volume fail just as damaged ones do.

use crc_fast::{CrcAlgorithm, Digest};

/// A CRC-32C under way.
#[derive(Clone)]
pub struct Crc(Digest);

impl Crc {
    /// Starts a checksum with the identity of the bytes, eight bytes little endian each.
    #[must_use]
    pub fn seeded(identity: &[u64]) -> Self {
        let mut crc = Self(Digest::new(CrcAlgorithm::Crc32Iscsi));
        for part in identity {
            crc.0.update(&part.to_le_bytes());
        }
        crc
    }

    /// Adds bytes.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// Adds bytes, in place.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    #[must_use]
    pub fn finish(self) -> u32 {
        // CRC-32C has 32 bits; the digest answers in 64.
        self.0.finalize() as u32
    }
}

/// The checksum of `bytes` under `identity`.
#[must_use]
pub fn crc32c(identity: &[u64], bytes: &[u8]) -> u32 {
    Crc::seeded(identity).with(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_castagnoli_crc() {
        // The check value of CRC-32/ISCSI (RFC 3720, appendix B.4).
        assert_eq!(crc32c(&[], b"123456789"), 0xE306_9283);
    }

    #[test]
    fn identity_is_part_of_it() {
        assert_ne!(crc32c(&[1], b"x"), crc32c(&[2], b"x"));
        let by_hand = [7u64.to_le_bytes().as_slice(), b"ab"].concat();
        assert_eq!(crc32c(&[7], b"ab"), crc32c(&[], &by_hand));
    }
}
