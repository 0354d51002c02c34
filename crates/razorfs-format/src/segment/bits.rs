//! Arrays of integers of any width from 0 to 64 bits, packed without gaps, lowest bit first.

/// Number of bits that `v` takes.
pub(super) const fn width_of(v: u64) -> u8 {
    (64 - v.leading_zeros()) as u8
}

/// Bytes that `n` integers of `width` bits take.
pub(super) const fn byte_len(n: usize, width: u8) -> usize {
    (n * width as usize).div_ceil(8)
}

/// Appends `values`, each of which fits `width` bits.
pub(super) fn pack(values: impl Iterator<Item = u64>, width: u8, out: &mut Vec<u8>) {
    let mut held = 0u128;
    let mut bits = 0u32;
    for v in values {
        debug_assert!(width_of(v) <= width);
        held |= u128::from(v) << bits;
        bits += u32::from(width);
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(held as u8);
    }
}

/// Integer `i`, if the array has so many.
pub(super) fn get(bytes: &[u8], width: u8, i: usize) -> Option<u64> {
    if width == 0 {
        return Some(0);
    }
    let bit = i.checked_mul(usize::from(width))?;
    let rest = bytes.get(bit / 8..)?;
    let window = match rest.first_chunk::<16>() {
        Some(window) => u128::from_le_bytes(*window),
        None => {
            if rest.len() * 8 < bit % 8 + usize::from(width) {
                return None;
            }
            let mut window = [0; 16];
            window.get_mut(..rest.len())?.copy_from_slice(rest);
            u128::from_le_bytes(window)
        }
    };
    let mask = u64::MAX >> (64 - u32::from(width.min(64)));
    Some((window >> (bit % 8)) as u64 & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_read_back(width in 0u8..=64, raw: Vec<u64>) {
            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            let values: Vec<u64> = raw.iter().map(|v| v & mask).collect();
            let mut out = Vec::new();
            pack(values.iter().copied(), width, &mut out);
            prop_assert_eq!(out.len(), byte_len(values.len(), width));
            for (i, v) in values.iter().enumerate() {
                prop_assert_eq!(get(&out, width, i), Some(*v));
            }
            if width >= 8 {
                prop_assert_eq!(get(&out, width, values.len()), None);
            }
        }
    }
}
