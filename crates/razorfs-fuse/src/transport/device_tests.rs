//! The device's threads, over a socket that keeps messages whole, as /dev/fuse does.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::net::{socketpair, sockopt};

use super::*;

/// A message starting with `s` waits until told; any other is answered with its first byte.
struct Waits {
    entered: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Handler for Waits {
    fn handle(&self, message: &[u8], reply: ReplyTo, _scratch: &mut Scratch) {
        if message[0] == b's' {
            self.entered.send(()).unwrap();
            let _ = self.go_on.lock().recv();
        }
        reply.request(u64::from(message[0])).done();
    }
}

fn answer(socket: &OwnedFd) -> u8 {
    let mut buf = [0; 64];
    let (n, _) = recv(socket, &mut buf, RecvFlags::empty()).expect("no answer in time");
    assert_eq!(n, 16);
    buf[8]
}

/// Runs `test` with the kernel's end of a served device.
fn served(keep_awake: bool, test: impl Fn(&OwnedFd, Receiver<()>, Sender<()>)) {
    let kind = SocketType::SEQPACKET;
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (kernel, ours) = pair.unwrap();
    let patience = Some(Duration::from_secs(10));
    sockopt::set_socket_timeout(&kernel, sockopt::Timeout::Recv, patience).unwrap();
    let options = DeviceOptions {
        threads: 4,
        message: 4096,
        keep_awake,
    };
    let device = Device::new(ours, options).unwrap();
    let ((entered, has_entered), (go_on, may_go_on)) = (channel(), channel());
    let handler = Waits {
        entered,
        go_on: Mutex::new(may_go_on),
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| device.serve(&handler));
        test(&kernel, has_entered, go_on);
        drop(kernel);
        server.join().unwrap().unwrap();
    });
}

#[test]
fn a_slow_request_does_not_hold_up_the_others() {
    for keep_awake in [true, false] {
        // Long enough for the deputy to rest, and not.
        for pause in [0, 100] {
            served(keep_awake, |kernel, entered, go_on| {
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
