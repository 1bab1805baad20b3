//! What a peer said of itself, as one check heard it: words for people, its own pace, its word against itself.

use std::sync::Arc;

use super::cause::Cause;
use super::detector::Detector;
use super::event::{Incarnation, Next};
use super::peer::Peer;
use super::persist::{PersistedFailure, PersistedTold};
use super::settings::DetectorSettings;
use super::time::Time;

/// What was said, and holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    words: Option<Arc<str>>,
    pace: Pace,
    /// The life that told its pace to an earlier run of this node.
    pace_of: Option<Incarnation>,
    against: Option<Against>,
    /// Why the edge cannot hear it. A fact of the edge: no word of the peer's, and no other life, undoes it.
    deaf: Option<String>,
    /// The last sign of life that named its life. It may be ahead of the owner watch.
    heard: Option<Heard>,
}

/// How long its silence is no failure.
#[derive(Clone, Debug, Default)]
enum Pace {
    /// Nothing was told in this life: as configured.
    #[default]
    Untold,
    /// As configured, by its own word.
    Configured,
    Told {
        detector: Detector,
        next: Next,
    },
    Open,
}

/// What it said against itself.
#[derive(Clone, Debug)]
enum Against {
    Failed {
        cause: Cause,
        at: Time,
        detail: String,
        /// To an earlier run of this node: it may have lived since, where nobody listened.
        earlier: bool,
    },
    Leaving(Arc<str>),
}

/// A sign of life that named its life.
#[derive(Clone, Debug)]
struct Heard {
    life: Incarnation,
    at: Time,
    next: Next,
    words: Option<Arc<str>>,
}

impl Said {
    pub(super) fn words(&mut self, words: Option<Arc<str>>) {
        if let Some(words) = words {
            self.words = Some(words).filter(|words| !words.is_empty());
        }
    }

    /// Takes over the pace that it told. True if it is another one.
    pub(super) fn pace(&mut self, next: Next) -> bool {
        let before = self.next();
        match (next, &self.pace) {
            (Next::AsBefore, _)
            | (Next::Open, Pace::Configured | Pace::Told { .. })
            | (Next::Counts, Pace::Told { .. }) => return false,
            (Next::AsConfigured | Next::Counts, _) => self.pace = Pace::Configured,
            (Next::Open, _) => self.pace = Pace::Open,
            (
                Next::Within {
                    suspect_after,
                    dead_after,
                },
                _,
            ) => {
                let settings = DetectorSettings::Deadline {
                    suspect_after,
                    dead_after,
                };
                self.pace = Pace::Told {
                    detector: Detector::new(settings),
                    next,
                };
            }
        }
        self.pace_of = None;
        before != self.next()
    }

    fn next(&self) -> Next {
        match &self.pace {
            Pace::Untold => Next::AsBefore,
            Pace::Configured => Next::AsConfigured,
            Pace::Told { next, .. } => *next,
            Pace::Open => Next::Open,
        }
    }

    /// The one that it told, or `configured`.
    pub(super) fn detector<'a>(&'a self, configured: &'a Detector) -> &'a Detector {
        match &self.pace {
            Pace::Told { detector, .. } => detector,
            Pace::Untold | Pace::Configured | Pace::Open => configured,
        }
    }

    pub(super) fn promises_nothing(&self) -> bool {
        matches!(self.pace, Pace::Open)
    }

    pub(super) fn fail(&mut self, cause: Cause, at: Time, detail: String) {
        self.against = Some(Against::Failed {
            cause,
            at,
            detail,
            earlier: false,
        });
    }

    pub(super) fn failed(&self) -> Option<(Cause, Time)> {
        match &self.against {
            Some(Against::Failed { cause, at, .. }) => Some((*cause, *at)),
            Some(Against::Leaving(_)) | None => None,
        }
    }

    /// That it failed it told an earlier run of this node, and nothing since.
    pub(super) fn failed_earlier(&self) -> bool {
        matches!(self.against, Some(Against::Failed { earlier: true, .. }))
    }

    /// The edge cannot hear it. What it said before that still holds.
    pub(super) fn deaf(&mut self, detail: String) {
        self.deaf = Some(detail);
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.is_some()
    }

    /// It can be heard. True if it could not.
    pub(super) fn hears(&mut self) -> bool {
        self.deaf.take().is_some()
    }

    pub(super) fn leaving(&mut self, detail: Arc<str>) {
        self.against = Some(Against::Leaving(detail));
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.against, Some(Against::Leaving(_)))
    }

    /// A sign of life: what it said against itself is over, unless it is on its way out.
    pub(super) fn lives(&mut self) {
        self.against
            .take_if(|against| !matches!(against, Against::Leaving(_)));
    }

    /// A sign of life that named its life; kept, because its owner may show that life only after it.
    pub(super) fn heard(&mut self, life: Incarnation, at: Time, next: Next, words: Option<Arc<str>>) {
        // It tells its pace once.
        let next = match (&self.heard, next) {
            (Some(before), Next::AsBefore) if before.life == life => before.next,
            (Some(before), Next::Open | Next::Counts)
                if before.life == life && !matches!(before.next, Next::AsBefore | Next::Open) =>
            {
                before.next
            }
            (Some(_) | None, next) => next,
        };
        let said = self.heard.take().filter(|before| before.life == life);
        self.heard = Some(Heard {
            life,
            at,
            next,
            words: words.or_else(|| said?.words),
        });
    }

    /// Words of a life that was heard already, and may still be ahead of the owner watch.
    pub(super) fn noted(&mut self, life: &Incarnation, words: Option<&Arc<str>>) {
        if let (Some(heard), Some(words)) = (&mut self.heard, words)
            && heard.life == *life
        {
            heard.words = Some(Arc::clone(words));
        }
    }

    /// When `life` was heard, if it was; its pace and words count from now on.
    pub(super) fn recall(&mut self, life: &Incarnation) -> Option<Time> {
        let Heard { at, next, words, .. } = self.heard.clone().filter(|heard| heard.life == *life)?;
        self.pace(next);
        self.words(words);
        Some(at)
    }

    pub(super) fn new_life(&mut self) {
        *self = Self {
            deaf: self.deaf.take(),
            heard: self.heard.take(),
            ..Self::default()
        };
    }

    /// The first life that this run of the node knows by name. True if it was another one that told a pace of its own
    /// to the run before: this one has told its own to nobody.
    pub(super) fn first_life(&mut self, life: &Incarnation) -> bool {
        if self.pace_of.take().is_none_or(|of| of == *life) {
            return false;
        }
        self.against
            .take_if(|against| matches!(against, Against::Failed { earlier: true, .. }));
        let before = std::mem::take(&mut self.pace);
        matches!(before, Pace::Told { .. } | Pace::Open)
    }

    /// What it says, for people.
    pub(super) fn with_words(&self, grounds: String) -> String {
        match &self.words {
            Some(words) => format!("{grounds}; it says: {words}"),
            None => grounds,
        }
    }

    /// What stands against it, in words.
    pub(super) fn against(&self) -> String {
        match (&self.against, &self.deaf) {
            (
                Some(Against::Failed {
                    detail,
                    earlier: true,
                    ..
                }),
                _,
            ) => self.with_words(format!("{detail}, as it told an earlier run of this node")),
            (Some(Against::Failed { detail, .. }), _) => self.with_words(detail.clone()),
            (Some(Against::Leaving(detail)), _) => format!("it leaves on purpose: {detail}"),
            (None, Some(detail)) => format!("cannot be heard: {detail}"),
            (None, None) => String::new(),
        }
    }

    pub(super) fn persisted(&self, peer: &Peer) -> Option<PersistedTold> {
        let next = self.next();
        let failed = match &self.against {
            Some(Against::Failed { cause, detail, .. }) => Some(PersistedFailure {
                cause: *cause,
                detail: detail.clone(),
            }),
            Some(Against::Leaving(_)) | None => None,
        };
        (next != Next::AsBefore || failed.is_some()).then(|| PersistedTold {
            life: self.pace_of.clone().or_else(|| peer.incarnation.clone()),
            next,
            failed,
        })
    }

    pub(super) fn restore(&mut self, told: &PersistedTold, now: Time) {
        self.pace(told.next);
        self.pace_of.clone_from(&told.life);
        self.against = told.failed.clone().map(|failed| Against::Failed {
            cause: failed.cause,
            at: now,
            detail: failed.detail,
            earlier: true,
        });
    }
}
