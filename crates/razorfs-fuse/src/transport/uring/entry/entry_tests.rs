//! Requests as the kernel lays them out, put there by the test in its place.

#![expect(unsafe_code, reason = "the test writes and reads what the kernel does")]

use std::sync::mpsc::channel;

use super::*;
use crate::protocol::opcode;

const PAGE: usize = 1 << 20;

/// The header of a request of so many bytes.
fn header(len: usize, unique: u64) -> [u8; IN_HEADER] {
    let mut header = [0; IN_HEADER];
    header[..4].copy_from_slice(&(len as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&opcode::WRITE.to_ne_bytes());
    header[8..16].copy_from_slice(&unique.to_ne_bytes());
    header
}

fn put(entry: &Entry, offset: usize, bytes: &[u8]) {
    let memory = &entry.slot.memory;
    assert!(offset + bytes.len() <= memory.len());
    // SAFETY: within the mapping, to which nobody refers.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.at(offset), bytes.len()) };
}

fn get(entry: &Entry, offset: usize, len: usize) -> Vec<u8> {
    let memory = &entry.slot.memory;
    assert!(offset + len <= memory.len());
    // SAFETY: within the mapping, to which nobody writes.
    unsafe { std::slice::from_raw_parts(memory.at(offset), len) }.to_vec()
}

/// Puts a request there as the kernel does, whose header may say another length.
fn request(entry: &Entry, unique: u64, len: usize, first: &[u8], payload: &[u8]) {
    put(entry, 0, &header(len, unique));
    put(entry, 128, first);
    put(entry, PAYLOAD, payload);
    put(entry, 256 + 8, &unique.to_ne_bytes());
    put(entry, 256 + 16, &(payload.len() as u32).to_ne_bytes());
}

/// Error and body of the answer that is there.
fn answer(entry: &Entry, unique: u64) -> (i32, Vec<u8>) {
    let word = |offset| u32::from_ne_bytes(get(entry, offset, 4).try_into().unwrap());
    let long = |offset| u64::from_ne_bytes(get(entry, offset, 8).try_into().unwrap());
    assert_eq!(long(8), unique);
    assert_eq!(long(256 + 8), unique, "the request that is answered");
    let len = word(256 + 16) as usize;
    assert_eq!(word(0) as usize, REPLY_HEADER + len);
    (-(word(4) as i32), get(entry, PAYLOAD, len))
}

#[test]
fn requests_are_whole_and_answers_are_where_the_kernel_takes_them() {
    let mut entry = Entry::new(0, PAGE).unwrap();
    let lengths = [0, 1, 24, 40, 128];
    let payloads = [0, 1, 255, 1000, SMALL, 4096, PAGE];
    for (n, (&first, &payload)) in lengths
        .iter()
        .flat_map(|first| payloads.iter().map(move |payload| (first, payload)))
        .enumerate()
    {
        let unique = n as u64 * 2 + 2;
        let (first, payload) = (vec![0xf1; first], vec![0xda; payload]);
        let len = IN_HEADER + first.len() + payload.len();
        request(&entry, unique, len, &first, &payload);
        let whole = [&header(len, unique)[..], &first, &payload].concat();
        // As large as the request, and of two parts.
        let (a, b) = payload.split_at(payload.len() / 3);
        entry.serve(&mut |message, reply| {
            assert!(message == whole);
            assert!(reply.request(unique).parts(a, b));
        });
        assert_eq!(answer(&entry, unique), (0, payload), "{len}");
    }
}

#[test]
fn lengths_that_contradict_each_other_are_answered_and_not_carried_out() {
    let mut entry = Entry::new(0, 4096).unwrap();
    for (len, payload) in [(0, 0), (39, 0), (40, 1), (40 + 129, 0), (200, 30), (50, 11)] {
        request(&entry, 8, len, &[], &vec![0; payload]);
        entry.serve(&mut |_, _| panic!("{len} {payload}"));
        assert_eq!(answer(&entry, 8), (libc::EIO, vec![]), "{len} {payload}");
    }
    assert_eq!(first_part(IN_HEADER + 5000, 5000, 4999), None);
    assert_eq!(first_part(IN_HEADER + 5000, 4999, 4999), Some(1));
}

#[test]
fn an_answer_may_come_from_any_thread_and_late() {
    let mut entry = Entry::new(0, PAGE).unwrap();
    for payload in [0, 100, PAGE] {
        for pause in [0, 20] {
            request(&entry, 6, IN_HEADER + payload, &[], &vec![0; payload]);
            entry.serve(&mut |_, reply| {
                let reply = reply.request(6);
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(pause));
                    reply.bytes(b"at last")
                });
            });
            assert_eq!(answer(&entry, 6), (0, b"at last".to_vec()));
        }
    }
}

#[test]
fn what_is_not_answered_is_answered_with_an_error() {
    let mut entry = Entry::new(0, 4096).unwrap();
    let (kept, later) = channel();
    for unique in [2, 4, 6] {
        request(&entry, unique, IN_HEADER, &[], &[]);
        entry.serve(&mut |_, reply| match unique {
            2 => drop(reply),
            4 => reply.request(unique).none(),
            // Its answer is given; what is left of it goes when the next one is served.
            _ => {
                kept.send(reply.clone()).unwrap();
                reply.request(unique).done();
            }
        });
        let expected = if unique == 6 { 0 } else { libc::EIO };
        assert_eq!(answer(&entry, unique), (expected, vec![]));
    }
    request(&entry, 8, IN_HEADER, &[], &[]);
    entry.serve(&mut |_, reply| {
        drop(later.recv().unwrap());
        reply.request(8).bytes(b"mine");
    });
    assert_eq!(answer(&entry, 8), (0, b"mine".to_vec()));
}

#[test]
fn an_answer_that_has_no_room_is_an_error() {
    let mut entry = Entry::new(0, 4096).unwrap();
    for payload in [0, 4096] {
        request(&entry, 6, IN_HEADER + payload, &[], &vec![0; payload]);
        entry.serve(&mut |_, reply| {
            assert!(!reply.request(6).parts(&[1; 4000], &[2; 97]));
        });
        assert_eq!(answer(&entry, 6), (libc::EIO, vec![]));
    }
}

#[test]
fn memory_is_given_back_after_something_large_and_only_then() {
    let mut entry = Entry::new(0, PAGE).unwrap();
    for (asked, answered, large) in [
        (0, 100, false),
        (4096, 0, false),
        (PAGE, 8, true),
        (0, PAGE, true),
    ] {
        let len = IN_HEADER + asked;
        request(&entry, 6, len, &[], &vec![1; asked]);
        entry.serve(&mut |_, reply| assert!(reply.request(6).bytes(&vec![2; answered])));
        assert_eq!(entry.was_large(), large, "{asked} {answered}");
        assert!(!entry.was_large());
    }
    assert_eq!(get(&entry, PAYLOAD, PAGE), vec![2; PAGE]);
    entry.give_back();
    assert_eq!(get(&entry, PAYLOAD, PAGE), vec![0; PAGE]);
}

#[test]
fn what_is_read_is_written_in_place_unless_the_request_is_there() {
    let mut entry = Entry::new(0, PAGE).unwrap();
    for (payload, in_place) in [(0, true), (500, true), (2000, false)] {
        for result in [Ok(5000), Ok(0), Err(libc::ENOSPC)] {
            let mut room = Vec::new();
            request(&entry, 6, IN_HEADER + payload, &[], &vec![0; payload]);
            entry.serve(&mut |_, reply| {
                let sent = reply.request(6).fill(6000, &mut room, &mut |buf| {
                    assert_eq!(buf.len(), 6000);
                    buf.fill(3);
                    result
                });
                assert_eq!(sent, result.map(drop));
            });
            assert_eq!(room.is_empty(), in_place);
            let expected = result.map_or_else(|e| (e, vec![]), |n| (0, vec![3; n]));
            assert_eq!(answer(&entry, 6), expected);
        }
    }
}
