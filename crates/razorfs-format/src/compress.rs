//! Compression of frames and of segment blocks.
//!
//! Compressed bytes are kept only where they save at least an eighth; a reader of bytes that
//! hardly shrink would pay for nothing. Decompression is bounded by the length that the reader
//! expects, whatever the bytes say.

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use crate::error::{Place, Result};
use crate::record::Codec;

/// How to compress.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: costs little.
    #[default]
    Lz4,
    /// Zstandard at this level: smaller, slower.
    Zstd(i32),
}

/// Bytes shorter than this are not worth a try.
const MIN: usize = 128;

/// The state that is costly to make anew for each block.
#[derive(Default)]
struct Scratch {
    table: CompressTable,
    zstd: Option<(i32, zstd::bulk::Compressor<'static>)>,
    unzstd: Option<zstd::bulk::Decompressor<'static>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Compresses `raw` into `out`, whose content is replaced. Answers the codec whose bytes `out`
/// now holds, or [`Codec::None`], `out` empty, where compression saves less than an eighth.
pub fn compress(how: Compression, raw: &[u8], out: &mut Vec<u8>) -> Codec {
    out.clear();
    if raw.len() < MIN {
        return Codec::None;
    }
    let codec = match how {
        Compression::None => return Codec::None,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd(_) => Codec::Zstd,
    };
    let written = SCRATCH.with_borrow_mut(|scratch| match how {
        Compression::None => None,
        Compression::Lz4 => {
            out.resize(get_maximum_output_size(raw.len()), 0);
            compress_into_with_table(raw, out, &mut scratch.table).ok()
        }
        Compression::Zstd(level) => scratch.zstd(level, raw, out),
    });
    match written {
        Some(len) if len <= raw.len() - raw.len() / 8 => {
            out.truncate(len);
            codec
        }
        _ => {
            out.clear();
            Codec::None
        }
    }
}

impl Scratch {
    fn zstd(&mut self, level: i32, raw: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if self.zstd.as_ref().is_none_or(|(l, _)| *l != level) {
            self.zstd = Some((level, zstd::bulk::Compressor::new(level).ok()?));
        }
        let (_, compressor) = self.zstd.as_mut()?;
        // Room for what is worth keeping and no more: the compressor gives up when it is full.
        out.resize(raw.len() - raw.len() / 8, 0);
        compressor.compress_to_buffer(raw, out.as_mut_slice()).ok()
    }

    fn unzstd(&mut self, stored: &[u8], out: &mut [u8]) -> std::io::Result<usize> {
        if self.unzstd.is_none() {
            self.unzstd = Some(zstd::bulk::Decompressor::new()?);
        }
        match self.unzstd.as_mut() {
            Some(d) => d.decompress_to_buffer(stored, out),
            None => Ok(0),
        }
    }
}

/// Decompresses `stored`, which stands at `place`, into `out`, which it must fill exactly.
/// Never writes or allocates more than that.
pub fn decompress(codec: Codec, stored: &[u8], out: &mut [u8], place: Place) -> Result<()> {
    let expected = out.len();
    let written = match codec {
        Codec::None => {
            if stored.len() != out.len() {
                return Err(place.error("raw bytes", expected, stored.len()));
            }
            out.copy_from_slice(stored);
            return Ok(());
        }
        Codec::Lz4 => lz4_flex::block::decompress_into(stored, out)
            .map_err(|e| place.error("LZ4 block", format_args!("{expected} bytes"), e))?,
        Codec::Zstd => SCRATCH
            .with_borrow_mut(|scratch| scratch.unzstd(stored, out))
            .map_err(|e| place.error("zstd frame", format_args!("{expected} bytes"), e))?,
    };
    if written != expected {
        return Err(place.error("decompressed length", expected, written));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FileName;
    use proptest::prelude::*;

    const HERE: Place = Place::new(FileName::Super, 0);
    const WAYS: [Compression; 3] = [Compression::Lz4, Compression::Zstd(1), Compression::Zstd(5)];

    fn compressible() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec(any::<u8>(), 1..64), 1..4000usize)
            .prop_map(|(word, times)| word.repeat(times))
    }

    proptest! {
        #[test]
        fn what_was_compressed_reads_back(raw in compressible()) {
            for how in WAYS {
                let mut out = vec![7; 3];
                let codec = compress(how, &raw, &mut out);
                if codec == Codec::None {
                    prop_assert!(out.is_empty());
                    continue;
                }
                prop_assert!(out.len() <= raw.len() - raw.len() / 8);
                let mut back = vec![0; raw.len()];
                decompress(codec, &out, &mut back, HERE).unwrap();
                prop_assert_eq!(&back, &raw);
                // One byte too many or too few is an error, not a shorter answer.
                prop_assert!(decompress(codec, &out, &mut vec![0; raw.len() + 1], HERE).is_err());
                let mut short = vec![0; raw.len() - 1];
                prop_assert!(decompress(codec, &out, &mut short, HERE).is_err());
            }
        }

        #[test]
        fn any_bytes_give_an_answer(bytes: Vec<u8>, len in 0..5000usize) {
            for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
                let _ = decompress(codec, &bytes, &mut vec![0; len], HERE);
            }
        }

        #[test]
        fn damaged_streams_give_an_answer(raw in compressible(), at: prop::sample::Index, x: u8) {
            for how in WAYS {
                let mut out = Vec::new();
                let codec = compress(how, &raw, &mut out);
                if codec != Codec::None {
                    let at = at.index(out.len());
                    out[at] ^= x;
                    let _ = decompress(codec, &out, &mut vec![0; raw.len()], HERE);
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut x = 1u64;
        let noise: Vec<u8> = (0..65536)
            .map(|_| {
                x = x
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (x >> 56) as u8
            })
            .collect();
        for how in WAYS {
            let mut out = Vec::new();
            assert_eq!(compress(how, &noise, &mut out), Codec::None);
            assert!(out.is_empty());
        }
    }
}
