//! A cursor over a message of the kernel.

/// What a message lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Short;

pub(super) type Result<T> = std::result::Result<T, Short>;

/// Reads integers of the machine's byte order and strings that end with NUL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_ne_bytes)
    }

    /// The next `n` bytes.
    pub(super) fn slice(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = tail;
        Ok(head)
    }

    /// Passes over `n` bytes that nothing is read from.
    pub(super) fn skip(&mut self, n: usize) -> Result<()> {
        self.slice(n).map(drop)
    }

    /// The bytes up to a NUL, which is passed over.
    pub(super) fn string(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(Short)?;
        let text = self.slice(end)?;
        self.skip(1)?;
        Ok(text)
    }
}
