//! Reading and writing of plain integers, varints and byte strings.
//!
//! A varint is LEB128: seven bits a byte, least significant first, at most ten bytes, and only in
//! its shortest form. A byte string is a varint length and the bytes.

use crate::error::{FormatError, Place, Result};

/// Appends integers and byte strings to a vector.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, v: u8);
    /// Two bytes, little endian.
    fn put_u16(&mut self, v: u16);
    /// Four bytes, little endian.
    fn put_u32(&mut self, v: u32);
    /// Eight bytes, little endian.
    fn put_u64(&mut self, v: u64);
    /// A varint.
    fn put_varint(&mut self, v: u64);
    /// A signed varint, zigzag encoded.
    fn put_signed(&mut self, v: i64);
    /// A byte string: varint length, then the bytes.
    fn put_bytes(&mut self, v: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }
    fn put_u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.push(v as u8);
    }
    fn put_signed(&mut self, v: i64) {
        self.put_varint(((v << 1) ^ (v >> 63)) as u64);
    }
    fn put_bytes(&mut self, v: &[u8]) {
        self.put_varint(v.len() as u64);
        self.extend_from_slice(v);
    }
}

/// Number of bytes that `v` takes as a varint.
#[must_use]
pub const fn varint_len(v: u64) -> usize {
    let bits = 64 - (v | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// A cursor over untrusted bytes that knows where they came from.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a> {
    bytes: &'a [u8],
    place: Place,
    what: &'static str,
}

impl<'a> Take<'a> {
    /// Reads `bytes`, which stand at `place` and are meant to be a `what`.
    #[must_use]
    pub const fn new(bytes: &'a [u8], place: Place, what: &'static str) -> Self {
        Self { bytes, place, what }
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the next byte stands.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// An error at the next byte.
    #[must_use]
    pub fn error(&self, expected: impl ToString, got: impl ToString) -> FormatError {
        self.place.error(self.what, expected, got)
    }

    /// The next `n` bytes.
    pub fn slice(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(n) {
            Some((head, tail)) => {
                self.bytes = tail;
                self.place = self.place.plus(n as u64);
                Ok(head)
            }
            None => Err(self.error(
                format_args!("{n} more bytes"),
                format_args!("{} bytes", self.bytes.len()),
            )),
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.bytes.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.bytes = tail;
                self.place = self.place.plus(N as u64);
                Ok(*head)
            }
            None => Err(self.error(
                format_args!("{N} more bytes"),
                format_args!("{} bytes", self.bytes.len()),
            )),
        }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A varint; one that is not in its shortest form, or exceeds 64 bits, is an error.
    pub fn varint(&mut self) -> Result<u64> {
        let start = *self;
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            v |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(start.error("a varint in its shortest form", "a longer one"));
                }
                return Ok(v);
            }
        }
        Err(start.error("a varint of at most 64 bits", "a longer one"))
    }

    /// A varint that must not exceed `max`.
    pub fn varint_max(&mut self, max: u64) -> Result<u64> {
        let start = *self;
        let v = self.varint()?;
        if v > max {
            return Err(start.error(format_args!("at most {max}"), v));
        }
        Ok(v)
    }

    /// A varint that fits 32 bits.
    pub fn varint32(&mut self) -> Result<u32> {
        // The bound makes the conversion exact.
        Ok(self.varint_max(u64::from(u32::MAX))? as u32)
    }

    /// A signed varint.
    pub fn signed(&mut self) -> Result<i64> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let n = self.varint_max(max as u64)?;
        self.slice(n as usize)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(self.error("the end", format_args!("{} more bytes", self.bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FileName;
    use proptest::prelude::*;

    fn take(bytes: &[u8]) -> Take<'_> {
        Take::new(bytes, Place::new(FileName::Super, 0), "test")
    }

    proptest! {
        #[test]
        fn integers_read_back(a: u64, b: i64, s: Vec<u8>) {
            let mut v = Vec::new();
            v.put_varint(a);
            prop_assert_eq!(v.len(), varint_len(a));
            v.put_signed(b);
            v.put_bytes(&s);
            let mut t = take(&v);
            prop_assert_eq!(t.varint().unwrap(), a);
            prop_assert_eq!(t.signed().unwrap(), b);
            prop_assert_eq!(t.bytes(s.len()).unwrap(), &s[..]);
            t.end().unwrap();
        }

        #[test]
        fn any_bytes_give_an_answer(bytes: Vec<u8>) {
            let mut t = take(&bytes);
            while !t.is_empty() && t.varint().is_ok() {}
        }
    }

    #[test]
    fn a_long_form_is_refused() {
        assert!(take(&[0x80, 0x00]).varint().is_err());
        assert!(take(&[0xff; 11]).varint().is_err());
        assert_eq!(
            take(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).varint(),
            Ok(u64::MAX)
        );
    }
}
