//! A world of many engines in virtual time: one broker, processes that fail, faults drawn from a seed, and
//! invariants that are held against the world's truth at every step.
//!
//! Pure: it imports the engine and std (and `thiserror`, for words). A seed gives the same world every time, so that a
//! seed that fails is a report; `defib sim --seed N` tells its story again.

mod broker;
mod executor;
mod faults;
mod finish;
mod fleet;
mod invariants;
mod ledger;
mod node;
mod oracle;
mod process;
mod queue;
mod rng;
mod scenario;
pub mod trace;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use oracle::Violation;

use world::World;

/// Which world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Everything that is random comes from it.
    pub seed: u64,
    /// Nodes, 1 ..= 64; `None`: 3 to 8, as the seed says.
    pub nodes: Option<usize>,
    /// Minutes of virtual time in which faults are made; `None`: 8 to 20, as the seed says. What follows until
    /// all must be well again comes on top.
    pub minutes: Option<u64>,
    /// The nodes ask a store of the group for leave, and watch some peers together. Another world than without.
    pub fleet: bool,
    /// Keeps everything that happens for the report, and not only the end of a story that ends badly.
    pub verbose: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of which world.
    pub options: Options,
    /// Nodes in it.
    pub nodes: usize,
    /// Virtual time that passed.
    pub lasted: Duration,
    /// Happenings that were handled.
    pub happenings: u64,
    /// Remedies that were granted.
    pub granted: u64,
    /// Faults by name, and how often each was made.
    pub faults: BTreeMap<&'static str, u64>,
    /// Peers that were still ill at the end, by what explains it.
    pub explained: BTreeMap<&'static str, u64>,
    /// The invariant that was broken first.
    pub violation: Option<Violation>,
    /// The last that happened, if one was broken; everything, if asked for.
    pub trail: Vec<String>,
}

impl Report {
    /// Nodes times virtual time.
    pub fn member_time(&self) -> Duration {
        self.lasted * u32::try_from(self.nodes).unwrap_or(u32::MAX)
    }

    /// The command that tells this world's story again.
    pub fn replay(&self) -> String {
        use std::fmt::Write as _;
        let mut command = format!("defib sim --seed {}", self.options.seed);
        if let Some(nodes) = self.options.nodes {
            let _ = write!(command, " --nodes {nodes}");
        }
        if let Some(minutes) = self.options.minutes {
            let _ = write!(command, " --minutes {minutes}");
        }
        if self.options.fleet {
            command.push_str(" --fleet");
        }
        command
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trail {
            writeln!(f, "{line}")?;
        }
        match &self.violation {
            None => write!(
                f,
                "seed {}: {} nodes, {} s, {} remedies: every invariant held",
                self.options.seed,
                self.nodes,
                self.lasted.as_secs(),
                self.granted
            ),
            Some(violation) => {
                writeln!(
                    f,
                    "seed {}: {} broken at {}: {}",
                    self.options.seed, violation.invariant, violation.at, violation.detail
                )?;
                write!(f, "replay: {}", self.replay())
            }
        }
    }
}

/// Lives through one world.
pub fn run(options: Options) -> Report {
    let mut world = World::new(options.seed, options.nodes, options.minutes, options.fleet);
    world.verbose = options.verbose;
    let began = world.now;
    world.run();
    let told = options.verbose || world.oracle.violation.is_some();
    let trail = world.trail.iter().filter(|_| told);
    let trail = trail.map(ToString::to_string).collect();
    Report {
        options,
        nodes: world.nodes.len(),
        lasted: world.now.since(began),
        happenings: world.happenings,
        granted: world.oracle.granted,
        faults: world.faults,
        explained: world.oracle.explained,
        violation: world.oracle.violation,
        trail,
    }
}

/// The same for several seeds, from `first` on.
pub fn run_seeds(first: u64, count: u64, options: Options) -> impl Iterator<Item = Report> {
    (0..count).map(move |place| {
        let seed = first.wrapping_add(place);
        run(Options { seed, ..options })
    })
}

/// Totals of many worlds.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Worlds.
    pub worlds: u64,
    /// Nodes times virtual time.
    pub member_time: Duration,
    /// Happenings that were handled.
    pub happenings: u64,
    /// Remedies that were granted.
    pub granted: u64,
    /// Faults that were made.
    pub faults: u64,
    /// Worlds in which an invariant was broken.
    pub broken: u64,
}

impl Totals {
    /// Adds one world.
    pub fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.member_time += report.member_time();
        self.happenings += report.happenings;
        self.granted += report.granted;
        self.faults += report.faults.values().sum::<u64>();
        self.broken += u64::from(report.violation.is_some());
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} worlds, {:.1} member-hours, {} happenings, {} faults, {} remedies granted, {} worlds broken",
            self.worlds,
            self.member_time.as_secs_f64() / 3_600.0,
            self.happenings,
            self.faults,
            self.granted,
            self.broken
        )
    }
}
