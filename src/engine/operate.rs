//! What operators ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::What;
use super::event::{Opened, OperatorRequest, PeerId};
use super::evidence::{Why, age};
use super::peer::{Ledger, Pause};
use super::settings::{CheckKind, Source};
use super::time::Time;

/// Whoever tells of the calendar may end: so long after its end a window closes all the same.
const UNTOLD: Duration = Duration::from_secs(60);

/// A maintenance window that is open.
#[derive(Clone, Debug)]
pub(super) struct Maintained {
    pub(super) reason: Arc<str>,
    peers: Arc<[Arc<str>]>,
    /// Its end, as it was told.
    pub(super) until: Time,
}

impl Engine {
    /// A window of the calendar opened, moved its end, or closed. Nothing is done within; an episode that is open at its
    /// end is asked for again.
    pub(super) fn maintain(&mut self, window: u16, open: Option<Opened>) {
        let Some(open) = open else {
            if let Some(closed) = self.maintenance.remove(&window) {
                self.tell_window(&closed, false, Duration::ZERO);
                self.ask = true;
            }
            return;
        };
        let now = Maintained {
            reason: open.reason,
            peers: open.peers,
            until: self.now + open.lasting,
        };
        let known = self.maintenance.insert(window, now.clone());
        if known.is_none_or(|known| known.reason != now.reason || known.peers != now.peers) {
            self.tell_window(&now, true, open.lasting);
        }
        for id in self.ids() {
            if self.window_of(id).is_some() {
                self.withdraw_pulse_of(id);
            }
        }
        self.ask = true;
    }

    /// Another calendar: what it has open is open before what the one of before had open closes.
    pub(super) fn take_calendar(&mut self, open: Vec<(u16, Opened)>) {
        let mut closed: BTreeSet<u16> = self.maintenance.keys().copied().collect();
        for (window, opened) in open {
            closed.remove(&window);
            self.maintain(window, Some(opened));
        }
        for window in closed {
            self.maintain(window, None);
        }
    }

    fn tell_window(&mut self, window: &Maintained, open: bool, lasting: Duration) {
        let what = What::Maintenance {
            open,
            reason: Arc::clone(&window.reason),
            peers: Arc::clone(&window.peers),
            for_ms: u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX),
        };
        self.notice(None, what);
    }

    fn open_windows(&self) -> impl Iterator<Item = &Maintained> {
        self.maintenance
            .values()
            .filter(|window| self.now < window.until + UNTOLD)
    }

    /// The window in which nothing is done to this peer: of several the one that ends last.
    pub(super) fn window_of(&self, id: PeerId) -> Option<&Maintained> {
        let name = &self.settings.peers.get(id.0 as usize)?.name;
        self.open_windows()
            .filter(|window| window.peers.is_empty() || window.peers.contains(name))
            .max_by_key(|window| window.until)
    }

    /// The same for all of them.
    pub(super) fn window_of_all(&self) -> Option<&Maintained> {
        self.open_windows()
            .filter(|window| window.peers.is_empty())
            .max_by_key(|window| window.until)
    }

    pub(super) fn operator(&mut self, request: OperatorRequest, by: String) {
        match request {
            OperatorRequest::Pause {
                peer,
                reason,
                lasting,
            } => self.pause(peer, reason, by, lasting),
            OperatorRequest::Resume { peer } => self.end_pause(peer, &by),
            OperatorRequest::Forget { peer } => self.forget(peer, by),
            OperatorRequest::Drain => self.drain(by),
            OperatorRequest::Restart(restart) => self.restart(restart, by),
        }
        self.ask = true;
        self.save_now();
    }

    fn pause(&mut self, peer: Option<PeerId>, reason: String, by: String, lasting: Option<Duration>) {
        let until = lasting.map(|lasting| self.now + lasting);
        let words = lasting.map_or_else(
            || "until resumed".to_owned(),
            |lasting| format!("for {}", age(lasting)),
        );
        let detail = format!("{words}: {reason}");
        let pause = Some(Pause {
            reason,
            by: by.clone(),
            until,
        });
        match peer {
            None => {
                self.node_pause = pause;
                for id in self.ids() {
                    self.withdraw_pulse_of(id);
                }
            }
            Some(id) => match self.peer_mut(id) {
                Some(peer) => {
                    peer.pause = pause;
                    self.withdraw_pulse_of(id);
                }
                None => return,
            },
        }
        self.notice(
            peer,
            What::Operator {
                request: "pause",
                by,
                detail,
            },
        );
        if let Some(id) = peer {
            self.arm(id);
        }
    }

    /// Also when its time is over (`by` is then "clock").
    pub(super) fn end_pause(&mut self, peer: Option<PeerId>, by: &str) {
        let ended = match peer {
            None => self.node_pause.take(),
            Some(id) => self.peer_mut(id).and_then(|peer| peer.pause.take()),
        };
        if let Some(pause) = ended {
            let detail = format!("the pause by {} ends: {}", pause.by, pause.reason);
            self.notice(
                peer,
                What::Operator {
                    request: "resume",
                    by: by.to_owned(),
                    detail,
                },
            );
            self.ask = true;
            self.saving.soon();
        }
    }

    /// The peer left for good. Everything that was known of it goes, so that the store cannot bring it back to
    /// life; the next sign of life starts it anew. (Not its incarnation: nobody tells the same one twice.)
    fn forget(&mut self, id: PeerId, by: String) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.ledger = Ledger::default();
        peer.alive_since = None;
        peer.leaving = None;
        for check in &mut peer.checks {
            check.ever_passed = false;
            check.leave(Why::Forgotten);
        }
        for check in &self.settings.peers[id.0 as usize].checks {
            if let CheckKind::Passive {
                source: Source::Node(node),
                ..
            } = &check.kind
            {
                self.quorum.forget(node);
            }
        }
        let detail = "no longer expected, until it is heard again".to_owned();
        self.notice(
            Some(id),
            What::Operator {
                request: "forget",
                by,
                detail,
            },
        );
        self.judge(id);
    }

    fn drain(&mut self, by: String) {
        if self.draining {
            return;
        }
        self.draining = true;
        for id in self.ids() {
            self.withdraw_pulse_of(id);
        }
        self.publish(true);
        let detail = "nothing is healed any more; goodbye said (unless the link is down)".to_owned();
        self.notice(
            None,
            What::Operator {
                request: "drain",
                by,
                detail,
            },
        );
    }
}
