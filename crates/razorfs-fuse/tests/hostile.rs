//! Messages of a hostile kernel: a request or an error, never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bodies;

#[test]
fn seeds_get_an_answer() {
    bodies::seeds()
        .iter()
        .for_each(|seed| bodies::request(seed));
}

#[test]
fn hostile_messages_get_an_answer() {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u32
    };
    for _ in 0..20_000 {
        let len = random() % 300;
        let sparse = random() % 2 == 0;
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                if sparse && random() % 4 != 0 {
                    0
                } else {
                    random() as u8
                }
            })
            .collect();
        bodies::request(&bytes);
    }
}
