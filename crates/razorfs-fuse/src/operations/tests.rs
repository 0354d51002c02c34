use std::io::{self, IoSlice};

use super::*;
use crate::null::NullFs;
use crate::protocol::Encode as _;
use crate::transport::ReplySink;

/// Keeps what is sent.
#[derive(Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl ReplySink for Kept {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let whole = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.lock().push(whole);
        Ok(())
    }
}

fn operations() -> Operations {
    Operations::new(
        Arc::new(NullFs::default()),
        Limits::default(),
        Validity::default(),
    )
}

/// Carries a message out; the error number and the content of each answer.
fn ask(operations: &Operations, opcode: u32, node: u64, body: &[u8]) -> Vec<(i32, Vec<u8>)> {
    let mut message = Vec::new();
    message.u32((protocol::IN_HEADER + body.len()) as u32);
    message.u32(opcode);
    message.u64(3);
    message.u64(node);
    message.zeros(16);
    message.extend_from_slice(body);
    let kept = Arc::new(Kept::default());
    operations.handle(&message, ReplyTo(kept.clone()), &mut Scratch::default());
    let answers = std::mem::take(&mut *kept.0.lock());
    let split = |answer: Vec<u8>| {
        assert_eq!(answer[..4], (answer.len() as u32).to_ne_bytes());
        assert_eq!(answer[8..16], 3u64.to_ne_bytes());
        let error = i32::from_ne_bytes(answer[4..8].try_into().unwrap());
        (-error, answer[16..].to_vec())
    };
    answers.into_iter().map(split).collect()
}

#[test]
fn every_request_is_answered_once_and_those_without_answer_never() {
    let operations = operations();
    for opcode in 0..70 {
        for len in [0, 8, 16, 40, 88, 200] {
            let answers = ask(&operations, opcode, 1, &vec![0; len]).len();
            let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
            let expected = usize::from(!silent.contains(&opcode));
            assert_eq!(answers, expected, "{}, {len} bytes", opcode::name(opcode));
        }
    }
}

#[test]
fn the_size_of_an_attribute_can_be_asked_for() {
    let operations = operations();
    let value = [7; 1000];
    operations
        .fs
        .set_xattr(Ino::ROOT, b"user.a", &value, razorfs::XattrMode::Set)
        .unwrap();
    let get = |size: u32| {
        let mut body = Vec::new();
        body.u32(size);
        body.u32(0);
        body.extend_from_slice(b"user.a\0");
        ask(&operations, opcode::GETXATTR, 1, &body).remove(0)
    };
    let mut size = Vec::new();
    size.u32(1000);
    size.u32(0);
    assert_eq!(get(0), (0, size));
    assert_eq!(get(1000), (0, value.to_vec()));
    assert_eq!(get(999).0, libc::ERANGE);
}

#[test]
fn an_answer_that_is_dropped_says_eio() {
    let kept = Arc::new(Kept::default());
    let reply = ReplyTo(kept.clone()).request(9);
    std::thread::spawn(move || drop(reply)).join().unwrap();
    let answers = kept.0.lock();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][4..8], (-libc::EIO).to_ne_bytes());
}

#[test]
fn a_directory_whose_next_entries_vanish_does_not_end_early() {
    let operations = operations();
    for n in 0..300 {
        let node = razorfs::NewNode::file(0o600);
        operations
            .fs
            .create_node(Ino::ROOT, format!("{n}").as_bytes(), &node)
            .unwrap();
    }
    let read = |after: u64| {
        let mut body = Vec::new();
        body.u64(0);
        body.u64(after);
        body.u32(4096);
        body.zeros(20);
        ask(&operations, opcode::READDIRPLUS, 1, &body).remove(0).1
    };
    let (mut seen, mut after) = (0, 0);
    loop {
        let bytes = read(after);
        let mut rest = &bytes[..];
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            after = u64::from_ne_bytes(rest[136..144].try_into().unwrap());
            let name = u32::from_ne_bytes(rest[144..148].try_into().unwrap());
            rest = &rest[protocol::DirectoryBuffer::entry_len(name as usize, true)..];
            seen += 1;
        }
    }
    assert_eq!(seen, 302);
}
