//! Votes over HTTP: while this node suspects somebody, it asks other nodes for their latest heartbeat, at addresses of
//! the configuration. (The bus is a suspect, too.)
//!
//! What answers is what went out on the bus, byte for byte: one format, one reader, one signature. A failure of any
//! kind is no answer; nothing is tried again before the next round, and no redirect is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};
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
        let mut voice = Voice::default();
        let mut last = Vec::new();
        let (mut doubted, mut soon) = (BTreeSet::new(), 0);
        loop {
            let doubts = |snapshot: &Option<Arc<Snapshot>>| {
                let snapshot = snapshot.as_ref();
                snapshot.is_some_and(|seen| doubts(seen).next().is_some())
            };
            let doubts = snapshots
                .wait_for(doubts)
                .await?
                .as_ref()
                .map_or_else(BTreeMap::new, |seen| self::doubts(seen).collect());
            if !doubts.keys().eq(&doubted) {
                (doubted, soon) = (doubts.keys().cloned().collect(), AT_FIRST);
            }
            if let Some(body) = self.ask(node, &doubts).await.filter(|body| *body != last) {
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
            // Who hears what we doubt says so at once, and is waited for no longer than an interval.
            tokio::time::sleep(if soon > 0 {
                self.interval / 4
            } else {
                self.interval
            })
            .await;
            soon = soon.saturating_sub(1);
        }
    }

    /// The body of what it answers, if it does.
    async fn ask(&self, node: &str, doubts: &BTreeMap<Arc<str>, Time>) -> Option<Vec<u8>> {
        let now = self.clock.now();
        // (As many as an answer can speak of.)
        let mut query = String::new();
        for (about, since) in doubts.iter().take(Ballot::MAX_VOTES) {
            let doubt = format!("{}={}", encoded(about), now.since(*since).as_millis());
            if query.len() + doubt.len() < MAX_QUERY {
                query += if query.is_empty() { "?" } else { "&" };
                query += &doubt;
            }
        }
        let patience = self.interval.min(PATIENCE);
        match latest(node, &query, patience).await {
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

/// What this node votes against, and since when it is silent.
fn doubts(snapshot: &Snapshot) -> impl Iterator<Item = (Arc<str>, Time)> {
    let votes = snapshot.peers.iter().filter_map(|peer| peer.votes.as_ref());
    votes.flat_map(|votes| votes.doubts.clone())
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
}
