//! Serves the null file system on a directory until it is unmounted, for measuring the protocol.
//!
//! `serve_null DIR [transport=auto|uring|dev] [threads=N] [stay_near=true|false] [without=FLAGS]`,
//! the flags being bits of INIT in hexadecimal. Prints the counters of requests at the end.

use std::path::Path;
use std::sync::Arc;

use razorfs_fuse::{NullFs, Session, SessionOptions, TransportChoice};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let dir = words.next().ok_or("usage: serve_null DIR [OPTION...]")?;
    let mut options = SessionOptions::default();
    for word in words {
        let (name, value) = word.split_once('=').ok_or("an option is NAME=VALUE")?;
        match name {
            "transport" => {
                options.transport = match value {
                    "uring" => TransportChoice::Uring,
                    "auto" => TransportChoice::Auto,
                    _ => TransportChoice::Device,
                }
            }
            "threads" => options.threads = value.parse()?,
            "stay_near" => options.stay_near = value.parse()?,
            "without" => options.limits.without = u64::from_str_radix(value, 16)?,
            _ => return Err(format!("no such option: {name}").into()),
        }
    }
    let session = Session::new(Arc::new(NullFs::default()), Path::new(&dir), &options)?;
    let statistics = session.statistics();
    session.run(|| println!("ready"))?;
    for (name, count) in statistics.requests() {
        println!("{name} {count}");
    }
    Ok(())
}
