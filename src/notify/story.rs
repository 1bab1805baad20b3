//! What is known of each episode, as the notices tell it, and which of them is worth a message. Pure: no clock, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::message::{About, Event, Message};
use crate::engine::cause::Cause;
use crate::engine::decision::{Grant, Notice, What};
use crate::engine::guards::{GuardName, Refusal};
use crate::engine::settings::RemedyKind;
use crate::engine::snapshot::{EpisodePhase, PeerView, Snapshot};
use crate::engine::time::Time;

/// A refusal is told if it lasts: most remedies wait a moment for an echo to come back.
const LASTS: Duration = Duration::from_secs(2);

/// The same moment on the node's clock and on the wall's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Time,
    pub(super) wall: Duration,
}

impl Now {
    fn wall_at(self, at: Time) -> Duration {
        if at >= self.at {
            self.wall.saturating_add(at.since(self.at))
        } else {
            self.wall.saturating_sub(self.at.since(at))
        }
    }
}

/// All peers that something was heard of.
#[derive(Debug, Default)]
pub(super) struct Stories {
    boot: String,
    peers: BTreeMap<Arc<str>, Peer>,
    mass_silence: bool,
    told: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// When the last notice of it was given.
    heard: Time,
    evidence: String,
    episode: Option<Episode>,
    /// The last episode that ended.
    closed: u64,
}

#[derive(Clone, Debug)]
struct Episode {
    id: u64,
    cause: Cause,
    since: Time,
    refusal: Option<Refusal>,
    remedy: Option<RemedyKind>,
    outcome: Option<&'static str>,
    captured: String,
    attempts: u32,
    remedies: u32,
    gave_up: bool,
}

impl Episode {
    fn new(id: u64, cause: Cause, since: Time) -> Self {
        Self {
            id,
            cause,
            since,
            refusal: None,
            remedy: None,
            outcome: None,
            captured: String::new(),
            attempts: 0,
            remedies: 0,
            gave_up: false,
        }
    }

    fn of(view: &PeerView) -> Option<Self> {
        let seen = view.episode.as_ref()?;
        let mut episode = Self::new(seen.id, seen.cause, seen.since);
        episode.refusal.clone_from(&seen.refusal);
        episode.remedies = seen.remedies;
        episode.gave_up = matches!(seen.phase, EpisodePhase::GaveUp { .. });
        Some(episode)
    }
}

impl Stories {
    /// `boot` is part of the messages' ids.
    pub(super) fn new(boot: &str) -> Self {
        Self {
            boot: boot.to_owned(),
            ..Self::default()
        }
    }

    /// Takes a notice in. A message, if it is worth one.
    pub(super) fn hear(&mut self, notice: &Notice, now: Now) -> Option<Message> {
        let text = notice.what.to_string();
        let Some(name) = &notice.peer else {
            let event = match &notice.what {
                What::MassSilenceTripped { .. } => Event::MassSilenceTripped,
                What::MassSilenceEnded => Event::MassSilenceEnded,
                _ => return None,
            };
            self.mass_silence = event == Event::MassSilenceTripped;
            return Some(self.about_the_node(event, text, now));
        };
        let peer = self.peers.entry(Arc::clone(name)).or_default();
        peer.heard = notice.at;
        let event = peer.take(&notice.what, notice.at)?;
        let known = peer.episode.clone();
        if event.resolves()
            && let Some(ended) = peer.episode.take()
        {
            peer.closed = ended.id;
        }
        let evidence = peer.evidence.clone();
        let mut message = self.about(name, event, text, evidence, known.as_ref(), now);
        message.at = now.wall_at(notice.at);
        if event == Event::Refused {
            message.not_before = Some(notice.at + LASTS);
        }
        Some(message)
    }

    /// A `notify` rung asks for a message.
    pub(super) fn asked(&mut self, grant: &Grant, now: Now) -> Message {
        let known = self.peers.get(&grant.name);
        let episode = known.and_then(|peer| peer.episode.clone());
        let evidence = known.map(|peer| peer.evidence.clone()).unwrap_or_default();
        let text = format!("its ladder asks for somebody to look (attempt {})", grant.attempt);
        let mut message = self.about(&grant.name, Event::Notify, text, evidence, episode.as_ref(), now);
        message.cause = Some(grant.cause);
        message.attempts = grant.attempt;
        message
    }

    /// Compares with a snapshot: at the start (`first`), where episodes of an earlier run are open, and after notices
    /// were missed. What was heard after the snapshot was taken is left as it is; true if that is so of some: the next
    /// snapshot has to be compared, too.
    pub(super) fn compare(&mut self, snapshot: &Snapshot, first: bool, now: Now) -> (Vec<Message>, bool) {
        let (mut out, mut doubt) = (Vec::new(), false);
        for view in &snapshot.peers {
            let peer = self.peers.entry(Arc::clone(&view.name)).or_default();
            let seen = Episode::of(view).filter(|seen| seen.id > peer.closed);
            let restored = first && peer.episode.is_none() && seen.is_some();
            let same = match (&seen, &peer.episode) {
                (Some(seen), Some(known)) => seen.id == known.id && (known.gave_up || !seen.gave_up),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if same {
                continue;
            }
            if snapshot.at <= peer.heard && !restored {
                doubt = true;
                continue;
            }
            view.detail.clone_into(&mut peer.evidence);
            let (ended, evidence) = (
                std::mem::replace(&mut peer.episode, seen.clone()),
                peer.evidence.clone(),
            );
            let goes_on = |ended: &Episode| seen.as_ref().is_some_and(|seen| seen.id == ended.id);
            if let Some(ended) = ended.filter(|ended| !goes_on(ended)) {
                let text = "it ended while this node had no time to tell how".to_owned();
                let name = &view.name;
                out.push(self.about(
                    name,
                    Event::EpisodeClosed,
                    text,
                    evidence.clone(),
                    Some(&ended),
                    now,
                ));
            }
            if let Some(seen) = seen {
                let (event, text) = if seen.gave_up {
                    (Event::GaveUp, "given up")
                } else {
                    (Event::EpisodeOpened, "open")
                };
                let text = format!("episode {} is {text}: {}", seen.id, seen.cause);
                let mut message = self.about(&view.name, event, text, evidence, Some(&seen), now);
                message.again = first;
                out.push(message);
            }
        }
        if snapshot.mass_silence.is_some() != self.mass_silence && !first {
            self.mass_silence = snapshot.mass_silence.is_some();
            let (event, text) = if self.mass_silence {
                (
                    Event::MassSilenceTripped,
                    "remote peers fell silent together: all is held",
                )
            } else {
                (Event::MassSilenceEnded, "mass silence is over")
            };
            out.push(self.about_the_node(event, text.to_owned(), now));
        }
        (out, doubt)
    }

    fn about_the_node(&mut self, event: Event, text: String, now: Now) -> Message {
        let about = About {
            peer: None,
            episode: 0,
        };
        let mut message = Message::new(event, about, now.wall, text);
        message.cause = Some(Cause::MassSilence);
        message.since = Some(now.wall);
        message.id = self.next_id();
        message
    }

    fn about(
        &mut self,
        peer: &Arc<str>,
        event: Event,
        text: String,
        evidence: String,
        episode: Option<&Episode>,
        now: Now,
    ) -> Message {
        let about = About {
            peer: Some(Arc::clone(peer)),
            episode: episode.map_or(0, |episode| episode.id),
        };
        let mut message = Message::new(event, about, now.wall, text);
        message.id = self.next_id();
        message.evidence = evidence;
        let Some(episode) = episode else { return message };
        message.cause = Some(episode.cause);
        message.since = Some(now.wall_at(episode.since));
        message.remedy = episode.remedy;
        message.outcome = episode.outcome;
        message.attempts = episode.attempts;
        message.remedies = episode.remedies;
        message.captured.clone_from(&episode.captured);
        if let Some(refusal) = &episode.refusal {
            message.guard = Some(refusal.guard);
            message.why.clone_from(&refusal.why);
            message.next = refusal.until.map(|until| now.wall_at(until));
        }
        message
    }

    fn next_id(&mut self) -> String {
        self.told += 1;
        format!("{}-{}", self.boot, self.told)
    }
}

impl Peer {
    /// What it means for the episode; the event, if it is worth a message.
    fn take(&mut self, what: &What, at: Time) -> Option<Event> {
        match what {
            What::Liveness { cause, detail, .. } => {
                detail.clone_into(&mut self.evidence);
                if let (Some(episode), Some(cause)) = (&mut self.episode, cause)
                    && cause.lies_in_peer()
                {
                    episode.cause = *cause;
                }
                return None;
            }
            What::EpisodeOpened { episode, cause } => {
                self.episode = Some(Episode::new(*episode, *cause, at));
                return Some(Event::EpisodeOpened);
            }
            _ => {}
        }
        // (Of an episode whose opening was missed, as much as the notice tells.)
        let (id, cause) = episode_of(what)?;
        let known = self.episode.take().filter(|known| known.id == id);
        let fallback = cause.unwrap_or(Cause::PeerSilent);
        let episode = self
            .episode
            .insert(known.unwrap_or_else(|| Episode::new(id, fallback, at)));
        episode.take(what)
    }
}

impl Episode {
    fn take(&mut self, what: &What) -> Option<Event> {
        match what {
            What::Refused { refusal, .. } => {
                let same = self
                    .refusal
                    .as_ref()
                    .is_some_and(|last| last.guard == refusal.guard);
                self.refusal = Some(refusal.clone());
                // A dry run's refusal is told by what would have been done.
                (!same && refusal.guard != GuardName::DryRun).then_some(Event::Refused)
            }
            What::WouldHeal { kind, cause, .. } => {
                (self.remedy, self.outcome, self.cause) = (Some(*kind), None, *cause);
                Some(Event::WouldHeal)
            }
            What::Granted { kind, .. } if !kind.touches() => {
                self.refusal = None;
                None
            }
            What::Granted {
                kind, cause, attempt, ..
            } => {
                (self.refusal, self.cause, self.attempts) = (None, *cause, *attempt);
                (self.remedy, self.outcome) = (Some(*kind), None);
                Some(Event::Granted)
            }
            What::Acted {
                outcome: "dry_run", ..
            } => None,
            // What was kept is told with what it was kept before.
            What::Acted {
                kind: RemedyKind::Capture,
                detail,
                ..
            } => {
                self.captured.clone_from(detail);
                None
            }
            What::Acted { kind, .. } if kind.tells() => None,
            What::Acted { kind, outcome, .. } => {
                (self.remedy, self.outcome) = (Some(*kind), Some(*outcome));
                if matches!(*outcome, "acted" | "failed") {
                    self.remedies = self.remedies.saturating_add(1);
                }
                Some(Event::Acted)
            }
            What::ExitedInstead { kind, .. } => {
                self.remedy = Some(*kind);
                Some(Event::ExitedInstead)
            }
            What::Recovered { remedies, .. } => {
                self.refusal = None;
                self.remedies = *remedies;
                Some(Event::Recovered)
            }
            What::GaveUp { remedies, .. } => {
                self.refusal = None;
                self.gave_up = true;
                self.remedies = *remedies;
                Some(Event::GaveUp)
            }
            What::EpisodeClosed { .. } => {
                self.refusal = None;
                Some(Event::EpisodeClosed)
            }
            _ => None,
        }
    }
}

/// The episode that a notice is about, and its cause if it tells it. What concerns no episode is for the event stream.
fn episode_of(what: &What) -> Option<(u64, Option<Cause>)> {
    match what {
        What::WouldHeal { episode, cause, .. } | What::Granted { episode, cause, .. } => {
            Some((*episode, Some(*cause)))
        }
        What::Refused { episode, .. }
        | What::Acted { episode, .. }
        | What::ExitedInstead { episode, .. }
        | What::Recovered { episode, .. }
        | What::GaveUp { episode, .. }
        | What::EpisodeClosed { episode, .. } => Some((*episode, None)),
        _ => None,
    }
}
