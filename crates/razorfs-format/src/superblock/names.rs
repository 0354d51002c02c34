//! Names of features, so that a version that does not know one can say which it is.
//!
//! From byte 208 of a slot on, one after the other:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | set: 1 compat, 2 ro_compat, 3 incompat; 0 ends the list |
//! | 1 | 1 | bit, 0 to 63 |
//! | 2 | 1 | length of the name, 1 to 40 |
//! | 3 | | the name: small letters, digits and `-` |
//!
//! A version writes the names of those features that the first release did not have. What is not a
//! list of this form is none, and refuses nothing: the bits alone decide what may be done.

use super::{Features, JOURNAL_TWINS, LINKED_BATCHES, PARITY, SHARED_FRAMES};

/// The longest name, in bytes.
const MAX_NAME: u8 = 40;

/// Which of the features a bit belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Set {
    /// [`Features::compat`].
    Compat = 1,
    /// [`Features::ro_compat`].
    RoCompat = 2,
    /// [`Features::incompat`].
    Incompat = 3,
}

/// The features of the first release, whose names no volume tells.
const KNOWN: [(Set, u64, &str); 4] = [
    (Set::RoCompat, PARITY, "parity"),
    (Set::RoCompat, JOURNAL_TWINS, "journal-twins"),
    (Set::Incompat, SHARED_FRAMES, "shared-frames"),
    (Set::Incompat, LINKED_BATCHES, "linked-batches"),
];

/// The name of a feature.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Name {
    set: Set,
    bit: u8,
    name: String,
}

/// The names of the features that a superblock tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeatureNames(Vec<Name>);

impl FeatureNames {
    /// Adds the name of a bit; says whether it can be one.
    pub fn add(&mut self, set: Set, bit: u8, name: &str) -> bool {
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=usize::from(MAX_NAME)).contains(&name.len());
        let good = bit < 64 && fits && name.bytes().all(is_letter);
        if good {
            let name = name.to_owned();
            self.0.push(Name { set, bit, name });
        }
        good
    }

    /// The features of a set that `bits` stand for, for people: those that have no name as bits.
    #[must_use]
    pub fn of(&self, set: Set, bits: u64) -> String {
        let mut nameless = bits;
        let mut words = Vec::new();
        for named in self.0.iter().filter(|n| n.set == set) {
            let bit = 1u64.checked_shl(named.bit.into()).unwrap_or(0);
            if nameless & bit != 0 {
                nameless &= !bit;
                words.push(format!("`{}`", named.name));
            }
        }
        for (_, bit, name) in KNOWN.iter().filter(|known| known.0 == set) {
            if nameless & bit != 0 {
                nameless &= !bit;
                words.push(format!("`{name}`"));
            }
        }
        if nameless != 0 {
            words.push(format!("{nameless:#x}"));
        }
        words.join(", ")
    }

    /// Appends them, up to so many bytes in all.
    pub(super) fn encode(&self, v: &mut Vec<u8>, end: usize) {
        for Name { set, bit, name } in &self.0 {
            let Ok(len) = u8::try_from(name.len()) else {
                continue;
            };
            // One that has no room is told by its bit.
            if v.len() + 3 + name.len() <= end {
                v.extend_from_slice(&[*set as u8, *bit, len]);
                v.extend_from_slice(name.as_bytes());
            }
        }
    }

    pub(super) fn decode(mut rest: &[u8], features: &Features) -> Self {
        let mut names = Self::default();
        while let Some((&[set, bit, len], after)) = rest.split_first_chunk::<3>() {
            let (set, bits) = match set {
                1 => (Set::Compat, features.compat),
                2 => (Set::RoCompat, features.ro_compat),
                3 => (Set::Incompat, features.incompat),
                _ => break,
            };
            let Some((name, after)) = after.split_at_checked(len.into()) else {
                break;
            };
            let is_set = 1u64.checked_shl(bit.into()).is_some_and(|b| bits & b != 0);
            let name = std::str::from_utf8(name).unwrap_or_default();
            if !is_set || !names.add(set, bit, name) {
                break;
            }
            rest = after;
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Features {
        Features {
            compat: 1,
            ro_compat: 1 << 63,
            incompat: 0b110,
        }
    }

    fn names() -> FeatureNames {
        let mut names = FeatureNames::default();
        assert!(names.add(Set::Incompat, 2, "encrypted-names"));
        assert!(names.add(Set::RoCompat, 63, "quota2"));
        names
    }

    #[test]
    fn names_have_their_golden_bytes_and_are_read_back() {
        let mut bytes = Vec::new();
        names().encode(&mut bytes, 4000);
        assert_eq!(bytes, b"\x03\x02\x0fencrypted-names\x02\x3f\x06quota2");
        bytes.extend([0; 9]);
        assert_eq!(FeatureNames::decode(&bytes, &features()), names());
        assert_eq!(FeatureNames::decode(&[0; 99], &features()).0, []);
    }

    #[test]
    fn a_feature_is_told_by_its_name_and_without_one_by_its_bit() {
        assert_eq!(names().of(Set::Incompat, 0b100), "`encrypted-names`");
        assert_eq!(names().of(Set::Incompat, 0b110), "`encrypted-names`, 0x2");
        let told = names().of(Set::Incompat, LINKED_BATCHES | SHARED_FRAMES);
        assert_eq!(told, "`shared-frames`, `linked-batches`");
        assert_eq!(names().of(Set::RoCompat, 1 << 63), "`quota2`");
        assert_eq!(names().of(Set::Compat, 4), "0x4");
    }

    #[test]
    fn what_is_no_list_of_names_is_none() {
        for odd in [
            &b"\x03"[..],
            b"\x03\x02\x0fenc",
            b"\x04\x02\x01a",
            b"\x03\x02\x00",
            b"\x03\x02\x01\x1b",
            b"\x03\x02\x02\xc3\xa4",
            b"\x03\xff\x01a",
            // The volume has no such feature.
            b"\x03\x03\x01a",
            b"\x03\x02\xff",
        ] {
            assert_eq!(FeatureNames::decode(odd, &features()).0, [], "{odd:?}");
        }
        assert!(!FeatureNames::default().add(Set::Compat, 64, "a"));
        assert!(!FeatureNames::default().add(Set::Compat, 0, &"a".repeat(41)));
    }

    #[test]
    fn names_without_room_are_left_out() {
        let mut bytes = vec![0; 10];
        names().encode(&mut bytes, 10 + 9);
        assert_eq!(bytes[10..], *b"\x02\x3f\x06quota2");
    }
}
