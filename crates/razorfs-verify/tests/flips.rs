//! Any single flipped bit is detected, wherever it is, and any damage gets an answer.

use crate::common::{Rng, check, closed, dirty};
use proptest::prelude::*;
use razorfs_disk::Name;
use razorfs_disk::sim::Image;

/// The n-th bit of a volume.
fn bit_at(image: &Image, mut byte: u64) -> Name {
    for (name, len) in image.files() {
        if byte < len {
            return name.clone();
        }
        byte -= len;
    }
    unreachable!("the byte lies in the image");
}

fn flip(image: &Image, rng: &mut Rng) -> (Image, String) {
    // Every second flip goes to a file chosen first, so that small ones get their share.
    let files: Vec<(Name, u64)> = image
        .files()
        .filter(|(_, len)| *len > 0)
        .map(|(name, len)| (name.clone(), len))
        .collect();
    let name = if rng.below(2) == 0 {
        files[rng.below(files.len() as u64) as usize].0.clone()
    } else {
        bit_at(image, rng.below(image.total_len()))
    };
    let len = files.iter().find(|(n, _)| *n == name).unwrap().1;
    let (byte, bit) = (rng.below(len), rng.below(8) as u8);
    let mut flipped = image.clone();
    assert!(flipped.flip_bit(&name, byte, bit));
    (flipped, format!("{name} byte {byte} of {len} bit {bit}"))
}

fn every_flip_changes_the_report(image: &Image, seed: u64, flips: u64) {
    let before = check(image, 3);
    let mut rng = Rng(seed);
    let mut missed = Vec::new();
    for _ in 0..flips {
        let (flipped, place) = flip(image, &mut rng);
        if check(&flipped, 3).findings == before.findings {
            missed.push(place);
        }
    }
    assert!(
        missed.is_empty(),
        "{} of {flips} missed: {missed:#?}",
        missed.len()
    );
}

#[test]
fn every_flip_of_a_closed_volume_is_detected() {
    let image = closed(11);
    assert!(check(&image, 3).findings.is_empty());
    every_flip_changes_the_report(&image, 1, 2500);
}

#[test]
fn every_flip_of_an_unclosed_volume_is_detected() {
    let image = dirty(12);
    every_flip_changes_the_report(&image, 2, 1000);
}

#[derive(Clone, Debug)]
enum Harm {
    Write(u64, Vec<u8>),
    Copy(u64, u64, u16),
    Cut(u64),
    Remove(u64),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (any::<u64>(), prop::collection::vec(any::<u8>(), 1..200))
            .prop_map(|(a, b)| Harm::Write(a, b)),
        3 => (any::<u64>(), any::<u64>(), 1..9000u16).prop_map(|(a, b, c)| Harm::Copy(a, b, c)),
        2 => any::<u64>().prop_map(Harm::Cut),
        1 => any::<u64>().prop_map(Harm::Remove),
    ]
}

fn apply(image: &mut Image, harm: &Harm) {
    let files: Vec<(Name, u64)> = image.files().map(|(n, len)| (n.clone(), len)).collect();
    if files.is_empty() {
        return;
    }
    let at = |random: u64| {
        let (name, len) = &files[(random % files.len() as u64) as usize];
        (name, (random / 97) % len.max(&1))
    };
    match harm {
        Harm::Write(to, bytes) => {
            let (name, offset) = at(*to);
            image.write(name, offset, bytes);
        }
        Harm::Copy(from, to, len) => {
            let ((from, a), (to, b)) = (at(*from), at(*to));
            let bytes = image.bytes(from).unwrap();
            let (a, b) = (a / 512 * 512, b / 512 * 512);
            let part: Vec<u8> = bytes[a as usize..]
                .iter()
                .take(usize::from(*len))
                .copied()
                .collect();
            image.write(to, b, &part);
        }
        Harm::Cut(to) => {
            let (name, offset) = at(*to);
            image.set_len(name, offset);
        }
        Harm::Remove(which) => {
            image.remove(at(*which).0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gets_an_answer(harms in prop::collection::vec(harm(), 1..8), unclosed: bool) {
        let mut image = if unclosed { dirty(21) } else { closed(21) };
        for harm in &harms {
            apply(&mut image, harm);
        }
        let report = check(&image, 3);
        prop_assert!(report.findings.len() <= 10_001);
    }
}
