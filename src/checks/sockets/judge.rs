//! What a list of connections says, with the time for which what lies in them has not been read. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::Wanted;
use crate::engine::time::Time;
use crate::sock_diag::{Cookie, Socket, SocketId};

/// What is held against the connections, in words, and which ones are meant, each with what is held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Well,
    /// What arrived is not read.
    Stuck(String, Vec<(SocketId, String)>),
    /// Too few, or too few that receive anything.
    Missing(String, Vec<(SocketId, String)>),
}

/// For how long each connection has been left unread.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Most that the time between two looks counts.
    most: Duration,
    unread: BTreeMap<Cookie, Unread>,
}

#[derive(Clone, Copy, Debug)]
struct Unread {
    /// Bytes that had been read by then.
    read: u64,
    /// When it was last looked at.
    at: Time,
    lasted: Duration,
}

impl Standing {
    pub(super) const fn new(most: Duration) -> Self {
        Self {
            most,
            unread: BTreeMap::new(),
        }
    }

    /// Takes in what the kernel said. Who reads anything, however little of what waits, starts anew: a slow reader
    /// with a standing queue is not stuck.
    pub(super) fn see(&mut self, sockets: &[Socket], now: Time) {
        let present: BTreeSet<Cookie> = sockets.iter().map(|socket| socket.id.cookie).collect();
        self.unread.retain(|cookie, _| present.contains(cookie));
        for socket in sockets {
            let Some(read) = socket.read_so_far() else {
                continue;
            };
            let begun = Unread {
                read,
                at: now,
                lasted: Duration::ZERO,
            };
            let unread = self.unread.entry(socket.id.cookie).or_insert(begun);
            if socket.recv_q == 0 || read > unread.read {
                *unread = begun;
            } else {
                unread.lasted += now.since(unread.at).min(self.most);
                unread.at = now;
            }
        }
    }

    fn of(&self, socket: &Socket) -> Duration {
        let unread = self.unread.get(&socket.id.cookie);
        unread.map_or(Duration::ZERO, |unread| unread.lasted)
    }
}

/// Judges the ESTABLISHED connections; of `left` more the other end has closed and the owner has not noticed.
pub(super) fn judge(wanted: &Wanted, open: &[Socket], left: usize, standing: &Standing) -> Verdict {
    let stuck: Vec<_> = open
        .iter()
        .filter(|socket| socket.recv_q > wanted.max_recv_q && standing.of(socket) >= wanted.standing)
        .map(|socket| {
            let (bytes, lasted) = (socket.recv_q, standing.of(socket));
            (socket, format!("{bytes} bytes unread for {}", seconds(lasted)))
        })
        .collect();
    if let Some((worst, because)) = stuck.iter().max_by_key(|(socket, _)| socket.recv_q) {
        let words = format!(
            "{} of {}: {because} ({})",
            stuck.len(),
            connections(open.len()),
            worst.id
        );
        return Verdict::Stuck(words, ids(stuck));
    }
    let min = usize::try_from(wanted.min).unwrap_or(usize::MAX);
    if open.len() < min {
        let mut words = format!("{} of at least {min}", connections(open.len()));
        if left > 0 {
            let _ = write!(
                words,
                "; the server closed {left} more, and the client has not noticed"
            );
        }
        return Verdict::Missing(words, Vec::new());
    }
    let Some(most) = wanted.max_silence else {
        return Verdict::Well;
    };
    let silent: Vec<_> = open
        .iter()
        .filter_map(|socket| Some((socket, socket.tcp?.last_data_recv)))
        .filter(|(_, silence)| *silence > most)
        .map(|(socket, silence)| (socket, format!("nothing received for {}", seconds(silence))))
        .collect();
    let heard = open.len() - silent.len();
    if heard >= min {
        return Verdict::Well;
    }
    let words = format!(
        "{heard} of {} received something within {}; at least {min} should",
        connections(open.len()),
        seconds(most)
    );
    Verdict::Missing(words, ids(silent))
}

fn ids(found: Vec<(&Socket, String)>) -> Vec<(SocketId, String)> {
    found
        .into_iter()
        .map(|(socket, because)| (socket.id.clone(), because))
        .collect()
}

fn connections(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sock_diag::{Family, State, Tcp};

    const S: Duration = Duration::from_secs(1);

    fn wanted() -> Wanted {
        Wanted {
            to: Vec::new(),
            min: 1,
            max_recv_q: 0,
            standing: 3 * S,
            max_silence: None,
        }
    }

    fn socket(cookie: u64, received: u64, recv_q: u32) -> Socket {
        Socket {
            id: SocketId {
                family: Family::V4,
                local: "127.0.0.1:40000".parse().unwrap(),
                remote: "127.0.0.1:6379".parse().unwrap(),
                interface: 0,
                cookie: Cookie(cookie),
            },
            state: State::Established,
            recv_q,
            send_q: 0,
            uid: 0,
            inode: 1,
            cgroup: None,
            tcp: Some(Tcp {
                last_data_recv: S,
                bytes_received: received,
                bytes_acked: 0,
            }),
        }
    }

    /// Looks once a second at what `of` says the socket is then.
    fn looks(times: u32, of: impl Fn(u32) -> Socket) -> Verdict {
        let mut standing = Standing::new(2 * S);
        let mut last = Verdict::Well;
        for look in 0..times {
            let seen = [of(look)];
            standing.see(&seen, Time::ZERO + S * look);
            last = judge(&wanted(), &seen, 0, &standing);
        }
        last
    }

    #[test]
    fn who_reads_nothing_is_stuck_after_the_window_and_not_before() {
        let stopped = |look: u32| socket(7, 100 + u64::from(look) * 50, 40 + look * 50);
        assert_eq!(looks(3, stopped), Verdict::Well);
        let Verdict::Stuck(words, sockets) = looks(4, stopped) else {
            panic!("not stuck");
        };
        assert_eq!(
            words,
            "1 of 1 connection: 190 bytes unread for 3 s (127.0.0.1:40000 -> 127.0.0.1:6379)"
        );
        assert_eq!(sockets.len(), 1);
    }

    #[test]
    fn s41_a_slow_reader_with_a_standing_queue_is_not_stuck() {
        // A megabyte waits all the time, and one byte is read now and then.
        assert_eq!(
            looks(100, |look| socket(7, 2_000_000 + u64::from(look / 3), 1_000_000)),
            Verdict::Well
        );
        assert_eq!(looks(100, |_| socket(7, 1000, 0)), Verdict::Well);
        // Another connection each time: nothing is known of it yet.
        assert_eq!(
            looks(100, |look| socket(u64::from(look), 1000, 10)),
            Verdict::Well
        );
    }

    #[test]
    fn time_in_which_this_node_did_not_look_counts_for_two_looks_at_most() {
        let mut standing = Standing::new(2 * S);
        let seen = [socket(7, 10, 10)];
        standing.see(&seen, Time::ZERO);
        standing.see(&seen, Time::ZERO + 600 * S);
        assert_eq!(judge(&wanted(), &seen, 0, &standing), Verdict::Well);
        standing.see(&seen, Time::ZERO + 601 * S);
        assert!(matches!(
            judge(&wanted(), &seen, 0, &standing),
            Verdict::Stuck(..)
        ));
    }

    #[test]
    fn bounds_are_kept_to_the_byte_the_number_and_the_second() {
        let mut rule = wanted();
        rule.max_recv_q = 10;
        let mut standing = Standing::new(2 * S);
        for (recv_q, stuck) in [(10, false), (11, true)] {
            let seen = [socket(u64::from(recv_q), 100, recv_q)];
            for look in 0..5 {
                standing.see(&seen, Time::ZERO + S * look);
            }
            let verdict = judge(&rule, &seen, 0, &standing);
            assert_eq!(matches!(verdict, Verdict::Stuck(..)), stuck, "{verdict:?}");
        }
        let two = [socket(1, 0, 0), socket(2, 0, 0)];
        rule.min = 3;
        let Verdict::Missing(words, sockets) = judge(&rule, &two, 1, &standing) else {
            panic!("not missing");
        };
        assert_eq!(
            words,
            "2 connections of at least 3; the server closed 1 more, and the client has not noticed"
        );
        assert!(sockets.is_empty(), "none of those that are there is condemned");
        rule.min = 2;
        assert_eq!(judge(&rule, &two, 0, &standing), Verdict::Well);

        // Last heard of a second ago, each.
        rule.max_silence = Some(S);
        assert_eq!(judge(&rule, &two, 0, &standing), Verdict::Well);
        rule.max_silence = Some(S / 2);
        let Verdict::Missing(words, sockets) = judge(&rule, &two, 0, &standing) else {
            panic!("not silent");
        };
        assert!(
            words.starts_with("0 of 2 connections received something"),
            "{words}"
        );
        assert_eq!(sockets.len(), 2);
        // An idle one beside one that lives is fine.
        rule.min = 1;
        let mut one = two.clone();
        one[0].tcp.as_mut().unwrap().last_data_recv = Duration::ZERO;
        assert_eq!(judge(&rule, &one, 0, &standing), Verdict::Well);
    }

    proptest! {
        /// Whoever reads at least a byte within every window is never called stuck.
        #[test]
        fn s41_no_reader_is_stuck(steps in proptest::collection::vec((0_u64..5000, 1_u64..500, 100_u64..1400), 1..60)) {
            let (mut received, mut read) = (1_u64, 0_u64);
            let mut standing = Standing::new(2 * S);
            let mut now = Time::ZERO;
            for (arrives, reads, after) in steps {
                now = now + Duration::from_millis(after);
                received += arrives;
                read = (read + reads).min(received);
                let seen = [socket(1, received, u32::try_from(received - read).unwrap())];
                standing.see(&seen, now);
                prop_assert_eq!(judge(&wanted(), &seen, 0, &standing), Verdict::Well);
            }
        }
    }
}
