//! What nodes answer over HTTP: votes and objections like those on the bus, and nothing else.

use super::*;

/// The same, not from the bus.
fn answered(event: Event) -> Event {
    match event {
        Event::Message {
            body: Body::Heartbeat(beat),
            ..
        } => Event::Answered(beat),
        other => panic!("not a heartbeat: {other:?}"),
    }
}

impl Group {
    /// `v` answers once a second from now on, 300 ms after that second.
    fn answers(&mut self, seconds: u64, first: u64, votes: &[Vote]) {
        for second in 0..seconds {
            self.run(S);
            let ballot = Ballot {
                hears: vec!["us".into()],
                votes: votes.to_vec(),
                ..Ballot::default()
            };
            self.world
                .feed(answered(said("v", "boot-v", first + second, ballot)));
        }
    }

    fn known(&self) -> (usize, usize) {
        let quorum = self.world.engine.snapshot(self.world.now).quorum;
        (quorum.live, quorum.known)
    }
}

#[test]
fn a_vote_that_was_answered_counts_and_is_nobodys_life() {
    // (w and u are most of the group, hear us, and do not watch x.)
    let mut group = Group::of(nodes(&["x", "v"]), &["x", "w", "u"]);
    let from = group.world.now - S;
    group.silence("x");
    group.answers(6, 7, &[against("x")]);
    let confirmed = group.became("x", "dead", from).unwrap();
    assert!((CONFIRMED..CONFIRMED + S).contains(&confirmed), "{confirmed:?}");
    assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
    assert_eq!(
        group.world.liveness(1),
        Liveness::Unknown,
        "v was not heard on the bus"
    );
    assert_eq!(group.known(), (3, 5), "us, w and u; and x and v");
    // It is our neighbour in what we say, too: it may count our vote.
    let hears = group.world.engine.quorum.hears(0, group.world.now);
    assert_eq!(names(&hears), ["u", "v", "w"]);
}

#[test]
fn an_answer_is_no_part_of_a_majority() {
    let mut group = Group::of(nodes(&["x"]), &["x"]);
    group.silence("x");
    group.answers(60, 7, &[against("x")]);
    assert!(group.world.grants.is_empty(), "{:#?}", group.world.notices);
    assert_eq!(
        refusal(&group.world, 0),
        "quorum: only 1 of the 3 nodes of the group are heard since: they may be the smaller part of one that was cut in two"
    );
}

#[test]
fn whoever_answers_that_it_hears_the_peer_forbids_what_those_on_the_bus_agree_on() {
    let mut group = Group::of(nodes(&["x"]), &["x", "w", "u"]);
    let from = group.world.now - S;
    group.silence("x");
    group.speaks("w", vec![against("x")]);
    let hears = vote("node:x", Liveness::Alive, Some("boot:boot-x"), Duration::ZERO);
    group.answers(20, 7, &[hears]);
    assert_eq!(group.became("x", "dead", from), Some(DEAD));
    assert!(group.world.grants.is_empty(), "{:#?}", group.world.notices);
    assert_eq!(refusal(&group.world, 0), "quorum: v of the group heard it since");
    // It hears it no longer, and neither says so.
    group.run(20 * S);
    assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
}

#[test]
fn a_node_that_answers_anew_lives_and_one_that_answers_the_same_for_ever_does_not() {
    for lives in [true, false] {
        let mut group = Group::of(nodes(&["x"]), &["x", "v", "w"]);
        let from = group.world.now - S;
        let slot = group.other("x").slot;
        group.silence("x");
        group.speaks("v", vec![against("x")]);
        for second in 0..30 {
            group.run(S);
            let slot = if lives { slot + second } else { slot - 1 };
            group
                .world
                .feed(answered(said("x", "boot-x", slot, Ballot::default())));
        }
        let dead = group.became("x", "dead", from);
        if lives {
            assert_eq!(dead, Some(DEAD));
            assert!(group.world.grants.is_empty());
            assert_eq!(refusal(&group.world, 0), "quorum: x of the group heard it since");
        } else {
            assert_eq!(group.world.grants.len(), 1, "{:#?}", group.world.notices);
        }
    }
}

#[test]
fn what_the_bus_brings_again_is_newer_than_any_answer() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v", "w"]);
    let mut slow = group.world.engine.settings.quorum;
    (slow.k, slow.fast) = (2, false);
    group.world.engine.quorum.settings = slow;
    group.silence("x");
    group.run(3 * S);
    let slot = group.other("v").slot;
    let ballot = |votes| Ballot {
        hears: vec!["us".into()],
        votes,
        ..Ballot::default()
    };
    let vote = said("v", "boot-v", slot - 1, ballot(vec![against("x")]));
    group.world.feed(answered(vote));
    let agree = |group: &Group| group.world.view(0).votes.map(|votes| votes.agree.len());
    assert_eq!(agree(&group), Some(1));
    group.run(S);
    assert_eq!(agree(&group), Some(0), "on the bus it says nothing against it");
}

#[test]
fn while_the_bus_is_away_answers_restart_nobody() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v", "w", "u"]);
    group.world.outage(true);
    for name in ["x", "v", "w", "u"] {
        group.silence(name);
    }
    for slot in 0..120 {
        group.run(S);
        for node in ["v", "w", "u"] {
            let ballot = Ballot {
                hears: vec!["us".into()],
                votes: vec![against("x")],
                ..Ballot::default()
            };
            let boot = format!("boot-{node}");
            group
                .world
                .feed(answered(said(node, &boot, 1_000 + slot, ballot)));
        }
    }
    assert!(group.world.grants.is_empty(), "{:#?}", group.world.notices);
    assert_ne!(group.world.liveness(0), Liveness::Dead);
}

#[test]
fn our_own_answer_another_groups_and_a_goodbye_say_nothing() {
    let mut group = Group::of(nodes(&["x"]), &["x", "v"]);
    let known = group.known();
    let ballot = Ballot::default;
    for event in [
        said("us", "boot-us", 7, ballot()),
        said("us", "another", 7, ballot()),
    ] {
        group.world.feed(answered(event));
    }
    for (node, of, goodbye) in [("w", "another", false), ("v", "g", true)] {
        let mut event = said(node, &format!("boot-{node}"), 7_000, ballot());
        if let Event::Message {
            body: Body::Heartbeat(beat),
            ..
        } = &mut event
        {
            (beat.group, beat.goodbye) = (Some(of.into()), goodbye);
        }
        group.world.feed(answered(event));
    }
    assert_eq!(group.known(), known);
}

#[test]
fn what_the_bus_brought_long_ago_is_as_old_as_that_when_it_is_answered() {
    // v has lost its bus, and answers with what it said before that.
    let mut group = Group::of(nodes(&["x"]), &["x", "v", "w", "u"]);
    let slot = group.other("v").slot - 1;
    group.silence("v");
    group.run(60 * S);
    let from = group.world.now - S;
    group.silence("x");
    for _ in 0..5 {
        group.run(S);
        let ballot = Ballot {
            hears: vec!["us".into()],
            votes: vec![against("x")],
            ..Ballot::default()
        };
        group.world.feed(answered(said("v", "boot-v", slot, ballot)));
    }
    assert_eq!(group.became("x", "suspect", from), Some(SUSPECT));
    assert_eq!(group.became("x", "dead", from), None, "nobody agreed");
    let hears = group.world.engine.quorum.hears(0, group.world.now);
    assert_eq!(names(&hears), ["u", "w"]);
    assert_eq!(group.world.view(0).votes.unwrap().agree.len(), 0);
}

#[test]
fn who_is_asked_over_http_has_time_for_a_question_that_is_lost() {
    for (asks, confirmed) in [(false, CONFIRMED), (true, CONFIRMED + 3 * S / 2)] {
        let mut settings = nodes(&["x"]);
        settings.quorum.asks = asks;
        let mut group = Group::of(settings, &["x", "v"]);
        let from = group.world.now - S;
        group.silence("x");
        group.speaks("v", vec![against("x")]);
        group.run(20 * S);
        assert_eq!(group.became("x", "dead", from), Some(confirmed));
    }
}
