//! What is done with volumes of hostile bytes. The seeded tests and the fuzz targets `volume`,
//! `replay` and `stream` call the functions that have these names; whoever includes this folder has
//! `common` beside it.
#![allow(dead_code, reason = "each user takes a part of it")]

pub mod replay;
pub mod stream;
pub mod volume;

use crate::common::Rng;

/// Input number `seed`: a choice, and what it is made of.
pub fn input(seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut input = vec![seed as u8];
    let len = rng.below([200, 600][(seed / 8 % 2) as usize]) as usize;
    input.extend(rng.bytes(len));
    input
}

/// What fuzzing begins with.
pub fn seeds() -> impl Iterator<Item = Vec<u8>> {
    (0..40).map(input)
}

/// Hands out the bytes of an input piece by piece; zeros when they are used up.
pub struct Source<'a>(pub &'a [u8]);

impl<'a> Source<'a> {
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        })
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn slice(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
