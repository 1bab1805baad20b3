//! What operators ask for.

use std::time::Duration;

use super::Engine;
use super::decision::What;
use super::event::{OperatorRequest, PeerId};
use super::evidence::{Why, age};
use super::peer::{Ledger, Pause};
use super::settings::{CheckKind, Source};

impl Engine {
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
