//! How fast checksums are.

use razorfs_format::crc::crc32c;
use serde_json::{Value, json};

use crate::clock::Stopwatch;

/// Bytes that a checksum is over: a record, a page, a block of data.
const SIZES: [usize; 3] = [512, 4096, 128 << 10];
/// Bytes that are summed up for each size.
const TOTAL: usize = 1 << 30;

/// GB/s for each size.
pub struct Rates(Vec<(usize, f64)>);

impl Rates {
    pub fn measure() -> Self {
        let bytes: Vec<u8> = (0..SIZES[2]).map(|n| n as u8).collect();
        let rate = |size: usize| {
            let part = bytes.get(..size).unwrap_or_default();
            let (watch, mut sum) = (Stopwatch::start(), 0);
            for _ in 0..TOTAL / size {
                sum ^= crc32c(&[7], std::hint::black_box(part));
            }
            std::hint::black_box(sum);
            TOTAL as f64 / watch.seconds() / 1e9
        };
        Self(SIZES.map(|size| (size, rate(size))).into())
    }

    pub fn json(&self) -> Value {
        let rates = self.0.iter();
        rates
            .map(|(size, rate)| json!({"bytes": size, "gb_per_s": rate}))
            .collect()
    }

    pub fn tell(&self) {
        println!("CRC-32C, one core:\n");
        println!("| bytes | GB/s |\n|---|---|");
        for (size, rate) in &self.0 {
            println!("| {size} | {rate:.1} |");
        }
        println!();
    }
}
