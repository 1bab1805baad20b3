//! Log lines on their way to stderr, which may be a full disk, a pipe that nobody reads or one whose reader is gone.
//! None of that may hold the node's only thread or end it, so a thread of its own writes, and what waits is bounded.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait; lines that come then are lost, and counted.
const MAX_WAITING: usize = 1 << 20;
/// How long the last lines have at the end of the process.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Takes lines and never waits or fails. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

/// To be kept until the end of the process: gives the last lines time to be written.
#[derive(Debug)]
#[must_use = "the last lines are lost if it is dropped early"]
pub struct LastWords(Lines);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
    writing: bool,
}

impl Lines {
    /// Lines that a thread writes to `out`. Its errors are ignored: there is nobody to tell.
    pub(super) fn written_to(out: impl Write + Send + 'static) -> io::Result<(Self, LastWords)> {
        let lines = Self(Arc::default());
        let writer = lines.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_for_ever(out))?;
        Ok((lines.clone(), LastWords(lines)))
    }

    fn write_for_ever(&self, mut out: impl Write) {
        loop {
            let (line, lost) = self.next();
            let _ = out.write_all(&line);
            if lost > 0 {
                tracing::warn!("{lost} log lines were lost: stderr did not take them in time");
            }
        }
    }

    /// Waits for a line; also tells how many were lost since the last.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut queue = self.lock();
        queue.writing = false;
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing = true;
                return (line, std::mem::take(&mut queue.lost));
            }
            self.0.changed.notify_all();
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.bytes + line.len() > MAX_WAITING {
            queue.lost += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line.to_vec());
        }
        drop(queue);
        self.0.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let waiting = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        // Either way it is over.
        let _ = self
            .0
            .0
            .changed
            .wait_timeout_while(self.0.lock(), LAST_WORDS, waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_and_gets_the_rest_later() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (mut lines, last) = Lines::written_to(ours).unwrap();
        let much = vec![b'x'; 64 * 1024];
        // (What the writer takes meanwhile, it has told as lost; once the socket is full it takes nothing more.)
        let mut written = 0;
        while lines.lock().lost <= 50 {
            lines.write_all(&much).unwrap();
            written += 1;
            assert!(written < 10_000, "nothing is ever lost");
        }
        assert!(lines.lock().bytes <= MAX_WAITING);
        let reading = thread::spawn(move || io::copy(&mut &theirs, &mut io::sink()));
        let waiting = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        let (rest, _) = lines
            .0
            .changed
            .wait_timeout_while(lines.lock(), Duration::from_secs(30), waiting)
            .unwrap();
        assert!(rest.lines.is_empty() && !rest.writing, "the rest was not written");
        drop(rest);
        drop((last, reading));
    }

    #[test]
    fn what_was_said_last_is_written() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let (mut lines, last) = Lines::written_to(ours).unwrap();
        lines.write_all(b"the end\n").unwrap();
        drop(last);
        theirs.set_nonblocking(true).unwrap();
        let mut read = [0; 64];
        let len = io::Read::read(&mut theirs, &mut read).unwrap();
        assert_eq!(&read[..len], b"the end\n");
    }
}
