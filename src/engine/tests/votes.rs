//! What other observers say: when it confirms a silence, when it counts for nothing, and that it never puts one off.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use super::{MS, S, World, heartbeat_check, http_check, node_check, peer, settings};
use crate::engine::event::{
    Ballot, Body, Event, Heartbeat, Incarnation, OperatorRequest, Outcome, PeerClaim, PeerId, Vote,
};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::reload::Reload;
use crate::engine::settings::{CheckKind, DetectorSettings, RemedyKind, Settings, Source};
use crate::engine::snapshot::Void;
use crate::engine::time::Time;

/// Another node: a heartbeat a second, and what it says in it.
struct Other {
    name: &'static str,
    slot: u64,
    at: Time,
    hears: Vec<&'static str>,
    votes: Vec<Vote>,
}

impl Other {
    fn beat(&self) -> Event {
        said(
            self.name,
            &format!("boot-{}", self.name),
            self.slot,
            Ballot {
                hears: self.hears.iter().map(|name| Arc::from(*name)).collect(),
                votes: self.votes.clone(),
                left_out: 0,
            },
        )
    }
}

fn said(node: &str, boot: &str, slot: u64, ballot: Ballot) -> Event {
    Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some(node.into()),
            group: Some("g".into()),
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: Some(0),
            uptime_s: Some(0.0),
            interval_ms: Some(1_000),
            goodbye: false,
            peers: Vec::<PeerClaim>::new(),
            ballot,
        }),
    }
}

fn vote(about: &str, liveness: Liveness, life: Option<&str>, silent: Duration) -> Vote {
    Vote {
        about: about.into(),
        liveness,
        incarnation: life.map(|life| Incarnation(life.into())),
        silent_ms: u64::try_from(silent.as_millis()).unwrap(),
    }
}

fn against(node: &str) -> Vote {
    let life = format!("boot:boot-{node}");
    vote(&format!("node:{node}"), Liveness::Suspect, Some(&life), 2 * S)
}

/// A world, the other nodes of the group, and a clock that stands at a whole second of our schedule.
struct Group {
    world: World,
    others: Vec<Other>,
}

impl Group {
    /// Nodes that are peers and beat from now on, 300 ms after each of our own beats, and a while of that.
    fn of(settings: Settings, names: &[&'static str]) -> Self {
        let world = World::settled(settings);
        let at = world.now + 300 * MS;
        let mut group = Self {
            others: names
                .iter()
                .map(|name| Other {
                    name,
                    slot: 100,
                    at,
                    hears: vec!["us"],
                    votes: Vec::new(),
                })
                .collect(),
            world,
        };
        group.run(5 * S);
        group
    }

    fn run(&mut self, length: Duration) {
        let end = self.world.now + length;
        while let Some(next) = self
            .others
            .iter()
            .map(|other| other.at)
            .min()
            .filter(|at| *at <= end)
        {
            self.world.run(next.since(self.world.now));
            for place in 0..self.others.len() {
                if self.others[place].at == next {
                    let beat = self.others[place].beat();
                    self.world.feed(beat);
                    self.others[place].at = next + S;
                    self.others[place].slot += 1;
                }
            }
        }
        self.world.run(end.since(self.world.now));
    }

    fn other(&mut self, name: &str) -> &mut Other {
        self.others.iter_mut().find(|other| other.name == name).unwrap()
    }

    fn speaks(&mut self, name: &str, votes: Vec<Vote>) {
        self.other(name).votes = votes;
    }

    /// It sends nothing more. Its last heartbeat came 700 ms ago.
    fn silence(&mut self, name: &str) {
        self.others.retain(|other| other.name != name);
    }

    /// When `peer` became that, since `from`.
    fn became(&self, peer: &str, liveness: &str, from: Time) -> Option<Duration> {
        let words = format!("{peer}: ");
        let arrow = format!("-> {liveness}");
        let mut notices = self.world.notices.iter().filter(|(at, _)| *at >= from);
        notices
            .find(|(_, notice)| notice.starts_with(&words) && notice.contains(&arrow))
            .map(|(at, _)| at.since(from))
    }
}

/// Peers that are nodes, remote, restarted by a command where enough agree.
fn nodes(names: &[&str]) -> Settings {
    let remote = |name: &&str| {
        let mut peer = peer(name, false, vec![node_check(name)], Some(RemedyKind::Exec));
        peer.single_observer = false;
        peer
    };
    settings(names.iter().map(remote).collect())
}

fn refusal(world: &World, id: usize) -> String {
    let refusal = world.view(id).episode.and_then(|episode| episode.refusal);
    refusal.map_or_else(String::new, |refusal| refusal.to_string())
}

fn names(of: &[Arc<str>]) -> Vec<&str> {
    of.iter().map(|name| &**name).collect()
}

/// With the last heartbeat 300 ms after one of ours, and all times from that second on.
const SUSPECT: Duration = Duration::from_millis(2_300);
/// Half an interval after our own vote went out.
const CONFIRMED: Duration = Duration::from_millis(2_800);
/// 5 s of silence are covered by the echo of our sixth heartbeat, which counts a quarter interval after it came back.
const DEAD: Duration = Duration::from_millis(6_251);

#[test]
fn one_observer_alone_condemns_at_dead_after_and_restarts_nobody() {
    let mut group = Group::of(nodes(&["x"]), &["x"]);
    let from = group.world.now - S;
    group.silence("x");
    group.run(60 * S);
    assert_eq!(group.became("x", "suspect", from), Some(SUSPECT));
    assert_eq!(group.became("x", "dead", from), Some(DEAD));
    assert!(group.world.grants.is_empty());
    assert_eq!(
        refusal(&group.world, 0),
        "quorum: a remote peer needs 2 observers that agree (or `single_observer = true`), and only this node says so"
    );
}

#[test]
fn two_observers_confirm_before_dead_after_and_the_peer_is_restarted_once() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.run(1_500 * MS);
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    assert_eq!(group.became("x", "suspect", from), Some(SUSPECT));
    // v's vote comes with its next heartbeat, 300 ms after ours at 3 s.
    assert_eq!(group.became("x", "dead", from), Some(3_300 * MS));
    assert!(
        group
            .world
            .saw("x: suspect -> dead (peer_silent): heartbeat: silent for 3.0 s, to v as well"),
        "{:#?}",
        group.world.notices
    );
    // The role of the server, which must have been read since, is read each second.
    let granted: Vec<_> = group
        .world
        .grants
        .iter()
        .map(|(at, grant)| (at.since(from), &*grant.name))
        .collect();
    assert_eq!(granted, [(4 * S, "x")]);
    let counts = &group.world.engine.quorum.counts;
    assert_eq!((counts.confirmed, counts.void.len()), (1, 0));
}

#[test]
fn a_vote_that_came_first_waits_for_our_own_suspicion_and_for_objections() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    assert_eq!(group.became("x", "suspect", from), Some(SUSPECT));
    assert_eq!(group.became("x", "dead", from), Some(CONFIRMED));
}

#[test]
fn votes_do_not_hasten_what_is_not_to_be_fast_and_still_permit_the_remedy() {
    let mut slow = nodes(&["x"]);
    slow.quorum.fast = false;
    let mut group = Group::of(slow, &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    assert_eq!(group.became("x", "dead", from), Some(DEAD));
    assert_eq!(group.world.grants.len(), 1);
}

#[test]
fn as_many_must_agree_as_are_asked_for() {
    let mut three = nodes(&["x"]);
    three.quorum.k = 3;
    let mut group = Group::of(three, &["x", "v", "w"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    assert_eq!(group.became("x", "dead", from), Some(DEAD));
    assert!(group.world.grants.is_empty());
    assert_eq!(
        refusal(&group.world, 0),
        "quorum: a remote peer needs 3 observers that agree (or `single_observer = true`), and these are this node and v"
    );
    group.speaks("w", vec![against("x")]);
    group.run(2 * S);
    assert_eq!(group.world.grants.len(), 1, "asked again as soon as it speaks");
}

#[test]
fn what_counts_for_nothing_confirms_nothing_and_permits_nothing() {
    let other_life = vote("node:x", Liveness::Suspect, Some("boot:an-earlier-one"), 2 * S);
    let no_life = vote("node:x", Liveness::Dead, None, 2 * S);
    let elsewhere = vote("node:y", Liveness::Dead, Some("boot:boot-x"), 2 * S);
    let cases = [
        (vec!["us"], other_life, Void::Incarnation),
        (vec!["us"], no_life, Void::Incarnation),
        (vec![], against("x"), Void::Deaf),
        (vec!["somebody"], against("x"), Void::Deaf),
        (vec!["us"], elsewhere, Void::Unwatched),
    ];
    for (hears, vote, void) in cases {
        let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
        group.other("v").hears = hears;
        group.run(4 * S);
        let from = group.world.now - S;
        group.silence("x");
        group.speaks("v", vec![vote]);
        group.run(20 * S);
        assert_eq!(group.became("x", "dead", from), Some(DEAD), "{void}");
        assert!(group.world.grants.is_empty(), "{void}");
        let counts = group.world.engine.quorum.counts.clone();
        assert_eq!(counts.void.get(&void), Some(&20), "{void}: {counts:?}");
        assert_eq!(group.world.refusal(0), Some(GuardName::Quorum));
    }
}

#[test]
fn a_node_does_not_vote_on_itself() {
    let mut app = peer(
        "x",
        false,
        vec![node_check("x"), heartbeat_check("hb:x")],
        Some(RemedyKind::Exec),
    );
    app.single_observer = false;
    let mut group = Group::of(settings(vec![app]), &["x"]);
    group.world.beat("hb:x");
    group.run(S);
    group.speaks("x", vec![against("x")]);
    group.run(20 * S);
    assert!(group.world.grants.is_empty());
    assert!(group.world.engine.quorum.counts.void[&Void::OwnNode] >= 19);
}

#[test]
fn a_vote_expires_and_one_that_is_not_repeated_is_withdrawn() {
    for repeats in [false, true] {
        let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
        let from = group.world.now - S;
        group.silence("x");
        group.speaks("v", vec![against("x")]);
        group.run(500 * MS);
        if repeats {
            // It speaks on, and says no more of x.
            group.speaks("v", Vec::new());
        } else {
            group.world.engine.quorum.settings.lifetime = 1_400 * MS;
            group.silence("v");
        }
        group.run(20 * S);
        assert_eq!(group.became("x", "dead", from), Some(DEAD), "{repeats}");
        assert!(group.world.grants.is_empty());
    }
}

#[test]
fn late_and_repeated_heartbeats_vote_for_nothing() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    let ballot = Ballot {
        hears: vec!["us".into()],
        votes: vec![against("x")],
        left_out: 0,
    };
    for _ in 0..12 {
        group.run(S);
        group.world.feed(said("v", "boot-v", 42, ballot.clone()));
    }
    assert_eq!(group.became("x", "dead", from), Some(DEAD));
    assert_eq!(group.world.engine.quorum.counts.void[&Void::Stale], 12);
}

#[test]
fn a_vote_out_of_turn_counts_in_the_slot_of_its_senders_last_heartbeat() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.run(1_500 * MS);
    let slot = group.other("v").slot - 1;
    let ballot = Ballot {
        hears: vec!["us".into()],
        votes: vec![against("x")],
        left_out: 0,
    };
    group.world.feed(said("v", "boot-v", slot, ballot));
    group.run(400 * MS);
    assert_eq!(group.became("x", "dead", from), Some(CONFIRMED));
}

#[test]
fn nobody_is_confirmed_dead_or_restarted_whom_another_node_hears() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v", "w"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    let alive = vote("node:x", Liveness::Alive, Some("boot:boot-x"), 100 * MS);
    group.speaks("w", vec![alive]);
    group.run(20 * S);
    assert_eq!(
        group.became("x", "dead", from),
        Some(DEAD),
        "votes never put death off"
    );
    assert_eq!(refusal(&group.world, 0), "quorum: w of the group heard it since");
    assert!(group.world.grants.is_empty());
    assert_eq!(names(&group.world.view(0).votes.unwrap().hear_it), ["w"]);
    // Who heard it when we last did has no objection.
    let alive = vote("node:x", Liveness::Alive, Some("boot:boot-x"), 60 * S);
    group.speaks("w", vec![alive]);
    group.run(2 * S);
    assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
}

#[test]
fn whom_we_hear_and_another_doubts_we_speak_for_at_once() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    group.run(500 * MS);
    let before = group.world.published.len();
    let slot = group.other("v").slot - 1;
    let ballot = Ballot {
        hears: vec![],
        votes: vec![against("x")],
        left_out: 0,
    };
    group.world.feed(said("v", "boot-v", slot, ballot));
    let (at, beat) = group.world.published[before].clone();
    assert_eq!(at, group.world.now);
    let alive = vote("node:x", Liveness::Alive, Some("boot:boot-x"), 200 * MS);
    assert_eq!(beat.ballot.votes, [alive]);
    assert_eq!(names(&beat.ballot.hears), ["v", "x"]);
    group.run(10 * S);
    let ballots = group
        .world
        .published
        .iter()
        .filter(|(_, beat)| !beat.ballot.votes.is_empty());
    let last = ballots.map(|(at, _)| *at).max().unwrap();
    assert!(last < at + 4 * S, "for as long as it is asked");
}

#[test]
fn we_vote_only_on_silence_that_our_echoes_cover() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.run(4 * S);
    let first = group
        .world
        .published
        .iter()
        .find(|(_, beat)| !beat.ballot.votes.is_empty())
        .cloned();
    let (at, beat) = first.unwrap();
    assert_eq!(at.since(from), SUSPECT, "out of turn, at once");
    assert_eq!(
        beat.ballot.votes,
        [vote("node:x", Liveness::Suspect, Some("boot:boot-x"), 2 * S)]
    );
    assert_eq!(names(&beat.ballot.hears), ["v", "x"]);

    // Our echo is gone, at the same moment as x: there is nothing that we know.
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    group.silence("x");
    group.world.bus = false;
    group.run(20 * S);
    assert!(
        group
            .world
            .published
            .iter()
            .all(|(_, beat)| beat.ballot.votes.is_empty())
    );
}

#[test]
fn a_pause_of_our_own_withdraws_our_votes() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    group.silence("x");
    group.run(2 * S);
    assert!(group.world.engine.quorum.votes());
    group.world.now = group.world.now + 3 * S;
    group.world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    assert!(!group.world.engine.quorum.votes());
    let published = group.world.published.len();
    group.world.run(1_900 * MS);
    let after = &group.world.published[published..];
    assert!(!after.is_empty() && after.iter().all(|(_, beat)| beat.ballot.votes.is_empty()));
}

#[test]
fn who_watches_the_owner_does_not_vote_on_the_application() {
    let own = peer(
        "feed",
        true,
        vec![super::process_check(), heartbeat_check("hb")],
        None,
    );
    let mut group = Group::of(settings(vec![own]), &["v"]);
    group.world.running(0, "a");
    group.world.beat("hb");
    group.run(20 * S);
    assert_eq!(group.world.liveness(0), Liveness::Dead);
    assert!(
        group
            .world
            .published
            .iter()
            .all(|(_, beat)| beat.ballot.votes.is_empty())
    );
}

#[test]
fn a_direct_check_must_fail_too() {
    for passes in [true, false] {
        let mut web = peer("x", true, vec![node_check("x"), http_check()], None);
        web.grace = Duration::ZERO;
        let mut group = Group::of(settings(vec![web]), &["x", "v"]);
        group.world.observe(0, 1, Outcome::Pass);
        let from = group.world.now - S;
        group.silence("x");
        group.speaks("v", vec![against("x")]);
        group.run(2_300 * MS - S);
        if !passes {
            group.world.fail(0, 1);
        }
        group.run(20 * S);
        let dead = if passes { DEAD } else { CONFIRMED };
        assert_eq!(group.became("x", "dead", from), Some(dead), "{passes}");
    }
}

#[test]
fn a_claim_is_voted_on_and_never_hastened() {
    let mut claim = heartbeat_check("");
    if let CheckKind::Passive { source, .. } = &mut claim.kind {
        *source = Source::Claim {
            node: "x".into(),
            peer: "app".into(),
        };
    }
    let mut app = peer("app", false, vec![claim], Some(RemedyKind::Exec));
    app.single_observer = false;
    let mut group = Group::of(settings(vec![app]), &["v"]);
    let claims = |slot, liveness| {
        let mut beat = said("x", "boot-x", slot, Ballot::default());
        if let Event::Message {
            body: Body::Heartbeat(beat),
            ..
        } = &mut beat
        {
            let incarnation = Some(Incarnation("proc:1".into()));
            beat.peers = vec![PeerClaim {
                name: "app".into(),
                liveness,
                incarnation,
            }];
        }
        beat
    };
    group.world.feed(claims(1, Liveness::Alive));
    group.run(8 * S);
    group.world.feed(claims(9, Liveness::Alive));
    group.run(S);
    group.world.feed(claims(10, Liveness::Dead));
    group.run(1_100 * MS);
    assert_eq!(group.world.liveness(0), Liveness::Dead);
    assert_eq!(group.world.refusal(0), Some(GuardName::Quorum));
    let ballot = &group.world.published.last().unwrap().1.ballot;
    assert_eq!(
        (&*ballot.votes[0].about, ballot.votes[0].liveness),
        ("claim:x/app", Liveness::Dead)
    );
    let agrees = vote("claim:x/app", Liveness::Dead, Some("proc:1"), S);
    group.speaks("v", vec![agrees]);
    for slot in 11..15 {
        group.world.feed(claims(slot, Liveness::Dead));
        group.run(S);
    }
    assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
}

/// A group of four, cut in the middle by a broker that is two: each half hears itself and its own echoes.
#[test]
fn in_a_group_that_is_cut_in_two_no_half_restarts_the_other_and_a_majority_does() {
    for (live, restarts) in [(vec!["a"], 0), (vec!["a", "b"], 1)] {
        let mut names = vec!["x", "y"];
        names.extend(&live);
        let mut group = Group::of(nodes(&["x", "y", "a", "b"]), &names);
        group.silence("x");
        group.silence("y");
        for node in &live {
            group.speaks(node, vec![against("x"), against("y")]);
        }
        group.run(9 * S);
        assert_eq!(
            group.world.grants.len(),
            restarts,
            "{live:?}: {:#?}",
            group.world.notices
        );
        if restarts == 0 {
            assert_eq!(
                refusal(&group.world, 0),
                "quorum: only 2 of the 4 nodes of the group are heard since: they may be the smaller part of one that was cut \
                 in two"
            );
            assert_eq!(group.world.engine.quorum.counts.confirmed, 0);
            // An operator knows better: those two left.
            for id in [0, 1] {
                group.world.feed(Event::Operator {
                    request: OperatorRequest::Forget { peer: PeerId(id) },
                    by: "uid 0".into(),
                });
            }
            let quorum = group.world.engine.snapshot(group.world.now).quorum;
            assert_eq!((quorum.live, quorum.known), (2, 2));
        }
    }
}

#[test]
fn mass_silence_comes_first() {
    let names = ["x", "y", "z", "a"];
    let mut group = Group::of(nodes(&names), &names);
    for node in ["x", "y", "z"] {
        group.silence(node);
    }
    group.speaks("a", vec![against("x"), against("y"), against("z")]);
    group.run(30 * S);
    assert!(group.world.engine.breaker.is_tripped());
    assert_eq!(group.world.engine.quorum.counts.confirmed, 0);
    assert!(group.world.grants.is_empty());
    assert_eq!(group.world.refusal(0), Some(GuardName::MassSilence));
}

#[test]
fn invented_nodes_take_no_more_than_their_share_of_memory_and_push_nobody_out() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    for number in 0..5_000 {
        let name = format!("n{number}");
        group.world.feed(said(&name, "b", 1, Ballot::default()));
    }
    assert_eq!(group.world.engine.snapshot(group.world.now).quorum.live, 258);
    group.silence("x");
    group.run(S);
    group.speaks("v", vec![against("x")]);
    group.run(10 * S);
    let view = group.world.view(0).votes.unwrap();
    assert_eq!(names(&view.agree), ["v"], "it is still heard");
    assert_eq!(
        group.world.refusal(0),
        Some(GuardName::Quorum),
        "they may delay, not hasten"
    );
}

/// Whatever is voted: what is dead without votes is dead with them, and nobody is dead whom this node does not suspect.
#[test]
fn votes_never_make_death_later_nor_come_before_our_own_suspicion() {
    for seed in 0..60u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |bound: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            u32::try_from(random % u64::from(bound)).unwrap()
        };
        let mut slow = nodes(&["x"]);
        slow.quorum.fast = false;
        let mut worlds = [nodes(&["x"]), slow].map(World::settled);
        for second in 0..40u64 {
            let mut events = Vec::new();
            let stretch = below(100) < if second / 10 % 2 == 0 { 80 } else { 15 };
            if stretch {
                events.push(said("x", "boot-x", second, Ballot::default()));
            }
            for node in ["v", "w"] {
                let liveness = [Liveness::Alive, Liveness::Suspect, Liveness::Dead][below(3) as usize];
                let word = vote("node:x", liveness, Some("boot:boot-x"), below(6_000) * MS);
                let ballot = Ballot {
                    hears: vec!["us".into()],
                    votes: if below(100) < 60 { vec![word] } else { Vec::new() },
                    left_out: 0,
                };
                events.push(said(node, "boot", second, ballot));
            }
            for event in events {
                let pause = below(300) * MS;
                for world in &mut worlds {
                    world.run(pause);
                    world.feed(event.clone());
                }
            }
            for _ in 0..8 {
                for world in &mut worlds {
                    world.run(50 * MS);
                }
                let [with, without] = [0, 1].map(|place: usize| worlds[place].liveness(0));
                assert!(
                    with == without || (with == Liveness::Dead && without == Liveness::Suspect),
                    "seed {seed}, second {second}: {with} with votes, {without} without"
                );
            }
        }
    }
}

#[test]
fn another_configuration_keeps_the_observers_and_what_they_said() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(2_500 * MS - S);
    let mut three = nodes(&["x", "w"]);
    three.quorum.k = 3;
    let reload = Reload::between(group.world.engine.settings(), three, "uid 0");
    let now = group.world.now;
    group.world.engine.reload(reload, now);
    group.world.drain();
    assert!(group.world.engine.quorum.votes(), "it is still suspected");
    group.run(20 * S);
    assert_eq!(
        group.became("x", "dead", from),
        Some(DEAD),
        "three must agree by now"
    );
    assert!(group.world.grants.is_empty());
    let reload = Reload::between(group.world.engine.settings(), nodes(&["x", "w"]), "uid 0");
    let now = group.world.now;
    group.world.engine.reload(reload, now);
    group.run(2 * S);
    assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
}

/// One cable, and whoever's turn comes first is missed first: his silence is no more his own than that of the others.
#[test]
fn peers_cut_off_at_one_instant_are_mass_silence_whoever_is_missed_first() {
    let mut group = Group::of(nodes(&["x", "y"]), &["x", "y", "v", "w"]);
    group.other("y").at = group.world.now + 900 * MS;
    group.run(3 * S);
    group.silence("x");
    group.run(650 * MS);
    group.silence("y");
    for voter in ["v", "w"] {
        group.speaks(voter, vec![against("x"), against("y")]);
    }
    group.run(30 * S);
    assert!(
        group.world.engine.breaker.is_tripped(),
        "{:#?}",
        group.world.notices
    );
    assert_eq!(group.world.engine.quorum.counts.confirmed, 0);
    assert!(group.world.grants.is_empty(), "{:#?}", group.world.notices);
}

#[test]
fn who_is_not_missed_before_the_peer_is_dead_anyway_holds_up_no_vote() {
    let mut slow = nodes(&["x", "y"]);
    if let CheckKind::Passive { detector, .. } = &mut slow.peers[1].checks[0].kind {
        *detector = DetectorSettings::Deadline {
            suspect_after: 60 * S,
            dead_after: 120 * S,
        };
    }
    let mut group = Group::of(slow, &["x", "y", "v", "w"]);
    group.silence("y");
    group.run(2 * S);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    assert_eq!(group.became("x", "dead", from), Some(CONFIRMED));
}

#[test]
fn who_lives_is_waited_for_before_another_is_confirmed() {
    let mut group = Group::of(nodes(&["x", "y"]), &["x", "y", "v"]);
    group.other("y").at = group.world.now + 900 * MS;
    group.run(3 * S);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    let heard = 2_900 * MS;
    let dead = group.became("x", "dead", from).unwrap();
    assert!((heard..=heard + 300 * MS).contains(&dead), "{dead:?}");
}

#[test]
fn more_votes_than_a_heartbeat_holds_are_told_in_turn_and_none_is_withdrawn_by_that() {
    let names: Vec<String> = (0..40).map(|number| format!("{number:0>60}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::settled(nodes(&names));
    for slot in 100..103 {
        for name in &names {
            world.feed(said(name, "b", slot, Ballot::default()));
        }
        world.run(S);
    }
    world.run(3 * S);
    let from = world.published.len();
    world.run(8 * S);
    let beats = world.published[from..].iter().map(|(_, beat)| &beat.ballot);
    let ballots: Vec<&Ballot> = beats.filter(|ballot| !ballot.votes.is_empty()).collect();
    let mut told = std::collections::BTreeSet::new();
    for ballot in &ballots {
        let bytes: usize = ballot.votes.iter().map(Vote::written).sum();
        assert!(bytes <= Ballot::MAX_BYTES && ballot.votes.len() <= Ballot::MAX_VOTES);
        assert_eq!(ballot.votes.len() + ballot.left_out as usize, 40);
        told.extend(ballot.votes.iter().map(|vote| vote.about.clone()));
    }
    assert_eq!(told.len(), 40);

    // And heard by another node: what is left out is not withdrawn.
    let mut group = Group::of(nodes(&["x", "y"]), &["x", "y", "v"]);
    let slot = group.other("v").slot - 1;
    let mut says = |votes: &[&str], left_out| {
        let ballot = Ballot {
            hears: vec!["us".into()],
            votes: votes.iter().map(|name| against(name)).collect(),
            left_out,
        };
        group.world.feed(said("v", "boot-v", slot, ballot));
        let tally = |id| group.world.engine.tally_of(PeerId(id), &[0].into());
        [0, 1].map(|id| tally(id).agree.len())
    };
    assert_eq!(says(&["x"], 1), [1, 0]);
    assert_eq!(says(&["y"], 1), [1, 1]);
    assert_eq!(says(&["y"], 0), [0, 1]);
}

#[test]
fn whom_the_configuration_names_is_heard_however_many_strangers_there_are() {
    let mut group = Group::of(nodes(&["x", "late"]), &["x"]);
    for number in 0..300 {
        let name = format!("n{number}");
        group.world.feed(said(&name, "b", 1, Ballot::default()));
    }
    let live = group.world.engine.snapshot(group.world.now).quorum.live;
    group.world.feed(said("late", "b", 1, Ballot::default()));
    assert_eq!(group.world.engine.snapshot(group.world.now).quorum.live, live + 1);
}

#[test]
fn a_check_that_nobody_expects_to_pass_holds_up_no_vote() {
    let mut both = nodes(&["x", "y"]);
    let mut traffic = heartbeat_check("can");
    traffic.name = "traffic".into();
    traffic.needs = Some(crate::engine::event::ExpectationId(0));
    both.peers[1].checks.push(traffic);
    let mut group = Group::of(both, &["x", "y", "v", "w"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("v", vec![against("x")]);
    group.run(20 * S);
    let dead = group.became("x", "dead", from).unwrap();
    assert!(dead < 3_600 * MS, "{dead:?}");
}

#[test]
fn an_objection_is_told_before_what_was_told_already() {
    let names: Vec<String> = (0..30).map(|number| format!("{number:0>60}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("zx");
    let mut world = World::settled(nodes(&all));
    let mut slot = 100;
    let mut beats = |world: &mut World, of: &[&str]| {
        slot += 1;
        for name in of {
            let boot = format!("boot-{name}");
            world.feed(said(name, &boot, slot, Ballot::default()));
        }
    };
    for _ in 0..4 {
        beats(&mut world, &all);
        world.run(S);
    }
    // Somebody doubts them all: they are heard, and that is said, in several heartbeats.
    let doubts = |of: &[&str], slot| {
        let ballot = Ballot {
            hears: vec!["us".into()],
            votes: of.iter().map(|name| against(name)).collect(),
            left_out: 0,
        };
        said("v", "boot-v", slot, ballot)
    };
    world.feed(doubts(&all[..30], 1));
    for _ in 0..2 {
        beats(&mut world, &all);
        world.run(S);
    }
    beats(&mut world, &all);
    let before = world.published.len();
    world.feed(doubts(&["zx"], 1));
    world.run(300 * MS);
    let told = world.published[before..]
        .iter()
        .flat_map(|(_, beat)| &beat.ballot.votes)
        .any(|vote| &*vote.about == "node:zx" && vote.liveness == Liveness::Alive);
    assert!(told, "{:#?}", &world.published[before..]);
}

#[test]
fn what_no_heartbeat_can_hold_makes_nobody_speak_for_ever() {
    let channels: Vec<String> = (0..40).map(|number| format!("{number:0>60}")).collect();
    let mut many = nodes(&["x"]);
    if let CheckKind::Passive { source, .. } = &mut many.peers[0].checks[0].kind {
        *source = Source::Channels(channels.iter().map(|name| Arc::from(name.as_str())).collect());
    }
    let mut world = World::settled(many);
    world.beat(&channels[0]);
    world.run(3 * S);
    assert!(world.engine.quorum.votes(), "{:#?}", world.notices);
    let before = world.published.len();
    world.run(20 * S);
    let spoken = world.published.len() - before;
    assert!(spoken <= 22, "{spoken} heartbeats in 20 s");
}
