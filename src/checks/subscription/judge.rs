//! What a look at an owner's connections means. Pure: what the kernel lists, what Redis lists, what our own
//! subscription heard, and the time go in; an outcome comes out.
//!
//! - `stuck`: bytes wait and nobody reads. The kernel alone shows it.
//! - `dark`: the kernel received nothing while messages were on their way. Three must agree: the connection is a
//!   subscriber's; Redis wrote to it since it last received something (its `idle`, or `tot-net-out`), or Redis not
//!   being asked, it once received what we did; and our own subscription to the channels got at least two messages.
//! - `orphaned`: it was a subscriber's, it is ESTABLISHED here, and Redis does not know it.
//! - `lost`: fewer subscribers than there must be.
//!
//! Why Redis's own word on whom it wrote to is asked: `CLIENT LIST` has no names of channels. A healthy subscriber of
//! a quiet channel and a dark one of a busy channel look the same there but for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::track::{Doubt, Track};
use crate::condemned::Connection;
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Time;
use crate::redis_client::ListedClient;
use crate::sock_diag::{Cookie, Socket};

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Fewest connections that must be subscribed; `None`: at least one, once there was one.
    pub min: Option<u32>,
    /// How long a subscriber must have received nothing to be dark, and subscribers be missing to be lost.
    pub window: Duration,
    /// How long nothing must have been read, although something waits, to be stuck.
    pub stuck_after: Duration,
}

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Time,
    /// The owner's connections to this Redis (by its port): ESTABLISHED, and closed by the other end only.
    pub(super) sockets: Vec<Socket>,
    pub(super) listing: Listing,
    /// What our own subscription has heard, if there is one. Taken before the sockets.
    pub(super) heard: Option<Heard>,
    /// Redis is back since a moment, and its clients may not be yet (redis-py and ioredis wait for seconds before they
    /// connect again): neither `lost` nor `orphaned` is said.
    pub(super) returning: bool,
}

/// What Redis says of the clients at the addresses of [`Look::sockets`]. Taken after the sockets.
#[derive(Clone, Debug)]
pub(super) enum Listing {
    /// Our own connection stands in it under the address that it has here, so there is no NAT between.
    Read {
        clients: Vec<ListedClient>,
        /// All that there are; else those that are subscribed.
        whole: bool,
        /// The server as it is seen from here.
        server: std::net::SocketAddr,
    },
    /// It cannot be asked, or its addresses are not those from here. Why, with the cure.
    Unavailable(String),
}

/// What our own subscription heard so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Another one has another number.
    pub(super) subscription: u64,
    pub(super) messages: u64,
    /// Their length as Redis sends them.
    pub(super) bytes: u64,
}

/// How long one that was condemned and is gone is awaited: who has as many subscribers as before is well, and until
/// then that is not known. (Longer than any `verify_within` of a remedy that closes a connection should be.)
const AWAITED: Duration = Duration::from_secs(60);

/// What follows from a look.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    pub(super) outcome: Outcome,
    /// The connections that the outcome is about, the worst first.
    pub(super) condemned: Vec<Connection>,
    /// A subscription of our own is needed for a comparison.
    pub(super) listen: bool,
    /// The next listing is to be of all clients.
    pub(super) list_all: bool,
}

/// One peer's connections over time.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    rules: Rules,
    tracks: BTreeMap<Cookie, Track>,
    last: Option<Time>,
    /// Most subscribers at once so far.
    most: usize,
    /// Since when there are too few.
    few_since: Option<Time>,
    /// Those that were condemned at the last look, and how many subscribers there were, they among them.
    doubted: (BTreeSet<Cookie>, usize),
    /// So many subscribers there were when a condemned one went, and how long they are awaited.
    awaited: Option<(usize, Time)>,
}

impl Judge {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            tracks: BTreeMap::new(),
            last: None,
            most: 0,
            few_since: None,
            doubted: (BTreeSet::new(), 0),
            awaited: None,
        }
    }

    pub(super) fn look(&mut self, look: &Look) -> Judgement {
        self.take_in(look);
        let rules = self.rules;
        let mut doubts: Vec<(Doubt, Cookie)> = self
            .tracks
            .iter_mut()
            .filter_map(|(cookie, track)| Some((track.doubt(&rules, look)?, *cookie)))
            .collect();
        doubts.sort();
        self.await_the_condemned(look, &doubts);
        let lost = self.lost(look);
        let condemned = self.condemned(&doubts, lost.is_some());
        Judgement {
            outcome: self.outcome(look, &doubts, lost),
            condemned,
            listen: self.tracks.values().any(|track| track.wants_ear(&rules, look)),
            list_all: self.few_since.is_some() || self.tracks.values().any(Track::wants_listing),
        }
    }

    fn take_in(&mut self, look: &Look) {
        // Not looked for a while (a pause, of ours or of the machine's): what was not seen proves nothing.
        let gap = self
            .last
            .is_some_and(|last| look.at.since(last) > self.rules.window);
        self.last = Some(look.at);
        let mut before = std::mem::take(&mut self.tracks);
        for socket in &look.sockets {
            let Some(tcp) = socket.tcp else { continue };
            let mut track = match before.remove(&socket.id.cookie) {
                Some(track) if !gap => track,
                Some(track) => track.begun_anew(look.at),
                None => Track::new(socket, tcp),
            };
            track.take_in(socket, tcp, look);
            self.tracks.insert(socket.id.cookie, track);
        }
        let subscribed = self.subscribers(look);
        self.most = self.most.max(subscribed);
        let few = subscribed < self.needed();
        self.few_since = match self.few_since {
            _ if !few => None,
            Some(since) if !gap => Some(since),
            _ => Some(look.at),
        };
    }

    /// A remedy closes a condemned connection: healed is who has subscribed anew, not who has one less.
    fn await_the_condemned(&mut self, look: &Look, doubts: &[(Doubt, Cookie)]) {
        let subscribed = self.subscribers(look);
        let (doubted, before) = &self.doubted;
        if doubted.iter().any(|cookie| !self.tracks.contains_key(cookie)) {
            self.awaited = Some((*before, look.at + AWAITED));
        }
        if self
            .awaited
            .is_some_and(|(before, until)| subscribed >= before || look.at >= until)
        {
            self.awaited = None;
        }
        let unlisted = |cookie: &Cookie| self.tracks.get(cookie).is_some_and(Track::is_orphan);
        let orphans = doubts.iter().filter(|(_, cookie)| unlisted(cookie)).count();
        let doubted = doubts.iter().map(|(_, cookie)| *cookie).collect();
        self.doubted = (doubted, subscribed + orphans);
    }

    fn subscribers(&self, look: &Look) -> usize {
        let by_listing = matches!(look.listing, Listing::Read { .. });
        let subscribed = |track: &&Track| track.is_subscriber(by_listing);
        self.tracks.values().filter(subscribed).count()
    }

    fn needed(&self) -> usize {
        let min = self
            .rules
            .min
            .map(|min| usize::try_from(min).unwrap_or(usize::MAX));
        min.unwrap_or_else(|| self.most.min(1))
    }

    /// Why subscribers are lost, if they are.
    fn lost(&self, look: &Look) -> Option<String> {
        let needed = self.needed();
        let since = self.few_since?;
        if look.at.since(since) < self.rules.window || look.returning {
            return None;
        }
        let open = look.sockets.len();
        let subscribed = self.subscribers(look);
        let proven = match &look.listing {
            // It talks to this Redis directly, so that its subscriptions would be seen.
            Listing::Read { .. } => {
                let direct = |track: &Track| track.is_known() || track.is_orphan();
                self.most >= needed || self.tracks.values().any(direct)
            }
            // Fewer connections than subscribers were: that the kernel says alone.
            Listing::Unavailable(_) => self.most >= needed && open < needed,
        };
        proven.then(|| {
            format!(
                "lost: {subscribed} of its connections {} subscribed, and {needed} must be ({open} open to this Redis)",
                if subscribed == 1 { "is" } else { "are" }
            )
        })
    }

    fn condemned(&self, doubts: &[(Doubt, Cookie)], lost: bool) -> Vec<Connection> {
        let mut condemned: Vec<Connection> = doubts
            .iter()
            .filter_map(|(doubt, cookie)| {
                let track = self.tracks.get(cookie)?;
                Some(track.condemn(doubt.cause(), doubt.to_string()))
            })
            .collect();
        if lost {
            let unsubscribed = self.tracks.iter().filter(|(cookie, track)| {
                (track.gave_up_subscribing() || track.is_orphan())
                    && !doubts.iter().any(|(_, doubted)| doubted == *cookie)
            });
            condemned.extend(unsubscribed.map(|(_, track)| {
                let because = if track.is_orphan() {
                    "orphaned: Redis does not know it"
                } else {
                    "lost: it was subscribed, and is not any more"
                };
                track.condemn(Cause::PeerDeaf, because.to_owned())
            }));
        }
        condemned
    }

    fn outcome(&self, look: &Look, doubts: &[(Doubt, Cookie)], lost: Option<String>) -> Outcome {
        if let Some((doubt, cookie)) = doubts.first() {
            let which = self.tracks.get(cookie).map(Track::to_string).unwrap_or_default();
            let others = match doubts.len() {
                1 => String::new(),
                more => format!("; {} more are in doubt", more - 1),
            };
            return Outcome::Fail {
                cause: doubt.cause(),
                detail: format!("{doubt} ({which}){others}"),
            };
        }
        if let Some(detail) = lost {
            let cause = Cause::PeerDeaf;
            return Outcome::Fail { cause, detail };
        }
        self.well_or_unknown(look)
    }

    /// Nothing is wrong: is that known, or only not seen?
    fn well_or_unknown(&self, look: &Look) -> Outcome {
        let (subscribed, needed) = (self.subscribers(look), self.needed().max(1));
        if let Some((before, _)) = self.awaited {
            let detail = format!(
                "a connection that was condemned is gone: {before} were subscribed, and {subscribed} are by now"
            );
            return Outcome::Unknown { detail };
        }
        if subscribed >= needed {
            return Outcome::Pass;
        }
        let detail = match &look.listing {
            Listing::Unavailable(why) => format!("no connection of it is a proven subscriber: {why}"),
            Listing::Read { .. } if look.sockets.is_empty() && self.most == 0 => {
                "no connection of it to this Redis is seen from here: not observable through a proxy, a Unix socket, \
                 or from another network namespace"
                    .to_owned()
            }
            Listing::Read { .. } if self.few_since.is_some() => format!(
                "{subscribed} of its connections are subscribed, and {needed} must be: lost if that lasts {:?}",
                self.rules.window
            ),
            Listing::Read { .. } => "it has not subscribed yet".to_owned(),
        };
        Outcome::Unknown { detail }
    }
}
