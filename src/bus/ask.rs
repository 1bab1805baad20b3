//! Votes over HTTP: while this node suspects somebody, it asks other nodes for their latest heartbeat, at addresses of
//! the configuration. (The bus is a suspect, too.)
//!
//! What answers is what went out on the bus, byte for byte: one format, one reader, one signature. A failure of any
//! kind is no answer; nothing is tried again before the next round, and no redirect is followed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::WallClock;
use super::heartbeat::MAX_BYTES;
use super::intake::{Intake, NoHeartbeat};
use crate::engine::event::{Ballot, Event};
use crate::engine::snapshot::Snapshot;
use crate::engine::time::{Clock, Time};
use crate::http_client::{Error, Request, Response, encoded, send};
use crate::signing::Verifier;
use crate::telemetry::metrics::bus::BusMetrics;

/// Where a node's latest heartbeat is, below its address.
const PATH: &str = "/api/v1/heartbeat";
/// So often it is asked at first, four times an interval: whoever objects must be heard in time.
const AT_FIRST: u8 = 8;
/// Longest query; what does not fit is not asked about.
const MAX_QUERY: usize = 4096;
/// No answer is waited for longer, however long the interval is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks as long as there is something to ask.
#[derive(Clone)]
pub struct Asking {
    /// Addresses of nodes: `http://` or `https://`, a host and a port.
    pub nodes: Vec<Arc<str>>,
    /// Between two rounds: the interval of our heartbeats.
    pub interval: Duration,
    /// On which the heartbeats went out.
    pub group_channel: Arc<str>,
    /// Of answers, where the group signs. Not that of the bus: each remembers what it has heard.
    pub verifier: Option<Arc<Verifier>>,
    /// For the verifier.
    pub wall: WallClock,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// How long a vote counts.
    pub lifetime: Duration,
    /// Tells whether this node votes against anybody.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Where answers go.
    pub events: mpsc::Sender<Event>,
    /// Where they are counted.
    pub metrics: BusMetrics,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl Asking {
    /// Until it is cancelled.
    ///
    /// # Errors
    /// Only if nobody takes the answers any more.
    pub async fn run(self, cancel: CancellationToken) -> anyhow::Result<()> {
        // Each by itself: one that hangs costs the others nothing.
        let asking = try_join_all(self.nodes.iter().map(|node| self.keep_asking(node)));
        match cancel.run_until_cancelled(asking).await {
            Some(ended) => ended.map(drop),
            None => Ok(()),
        }
    }

    async fn keep_asking(&self, node: &str) -> anyhow::Result<()> {
        let mut intake = Intake::new(Arc::clone(&self.group_channel), self.verifier.clone());
        let mut snapshots = self.snapshots.clone();
        let (mut voice, mut turns) = (Voice::default(), Turns::default());
        let mut last = Vec::new();
        let (mut doubted, mut soon) = (Doubts::new(), 0);
        loop {
            let doubts: Doubts = {
                let seen = snapshots
                    .wait_for(|seen| doubts(seen.as_ref()).next().is_some())
                    .await?;
                doubts(seen.as_ref()).collect()
            };
            if adds(&doubts, &doubted) {
                soon = AT_FIRST;
            }
            doubted = doubts;
            let (query, named) = turns.question(&doubted, self.clock.now());
            let body = tokio::select! {
                biased;
                body = self.ask(node, &query) => body,
                news = self.news(&mut snapshots, &doubted) => {
                    news?;
                    continue;
                }
            };
            if body.is_some() {
                turns.told(named, &doubted);
            }
            if let Some(body) = body.filter(|body| *body != last) {
                let result = match intake.take(&self.group_channel, &body, (self.wall)()) {
                    Ok(beat) if !voice.is_of(beat.node.as_ref(), self.clock.now(), self.lifetime) => {
                        "renamed"
                    }
                    Ok(beat) => {
                        self.events.send(Event::Answered(beat)).await?;
                        "ok"
                    }
                    Err(NoHeartbeat::Unreadable(_)) => "unreadable",
                    Err(NoHeartbeat::Refused(_)) => "unverified",
                };
                self.count(result);
                last = body;
            }
            // Who hears what we doubt says so at once, and is not waited for for long.
            let pause = if soon > 0 {
                self.interval / 4
            } else {
                self.interval
            };
            tokio::select! {
                () = sleep(pause) => {}
                news = self.news(&mut snapshots, &doubted) => news?,
            }
            soon = soon.saturating_sub(1);
        }
    }

    /// Somebody is doubted who was not: others are to be asked of it at once, and not when they have answered what was
    /// asked before. Who is missed a moment later is asked of together with it.
    async fn news(&self, snapshots: &mut Snapshots, doubted: &Doubts) -> anyhow::Result<()> {
        snapshots
            .wait_for(|seen| doubts(seen.as_ref()).any(|(about, since)| doubted.get(&about) != Some(&since)))
            .await?;
        sleep(self.interval / 16).await;
        Ok(())
    }

    /// The body of what it answers, if it does.
    async fn ask(&self, node: &str, query: &str) -> Option<Vec<u8>> {
        let patience = self.interval.min(PATIENCE);
        match latest(node, query, patience).await {
            Err(error) => {
                tracing::debug!("{node} was asked for its heartbeat: {error}");
                self.count("failed");
                None
            }
            Ok(answer) if answer.status != 200 => {
                tracing::debug!("{node} was asked for its heartbeat: status {}", answer.status);
                self.count("refused");
                None
            }
            // Longer than a heartbeat is.
            Ok(answer) if answer.body.is_none() => {
                self.count("unreadable");
                None
            }
            Ok(answer) => answer.body,
        }
    }

    fn count(&self, result: &str) {
        self.metrics.asked.with_label_values(&[result]).inc();
    }
}

/// Asks for the latest heartbeat. `query`: empty, or from its question mark on.
pub(super) async fn latest(node: &str, query: &str, patience: Duration) -> Result<Response, Error> {
    let request = Request {
        method: "GET".into(),
        url: format!("{}{PATH}{query}", node.trim_end_matches('/')),
        body: None,
        bearer: None,
        headers: Vec::new(),
        timeout: patience,
        body_limit: Some(MAX_BYTES),
    };
    send(&request).await
}

/// Whose word comes from an address. Where nobody signs, whoever answers there could say that it is one node after the
/// other, and agree with itself: it is one, for as long as its vote counts.
#[derive(Debug, Default)]
struct Voice(Option<(Arc<str>, Time)>);

impl Voice {
    fn is_of(&mut self, node: Option<&Arc<str>>, now: Time, lifetime: Duration) -> bool {
        let Some(node) = node else { return false };
        if let Some((known, heard)) = &self.0
            && known != node
            && now.since(*heard) < lifetime
        {
            return false;
        }
        self.0 = Some((Arc::clone(node), now));
        true
    }
}

/// Whom one address was asked of, and in which question last.
#[derive(Debug, Default)]
struct Turns {
    questions: u64,
    told: BTreeMap<Arc<str>, (Time, u64)>,
}

impl Turns {
    /// The next question, as a query, and whom it names: as many as an answer can speak of. First who was not named yet, the
    /// newest before all: nobody should be confirmed dead before others were asked of it. Then who was not named for longest.
    fn question(&self, doubts: &Doubts, now: Time) -> (String, Vec<Arc<str>>) {
        let last = |about, since: &Time| self.told.get(about).filter(|(of, _)| of == since);
        let mut in_turn: Vec<_> = doubts
            .iter()
            .map(|(about, since)| {
                (
                    last(about, since).map(|(_, question)| *question),
                    Reverse(*since),
                    about,
                )
            })
            .collect();
        in_turn.sort_unstable();
        let (mut query, mut named) = (String::new(), Vec::new());
        for (_, Reverse(since), about) in in_turn {
            let doubt = format!("{}={}", encoded(about), now.since(since).as_millis());
            if named.len() < Ballot::MAX_VOTES && query.len() + doubt.len() < MAX_QUERY {
                query += if query.is_empty() { "?" } else { "&" };
                query += &doubt;
                named.push(Arc::clone(about));
            }
        }
        (query, named)
    }

    fn told(&mut self, named: Vec<Arc<str>>, doubts: &Doubts) {
        self.questions += 1;
        for about in named {
            if let Some(since) = doubts.get(&about) {
                self.told.insert(about, (*since, self.questions));
            }
        }
        self.told.retain(|about, _| doubts.contains_key(about));
    }
}

/// What this node votes against, and since when it is silent.
type Doubts = BTreeMap<Arc<str>, Time>;
type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

fn doubts(seen: Option<&Arc<Snapshot>>) -> impl Iterator<Item = (Arc<str>, Time)> {
    let peers = seen.into_iter().flat_map(|seen| &seen.peers);
    peers
        .filter_map(|peer| peer.votes.as_ref())
        .flat_map(|votes| votes.doubts.clone())
}

/// Somebody is doubted who was not before.
fn adds(doubts: &Doubts, before: &Doubts) -> bool {
    doubts
        .iter()
        .any(|(about, since)| before.get(about) != Some(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_voice_for_as_long_as_a_vote_counts() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let [b, c] = ["b", "c"].map(Arc::<str>::from);
        let mut voice = Voice::default();
        let mut is_of =
            |node: Option<&Arc<str>>, seconds| voice.is_of(node, at(seconds), Duration::from_secs(3));
        assert!(!is_of(None, 0) && is_of(Some(&b), 0) && is_of(Some(&b), 2));
        assert!(!is_of(Some(&c), 4), "b's vote still counts");
        assert!(is_of(Some(&c), 5), "another node answers there by now");
        assert!(!is_of(Some(&b), 6));
    }

    #[test]
    fn who_was_not_named_yet_comes_first_and_everybody_has_a_turn() {
        let now = Time::ZERO + Duration::from_secs(100);
        let name = |place: u64| Arc::<str>::from(format!("node:{place:02}"));
        let mut doubts: Doubts = (0..40).map(|place| (name(place), now)).collect();
        let mut turns = Turns::default();
        let mut ask = |doubts: &Doubts| {
            let (_, named) = turns.question(doubts, now);
            turns.told(named.clone(), doubts);
            named
        };
        let mut named = ask(&doubts);
        // One that is missed only now, behind all others by its name.
        doubts.insert(name(99), now + Duration::from_secs(1));
        let next = ask(&doubts);
        assert_eq!(next[0], name(99));
        named.extend(next);
        named.extend(ask(&doubts));
        named.sort();
        named.dedup();
        assert_eq!(named.len(), 41, "all of them in three questions");
        // Heard meanwhile, and missed again.
        doubts.insert(name(99), now + Duration::from_secs(2));
        assert_eq!(ask(&doubts)[0], name(99));
        // One that fits into no question keeps nobody else out of it.
        doubts.insert("x".repeat(MAX_QUERY).into(), now);
        assert_eq!(ask(&doubts).len(), Ballot::MAX_VOTES);
    }
}
