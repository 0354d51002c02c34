use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::layout::FileName;

const PLACE: Place = Place::new(FileName::Super, 0);

fn table(names: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let sorted: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let mut out = Vec::new();
    encode(&sorted, &mut out);
    out
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(1u8.., 1..=255),
        "[a-z]{1,8}(_[a-z]{1,6}){0,2}\\.(c|h|rs)".prop_map(String::into_bytes),
        "[0-9a-f]{1,255}".prop_map(String::into_bytes),
        "(IMG_)?[0-9]{4,14}[-_][0-9a-f]{3,9}(\\.jpg)?".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn names_read_back(names in proptest::collection::btree_set(any_name(), 0..100)) {
        let bytes = table(&names);
        let table = NameTable::parse(names.len(), &bytes, PLACE).unwrap();
        let mut all = Vec::new();
        table.for_each(|n| all.push(n.to_vec())).unwrap();
        prop_assert_eq!(&all, &names.iter().cloned().collect::<Vec<_>>());
        let mut name = NameBuf::default();
        for (i, n) in all.iter().enumerate().rev() {
            table.get(i, &mut name).unwrap();
            prop_assert_eq!(name.as_bytes(), &n[..]);
        }
        prop_assert!(table.get(names.len(), &mut name).is_err());
    }

    #[test]
    fn any_bytes_give_an_answer(count in 0usize..70, bytes: Vec<u8>) {
        if let Ok(table) = NameTable::parse(count, &bytes, PLACE) {
            let _ = table.for_each(|_| ());
            for i in 0..count {
                let _ = table.get(i, &mut NameBuf::default());
            }
        }
    }
}

#[test]
fn golden() {
    let mut out = Vec::new();
    encode(
        &[b"0123456789abcde", b"main.c", b"main.h", b"makefile"],
        &mut out,
    );
    assert_eq!(
        out,
        [
            &[0, 0][..], // one restart at 0
            &[
                0x00, 15, 0x8e, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe0
            ],
            b"\x06main.c",
            b"\x51h",
            b"\x26kefile",
        ]
        .concat()
    );
}
