//! Looking at a volume that is mounted: `top`, counters for Prometheus, the log.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Mount, RAZORFS, fails, ok, reap, wait_until};

/// What a server of metrics answers.
fn get(mut stream: impl Read + Write) -> String {
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    said
}

/// The value of a counter in the text for Prometheus.
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = lines.find(|(name, _)| *name == series).unwrap_or_else(|| {
        panic!("no {series}\n{text}");
    });
    value.parse().unwrap()
}

fn writes(mount: &Mount) -> String {
    let volume = mount.volume.display();
    format!("razorfs_request_seconds_count{{volume=\"{volume}\",kind=\"write\"}}")
}

#[test]
fn metrics_are_served_over_a_socket_as_long_as_the_volume_is_mounted() {
    let mount = Mount::new();
    let socket = mount.dir.with_file_name("metrics.sock");
    mount.mount(&["-o", &format!("metrics={}", socket.display())]);
    fs::write(mount.dir.join("a"), "a").unwrap();
    mount.sync();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = get(UnixStream::connect(&socket).unwrap());
    assert!(value(&text, &writes(&mount)) >= 1.0);
    // The same as the command says, but for what has happened meanwhile.
    let said = ok([
        "stats".as_ref(),
        "--prometheus".as_ref(),
        mount.dir.as_os_str(),
    ]);
    assert!(value(&said, &writes(&mount)) >= value(&text, &writes(&mount)));
    // A client that says nothing holds nobody up for long.
    let _silent = UnixStream::connect(&socket).unwrap();
    get(UnixStream::connect(&socket).unwrap());
    assert_eq!(mount.info()["options"]["metrics"], socket.to_str().unwrap());
    mount.umount();
    assert!(!socket.exists());
}

#[test]
fn metrics_are_served_on_a_port_and_by_the_next_daemon() {
    let mount = Mount::new();
    // One that is free now.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    mount.mount(&["-o", &format!("metrics={port}")]);
    assert!(get(TcpStream::connect(port).unwrap()).contains("# TYPE razorfs_ops_total counter"));
    let taken = Mount::new();
    let option = format!("metrics={port}");
    let line = fails(
        1,
        [
            "mount".as_ref(),
            "-o".as_ref(),
            option.as_ref(),
            taken.volume.as_os_str(),
            taken.dir.as_os_str(),
        ],
    );
    assert!(line.contains("choose another place"), "{line}");
    if mount.again_patiently() {
        mount.umount();
        mount.mount(&["-o", &option]);
        let pid = mount.pid();
        mount.kill_daemon(pid);
        wait_until("the next one serves", || TcpStream::connect(port).is_ok());
        get(TcpStream::connect(port).unwrap());
    }
    mount.umount();
    assert!(TcpStream::connect(port).is_err());
}

#[test]
fn the_log_has_what_is_asked_for() {
    let mount = Mount::with(&["-o", "log=error"]);
    assert_eq!(mount.log(), "");
    mount.umount();
    mount.mount(&["-o", "log=info"]);
    assert!(mount.log().contains("INFO"), "{}", mount.log());
}

/// Runs `top` on a terminal of its own, types what `keys` says, and answers with what was drawn.
fn top(place: &Path, keys: &str) -> String {
    let line = format!(
        "stty rows 24 cols 80; timeout --foreground 60 '{RAZORFS}' top '{}'; \
         echo \"ended with $?\"; stty -a",
        place.display()
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut drawn = Vec::new();
    let mut part = [0; 4096];
    let mut typed = false;
    while let Ok(n @ 1..) = out.read(&mut part) {
        drawn.extend(&part[..n]);
        let text = String::from_utf8_lossy(&drawn);
        if !typed && text.contains("requests/s") && text.contains("checkpoints") {
            stdin.write_all(keys.as_bytes()).unwrap();
            typed = true;
        }
    }
    reap(child);
    String::from_utf8_lossy(&drawn).into_owned()
}

#[test]
fn top_draws_on_a_terminal_and_leaves_it_as_it_was() {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "a").unwrap();
    // Control-C comes as a letter.
    for keys in ["q", "\u{3}"] {
        let drawn = top(&mount.dir, keys);
        let (screen, after) = drawn.split_once("\u{1b}[?1049l").unwrap();
        assert!(
            screen.contains("\u{1b}[?1049h") && screen.contains("lookup"),
            "{drawn}"
        );
        assert!(after.contains("ended with 0"), "{after}");
        // The terminal echoes again, and takes lines.
        assert!(
            after.contains(" echo ") && after.contains(" icanon"),
            "{after}"
        );
    }
}

#[test]
fn top_is_refused_where_there_is_no_terminal_or_no_mount() {
    let mount = Mount::with(&[]);
    let line = fails(1, ["top".as_ref(), mount.dir.as_os_str()]);
    assert!(line.contains("razorfs stats"), "{line}");
    mount.umount();
    let line = format!(
        "'{RAZORFS}' top '{}'; echo \"ended with $?\"",
        mount.volume.display()
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null());
    let said = script.output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("it is not mounted") && said.contains("ended with 1"),
        "{said}"
    );
    assert!(!said.contains("\u{1b}[?1049h"), "nothing was drawn");
}
