//! The device's threads, over a socket that keeps messages whole, as /dev/fuse does.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::net::{socketpair, sockopt};

use super::cores::{Cores, slices_are_short};
use super::*;
use crate::clock::monotonic;

/// In nanoseconds.
const MINUTE: u64 = 60_000_000_000;

/// A message starting with `s` waits until told; any other is answered with its first byte.
struct Waits {
    /// Whether it is the companion that is busy.
    entered: Sender<bool>,
    go_on: Mutex<Receiver<()>>,
    /// What the companion was given.
    accompanied: AtomicUsize,
}

/// A message of a program.
fn message(name: u8, program: u32) -> [u8; 40] {
    let mut message = [0; 40];
    message[0] = name;
    message[32..36].copy_from_slice(&program.to_ne_bytes());
    message
}

fn this_thread() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

impl Handler for Waits {
    fn handle(&self, message: &[u8], reply: ReplyTo, _scratch: &mut Scratch) -> Unanswered {
        let near = std::thread::current().name() == Some("fuse-near");
        if near {
            self.accompanied.fetch_add(1, Ordering::SeqCst);
        }
        if message[0] == b's' {
            self.entered.send(near).unwrap();
            let _ = self.go_on.lock().recv();
        }
        reply.request(u64::from(message[0])).done();
        Unanswered::alone()
    }
}

fn answer(socket: &OwnedFd) -> u8 {
    let mut buf = [0; 64];
    let (n, _) = recv(socket, &mut buf, RecvFlags::empty()).expect("no answer in time");
    assert_eq!(n, 16);
    buf[8]
}

/// Runs `test` with the kernel's end of a served device.
fn served(stay_near: bool, test: impl Fn(&OwnedFd, Receiver<bool>, Sender<()>)) {
    let test = |kernel: &OwnedFd, _: &Served<'_>, entered, go_on| test(kernel, entered, go_on);
    served_by(stay_near, test);
}

/// What serves.
struct Served<'a> {
    device: &'a Device,
    handler: &'a Waits,
}

fn served_by(stay_near: bool, test: impl Fn(&OwnedFd, &Served<'_>, Receiver<bool>, Sender<()>)) {
    let kind = SocketType::SEQPACKET;
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (kernel, ours) = pair.unwrap();
    let patience = Some(Duration::from_secs(10));
    sockopt::set_socket_timeout(&kernel, sockopt::Timeout::Recv, patience).unwrap();
    let options = DeviceOptions {
        threads: 4,
        message: 4096,
        stay_near,
    };
    let device = Device::new(ours, options).unwrap();
    let ((entered, has_entered), (go_on, may_go_on)) = (channel(), channel());
    let handler = Waits {
        entered,
        go_on: Mutex::new(may_go_on),
        accompanied: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| device.serve(&handler));
        let served = Served {
            device: &device,
            handler: &handler,
        };
        test(&kernel, &served, has_entered, go_on);
        drop(kernel);
        server.join().unwrap().unwrap();
    });
}

#[test]
fn a_slow_request_does_not_hold_up_the_others() {
    for stay_near in [true, false] {
        // Long enough for the deputy to rest, and not.
        for pause in [0, 100] {
            served(stay_near, |kernel, entered, go_on| {
                for slow in 1..=3 {
                    std::thread::sleep(Duration::from_millis(pause));
                    send(kernel, b"s", SendFlags::empty()).unwrap();
                    entered.recv_timeout(Duration::from_secs(10)).unwrap();
                    for name in [b'x', b'y', b'z'] {
                        send(kernel, &[name], SendFlags::empty()).unwrap();
                        assert_eq!(answer(kernel), name, "with {slow} slow ones");
                    }
                }
                for _ in 0..3 {
                    go_on.send(()).unwrap();
                    assert_eq!(answer(kernel), b's');
                }
            });
        }
    }
}

#[test]
fn every_request_of_a_flood_is_answered() {
    served(true, |kernel, _entered, _go_on| {
        for _ in 0..200 {
            for name in 0..50u8 {
                send(kernel, &[name], SendFlags::empty()).unwrap();
            }
            let mut answers: Vec<_> = (0..50).map(|_| answer(kernel)).collect();
            answers.sort_unstable();
            assert_eq!(answers, (0..50).collect::<Vec<_>>());
        }
    });
}

/// Asks in a row until the companion has come; false where there is none. It is called, as by
/// itself it does not come to a busy machine.
fn accompanied(kernel: &OwnedFd, served: &Served<'_>) -> bool {
    let Some(near) = &served.device.near else {
        return false;
    };
    let before = served.handler.accompanied.load(Ordering::SeqCst);
    let start = monotonic();
    while served.handler.accompanied.load(Ordering::SeqCst) == before {
        assert!(monotonic() - start < MINUTE, "it never came");
        send(kernel, &message(b'x', this_thread()), SendFlags::empty()).unwrap();
        assert_eq!(answer(kernel), b'x');
        near.invite();
    }
    true
}

#[test]
fn a_program_that_asks_in_a_row_is_accompanied() {
    let able = Cores::of(None).unwrap().count() > 1 && slices_are_short();
    served_by(true, |kernel, served, _entered, _go_on| {
        for _ in 0..20 {
            assert_eq!(accompanied(kernel, served), able);
            // Longer than it waits, so that it has to come again.
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    served_by(false, |kernel, served, _entered, _go_on| {
        for _ in 0..100 {
            send(kernel, &message(b'x', this_thread()), SendFlags::empty()).unwrap();
            answer(kernel);
        }
        assert_eq!(served.handler.accompanied.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_companion_that_is_held_up_holds_up_nobody() {
    served_by(true, |kernel, served, entered, go_on| {
        for _ in 0..10 {
            accompanied(kernel, served);
            send(kernel, &message(b's', this_thread()), SendFlags::empty()).unwrap();
            entered.recv_timeout(Duration::from_secs(10)).unwrap();
            for program in [this_thread(), 0, 1, u32::MAX] {
                for _ in 0..8 {
                    send(kernel, &message(b'y', program), SendFlags::empty()).unwrap();
                    assert_eq!(answer(kernel), b'y');
                }
            }
            go_on.send(()).unwrap();
            assert_eq!(answer(kernel), b's');
        }
    });
}

#[test]
fn programs_that_take_turns_are_all_answered() {
    served(true, |kernel, _entered, _go_on| {
        // Rows of one and the other of all lengths; some programs are gone.
        for row in [1, 2, 3, 4, 5, 8, 16, 17] {
            for program in [this_thread(), 1, u32::MAX, 0].repeat(20) {
                for _ in 0..row {
                    send(kernel, &message(b'z', program), SendFlags::empty()).unwrap();
                    assert_eq!(answer(kernel), b'z');
                }
            }
        }
    });
}

#[test]
fn a_companion_that_is_still_busy_is_not_waited_for() {
    served_by(true, |kernel, served, entered, go_on| {
        if !accompanied(kernel, served) {
            return;
        }
        send(kernel, &message(b's', this_thread()), SendFlags::empty()).unwrap();
        if !entered.recv_timeout(Duration::from_secs(10)).unwrap() {
            // It had left, which a busy machine makes it do at any time: another one has it.
            go_on.send(()).unwrap();
            assert_eq!(answer(kernel), b's');
            return;
        }
        let near = served.device.near.as_ref().unwrap();
        // Until it was dismissed; then whoever calls it does so in vain, and the others serve.
        let start = monotonic();
        while near.is_here() {
            assert!(monotonic() - start < MINUTE, "it is never dismissed");
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..100 {
            near.invite();
            assert!(!near.is_here(), "it cannot come");
            send(kernel, &message(b'y', 1), SendFlags::empty()).unwrap();
            assert_eq!(answer(kernel), b'y');
        }
        go_on.send(()).unwrap();
        assert_eq!(answer(kernel), b's');
    });
}

/// Notes the number of each message.
#[derive(Default)]
struct Notes(Mutex<Vec<u64>>);

impl Handler for Notes {
    fn handle(&self, message: &[u8], reply: ReplyTo, _scratch: &mut Scratch) -> Unanswered {
        let unique = crate::protocol::header_of(message).unwrap().unique;
        self.0.lock().push(unique);
        reply.request(unique).done();
        Unanswered::alone()
    }
}

#[test]
fn what_was_sent_before_is_carried_out_before_all_else() {
    use crate::protocol::{RESENT, opcode};
    let kind = SocketType::SEQPACKET;
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (kernel, ours) = pair.unwrap();
    let options = DeviceOptions {
        threads: 1,
        message: 4096,
        stay_near: false,
    };
    let device = Device::new(ours, options).unwrap();
    let notes = Notes::default();
    let queue = |unique: u64, opcode: u32| {
        let mut message = [0; 40];
        message[..4].copy_from_slice(&40u32.to_ne_bytes());
        message[4..8].copy_from_slice(&opcode.to_ne_bytes());
        message[8..16].copy_from_slice(&unique.to_ne_bytes());
        send(&kernel, &message, SendFlags::empty()).unwrap();
    };
    // There is nothing.
    device.serve_resent(&notes).unwrap();
    queue(2 | RESENT, opcode::GETATTR);
    device.serve_resent(&notes).unwrap();
    queue(4, opcode::FORGET);
    queue(6 | RESENT, opcode::GETATTR);
    queue(8, opcode::INTERRUPT);
    queue(10 | RESENT, opcode::GETATTR);
    queue(12, opcode::GETATTR);
    queue(14, opcode::GETATTR);
    device.serve_resent(&notes).unwrap();
    let taken: Vec<u64> = notes.0.lock().iter().map(|n| n & !RESENT).collect();
    assert_eq!(taken, [2, 4, 6, 8, 10, 12]);
    taken
        .iter()
        .for_each(|n| assert_eq!(answer(&kernel), *n as u8));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| device.serve(&notes));
        assert_eq!(answer(&kernel), 14);
        drop(kernel);
        server.join().unwrap().unwrap();
    });
}
