//! `defib sim`: many engines in virtual time, with faults drawn from a seed. For developers; hidden.

use std::process::ExitCode;

use clap::Args;

use crate::sim::{Options, Totals, run_seeds};

/// Lives through simulated worlds and says which broke an invariant.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// The world to live through, or the first of several.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// So many worlds, from `--seed` on.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Nodes in each world (1 to 64). Default: 3 to 8, as the seed says.
    #[arg(long)]
    pub nodes: Option<usize>,
    /// Minutes with faults. Default: 8 to 20, as the seed says.
    #[arg(long)]
    pub minutes: Option<u64>,
    /// The nodes ask a store of the group for leave before they restart anything.
    #[arg(long)]
    pub fleet: bool,
    /// Tell everything that happens.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Exit code 1 if any world broke an invariant.
pub fn execute(args: &SimArgs) -> ExitCode {
    let options = Options {
        seed: args.seed,
        nodes: args.nodes,
        minutes: args.minutes,
        fleet: args.fleet,
        verbose: args.verbose,
    };
    let mut totals = Totals::default();
    for report in run_seeds(args.seed, args.seeds, options) {
        totals.add(&report);
        if report.violation.is_some() || args.seeds == 1 {
            println!("{report}");
        }
        if args.seeds == 1 {
            println!(
                "faults: {:?}; left ill, and why: {:?}",
                report.faults, report.explained
            );
        }
    }
    println!("{totals}");
    ExitCode::from(u8::from(totals.broken > 0))
}
