//! Moments as people and programs read them.
#![expect(unsafe_code, reason = "the standard library knows no time zones")]

use razorfs::Time;

use crate::size;

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

#[cfg(test)]
mod tests {
    use super::*;

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
