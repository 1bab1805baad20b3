//! What one datagram of the sd_notify protocol says: assignments, one a line. Anybody who may write to the socket sends
//! it, so every byte is hostile.

use std::time::Duration;

/// systemd takes no more than this either (`NOTIFY_BUFFER_MAX`).
pub(super) const MAX: usize = 4096;
/// Characters of a status that are shown.
const MAX_STATUS: usize = 256;

/// What it says. What is not listed here is ignored, as systemd ignores what it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// `READY=1`
    pub(super) ready: bool,
    /// `STOPPING=1`
    pub(super) stopping: bool,
    /// `RELOADING=1`
    pub(super) reloading: bool,
    /// `WATCHDOG=1`, or an extension of a time-out: it is at work.
    pub(super) ping: bool,
    /// `WATCHDOG=trigger`
    pub(super) trigger: bool,
    /// `WATCHDOG_USEC=`, more than zero.
    pub(super) watchdog: Option<Duration>,
    /// `STATUS=`, one line, bounded; empty: no status any more.
    pub(crate) status: Option<String>,
    /// `MAINPID=`
    pub(crate) main_pid: Option<u32>,
    /// `ERRNO=`, other than zero.
    pub(super) errno: Option<i32>,
    /// `BARRIER=1`: the sender waits until its file descriptor is closed.
    pub(super) barrier: bool,
}

/// `None`: it is no such datagram.
pub(crate) fn parse(datagram: &[u8]) -> Option<Said> {
    // A C program may send its string with the NUL that ends it. systemd refuses any other one.
    let text = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    if text.contains(&0) {
        return None;
    }
    let mut said = Said::default();
    let mut assignments = 0;
    for line in text.split(|&byte| byte == b'\n') {
        let Some(equals) = line.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        assignments += 1;
        said.assign(&line[..equals], &line[equals + 1..]);
    }
    (assignments > 0).then_some(said)
}

impl Said {
    fn assign(&mut self, key: &[u8], value: &[u8]) {
        match (key, value) {
            (b"READY", b"1") => self.ready = true,
            (b"STOPPING", b"1") => self.stopping = true,
            (b"RELOADING", b"1") => self.reloading = true,
            (b"WATCHDOG", b"1") => self.ping = true,
            (b"WATCHDOG", b"trigger") => self.trigger = true,
            (b"BARRIER", b"1") => self.barrier = true,
            (b"WATCHDOG_USEC", _) => {
                self.watchdog = number(value)
                    .filter(|micros| *micros > 0)
                    .map(Duration::from_micros);
            }
            (b"EXTEND_TIMEOUT_USEC", _) => self.ping |= number::<u64>(value).is_some(),
            (b"STATUS", _) => self.status = Some(line(value)),
            (b"MAINPID", _) => self.main_pid = number(value).filter(|pid| *pid > 0),
            (b"ERRNO", _) => self.errno = number(value).filter(|errno| *errno != 0),
            _ => {}
        }
    }
}

/// Digits and nothing else: no sign, no blanks.
fn number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn line(value: &[u8]) -> String {
    // Cut before it is decoded: a character has four bytes at most.
    let value = &value[..value.len().min(4 * MAX_STATUS)];
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(value)
        .chars()
        .map(shown)
        .take(MAX_STATUS)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_programs_send_is_understood() {
        let said = parse(b"READY=1\nSTATUS=Serving\nMAINPID=4711\n").unwrap();
        assert!(said.ready && !said.ping);
        assert_eq!(said.status.as_deref(), Some("Serving"));
        assert_eq!(said.main_pid, Some(4711));
        let said = parse(b"WATCHDOG=1\0").unwrap();
        assert!(said.ping && !said.trigger);
        assert_eq!(
            parse(b"WATCHDOG_USEC=20000000").unwrap().watchdog,
            Some(Duration::from_secs(20))
        );
        assert!(parse(b"EXTEND_TIMEOUT_USEC=5000000").unwrap().ping);
        let said = parse(b"STOPPING=1\nERRNO=2").unwrap();
        assert!(said.stopping);
        assert_eq!(said.errno, Some(2));
        assert!(parse(b"BARRIER=1").unwrap().barrier);
        assert!(parse(b"WATCHDOG=trigger").unwrap().trigger);
        assert!(parse(b"RELOADING=1\nMONOTONIC_USEC=12").unwrap().reloading);
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=x\nX_OURS=1").unwrap(), Said::default());
    }

    #[test]
    fn what_is_no_such_datagram_or_value_is_nothing() {
        for garbage in [
            &b""[..],
            b"\0",
            b"READY",
            b"READY=1\0STOPPING=1",
            b"\n\n",
            b"\xff\xfe",
        ] {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
        for nothing in [
            "READY=yes",
            "READY= 1",
            " READY=1",
            "ready=1",
            "WATCHDOG_USEC=0",
            "WATCHDOG_USEC=-5",
            "WATCHDOG_USEC=99999999999999999999",
            "WATCHDOG_USEC=",
            "EXTEND_TIMEOUT_USEC=soon",
            "MAINPID=0",
            "MAINPID=+7",
            "MAINPID=99999999999",
            "ERRNO=0",
            "ERRNO=ENOENT",
            "=1",
        ] {
            assert_eq!(parse(nothing.as_bytes()), Some(Said::default()), "{nothing}");
        }
    }

    #[test]
    fn a_status_is_one_bounded_line_of_text() {
        let said = parse(b"STATUS=a\tb\x1b[31m\xffc").unwrap();
        assert_eq!(said.status.as_deref(), Some("a b [31m\u{fffd}c"));
        assert_eq!(parse(b"STATUS=").unwrap().status.as_deref(), Some(""));
        let long = format!("STATUS={}", "ü".repeat(2_000));
        assert_eq!(
            parse(long.as_bytes()).unwrap().status.unwrap().chars().count(),
            MAX_STATUS
        );
    }

    proptest! {
        #[test]
        fn no_datagram_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..MAX)) {
            if let Some(said) = parse(&bytes) {
                prop_assert!(said.status.unwrap_or_default().chars().count() <= MAX_STATUS);
            }
        }
    }
}
