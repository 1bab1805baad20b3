//! What is asked of the node that keeps the lease.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::api::{Node, Reply, TIMEOUT};
use crate::cli::args::LeaseArgs;
use crate::engine::time::{Clock, Time};
use crate::http_client::encoded;
use crate::lease_desk::{Answer, State};
use crate::runtime::clock::SleeplessClock;

/// For giving it back; it ends by itself otherwise.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// The node's desk for one lease, and the token that it is held by.
pub(super) struct Desk {
    node: Node,
    path: String,
    token: String,
    ttl: Duration,
    peer: Option<String>,
    clock: SleeplessClock,
    asked_at: AtomicU64,
}

/// What a PUT came to.
pub(super) enum Put {
    Answer(Answer),
    /// Status and words of a node that did not even try.
    Refused(u16, String),
    Unreachable(String),
}

/// The same, and when it was asked.
pub(super) struct Sent {
    pub(super) at: Time,
    pub(super) put: Put,
}

/// What came of taking it.
pub(super) enum Taken {
    Held {
        fencing_token: Option<u64>,
        until: Time,
    },
    /// Another has it, or it could not be found out.
    NotHeld(String),
    /// It can never be had so.
    Refused(String),
}

impl Desk {
    pub(super) fn new(node: Node, args: &LeaseArgs, clock: SleeplessClock) -> anyhow::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).context("cannot get random bytes for a token")?;
        Ok(Self {
            node,
            path: format!("/api/v1/leases/{}", encoded(&args.key)),
            token: format!("{:032x}", u128::from_be_bytes(bytes)),
            ttl: args.ttl,
            peer: args.peer.clone(),
            clock,
            asked_at: AtomicU64::new(0),
        })
    }

    pub(super) const fn node(&self) -> &Node {
        &self.node
    }

    /// Where it is told what becomes of it.
    pub(super) fn events(&self) -> String {
        format!("{}/events", self.path)
    }

    /// When it was asked for last.
    pub(super) fn asked_at(&self) -> Time {
        Time::from_nanos(self.asked_at.load(Ordering::Relaxed))
    }

    /// Takes it, within `wait` if somebody else has it.
    pub(super) async fn take(&self, wait: Duration, again: Duration) -> Taken {
        let until = self.clock.now() + wait;
        loop {
            let sent = self.put(false, TIMEOUT).await;
            let (why, patience) = match sent.put {
                Put::Answer(answer) => match answer.state {
                    State::Acquired | State::Renewed => {
                        let held = Duration::from_millis(answer.held_for_ms.unwrap_or(0));
                        return Taken::Held {
                            fencing_token: answer.fencing_token,
                            until: sent.at + held,
                        };
                    }
                    _ => told(&answer),
                },
                Put::Refused(400 | 401 | 403 | 404, why) => return Taken::Refused(why),
                Put::Refused(_, why) | Put::Unreachable(why) => (why, again),
            };
            let now = self.clock.now();
            if now >= until {
                // A request that went unanswered may have taken it.
                self.give_back().await;
                return Taken::NotHeld(why);
            }
            tokio::time::sleep(patience.min(again).min(until.since(now))).await;
        }
    }

    /// Lets it last; never takes it anew.
    pub(super) async fn renew(&self, tick: Duration) -> Sent {
        self.put(true, tick.clamp(Duration::from_millis(300), TIMEOUT))
            .await
    }

    /// Gives it back; if that fails, it ends by itself.
    pub(super) async fn give_back(&self) {
        let body = json!({ "token": self.token });
        // Whatever comes of it, nothing more can be done.
        let _ = self.node.send("DELETE", &self.path, &body, GIVE_BACK).await;
    }

    async fn put(&self, renew: bool, within: Duration) -> Sent {
        let ttl = humantime::format_duration(self.ttl).to_string();
        let body = json!({ "token": self.token, "ttl": ttl, "peer": self.peer, "renew": renew });
        let at = self.clock.now();
        self.asked_at.store(at.as_nanos(), Ordering::Relaxed);
        let put = match self.node.send("PUT", &self.path, &body, within).await {
            Ok(reply) => read(&reply),
            Err(error) => Put::Unreachable(format!("{error:#}")),
        };
        Sent { at, put }
    }
}

fn read(reply: &Reply) -> Put {
    if let Ok(answer) = serde_json::from_slice(&reply.body) {
        return Put::Answer(answer);
    }
    let said = serde_json::from_slice::<Value>(&reply.body).ok();
    let error = said.as_ref().and_then(|said| said.get("error")?.as_str());
    let why = error.map_or_else(
        || format!("the node answered with status {}", reply.status),
        str::to_owned,
    );
    Put::Refused(reply.status, why)
}

/// Why it is not had, and when it may be.
fn told(answer: &Answer) -> (String, Duration) {
    let ends = answer.ends_in_ms.map(Duration::from_millis);
    let why = match (&answer.reason, ends) {
        (Some(reason), _) => reason.clone(),
        (None, Some(ends)) => format!(
            "somebody else has it, for {} unless it is renewed",
            humantime::format_duration(Duration::from_secs(ends.as_secs()))
        ),
        (None, None) => "somebody else has it".to_owned(),
    };
    let soon = ends.map_or(Duration::MAX, |ends| ends + Duration::from_millis(5));
    (why, soon)
}
