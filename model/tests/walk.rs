//! Each defence that is left out makes the checker find what it is there for; and nothing is found with all of them.

use stateright::{Checker, HasDiscoveries, Model};

use defib_model::setting::{Kind, NODES, TARGETS};
use defib_model::walk::{Bounds, Walk};
use defib_model::world::Mutation;

/// Walks until `property` is broken, or through all.
fn breaks(kind: Kind, bounds: Bounds, mutation: Mutation, property: &'static str) -> bool {
    let stop = HasDiscoveries::AnyOf([property].into());
    let checker = Walk::new(kind, bounds, mutation)
        .checker()
        .threads(2)
        .finish_when(stop)
        .spawn_bfs()
        .join();
    if let Some(path) = checker.discovery(property) {
        println!("{property}: {:?}", path.into_actions());
        return true;
    }
    false
}

const ONE: Bounds = Bounds {
    faults: 1,
    passes: 12,
    targets: 1,
    nodes: 1,
};

fn found(kind: Kind, bounds: Bounds, mutation: Mutation, property: &'static str) {
    assert!(breaks(kind, bounds, mutation, property), "not found: {property}");
    assert!(
        !breaks(kind, bounds, Mutation::default(), property),
        "also found with all defences: {property}"
    );
}

#[test]
fn nothing_is_found_with_every_defence() {
    for kind in [Kind::Local, Kind::Remote] {
        let bounds = Bounds {
            faults: 2,
            passes: 7,
            targets: TARGETS,
            nodes: NODES,
        };
        let checker = Walk::new(kind, bounds, Mutation::default())
            .checker()
            .threads(2)
            .spawn_dfs()
            .join();
        assert!(checker.unique_state_count() > 1000, "it hardly walked");
        checker.assert_properties();
    }
}

#[test]
fn without_the_look_before_the_act_a_healthy_life_is_touched() {
    let mutation = Mutation {
        no_fence: true,
        ..Mutation::default()
    };
    found(
        Kind::Local,
        Bounds { faults: 2, ..ONE },
        mutation,
        "no healthy life is touched",
    );
}

#[test]
fn without_the_deadline_of_a_grant_a_rung_is_done_twice() {
    let mutation = Mutation {
        no_deadline: true,
        ..Mutation::default()
    };
    found(
        Kind::Local,
        Bounds { faults: 2, ..ONE },
        mutation,
        "one act a rung and life",
    );
}

#[test]
fn without_the_done_mark_a_rung_is_done_by_each_node() {
    let mutation = Mutation {
        no_done_mark: true,
        ..Mutation::default()
    };
    // The one that did it stands still, or it would be the next to ask as well.
    found(
        Kind::Local,
        Bounds { faults: 2, ..ONE },
        mutation,
        "one act a rung and life",
    );
}

#[test]
fn without_the_lease_each_node_acts() {
    let mutation = Mutation {
        no_lease: true,
        ..Mutation::default()
    };
    found(Kind::Local, ONE, mutation, "the group's budget");
}

#[test]
fn without_its_own_budget_a_node_goes_past_it() {
    let property = "never past the local floor";
    // Redis grants whatever it is asked: the floor is all there is.
    let open = Mutation {
        no_lease: true,
        ..Mutation::default()
    };
    let mutation = Mutation {
        no_floor: true,
        ..open
    };
    assert!(!breaks(Kind::Local, ONE, open, property));
    assert!(breaks(Kind::Local, ONE, mutation, property));
}

#[test]
fn without_self_trust_an_outage_is_the_others_fault() {
    let mutation = Mutation {
        no_self_trust: true,
        ..Mutation::default()
    };
    found(Kind::Remote, ONE, mutation, "nothing in an outage");
    found(Kind::Remote, ONE, mutation, "no healthy life is touched");
}

#[test]
fn without_the_breaker_mass_silence_is_many_deaths() {
    let mutation = Mutation {
        no_breaker: true,
        ..Mutation::default()
    };
    found(
        Kind::Remote,
        Bounds {
            faults: 2,
            targets: 2,
            ..ONE
        },
        mutation,
        "mass silence",
    );
}
