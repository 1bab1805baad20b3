//! Ports that a test gives to a server which somebody else starts.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports for outgoing connections: nobody gets one by accident while a
/// server is being restarted on it, or where nobody is to answer.
const FIRST: u16 = 12_000;
const MANY: u16 = 20_000;

/// A port of the loopback that is free, and that no other test gets until this one's process has ended.
pub(crate) fn free_port() -> u16 {
    free_port_of("127.0.0.1")
}

/// The same on another address of this machine.
pub(crate) fn free_port_of(host: &str) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1800).unwrap() * 11;
    for _ in 0..MANY {
        let port = FIRST + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % MANY;
        if claim(port) && TcpListener::bind((host, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free on {host}");
}

/// Between the look and the bind by the server that is started there may be seconds, and tests are processes beside each
/// other: a lock that ends with this one says whose the port is.
fn claim(port: u16) -> bool {
    let user = rustix::process::getuid().as_raw();
    let dir: PathBuf = std::env::temp_dir().join(format!("defib-test-ports-{user}"));
    std::fs::create_dir_all(&dir).unwrap();
    let file = File::create(dir.join(port.to_string())).unwrap();
    let ours = file.try_lock().is_ok();
    if ours {
        std::mem::forget(file);
    }
    ours
}
