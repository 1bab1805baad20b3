//! The last notices of this run, for who comes too late: a follower that was cut off, and `explain`, which tells an
//! episode from its beginning. Bounded, however much happens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::decision::{Notice, What};

/// So many are kept.
const KEPT: usize = 1024;

/// The last notices. Cheap to add to; read by whoever asks.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Arc<Notice>>>);

/// What came after a notice that somebody had seen.
#[derive(Debug, PartialEq)]
pub(super) struct Missed {
    /// So many are not kept any more.
    pub(super) lost: u64,
    /// The others, in their order.
    pub(super) notices: VecDeque<Arc<Notice>>,
    /// The number of the latest one that there is.
    pub(super) last: u64,
}

impl Recent {
    /// The latest one.
    pub fn keep(&self, notice: &Arc<Notice>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(notice));
    }

    /// Everything after the notice of that number; a stranger's word, which may be any number.
    pub(super) fn after(&self, n: u64) -> Missed {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = kept.back().map_or(0, |notice| notice.n);
        let seen = n.min(last);
        let first = kept.front().map_or(seen, |notice| notice.n);
        Missed {
            lost: first.saturating_sub(seen.saturating_add(1)),
            notices: kept.iter().filter(|notice| notice.n > seen).cloned().collect(),
            last,
        }
    }

    /// The latest that is like this.
    pub(super) fn find(&self, is_it: impl Fn(&Notice) -> bool) -> Option<Arc<Notice>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|notice| is_it(notice)).cloned()
    }

    /// What was told of `peer` in its open episode, or else in the last one; from its opening on, as far as it is kept.
    pub(super) fn episode_of(&self, peer: &str) -> Vec<Arc<Notice>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told: Vec<Arc<Notice>> = Vec::new();
        let mut over = false;
        for notice in kept.iter().filter(|notice| notice.peer.as_deref() == Some(peer)) {
            if matches!(notice.what, What::EpisodeOpened { .. }) {
                // The verdict that opened it was told right before.
                let verdict = told
                    .pop()
                    .filter(|last| last.at == notice.at && matches!(last.what, What::Liveness { .. }));
                told.clear();
                told.extend(verdict);
                over = false;
            }
            if !over {
                told.push(Arc::clone(notice));
            }
            over |= matches!(notice.what, What::Recovered { .. } | What::EpisodeClosed { .. });
        }
        if told.iter().any(|notice| belongs_to_an_episode(&notice.what)) {
            told
        } else {
            Vec::new()
        }
    }
}

fn belongs_to_an_episode(what: &What) -> bool {
    !matches!(
        what,
        What::Liveness { .. }
            | What::Incarnation { .. }
            | What::Goodbye
            | What::Operator { .. }
            | What::Restart { .. }
    )
}
