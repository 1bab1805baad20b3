//! `cargo run --manifest-path model/Cargo.toml -- [FAULTS [PASSES]]`: walks through all histories with at most so many
//! faults and of that length, and prints what stands in docs/measurements.md.

use std::time::Instant;

use defib_model::setting::{Kind, NODES, TARGETS};
use defib_model::walk::{Bounds, Walk};
use defib_model::world::Mutation;
use stateright::{Checker, Model};

fn main() {
    let mut words = std::env::args()
        .skip(1)
        .map(|word| word.parse().expect("a number"));
    let bounds = Bounds {
        faults: words.next().unwrap_or(2),
        passes: words.next().unwrap_or(8),
        targets: TARGETS,
        nodes: NODES,
    };
    println!("| targets | faults | length, s | steps | states | s | broken |\n|---|---|---|---|---|---|---|");
    let mut broken = false;
    for kind in [Kind::Local, Kind::Remote] {
        let began = Instant::now();
        let walk = Walk::new(kind, bounds, Mutation::default());
        let checker = walk.checker().threads(2).spawn_dfs().join();
        let took = began.elapsed().as_secs();
        let length = bounds.passes * u8::try_from(defib_model::setting::PASS.as_secs()).unwrap_or(0);
        let (steps, states) = (checker.state_count(), checker.unique_state_count());
        let found: Vec<_> = checker
            .discoveries()
            .into_iter()
            .filter(|(name, _)| is_always(&walk_of(kind, bounds), name))
            .collect();
        let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
        let names = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        println!(
            "| {kind:?} | {} | {length} | {steps} | {states} | {took} | {names} |",
            bounds.faults
        );
        for (name, path) in found {
            broken = true;
            println!("{name}: {:?}", path.into_actions());
        }
        for property in walk_of(kind, bounds).properties() {
            let seen = checker.discovery(property.name).is_some();
            if !is_always(&walk_of(kind, bounds), property.name) && !seen {
                println!("never seen: {}", property.name);
            }
        }
    }
    std::process::exit(i32::from(broken));
}

fn walk_of(kind: Kind, bounds: Bounds) -> Walk {
    Walk::new(kind, bounds, Mutation::default())
}

fn is_always(walk: &Walk, name: &str) -> bool {
    let always =
        |property: &stateright::Property<Walk>| property.expectation == stateright::Expectation::Always;
    walk.properties()
        .iter()
        .any(|property| property.name == name && always(property))
}
