//! What was heard of each node, so that nothing is heard twice: the newest number of its run, and when that was sent.
//!
//! In order, not in a window of the last few: one connection delivers in order, and a message that another overtook (a
//! link was replaced) is worth nothing to anybody.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Refused;

/// Nodes that are remembered. Those with keys of their own are as many as there are keys.
const MOST_NODES: usize = 4096;

/// The newest of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Newest {
    pub(super) boot: Arc<str>,
    pub(super) n: u64,
    pub(super) sent_ms: u64,
    /// Heard in this run of ours. What is known of an earlier one orders messages, and says nothing of how old they are.
    #[serde(skip)]
    pub(super) now: bool,
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
    ours: Option<u64>,
    nodes: HashMap<Arc<str>, Newest>,
    /// A node began a run since this was asked last.
    news: bool,
}

impl Memory {
    pub(super) fn new(window_ms: u64) -> Self {
        Self {
            window_ms,
            ours: None,
            nodes: HashMap::new(),
            news: false,
        }
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
        if ours {
            if self.ours.is_some_and(|newest| number <= newest) {
                return Err(Refused::Replayed);
            }
        } else {
            self.judge_other(node, boot, number, sent_ms, now_ms)?;
        }
        Ok(Heard {
            ours,
            node: Arc::clone(node),
            newest: Newest {
                boot: Arc::clone(boot),
                n: number,
                sent_ms,
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
            // A date that lies ahead of us came of a clock that was wrong: it must not shut out the right one.
            } else if sent_ms <= newest.sent_ms && newest.sent_ms <= now_ms.saturating_add(self.window_ms) {
                return Err(Refused::Replayed);
            }
        } else if self.nodes.len() >= MOST_NODES {
            return Err(Refused::TooMany);
        }
        if sent_ms.abs_diff(now_ms) > self.window_ms {
            return Err(Refused::Stale);
        }
        Ok(())
    }

    /// That message verified.
    pub(super) fn remember(&mut self, heard: Heard) {
        let Heard { ours, node, newest } = heard;
        if ours {
            self.ours = Some(newest.n);
            return;
        }
        match self.nodes.get_mut(&node) {
            Some(known) => {
                self.news |= known.boot != newest.boot;
                *known = newest;
            }
            None => {
                self.news = true;
                self.nodes.insert(node, newest);
            }
        }
    }

    /// What an earlier run of this node heard.
    pub(super) fn restore(&mut self, nodes: impl IntoIterator<Item = (Arc<str>, Newest)>) {
        self.nodes.extend(nodes.into_iter().take(MOST_NODES));
    }

    /// All of it, if a node began a run since it was asked last.
    pub(super) fn news(&mut self) -> Option<Vec<(Arc<str>, Newest)>> {
        std::mem::take(&mut self.news).then(|| self.all())
    }

    pub(super) fn all(&self) -> Vec<(Arc<str>, Newest)> {
        let copy = |(node, newest): (&Arc<str>, &Newest)| (Arc::clone(node), newest.clone());
        self.nodes.iter().map(copy).collect()
    }
}
