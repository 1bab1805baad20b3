//! An episode: from the first suspicion to verified recovery or giving up. The unit of audit.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cause::Cause;
use super::event::Incarnation;
use super::guards::Refusal;
use super::outside::{Outside, Reservation};
use super::settings::RemedySettings;
use super::snapshot::EpisodePhase;
use super::time::Time;

/// One episode of one peer.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    pub(super) id: u64,
    pub(super) opened: Time,
    pub(super) cause: Cause,
    /// Checks that condemned (or, before that, suspected) the peer. All of them must pass for a recovery.
    pub(super) condemned: BTreeSet<u16>,
    /// Those of them that do so now: only their word permits a remedy.
    pub(super) against: BTreeSet<u16>,
    pub(super) condemned_at: Option<Time>,
    pub(super) phase: EpisodePhase,
    /// The remedy that is being carried out or verified.
    pub(super) remedy: Option<Remedy>,
    /// Remedies granted.
    pub(super) attempts: u32,
    /// Remedies carried out.
    pub(super) remedies: u32,
    /// Those of them that restart, as they were granted.
    pub(super) restarts: u32,
    /// Rungs that were tried in it and did not help.
    pub(super) failed: BTreeSet<u16>,
    /// Remedies that were fenced since a rung was last left.
    pub(super) fenced: u8,
    /// One of them restarts: everything that ever worked must work again.
    pub(super) restarted: bool,
    /// It exited in answer to a remedy that restarts nothing: down by our hand until then, whatever follows.
    pub(super) down_until: Option<Time>,
    /// When the last remedy ended: only what began after that proves recovery.
    pub(super) healed_at: Option<Time>,
    pub(super) refusal: Option<Refusal>,
    /// What was asked of the outside, and what it said.
    pub(super) outside: Outside,
    /// What the group holds for the remedy that is at work.
    pub(super) lease: Option<Arc<Reservation>>,
    /// An operator's request that waits for its answer, or whose remedy is at work.
    pub(super) wish: Option<Wish>,
}

/// What an operator asked for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) number: u64,
    pub(super) by: String,
    pub(super) rung: u16,
    pub(super) force: Option<String>,
    /// Where the episode stood; `None`: there was none.
    pub(super) before: Option<EpisodePhase>,
    /// It has had its answer.
    pub(super) answered: bool,
}

/// A remedy that was granted.
#[derive(Clone, Debug)]
pub(super) struct Remedy {
    pub(super) token: u64,
    pub(super) rung: u16,
    /// What that rung was when it was granted: its ladder may be another by the time it ends.
    pub(super) granted: RemedySettings,
    pub(super) incarnation: Incarnation,
    /// Taken for failed if its executor has not answered by then.
    pub(super) lost_at: Time,
    /// That life ended while the executor was at work.
    pub(super) ended: bool,
    /// What [`Episode::restarted`] was before it, and is again if it touches nothing.
    pub(super) restarted_before: bool,
}

impl Episode {
    pub(super) fn new(id: u64, cause: Cause, now: Time) -> Self {
        Self {
            id,
            opened: now,
            cause,
            condemned: BTreeSet::new(),
            against: BTreeSet::new(),
            condemned_at: None,
            phase: EpisodePhase::Suspected,
            remedy: None,
            attempts: 0,
            remedies: 0,
            restarts: 0,
            failed: BTreeSet::new(),
            fenced: 0,
            restarted: false,
            down_until: None,
            healed_at: None,
            refusal: None,
            outside: Outside::default(),
            lease: None,
            wish: None,
        }
    }

    /// The remedy that is being carried out or verified, if it does more than to tell or to look.
    pub(super) fn touching(&self) -> Option<&Remedy> {
        let at_work = matches!(
            self.phase,
            EpisodePhase::Acting { .. } | EpisodePhase::Verifying { .. }
        );
        let remedy = self.remedy.as_ref().filter(|_| at_work);
        remedy.filter(|remedy| remedy.granted.kind.touches())
    }

    /// The life that it takes down, if it restarts.
    pub(super) fn taking_down(&self) -> Option<&Incarnation> {
        let remedy = self.touching().filter(|remedy| remedy.granted.restarts);
        remedy.map(|remedy| &remedy.incarnation)
    }

    /// Somebody was told of it: not of one that was opened for a request which has had no answer yet.
    pub(super) fn is_told(&self) -> bool {
        self.wish
            .as_ref()
            .is_none_or(|wish| wish.answered || wish.before.is_some())
    }

    /// The life and the rung of the remedy that is being carried out.
    pub(super) fn at_work(&self) -> Option<(Incarnation, u16)> {
        let acting = matches!(self.phase, EpisodePhase::Acting { .. });
        let remedy = self.remedy.as_ref().filter(|_| acting)?;
        Some((remedy.incarnation.clone(), remedy.rung))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, EpisodePhase::Suspected | EpisodePhase::Waiting)
    }
}
