//! Free ports of the loopback interface.
//!
//! The harness of this crate's own tests contains this file too.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The first port of the range.
///
/// The range is below the ephemeral ports of the kernel: otherwise an outgoing connection could
/// take the port of a server that is down for a restart, and a client that reconnects to this
/// server could even connect to itself.
const FIRST: usize = 12_000;
const COUNT: usize = 20_000;

/// Returns a port on which nothing listens, and which it has not returned before in this process.
pub(crate) fn free() -> u16 {
    // Test processes run in parallel, so each starts at a random port.
    static START: OnceLock<usize> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = *START.get_or_init(|| RandomState::new().hash_one(()) as usize % COUNT);
    for _ in 0..COUNT {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
