//! What was heard of each node, so that nothing is heard twice: the newest number of its run, when that was sent, and its
//! runs before.
//!
//! In order, not in a window of the last few: one connection delivers in order, and a message that another overtook (a
//! link was replaced) is worth nothing to anybody.
//!
//! A node is forgotten only where there is no room for another, and then only if what it said is too old to be believed
//! of anybody: whoever has the group's key can invent names, and a group whose pods come and go has many.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Refused;

/// Nodes that are remembered, besides those that are expected. Those with keys of their own are as many as there are keys.
pub(super) const MOST_NODES: usize = 4096;
/// Runs before the last one that are remembered of a node.
const FORMER: usize = 8;
/// What a wrong clock dated later than this is not waited for.
const DAY_MS: u64 = 86_400_000;

/// A run that another one followed. It may go on all the same: the other was a second process of its name, which has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Former {
    boot: Arc<str>,
    /// Nothing is heard up to this number; [`OVER`]: nothing at all.
    n: u64,
}

/// No number is higher.
const OVER: u64 = u64::MAX;

/// The newest of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Newest {
    pub(super) boot: Arc<str>,
    pub(super) n: u64,
    pub(super) sent_ms: u64,
    /// The latest date of anything that it said.
    #[serde(default)]
    pub(super) latest_ms: u64,
    /// Runs before this one, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) former: Vec<Former>,
    /// When that was heard, by our wall clock.
    #[serde(default)]
    pub(super) heard_ms: u64,
    /// Heard in this run of ours. What is known of an earlier one orders messages, and says nothing of how old they are.
    #[serde(skip)]
    pub(super) now: bool,
}

impl Newest {
    /// From when on nothing of what it ever said would be believed of a node that nobody knows.
    fn is_old_at(&self, window_ms: u64) -> u64 {
        let dated = self.latest_ms.max(self.sent_ms);
        let last = dated.min(self.heard_ms.saturating_add(DAY_MS)).max(self.heard_ms);
        // Twice: the clock by which this is told may have been set.
        last.saturating_add(window_ms.saturating_mul(2))
    }

    /// Another run follows: from now on this is one of those before. Where a wrong clock dated ahead of us what this node
    /// said, no date will tell what we did not hear of it from news: then nothing more of it is heard.
    fn end_run(&mut self, window_ms: u64) {
        let ahead = self.latest_ms > self.heard_ms.saturating_add(window_ms);
        self.end(if ahead { OVER } else { self.n });
    }

    fn end(&mut self, n: u64) {
        let boot = std::mem::take(&mut self.boot);
        self.former.retain(|former| former.boot != boot);
        if !boot.is_empty() {
            self.former.push(Former { boot, n });
        }
        let over = self.former.len().saturating_sub(FORMER);
        self.former.drain(..over);
    }

    /// Whether that run is one of those before, and has said that already, or may say nothing more.
    fn has_heard(&self, boot: &str, number: u64) -> bool {
        let mut former = self.former.iter();
        former.any(|former| *former.boot == *boot && number <= former.n)
    }
}

/// A message that is to be remembered if it verifies.
#[derive(Debug)]
pub(super) struct Heard {
    ours: bool,
    node: Arc<str>,
    newest: Newest,
}

/// Of all nodes.
#[derive(Debug)]
pub(super) struct Memory {
    window_ms: u64,
    ours: Option<(Arc<str>, Newest)>,
    nodes: HashMap<Arc<str>, Newest>,
    /// Those that this node waits for: there is room for them, whoever else was there first.
    expected: HashSet<Arc<str>>,
    /// A node began a run since this was asked last.
    news: bool,
}

impl Memory {
    pub(super) fn new(window_ms: u64) -> Self {
        Self {
            window_ms,
            ours: None,
            nodes: HashMap::new(),
            expected: HashSet::new(),
            news: false,
        }
    }

    pub(super) fn expect(&mut self, nodes: impl IntoIterator<Item = Arc<str>>) {
        self.expected.extend(nodes);
    }

    /// Whether a message of that number, sent then, is new. `ours`: it is of this very run of this node.
    pub(super) fn judge(
        &self,
        ours: bool,
        node: &Arc<str>,
        boot: &Arc<str>,
        number: u64,
        sent_ms: u64,
        now_ms: u64,
    ) -> Result<Heard, Refused> {
        let newest = self.ours.as_ref().map(|(_, newest)| newest.n);
        if !ours {
            self.judge_other(node, boot, number, sent_ms, now_ms)?;
        } else if newest.is_some_and(|newest| number <= newest) {
            return Err(Refused::Replayed);
        }
        Ok(Heard {
            ours,
            node: Arc::clone(node),
            newest: Newest {
                boot: Arc::clone(boot),
                n: number,
                sent_ms,
                latest_ms: sent_ms,
                former: Vec::new(),
                heard_ms: now_ms,
                now: true,
            },
        })
    }

    fn judge_other(
        &self,
        node: &str,
        boot: &str,
        number: u64,
        sent_ms: u64,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let known = self.nodes.get(node);
        if let Some(newest) = known {
            if *newest.boot == *boot {
                if number <= newest.n {
                    return Err(Refused::Replayed);
                }
                if newest.now {
                    return Ok(());
                }
            } else if newest.has_heard(boot, number) {
                return Err(Refused::Replayed);
            // A date that lies ahead of us came of a clock that was wrong: it must not shut out the right one.
            } else if sent_ms <= newest.sent_ms && newest.sent_ms <= now_ms.saturating_add(self.window_ms) {
                return Err(Refused::Replayed);
            }
        } else if !self.expected.contains(node) && !self.has_room(now_ms) {
            return Err(Refused::TooMany);
        }
        if sent_ms.abs_diff(now_ms) > self.window_ms {
            return Err(Refused::Stale);
        }
        Ok(())
    }

    fn has_room(&self, now_ms: u64) -> bool {
        let old = |(node, of): (&Arc<str>, &Newest)| {
            !self.expected.contains(node) && of.is_old_at(self.window_ms) < now_ms
        };
        self.nodes.len() < MOST_NODES || self.nodes.iter().any(old)
    }

    /// For what comes another way: nothing was heard there yet.
    pub(super) fn beside(&self) -> Self {
        Self {
            expected: self.expected.clone(),
            ..Self::new(self.window_ms)
        }
    }

    /// Whether a message is older than the newest of its node.
    pub(super) fn is_past(&self, node: &str, boot: &str, number: u64, sent_ms: u64, now_ms: u64) -> bool {
        let Some(newest) = self.nodes.get(node) else {
            return false;
        };
        if *newest.boot == *boot {
            return number < newest.n;
        }
        let dated = sent_ms <= newest.sent_ms && newest.sent_ms <= now_ms.saturating_add(self.window_ms);
        dated || newest.has_heard(boot, number)
    }

    /// That message verified.
    pub(super) fn remember(&mut self, heard: Heard) {
        let Heard {
            ours,
            node,
            mut newest,
        } = heard;
        if ours {
            self.news |= self.ours.is_none();
            self.ours = Some((node, newest));
            return;
        }
        if let Some(known) = self.nodes.get_mut(&node) {
            if known.boot != newest.boot {
                self.news = true;
                known.end_run(self.window_ms);
            }
            newest.former = std::mem::take(&mut known.former);
            newest.former.retain(|former| former.boot != newest.boot);
            newest.latest_ms = newest.latest_ms.max(known.latest_ms);
            *known = newest;
            return;
        }
        self.news = true;
        if self.nodes.len() >= MOST_NODES {
            let (window_ms, now_ms) = (self.window_ms, newest.heard_ms);
            let expected = &self.expected;
            self.nodes
                .retain(|node, of| expected.contains(node) || of.is_old_at(window_ms) >= now_ms);
        }
        self.nodes.insert(node, newest);
    }

    /// What an earlier run of this node heard. Of its `own` runs, none goes on.
    pub(super) fn restore(&mut self, own: &str, nodes: impl IntoIterator<Item = (Arc<str>, Newest)>) {
        for (node, mut newest) in nodes.into_iter().take(MOST_NODES) {
            if *node == *own {
                newest.end(OVER);
            }
            newest.former.truncate(FORMER);
            newest.heard_ms = newest.heard_ms.max(newest.sent_ms);
            self.nodes.insert(node, newest);
        }
    }

    /// All of it, if a node began a run since it was asked last.
    pub(super) fn news(&mut self) -> Option<Vec<(Arc<str>, Newest)>> {
        std::mem::take(&mut self.news).then(|| self.all())
    }

    /// With this node itself: its next run must know this one.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Newest)> {
        let mut nodes = self.nodes.clone();
        if let Some((node, ours)) = &self.ours {
            let mut ours = ours.clone();
            if let Some(mut before) = nodes.remove(node) {
                before.end_run(self.window_ms);
                ours.former = before.former;
            }
            nodes.insert(Arc::clone(node), ours);
        }
        nodes.into_iter().collect()
    }
}
