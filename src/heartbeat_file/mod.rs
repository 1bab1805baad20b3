//! Heartbeat files: what a program says of itself in a file, as kstlib's `Heartbeat` writes it:
//!
//! ```json
//! {"timestamp": "2026-01-12T10:00:00+00:00", "pid": 1234, "hostname": "myhost", "metadata": {}}
//! ```
//!
//! Read for the `file` check, an owner that is found by such a file, and `defib probe file`; written for
//! `heartbeat.file`. A leaf: what a file means for a peer is the reader's business.

mod beat;
mod content;
mod stamp;
mod write;

pub use beat::Beat;
pub use content::{Content, MAX_BYTES, Unread, read};
pub use stamp::Stamp;
pub use write::{Status, Writer};

/// This machine's name, as `gethostname` says it and kstlib writes it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
