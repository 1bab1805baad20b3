//! What is told, in which order, and what replaces what: in virtual time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::message::{About, Event, Message};
use super::outbox::{MOST, Next, Outbox, Parcel, Tally};
use super::story::{Now, Stories};
use super::template::Escape;
use super::{Kind, Sender, Target};
use crate::engine::cause::Cause;
use crate::engine::decision::{Notice, What};
use crate::engine::guards::{GuardName, Refusal};
use crate::engine::peer::Liveness;
use crate::engine::settings::RemedyKind;
use crate::engine::time::Time;
use crate::secret::Secret;

const S: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Time {
    Time::from_origin(S * seconds)
}

fn now(seconds: u32) -> Now {
    Now {
        at: at(seconds),
        wall: S * (1_770_000_000 + seconds),
    }
}

fn target(kind: Kind) -> Target {
    Target {
        name: "chat".into(),
        kind,
        url: Secret::Inline("http://127.0.0.1:1/".to_owned()),
        headers: Vec::new(),
        bearer: None,
        hmac: None,
        events: Event::ALL.iter().copied().collect(),
        peers: None,
        timeout: 5 * S,
        retry_for: 900 * S,
    }
}

fn json() -> Target {
    target(Kind::Json {
        template: None,
        escape: Escape::Json,
    })
}

fn alertmanager() -> Target {
    target(Kind::Alertmanager { resend: 60 * S })
}

fn sender() -> Sender {
    Sender {
        node: "node-a".into(),
        group: "g".into(),
        boot: "b".into(),
        dry_run: false,
    }
}

fn message(event: Event, peer: &str, episode: u64) -> Message {
    let about = About {
        peer: Some(peer.into()),
        episode,
    };
    let mut message = Message::new(event, about, now(0).wall, event.as_str().to_owned());
    message.cause = Some(Cause::PeerStuck);
    message
}

fn sent(outbox: &mut Outbox, now: Time) -> (Event, u32) {
    match outbox.next(now) {
        Next::Send(Parcel::Message(entry)) => {
            let told = (entry.message.event, entry.message.skipped);
            outbox.accepted(Parcel::Message(entry));
            told
        }
        other => panic!("{other:?}"),
    }
}

/// Of one peer, in order: what each notice is, and the message that came of it.
struct Telling {
    stories: Stories,
    seconds: u32,
}

impl Telling {
    fn new() -> Self {
        Self {
            stories: Stories::new("b"),
            seconds: 100,
        }
    }

    fn hear(&mut self, what: What) -> Option<Message> {
        self.seconds += 1;
        let notice = Notice {
            n: 0,
            at: at(self.seconds),
            peer: Some("feed".into()),
            what,
        };
        self.stories.hear(&notice, now(self.seconds))
    }

    fn opens(&mut self) -> Message {
        let quiet = self.hear(What::Liveness {
            from: Liveness::Alive,
            to: Liveness::Suspect,
            cause: Some(Cause::PeerStuck),
            detail: "http: status 503".to_owned(),
        });
        assert_eq!(quiet, None);
        self.hear(What::EpisodeOpened {
            episode: 3,
            cause: Cause::PeerStuck,
        })
        .unwrap()
    }

    fn refused(&mut self, guard: GuardName, why: &str) -> Option<Message> {
        let refusal = Refusal {
            guard,
            why: why.to_owned(),
            until: Some(at(self.seconds + 41)),
        };
        self.hear(What::Refused { episode: 3, refusal })
    }

    fn acted(&mut self, kind: RemedyKind, outcome: &'static str) -> Option<Message> {
        self.hear(What::Acted {
            episode: 3,
            token: 9,
            kind,
            outcome,
            detail: "restarted".to_owned(),
        })
    }
}

#[test]
fn one_message_for_each_change_with_all_that_is_known() {
    let mut telling = Telling::new();
    let opened = telling.opens();
    assert_eq!(
        (opened.event, opened.evidence.as_str(), opened.cause),
        (Event::EpisodeOpened, "http: status 503", Some(Cause::PeerStuck))
    );
    let held = telling
        .refused(GuardName::Backoff, "the last remedy was a moment ago")
        .unwrap();
    assert_eq!(
        (held.event, held.guard, held.why.as_str()),
        (
            Event::Refused,
            Some(GuardName::Backoff),
            "the last remedy was a moment ago"
        )
    );
    assert_eq!(held.next, Some(now(telling.seconds + 40).wall));
    assert_eq!(held.since, Some(now(102).wall));
    assert!(held.not_before.is_some(), "told if it lasts");
    assert_eq!(telling.refused(GuardName::Backoff, "in other words"), None);
    assert!(telling.refused(GuardName::Budget, "used up").is_some());
    let granted = telling
        .hear(What::Granted {
            episode: 3,
            token: 9,
            kind: RemedyKind::Docker,
            cause: Cause::PeerStuck,
            attempt: 1,
        })
        .unwrap();
    assert_eq!((granted.remedy, granted.guard), (Some(RemedyKind::Docker), None));
    let acted = telling.acted(RemedyKind::Docker, "acted").unwrap();
    assert_eq!((acted.outcome, acted.remedies), (Some("acted"), 1));
    let gave_up = telling
        .hear(What::GaveUp {
            episode: 3,
            remedies: 1,
            detail: "its restarts are used up".to_owned(),
        })
        .unwrap();
    assert_eq!(gave_up.severity(), "critical");
    let line = gave_up.summary(&sender());
    assert_eq!(
        line,
        "feed (peer_stuck) on node-a: given up after 1 remedy: its restarts are used up"
    );
    let recovered = telling.hear(What::Recovered {
        episode: 3,
        remedies: 1,
        after_ms: 12_000,
    });
    assert_eq!(recovered.unwrap().about, opened.about);
}

#[test]
fn the_whole_message_is_every_word() {
    let mut telling = Telling::new();
    telling.opens();
    let held = telling
        .refused(GuardName::Backoff, "a\u{1b}[2J \"moment\"")
        .unwrap();
    let whole = held.whole(&sender());
    assert_eq!(whole["why"], "a\u{fffd}[2J \"moment\"");
    assert_eq!(whole["next"], "2026-02-02T02:42:23.000Z");
    assert_eq!(whole["episode"], 3);
    assert_eq!(whole["dry_run"], false);
    assert_eq!(whole["status"], "firing");
    assert_eq!(whole["id"], "b-2");
    assert_eq!(
        whole.as_object().map(serde_json::Map::len),
        Some(super::template::Word::ALL.len())
    );
}

#[test]
fn rungs_that_only_tell_and_dry_runs_are_not_told_twice() {
    let mut telling = Telling::new();
    telling.opens();
    for kind in [RemedyKind::Log, RemedyKind::Notify, RemedyKind::Capture] {
        let granted = telling.hear(What::Granted {
            episode: 3,
            token: 9,
            kind,
            cause: Cause::PeerStuck,
            attempt: 1,
        });
        assert_eq!((granted, telling.acted(kind, "acted")), (None, None));
    }
    let gave_up = telling.hear(What::GaveUp {
        episode: 3,
        remedies: 0,
        detail: String::new(),
    });
    assert_eq!(gave_up.unwrap().captured, "restarted", "where the evidence lies");
    assert_eq!(telling.refused(GuardName::DryRun, "dry run"), None);
    let would = telling.hear(What::WouldHeal {
        episode: 3,
        kind: RemedyKind::Docker,
        cause: Cause::PeerStuck,
    });
    assert_eq!(would.map(|told| told.event), Some(Event::WouldHeal));
    assert_eq!(telling.acted(RemedyKind::Docker, "dry_run"), None);
}

#[test]
fn a_receiver_that_keeps_up_is_told_each_change_in_order() {
    let mut outbox = Outbox::new(&json());
    for event in [Event::EpisodeOpened, Event::Granted, Event::Recovered] {
        outbox.push(message(event, "feed", 1), at(0));
    }
    outbox.push(message(Event::EpisodeOpened, "feed", 2), at(0));
    let told: Vec<_> = (0..4).map(|_| sent(&mut outbox, at(0))).collect();
    assert_eq!(
        told,
        [
            (Event::EpisodeOpened, 0),
            (Event::Granted, 0),
            (Event::Recovered, 0),
            (Event::EpisodeOpened, 0)
        ]
    );
    assert_eq!(outbox.next(at(0)), Next::Idle);
    assert_eq!(outbox.tally().sent, 4);
}

#[test]
fn of_a_slow_receiver_the_newest_state_of_each_episode_waits() {
    let mut outbox = Outbox::new(&json());
    outbox.push(message(Event::EpisodeOpened, "feed", 1), at(0));
    let Next::Send(flying) = outbox.next(at(0)) else {
        panic!()
    };
    outbox.push(message(Event::Granted, "feed", 1), at(3));
    outbox.push(message(Event::EpisodeOpened, "web", 2), at(3));
    outbox.push(message(Event::Acted, "feed", 1), at(4));
    assert_eq!(outbox.len(), 2);
    assert!(
        !outbox.give_back(flying, at(5)),
        "it is replaced, not given up on"
    );
    assert_eq!(sent(&mut outbox, at(5)), (Event::EpisodeOpened, 0));
    assert_eq!(
        sent(&mut outbox, at(5)),
        (Event::Acted, 2),
        "two earlier ones were left out"
    );
    assert_eq!(
        outbox.tally(),
        Tally {
            sent: 2,
            coalesced: 2,
            ..Tally::default()
        }
    );
    // What ended is told also if it began again.
    outbox.push(message(Event::Recovered, "feed", 1), at(6));
    let Next::Send(flying) = outbox.next(at(6)) else {
        panic!()
    };
    outbox.give_back(flying, at(6));
    outbox.push(message(Event::EpisodeOpened, "feed", 3), at(6));
    assert_eq!(sent(&mut outbox, at(7)).0, Event::Recovered);
    assert_eq!(sent(&mut outbox, at(7)).0, Event::EpisodeOpened);
}

#[test]
fn a_refusal_is_told_if_it_lasts_and_holds_up_nobody() {
    let mut outbox = Outbox::new(&json());
    let mut held = message(Event::Refused, "feed", 1);
    held.not_before = Some(at(2));
    outbox.push(held.clone(), at(0));
    outbox.push(message(Event::EpisodeOpened, "web", 2), at(0));
    assert_eq!(sent(&mut outbox, at(0)).0, Event::EpisodeOpened);
    assert_eq!(outbox.next(at(1)), Next::At(at(2)));
    outbox.push(message(Event::Granted, "feed", 1), at(1));
    assert_eq!(
        sent(&mut outbox, at(1)),
        (Event::Granted, 0),
        "it was nothing worth telling"
    );
    assert_eq!(outbox.next(at(9)), Next::Idle);
    outbox.push(held, at(0));
    assert_eq!(sent(&mut outbox, at(2)).0, Event::Refused);
}

#[test]
fn a_message_is_given_up_after_a_time_or_a_number_of_attempts() {
    for (every, tries) in [(1u32, 20u32), (400, 4)] {
        let mut outbox = Outbox::new(&json());
        outbox.push(message(Event::GaveUp, "feed", 1), at(0));
        let mut tried = 0;
        loop {
            let Next::Send(parcel) = outbox.next(at(tried * every)) else {
                panic!()
            };
            tried += 1;
            if outbox.give_back(parcel, at((tried - 1) * every)) {
                break;
            }
        }
        assert_eq!(tried, tries);
        assert_eq!(outbox.next(at(9999)), Next::Idle);
        assert_eq!(
            outbox.tally(),
            Tally {
                failed: 1,
                ..Tally::default()
            }
        );
    }
}

#[test]
fn too_many_messages_are_dropped_and_counted_oldest_first() {
    let mut outbox = Outbox::new(&json());
    for episode in 0..MOST as u64 + 10 {
        outbox.push(message(Event::EpisodeOpened, "feed", episode), at(0));
    }
    assert_eq!(outbox.len(), MOST);
    assert_eq!(outbox.tally().dropped, 10);
    let Next::Send(Parcel::Message(first)) = outbox.next(at(0)) else {
        panic!()
    };
    assert_eq!(first.message.about.episode, 10);
    // Of one episode they are not dropped but replaced.
    let mut outbox = Outbox::new(&json());
    for _ in 0..=MOST {
        outbox.push(message(Event::Acted, "feed", 1), at(0));
    }
    assert_eq!(
        outbox.tally(),
        Tally {
            coalesced: MOST as u64,
            ..Tally::default()
        }
    );
    assert_eq!(
        sent(&mut outbox, at(0)),
        (Event::Acted, u32::try_from(MOST).unwrap())
    );
}

#[test]
fn a_target_is_told_what_it_chose_and_what_a_rung_asks_for() {
    let mut chosen = json();
    chosen.events = BTreeSet::from([Event::GaveUp]);
    let mut outbox = Outbox::new(&chosen);
    for event in [
        Event::EpisodeOpened,
        Event::GaveUp,
        Event::Notify,
        Event::Recovered,
    ] {
        outbox.push(message(event, "feed", 1), at(0));
    }
    assert_eq!(sent(&mut outbox, at(0)).0, Event::GaveUp);
    assert_eq!(sent(&mut outbox, at(0)).0, Event::Notify);
    assert_eq!(outbox.next(at(0)), Next::Idle);
}

/// What is posted now, and that it was taken.
fn posted(outbox: &mut Outbox, seconds: u32) -> Vec<Value> {
    let Next::Send(Parcel::Alerts(numbers)) = outbox.next(at(seconds)) else {
        return Vec::new();
    };
    let body = outbox
        .board()
        .unwrap()
        .body(&numbers, &sender(), now(seconds).wall);
    outbox.accepted(Parcel::Alerts(numbers));
    serde_json::from_str(&body).unwrap()
}

#[test]
fn an_alert_is_told_again_before_it_would_end_and_resolved_once() {
    let mut outbox = Outbox::new(&alertmanager());
    let mut opened = message(Event::EpisodeOpened, "feed", 1);
    opened.since = Some(now(0).wall);
    outbox.push(opened, at(0));
    let alerts = posted(&mut outbox, 0);
    let labels = serde_json::json!({
        "alertname": "DefibEpisode", "severity": "warning", "group": "g", "node": "node-a",
        "peer": "feed", "cause": "peer_stuck",
    });
    assert_eq!(alerts[0]["labels"], labels);
    assert_eq!(alerts[0]["startsAt"], "2026-02-02T02:40:00.000Z");
    assert_eq!(alerts[0]["endsAt"], "2026-02-02T02:44:00.000Z");
    assert_eq!(outbox.next(at(1)), Next::At(at(60)));
    let again = posted(&mut outbox, 60);
    assert_eq!(again[0]["labels"], labels);
    assert_eq!(again[0]["endsAt"], "2026-02-02T02:45:00.000Z");
    // Given up: another alert, and the first is over.
    outbox.push(message(Event::GaveUp, "feed", 1), at(70));
    let both = posted(&mut outbox, 70);
    let names: Vec<_> = both
        .iter()
        .map(|alert| alert["labels"]["alertname"].clone())
        .collect();
    assert_eq!(names, ["DefibEpisode", "DefibGaveUp"]);
    assert_eq!(both[0]["endsAt"], "2026-02-02T02:40:00.000Z");
    let mut recovered = message(Event::Recovered, "feed", 1);
    recovered.at = now(80).wall;
    outbox.push(recovered, at(80));
    let resolved = posted(&mut outbox, 80);
    assert_eq!(
        (resolved.len(), &resolved[0]["endsAt"]),
        (1, &Value::from("2026-02-02T02:41:20.000Z"))
    );
    assert_eq!(outbox.next(at(200)), Next::Idle, "nothing is open");
    assert_eq!(outbox.tally().sent, 4, "telling it again is no news");
}

#[test]
fn an_alert_is_resolved_though_only_its_opening_was_chosen_and_its_state_changes_in_flight() {
    let mut chosen = alertmanager();
    chosen.events = BTreeSet::from([Event::EpisodeOpened]);
    let mut outbox = Outbox::new(&chosen);
    outbox.push(message(Event::EpisodeOpened, "feed", 1), at(0));
    let Next::Send(flying) = outbox.next(at(0)) else {
        panic!()
    };
    outbox.push(message(Event::Recovered, "feed", 1), at(0));
    outbox.accepted(flying);
    assert_eq!(posted(&mut outbox, 1).len(), 1, "the end is still to be told");
    assert_eq!(outbox.next(at(1)), Next::Idle);
    // Of an episode that was never told, no end is told.
    outbox.push(message(Event::Recovered, "web", 2), at(1));
    assert_eq!(outbox.next(at(1)), Next::Idle);
}

#[test]
fn an_ended_alert_is_not_told_for_ever_to_nobody_and_an_open_one_is() {
    let mut outbox = Outbox::new(&alertmanager());
    outbox.push(message(Event::EpisodeOpened, "feed", 1), at(0));
    outbox.push(message(Event::EpisodeOpened, "web", 2), at(0));
    outbox.push(message(Event::Recovered, "web", 2), at(1));
    for seconds in [1u32, 500, 902] {
        let Next::Send(parcel) = outbox.next(at(seconds)) else {
            panic!()
        };
        outbox.give_back(parcel, at(seconds));
    }
    let left = posted(&mut outbox, 2000);
    assert_eq!(
        (left.len(), &left[0]["labels"]["peer"]),
        (1, &Value::from("feed"))
    );
    assert_eq!(
        outbox.tally(),
        Tally {
            sent: 1,
            failed: 1,
            coalesced: 1,
            ..Tally::default()
        }
    );
}

#[test]
fn what_an_earlier_run_left_open_is_told_to_who_forgets() {
    let again = Message {
        again: true,
        ..message(Event::EpisodeOpened, "feed", 1)
    };
    let mut outbox = Outbox::new(&json());
    outbox.push(again.clone(), at(0));
    assert_eq!(outbox.next(at(0)), Next::Idle);
    let mut outbox = Outbox::new(&alertmanager());
    outbox.push(again, at(0));
    assert_eq!(posted(&mut outbox, 0).len(), 1);
}

#[test]
fn nothing_of_a_target_shows_a_secret() {
    let mut secret = json();
    let hidden = || Secret::Inline("hunter2".to_owned());
    secret.url = hidden();
    secret.headers = vec![("X-Token".to_owned(), hidden())];
    (secret.bearer, secret.hmac) = (Some(hidden()), Some(hidden()));
    let shown = format!("{secret:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let name: Arc<str> = "chat".into();
    assert!(shown.contains(&*name));
}

fn refused_until(peer: &str, episode: u64, until: Time) -> Message {
    let mut held = message(Event::Refused, peer, episode);
    held.why = "the last remedy was a moment ago".to_owned();
    held.not_before = Some(until);
    held
}

#[test]
fn what_a_held_message_stood_for_is_still_missing_once_it_is_dropped() {
    let mut outbox = Outbox::new(&json());
    let opened = message(Event::EpisodeOpened, "feed", 1);
    outbox.push(opened, at(0));
    let Next::Send(flying) = outbox.next(at(0)) else {
        panic!()
    };
    // It takes long: the refusal stands for the opening, too, and is over before it was told.
    outbox.push(message(Event::Acted, "feed", 1), at(5));
    outbox.push(refused_until("feed", 1, at(8)), at(6));
    outbox.push(message(Event::Granted, "feed", 1), at(7));
    outbox.accepted(flying);
    assert_eq!(sent(&mut outbox, at(7)), (Event::Granted, 1));
    assert_eq!(outbox.tally().coalesced, 1);
}

#[test]
fn what_is_held_when_the_node_ends_is_no_loss() {
    let mut outbox = Outbox::new(&json());
    outbox.push(refused_until("feed", 1, at(2)), at(0));
    outbox.push(message(Event::EpisodeOpened, "web", 2), at(0));
    assert_eq!(outbox.abandon(at(1)), 1);
    assert_eq!(outbox.tally().dropped, 1);
}

#[test]
fn a_request_that_comes_after_its_episode_makes_no_alert() {
    let late = message(Event::Notify, "feed", 0);
    let mut outbox = Outbox::new(&alertmanager());
    outbox.push(late.clone(), at(0));
    assert_eq!(outbox.next(at(0)), Next::Idle);
    let mut outbox = Outbox::new(&json());
    outbox.push(late, at(0));
    assert_eq!(sent(&mut outbox, at(0)).0, Event::Notify);
}

#[test]
fn an_alert_shows_a_refusal_only_if_it_lasts() {
    let mut outbox = Outbox::new(&alertmanager());
    outbox.push(message(Event::EpisodeOpened, "feed", 1), at(0));
    assert_eq!(posted(&mut outbox, 0).len(), 1);
    // Over before its time: nobody was told.
    outbox.push(refused_until("feed", 1, at(12)), at(10));
    assert_eq!(outbox.next(at(10)), Next::At(at(12)));
    outbox.push(message(Event::Granted, "feed", 1), at(11));
    let granted = posted(&mut outbox, 11);
    assert!(granted[0]["annotations"]["why"].is_null(), "{granted:?}");
    assert_eq!(outbox.next(at(12)), Next::At(at(60)));
    // It lasts.
    outbox.push(refused_until("feed", 1, at(22)), at(20));
    assert_eq!(outbox.next(at(21)), Next::At(at(22)));
    let lasting = posted(&mut outbox, 22);
    let why = &lasting[0]["annotations"]["why"];
    assert_eq!(*why, "the last remedy was a moment ago");
    // An end is told at once, and nothing of what was held.
    outbox.push(refused_until("feed", 1, at(32)), at(30));
    outbox.push(message(Event::Recovered, "feed", 1), at(31));
    assert_eq!(posted(&mut outbox, 31).len(), 1);
    assert_eq!(outbox.next(at(100)), Next::Idle);
}

#[test]
fn who_is_told_refusals_alone_has_an_alert_once_one_lasts() {
    let mut chosen = alertmanager();
    chosen.events = BTreeSet::from([Event::Refused]);
    let mut outbox = Outbox::new(&chosen);
    outbox.push(refused_until("feed", 1, at(2)), at(0));
    outbox.push(message(Event::Recovered, "feed", 1), at(1));
    assert_eq!(outbox.next(at(1)), Next::Idle, "it was over before it was one");
    outbox.push(refused_until("feed", 2, at(12)), at(10));
    assert_eq!(outbox.next(at(10)), Next::At(at(12)));
    assert_eq!(posted(&mut outbox, 12).len(), 1);
    outbox.push(message(Event::Recovered, "feed", 2), at(20));
    assert_eq!(posted(&mut outbox, 20).len(), 1);
    assert_eq!(outbox.next(at(20)), Next::Idle);
}
