use super::*;

fn all() -> Vec<Request> {
    let path = || PathBuf::from("a/ä b");
    let steps = vec![
        Step::CreateDir(path()),
        Step::CreateDirAll(path()),
        Step::Write(path(), vec![0, 255]),
        Step::RemoveFile(path()),
        Step::RemoveDir(path()),
        Step::RemoveDirAll(path()),
        Step::Rename(path(), "b".into()),
        Step::RenameNew(path(), "b".into()),
        Step::Exchange(path(), "b".into()),
        Step::HardLink(path(), "b".into()),
        Step::Symlink(path(), "b".into()),
        Step::SetPermissions(path(), 0o640),
    ];
    let how = How {
        bits: 19,
        mode: 0o600,
    };
    vec![
        Request::Metadata(path(), true),
        Request::ReadLink(path()),
        Request::ReadDir(path(), u64::MAX),
        Request::Open(path(), how),
        Request::Close(1),
        Request::Stat(2),
        Request::ReadAt(3, 4, 5),
        Request::WriteAt(6, 7, vec![8; 9]),
        Request::Append(10, vec![11]),
        Request::SetLen(12, 13),
        Request::Sync,
        Request::Change(steps, true),
        Request::GetXattr(path(), b"user.x".to_vec()),
        Request::SetXattr(path(), b"user.x".to_vec(), vec![7], XattrMode::Replace),
        Request::ListXattr(path()),
        Request::RemoveXattr(path(), b"user.x".to_vec()),
        Request::List(Kind::Snapshot),
        Request::Create(Kind::Branch, "b".into()),
        Request::Delete(Kind::Snapshot, "ä".into()),
    ]
}

#[test]
fn requests_survive_the_wire_and_no_part_of_one_is_one() {
    for request in all() {
        let bytes = request.encode().unwrap();
        assert_eq!(Request::decode(&bytes).as_ref(), Some(&request));
        for n in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..n]), None, "{request:?} {n}");
        }
        let more = [&bytes[..], &[0]].concat();
        assert_eq!(Request::decode(&more), None, "{request:?}");
    }
}

#[test]
fn a_message_is_as_long_as_it_says_and_not_too_long() {
    let mut sent = Vec::new();
    send(&mut sent, b"abc").unwrap();
    assert_eq!(receive(&mut &sent[..]).unwrap().unwrap(), b"abc");
    assert!(receive(&mut &sent[..6]).is_err());
    assert!(receive(&mut &sent[..2]).is_err());
    assert!(receive(&mut &[][..]).unwrap().is_none());
    assert!(receive(&mut &u32::MAX.to_le_bytes()[..]).is_err());
}

#[test]
fn what_is_too_long_is_not_sent_and_not_taken() {
    let path = |len: usize| PathBuf::from("p".repeat(len));
    let fits = Request::ReadLink(path(MAX_PATH)).encode().unwrap();
    assert!(Request::decode(&fits).is_some());
    assert_eq!(Request::ReadLink(path(MAX_PATH + 1)).encode(), None);
    let mut put = Put::default();
    put.u8(1);
    put.bytes(&[b'p'; MAX_PATH + 1]);
    assert_eq!(Request::decode(&put.out), None);
    assert_eq!(Request::Append(1, vec![0; MAX]).encode(), None);
}

/// Says each of these in turn, and nothing after the last.
struct Slow(Vec<io::Result<&'static [u8]>>);

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.is_empty() {
            true => Ok(0),
            false => self.0.remove(0).map(|some| {
                buf[..some.len()].copy_from_slice(some);
                some.len()
            }),
        }
    }
}

#[test]
fn the_next_message_may_take_its_time_and_the_rest_of_one_not() {
    let late = || Err(WouldBlock.into());
    let mut idle = Slow(vec![late(), late(), Ok(&[1]), Ok(&[0, 0, 0]), Ok(b"x")]);
    assert_eq!(receive(&mut idle).unwrap().unwrap(), b"x");
    for stuck in [
        vec![Ok(&[1][..]), late()],
        vec![Ok(&[3]), Ok(&[0, 0, 0]), Ok(b"x"), late(), Ok(b"xx")],
    ] {
        assert_eq!(receive(&mut Slow(stuck)).err().unwrap().kind(), WouldBlock);
    }
}
