//! Many engines in virtual time: fixed seeds, seeds that once failed, and fresh ones.

use std::collections::BTreeMap;

use defib::sim::{Options, Report, Totals, run, run_seeds};

/// Fresh worlds in one run. Each takes about a second without optimisation.
const FRESH: u64 = 24;

fn hold(what: &str, reports: impl Iterator<Item = Report>) -> BTreeMap<&'static str, u64> {
    let mut totals = Totals::default();
    let mut faults = BTreeMap::new();
    for report in reports {
        assert!(report.violation.is_none(), "\n{report}");
        totals.add(&report);
        for (name, times) in &report.faults {
            *faults.entry(*name).or_default() += times;
        }
    }
    println!("simulation, {what}: {totals}");
    faults
}

#[test]
fn every_invariant_holds_in_the_fixed_worlds() {
    let faults = hold("fixed seeds", run_seeds(1, 20, Options::default()));
    assert!(
        faults.len() >= 28,
        "every fault is made at least once: {faults:?}"
    );
}

#[test]
fn every_invariant_holds_in_worlds_never_seen_before() {
    let base = std::env::var("DEFIB_SIM_SEED").map_or_else(
        |_| getrandom::u64().expect("the OS gives randomness") >> 1,
        |seed| seed.parse().expect("DEFIB_SIM_SEED is a number"),
    );
    println!("simulation: fresh seeds from {base} (DEFIB_SIM_SEED={base} repeats them)");
    hold("fresh seeds", run_seeds(base, FRESH, Options::default()));
}

#[test]
fn one_remedy_at_a_time_where_the_nodes_ask_a_store_that_loses_messages_pauses_and_forgets() {
    let options = Options {
        fleet: true,
        ..Options::default()
    };
    let faults = hold("fixed seeds with a fleet store", run_seeds(1, 20, options));
    assert!(faults.contains_key("store_forgets"), "{faults:?}");
    let base = getrandom::u64().expect("the OS gives randomness") >> 1;
    println!("simulation: fresh seeds from {base}, with --fleet");
    hold(
        "fresh seeds with a fleet store",
        run_seeds(base, FRESH / 3, options),
    );
}

#[test]
fn a_world_is_the_same_each_time() {
    let options = Options {
        seed: 7,
        minutes: Some(2),
        verbose: true,
        ..Options::default()
    };
    let (once, again) = (run(options), run(options));
    assert_eq!(once.happenings, again.happenings);
    assert_eq!(once.trail, again.trail);
    assert_eq!(once.replay(), "defib sim --seed 7 --minutes 2");
}

/// Whoever changes a line that a fault is planted in changes the plant, too: else `make plants` would tell of it when
/// nobody remembers why.
#[test]
fn every_fault_can_still_be_planted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("scripts/plants.toml")).unwrap();
    let list: toml::Table = list.parse().unwrap();
    for plant in list["plant"].as_array().unwrap() {
        let name = plant["name"].as_str().unwrap();
        for edit in plant["edits"].as_array().unwrap() {
            let text = |key: &str| edit[key].as_str().unwrap();
            let code = std::fs::read_to_string(root.join("src/engine").join(text("file"))).unwrap();
            let times = code.matches(text("old")).count();
            assert_eq!(
                times,
                1,
                "scripts/plants.toml, {name}: {:?} in {}",
                text("old"),
                text("file")
            );
        }
    }
}
