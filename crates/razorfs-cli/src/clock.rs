//! Moments as people and programs read them.
#![expect(unsafe_code, reason = "the standard library knows no time zones")]

use razorfs::{Time, When};

use crate::{autosnap, size};

/// `2026-11-30 06:42:13` where the user is: `TZ`, or what the host is set to.
pub fn local(seconds: i64) -> String {
    // SAFETY: the type has numbers and a pointer, for which zeros are fine.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types.
    let known = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    if known.is_null() {
        // A year that the host cannot count.
        return size::date(seconds);
    }
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

/// `2026-11-30T05:42:13.000000007Z`, as RFC 3339 has it.
pub fn rfc3339(time: Time) -> String {
    let date = size::date(time.secs).replacen(' ', "T", 1);
    format!("{date}.{:09}Z", time.nanos)
}

/// `20261130T054213Z`: names of this form sort by time.
pub fn stamp(seconds: i64) -> String {
    let mut text = size::date(seconds).replacen(' ', "T", 1);
    text.retain(|c| !matches!(c, '-' | ':'));
    text.push('Z');
    text
}

/// Reads a moment: the number of an operation, or a time, as `log` tells both, or how long ago.
/// A second is meant to its end.
pub fn moment(text: &str, now: u64) -> Result<When, String> {
    if let Ok(lsn) = text.parse() {
        return Ok(When::Lsn(lsn));
    }
    if let Ok(seconds) = autosnap::duration(text) {
        let ago = seconds.saturating_mul(SECOND);
        return Ok(When::Time(now.saturating_sub(ago)));
    }
    let bad = || {
        format!(
            "{text:?} is no moment; write for example 4711 (an operation), 10m (ago), \
             \"2026-11-30 06:42:13\" or 2026-11-30T05:42:13Z"
        )
    };
    let (date, rest) = text.split_at_checked(19).ok_or_else(bad)?;
    let nanos = match rest.strip_suffix('Z').unwrap_or(rest) {
        "" => SECOND - 1,
        fraction => {
            let digits = fraction.strip_prefix('.').ok_or_else(bad)?;
            let is_fraction = (1..=9).contains(&digits.len());
            let number: u64 = digits.parse().map_err(|_| bad())?;
            if !is_fraction || digits.starts_with('+') {
                return Err(bad());
            }
            number * 10_u64.pow(9 - digits.len() as u32)
        }
    };
    let is_utc = rest.ends_with('Z');
    let seconds = parts(date, is_utc).and_then(|mut parts| {
        // SAFETY: the pointer is to a live value of the right type.
        let seconds = unsafe {
            match is_utc {
                true => libc::timegm(&raw mut parts),
                false => libc::mktime(&raw mut parts),
            }
        };
        u64::try_from(seconds).ok()
    });
    let seconds = seconds.and_then(|seconds| seconds.checked_mul(SECOND));
    Ok(When::Time(seconds.ok_or_else(bad)? + nanos))
}

/// The parts of `2026-11-30 06:42:13`, or of the same with a `T`.
fn parts(date: &str, is_utc: bool) -> Option<libc::tm> {
    let number = |from: usize, len: usize| {
        let digits = date.get(from..from + len)?;
        let all = digits.bytes().all(|b| b.is_ascii_digit());
        all.then(|| digits.parse::<i32>().ok())?
    };
    let between: Vec<u8> = [4, 7, 10, 13, 16]
        .into_iter()
        .filter_map(|at| date.as_bytes().get(at).copied())
        .collect();
    if !matches!(&between[..], b"-- ::" | b"--T::") {
        return None;
    }
    // SAFETY: the type has numbers and a pointer, for which zeros are fine.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    parts.tm_year = number(0, 4)?.checked_sub(1900)?;
    parts.tm_mon = number(5, 2).filter(|n| (1..=12).contains(n))? - 1;
    parts.tm_mday = number(8, 2).filter(|n| (1..=31).contains(n))?;
    parts.tm_hour = number(11, 2).filter(|n| *n < 24)?;
    parts.tm_min = number(14, 2).filter(|n| *n < 60)?;
    parts.tm_sec = number(17, 2).filter(|n| *n <= 60)?;
    // Whether it is summer the host is to find out.
    parts.tm_isdst = if is_utc { 0 } else { -1 };
    Some(parts)
}

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_strictly() {
        let time = |text: &str| match moment(text, 5_000 * SECOND) {
            Ok(When::Time(time)) => Some(time),
            Ok(other) => panic!("{text}: {other:?}"),
            Err(_) => None,
        };
        let second = 1_796_017_333 * SECOND;
        assert_eq!(moment("4711", 0), Ok(When::Lsn(4711)));
        assert_eq!(time("10m"), Some(4_400 * SECOND));
        assert_eq!(time("2h"), Some(0), "no further than there is time");
        assert_eq!(time("2026-11-30T05:42:13Z"), Some(second + SECOND - 1));
        assert_eq!(time("2026-11-30T05:42:13.000000007Z"), Some(second + 7));
        assert_eq!(time("2026-11-30T05:42:13.5Z"), Some(second + SECOND / 2));
        // What is written here is read here.
        let local = super::local(1_796_017_333);
        assert_eq!(time(&local), Some(second + SECOND - 1), "{local}");
        for bad in [
            "",
            "-1",
            "x",
            "2026-11-30",
            "2026-11-30 05:42",
            "2026/11/30 05:42:13",
            "2026-13-30 05:42:13",
            "2026-11-30 24:42:13",
            "2026-11-30T05:42:13+01:00",
            "2026-11-30T05:42:13.Z",
            "2026-11-30T05:42:13.1234567890Z",
            "1026-11-30T05:42:13Z",
            "ä026-11-30T05:42:13Z",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_written_in_three_ways() {
        let time = Time {
            secs: 1_796_017_333,
            nanos: 7,
        };
        assert_eq!(rfc3339(time), "2026-11-30T05:42:13.000000007Z");
        assert_eq!(stamp(time.secs), "20261130T054213Z");
        // Wherever this runs, it is the same second of the minute, and within a day.
        let local = local(time.secs);
        assert_eq!(local.len(), 19, "{local}");
        assert!(local.ends_with(":13"), "{local}");
        assert!(local.starts_with("2026-11-29") || local.starts_with("2026-11-30"));
        assert_eq!(super::local(i64::MAX), size::date(i64::MAX));
    }
}
