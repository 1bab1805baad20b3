//! One message: what happened, and what is known of its episode at that moment. Plain data, and its words.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Sender;
use super::template::Word;
use crate::calendar::stamp;
use crate::engine::cause::Cause;
use crate::engine::guards::GuardName;
use crate::engine::settings::RemedyKind;
use crate::engine::time::Time;
use crate::telemetry::logs::printable;

/// Longest text of one word, in characters.
const LONGEST: usize = 1000;

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What a message tells; named as on the event stream.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Event {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Event {
            /// Every event.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// Their names, in the same order.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// As in the configuration and in messages.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

events! {
    /// A peer is suspected, or condemned at once.
    EpisodeOpened = "episode_opened",
    /// Another guard than before refuses.
    Refused = "refused",
    /// In a dry run: this remedy would be done now.
    WouldHeal = "would_heal",
    /// A remedy was granted.
    Granted = "granted",
    /// A remedy's execution ended; not yet a success.
    Acted = "acted",
    /// A remedy that restarts nothing was answered with an exit.
    ExitedInstead = "exited_instead",
    /// Proven by its own checks.
    Recovered = "recovered",
    /// No remedy is left to try.
    GaveUp = "gave_up",
    /// It left, or is no longer judged.
    EpisodeClosed = "episode_closed",
    /// Many fell silent together: all is held.
    MassSilenceTripped = "mass_silence_tripped",
    /// That is over.
    MassSilenceEnded = "mass_silence_ended",
    /// A `notify` rung of a ladder asks for it.
    Notify = "notify",
    /// `defib notify --test`.
    Test = "test",
}

impl Event {
    /// Those that a target may be told or spared; the others are asked for one by one.
    pub const CHOICE: &[&str] = Self::NAMES.split_at(Self::NAMES.len() - 2).0;

    const fn severity(self) -> &'static str {
        match self {
            Self::GaveUp | Self::MassSilenceTripped => "critical",
            Self::EpisodeOpened
            | Self::Refused
            | Self::WouldHeal
            | Self::Granted
            | Self::Acted
            | Self::ExitedInstead
            | Self::Notify => "warning",
            Self::Recovered | Self::EpisodeClosed | Self::MassSilenceEnded | Self::Test => "info",
        }
    }

    /// Whatever it is about is over with it.
    pub(super) const fn resolves(self) -> bool {
        match self {
            Self::Recovered | Self::EpisodeClosed | Self::MassSilenceEnded => true,
            Self::EpisodeOpened
            | Self::Refused
            | Self::WouldHeal
            | Self::Granted
            | Self::Acted
            | Self::ExitedInstead
            | Self::GaveUp
            | Self::MassSilenceTripped
            | Self::Notify
            | Self::Test => false,
        }
    }
}

/// What a message is about: newer ones about the same replace older ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    /// `None`: the node as a whole.
    pub(super) peer: Option<Arc<str>>,
    /// Number of the episode; 0: none.
    pub(super) episode: u64,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) event: Event,
    pub(super) about: About,
    /// What happened, in words.
    pub(super) text: String,
    pub(super) cause: Option<Cause>,
    pub(super) evidence: String,
    pub(super) guard: Option<GuardName>,
    pub(super) why: String,
    /// Times since 1970.
    pub(super) next: Option<Duration>,
    pub(super) since: Option<Duration>,
    pub(super) at: Duration,
    pub(super) remedy: Option<RemedyKind>,
    pub(super) outcome: Option<&'static str>,
    pub(super) captured: String,
    pub(super) attempts: u32,
    pub(super) remedies: u32,
    pub(super) skipped: u32,
    /// Not worth telling if something newer comes before this.
    pub(super) not_before: Option<Time>,
    /// The open episode of an earlier run of this node: told to whoever forgets what is not told again.
    pub(super) again: bool,
}

impl Message {
    /// With nothing known but what happened, and when.
    pub(super) fn new(event: Event, about: About, at: Duration, text: String) -> Self {
        Self {
            id: String::new(),
            event,
            about,
            text,
            cause: None,
            evidence: String::new(),
            guard: None,
            why: String::new(),
            next: None,
            since: None,
            at,
            remedy: None,
            outcome: None,
            captured: String::new(),
            attempts: 0,
            remedies: 0,
            skipped: 0,
            not_before: None,
            again: false,
        }
    }

    /// The message of `defib notify --test`.
    pub(super) fn test(id: String, at: Duration) -> Self {
        let about = About {
            peer: None,
            episode: 0,
        };
        let text = "a test: if you can read this, notifications reach you".to_owned();
        Self {
            id,
            ..Self::new(Event::Test, about, at, text)
        }
    }

    pub(super) fn severity(&self) -> &'static str {
        self.event.severity()
    }

    fn peer(&self) -> &str {
        self.about.peer.as_deref().unwrap_or_default()
    }

    /// One line: whom it is about, and what happened.
    pub(super) fn summary(&self, sender: &Sender) -> String {
        let who = match (&self.about.peer, self.cause) {
            (Some(peer), Some(cause)) => format!("{peer} ({cause}) on {}", sender.node),
            (Some(peer), None) => format!("{peer} on {}", sender.node),
            (None, _) => sender.node.to_string(),
        };
        let dry = if sender.dry_run { " [dry run]" } else { "" };
        let next = self.next.map_or_else(String::new, |next| {
            format!(" (could change at {})", stamp_short(next))
        });
        format!("{who}: {}{next}{dry}", shown(&self.text))
    }

    /// What a word of a template stands for.
    pub(super) fn word(&self, word: Word, sender: &Sender) -> Value {
        let time = |at: Option<Duration>| Value::String(at.map(stamp).unwrap_or_default());
        let text = |text: &str| Value::String(shown(text));
        match word {
            Word::Event => self.event.as_str().into(),
            Word::Summary => self.summary(sender).into(),
            Word::Text => text(&self.text),
            Word::Status if self.event.resolves() => "resolved".into(),
            Word::Status => "firing".into(),
            Word::Severity => self.severity().into(),
            Word::Peer => self.peer().into(),
            Word::Node => text(&sender.node),
            Word::Group => text(&sender.group),
            Word::Cause => self.cause.map_or("", Cause::as_str).into(),
            Word::Evidence => text(&self.evidence),
            Word::Guard => self.guard.map_or("", GuardName::as_str).into(),
            Word::Why => text(&self.why),
            Word::Next => time(self.next),
            Word::Remedy => self.remedy.map_or("", RemedyKind::as_str).into(),
            Word::Outcome => self.outcome.unwrap_or_default().into(),
            Word::Captured => text(&self.captured),
            Word::Episode => self.about.episode.into(),
            Word::Attempts => self.attempts.into(),
            Word::Remedies => self.remedies.into(),
            Word::Skipped => self.skipped.into(),
            Word::DryRun => sender.dry_run.into(),
            Word::Since => time(self.since),
            Word::At => time(Some(self.at)),
            Word::Id => self.id.as_str().into(),
        }
    }

    /// Without a template: an object of all words.
    pub(super) fn whole(&self, sender: &Sender) -> Value {
        let words = Word::ALL
            .iter()
            .map(|(word, name, _)| ((*name).to_owned(), self.word(*word, sender)));
        Value::Object(words.collect())
    }
}

/// Bounded, and without what a terminal would obey: a check's words may be a stranger's.
fn shown(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.into_owned(),
    }
}

fn stamp_short(since_1970: Duration) -> String {
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970.min(last)).to_string()
}
