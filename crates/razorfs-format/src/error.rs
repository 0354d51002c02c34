//! What a decoder answers when the bytes are not what they should be.

use crate::layout::FileName;

/// Where bytes were read: the file of the volume and the offset of their first byte in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file inside the volume.
    pub file: FileName,
    /// Offset of the first byte handed to the decoder, in bytes.
    pub offset: u64,
}

impl Place {
    /// `file` at `offset`.
    #[must_use]
    pub const fn new(file: FileName, offset: u64) -> Self {
        Self { file, offset }
    }

    /// This place moved forward by `by` bytes.
    #[must_use]
    pub const fn plus(self, by: u64) -> Self {
        Self {
            file: self.file,
            offset: self.offset.saturating_add(by),
        }
    }

    /// An error at this place.
    #[must_use]
    pub fn error(
        self,
        what: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> FormatError {
        FormatError(Box::new(Mismatch {
            place: self,
            what,
            expected: expected.to_string(),
            got: got.to_string(),
        }))
    }
}

/// Bytes that are not what the format says. Boxed: it travels in every decoder's result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub Box<Mismatch>);

/// The fields of a [`FormatError`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Where.
    pub place: Place,
    /// Which struct and field.
    pub what: &'static str,
    /// What the format demands.
    pub expected: String,
    /// What was found.
    pub got: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            place,
            what,
            expected,
            got,
        } = self;
        write!(
            f,
            "{}: {what} at byte {}: expected {expected}, got {got}",
            place.file, place.offset
        )
    }
}

/// Result of a decoder.
pub type Result<T> = std::result::Result<T, FormatError>;
