//! What a command prints, line by line into the log, bounded: the rest is read, counted and dropped, so that the
//! command never blocks on a full pipe and this node never grows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line that is logged, in bytes.
const MAX_LINE: usize = 1024;
/// Most bytes of one stream that are logged.
const MAX_LOGGED: usize = 64 * 1024;

/// What came of one stream. Read from outside when the pump is cut off.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Lines>);

impl Tally {
    /// Bytes that were not logged.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// The last line that was logged.
    pub(super) fn last(&self) -> String {
        self.lock().last.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the stream's end and hands on its lines. An error of the stream is its end.
pub(super) async fn pump(from: Option<impl AsyncRead + Unpin>, tally: &Tally, mut log: impl FnMut(&str)) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        tally.lock().feed(&buffer[..read], &mut log);
    }
    tally.lock().end_line(&mut log);
}

#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    logged: usize,
    dropped: u64,
    last: String,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], log: &mut impl FnMut(&str)) {
        let mut parts = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = MAX_LINE.saturating_sub(self.line.len());
            let (kept, over) = part.split_at(part.len().min(room));
            self.line.extend_from_slice(kept);
            self.dropped += over.len() as u64;
            if parts.peek().is_some() {
                self.end_line(log);
            }
        }
    }

    fn end_line(&mut self, log: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if self.logged + line.len() > MAX_LOGGED {
            self.dropped += line.len() as u64;
            return;
        }
        self.logged += line.len();
        // A control character could rewrite a terminal, or forge a line of the log.
        let text = String::from_utf8_lossy(&line);
        self.last = text
            .chars()
            .map(|c| {
                if c.is_control() && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        log(&self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(chunks: &[&[u8]]) -> (Vec<String>, u64) {
        let (mut lines, mut logged) = (Lines::default(), Vec::new());
        let mut log = |line: &str| logged.push(line.to_owned());
        for chunk in chunks {
            lines.feed(chunk, &mut log);
        }
        lines.end_line(&mut log);
        (logged, lines.dropped)
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let (lines, dropped) = fed(&[b"on", b"e\n\ntwo\nth", b"ree"]);
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(dropped, 0);
        assert_eq!(
            fed(&[b"a\x1b[2Jb\r\n\xff"]).0,
            ["a\u{fffd}[2Jb\u{fffd}", "\u{fffd}"]
        );
    }

    #[test]
    fn what_is_too_much_is_counted_and_dropped() {
        let (lines, dropped) = fed(&[&[b'x'; 5000], b"\nshort\n"]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [1024, 5]);
        assert_eq!(dropped, 5000 - 1024);
        let many = b"0123456789\n".repeat(20_000);
        let (lines, dropped) = fed(&[&many]);
        assert_eq!(lines.len(), MAX_LOGGED / 10);
        assert_eq!(dropped, 200_000 - (MAX_LOGGED / 10 * 10) as u64);
    }
}
