use super::*;

fn name(leaf: &str) -> Name {
    Name::new(Dir::Meta, leaf)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    disk
}

fn read(disk: &SimDisk, n: &Name) -> Option<Vec<u8>> {
    let file = disk.open(n, OpenHow::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn synced_data_survives_and_unsynced_may_not() {
    let d = disk();
    let f = d.open(&name("a"), OpenHow::CreateNew).unwrap();
    f.write_at(&[IoSlice::new(b"hello")], 0).unwrap();
    f.sync_data().unwrap();
    d.sync_dir(Dir::Meta).unwrap();
    f.write_at(&[IoSlice::new(b"HELLO!")], 0).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut choices = Choices::default();
    while choices.advance() {
        let after = d.after_cut_with(|n| choices.choose(n));
        seen.insert(String::from_utf8(read(&after, &name("a")).unwrap()).unwrap());
    }
    let want = ["hello", "HELLO", "hello\0", "HELLO!"];
    assert_eq!(seen, want.map(str::to_owned).into());
}
