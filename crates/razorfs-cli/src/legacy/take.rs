//! Reading integers and strings off bytes, by their offset.

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
pub struct Take<'a> {
    bytes: &'a [u8],
    at: u64,
}

/// Fewer bytes are left than are needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short {
    /// Where they should begin.
    pub at: u64,
    /// How many are needed.
    pub need: u64,
    /// How many there are.
    pub left: u64,
}

impl Short {
    /// Says so, of what should have been there.
    pub fn say(self, what: &str) -> String {
        let Self { need, left, .. } = self;
        format!("{what} takes {need} bytes, and {left} are left")
    }
}

type Result<T> = std::result::Result<T, Short>;

impl<'a> Take<'a> {
    /// From the beginning of `bytes`, the first of which is at offset `at` of the file.
    pub const fn new(bytes: &'a [u8], at: u64) -> Self {
        Self { bytes, at }
    }

    /// Offset of the next byte.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// So many bytes.
    pub fn bytes(&mut self, need: u64) -> Result<&'a [u8]> {
        let left = self.bytes.len() as u64;
        let short = Short {
            at: self.at,
            need,
            left,
        };
        let n = usize::try_from(need).map_err(|_| short)?;
        let (head, tail) = self.bytes.split_at_checked(n).ok_or(short)?;
        (self.bytes, self.at) = (tail, self.at + need);
        Ok(head)
    }

    /// As many bytes as an array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let head = self.bytes(N as u64)?;
        // It has that many.
        Ok(head.first_chunk().copied().unwrap_or([0; N]))
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
